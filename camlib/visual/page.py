"""Lay out panels and texts on one page, as a matplotlib figure.

The layout is computed here, in inches. Every text is broken to the width of its panel first, so
that nothing overlaps, however long the name of a class is. The figure does not use pyplot, which
would keep it alive and ask for a display.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from camlib.visual.style import check_letters, house_style, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

# Inches, but for the font.
PANEL = 2.0
_TALLEST = 3.0
_GAP = 0.1
_LINE = 0.17
_FONT_POINTS = 9
_BAR = 0.14
_BAR_WIDTH = 0.65


class Drawing(Protocol):
    """A panel that is not a picture and draws itself."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The proportions of the panel, height and width first."""

    def draw(self, axes: Axes) -> None:
        """Draw into `axes`, which are invisible themselves."""


@dataclass(frozen=True)
class Scale:
    """The colour bar and its labels.

    Attributes:
        colors: the colours from the highest to the lowest, ``(steps, 1, 3)``, uint8.
        high: the label of the highest.
        low: the label of the lowest.
        note: a text between them, if there is room.
    """

    colors: NDArray[Any]
    high: str
    low: str
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a page.

    Attributes:
        panels: pictures ``(H, W, 3)``, uint8, or drawings; those of a sample have the proportions
            of its first.
        captions: the text under each panel, in one or more lines.
        label: the vertical text to the left, in one or more lines.
        samples: the number of samples side by side.
    """

    panels: Sequence[NDArray[Any] | Drawing]
    captions: Sequence[str]
    label: str = ""
    samples: int = 1

    def first(self, number: int) -> NDArray[Any] | Drawing:
        """The first panel of the sample that panel `number` belongs to."""
        each = len(self.panels) // self.samples
        return self.panels[number // each * each]

    def height(self, width: float) -> float:
        """The height in inches of panels of `width`; limited, but enough for the label."""
        shapes = [self.first(number).shape for number in range(len(self.panels))]
        tallest = max(width * shape[0] / shape[1] for shape in shapes)
        # A wide panel may be as tall as it is wide.
        return max(min(tallest, max(_TALLEST, width)), *map(_width, self.label.split("\n")), 0)


def draw(
    titles: Sequence[str],
    rows: Sequence[Row],
    panel: float = PANEL,
    scale: Scale | None = None,
) -> Figure:
    """A figure of `rows` under the column `titles`.

    Args:
        titles: the titles of the columns, in one or more lines.
        rows: the rows.
        panel: the width of a panel in inches.
        scale: the colour bar at the right; ``None`` for none.
    """
    check_letters([*titles, *(text for row in rows for text in (*row.captions, row.label))])
    with house_style():
        return _drawn(titles, rows, panel, scale)


def _drawn(titles: Sequence[str], rows: Sequence[Row], panel: float, scale: Scale | None) -> Figure:
    # Measuring text is slow, and captions repeat.
    written = {*titles, *(caption for row in rows for caption in row.captions)}
    fitted = {text: _fit(text, panel) for text in written}
    headers = [fitted[title] for title in titles]
    captions = [[fitted[caption] for caption in row.captions] for row in rows]
    beside = max(row.label.count("\n") + 1 if row.label else 0 for row in rows) * _LINE
    left = _GAP + (beside + _GAP if beside else 0)
    top = _GAP + _text_height(headers)
    heights = [row.height(panel) for row in rows]
    below = [_text_height(texts) for texts in captions]
    end = left + len(titles) * (panel + _GAP)
    width = end + (_BAR_WIDTH if scale else 0)
    height = top + sum(heights) + sum(below) + _GAP * len(rows)

    figure = new_figure(width, height)

    def write(x: float, y: float, text: str, **where: Any) -> None:
        # The default would read a class name such as "$100" as mathematics.
        where = {"fontsize": _FONT_POINTS, "parse_math": False, "ha": "center", **where}
        figure.text(x / width, 1 - y / height, text, **where)

    centers = [left + panel / 2 + k * (panel + _GAP) for k in range(len(titles))]
    for x, header in zip(centers, headers, strict=True):
        write(x, top - _GAP / 2, header, va="bottom")
    beginning = top
    for row, texts, tall, taken in zip(rows, captions, heights, below, strict=True):
        if row.label:
            write(_GAP + beside / 2, top + tall / 2, row.label, va="center", rotation=90)
        for k, (x, content, text) in enumerate(zip(centers, row.panels, texts, strict=True)):
            corner = (x - panel / 2) / width, 1 - (top + tall) / height
            axes = figure.add_axes((*corner, panel / width, tall / height))
            axes.set_axis_off()
            if isinstance(content, np.ndarray):
                down, across = row.first(k).shape[:2]
                axes.imshow(content, extent=(0, across, down, 0))
            else:
                content.draw(axes)
            write(x, top + tall + _GAP / 2, text, va="top")
        top += tall + taken + _GAP
    if scale:
        _bar(figure, scale, end, beginning, heights[0], write)
    return figure


def _bar(
    figure: Figure, scale: Scale, left: float, top: float, tall: float, write: Callable[..., None]
) -> None:
    """Draw `scale` to the right of `left`, beside the panels that start at `top`."""
    width, height = figure.get_size_inches()
    where = left / width, 1 - (top + tall) / height, _BAR / width, tall / height
    axes = figure.add_axes(where)
    axes.set_axis_off()
    axes.imshow(scale.colors, aspect="auto")
    for y, text, side in ((top, scale.high, "top"), (top + tall, scale.low, "bottom")):
        write(left + _BAR + _GAP / 2, y, text, va=side, ha="left")
    if _width(scale.note) + 3 * _LINE < tall:
        middle = left + _BAR + _GAP / 2, top + tall / 2
        write(*middle, scale.note, va="center", ha="left", rotation=270)


def shortened(line: str, width: float) -> str:
    """`line`, cut with an ellipsis if it is wider than `width` inches."""
    if _width(line) <= width:
        return line
    while _width(f"{line}…") > width:
        line = line[:-1]
    return f"{line}…"


def _text_height(texts: Sequence[str]) -> float:
    """The height in inches of the tallest of `texts`; zero if all are empty."""
    lines = max(text.count("\n") + 1 if text else 0 for text in texts)
    return lines * _LINE + _GAP / 2 if lines else 0


def _fit(text: str, width: float) -> str:
    """`text` with each line broken into at most two lines of `width` inches."""
    return "\n".join(line for given in text.split("\n") for line in _broken(given, width))


def _broken(text: str, width: float) -> list[str]:
    """`text` in at most two lines, with an ellipsis where it is cut."""
    lines = [""]
    for piece in re.split(r"(?<=[\s._/-])", text):
        if _width(lines[-1] + piece.rstrip()) <= width or not lines[-1]:
            lines[-1] += piece
        else:
            lines.append(piece)
    return [shortened(line.strip(), width) for line in [*lines[:1], "".join(lines[1:])] if line]


def _width(text: str) -> float:
    """The width of `text` in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=_FONT_POINTS)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width) / 72
