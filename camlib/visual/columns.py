"""What the columns of a figure show: heatmaps, attributions and explanations, told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from camlib.errors import InputError
from camlib.maps import normalize

Labels = Sequence[str] | Mapping[int, str]
"""The names of the classes by index."""


@dataclass(frozen=True)
class Column:
    """What stands in one column.

    Attributes:
        title: above it, in one or two lines.
        maps: heatmaps ``(N, H, W)`` or attributions ``(N, C, H, W)``.
        cells: the heatmaps on the layer's own grid, ``(N, h, w)`` in [0, 1], where it is known.
        captions: under each map, in one or two lines.
    """

    title: str
    maps: Tensor
    cells: Tensor
    captions: Sequence[str]


def samples(value: Any) -> int:
    """How many images `value`, an entry of a figure's maps, belongs to as far as it can tell."""
    maps = getattr(value, "heatmap", value)
    return 1 if getattr(maps, "ndim", 2) == 2 else len(maps)


def columns(title: str, value: Any, count: int, labels: Labels | None) -> list[Column]:
    """The columns for one entry of a figure's maps, with a row for each of `count` images.

    An explanation gives one for each class, and for each layer if it kept them apart.

    Raises:
        InputError: `value` does not fit `count` images, or `labels` lacks a class.
    """
    if hasattr(value, "heatmap"):
        return _explained(title, value, count, labels)
    if not isinstance(value, Tensor | np.ndarray):
        raise InputError(
            f"maps[{title!r}] is of type {type(value).__name__!r}; expected heatmaps, attributions "
            "or an explanation"
        )
    # A copy, because torch warns of read-only arrays and refuses negative strides.
    maps = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    if maps.ndim == 2 or (maps.ndim == 3 and count == 1 and len(maps) > 1):
        maps = maps[None]
    if maps.ndim == 4 and isinstance(value, np.ndarray):
        maps = maps.movedim(-1, 1)
    is_attribution = maps.ndim == 4 and maps.shape[1] in (1, 3)
    if len(maps) != count or not (maps.ndim == 3 or is_attribution):
        raise InputError(
            f"maps[{title!r}] of shape {tuple(value.shape)} does not fit {count} image(s); "
            "expected heatmaps (N, H, W) or attributions (N, C, H, W); give each class a column"
        )
    return [Column(title, maps, maps, [""] * count)]


def _explained(title: str, value: Any, count: int, labels: Labels | None) -> list[Column]:
    score, target = getattr(value, "score", None), getattr(value, "target", None)
    layers = tuple(getattr(value, "layers", ()))
    heatmap, raw = value.heatmap, getattr(value, "map", value.heatmap)
    if heatmap.ndim < 3 if score is None else heatmap.ndim < score.ndim + 2:
        raise InputError(
            f"maps[{title!r}] explains a series, with heatmaps of shape {tuple(heatmap.shape)}, "
            "and a figure shows pictures; plot the heatmap as a line"
        )
    if len(heatmap) != count:
        raise InputError(
            f"maps[{title!r}] explains {len(heatmap)} image(s); expected {count}, as in images"
        )
    if score is None or score.ndim == 1:
        heatmap, raw = heatmap[:, None], raw[:, None]
    classes = None if target is None else target.reshape(count, -1).tolist()
    scores = None if score is None else score.reshape(count, -1).tolist()
    found = []
    for k in range(heatmap.shape[1]):
        captions = [
            _caption(classes and classes[i][k], scores and scores[i][k], labels)
            for i in range(count)
        ]
        maps, cells = heatmap[:, k], raw[:, k]
        names: Sequence[str] = [", ".join(layers)]
        if maps.ndim == 3:
            maps, cells = maps[:, None], cells[:, None]
        elif cells.ndim == 4 and maps.shape[1] == len(layers):
            names = layers
        else:
            found.append(Column(f"{title}\n{names[0]}", maps, maps, captions))
            continue
        cells = normalize(cells)
        for j, name in enumerate(names):
            found.append(Column(f"{title}\n{name}", maps[:, j], cells[:, j], captions))
    return found


def _caption(index: int | None, score: float | None, labels: Labels | None) -> str:
    """The name of the class and the score, as far as they are known."""
    if index is None:
        return "" if score is None else f"score {score:.3g}"
    name = f"class {index}"
    if labels is not None:
        try:
            name = str(labels[index])
        except LookupError:
            raise InputError(
                f"labels has no entry {index}; expected the name of each class explained"
            ) from None
    return name if score is None else f"{name}\nscore {score:.3g}"
