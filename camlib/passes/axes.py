"""Find the axis of channels of an image, from a name such as ``"NHWC"`` or from its shape.

A shape alone seldom settles it. Where there are several readings, the most common comes first.
"""

from __future__ import annotations

from collections.abc import Sequence

from camlib.errors import InputError, OptionError

_FEW = (1, 2, 3, 4)
"""Lengths that an axis of channels has, and a side of a picture hardly ever."""

_COLOURS = (1, 3, 4)


def axes_of(shape: Sequence[int]) -> list[int | None]:
    """The possible axes of channels of an image of `shape`, the most common one first.

    ``None`` means an image without channels: ``(N, L)`` or grey ``(N, H, W)``.
    """
    if len(shape) == 2:
        return [None]
    if len(shape) == 3:
        if shape[1] in _FEW:
            return [1]
        return [2, 1, None] if shape[2] in _FEW else [1, None, 2]
    if len(shape) == 4 and shape[1] not in _FEW:
        return [3, 1] if shape[3] in _COLOURS else [1, 3]
    if len(shape) == 5:
        if shape[2] in (1, 3):  # frames come first
            return [1, 2] if shape[1] in (1, 3) else [2, 1]
        if shape[1] not in _FEW:
            return [4, 1] if shape[4] in _COLOURS else [1, 4]
    return [1]


def axis_in(image_layout: str, shape: Sequence[int]) -> int | None:
    """The axis of channels in `image_layout`, such as ``"NHWC"``; ``None`` for no channels.

    Raises:
        InputError: `image_layout` and `shape` have different numbers of axes.
    """
    if len(image_layout) != len(shape):
        raise InputError(
            f"image_layout={image_layout!r} names {len(image_layout)} axes; the image has shape "
            f"{tuple(shape)}; pass one letter for each axis"
        )
    place = image_layout.find("C")
    return None if place < 0 else place


def layout_named(axes: int, axis: int | None) -> str:
    """The name of an image's layout, such as ``"NHWC"``, from the number of `axes`."""
    grid = axes - 1 - (axis is not None)
    letters = {1: "L", 2: "HW", 3: "DHW" if axis in (1, None) else "THW"}.get(grid, "?" * grid)
    name = "N" + letters
    return name if axis is None else f"{name[:axis]}C{name[axis:]}"


def check_layout(image_layout: str | None) -> None:
    """Check that `image_layout` has samples first, at most one axis of channels, and a grid.

    Raises:
        OptionError: it does not.
    """
    if image_layout is None:
        return
    letters = image_layout if isinstance(image_layout, str) else ""
    upper = letters.isalpha() and letters.isupper() and letters.startswith("N")
    distinct = len(set(letters)) == len(letters)
    if upper and distinct and 1 <= len(letters) - 1 - ("C" in letters) <= 3:
        return
    raise OptionError(
        f"image_layout={image_layout!r} is not known; expected one letter for each axis: N for "
        "samples first, C for channels if there are any, and one to three others for the grid, "
        "such as 'NCHW', 'NHWC', 'NHW', 'NTCHW', 'NCL' or 'NL'"
    )
