"""Matplotlib's colour maps as tables of colours on any device."""

from __future__ import annotations

from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from camlib.errors import InputError
from camlib.visual.style import imported


def look_up(heatmap: Tensor, table: Tensor, out: Tensor | None = None) -> Tensor:
    """The colours ``(..., 3, H, W)`` in `table` ``(steps, 3)`` for `heatmap` ``(..., H, W)``.

    Args:
        heatmap: values in [0, 1]; values outside get the first or last colour.
        table: the colours.
        out: memory for the result, as ``(3, ..., H, W)``; the result is a view of it.
    """
    step = (heatmap.detach().float() * len(table)).clamp_(0, len(table) - 1).int().flatten()
    planes = table.new_empty(table.shape[1], *heatmap.shape) if out is None else out
    # One colour plane at a time avoids a transpose of whole rows.
    for values, plane in zip(table.t().contiguous(), planes, strict=True):
        torch.index_select(values, 0, step, out=plane.view(-1))
    return planes.movedim(0, -3)


def color_table(colormap: Any, device: torch.device, steps: int = 256) -> Tensor:
    """The colours ``(steps, 3)`` of a matplotlib colour map, given itself or by name, on `device`.

    Raises:
        InputError: matplotlib has no such colour map.
    """
    if hasattr(colormap, "resampled"):
        return _colors(colormap, device, steps)
    return _named_colors(str(colormap), device, steps)


@lru_cache(maxsize=64)
def _named_colors(colormap: str, device: torch.device, steps: int) -> Tensor:
    matplotlib = imported()
    if colormap not in matplotlib.colormaps:
        near = get_close_matches(colormap, matplotlib.colormaps, n=1)
        advice = f"did you mean {near[0]!r}?" if near else "use a name in matplotlib.colormaps"
        raise InputError(f"colormap {colormap!r} not found; {advice}")
    return _colors(matplotlib.colormaps[colormap], device, steps)


def _colors(colormap: Any, device: torch.device, steps: int) -> Tensor:
    colors = colormap.resampled(steps)((np.arange(steps) + 0.5) / steps)
    return torch.tensor(colors[:, :3], dtype=torch.float32, device=device)
