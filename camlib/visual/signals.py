"""Draw a signal as a line in the colours of its map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

WIDTH = 3.2
"""The width of a panel in inches."""

# Inches, but for the points of lines and font.
_HEIGHT = 1.3
_LANE = 0.45
_TALLEST = 3.0
_LEFT, _RIGHT, _BOTTOM = 0.42, 0.08, 0.2
_STRIP, _SPACE = 0.1, 0.04
_STRIP_LANE, _TALLEST_STRIP = 0.05, 0.25
_LABELS = 12
_THIN, _THICK = 1.2, 2.2
_FONT_POINTS = 6.5
_INK = "0.25"


@dataclass(frozen=True)
class Line:
    """A panel with one signal: a line for each channel above a strip of the colours.

    Several channels lie above each other, each from its smallest to its largest value, because
    their units may differ. A single channel has its values at the side. The strip shows the colours
    even where the line is steep.

    Attributes:
        values: the signal, ``(C, L)``.
        colors: colours in [0, 1], ``(3, 1, L)`` for all channels or ``(3, C, L)``; ``None`` for a
            plain line.
    """

    values: Tensor
    colors: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The proportions, in hundredths of an inch."""
        height = min(_HEIGHT + _LANE * (len(self.values) - 1), _TALLEST)
        return round(100 * height), round(100 * WIDTH)

    def draw(self, axes: Axes) -> None:
        """Draw the signal into `axes`, which are invisible themselves."""
        from matplotlib.ticker import FuncFormatter, MaxNLocator

        values = self.values.cpu().double().numpy()
        channels, length = values.shape
        height, width = (inches / 100 for inches in self.shape)
        left, across = _LEFT / width, (width - _LEFT - _RIGHT) / width
        band = min(_STRIP + _STRIP_LANE * (channels - 1), _TALLEST_STRIP)
        floor = _BOTTOM + band + _SPACE
        upper = axes.inset_axes((left, floor / height, across, 1 - floor / height))
        strip = axes.inset_axes((left, _BOTTOM / height, across, band / height))
        if channels == 1:
            upper.yaxis.set_major_locator(MaxNLocator(3))
            upper.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
        else:
            values = _lanes(values)
            told = range(0, channels, -(-channels // _LABELS))
            upper.set_yticks(values.mean(1)[told], [str(c) for c in told])
        colors = None if self.colors is None else self.colors.cpu().float().numpy()
        for c, line in enumerate(values):
            upper.plot(line, color=_INK, linewidth=_THIN if colors is None else _THICK, zorder=1)
            if colors is not None:
                upper.add_collection(_coloured(line, colors[:, c % colors.shape[1]].T))
        if colors is not None:
            rows = colors.shape[1]
            strip.imshow(
                colors.transpose(1, 2, 0),
                aspect="auto",
                interpolation="nearest",
                extent=(-0.5, length - 0.5, rows, 0),
            )
        strip.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        strip.set_yticks([])
        upper.set_xticks([])
        for part in (upper, strip):
            part.set_xlim(-0.5, length - 0.5)
            part.tick_params(labelsize=_FONT_POINTS, length=2, pad=2, color=_INK, labelcolor=_INK)
            part.spines[:].set_visible(False)


def _lanes(values: NDArray[Any]) -> NDArray[Any]:
    """Each channel in its own lane, the first on top."""
    low = values.min(1, keepdims=True)
    span = values.max(1, keepdims=True) - low
    # A flat channel runs through the middle of its lane.
    unit: NDArray[Any] = np.where(span > 0, values - low, 0.5) / np.where(span > 0, span, 1)
    return unit * 0.85 - np.arange(len(values))[:, None]


def _coloured(line: NDArray[Any], colors: NDArray[Any]) -> Any:
    """`line` ``(L,)`` as pieces, each from halfway before a point to halfway after it."""
    from matplotlib.collections import LineCollection

    points = np.stack([np.arange(len(line)), line], 1)
    halfway = (points[1:] + points[:-1]) / 2
    before, behind = np.vstack([points[:1], halfway]), np.vstack([halfway, points[-1:]])
    pieces = np.stack([before, points, behind], 1)
    return LineCollection(
        list(pieces), colors=colors, linewidths=_THIN, capstyle="round", joinstyle="round", zorder=2
    )
