"""Where the input of a model lies on the photo that a transform made it from: measured.

Pictures of coordinates go through the transform: black, white, grey that grows from left to right
and from top to bottom, and the negatives of these two. Black and white tell what the transform does
to a value, so that each grey that arrives is a position on the photo; a straight line through these
positions is accurate to a small part of a pixel. A last picture, in which both coordinates are
mixed, must arrive as the lines say, and the same each time.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from camlib.errors import InputError, warn
from camlib.maps import Window, place
from camlib.state.random import draw_again
from camlib.state.undoing import Undoing
from camlib.visual.coordinates import (
    ACROSS,
    BLACK,
    BLEND,
    DOWN,
    WHITE,
    Grey,
    Line,
    like,
    line_through,
    size_of,
    upright,
)
from camlib.visual.transforms import Transform, applied, called, picture_in

_CHECKS = 6
"""How often the last picture is sent: a flip drawn half of the time passes unseen once in 500."""

_SNAP = 0.25
"""Edges so near to those of a pixel, in pixels of the photo, are taken to lie on them."""


@dataclass(frozen=True)
class Placement:
    """Where the input of a model lies on a photo.

    Attributes:
        photo: height and width of the photo.
        seen: height and width of the input.
        window: where the input begins and ends along the height and the width of the photo, as
            shares of them: below 0 or above 1 where the photo was padded, end before start where
            it was flipped.
        transposed: whether the rows of the input are columns of the photo.
    """

    photo: tuple[int, int]
    seen: tuple[int, int]
    window: Window
    transposed: bool = False

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of what the model saw, in pixels of the photo."""
        edges = [
            sorted(share * length for share in ends)
            for ends, length in zip(self.window, self.photo, strict=True)
        ]
        (top, bottom), (left, right) = edges
        return left, top, right, bottom

    @property
    def region(self) -> tuple[slice, slice]:
        """Which rows and columns of the photo the model saw: pixels whose middle it did."""
        found = []
        for ends, length in zip(self.window, self.photo, strict=True):
            start, end = (share * length - 0.5 for share in sorted(ends))
            first = min(max(math.ceil(start), 0), length)
            found.append(slice(first, min(max(math.floor(end) + 1, first), length)))
        rows, columns = found
        return rows, columns

    def on_region(self, maps: Tensor) -> Tensor:
        """`maps` ``(N, K, h, w)`` of the input on the `region` of the photo."""
        size, window = [], []
        for part, length, ends in zip(self.region, self.photo, self.window, strict=True):
            pixels = part.stop - part.start
            size.append(pixels)
            start, end = ((share * length - part.start) / max(pixels, 1) for share in ends)
            window.append((start, end))
        maps = maps.transpose(-1, -2) if self.transposed else maps
        return place(maps, size, tuple(window))


def measured(transform: Transform | Placement, photo: Any) -> Placement:
    """Where the input that `transform` makes of `photo` lies on it.

    Args:
        transform: resizes, crops, pads, flips or turns a photo by quarters, and scales its values;
            or a placement that was measured before.
        photo: any picture that `overlay` takes. A transform that refuses its kind gets a PIL image
            or an array of the same size. Only its size counts.

    Raises:
        InputError: `transform` fails, draws at random, or does something else to a photo, such as
            turning it by ten degrees.
    """
    size = size_of(photo)
    if min(size) < 2:
        raise InputError(
            f"the photo has {by(size)} pixels, too few to tell where the input lies on it; "
            "expected at least 2 along each side"
        )
    if isinstance(transform, Placement):
        if transform.photo != size:
            raise InputError(
                f"the placement is for a photo of {by(transform.photo)}, but this one has "
                f"{by(size)}; pass transform= as the transform itself"
            )
        return transform
    if not callable(transform):
        raise InputError(
            f"transform is of type {type(transform).__name__!r}; expected what makes the model's "
            "input from the photo: a torchvision transform, an image processor or any function"
        )
    with _draws_kept():
        make, send = _sender(transform, photo)
        black, white = send(make(BLACK)), send(make(WHITE))
        change = white - black
        strength = change.square().sum(0)
        seen = strength > 0.25 * strength.max()  # elsewhere is padding
        if not black.isfinite().all() or not strength.max() > 0:
            raise _refusal(transform, "its output does not follow the brightness of the photo")

        def arrived(picture: Any) -> Tensor:
            return ((send(picture) - black) * change).sum(0) / strength.clamp(min=1e-12)

        # Halves of a value are rounded up, which the negative undoes.
        across, down = upright(
            *(
                (arrived(make(each)) + 1 - arrived(make(each.negative))) / 2
                for each in (ACROSS, DOWN)
            )
        )
        last = make(BLEND)
        checks = [arrived(last) for _ in range(_CHECKS)]
    if any((each - checks[0])[seen].abs().max() > 0.02 for each in checks[1:]):
        raise _random(transform)
    columns, rows = line_through(across, seen, size[1]), line_through(down, seen, size[0])
    if columns is None or rows is None or columns.axis == rows.axis:
        raise _refusal(transform, "positions do not lie on straight lines along its axes")
    if not _as_expected(checks[0], seen, columns, rows, size):
        raise _refusal(transform, "a picture of coordinates does not arrive where lines say")
    h, w = black.shape[1:]
    window = _snapped(rows, size[0]), _snapped(columns, size[1])
    return Placement(size, (h, w), window, transposed=columns.axis == 0)


