"""Measure where the input of a model lies on the photo that a transform made it from.

Pictures of coordinates go through the transform: black, white, grey ramps from left to right and
from top to bottom, and the negatives of these two. Black and white show what the transform does to
a value, so each grey that comes out is a position on the photo. A straight line through these
positions is accurate to a small part of a pixel. A last picture mixes both coordinates. It must
come out as the lines predict, and the same each time.
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
"""The number of last pictures. A flip with a chance of one half goes unnoticed once in 500."""

_SNAP = 0.25
"""An edge closer to that of a pixel than this, in pixels of the photo, is moved there."""


@dataclass(frozen=True)
class Placement:
    """Where the input of a model lies on a photo.

    Attributes:
        photo: height and width of the photo.
        seen: height and width of the input.
        window: start and end of the input along the height and the width of the photo, as shares
            of them. They are below 0 or above 1 if the photo was padded; the end comes before the
            start if it was flipped.
        transposed: whether the rows of the input are columns of the photo.
    """

    photo: tuple[int, int]
    seen: tuple[int, int]
    window: Window
    transposed: bool = False

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the part that the model saw, in pixels of the photo."""
        edges = [
            sorted(share * length for share in ends)
            for ends, length in zip(self.window, self.photo, strict=True)
        ]
        (top, bottom), (left, right) = edges
        return left, top, right, bottom

    @property
    def region(self) -> tuple[slice, slice]:
        """The rows and columns of the photo that the model saw: pixels whose centres it saw."""
        slices = []
        for ends, length in zip(self.window, self.photo, strict=True):
            start, end = (share * length - 0.5 for share in sorted(ends))
            first = min(max(math.ceil(start), 0), length)
            slices.append(slice(first, min(max(math.floor(end) + 1, first), length)))
        rows, columns = slices
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

    def seen_part(self, masks: Tensor) -> Tensor:
        """`masks` ``(..., H, W)`` of the photo at the pixels of the input, ``(..., h, w)``.

        A pixel of the input has the value at its centre; outside the photo it is 0.
        """
        lengths = self.seen[::-1] if self.transposed else self.seen
        places = []
        for pixels, length, (start, end) in zip(lengths, self.photo, self.window, strict=True):
            centres = torch.arange(pixels, dtype=torch.float64, device=masks.device) + 0.5
            shares = centres / pixels
            places.append(((start + shares * (end - start)) * length).floor().long())
        rows, columns = places
        inside = ((rows >= 0) & (rows < self.photo[0]))[:, None]
        inside = inside & (columns >= 0) & (columns < self.photo[1])
        rows, columns = (
            each.clamp(0, length - 1) for each, length in zip(places, self.photo, strict=True)
        )
        part = masks[..., rows[:, None], columns] * inside
        return part.transpose(-1, -2) if self.transposed else part


