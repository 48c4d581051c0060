"""Where a map lies: heatmaps beside masks or boxes.

These metrics ask whether a map is on the object. They say nothing about whether the model looked
there: a model that goes by the background should have maps on the background.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from camlib.errors import InputError
from camlib.metrics.curves import order_of
from camlib.metrics.truth import Truth, checked, masks_of


def pointing_game(heatmaps: Tensor, truth: Truth, *, tolerance: int = 15) -> Tensor:
    """1 where the peak of a map is on the object or within some pixels of it, else 0.

    Zhang et al., IJCV 2018, arXiv:1608.00507. Of several equal peaks each counts alike, which is
    what a random choice gives on average. The accuracy of the paper is the mean over classes of
    the mean over images: `mean_by_class`. A point in the middle of the image has 70 % on VOC.

    Args:
        heatmaps: ``(N, H, W)`` of any values, ``(N, K, H, W)`` for several classes a sample.
        truth: masks of the same shape, or boxes in pixels: ``(N, 4)``, or a list of ``(B, 4)``.
        tolerance: in pixels; 15 in the paper, for photographs of VOC's size.

    Returns:
        Hits ``(N,)`` or ``(N, K)``; NaN where there is no object.

    Raises:
        InputError: `truth` does not fit `heatmaps`, or `tolerance` is below 0.
    """
    if tolerance < 0:
        raise InputError(f"tolerance={tolerance} is out of range; use 0 or more")
    maps = checked(heatmaps)
    masks = masks_of(truth, maps)
    near = masks if tolerance == 0 else _within(masks, tolerance)
    peaks = maps == maps.amax((-2, -1), keepdim=True)
    hits = (peaks & near).flatten(-2).sum(-1) / peaks.flatten(-2).sum(-1)
    return hits.where(masks.flatten(-2).any(-1), torch.nan)


def energy_pointing_game(heatmaps: Tensor, truth: Truth, *, largest: float = 1.0) -> Tensor:
    """The share of a map that is on the object, ``sum_object M / sum M``.

    Wang et al. (Score-CAM), CVPR Workshops 2020, arXiv:1910.01279, who take images of one box
    with at most half of the pixels: ``largest=0.5``. Known as relevance mass accuracy, too.
    A uniform map has the share of the object. A map scaled from its minimum to its maximum has
    another energy than one after a ReLU: say which. A map of zeros has 0.

    Args:
        heatmaps: values from 0 on, see `pointing_game`.
        truth: see `pointing_game`.
        largest: objects of more than this share of the image do not count.

    Returns:
        Shares ``(N,)`` or ``(N, K)``; NaN where there is no object, or one too large.

    Raises:
        InputError: `truth` does not fit `heatmaps`, or a value is negative.
    """
    maps = checked(heatmaps, positive="energy_pointing_game")
    masks = masks_of(truth, maps)
    total = maps.flatten(-2).sum(-1)
    inside = (maps * masks).flatten(-2).sum(-1)
    size = masks.flatten(-2).double().mean(-1)
    found = inside / total.where(total > 0, 1)
    return found.where((size > 0) & (size <= largest), torch.nan)


def iou(heatmaps: Tensor, truth: Truth, *, shares: float | Sequence[float] = 0.5) -> Tensor:
    """Intersection over union of the object and of where a map is hot.

    Hot is what has at least a share of the map's maximum. A fixed share ranks methods by the
    distribution of their values as much as by their place; look at several.

    Args:
        heatmaps: values from 0 on, see `pointing_game`.
        truth: see `pointing_game`.
        shares: of the maximum; one, or several.

    Returns:
        Values ``(N,)`` or ``(N, K)`` in [0, 1]; with several shares ``(..., shares)``. NaN where
        there is no object.

    Raises:
        InputError: `truth` does not fit `heatmaps`, a value is negative, or a share is out of
            range.
    """
    several = [shares] if isinstance(shares, int | float) else list(shares)
    if not several or not all(0 < share <= 1 for share in several):
        raise InputError(f"shares={shares!r} is out of range; expected 0 < share <= 1")
    maps = checked(heatmaps, positive="iou")
    masks = masks_of(truth, maps)
    peak = maps.amax((-2, -1), keepdim=True)
    found = []
    for share in several:  # one after the other: all at once would be as many times the memory
        hot = (maps >= share * peak) & (peak > 0)
        both, either = (hot & masks).flatten(-2).sum(-1), (hot | masks).flatten(-2).sum(-1)
        found.append(both / either.where(either > 0, 1))
    values = torch.stack(found, -1).to(maps.dtype)
    values = values.where(masks.flatten(-2).any(-1)[..., None], torch.nan)
    return values[..., 0] if isinstance(shares, int | float) else values


def pixel_average_precision(heatmaps: Tensor, truth: Truth) -> Tensor:
    """The average precision of a map that tells the object's pixels from the others.

    ``sum_t (R_t - R_t-1) P_t`` over all thresholds, equal values together: the area under
    precision and recall, which needs no threshold. Choe et al., CVPR 2020, arXiv:2001.07437,
    define it over the pixels of all images; here it is of each image. A constant map has the share
    of the object.

    Args:
        heatmaps: values of any sign, see `pointing_game`.
        truth: see `pointing_game`.

    Returns:
        Values ``(N,)`` or ``(N, K)`` in [0, 1]; NaN where there is no object.

    Raises:
        InputError: `truth` does not fit `heatmaps`.
    """
    maps = checked(heatmaps)
    masks = masks_of(truth, maps).flatten(-2)
    values, order = maps.flatten(-2).sort(dim=-1, descending=True)
    hits = masks.gather(-1, order).double().cumsum(-1)
    places = torch.arange(1, values.shape[-1] + 1, device=maps.device)
    # Only the last of equal values is a threshold; at the others nothing is gained.
    last = torch.ones_like(values, dtype=torch.bool)
    last[..., :-1] = values[..., :-1] != values[..., 1:]
    reached = hits.where(last, 0).cummax(-1).values
    before = torch.cat([torch.zeros_like(reached[..., :1]), reached[..., :-1]], -1)
    found = ((reached - before) * hits / places).sum(-1) / hits[..., -1]
    return found.to(maps.dtype)


def relevance_rank_accuracy(heatmaps: Tensor, truth: Truth, *, seed: int = 0) -> Tensor:
    """The share of the object among as many of the hottest pixels, ``|top_K & object| / K``.

    Arras, Osman and Samek (CLEVR-XAI), Information Fusion 2022, arXiv:2003.07258. ``K`` is the
    number of the object's pixels; equal values come in a random order.

    Args:
        heatmaps: values of any sign, see `pointing_game`.
        truth: see `pointing_game`.
        seed: of the order of equal values, the same for all maps.

    Returns:
        Shares ``(N,)`` or ``(N, K)``; NaN where there is no object.

    Raises:
        InputError: `truth` does not fit `heatmaps`.
    """
    maps = checked(heatmaps)
    masks = masks_of(truth, maps).flatten(-2)
    order = order_of(maps.flatten(-2).flatten(0, -2), seed).reshape(masks.shape)
    hits = masks.gather(-1, order).to(maps.dtype).cumsum(-1)
    size = masks.sum(-1, keepdim=True)
    found = hits.gather(-1, (size - 1).clamp(min=0)) / size
    return found[..., 0].where(size[..., 0] > 0, torch.nan)


def mean_by_class(values: Tensor, classes: Tensor) -> Tensor:
    """The mean over classes of the mean over samples, ``()``; NaN does not count.

    Args:
        values: of any metric, ``(N,)`` or ``(N, K)``.
        classes: the class that each is of, of the same shape.

    Raises:
        InputError: the shapes differ.
    """
    if values.shape != classes.shape:
        raise InputError(
            f"classes {tuple(classes.shape)} do not fit values {tuple(values.shape)}; pass the "
            "class of each value"
        )
    known = ~values.isnan()
    _, which = torch.unique(classes[known], return_inverse=True)
    kinds = int(which.max()) + 1 if len(which) else 0
    sums = torch.zeros(kinds, dtype=torch.float64, device=values.device)
    totals = sums.index_add(0, which, values[known].double())
    counts = sums.index_add(0, which, torch.ones_like(values[known]).double())
    return (totals / counts).mean()


def _within(masks: Tensor, distance: int) -> Tensor:
    """Which places are within a `distance` of a place of `masks` ``(..., H, W)``."""
    far = 4.0 * distance**2 + 1
    squares = torch.full(masks.shape, far, device=masks.device).where(~masks, 0)
    for axis in (-2, -1):  # along one axis first, then along the other: exact for squares
        lines = squares.movedim(axis, -1)
        length = lines.shape[-1]
        best = lines.clone()
        for step in range(1, min(distance, length - 1) + 1):
            best[..., step:] = torch.minimum(best[..., step:], lines[..., :-step] + step**2)
            best[..., :-step] = torch.minimum(best[..., :-step], lines[..., step:] + step**2)
        squares = best.movedim(-1, axis)
    return squares <= distance**2