def placements_of(transform: Transform | Placement, images: Any) -> list[Placement]:
    """Where the input lies on each picture of `images`, one picture, a batch or a list."""
    found = []
    for image in images if isinstance(images, list | tuple) else [images]:
        count = len(image) if isinstance(image, Tensor) and image.ndim == 4 else 1
        found += [measured(transform, image)] * count
    return found


def may_be_grid(grid: Sequence[int], size: Sequence[int]) -> bool:
    """Whether an input of `size` may have a map of `grid`: a cell is as many pixels either way."""
    # A border of less than a cell may be left out, or half a cell added.
    least = max(length / (cells + 1) for cells, length in zip(grid, size, strict=True))
    most = min(
        length / (cells - 1) if cells > 1 else float("inf")
        for cells, length in zip(grid, size, strict=True)
    )
    return math.floor(least) + 1 < most or tuple(grid) == tuple(size)


def check_shape(grid: Sequence[int], size: Sequence[int], *, exact: bool) -> None:
    """Warn where a map of `grid` is laid on a photo of `size` that it cannot be a map of.

    Args:
        grid: of the map or, if `exact`, size of what the model saw.
        size: height and width of the photo.
        exact: whether they should be equal.
    """
    if tuple(grid) == tuple(size) or (not exact and may_be_grid(grid, size)):
        return
    what = "the model saw" if exact else "the heatmap has"
    warn(
        f"the photo has {by(size)}, but {what} {by(grid)}; the map is stretched over the whole "
        "photo, which is wrong if the transform cropped or padded it; pass transform= to place it "
        "where the model looked, or fit='stretch' if the photo was only resized"
    )


def _sender(
    transform: Transform, photo: Any
) -> tuple[Callable[[Grey], Any], Callable[[Any], Tensor]]:
    """What makes a picture that `transform` takes, and what sends one through it."""
    shapes: set[tuple[int, ...]] = set()

    def send(picture: Any) -> Tensor:
        result = picture_in(applied(transform, picture), transform).double()
        shapes.add(tuple(result.shape))
        if len(shapes) > 1:
            sizes = " and ".join(by(shape[1:]) for shape in sorted(shapes))
            raise InputError(
                f"transform {called(transform)} makes {sizes} of photos of one size; expected the "
                "same size each time; pass the transform that is used for evaluation"
            )
        return result

    failed: Exception | None = None
    for make in like(photo):
        try:
            send(make(BLACK))
        except InputError:
            raise
        # A transform refuses a kind of picture in its own way.
        except Exception as error:
            failed = failed or error
        else:
            return make, send
    reason = f"{type(failed).__name__}: {failed}".splitlines()[0]
    raise InputError(
        f"transform {called(transform)} fails on a photo of {by(size_of(photo))} ({reason}); "
        "expected one that takes a PIL image, an array or a tensor of this size"
    )


def _as_expected(
    arrived: Tensor, seen: Tensor, columns: Line, rows: Line, size: tuple[int, int]
) -> bool:
    """Whether the last picture came where the lines say."""
    x, y = (line.over(arrived.shape) for line in (columns, rows))
    inside = seen & (x > 0.02) & (x < 0.98) & (y > 0.02) & (y < 0.98)
    if not inside.any():
        return False
    away = (arrived - BLEND.at(x, y))[inside]
    rounding = 2 / 255 + 0.5 / min(size)
    return bool(away.mean().abs() < rounding / 2 and away.square().mean().sqrt() < rounding)


def _snapped(line: Line, length: int) -> tuple[float, float]:
    ends = [share * length for share in line.ends]
    start, end = (round(e) if abs(e - round(e)) < _SNAP else e for e in ends)
    return start / length, end / length


def _random(transform: Transform) -> InputError:
    return InputError(
        f"transform {called(transform)} draws at random: the same picture came out different; "
        "nothing tells what it did to this photo; pass the transform that is used for evaluation"
    )


def _refusal(transform: Transform, reason: str) -> InputError:
    return InputError(
        f"transform {called(transform)} is no scaling and shift of a photo: {reason}; pass only "
        "its steps that resize, crop, pad and flip"
    )


def by(size: Sequence[int]) -> str:
    """`size` in words."""
    return " x ".join(map(str, size)) + " (height x width)"


@contextmanager
def _draws_kept() -> Iterator[None]:
    """The random numbers of Python, NumPy and torch go on as if nothing had been drawn.

    Where other threads run, which may draw from the same generators, those of Python and NumPy are
    left alone.
    """
    python, array = random.getstate(), np.random.get_state()
    with Undoing() as undo:
        if threading.active_count() == 1:
            undo(partial(random.setstate, python))
            undo(partial(np.random.set_state, array))
        draw_again(undo, [torch.device("cpu")])
        yield