def measured(transform: Transform | Placement, photo: Any) -> Placement:
    """Measure where the input that `transform` makes lies on `photo`.

    Args:
        transform: a function that may resize, crop, pad, flip or rotate a photo by 90 degrees, and
            scale its values; or a placement that was measured before.
        photo: any picture that `overlay` takes; only its size matters. A transform that refuses its
            kind gets a PIL image or an array of the same size.

    Raises:
        InputError: `transform` fails, is random, or does something else to a photo, such as
            rotating it by ten degrees.
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
                f"{by(size)}; pass the transform itself as transform="
            )
        return transform
    if not callable(transform):
        raise InputError(
            f"transform is of type {type(transform).__name__!r}; expected a function that makes "
            "the model's input from the photo, such as a torchvision transform or an image "
            "processor"
        )
    with _draws_kept():
        make, send = _sender(transform, photo)
        black, white = send(make(BLACK)), send(make(WHITE))
        change = white - black
        strength = change.square().sum(0)
        seen = strength > 0.25 * strength.max()  # the rest is padding
        if not black.isfinite().all() or not strength.max() > 0:
            raise _refusal(transform, "its output does not depend on the brightness of the photo")

        def arrived(picture: Any) -> Tensor:
            return ((send(picture) - black) * change).sum(0) / strength.clamp(min=1e-12)

        # Transforms round halves up; the negative picture cancels that.
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
        raise _refusal(transform, "a picture of coordinates does not come out as the lines predict")
    h, w = black.shape[1:]
    window = _snapped(rows, size[0]), _snapped(columns, size[1])
    return Placement(size, (h, w), window, transposed=columns.axis == 0)


def placements_of(transform: Transform | Placement, images: Any) -> list[Placement]:
    """Where the input lies on each of `images`: one picture, a batch or a list."""
    placements = []
    for image in images if isinstance(images, list | tuple) else [images]:
        count = len(image) if isinstance(image, Tensor) and image.ndim == 4 else 1
        placements += [measured(transform, image)] * count
    return placements


def may_be_grid(grid: Sequence[int], size: Sequence[int]) -> bool:
    """Whether an input of `size` may have a map of `grid`: its cells must be able to be square."""
    # The grid may leave out a border of less than a cell, or add half a cell.
    least = max(length / (cells + 1) for cells, length in zip(grid, size, strict=True))
    most = min(
        length / (cells - 1) if cells > 1 else float("inf")
        for cells, length in zip(grid, size, strict=True)
    )
    return math.floor(least) + 1 < most or tuple(grid) == tuple(size)


def check_shape(grid: Sequence[int], size: Sequence[int], *, exact: bool) -> None:
    """Warn if a map of `grid` cannot belong to a photo of `size` as a whole.

    Args:
        grid: the grid of the map or, if `exact`, the size of the model's input.
        size: height and width of the photo.
        exact: whether both must be equal.
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
    """A function that makes pictures that `transform` takes, and one that sends them through."""
    shapes: set[tuple[int, ...]] = set()

    def send(picture: Any) -> Tensor:
        result = picture_in(applied(transform, picture), transform).double()
        shapes.add(tuple(result.shape))
        if len(shapes) > 1:
            sizes = " and ".join(by(shape[1:]) for shape in sorted(shapes))
            raise InputError(
                f"transform {called(transform)} returns {sizes} for photos of one size; expected "
                "the same size each time; pass the transform for evaluation"
            )
        return result

    failed: Exception | None = None
    for make in like(photo):
        try:
            send(make(BLACK))
        except InputError:
            raise
        except Exception as error:  # a transform may refuse a kind of picture in any way
            failed = failed or error
        else:
            return make, send
    reason = f"{type(failed).__name__}: {failed}".splitlines()[0]
    raise InputError(
        f"transform {called(transform)} fails on a photo of {by(size_of(photo))} ({reason}); "
        "expected a transform that takes a PIL image, an array or a tensor of this size"
    )


def _as_expected(
    arrived: Tensor, seen: Tensor, columns: Line, rows: Line, size: tuple[int, int]
) -> bool:
    """Whether the last picture came out as the lines predict."""
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
        f"transform {called(transform)} is random: the same picture gave different results, so "
        "camlib cannot know what it did to this photo; pass the transform for evaluation"
    )


def _refusal(transform: Transform, reason: str) -> InputError:
    return InputError(
        f"transform {called(transform)} does more than scale and shift a photo: {reason}; pass "
        "only its steps that resize, crop, pad and flip"
    )


def by(size: Sequence[int]) -> str:
    """`size` as text, for a message."""
    return " x ".join(map(str, size)) + " (height x width)"


@contextmanager
def _draws_kept() -> Iterator[None]:
    """Restore the random states of Python, NumPy and torch after the block.

    If other threads run, which may draw from the same generators, those of Python and NumPy are
    left alone.
    """
    python, array = random.getstate(), np.random.get_state()
    with Undoing() as undo:
        if threading.active_count() == 1:
            undo(partial(random.setstate, python))
            undo(partial(np.random.set_state, array))
        draw_again(undo, [torch.device("cpu")])
        yield
