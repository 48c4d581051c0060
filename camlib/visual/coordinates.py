"""Make pictures of coordinates, and fit a line to the positions that come out of a transform."""

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
"""The modes of PIL images that can hold every grey value."""


@dataclass(frozen=True)
class Line:
    """Positions on one axis of a photo, 0 to 1, along one axis of an input.

    Attributes:
        axis: the axis of the input: 0 for its height, 1 for its width.
        ends: the positions at its start and end.
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
    """A picture of coordinates: ``base + across x + down y``, for positions from 0 to 1."""

    base: float
    across: float = 0
    down: float = 0

    @property
    def negative(self) -> Grey:
        """White minus this picture."""
        return Grey(1 - self.base, -self.across, -self.down)

    def at(self, x: Any, y: Any) -> Any:
        """The values at positions `x` and `y`."""
        return self.base + self.across * x + self.down * y


BLACK, WHITE = Grey(0), Grey(1)
ACROSS, DOWN = Grey(0, 0.9, 0.1), Grey(0, 0.1, 0.9)
"""Ramps from left to right, and from top to bottom. A little of the other axis makes the rounding
to 8 bits differ from row to row, so that the mean is right."""
BLEND = Grey(0.2, 0.2, 0.4)
"""A picture with less contrast, which reveals transforms that stretch values to their range."""


def upright(across: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Positions `x` and `y` from the values of `ACROSS` and `DOWN`."""
    return (9 * across - down) / 8, (9 * down - across) / 8


def size_of(photo: Any) -> tuple[int, int]:
    """Height and width of `photo`.

    Raises:
        InputError: `photo` is not a picture.
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
    """Functions that make a picture of the size of `photo`, first of its kind, then of others."""
    size = size_of(photo)
    pil = sys.modules.get("PIL.Image")
    image = pil is not None and isinstance(photo, pil.Image)
    array, tensor = isinstance(photo, np.ndarray), isinstance(photo, Tensor)

    def as_image(grey: Grey) -> Any:
        from PIL.Image import fromarray

        made = fromarray(_dithered(grey, size))
        made = made.convert(photo.mode if image and photo.mode in _MODES else "RGB")
        if image and "exif" in photo.info:
            made.info["exif"] = photo.info["exif"]  # a transform may rotate the photo by it
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
    """The line that most of `positions` lie on along one axis; ``None`` if there is no such line.

    Positions off the line are ignored, such as the mirror image in a reflecting padding.

    Args:
        positions: the position of each pixel ``(h, w)`` of an input on one axis of a photo, 0 to 1.
        seen: which pixels show the photo.
        length: the length of that axis, in pixels.
    """
    lines = [_along(positions, seen, axis, length) for axis in (0, 1)]
    steep = [abs(line.ends[1] - line.ends[0]) if line else 0.0 for line in lines]
    axis = int(steep[1] >= steep[0])
    line = lines[axis]
    # Along the other axis, positions may change by one pixel or a 300th of the photo.
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
    # Among lines through two of the points, the one that most points lie on.
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
    if on.sum() > 8:  # resampling averages over fewer pixels at the borders of a photo
        [steps_on] = torch.where(on)
        on[steps_on[:2]] = on[steps_on[-2:]] = False
    design = torch.stack([x[on], torch.ones_like(x[on])], 1)
    slope, shift = torch.linalg.lstsq(design, y[on, None]).solution[:, 0]
    return Line(axis, (float(shift), float(shift + slope)))


def _exact(grey: Grey, size: tuple[int, int]) -> NDArray[Any]:
    rows, columns = ((np.arange(length) + 0.5) / length for length in size)
    values: NDArray[Any] = grey.at(columns[None], rows[:, None])
    return np.broadcast_to(values, size).copy()


def _dithered(grey: Grey, size: tuple[int, int]) -> NDArray[np.uint8]:
    """`grey` in 8 bits ``(H, W)``, exact on average over any few pixels."""
    # In 16 bits, one axis at a time, as a photo may have a hundred megapixels.
    rows, columns = ((np.arange(length) + 0.5) / length for length in size)
    across, down = (
        # Through signed integers: a summand may be negative, but the sum is not.
        (each * 65280).astype(np.int32).astype(np.uint16)
        for each in (grey.base + grey.across * columns, grey.down * rows)
    )
    steps: NDArray[np.uint16] = down[:, None] + across[None]
    # A golden ratio in two dimensions spreads the thresholds evenly over any neighbourhood.
    height, width = (np.arange(length) for length in size)
    noise = (height * 193).astype(np.uint8)[:, None] + (width * 147).astype(np.uint8)[None]
    up = (steps & 255).astype(np.uint8) > noise
    dithered: NDArray[np.uint8] = (steps >> 8).astype(np.uint8) + up
    return dithered
