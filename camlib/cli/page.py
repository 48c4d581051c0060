"""The picture of `camlib demo`: every method for two classes, on one page for a stranger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from camlib.visual.pictures import to_array
from camlib.visual.style import house_style, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# In inches, but for the number of columns.
_COLUMNS = 7
_PANEL = 1.5
_GAP = 0.08
_MARGIN = 0.35
_LINE = 0.3
_HEAD = 0.85


@house_style()
def page(
    title: str, note: str, image: Tensor, panels: Mapping[str, Tensor], rows: Sequence[str]
) -> Figure:
    """The figure of `panels` under `title`, so many in a line that their names can be read.

    Args:
        title: a line above all.
        note: what stands under it, in two lines.
        image: ``(3, H, W)`` in [0, 1], repeated at the start of every row.
        panels: by name, pictures ``(rows, 3, H, W)``.
        rows: what stands to the left of each row.
    """
    names = list(panels)
    blocks = [names[i : i + _COLUMNS - 1] for i in range(0, len(names), _COLUMNS - 1)]
    step = _PANEL + _GAP
    width = _MARGIN + _COLUMNS * step
    height = _HEAD + len(blocks) * (_LINE + len(rows) * step)
    figure = new_figure(width, height)

    def write(x: float, y: float, text: str, **how: Any) -> None:
        figure.text(x / width, 1 - y / height, text, **{"va": "center", **how})

    def show(x: float, y: float, picture: Tensor) -> None:
        place = x / width, 1 - (y + _PANEL) / height, _PANEL / width, _PANEL / height
        axes = figure.add_axes(place)
        axes.imshow(to_array(picture))
        axes.set_axis_off()

    write(_MARGIN, 0.2, title, fontsize=15, weight="bold")
    write(_MARGIN, 0.6, note, fontsize=10, linespacing=1.3)
    top = _HEAD
    for block in blocks:
        for column, name in enumerate(["picture", *block]):
            x = _MARGIN + column * step
            write(x + _PANEL / 2, top + 0.6 * _LINE, name, fontsize=9.5, ha="center")
            for row in range(len(rows)):
                show(x, top + _LINE + row * step, panels[name][row] if column else image)
        for row, text in enumerate(rows):
            y = top + _LINE + row * step + _PANEL / 2
            write(_MARGIN / 2, y, text, fontsize=10.5, ha="center", rotation=90)
        top += _LINE + len(rows) * step
    return figure
