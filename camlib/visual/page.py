"""Pictures and texts on one page, as a matplotlib figure.

The page is laid out by hand, in inches: every text is broken to the width of its panel first, so
that nothing overlaps or is cut, whatever a class is called. It is made without pyplot, which would
keep it alive and ask for a display.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

# Inches, but for the font.
_PANEL = 2.0
_TALLEST = 3.0
_LONGEST_LABEL = 0.8
_GAP = 0.1
_LINE = 0.17
_FONT_POINTS = 9


@dataclass(frozen=True)
class Row:
    """A row of a page.

    Attributes:
        panels: pictures ``(H, W, 3)``, uint8, all drawn in the proportions of the first.
        captions: what stands under each panel; may have several lines.
        label: what stands to the left, along the panels.
    """

    panels: Sequence[NDArray[Any]]
    captions: Sequence[str]
    label: str = ""

    @property
    def height(self) -> float:
        """The height of the panels in inches: that of the first at full width, within reason."""
        height, width = self.panels[0].shape[:2]
        return float(max(min(_PANEL * height / width, _TALLEST), _LONGEST_LABEL * bool(self.label)))


def draw(titles: Sequence[str], rows: Sequence[Row]) -> Figure:
    """The figure of `rows` under the column `titles`; a title may have several lines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Measuring text is slow, and captions repeat.
    fitted = {text: _fit(text) for text in {*titles, *(c for row in rows for c in row.captions)}}
    headers = [fitted[title] for title in titles]
    captions = [[fitted[caption] for caption in row.captions] for row in rows]
    left = _GAP + (_LINE + _GAP if any(row.label for row in rows) else 0)
    top = _GAP + _text_height(headers)
    heights = [row.height + _text_height(texts) for row, texts in zip(rows, captions, strict=True)]
    width = left + len(titles) * (_PANEL + _GAP)
    height = top + sum(heights) + _GAP * len(rows)

    figure = Figure(figsize=(width, height), dpi=150, layout=None)
    # Whoever has set constrained layout as the default would see the panels moved.
    figure.set_layout_engine("none")
    FigureCanvasAgg(figure)

    def write(x: float, y: float, text: str, **where: Any) -> None:
        # A class may be called "$100"; the default would read that as mathematics.
        where |= {"fontsize": _FONT_POINTS, "parse_math": False, "ha": "center"}
        figure.text(x / width, 1 - y / height, text, **where)

    centers = [left + _PANEL / 2 + k * (_PANEL + _GAP) for k in range(len(titles))]
    for x, header in zip(centers, headers, strict=True):
        write(x, top - _GAP / 2, header, va="bottom")
    for row, texts, taken in zip(rows, captions, heights, strict=True):
        if row.label:
            write(_GAP + _LINE / 2, top + row.height / 2, row.label, va="center", rotation=90)
        for x, panel, text in zip(centers, row.panels, texts, strict=True):
            corner = (x - _PANEL / 2) / width, 1 - (top + row.height) / height
            axes = figure.add_axes((*corner, _PANEL / width, row.height / height))
            axes.imshow(panel, extent=(0, row.panels[0].shape[1], row.panels[0].shape[0], 0))
            axes.set_axis_off()
            write(x, top + row.height + _GAP / 2, text, va="top")
        top += taken + _GAP
    return figure


def _text_height(texts: Sequence[str]) -> float:
    """The inches that the longest of `texts` takes, none if all are empty."""
    lines = max(text.count("\n") + 1 if text else 0 for text in texts)
    return lines * _LINE + _GAP / 2 if lines else 0


def _fit(text: str) -> str:
    """`text` with each of its lines broken into at most two of a panel's width."""
    return "\n".join(line for given in text.split("\n") for line in _broken(given))


def _broken(text: str) -> list[str]:
    """`text` in at most two lines, with an ellipsis where cut."""
    lines = [""]
    for piece in re.split(r"(?<=[\s._/-])", text):
        if _width(lines[-1] + piece.rstrip()) <= _PANEL or not lines[-1]:
            lines[-1] += piece
        else:
            lines.append(piece)
    return [_cut(line.strip()) for line in [*lines[:1], "".join(lines[1:])] if line]


def _cut(line: str) -> str:
    if _width(line) <= _PANEL:
        return line
    while _width(f"{line}…") > _PANEL:
        line = line[:-1]
    return f"{line}…"


def _width(text: str) -> float:
    """The width of `text` in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=_FONT_POINTS)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width) / 72
