"""The average picture and map of each class, and the maps that lie elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from camlib.maps import normalize, resize

_SIDE = 96
"""Height and width of averages."""

_GRID = 16
"""Height and width of the maps that are compared."""

_FEWEST = 3
"""How many pictures a class needs for one of them to be unusual."""


class Averages:
    """Sums over the pictures of each class, all at one size.

    Attributes:
        areas: of each picture, the share where its map is at least half of its maximum.
    """

    def __init__(self) -> None:
        self.areas: list[float] = []
        self._classes: list[str] = []
        self._maps: list[Tensor] = []
        self._sums: dict[str, tuple[int, Tensor, Tensor]] = {}

    def add(self, name: str, picture: Tensor, heatmap: Tensor) -> None:
        """Add a picture ``(3, H, W)`` in [0, 1] and its map ``(H, W)``, NaN nowhere."""
        size = (_SIDE, _SIDE)
        photo = F.interpolate(picture[None], size, mode="bilinear", antialias=True)[0]
        count, photos, heats = self._sums.get(name, (0, 0, 0))
        heat = resize(heatmap[None, None], size)[0, 0]
        self._sums[name] = count + 1, photos + photo, heats + heat
        self._classes.append(name)
        self._maps.append(F.adaptive_avg_pool2d(heatmap[None], _GRID)[0])
        self.areas.append(float((heatmap >= heatmap.max() / 2).float().mean()))

    def means(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Each class with its average picture and map, both in [0, 1]; the largest class first."""
        for name, (count, photos, heats) in sorted(
            self._sums.items(), key=lambda each: -each[1][0]
        ):
            yield name, (photos / count).clamp(0, 1), normalize(heats[None])[0]

    def elsewhere(self) -> list[float | None]:
        """How far each map lies from the average of the others of its class, in [0, 1].

        It is 1 less the cosine of the angle between both: 0 in the same places, 1 with nothing in
        common. ``None`` in classes of fewer than three pictures, and where a map is zero.
        """
        found: list[float | None] = [None] * len(self._maps)
        classes: dict[str, list[int]] = {}
        for i, name in enumerate(self._classes):
            classes.setdefault(name, []).append(i)
        for members in classes.values():
            if len(members) < _FEWEST:
                continue
            maps = F.normalize(torch.stack([self._maps[i] for i in members]).flatten(1).double())
            others = F.normalize(maps.sum(0) - maps)
            for i, own, other in zip(members, maps, others, strict=True):
                if own.any() and other.any():
                    found[i] = min(max(1 - float(own @ other), 0.0), 1.0)
        return found
