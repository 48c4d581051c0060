"""How a score changes while pixels are taken away from an image, or brought back.

The order of pixels is that of the map. Maps after a ReLU have large areas of exact zeros: there the
order is random, by a seed, and the same for every image. An order by rows, as sorting gives it,
would take the lower half of the picture first.
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
"""In how many steps an image is taken away where nothing is said, as by the authors of RISE for
datasets: 8 rows of 224 pixels in one step."""


def order_of(maps: Tensor, seed: int) -> Tensor:
    """The places of `maps` ``(R, P)`` by value, highest first, ties in a random order."""
    shuffled = Draws(seed).order(maps.shape[1]).to(maps.device)
    return shuffled[maps[:, shuffled].argsort(dim=1, descending=True, stable=True)]


def ranks_of(given: Given, seed: int) -> Tensor:
    """How many pixels of a map come before each, ``(R, P)``."""

    def make() -> Tensor:
        order = order_of(given.maps.flatten(1), seed)
        numbers = torch.arange(order.shape[1], device=order.device, dtype=torch.int32)
        return torch.empty_like(order, dtype=torch.int32).scatter_(
            1, order, numbers.expand(len(order), -1)
        )

    return given.once(("ranks", seed), make)


@dataclass(frozen=True)
class Blank(Perturbation):
    """Nothing of the image is left."""

    baseline: Baseline

    def count(self, given: Given) -> int:
        """One."""
        return 1

    def images(self, given: Given, rows: Tensor, numbers: Tensor) -> Tensor:
        """The baseline."""
        return baseline_of(given, self.baseline)[given.samples(rows)]


@dataclass(frozen=True)
class Partial(Perturbation):
    """Some of the image is left: what comes first is taken away, or is all that is there."""

    baseline: Baseline
    step: int | None
    seed: int
    insert: bool

    def count(self, given: Given) -> int:
        """Between nothing and everything."""
        return math.ceil(math.prod(given.run.inputs.size) / self.pixels(given)) - 1

    def pixels(self, given: Given) -> int:
        """How many change in a step."""
        return self.step or math.ceil(math.prod(given.run.inputs.size) / STEPS)

    def images(self, given: Given, rows: Tensor, numbers: Tensor) -> Tensor:
        """After ``number + 1`` steps."""
        samples = given.samples(rows)
        before = ranks_of(given, self.seed)[rows] < ((numbers + 1) * self.pixels(given))[:, None]
        image, blank = given.image[samples], baseline_of(given, self.baseline)[samples]
        kept = (before if self.insert else ~before).reshape(-1, 1, *image.shape[2:])
        return torch.where(kept, image, blank)


class Curve(Measure):
    """The score as pixels are taken away or brought back.

    Args:
        score: see `Measure`.
        step: see `deletion`.
        baseline: see `deletion`.
        seed: see `deletion`.
        curve: see `deletion`.

    Raises:
        InputError: an option has no such value.
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
        """The blank image and those between; the clean one is known."""
        partial = Partial(self.baseline, self.step, self.seed, self.insert)
        return ((Blank(self.baseline), self.score), (partial, self.score))

    def values(self, given: Given) -> Tensor:
        """The area under the curve ``(R, K)``, or the curve ``(R, K, points)``."""
        [(blank, _), (partial, _)] = self.needs()
        ends = [given.scores(blank, self.score)[:, 0], given.clean(self.score)]
        first, last = ends if self.insert else ends[::-1]
        between = given.scores(partial, self.score).movedim(1, 2)
        found = torch.cat([first[..., None].to(between), between, last[..., None].to(between)], 2)
        if self.curve:
            return found
        return (found.sum(2) - (found[..., 0] + found[..., -1]) / 2) / (found.shape[2] - 1)


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
    """The area under the score as pixels are deleted, those of the highest values first.

    Petsiuk, Das and Saenko (RISE), BMVC 2018, arXiv:1806.07421; less is better. The curve runs from
    the image to the baseline in equal steps, the last of which may be shorter; its area is that of
    trapezoids over steps of one length, as the authors take it. The number depends on the step:
    compare only what was measured with the same.

    Args:
        model: see `camlib.metrics.average_drop`.
        images: see there.
        heatmaps: one for each image, ``(N, H, W)`` of any values, or attributions
            ``(N, C, H, W)``, which are summed over channels; ``(N, K, ...)`` for several classes.
        target: see there.
        score: see there.
        step: how many pixels go at once; by default 1/28 of them, 8 rows of 224 as the authors
            take for datasets. They take 224 for one image.
        baseline: what is there instead: ``"zero"``, the mean colour of normalised images;
            ``"blur"``; a number; a tensor that broadcasts to the images ``(N, C, H, W)``; or a
            function of them.
        seed: of the order of pixels with equal values, the same for all images.
        curve: return the scores instead of the area.
        options: see `camlib.metrics.average_drop`.

    Returns:
        Areas ``(N,)``, ``(N, K)`` for several classes a sample; with `curve` the scores
        ``(..., points)``, from the image on.

    Raises:
        InputError: the heatmaps do not fit, or an option has no such value.
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
    """The area under the score as pixels come back, those of the highest values first.

    Petsiuk, Das and Saenko (RISE), BMVC 2018, arXiv:1806.07421; more is better. As `deletion` the
    other way round: the curve runs from the baseline, a blurred image, to the image.

    Args:
        model: see `deletion`, as all arguments.
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
        Areas ``(N,)``, ``(N, K)`` for several classes a sample; with `curve` the scores
        ``(..., points)``, from the baseline on.

    Raises:
        CamlibError: see `deletion`.
    """
    measure = Insertion(score, step, baseline, seed, curve)
    return measured(measure, model, images, heatmaps, target, **options)
