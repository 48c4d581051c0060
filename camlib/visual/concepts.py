"""Draw the concepts of a batch in one figure, with a colour and a legend for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from camlib.errors import InputError
from camlib.maps import resize
from camlib.results import Concepts
from camlib.visual.colors import color_table
from camlib.visual.columns import Labels, label_of
from camlib.visual.page import PANEL, Row, draw, shortened
from camlib.visual.pictures import to_array
from camlib.visual.samples import read

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LARGEST = 8.0
"""The largest font size of the legend, in points."""

_COLORS = 10, 20
"""The numbers of colours in matplotlib's tables of distinct colours."""


def concept_figure(
    concepts: Concepts,
    images: Any = None,
    *,
    labels: Labels | None = None,
    classes: int = 2,
    alpha: float = 0.7,
) -> Figure:
    """A figure with a row for each image: the image, its concepts in colours, and their shares.

    Each place has the colour of its strongest concept, more opaque where the concept is stronger.
    The last column is the legend: a bar for each concept, as long as its share of the image's maps,
    with the classes that it supports most and their scores.

    Args:
        concepts: concepts of pictures.
        images: the pictures, as for `camlib.figure`; ``None`` shows the colours on black.
        labels: the names of the classes; their numbers by default.
        classes: the number of classes to name for each concept.
        alpha: the opacity of the colour where a concept is strongest.

    Raises:
        InputError: the inputs are not pictures, or an argument does not fit.
    """
    heat = concepts.heatmaps.detach().float()
    count, kinds, *size = heat.shape
    if len(size) != 2:
        raise InputError(
            f"concepts of inputs of size {tuple(size)} cannot be drawn; expected pictures; draw "
            "each concept by itself: "
            "camlib.figure(inputs, {'concept 1': concepts.heatmaps[:, 0]})"
        )
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha={alpha!r} is out of range; expected a number from 0 to 1")
    if images is None:
        pictures = list(heat.new_zeros(count, 3, *size))
    else:
        pictures = [picture.to(heat) for picture in read(images, "picture")]
    if len(pictures) != count:
        raise InputError(f"images has {len(pictures)} pictures; expected {count}, as in concepts")
    colors = _colors(kinds).to(heat)
    shares = heat.flatten(2).sum(2)
    shares = shares / shares.sum(1, keepdim=True).clamp(min=torch.finfo(heat.dtype).tiny)
    named = [_named(k, concepts.scores[k], classes, labels) for k in range(kinds)]
    rows = []
    for picture, maps, share in zip(pictures, heat, shares, strict=True):
        shown = resize(maps[None], picture.shape[1:])[0]
        weight, which = shown.max(0)
        colored = colors[which].movedim(-1, 0)
        blended = picture + alpha * weight.clamp(0, 1) * (colored - picture)
        legend = Legend(tuple(picture.shape[1:]), named, share.tolist(), colors.tolist())
        rows.append(Row([to_array(picture), to_array(blended), legend], [""] * 3))
    return draw(["image", f"concepts\n{concepts.layer}", "share, and classes it supports"], rows)


@dataclass(frozen=True)
class Legend:
    """A bar for each concept, with its name on it.

    Attributes:
        shape: the proportions of the panel, height and width.
        names: the names of the concepts, in one or more lines.
        shares: the lengths of the bars, in [0, 1].
        colors: the colours of the bars.
    """

    shape: tuple[int, ...]
    names: Sequence[str]
    shares: Sequence[float]
    colors: Sequence[Sequence[float]]

    def draw(self, axes: Axes) -> None:
        """Draw the legend into `axes`."""
        places = range(len(self.names))
        lines = len(self.names) * max(name.count("\n") + 1 for name in self.names)
        points = min(_LARGEST, 0.6 * 72 * PANEL * self.shape[0] / self.shape[1] / lines)
        axes.set_xlim(0, 1)
        axes.set_ylim(len(self.names) - 0.5, -0.5)
        axes.barh(places, 1, height=0.9, color=[(*color, 0.2) for color in self.colors])
        axes.barh(places, self.shares, height=0.9, color=[(*color, 0.7) for color in self.colors])
        for place, name in zip(places, self.names, strict=True):
            axes.text(0.02, place, name, fontsize=points, va="center", parse_math=False)


def _colors(count: int) -> Tensor:
    """A colour for each concept, ``(count, 3)``; colours repeat after twenty."""
    few, many = _COLORS
    steps = few if count <= few else many
    table = color_table(f"tab{steps}", torch.device("cpu"), steps)
    return table[torch.arange(count, device="cpu") % steps]


def _named(number: int, scores: Tensor, classes: int, labels: Labels | None) -> str:
    """The classes that concept `number` supports most, one in each line; only positive scores."""
    best = scores.topk(min(classes, len(scores)))
    known = [
        f"{shortened(label_of(index, labels), 0.75 * PANEL)}  {score:.2g}"
        for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        if score > 0
    ]
    return f"{number + 1}  " + "\n    ".join(known)
