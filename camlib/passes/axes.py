"""Which axis of an image has its channels: what a name such as ``"NHWC"`` says, or the shape.

A shape alone is seldom proof. The first of several readings is the most common one.
"""

from __future__ import annotations

from collections.abc import Sequence

from camlib.errors import InputError, OptionError

_FEW = (1, 2, 3, 4)
"""How many channels make an axis of channels, and hardly a side of a picture."""

_COLOURS = (1, 3, 4)


def axes_of(shape: Sequence[int]) -> list[int | None]:
    """Where an image of `shape` may have its channels, the most common reading first.

    ``None`` stands for an image without channels: ``(N, L)`` or grey ``(N, H, W)``.
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
    """Where `image_layout`, such as ``"NHWC"``, has the channels of an image of `shape`.

    Raises:
        InputError: `image_layout` has another number of axes.
    """
    if len(image_layout) != len(shape):
        raise InputError(
            f"image_layout={image_layout!r} names {len(image_layout)} axes; the image has shape "
            f"{tuple(shape)}; pass one letter for each axis"
        )
    place = image_layout.find("C")
    return None if place < 0 else place


def layout_named(axes: int, axis: int | None) -> str:
    """The name of the reading of an image of so many `axes` with channels at `axis`."""
    grid = axes - 1 - (axis is not None)
    letters = {1: "L", 2: "HW", 3: "DHW" if axis in (1, None) else "THW"}.get(grid, "?" * grid)
    name = "N" + letters
    return name if axis is None else f"{name[:axis]}C{name[axis:]}"


def check_layout(image_layout: str | None) -> None:
    """Check that `image_layout` names samples first, at most one axis of channels, and a grid.

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
        f"image_layout={image_layout!r} is not known; expected a letter for each axis: N for "
        "samples first, C for channels where there are any, and one to three others for the grid, "
        "such as 'NCHW', 'NHWC', 'NHW', 'NTCHW', 'NCL' or 'NL'"
    )
