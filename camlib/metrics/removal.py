"""ROAD: how a score changes when pixels are removed and imputed, without leaving a visible hole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from camlib.draws import Draws
from camlib.errors import InputError
from camlib.metrics.curves import ranks_of
from camlib.metrics.given import Given
from camlib.metrics.imputation import imputed
from camlib.metrics.measures import Measure, Perturbation, measured
from camlib.targets.classes import Asked

Order = Literal["most", "least", "combined"]
"""The pixels that are removed first: the most relevant, the least relevant, or both separately."""

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""The shares of an image that are removed."""


@dataclass(frozen=True)
class Imputed(Perturbation):
    """Images with some pixels imputed from the others."""

    most: bool
    shares: tuple[float, ...]
    noise: float
    seed: int

    def count(self, given: Given) -> int:
        """One for each share."""
        return len(self.shares)

    def images(self, given: Given, rows: Tensor, numbers: Tensor) -> Tensor:
        """The imputed images, with noise on imputed pixels."""
        image = given.image[given.samples(rows)]
        pixels = math.prod(image.shape[2:])
        removed = torch.tensor([round(share * pixels) for share in self.shares], device=rows.device)
        ranks = ranks_of(given, self.seed)[rows]
        ranks = ranks if self.most else pixels - 1 - ranks
        missing = (ranks < removed[numbers][:, None]).reshape(-1, 1, *image.shape[2:])
        # With noise, a larger error of the imputation does not show.
        filled = imputed(image, missing, 1e-4 if self.noise else 1e-7)
        return torch.where(missing, filled + self.noise * self._draws(given), filled)

    def _draws(self, given: Given) -> Tensor:
        """Normal numbers ``(C, H, W)``, the same for all images."""
        draws = Draws(self.seed).normal(*given.image.shape[1:])
        return given.once(("draws", self.seed), lambda: draws.to(given.image))


class Road(Measure):
    """See `road`."""

    higher = True

    def __init__(
        self,
        score: Asked = "probability",
        order: Order = "combined",
        shares: Sequence[float] = SHARES,
        noise: float = 0.01,
        seed: int = 0,
        curve: bool = False,
    ) -> None:
        super().__init__(score)
        if order not in ("most", "least", "combined"):
            raise InputError(f"order={order!r} is not known; use 'most', 'least' or 'combined'")
        if not shares or not all(0 < share < 1 for share in shares):
            raise InputError(f"shares={shares!r} are out of range; use numbers above 0 and below 1")
        if not noise >= 0:
            raise InputError(f"noise={noise} is out of range; use 0 or more")
        self.order = order
        self.curve = curve
        self.most, self.least = (
            Imputed(most, tuple(shares), noise, seed) for most in (True, False)
        )

    def check(self, given: Given) -> None:
        """Refuse inputs that are not pictures."""
        if given.image.ndim != 4:
            raise InputError(
                f"road needs pictures of two axes, got inputs of size {given.run.inputs.size}; "
                "use deletion or insertion"
            )

    def needs(self) -> tuple[tuple[Perturbation, Asked], ...]:
        """The imputed images in one order, or in both."""
        orders = {"most": [self.most], "least": [self.least]}
        return tuple((each, self.score) for each in orders.get(self.order, [self.least, self.most]))

    def values(self, given: Given) -> Tensor:
        """The mean score ``(R, K)``, or half the difference; the curve ``(R, K, shares)``."""
        scores = [given.scores(each, self.score) for each, _ in self.needs()]
        curve = scores[0] if len(scores) == 1 else (scores[0] - scores[1]) / 2
        return curve.movedim(1, 2) if self.curve else curve.mean(1)


def road(
    model: nn.Module,
    images: Any,
    heatmaps: Tensor,
    target: Any = None,
    *,
    score: Asked = "probability",
    order: Order = "combined",
    shares: Sequence[float] = SHARES,
    noise: float = 0.01,
    seed: int = 0,
    curve: bool = False,
    **options: Any,
) -> Tensor:
    """The score after pixels are removed and imputed from their neighbours (ROAD).

    Rong et al., ICML 2022, arXiv:2202.00449. Pixels that are set to a colour leave a hole, and a
    model may read its shape. A weighted mean of neighbours, for all missing pixels at once and with
    a little noise, leaves no hole. The two orders are combined as in the library `grad-cam`:
    ``(least - most) / 2``, which cancels the cost of the imputation itself; more is better.

    Args:
        model: see `camlib.metrics.average_drop`.
        images: see there; pictures of two axes.
        heatmaps: see `camlib.metrics.deletion`.
        target: see there.
        score: see there.
        order: ``"most"`` removes the most relevant pixels first (a low score is good), ``"least"``
            the least relevant (a high score is good); ``"combined"`` is half their difference.
        shares: the shares of the image to remove, above 0 and below 1.
        noise: the standard deviation of the noise, in units of the model's input.
        seed: the seed of the noise and of the order of equal values, the same for all images.
        curve: whether to return the value at each of `shares` instead of their mean.
        options: see `camlib.metrics.average_drop`.

    Returns:
        Scores or differences ``(N,)``, or ``(N, K)`` for several classes per sample; with `curve`,
        ``(..., shares)``.

    Raises:
        InputError: the heatmaps do not fit, or an option has an invalid value.
        CamlibError: the inputs or the target do not fit the model; see the message.
    """
    measure = Road(score, order, shares, noise, seed, curve)
    return measured(measure, model, images, heatmaps, target, **options)
