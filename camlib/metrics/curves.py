"""Deletion and insertion: how a score changes as pixels are removed from an image, or come back.

Pixels are ordered by the map. Maps after a ReLU have large areas of exact zeros. There the order is
random, with a seed, and the same for every image. Sorting would order them by rows, so that one
half of the picture would go first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from camlib.draws import Draws
from camlib.errors import InputError
from camlib.metrics.baselines import Baseline, baseline_of
from camlib.metrics.given import Given
from camlib.metrics.measures import Measure, Perturbation, measured
from camlib.options import Count, Seed, checked
from camlib.targets.classes import Asked

STEPS = 28
"""The default number of steps, which the authors of RISE use for datasets: 8 rows of 224 pixels in
each step."""


def order_of(maps: Tensor, seed: int) -> Tensor:
    """The places of `maps` ``(R, P)`` by value, the highest first, with ties in random order."""
    shuffled = Draws(seed).order(maps.shape[1]).to(maps.device)
    return shuffled[maps[:, shuffled].argsort(dim=1, descending=True, stable=True)]


def ranks_of(given: Given, seed: int) -> Tensor:
    """The number of pixels before each pixel of a map, ``(R, P)``."""

    def make() -> Tensor:
        order = order_of(given.maps.flatten(1), seed)
        numbers = torch.arange(order.shape[1], device=order.device, dtype=torch.int32)
        return torch.empty_like(order, dtype=torch.int32).scatter_(
            1, order, numbers.expand(len(order), -1)
        )

    return given.once(("ranks", seed), make)


@dataclass(frozen=True)
class Blank(Perturbation):
    """The baseline, with nothing of the image."""

    baseline: Baseline

    def count(self, given: Given) -> int:
        """One."""
        return 1

    def images(self, given: Given, rows: Tensor, numbers: Tensor) -> Tensor:
        """The baseline."""
        return baseline_of(given, self.baseline)[given.samples(rows)]


@dataclass(frozen=True)
class Partial(Perturbation):
    """A part of the image: the first pixels are removed, or are all that is there."""

    baseline: Baseline
    step: int | None
    seed: int
    insert: bool

    def count(self, given: Given) -> int:
        """The number of steps between nothing and everything."""
        return math.ceil(math.prod(given.run.inputs.size) / self.pixels(given)) - 1

    def pixels(self, given: Given) -> int:
        """The number of pixels in a step."""
        return self.step or math.ceil(math.prod(given.run.inputs.size) / STEPS)

    def images(self, given: Given, rows: Tensor, numbers: Tensor) -> Tensor:
        """The images after ``number + 1`` steps."""
        samples = given.samples(rows)
        before = ranks_of(given, self.seed)[rows] < ((numbers + 1) * self.pixels(given))[:, None]
        image, blank = given.image[samples], baseline_of(given, self.baseline)[samples]
        kept = (before if self.insert else ~before).reshape(-1, 1, *image.shape[2:])
        return torch.where(kept, image, blank)


class Curve(Measure):
    """The score as pixels are removed or come back.

    Args:
        score: see `Measure`.
        step: see `deletion`.
        baseline: see `deletion`.
        seed: see `deletion`.
        curve: see `deletion`.

    Raises:
        InputError: an option has an invalid value.
    """

    insert = False
    usual: Baseline = "zero"

    @checked
    def __init__(
        self,
        score: Asked = "probability",
        step: Count | None = None,
        baseline: Baseline | None = None,
        seed: Seed = 0,
        curve: bool = False,
    ) -> None:
        super().__init__(score)
        if isinstance(baseline, str) and baseline not in ("zero", "blur"):
            raise InputError(
                f"baseline={baseline!r} is not known; use 'zero', 'blur', a number, a tensor or a "
                "function of the images"
            )
        self.step = step
        self.baseline = self.usual if baseline is None else baseline
        self.seed = seed
        self.curve = curve

    def needs(self) -> tuple[tuple[Perturbation, Asked], ...]:
        """The baseline and the steps between; the clean scores are known."""
        partial = Partial(self.baseline, self.step, self.seed, self.insert)
        return ((Blank(self.baseline), self.score), (partial, self.score))

    def values(self, given: Given) -> Tensor:
        """The area under the curve ``(R, K)``, or the curve ``(R, K, points)``."""
        [(blank, _), (partial, _)] = self.needs()
        ends = [given.scores(blank, self.score)[:, 0], given.clean(self.score)]
        first, last = ends if self.insert else ends[::-1]
        between = given.scores(partial, self.score).movedim(1, 2)
        curve = torch.cat([first[..., None].to(between), between, last[..., None].to(between)], 2)
        if self.curve:
            return curve
        return (curve.sum(2) - (curve[..., 0] + curve[..., -1]) / 2) / (curve.shape[2] - 1)


class Deletion(Curve):
    """See `deletion`."""

    higher = False


class Insertion(Curve):
    """See `insertion`."""

    higher = True
    insert = True
    usual = "blur"


def deletion(
    model: nn.Module,
    images: Any,
    heatmaps: Tensor,
    target: Any = None,
    *,
    score: Asked = "probability",
    step: int | None = None,
    baseline: Baseline = "zero",
    seed: int = 0,
    curve: bool = False,
    **options: Any,
) -> Tensor:
    """The area under the score as pixels are deleted, the highest values first.

    Petsiuk, Das and Saenko (RISE), BMVC 2018, arXiv:1806.07421; less is better. The curve runs from
    the image to the baseline in equal steps; the last may be shorter. The area is that of
    trapezoids over steps of equal length, as in the authors' code. It depends on the step, so
    compare only values with the same step.

    Args:
        model: see `camlib.metrics.average_drop`.
        images: see there.
        heatmaps: one for each image, ``(N, H, W)`` of any values, or attributions
            ``(N, C, H, W)``, which are summed over channels; ``(N, K, ...)`` for several classes.
        target: see there.
        score: see there.
        step: the number of pixels in a step; by default 1/28 of them, 8 rows of 224, as the authors
            use for datasets. For a single image they use 224.
        baseline: the values that replace pixels: ``"zero"``, the mean colour of normalised images;
            ``"blur"``; a number; a tensor that broadcasts to the images ``(N, C, H, W)``; or a
            function of them.
        seed: the seed for the order of equal values, the same for all images.
        curve: whether to return the scores instead of the area.
        options: see `camlib.metrics.average_drop`.

    Returns:
        Areas ``(N,)``, or ``(N, K)`` for several classes per sample; with `curve`, the scores
        ``(..., points)``, from the image on.

    Raises:
        InputError: the heatmaps do not fit, or an option has an invalid value.
        CamlibError: the inputs or the target do not fit the model; see the message.
    """
    measure = Deletion(score, step, baseline, seed, curve)
    return measured(measure, model, images, heatmaps, target, **options)


def insertion(
    model: nn.Module,
    images: Any,
    heatmaps: Tensor,
    target: Any = None,
    *,
    score: Asked = "probability",
    step: int | None = None,
    baseline: Baseline = "blur",
    seed: int = 0,
    curve: bool = False,
    **options: Any,
) -> Tensor:
    """The area under the score as pixels come back, the highest values first.

    Petsiuk, Das and Saenko (RISE), BMVC 2018, arXiv:1806.07421; more is better. It is the reverse
    of `deletion`: the curve runs from the baseline, a blurred image, to the image.

    Args:
        model: see `deletion`, as for all arguments.
        images: see there.
        heatmaps: see there.
        target: see there.
        score: see there.
        step: see there.
        baseline: see there.
        seed: see there.
        curve: see there.
        options: see there.

    Returns:
        Areas ``(N,)``, or ``(N, K)`` for several classes per sample; with `curve`, the scores
        ``(..., points)``, from the baseline on.

    Raises:
        CamlibError: see `deletion`.
    """
    measure = Insertion(score, step, baseline, seed, curve)
    return measured(measure, model, images, heatmaps, target, **options)
