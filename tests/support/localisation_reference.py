"""The metrics of localisation once more, with loops; slow, and without camlib."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

Place = tuple[int, int]

Box = tuple[int, int, int, int]
"""Left, top, right and bottom."""


def peaks(heatmap: Tensor) -> list[Place]:
    top = float(heatmap.max())
    height, width = heatmap.shape
    return [(i, j) for i in range(height) for j in range(width) if float(heatmap[i, j]) == top]


def pointing_game(heatmap: Tensor, mask: Tensor, tolerance: float) -> float:
    places = mask.nonzero().tolist()
    found = peaks(heatmap)
    hits = [any(math.dist(peak, place) <= tolerance for place in places) for peak in found]
    return sum(hits) / len(hits)


def energy(heatmap: Tensor, mask: Tensor) -> float:
    total = float(heatmap.double().sum())
    return float(heatmap.double()[mask].sum()) / total if total else 0.0


def iou(heatmap: Tensor, mask: Tensor, share: float) -> float:
    hot = heatmap >= share * heatmap.max()
    return int((hot & mask).sum()) / int((hot | mask).sum())


def average_precision(heatmap: Tensor, mask: Tensor) -> float:
    found, before = 0.0, 0.0
    for threshold in sorted({float(v) for v in heatmap.flatten()}, reverse=True):
        hot = heatmap >= threshold
        recall = int((hot & mask).sum()) / int(mask.sum())
        found += (recall - before) * int((hot & mask).sum()) / int(hot.sum())
        before = recall
    return found


def rank_accuracy(heatmap: Tensor, mask: Tensor, order: Sequence[Place]) -> float:
    count = int(mask.sum())
    return sum(bool(mask[place]) for place in order[:count]) / count


def regions(mask: Tensor) -> list[set[Place]]:
    """Sets of places that are connected, by flooding."""
    left = {(i, j) for i, j in mask.nonzero().tolist()}
    found = []
    while left:
        region: set[Place] = set()
        edge = [left.pop()]
        while edge:
            i, j = edge.pop()
            region.add((i, j))
            near = {(i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
            left -= near
            edge += near
        found.append(region)
    return found


def box(region: Iterable[Place]) -> Box:
    rows, columns = [i for i, _ in region], [j for _, j in region]
    return min(columns), min(rows), max(columns) + 1, max(rows) + 1


def box_iou(one: Sequence[float], other: Sequence[float]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(width, 0) * max(height, 0)
    sizes = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    return both / (sum(sizes) - both)


def max_box_accuracy(
    heatmaps: Tensor, boxes: Iterable[Iterable[Box]], *, version: int, thresholds: int
) -> float:
    overlaps = {1: [0.5], 2: [0.3, 0.5, 0.7]}[version]
    shares = [float((n + 1) / torch.tensor(thresholds + 1)) for n in range(thresholds)]
    means = []
    for overlap in overlaps:
        rates = []
        for share in shares:
            hits = 0
            for heatmap, true in zip(heatmaps, boxes, strict=True):
                hot = (heatmap >= share * heatmap.max()) & (heatmap.max() > 0)
                found = regions(hot)
                if version == 1 and found:
                    most = max(map(len, found))
                    found = [region for region in found if len(region) == most]
                best = max((box_iou(box(r), t) for r in found for t in true), default=0.0)
                hits += best >= overlap
            rates.append(hits / len(heatmaps))
        means.append(max(rates))
    return sum(means) / len(means)
