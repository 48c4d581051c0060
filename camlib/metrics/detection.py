"""Compare boxes from maps with true boxes, at the best threshold for the method."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from camlib.metrics.regions import connected, hot
from camlib.metrics.truth import Truth, boxes_of, finite
from camlib.options import Count, checked

Version = Literal[1, 2]
"""1: the largest region, with an overlap of one half. 2: any region, the mean of three overlaps."""

OVERLAPS: dict[Version, tuple[float, ...]] = {1: (0.5,), 2: (0.3, 0.5, 0.7)}
"""The smallest intersections over union for which a box counts."""

_AT_ONCE = 2**23
"""The number of pixels of thresholded maps that are processed at once."""


@checked
def box_accuracy(
    heatmaps: Tensor, truth: Truth, *, version: Version = 2, thresholds: Count = 100
) -> Tensor:
    """Whether a box from a map overlaps enough with a true one, at each threshold.

    Args:
        heatmaps: see `max_box_accuracy`.
        truth: see `max_box_accuracy`.
        version: see `max_box_accuracy`.
        thresholds: see `max_box_accuracy`.

    Returns:
        Hits ``(N, thresholds, overlaps)``, or ``(N, K, thresholds, overlaps)``, 0 or 1; NaN if
        there is no object. The last axis has the overlaps of `version`.

    Raises:
        InputError: see `max_box_accuracy`.
    """
    maps = finite(heatmaps, positive="max_box_accuracy")
    boxes = boxes_of(truth, maps)
    shares = torch.arange(1, thresholds + 1, device=maps.device) / (thresholds + 1)
    overlaps = torch.tensor(OVERLAPS[version], device=maps.device)
    hits = []
    for heatmap, true in zip(maps.flatten(0, -3), boxes, strict=True):
        best = torch.cat(
            [
                _best(heatmap, some, true.to(maps.device), largest=version == 1)
                for some in torch.split(shares, max(_AT_ONCE // heatmap.numel(), 1))
            ]
        )
        own = (best[:, None] >= overlaps).to(maps.dtype)
        hits.append(own if len(true) else torch.full_like(own, torch.nan))
    return torch.stack(hits).reshape(*maps.shape[:-2], thresholds, len(overlaps))


@checked
def max_box_accuracy(
    heatmaps: Tensor, truth: Truth, *, version: Version = 2, thresholds: Count = 100
) -> Tensor:
    """The share of images whose box is right, at the best threshold for all of them.

    Choe et al., CVPR 2020, arXiv:2001.07437. A box encloses connected places with at least a share
    of the map's maximum. MaxBoxAcc (version 1) takes the largest region of each map, and needs an
    intersection over union of 0.5. MaxBoxAccV2 takes the best region, and averages over 0.3, 0.5
    and 0.7, each at its own best share. A fixed share would rank methods by the distribution of
    their values. The authors round maps to 8 bits, count a box's last row and column as inside, and
    resize boxes to 224 pixels; here boxes are exact, in pixels of the heatmap.

    Args:
        heatmaps: values of 0 or more, ``(N, H, W)`` or ``(N, K, H, W)``, for the whole dataset; see
            `camlib.metrics.accumulators` if it does not fit into memory.
        truth: masks of the same shape, boxes in pixels ``(N, 4)``, or a list of ``(B, 4)``, any of
            which counts.
        version: 1 or 2.
        thresholds: the number of shares to try, at equal distances; 1000 in the authors' code.

    Returns:
        The accuracy, ``()``. Images without an object do not count.

    Raises:
        InputError: `truth` does not fit `heatmaps`, a value is negative, or an option has an
            invalid value.
    """
    hits = box_accuracy(heatmaps, truth, version=version, thresholds=thresholds)
    return hits.flatten(0, -3).nanmean(0).amax(0).mean()


def _best(heatmap: Tensor, shares: Tensor, true: Tensor, *, largest: bool) -> Tensor:
    """The best overlap of a box of `heatmap` ``(H, W)`` and one of `true`, for each of `shares`."""
    best = torch.zeros(len(shares), dtype=torch.float64, device=heatmap.device)
    regions = connected(hot(heatmap[None], shares)[0])
    if not len(regions.maps) or not len(true):
        return best
    values = box_iou(regions.boxes.double(), true).amax(1)
    if largest:
        most = torch.zeros_like(best).long()
        most = most.scatter_reduce(0, regions.maps, regions.sizes, "amax")
        values = values.where(regions.sizes == most[regions.maps], 0)
    return best.scatter_reduce(0, regions.maps, values, "amax")


def box_iou(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of boxes ``(A, 4)`` and ``(B, 4)``, ``(A, B)``."""
    start = torch.maximum(one[:, None, :2], other[:, :2])
    end = torch.minimum(one[:, None, 2:], other[:, 2:])
    both = (end - start).clamp(min=0).prod(2)
    sizes = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1) for boxes in (one, other)]
    either = sizes[0][:, None] + sizes[1] - both
    return both / either.where(either > 0, 1)
