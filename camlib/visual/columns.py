"""Turn heatmaps, attributions, regions and explanations into the columns of a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from camlib import methods
from camlib.errors import InputError
from camlib.maps import normalize
from camlib.metrics.regions import Regions
from camlib.results import Explanation
from camlib.visual.attribution import Mode, to_image
from camlib.visual.samples import AXES, Kind

Labels = Sequence[str] | Mapping[int, str]
"""The names of the classes by index."""


@dataclass(frozen=True)
class Column:
    """One column of a figure.

    Attributes:
        title: the text above it, in one or two lines.
        maps: heatmaps ``(N, *size)`` or attributions ``(N, C, *size)``.
        cells: the heatmaps on the layer's own grid, ``(N, *grid)`` in [0, 1], if it is known.
        captions: the text under each map, in one or two lines.
        signed: whether the maps are attributions.
        boxes: boxes around regions of each map, ``(B, 4)``: left, top, right and bottom in its
            pixels.
        seen: the size of the model's input, if it is known.
    """

    title: str
    maps: Tensor
    cells: Tensor
    captions: Sequence[str]
    signed: bool
    boxes: Sequence[Tensor] = ()
    seen: tuple[int, ...] = ()


def painted(column: Column, mode: Mode) -> Column:
    """`column` with its attributions as pictures ``(N, 3, *size)``, uint8."""
    if not column.signed:
        return column
    if mode == "centered" and column.maps.shape[1] not in (1, 3):
        mode = "magnitude"
    maps = to_image(column.maps, mode)
    return replace(column, maps=maps, cells=maps)


Together = Literal["each", "image", "all"]
"""Which heatmaps have a scale in common: none, those of an image, or all of a figure."""


def on_one_scale(columns: Sequence[Column], together: Together) -> list[Column]:
    """`columns` with heatmaps in [0, 1] that can be compared: 1 is the largest of all.

    Args:
        columns: heatmaps in units of the score; what is negative counts as 0.
        together: which heatmaps.

    Raises:
        InputError: the heatmaps are scaled already.
    """
    heat = [column for column in columns if not column.signed]
    if together == "each" or not heat:
        return list(columns)
    peaks = torch.stack([column.maps.flatten(1).amax(1) for column in heat])
    if bool((peaks == 1).any()):  # one scaled map is enough to make the comparison wrong
        raise InputError(
            f"scale={together!r} needs maps in units of the score, and some of these are scaled by "
            "themselves; pass normalize=False to the method"
        )
    top = (peaks.amax(0) if together == "image" else peaks.amax().expand(peaks.shape[1])).clamp(0)
    top = top.where(top > 0, 1)

    def scaled(maps: Tensor) -> Tensor:
        return (maps / top.to(maps).reshape(-1, *[1] * (maps.ndim - 1))).clamp(0, 1)

    return [
        column
        if column.signed
        else replace(column, maps=scaled(column.maps), cells=scaled(column.cells))
        for column in columns
    ]


def columns_of(
    title: str,
    value: Any,
    count: int,
    kind: Kind,
    channels: int | None,
    labels: Labels | None,
    together: Together = "each",
) -> list[Column]:
    """The columns for one entry of a figure's maps, with a row for each of `count` samples.

    An explanation gives one column for each class, and for each layer if it keeps layers apart.

    Args:
        title: the title of the entry.
        value: heatmaps, attributions, regions or an explanation.
        count: the number of samples.
        kind: the kind of the samples.
        channels: the number of their channels, and of attributions, if it is known.
        labels: the names of the classes.
        together: see `on_one_scale`, which follows.

    Raises:
        InputError: `value` does not fit the samples, or `labels` lacks a class.
    """
    if isinstance(value, Explanation):
        return _explained(title, value, count, kind, labels, together)
    if isinstance(value, Regions):
        return [_boxed(title, value, count, kind)]
    if not isinstance(value, Tensor | np.ndarray):
        raise InputError(
            f"maps[{title!r}] is of type {type(value).__name__!r}; expected heatmaps, attributions "
            "or an explanation"
        )
    axes = AXES[kind]
    # A copy, as torch warns of read-only arrays and refuses negative strides.
    maps = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    if maps.ndim == axes or (maps.ndim == axes + 1 and count == 1 and len(maps) > 1):
        maps = maps[None]
    signed = maps.ndim == axes + 2
    if signed and isinstance(value, np.ndarray):
        maps = maps.movedim(-1, 1)
    fits = maps.shape[1] in (1, 3, channels) if signed else maps.ndim == axes + 1
    if not fits or len(maps) != count:
        size = ", ".join("DHW"[3 - axes :] if axes > 1 else "L")
        raise InputError(
            f"maps[{title!r}] of shape {tuple(value.shape)} does not fit {count} image(s); "
            f"expected heatmaps (N, {size}) or attributions (N, C, {size}); pass each class as its "
            f"own entry; if these are not {kind}s, pass kind="
        )
    return [Column(title, maps, maps, [""] * count, signed)]


def _boxed(title: str, value: Regions, count: int, kind: Kind) -> Column:
    if len(value.boxes) != count or kind != "picture":
        raise InputError(
            f"maps[{title!r}] has the regions of {len(value.boxes)} picture(s); expected those of "
            f"{count} {kind}(s), as in images"
        )
    heat = normalize(value.heatmaps[:, None])[:, 0]
    counts = [len(boxes) for boxes in value.boxes]
    captions = ["1 region" if each == 1 else f"{each} regions" for each in counts]
    return Column(title, heat, heat, captions, False, value.boxes)


def _explained(
    title: str,
    value: Explanation,
    count: int,
    kind: Kind,
    labels: Labels | None,
    together: Together,
) -> list[Column]:
    heatmap, raw, axes = value.heatmap, value.map, AXES[kind]
    if len(value.size) != axes:
        raise InputError(
            f"maps[{title!r}] explains inputs of size {value.size}; expected an explanation of "
            f"{kind}s, like the others"
        )
    if len(heatmap) != count:
        raise InputError(
            f"maps[{title!r}] explains {len(heatmap)} image(s); expected {count}, as in images"
        )
    if value.score.ndim == 1:
        heatmap, raw = heatmap[:, None], raw[:, None]
    by_layer = heatmap.ndim > axes + 2
    scores = value.score.reshape(count, -1).tolist()
    target = None if value.target is None else value.target.reshape(count, -1).tolist()
    seen = value.size if axes == AXES["picture"] else ()
    unit = _unit(value)
    asked = asks(value.method)
    columns = []
    for k in range(heatmap.shape[1]):
        captions = [
            _caption(None if target is None else target[i][k], unit, scores[i][k], labels)
            if asked
            else ""
            for i in range(count)
        ]
        maps, cells = heatmap[:, k], raw[:, k]
        if value.attribution:
            maps = value.channels_first(maps)
            name = ", ".join(value.layers)
            columns.append(Column(f"{title}\n{name}", maps, maps, captions, signed=True))
            continue
        if not by_layer:
            maps, cells = maps[:, None], cells[:, None]
        cells = normalize(cells) if together == "each" else cells
        for j, name in enumerate(value.layers if by_layer else [", ".join(value.layers)]):
            heads = f"{title}\n{name}"
            columns.append(Column(heads, maps[:, j], cells[:, j], captions, False, seen=seen))
    return columns


def asks(method: str) -> bool:
    """Whether the values of the class called `method` depend on the target."""
    return bool(getattr(getattr(methods, method, None), "asks", True))


def _unit(value: Explanation) -> str:
    """What the scores of `value` are: a probability, a logit, or another score."""
    output = value.output
    scores = value.score.reshape(len(value.score), -1)
    if value.target is None or not isinstance(output, Tensor) or output.ndim != 2:
        return "score"
    classes = value.target.reshape(scores.shape).to(output.device)
    if output.shape[1] < 2 or len(output) != len(scores) or classes.max() >= output.shape[1]:
        return "score"
    asked = output.gather(1, classes).to(scores)
    if not torch.allclose(asked, scores, rtol=1e-3, atol=1e-6):
        return "score"  # a loss, a contrast, or a probability that the target computes
    rows = output.double()
    even = torch.allclose(rows.sum(1), torch.ones_like(rows[:, 0]), atol=1e-3)
    return "probability" if even and bool((rows >= 0).all()) else "logit"


def _caption(index: int | None, unit: str, score: float, labels: Labels | None) -> str:
    """The name of the class, if there is a class, and the score."""
    if index is None:
        return "" if math.isnan(score) else f"{unit} {score:.3g}"
    return f"{label_of(index, labels)}\n{unit} {score:.3g}"


def label_of(index: int, labels: Labels | None) -> str:
    """The name of class `index`, or its number if there are no names.

    Raises:
        InputError: `labels` lacks the class.
    """
    if labels is None:
        return f"class {index}"
    try:
        return str(labels[index])
    except LookupError:
        raise InputError(
            f"labels has no entry {index}; expected the names of all classes explained"
        ) from None
