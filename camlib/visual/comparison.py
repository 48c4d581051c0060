"""A plot of methods compared on the same images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from camlib.metrics.comparison import COLUMNS, Row
from camlib.visual.style import house_style, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# In inches.
_NAMES, _PANEL, _GAP, _LINE, _HEAD, _FOOT = 1.5, 1.05, 0.15, 0.17, 0.65, 0.55

_BLOCKS = 2
"""How many rows of panels there are."""

_COLOURS = {1: "#1a7f37", -1: "#c0392b", 0: "#333333"}
"""Better than the reference, worse, or no clear difference."""


@house_style()
def plot(rows: Sequence[Row], reference: str = "grad_cam") -> Figure:
    """A panel for each column: the mean and the 95 % interval of each method, one below the other.

    Args:
        rows: see `camlib.metrics.comparison.Comparison.rows`.
        reference: the method whose mean is a dashed line in each panel.
    """
    names = [name for name in COLUMNS if not all(math.isnan(row.cells[name].mean) for row in rows)]
    across = -(-len(names) // _BLOCKS)
    panel = len(rows) * _LINE
    width = _NAMES + across * (_PANEL + _GAP)
    height = _BLOCKS * (_HEAD + panel) + _FOOT
    figure = new_figure(width, height)
    for number, name in enumerate(names):
        block, place = divmod(number, across)
        left, top = _NAMES + place * (_PANEL + _GAP), (block + 1) * (_HEAD + panel)
        axes = figure.add_axes((left / width, 1 - top / height, _PANEL / width, panel / height))
        _fill(axes, rows, name, reference)
        labels = [row.method for row in rows]
        axes.set_yticks(range(len(rows)), labels if place == 0 else [""] * len(rows))
    note = (
        "Green and red: better and worse than Grad-CAM (dashed), by the 95 % interval of paired "
        "differences; grey squares: baselines that explain nothing."
    )
    figure.text(0.1 / width, 0.15 / height, note, fontsize=7, va="center")
    return figure


def _fill(axes: Any, rows: Sequence[Row], name: str, reference: str) -> None:
    """Draw one column."""
    column = COLUMNS[name]
    cost = column.group == "cost"
    for line, row in enumerate(rows):
        cell = row.cells[name]
        colour = "#999999" if row.baseline else _COLOURS[cell.verdict]
        if not cost:
            axes.plot([cell.low, cell.high], [line, line], color=colour, linewidth=1.2)
        if not cost or cell.mean > 0:
            marker = "s" if row.baseline else "o"
            axes.plot([cell.mean], [line], marker, color=colour, markersize=3)
        if row.method == reference:
            axes.axvline(cell.mean, color="#333333", linewidth=0.6, linestyle="--")
    low, high = axes.get_xlim()
    if cost:
        axes.set_xscale("log")
        axes.minorticks_off()
    elif high - low < 1e-6:
        axes.set_xlim(low - 0.5, high + 0.5)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(labelsize=7, length=2)
    axes.grid(axis="x", linewidth=0.3, alpha=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    better = "higher is better" if column.higher else "lower is better"
    axes.set_title(f"{column.title}\n{better}", fontsize=7)
