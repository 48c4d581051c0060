"""Pictures of coordinates, and the line through the positions that arrive."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from camlib.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MODES = ("L", "LA", "RGB", "RGBA")
"""Of PIL images, those in which every grey can be said."""


@dataclass(frozen=True)
class Line:
    """Positions on one axis of a photo, 0 to 1, along one axis of an input.

    Attributes:
        axis: the axis of the input: 0 for its height, 1 for its width.
        ends: the positions at its beginning and end.
    """

    axis: int
    ends: tuple[float, float]

    def over(self, shape: Sequence[int]) -> Tensor:
        """The positions of all pixels of an input of `shape` ``(h, w)``."""
        start, end = self.ends
        length = shape[self.axis]
        steps = torch.arange(length, dtype=torch.float64, device="cpu")
        places = start + (end - start) * (steps + 0.5) / length
        return (places[:, None] if self.axis == 0 else places[None]).expand(*shape)


class Grey(NamedTuple):
    """A picture of coordinates: ``base + across x + down y``, for positions 0 to 1."""

    base: float
    across: float = 0
    down: float = 0

    @property
    def negative(self) -> Grey:
        """White less this picture."""
        return Grey(1 - self.base, -self.across, -self.down)

    def at(self, x: Any, y: Any) -> Any:
        """Its values at the positions `x` and `y`."""
        return self.base + self.across * x + self.down * y


BLACK, WHITE = Grey(0), Grey(1)
ACROSS, DOWN = Grey(0, 0.9, 0.1), Grey(0, 0.1, 0.9)
"""Growing from left to right, and from top to bottom. Along one axis alone, every row would be
rounded to 8 bits alike; so rounding differs from row to row, and their mean is right."""
BLEND = Grey(0.2, 0.2, 0.4)
"""Of less contrast than the others: what stretches values to their range shows in it."""


def upright(across: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """The positions `x` and `y` from the values of `ACROSS` and `DOWN`."""
    return (9 * across - down) / 8, (9 * down - across) / 8


def size_of(photo: Any) -> tuple[int, int]:
    """Height and width of `photo`.

    Raises:
        InputError: it is no picture.
    """
    if isinstance(photo, Tensor) and photo.ndim in (3, 4):
        return photo.shape[-2], photo.shape[-1]
    if isinstance(photo, np.ndarray) and photo.ndim in (2, 3):
        return photo.shape[0], photo.shape[1]
    pil = sys.modules.get("PIL.Image")
    if pil is not None and isinstance(photo, pil.Image):
        return photo.height, photo.width
    raise InputError(
        f"image is of type {type(photo).__name__!r}; expected a tensor (C, H, W), a NumPy array or "
        "a PIL image; convert it first"
    )


def like(photo: Any) -> Iterator[Callable[[Grey], Any]]:
    """Ways to make a picture: of the kind and size of `photo` first, then of others."""
    size = size_of(photo)
    pil = sys.modules.get("PIL.Image")
    image = pil is not None and isinstance(photo, pil.Image)
    array, tensor = isinstance(photo, np.ndarray), isinstance(photo, Tensor)

    def as_image(grey: Grey) -> Any:
        from PIL.Image import fromarray

        made = fromarray(_dithered(grey, size))
        made = made.convert(photo.mode if image and photo.mode in _MODES else "RGB")
        if image and "exif" in photo.info:
            made.info["exif"] = photo.info["exif"]  # a transform may turn the photo upright
        return made

    def as_array(grey: Grey) -> Any:
        floats = array and photo.dtype.kind == "f"
        made = _exact(grey, size).astype(photo.dtype) if floats else _dithered(grey, size)
        if array and photo.ndim == 2:
            return made
        return np.repeat(made[..., None], photo.shape[2] if array else 3, 2)

    def as_tensor(grey: Grey) -> Any:
        floats = tensor and photo.dtype != torch.uint8
        made = torch.from_numpy(_exact(grey, size) if floats else _dithered(grey, size))
        if not tensor:
            return made.expand(3, *size).contiguous()
        shape = (*[1] * (photo.ndim - 3), *photo.shape[-3:])
        return made.to(photo.device, photo.dtype).expand(shape).contiguous()

    own = as_array if array else as_tensor if tensor else as_image
    yield own
    yield from (make for make in (as_image, as_array, as_tensor) if make is not own)


def line_through(positions: Tensor, seen: Tensor, length: int) -> Line | None:
    """The line that most of `positions` lie on along one axis; ``None`` where there is none.

    What lies beside it, as the mirror image of a photo that was padded by reflection, is left out.

    Args:
        positions: on one axis of a photo, 0 to 1, of each pixel ``(h, w)`` of an input.
        seen: which of them show the photo.
        length: of that axis, in pixels.
    """
    lines = [_along(positions, seen, axis, length) for axis in (0, 1)]
    steep = [abs(line.ends[1] - line.ends[0]) if line else 0.0 for line in lines]
    axis = int(steep[1] >= steep[0])
    line = lines[axis]
    # Along the other axis positions must stand still, by a pixel of the photo or a 300th of it.
    return line if line and steep[1 - axis] < max(1 / length, 1 / 300) else None


def _along(positions: Tensor, seen: Tensor, axis: int, length: int) -> Line | None:
    """The line through the means of `positions` at each step along `axis`."""
    count = seen.sum(1 - axis)
    means = (positions * seen).sum(1 - axis) / count.clamp(min=1)
    [steps] = torch.where(count > 0.5 * count.max())
    n = positions.shape[axis]
    x, y = (steps.double() + 0.5) / n, means[steps]
    if len(steps) < 2:
        return None
    # The line through two of the points that most others lie on.
    tolerance = 1.5 / 255 + 0.75 / length
    first = torch.linspace(
        0, len(steps) - 1, min(64, len(steps)), dtype=torch.float32, device=steps.device
    )
    first = first.round().long()
    a, b = torch.cartesian_prod(first, first).T
    far = (x[b] - x[a]) > min(0.1, 0.5 * float(x[-1] - x[0]))
    a, b = a[far], b[far]
    slope = (y[b] - y[a]) / (x[b] - x[a])
    shift = y[a] - slope * x[a]
    near = (y - slope[:, None] * x - shift[:, None]).abs() < tolerance
    on = near[near.sum(1).argmax()]
    if on.sum() < max(2, 0.3 * len(steps)):
        return None
    if on.sum() > 8:  # a resampling has less to average at the borders of a photo
        [found] = torch.where(on)
        on[found[:2]] = on[found[-2:]] = False
    design = torch.stack([x[on], torch.ones_like(x[on])], 1)
    slope, shift = torch.linalg.lstsq(design, y[on, None]).solution[:, 0]
    return Line(axis, (float(shift), float(shift + slope)))


def _exact(grey: Grey, size: tuple[int, int]) -> NDArray[Any]:
    rows, columns = ((np.arange(length) + 0.5) / length for length in size)
    values: NDArray[Any] = grey.at(columns[None], rows[:, None])
    return np.broadcast_to(values, size).copy()


def _dithered(grey: Grey, size: tuple[int, int]) -> NDArray[np.uint8]:
    """`grey` in 8 bits ``(H, W)`` that are right on the average of any few pixels."""
    # In steps of a 256th of 8 bits, one axis at a time: a photo may have a hundred megapixels.
    rows, columns = ((np.arange(length) + 0.5) / length for length in size)
    across, down = (
        # Through signed integers: where one falls below zero, the sum does not.
        (each * 65280).astype(np.int32).astype(np.uint16)
        for each in (grey.base + grey.across * columns, grey.down * rows)
    )
    steps: NDArray[np.uint16] = down[:, None] + across[None]
    # Golden ratios in two dimensions: even over any neighbourhood.
    height, width = (np.arange(length) for length in size)
    noise = (height * 193).astype(np.uint8)[:, None] + (width * 147).astype(np.uint8)[None]
    up = (steps & 255).astype(np.uint8) > noise
    dithered: NDArray[np.uint8] = (steps >> 8).astype(np.uint8) + up
    return dithered
