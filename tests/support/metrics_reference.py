"""The metrics once more, with loops straight from the papers; slow, in float64, without camlib."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

Score = Callable[[Tensor], float]
"""A function of one image ``(C, H, W)`` that returns a number."""

Explain = Callable[[Tensor], Tensor]
"""A map ``(H, W)``, or values ``(C, H, W)``, of one image."""

Places = list[tuple[int, int]]


def average_drop(score: Score, image: Tensor, heatmap: Tensor) -> float:
    clean, masked = score(image), score(image * heatmap)
    return 100 * max(0.0, clean - masked) / clean


def increase_in_confidence(score: Score, image: Tensor, heatmap: Tensor) -> float:
    return 100.0 * (score(image * heatmap) > score(image))


def average_gain(score: Score, image: Tensor, heatmap: Tensor) -> float:
    clean, masked = score(image), score(image * heatmap)
    return 100 * max(0.0, masked - clean) / (1 - clean)


def order(heatmap: Tensor, seed: int) -> Places:
    """Places by value, highest first; equal ones in the order of a permutation."""
    places = [(i, j) for i in range(heatmap.shape[0]) for j in range(heatmap.shape[1])]
    lots = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed)).tolist()
    turn = {place: n for n, place in enumerate(lots)}
    value = {n: float(heatmap[place]) for n, place in enumerate(places)}
    return [places[n] for n in sorted(turn, key=lambda n: (-value[n], turn[n]))]


def curve(
    score: Score, start: Tensor, finish: Tensor, heatmap: Tensor, step: int, seed: int
) -> list[float]:
    """RISE's ``single_run``: pixels of `start` become those of `finish`, so many at a time."""
    current, found = start.clone(), []
    places = order(heatmap, seed)
    steps = (len(places) + step - 1) // step
    for n in range(steps + 1):
        found.append(score(current))
        for i, j in places[step * n : step * (n + 1)]:
            current[:, i, j] = finish[:, i, j]
    return found


def area(values: Sequence[float]) -> float:
    return (sum(values) - values[0] / 2 - values[-1] / 2) / (len(values) - 1)


def rise_blur(image: Tensor, length: int = 11, sigma: float = 5.0) -> Tensor:
    """RISE's substrate: a delta under scipy's ``gaussian_filter``, then a convolution."""
    reach = int(4 * sigma + 0.5)
    gaussian = [math.exp(-(t**2) / (2 * sigma**2)) for t in range(-reach, reach + 1)]
    total = sum(gaussian)

    def mirrored(place: int) -> int:
        place %= 2 * length
        return place if place < length else 2 * length - 1 - place

    line = [
        sum(
            weight / total
            for t, weight in zip(range(-reach, reach + 1), gaussian, strict=True)
            if mirrored(n + t) == length // 2
        )
        for n in range(length)
    ]
    found, half = torch.zeros_like(image), length // 2
    height, width = image.shape[1:]
    for i in range(height):
        for j in range(width):
            for a in range(-half, half + 1):
                for b in range(-half, half + 1):
                    if 0 <= i + a < height and 0 <= j + b < width:
                        weight = line[a + half] * line[b + half]
                        found[:, i, j] += weight * image[:, i + a, j + b]
    return found


NEIGHBOURS = {
    (down, across): 1 / 6 if down * across == 0 else 1 / 12
    for down in (-1, 0, 1)
    for across in (-1, 0, 1)
    if (down, across) != (0, 0)
}


def imputed(image: Tensor, missing: Tensor) -> Tensor:
    """ROAD's linear system, written out and solved as a dense one."""
    height, width = missing.shape
    places = [(i, j) for i in range(height) for j in range(width) if missing[i, j]]
    number = {place: n for n, place in enumerate(places)}
    matrix = torch.zeros(len(places), len(places), dtype=torch.float64)
    right = torch.zeros(len(places), image.shape[0], dtype=torch.float64)
    for n, (i, j) in enumerate(places):
        for (down, across), weight in NEIGHBOURS.items():
            near = i + down, j + across
            if not (0 <= near[0] < height and 0 <= near[1] < width):
                continue
            matrix[n, n] += weight
            if near in number:
                matrix[n, number[near]] -= weight
            else:
                right[n] += weight * image[:, near[0], near[1]]
    solution = torch.linalg.solve(matrix, right)
    found = image.clone()
    for n, (i, j) in enumerate(places):
        found[:, i, j] = solution[n]
    return found


def road(
    score: Score,
    image: Tensor,
    heatmap: Tensor,
    shares: Iterable[float],
    seed: int,
    *,
    most: bool,
) -> list[float]:
    places = order(heatmap, seed)
    places = places if most else places[::-1]
    found = []
    for share in shares:
        missing = torch.zeros(heatmap.shape, dtype=torch.bool)
        for i, j in places[: round(share * len(places))]:
            missing[i, j] = True
        found.append(score(imputed(image, missing)))
    return found


def infidelity(
    score: Score, image: Tensor, values: Tensor, changes: Iterable[Tensor], *, normalize: bool
) -> float:
    """`values` and each of `changes` have the shape of the image."""
    sums, lost = [], []
    for change in changes:
        sums.append(float((change * values).sum()))
        lost.append(score(image) - score(image - change))
    best = 1.0
    if normalize:
        square = sum(a * a for a in sums)
        best = sum(a * b for a, b in zip(sums, lost, strict=True)) / square if square else 0.0
    return sum((best * a - b) ** 2 for a, b in zip(sums, lost, strict=True)) / len(sums)


def pearson(first: Iterable[Any], second: Iterable[Any]) -> float:
    one, other = [float(a) for a in first], [float(b) for b in second]
    mean, middle = sum(one) / len(one), sum(other) / len(other)
    top = sum((a - mean) * (b - middle) for a, b in zip(one, other, strict=True))
    sizes = sum((a - mean) ** 2 for a in one) * sum((b - middle) ** 2 for b in other)
    return top / math.sqrt(sizes) if sizes else 0.0


def faithfulness_correlation(
    score: Score, image: Tensor, heatmap: Tensor, subsets: Iterable[Tensor], blank: Tensor
) -> float:
    sums, lost = [], []
    for subset in subsets:
        sums.append(float(heatmap[subset].sum()))
        changed = image.clone()
        changed[:, subset] = blank[:, subset]
        lost.append(score(image) - score(changed))
    return pearson(sums, lost)


def coherency(explain: Explain, image: Tensor, heatmap: Tensor) -> float:
    return (1 + pearson(heatmap.flatten(), explain(image * heatmap).flatten())) / 2


def complexity(heatmap: Tensor) -> float:
    return float(sum(heatmap.flatten())) / heatmap.numel()


def harmonic(*parts: float) -> float:
    return 0.0 if min(parts) <= 0 else len(parts) / sum(1 / part for part in parts)


def sensitivity_max(
    explain: Explain, image: Tensor, values: Tensor, draws: Iterable[Tensor]
) -> float:
    size = math.sqrt(sum(float(v) ** 2 for v in values.flatten())) or 1.0
    found = []
    for draw in draws:
        apart = explain(image + draw) - values
        found.append(math.sqrt(sum(float(v) ** 2 for v in apart.flatten())) / size)
    return max(found)


def unit(tensor: Tensor) -> Tensor:
    """`tensor` from 0 to 1."""
    return (tensor - tensor.min()) / (tensor.max() - tensor.min())
