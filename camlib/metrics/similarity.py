"""Similarities of two maps: rank correlation, structural similarity, and that of gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from camlib.errors import InputError
from camlib.maps import normalize
from camlib.metrics.correlation import pearson

Similarity = Literal["spearman", "spearman_abs", "ssim", "hog"]
"""Spearman's rank correlation, that of absolute values, SSIM, or the correlation of HOG."""


def spearman(one: Tensor, other: Tensor) -> Tensor:
    """Spearman's rank correlation of maps ``(R, ...)``, ``(R,)``; equal values share their rank.

    It is 0 if one of the two maps is constant.
    """
    return pearson(_ranks(one.flatten(1)), _ranks(other.flatten(1)), 1)


def spearman_abs(one: Tensor, other: Tensor) -> Tensor:
    """`spearman` of absolute values, for attributions whose sign does not matter."""
    return spearman(one.abs(), other.abs())


def ssim(one: Tensor, other: Tensor) -> Tensor:
    """Structural similarity of maps ``(R, H, W)``, each scaled to [0, 1] first, ``(R,)``.

    Wang et al., TIP 2004, doi:10.1109/TIP.2003.819861, with windows of 7 x 7 pixels with equal
    weights, as in scikit-image; the windows are smaller on smaller maps.
    """
    pair = [normalize(values.double()[:, None]) for values in (one, other)]
    side = min(7, *pair[0].shape[2:])
    side -= 1 - side % 2
    sample = side**2 / max(side**2 - 1, 1)

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, side, 1)

    middle = [mean(values) for values in pair]
    spread = [
        sample * (mean(values**2) - average**2)
        for values, average in zip(pair, middle, strict=True)
    ]
    (first, second), (mean_1, mean_2), (spread_1, spread_2) = pair, middle, spread
    together = sample * (mean(first * second) - mean_1 * mean_2)
    light = (2 * mean_1 * mean_2 + 1e-4) / (mean_1**2 + mean_2**2 + 1e-4)
    shape = (2 * together + 9e-4) / (spread_1 + spread_2 + 9e-4)
    similarity: Tensor = light * shape
    return similarity.flatten(1).mean(1)


def hog(one: Tensor, other: Tensor) -> Tensor:
    """The correlation of histograms of oriented gradients of maps ``(R, H, W)``, ``(R,)``.

    Dalal and Triggs, CVPR 2005, doi:10.1109/CVPR.2005.177: 9 orientations, cells of 16 x 16 pixels
    and blocks of 3 x 3 cells, as Adebayo et al. compare maps; smaller on smaller maps. Each map is
    scaled to [0, 1] first.
    """
    first, second = (
        histograms(normalize(values.double()[:, None])[:, 0]) for values in (one, other)
    )
    return pearson(first, second, 1)


def histograms(maps: Tensor, orientations: int = 9, cell: int = 16, block: int = 3) -> Tensor:
    """The histograms of oriented gradients of `maps` ``(R, H, W)``, ``(R, features)``."""
    height, width = maps.shape[1:]
    cell = max(min(cell, height // 3, width // 3), 1)
    down, across = torch.zeros_like(maps), torch.zeros_like(maps)
    down[:, 1:-1] = maps[:, 2:] - maps[:, :-2]
    across[:, :, 1:-1] = maps[:, :, 2:] - maps[:, :, :-2]
    size = torch.hypot(down, across)
    angle = torch.rad2deg(torch.atan2(down, across)) % 180
    which = (angle * orientations / 180).floor().long() % orientations
    rows, columns = height // cell, width // cell
    each = F.one_hot(which, orientations).to(size) * size[..., None]
    each = each[:, : rows * cell, : columns * cell].movedim(3, 1)
    cells = F.avg_pool2d(each, cell).movedim(1, 3)
    block = min(block, rows, columns)
    blocks = cells.unfold(1, block, 1).unfold(2, block, 1)  # (R, y, x, orientations, block, block)
    described = blocks.movedim(3, 5).flatten(3)
    described = described / (described.square().sum(3, keepdim=True) + 1e-10).sqrt()
    described = described.clamp(max=0.2)
    described = described / (described.square().sum(3, keepdim=True) + 1e-10).sqrt()
    return described.flatten(1)


def _ranks(values: Tensor) -> Tensor:
    """The rank of each of `values` ``(R, P)`` in its row; equal values share their mean rank."""
    ordered, order = values.sort(dim=1)
    ordered = ordered.contiguous()
    first = torch.searchsorted(ordered, ordered)
    last = torch.searchsorted(ordered, ordered, right=True)
    shared = (first + last - 1).double() / 2
    return torch.empty_like(shared).scatter_(1, order, shared)


SIMILARITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "spearman": spearman,
    "spearman_abs": spearman_abs,
    "ssim": ssim,
    "hog": hog,
}


def check_similarity(*names: str) -> None:
    """Check that each of `names` is a similarity.

    Raises:
        InputError: a name is unknown.
    """
    for name in names:
        if name not in SIMILARITIES:
            known = ", ".join(map(repr, SIMILARITIES))
            raise InputError(f"similarity {name!r} is not known; use some of {known}")


def alike(name: str, one: Tensor, other: Tensor) -> Tensor:
    """The similarity of maps ``(R, C, H, W)``, ``(R,)``; SSIM and HOG sum over channels first."""
    if name in ("ssim", "hog"):
        if one.ndim != 4 or math.prod(one.shape[2:]) < 9:
            raise InputError(
                f"{name} compares pictures of two axes, got maps of size {tuple(one.shape[2:])}; "
                "use 'spearman'"
            )
        one, other = one.sum(1), other.sum(1)
    return SIMILARITIES[name](one, other)
