"""Whether a map says by how much the score changes: perturbations, and the sums of the map there.

The scale of a class activation map is arbitrary. A correlation does not see it, and `infidelity`
takes the best one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from camlib.chunks import check_counts
from camlib.errors import InputError
from camlib.metrics.curves import Baseline, baseline_of
from camlib.metrics.given import Given
from camlib.metrics.measures import Measure, Perturbation, measured
from camlib.targets.classes import Asked

Change = Literal["gaussian", "square"] | Callable[[Tensor, int], Tensor]
"""What is taken from an image: noise, a square with all that is in it, or what a function returns
for the images ``(M, C, *size)`` and the number of the draw."""

SUBSET = 224
"""How many pixels are replaced where nothing is said, or a quarter of a small image."""


@dataclass(frozen=True)
class Changed(Perturbation):
    """``x - I``, for draws of ``I``."""

    change: Change
    draws: int
    scale: float
    side: int | None
    seed: int

    def count(self, given: Given) -> int:
        """One for each draw."""
        return self.draws

    def images(self, given: Given, rows: Tensor, numbers: Tensor) -> Tensor:
        """``x - I``."""
        image = given.image[given.samples(rows)]
        return image - self.taken(given, image, numbers)

    def taken(self, given: Given, image: Tensor, numbers: Tensor) -> Tensor:
        """``I``, for images ``(M, C, *size)`` and the draws with these `numbers`."""
        if self.change == "square":
            return image * self._squares(given)[numbers][:, None].to(image.dtype)
        found = torch.empty_like(image)
        for number in torch.unique(numbers).tolist():
            own = numbers == number
            if callable(self.change):
                found[own] = self.change(image[own], number).to(image)
            else:
                generator = torch.Generator().manual_seed(self.seed + number)
                draw = torch.randn(image.shape[1:], generator=generator, dtype=torch.float64)
                found[own] = (self.scale * draw).to(image)
        return found

    def _squares(self, given: Given) -> Tensor:
        """Which pixels each draw takes, bool ``(draws, *size)``."""

        def make() -> Tensor:
            size = given.run.inputs.size
            generator = torch.Generator().manual_seed(self.seed)
            inside = torch.ones(self.draws, *size, dtype=torch.bool)
            for axis, length in enumerate(size):
                side = min(self.side or max(length // 7, 1), length)
                start = torch.randint(length - side + 1, (self.draws, 1), generator=generator)
                apart = torch.arange(length) - start
                line = (apart >= 0) & (apart < side)
                inside &= line.reshape(
                    self.draws, *[-1 if a == axis else 1 for a in range(len(size))]
                )
            return inside.to(given.image.device)

        return given.once(self, make)


class Infidelity(Measure):
    """See `infidelity`."""

    higher = False

    def __init__(
        self,
        score: Asked = "logit",
        change: Change = "square",
        draws: int = 100,
        scale: float = 0.2,
        side: int | None = None,
        normalize: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(score)
        check_counts(draws=draws, side=side)
        if not callable(change) and change not in ("gaussian", "square"):
            raise InputError(
                f"change={change!r} is not known; use 'square', 'gaussian' or a function of the "
                "images and the number of the draw"
            )
        self.changed = Changed(change, draws, scale, side, seed)
        self.normalize = normalize

    def needs(self) -> tuple[tuple[Perturbation, Asked], ...]:
        """The changed images."""
        return ((self.changed, self.score),)

    def values(self, given: Given) -> Tensor:
        """``mean (b I * map - (f(x) - f(x - I)))^2``, with the best ``b`` or 1."""
        lost = given.clean(self.score)[:, None] - given.scores(self.changed, self.score)
        lost = lost.double()
        sums = _each(given, self.changed.draws, self._sums).double()[..., None]
        if self.normalize:
            square = (sums * sums).sum(1, keepdim=True)
            best = (sums * lost).sum(1, keepdim=True) / square.where(square > 0, 1)
            sums = best * sums
        return ((sums - lost) ** 2).mean(1).to(given.values.dtype)

    def _sums(self, given: Given, rows: Tensor, numbers: Tensor) -> Tensor:
        image = given.image[given.samples(rows)]
        taken = self.changed.taken(given, image, numbers)
        return (taken.to(given.values.dtype) * given.values[rows]).flatten(1).sum(1)


@dataclass(frozen=True)
class Replaced(Perturbation):
    """Random pixels are those of a baseline."""

    baseline: Baseline
    draws: int
    size: int | None
    seed: int

    def count(self, given: Given) -> int:
        """One for each draw."""
        return self.draws

    def images(self, given: Given, rows: Tensor, numbers: Tensor) -> Tensor:
        """The images, replaced where the draw says."""
        samples = given.samples(rows)
        subset = self.subsets(given)[numbers][:, None]
        return torch.where(subset, baseline_of(given, self.baseline)[samples], given.image[samples])

    def subsets(self, given: Given) -> Tensor:
        """Which pixels each draw replaces, bool ``(draws, *size)``."""

        def make() -> Tensor:
            size = given.run.inputs.size
            pixels = math.prod(size)
            count = min(self.size or SUBSET, pixels if self.size else max(pixels // 4, 1))
            generator = torch.Generator().manual_seed(self.seed)
            inside = torch.zeros(self.draws, pixels, dtype=torch.bool)
            for draw in inside:
                draw[torch.randperm(pixels, generator=generator)[:count]] = True
            return inside.reshape(self.draws, *size).to(given.image.device)

        return given.once(self, make)


class FaithfulnessCorrelation(Measure):
    """See `faithfulness_correlation`."""

    higher = True

    def __init__(
        self,
        score: Asked = "logit",
        draws: int = 100,
        size: int | None = None,
        baseline: Baseline = "zero",
        seed: int = 0,
    ) -> None:
        super().__init__(score)
        check_counts(draws=draws, size=size)
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
    """Pearson's correlation along `axis`; 0 where one is constant up to rounding."""
    parts = []
    for values in (one, other):
        apart = values - values.mean(axis, keepdim=True)
        size = apart.norm(dim=axis, keepdim=True)
        noise = values.abs().amax(axis, keepdim=True) * values.shape[axis] ** 0.5
        flat = size <= 8 * torch.finfo(values.dtype).eps * noise
        parts.append((apart / size.where(~flat, 1)).where(~flat, 0))
    one, other = parts
    return (one * other).sum(axis)


