"""Turn volumes and clips into pictures: a few of their slices or frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from camlib.errors import InputError
from camlib.maps import resize
from camlib.visual.attribution import Mode
from camlib.visual.columns import Column, painted


@dataclass(frozen=True)
class Slices:
    """The rows of a figure, with an entry for each slice.

    Attributes:
        pictures: the slices, if the volumes are given.
        columns: the columns of their maps.
        names: the names of the volumes, each at its last slice.
        places: the numbers of the slices, as text.
    """

    pictures: list[Tensor] | None
    columns: list[Column]
    names: list[str]
    places: list[str]


def as_slices(
    volumes: Sequence[Tensor] | None,
    shown: Sequence[Column],
    names: Sequence[str],
    count: int,
    mode: Mode,
) -> Slices:
    """Some slices of each volume.

    Names and captions are under the last slice of a volume. Attributions become pictures, on one
    scale for the volume.

    Args:
        volumes: volumes ``(3, D, H, W)``, or ``None``.
        shown: the columns of their maps.
        names: the names of the volumes.
        count: the number of slices of each, see `chosen`.
        mode: how attributions are shown.

    Raises:
        InputError: `count` is below 1, or attributions do not have the volumes' size.
    """
    if count < 1:
        raise InputError(f"slices={count!r} is out of range; expected at least 1")
    size = shown[0].maps.shape[-3:] if volumes is None else volumes[0].shape[1:]
    shown = [_fitted(column, size) for column in shown]
    kept = [chosen([c.maps[i] for c in shown], count) for i in range(len(names))]
    index = [(i, depth) for i, depths in enumerate(kept) for depth in depths]

    def cut(maps: Sequence[Tensor] | Tensor) -> Tensor:
        return torch.stack([maps[i][..., depth, :, :] for i, depth in index])

    def last(texts: Sequence[str]) -> list[str]:
        return [texts[i] if depth == kept[i][-1] else "" for i, depth in index]

    return Slices(
        pictures=None if volumes is None else list(cut(volumes)),
        columns=[
            replace(c, maps=cut(c.maps), cells=cut(c.cells), captions=last(c.captions))
            for c in (painted(column, mode) for column in shown)
        ],
        names=last(names),
        places=[f"slice {depth + 1} of {size[0]}" for _, depth in index],
    )


def chosen(maps: Sequence[Tensor], count: int) -> list[int]:
    """The slices to show of one volume: `count` evenly spaced ones, with the hottest of each map.

    The hottest slices replace their nearest neighbours, so there are more than `count` slices only
    if there are more maps.

    Args:
        maps: heatmaps ``(D, H, W)`` or attributions ``(C, D, H, W)``.
        count: the number of slices.
    """
    depth = maps[0].shape[-3]
    peaks = [m.detach().abs().amax((-2, -1)).reshape(-1, depth).amax(0) for m in maps]
    hottest = {int(peak.argmax()) for peak in peaks}
    even = {(2 * j + 1) * depth // (2 * count) for j in range(count)}
    farthest = sorted(even, key=lambda d: -min(abs(d - peak) for peak in hottest))
    return sorted({*hottest, *farthest[: max(count - len(hottest), 0)]})


def _fitted(column: Column, size: Sequence[int]) -> Column:
    """`column` with its heatmaps interpolated to `size` ``(D, H, W)``, its cells repeated."""
    size = tuple(size)
    if column.signed:
        if column.maps.shape[2:] != size:
            raise InputError(
                f"attributions of shape {tuple(column.maps.shape)} do not fit volumes of size "
                f"{size}; expected attributions of the same size"
            )
        return column
    cells = F.interpolate(column.cells[:, None].float(), size, mode="nearest-exact")
    return replace(column, maps=resize(column.maps[:, None].float(), size)[:, 0], cells=cells[:, 0])
