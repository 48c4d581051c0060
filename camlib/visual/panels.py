"""Draw one map of one sample as a panel of a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from camlib.errors import InputError
from camlib.maps import resize
from camlib.visual.attribution import Mode, to_image
from camlib.visual.columns import Column
from camlib.visual.overlay import Fit, colorize, emphasized, overlay
from camlib.visual.pictures import check_unit, to_array
from camlib.visual.placement import Placement, by, check_shape
from camlib.visual.signals import Line

if TYPE_CHECKING:
    from numpy.typing import NDArray

View = Literal["overlay", "emphasized", "cells"]
"""How a heatmap is shown: over the image, emphasized over the image, or alone on its own grid."""


@dataclass(frozen=True)
class Brush:
    """How maps are drawn; the attributes are arguments of `camlib.visual.figure`.

    Attributes:
        placements: where the input of the model lies on each picture; empty if it is the picture.
    """

    mode: Mode
    alpha: float
    colormap: Any
    placements: Sequence[Placement] = ()
    fit: Fit | None = None
    veil: float = 0
    threshold: float | None = None

    def picture(self, image: Tensor | None, column: Column, i: int, view: View) -> NDArray[Any]:
        """Map `i` of `column` over `image` ``(3, H, W)``; attributions are pictures already."""
        heat = column.maps[i]
        placement = self.placements[i] if self.placements and image is not None else None
        if column.signed:
            return to_array(heat if placement is None else self._placed(heat, placement))
        under = heat.new_zeros(3, *heat.shape) if image is None else image
        if view == "cells" and placement is None:
            cells = to_array(colorize(_cells(column, i, under.shape[1:]), self.colormap))
            return _with_boxes(cells, column, i)
        opacity = 1 if image is None else self.alpha
        if placement is not None and view == "cells":
            heat, opacity = _cells(column, i, placement.seen), 1
        fit = self.fit
        if image is not None and placement is None and fit is None and column.seen:
            check_shape(column.seen, image.shape[1:], exact=True)
            fit = "stretch"
        blended = to_array(
            overlay(
                under,
                heat,
                opacity,
                self.colormap,
                emphasize=view == "emphasized",
                threshold=None if view == "cells" else self.threshold,
                transform=placement,
                fit=fit,
                veil=self.veil,
            )
        )
        return _with_boxes(blended, column, i, placement)

    def _placed(self, painted: Tensor, placement: Placement) -> Tensor:
        """A drawn attribution ``(3, h, w)`` at its place on a photo: ``(3, H, W)``, uint8."""
        if painted.shape[1:] != placement.seen:
            raise InputError(
                f"transform makes an input of {by(placement.seen)} from this photo, but the "
                f"attribution belongs to one of {by(painted.shape[1:])}; pass the transform that "
                "made the input"
            )
        nothing = to_image(painted.new_zeros(3, 1, 1, dtype=torch.float32), self.mode)
        whole = nothing.repeat(1, *placement.photo)
        rows, columns = placement.region
        values = placement.on_region(painted[None].float())[0]
        whole[:, rows, columns] = values.round().to(torch.uint8)
        return whole

    def signal(self, signal: Tensor | None, column: Column, i: int, view: View) -> Line:
        """`signal` ``(C, L)``, or the map itself, in the colours of map `i` of `column`."""
        values = column.maps[i].detach().float()
        if column.signed:
            mode = "diverging" if self.mode == "centered" else self.mode
            # Channels are the rows of a picture: each value has a colour, on one scale for all.
            return Line(values if signal is None else signal, to_image(values[None], mode) / 255)
        check_unit(heatmap=values)
        size = values.shape if signal is None else signal.shape[1:]
        heat = resize(values[None, None], size)[0]
        if view == "emphasized":
            heat = emphasized(heat)
        if view == "cells":
            heat = _cells(column, i, size)[None]
        return Line(heat if signal is None else signal, colorize(heat, self.colormap))


def _with_boxes(
    picture: NDArray[Any], column: Column, i: int, placement: Placement | None = None
) -> NDArray[Any]:
    """`picture` ``(H, W, 3)`` with white lines around the regions of map `i` of `column`.

    With a `placement`, the map covers only the part of the picture that the model saw.
    """
    if not column.boxes:
        return picture
    height, width = picture.shape[:2] if placement is None else placement.seen
    down, across = (a / b for a, b in zip((height, width), column.maps.shape[1:], strict=True))
    line = max(min(height, width) // 100, 1)
    lines = torch.zeros(height, width, dtype=torch.bool, device="cpu")
    for left, top, right, bottom in column.boxes[i].tolist():
        rows, columns = (
            slice(round(start * scale), max(round(end * scale), round(start * scale) + 1))
            for start, end, scale in ((top, bottom, down), (left, right, across))
        )
        inner = lines[rows, columns][line:-line, line:-line].clone()
        lines[rows, columns] = True
        lines[rows, columns][line:-line, line:-line] = inner
    marked = picture.copy()
    if placement is None:
        marked[lines.numpy()] = 255
    else:
        part = marked[placement.region]
        part[placement.on_region(lines[None, None].float())[0, 0].numpy() > 0.5] = 255
    return marked


def _cells(column: Column, i: int, size: Sequence[int]) -> Tensor:
    """The cells `i` of `column` at `size`, without interpolation."""
    cells = column.cells[i, None, None].detach().float()
    return F.interpolate(cells, tuple(size), mode="nearest-exact")[0, 0]
