"""Metrics of localisation, which compare heatmaps with masks or boxes.

They measure whether a map is on the object. They do not measure whether the model looked there: if
a model uses the background, its maps should be on the background.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from camlib.errors import InputError
from camlib.metrics.curves import order_of
from camlib.metrics.truth import Truth, finite, masks_of
from camlib.options import Filled, Natural, Part, Seed, Share, checked


@checked
def pointing_game(heatmaps: Tensor, truth: Truth, *, tolerance: Natural = 15) -> Tensor:
    """1 if the peak of a map is on the object or within some pixels of it, else 0.

    Zhang et al., IJCV 2018, arXiv:1608.00507. Equal peaks share the hit, which is the average of a
    random choice. The paper's accuracy is the mean over classes of the mean over images; see
    `mean_by_class`. A point in the middle of the image reaches 70 % on VOC.

    Args:
        heatmaps: any values ``(N, H, W)``, or ``(N, K, H, W)`` for several classes per sample.
        truth: masks of the same shape, or boxes in pixels: ``(N, 4)``, or a list of ``(B, 4)``.
        tolerance: the distance in pixels; 15 in the paper, for photos of VOC's size.

    Returns:
        Hits ``(N,)`` or ``(N, K)``; NaN if there is no object.

    Raises:
        InputError: `truth` does not fit `heatmaps`, or `tolerance` is below 0.
    """
    maps = finite(heatmaps)
    masks = masks_of(truth, maps)
    near = masks if tolerance == 0 else _within(masks, tolerance)
    peaks = maps == maps.amax((-2, -1), keepdim=True)
    hits = (peaks & near).flatten(-2).sum(-1) / peaks.flatten(-2).sum(-1)
    return hits.where(masks.flatten(-2).any(-1), torch.nan)


@checked
def energy_pointing_game(heatmaps: Tensor, truth: Truth, *, largest: Share = 1.0) -> Tensor:
    """The share of a map that is on the object, ``sum_object M / sum M``.

    Wang et al. (Score-CAM), CVPR Workshops 2020, arXiv:1910.01279. They use images of one box with
    at most half of the pixels: ``largest=0.5``. Another name is relevance mass accuracy. A uniform
    map has the share of the object. A min-max scaled map has another energy than a map after a
    ReLU, so report which one you use. A map of zeros has 0.

    Args:
        heatmaps: values of 0 or more, see `pointing_game`.
        truth: see `pointing_game`.
        largest: the largest share of the image that an object may cover to count.

    Returns:
        Shares ``(N,)`` or ``(N, K)``; NaN if there is no object, or it is too large.

    Raises:
        InputError: `truth` does not fit `heatmaps`, or a value is negative.
    """
    maps = finite(heatmaps, positive="energy_pointing_game")
    masks = masks_of(truth, maps)
    total = maps.flatten(-2).sum(-1)
    inside = (maps * masks).flatten(-2).sum(-1)
    size = masks.flatten(-2).double().mean(-1)
    share = inside / total.where(total > 0, 1)
    return share.where((size > 0) & (size <= largest), torch.nan)


@checked
def iou(
    heatmaps: Tensor, truth: Truth, *, shares: Part | Annotated[Sequence[Part], Filled()] = 0.5
) -> Tensor:
    """Intersection over union of the object and the hot part of a map.

    A place is hot if it has at least a share of the map's maximum. A fixed share ranks methods by
    the distribution of their values as much as by their places, so look at several.

    Args:
        heatmaps: values of 0 or more, see `pointing_game`.
        truth: see `pointing_game`.
        shares: one or several shares of the maximum.

    Returns:
        Values ``(N,)`` or ``(N, K)`` in [0, 1]; ``(..., shares)`` for several shares. NaN if there
        is no object.

    Raises:
        InputError: `truth` does not fit `heatmaps`, a value is negative, or a share is out of
            range.
    """
    several = [shares] if isinstance(shares, int | float) else list(shares)
    maps = finite(heatmaps, positive="iou")
    masks = masks_of(truth, maps)
    peak = maps.amax((-2, -1), keepdim=True)
    ratios = []
    for share in several:  # one after the other, to save memory
        hot = (maps >= share * peak) & (peak > 0)
        both, either = (hot & masks).flatten(-2).sum(-1), (hot | masks).flatten(-2).sum(-1)
        ratios.append(both / either.where(either > 0, 1))
    values = torch.stack(ratios, -1).to(maps.dtype)
    values = values.where(masks.flatten(-2).any(-1)[..., None], torch.nan)
    return values[..., 0] if isinstance(shares, int | float) else values


@checked
def pixel_average_precision(heatmaps: Tensor, truth: Truth) -> Tensor:
    """The average precision of a map as a classifier of the object's pixels.

    ``sum_t (R_t - R_t-1) P_t`` over all thresholds, with equal values together: the area under
    precision and recall, which needs no threshold. Choe et al., CVPR 2020, arXiv:2001.07437, define
    it over the pixels of all images; here it is for each image. A constant map has the share of the
    object.

    Args:
        heatmaps: values of any sign, see `pointing_game`.
        truth: see `pointing_game`.

    Returns:
        Values ``(N,)`` or ``(N, K)`` in [0, 1]; NaN if there is no object.

    Raises:
        InputError: `truth` does not fit `heatmaps`.
    """
    maps = finite(heatmaps)
    masks = masks_of(truth, maps).flatten(-2)
    values, order = maps.flatten(-2).sort(dim=-1, descending=True)
    hits = masks.gather(-1, order).double().cumsum(-1)
    places = torch.arange(1, values.shape[-1] + 1, device=maps.device)
    # Only the last of equal values is a threshold.
    last = torch.ones_like(values, dtype=torch.bool)
    last[..., :-1] = values[..., :-1] != values[..., 1:]
    reached = hits.where(last, 0).cummax(-1).values
    before = torch.cat([torch.zeros_like(reached[..., :1]), reached[..., :-1]], -1)
    precision = ((reached - before) * hits / places).sum(-1) / hits[..., -1]
    return precision.to(maps.dtype)


@checked
def relevance_rank_accuracy(heatmaps: Tensor, truth: Truth, *, seed: Seed = 0) -> Tensor:
    """The share of the object among the ``K`` hottest pixels, ``|top_K & object| / K``.

    Arras, Osman and Samek (CLEVR-XAI), Information Fusion 2022, arXiv:2003.07258. ``K`` is the
    number of the object's pixels; equal values come in random order.

    Args:
        heatmaps: values of any sign, see `pointing_game`.
        truth: see `pointing_game`.
        seed: the seed for the order of equal values, the same for all maps.

    Returns:
        Shares ``(N,)`` or ``(N, K)``; NaN if there is no object.

    Raises:
        InputError: `truth` does not fit `heatmaps`.
    """
    maps = finite(heatmaps)
    masks = masks_of(truth, maps).flatten(-2)
    order = order_of(maps.flatten(-2).flatten(0, -2), seed).reshape(masks.shape)
    hits = masks.gather(-1, order).to(maps.dtype).cumsum(-1)
    size = masks.sum(-1, keepdim=True)
    share = hits.gather(-1, (size - 1).clamp(min=0)) / size
    return share[..., 0].where(size[..., 0] > 0, torch.nan)


def mean_by_class(values: Tensor, classes: Tensor) -> Tensor:
    """The mean over classes of the mean over samples, ``()``; NaN does not count.

    Args:
        values: the values of a metric, ``(N,)`` or ``(N, K)``.
        classes: the class of each value, of the same shape.

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
    """The places within `distance` of a place in `masks` ``(..., H, W)``."""
    far = 4.0 * distance**2 + 1
    squares = torch.full(masks.shape, far, device=masks.device).where(~masks, 0)
    for axis in (-2, -1):  # squared distances can be minimised along one axis after the other
        lines = squares.movedim(axis, -1)
        length = lines.shape[-1]
        best = lines.clone()
        for step in range(1, min(distance, length - 1) + 1):
            best[..., step:] = torch.minimum(best[..., step:], lines[..., :-step] + step**2)
            best[..., :-step] = torch.minimum(best[..., :-step], lines[..., step:] + step**2)
        squares = best.movedim(-1, axis)
    return squares <= distance**2
