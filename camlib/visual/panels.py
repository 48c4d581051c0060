"""One map of one sample as a panel of a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor
from torch.nn import functional as F

from camlib.maps import resize
from camlib.visual.attribution import Mode, to_image
from camlib.visual.columns import Column
from camlib.visual.overlay import colorize, emphasized, overlay
from camlib.visual.pictures import check_unit, to_array
from camlib.visual.signals import Line

if TYPE_CHECKING:
    from numpy.typing import NDArray

View = Literal["overlay", "emphasized", "cells"]
"""How a heatmap is shown: over the image, the same emphasized, or alone on the layer's own grid."""


@dataclass(frozen=True)
class Brush:
    """How maps are painted; the attributes are arguments of `camlib.visual.figure`."""

    mode: Mode
    alpha: float
    colormap: str

    def picture(self, image: Tensor | None, column: Column, i: int, view: View) -> NDArray[Any]:
        """Map `i` of `column` over `image` ``(3, H, W)``; attributions are painted already."""
        heat = column.maps[i]
        if column.signed:
            return to_array(heat)
        under = heat.new_zeros(3, *heat.shape) if image is None else image
        if view == "cells":
            found = to_array(colorize(_cells(column, i, under.shape[1:]), self.colormap))
            return _with_boxes(found, column, i)
        opacity = 1 if image is None else self.alpha
        found = to_array(
            overlay(under, heat, opacity, self.colormap, emphasize=view == "emphasized")
        )
        return _with_boxes(found, column, i)

    def signal(self, signal: Tensor | None, column: Column, i: int, view: View) -> Line:
        """`signal` ``(C, L)`` in the colours of map `i` of `column`; the map itself without one."""
        found = column.maps[i].detach().float()
        if column.signed:
            mode = "diverging" if self.mode == "centered" else self.mode
            # Channels as the rows of a picture: each value has a colour, all of them one scale.
            return Line(found if signal is None else signal, to_image(found[None], mode) / 255)
        check_unit(heatmap=found)
        size = found.shape if signal is None else signal.shape[1:]
        heat = resize(found[None, None], size)[0]
        if view == "emphasized":
            heat = emphasized(heat)
        if view == "cells":
            heat = _cells(column, i, size)[None]
        return Line(heat if signal is None else signal, colorize(heat, self.colormap))


def _with_boxes(picture: NDArray[Any], column: Column, i: int) -> NDArray[Any]:
    """`picture` ``(H, W, 3)`` with white lines around the regions of map `i` of `column`."""
    if not column.boxes:
        return picture
    found = picture.copy()
    height, width = found.shape[:2]
    down, across = (a / b for a, b in zip((height, width), column.maps.shape[1:], strict=True))
    line = max(min(height, width) // 100, 1)
    for left, top, right, bottom in column.boxes[i].tolist():
        rows, columns = (
            slice(round(start * scale), max(round(end * scale), round(start * scale) + 1))
            for start, end, scale in ((top, bottom, down), (left, right, across))
        )
        inside = found[rows, columns]
        inner = inside[line:-line, line:-line].copy()
        inside[:] = 255
        inside[line:-line, line:-line] = inner
    return found


def _cells(column: Column, i: int, size: Sequence[int]) -> Tensor:
    """The cells `i` of `column` at `size`, without interpolation."""
    cells = column.cells[i, None, None].detach().float()
    return F.interpolate(cells, tuple(size), mode="nearest-exact")[0, 0]