def _each(
    given: Given, draws: int, values: Callable[[Given, Tensor, Tensor], Tensor], size: int = 32
) -> Tensor:
    """`values` of all rows and draws, ``(R, draws)``, some at a time."""
    rows = torch.arange(len(given.values), device=given.values.device)
    pairs = torch.cartesian_prod(rows, torch.arange(draws, device=rows.device))
    found = [values(given, *part.unbind(1)) for part in torch.split(pairs, size)]
    return torch.cat(found).reshape(len(rows), draws)


def infidelity(
    model: nn.Module,
    images: Any,
    heatmaps: Tensor,
    target: Any = None,
    *,
    score: Asked = "logit",
    change: Change = "square",
    draws: int = 100,
    scale: float = 0.2,
    side: int | None = None,
    normalize: bool = True,
    seed: int = 0,
    **options: Any,
) -> Tensor:
    """By how much a map misses what the score loses under random changes; less is better.

    ``mean_I (b I . M - (f(x) - f(x - I)))^2``. Yeh et al., NeurIPS 2019, arXiv:1901.09392. A
    heatmap holds for every channel of its pixel.

    Args:
        model: see `camlib.metrics.average_drop`.
        images: see there.
        heatmaps: see `camlib.metrics.deletion`; of attributions every channel counts.
        target: see there.
        score: see there.
        change: what ``I`` is: ``"square"``, all that is in a square; ``"gaussian"``, noise, for
            attributions that are gradients; or a function of the images ``(M, C, H, W)`` and the
            number of the draw.
        draws: how many, the same for all images.
        scale: standard deviation of the noise.
        side: of the square, by default a seventh of the image.
        normalize: whether ``b`` is the best one for each map, as by the authors' code; else it is
            1, and the map has to be in units of the score.
        seed: of the draws.
        options: see `camlib.metrics.average_drop`.

    Returns:
        Mean squares ``(N,)``, or ``(N, K)`` for several classes a sample.

    Raises:
        InputError: the heatmaps do not fit, or an option has no such value.
        CamlibError: the inputs or the target do not fit the model; see the message.
    """
    measure = Infidelity(score, change, draws, scale, side, normalize, seed)
    return measured(measure, model, images, heatmaps, target, **options)


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
    """The correlation of what a map sums to on random pixels and what the score loses with them.

    ``corr_S(sum_S M, f(x) - f(x with S replaced))``. Bhatt, Weller and Moura, IJCAI 2020,
    arXiv:2005.00631; more is better. A map that is constant has 0.

    Args:
        model: see `camlib.metrics.average_drop`.
        images: see there.
        heatmaps: see `camlib.metrics.deletion`.
        target: see there.
        score: see there.
        draws: how many sets of pixels, the same for all images.
        size: how many pixels a set has; by default 224, or a quarter of a small image.
        baseline: what is there instead, see `camlib.metrics.deletion`.
        seed: of the draws.
        options: see `camlib.metrics.average_drop`.

    Returns:
        Correlations ``(N,)``, or ``(N, K)`` for several classes a sample.

    Raises:
        InputError: the heatmaps do not fit, or an option has no such value.
        CamlibError: the inputs or the target do not fit the model; see the message.
    """
    measure = FaithfulnessCorrelation(score, draws, size, baseline, seed)
    return measured(measure, model, images, heatmaps, target, **options)
