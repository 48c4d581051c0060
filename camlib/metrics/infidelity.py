"""By how much a map misses what the score loses.

The scale of a class activation map is arbitrary: the best one is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from camlib.draws import Draws
from camlib.errors import InputError
from camlib.metrics.given import Given
from camlib.metrics.measures import Measure, Perturbation, measured
from camlib.options import Count, Seed, checked
from camlib.targets.classes import Asked

Change = Literal["gaussian", "square"] | Callable[[Tensor, int], Tensor]
"""What is taken from an image: noise, a square with all that is in it, or what a function returns
for the images ``(M, C, *size)`` and the number of the draw."""


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
                draws = Draws(self.seed + number)
                draw = draws.normal(*image.shape[1:], dtype=torch.float64)
                found[own] = (self.scale * draw).to(image)
        return found

    def _squares(self, given: Given) -> Tensor:
        """Which pixels each draw takes, bool ``(draws, *size)``."""

        def make() -> Tensor:
            size = given.run.inputs.size
            draws = Draws(self.seed)
            inside = torch.ones(self.draws, *size, dtype=torch.bool, device="cpu")
            for axis, length in enumerate(size):
                side = min(self.side or max(length // 7, 1), length)
                start = draws.numbers(length - side + 1, self.draws, 1)
                apart = torch.arange(length, device="cpu") - start
                line = (apart >= 0) & (apart < side)
                inside &= line.reshape(
                    self.draws, *[-1 if a == axis else 1 for a in range(len(size))]
                )
            return inside.to(given.image.device)

        return given.once(self, make)


class Infidelity(Measure):
    """See `infidelity`."""

    higher = False

    @checked
    def __init__(
        self,
        score: Asked = "logit",
        change: Change = "square",
        draws: Count = 100,
        scale: float = 0.2,
        side: Count | None = None,
        normalize: bool = True,
        seed: Seed = 0,
    ) -> None:
        super().__init__(score)
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
