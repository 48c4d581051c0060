"""Faithfulness correlation, which compares sums of a map with losses of the score."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from camlib.draws import Draws
from camlib.metrics.baselines import Baseline, baseline_of
from camlib.metrics.given import Given
from camlib.metrics.measures import Measure, Perturbation, measured
from camlib.options import Count, Seed, checked
from camlib.targets.classes import Asked

SUBSET = 224
"""The default number of replaced pixels; a quarter of a small image."""


@dataclass(frozen=True)
class Replaced(Perturbation):
    """Images with random pixels replaced by a baseline."""

    baseline: Baseline
    draws: int
    size: int | None
    seed: int

    def count(self, given: Given) -> int:
        """One for each draw."""
        return self.draws

    def images(self, given: Given, rows: Tensor, numbers: Tensor) -> Tensor:
        """The images with the pixels of each draw replaced."""
        samples = given.samples(rows)
        subset = self.subsets(given)[numbers][:, None]
        return torch.where(subset, baseline_of(given, self.baseline)[samples], given.image[samples])

    def subsets(self, given: Given) -> Tensor:
        """The pixels that each draw replaces, bool ``(draws, *size)``."""

        def make() -> Tensor:
            size = given.run.inputs.size
            pixels = math.prod(size)
            count = min(self.size or SUBSET, pixels if self.size else max(pixels // 4, 1))
            draws = Draws(self.seed)
            inside = torch.zeros(self.draws, pixels, dtype=torch.bool, device="cpu")
            for draw in inside:
                draw[draws.order(pixels)[:count]] = True
            return inside.reshape(self.draws, *size).to(given.image.device)

        return given.once(self, make)


class FaithfulnessCorrelation(Measure):
    """See `faithfulness_correlation`."""

    higher = True

    @checked
    def __init__(
        self,
        score: Asked = "logit",
        draws: Count = 100,
        size: Count | None = None,
        baseline: Baseline = "zero",
        seed: Seed = 0,
    ) -> None:
        super().__init__(score)
        self.replaced = Replaced(baseline, draws, size, seed)

    def needs(self) -> tuple[tuple[Perturbation, Asked], ...]:
        """The images with replaced pixels."""
        return ((self.replaced, self.score),)

    def values(self, given: Given) -> Tensor:
        """The correlation over draws."""
        lost = given.clean(self.score)[:, None] - given.scores(self.replaced, self.score)
        subsets = self.replaced.subsets(given).flatten(1)
        maps = given.maps.flatten(1).double()
        sums = maps @ subsets.T.double()
        return pearson(sums[..., None], lost.double(), 1).to(given.values.dtype)


def pearson(one: Tensor, other: Tensor, axis: int) -> Tensor:
    """Pearson's correlation along `axis`; 0 if one side is constant up to rounding."""
    parts = []
    for values in (one, other):
        apart = values - values.mean(axis, keepdim=True)
        size = apart.norm(dim=axis, keepdim=True)
        noise = values.abs().amax(axis, keepdim=True) * values.shape[axis] ** 0.5
        flat = size <= 8 * torch.finfo(values.dtype).eps * noise
        parts.append((apart / size.where(~flat, 1)).where(~flat, 0))
    one, other = parts
    return (one * other).sum(axis)


def faithfulness_correlation(
    model: nn.Module,
    images: Any,
    heatmaps: Tensor,
    target: Any = None,
    *,
    score: Asked = "logit",
    draws: int = 100,
    size: int | None = None,
    baseline: Baseline = "zero",
    seed: int = 0,
    **options: Any,
) -> Tensor:
    """The correlation of a map's sum on random pixels with the score's loss without these pixels.

    ``corr_S(sum_S M, f(x) - f(x with S replaced))``. Bhatt, Weller and Moura, IJCAI 2020,
    arXiv:2005.00631; more is better. It is 0 for a constant map.

    Args:
        model: see `camlib.metrics.average_drop`.
        images: see there.
        heatmaps: see `camlib.metrics.deletion`.
        target: see there.
        score: see there.
        draws: the number of random sets of pixels, the same for all images.
        size: the number of pixels in a set; by default 224, or a quarter of a small image.
        baseline: the values that replace them, see `camlib.metrics.deletion`.
        seed: the seed of the draws.
        options: see `camlib.metrics.average_drop`.

    Returns:
        Correlations ``(N,)``, or ``(N, K)`` for several classes per sample.

    Raises:
        InputError: the heatmaps do not fit, or an option has an invalid value.
        CamlibError: the inputs or the target do not fit the model; see the message.
    """
    measure = FaithfulnessCorrelation(score, draws, size, baseline, seed)
    return measured(measure, model, images, heatmaps, target, **options)
