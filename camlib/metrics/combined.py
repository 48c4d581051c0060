"""Metrics that are a harmonic mean of others, so that each part must be good."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from camlib.metrics.complexity import Complexity
from camlib.metrics.confidence import AverageDrop
from camlib.metrics.given import Given
from camlib.metrics.measures import Measure, Perturbation, measured
from camlib.metrics.removal import SHARES, Road
from camlib.metrics.stability import Coherency, Explainer
from camlib.targets.classes import Asked


class Harmonic(Measure):
    """The harmonic mean of coherency, ``1 - complexity`` and a third metric."""

    higher = True
    third: Measure

    def __init__(self, method: Explainer | None = None, score: Asked = "probability") -> None:
        super().__init__(score)
        self.coherency = Coherency(method)
        self.complexity = Complexity()

    def check(self, given: Given) -> None:
        """Refuse maps and scores that one of the three refuses."""
        for each in (self.coherency, self.complexity, self.third):
            each.check(given)

    def needs(self) -> tuple[tuple[Perturbation, Asked], ...]:
        """The images of the third; the second needs none, and the first runs its own passes."""
        return self.third.needs()

    def values(self, given: Given) -> Tensor:
        """``3 / (1 / Coh + 1 / (1 - Com) + 1 / third)``."""
        third = self.of_third(self.third.values(given))
        parts = [self.coherency.values(given), 1 - self.complexity.values(given), third]
        every = torch.stack([part.to(third) for part in parts])
        # If a part is 0, its reciprocal is infinite and the mean 0.
        return 3 / every.clamp(min=0).reciprocal().sum(0)

    def of_third(self, values: Tensor) -> Tensor:
        """The third part in [0, 1] from its `values`."""
        return values


class ADCC(Harmonic):
    """See `adcc`."""

    def __init__(self, method: Explainer | None = None, score: Asked = "probability") -> None:
        super().__init__(method, score)
        self.third = AverageDrop(score)

    def of_third(self, values: Tensor) -> Tensor:
        """``1 - AD``, from percent."""
        return 1 - values / 100


class ARCC(Harmonic):
    """See `arcc`."""

    def __init__(
        self,
        method: Explainer | None = None,
        score: Asked = "probability",
        shares: Sequence[float] = SHARES,
        noise: float = 0.01,
        seed: int = 0,
    ) -> None:
        super().__init__(method, score)
        self.third = Road(score, "combined", shares, noise, seed)

    def of_third(self, values: Tensor) -> Tensor:
        """Twice the difference, clipped to [0, 1]."""
        return (2 * values).clamp(0, 1)


def adcc(
    model: nn.Module,
    images: Any,
    heatmaps: Tensor,
    target: Any = None,
    *,
    method: Explainer,
    score: Asked = "probability",
    **options: Any,
) -> Tensor:
    """Average drop, coherency and complexity in one number; more is better.

    ``3 / (1 / Coh + 1 / (1 - Com) + 1 / (1 - AD))``. Poppi et al., CVPR Workshops 2021,
    arXiv:2104.10252. The paper averages each part over images first; here the value is for each
    image, and 0 if one part is 0. The authors' code takes the drop from the highest probability
    even if another class is explained; here it is from the class's own. Complexity weighs heavily:
    small maps win.

    Args:
        model: see `camlib.metrics.average_drop`.
        images: see there.
        heatmaps: see there.
        target: see there.
        method: see `camlib.metrics.coherency`.
        score: see `camlib.metrics.average_drop`.
        options: see there.

    Returns:
        Values ``(N,)`` in [0, 1], or ``(N, K)`` for several classes per sample.

    Raises:
        InputError: the heatmaps do not fit or are not in [0, 1], or a score is not positive.
        CamlibError: the inputs or the target do not fit the model; see the message.
    """
    return measured(ADCC(method, score), model, images, heatmaps, target, **options)


def arcc(
    model: nn.Module,
    images: Any,
    heatmaps: Tensor,
    target: Any = None,
    *,
    method: Explainer,
    score: Asked = "probability",
    shares: Sequence[float] = SHARES,
    noise: float = 0.01,
    seed: int = 0,
    **options: Any,
) -> Tensor:
    """ROAD, coherency and complexity in one number; more is better.

    ``3 / (1 / Coh + 1 / (1 - Com) + 1 / min(1, max(0, 2 ROAD)))``. Domeniconi et al., 2026,
    arXiv:2605.14641. Like `adcc`, with the combined `road` instead of the average drop, for which a
    map of ones is best. It is 0 if one part is 0.

    Args:
        model: see `camlib.metrics.average_drop`.
        images: see there.
        heatmaps: see there.
        target: see there.
        method: see `camlib.metrics.coherency`.
        score: see `camlib.metrics.average_drop`.
        shares: see `camlib.metrics.road`.
        noise: see `camlib.metrics.road`.
        seed: see `camlib.metrics.road`.
        options: see `camlib.metrics.average_drop`.

    Returns:
        Values ``(N,)`` in [0, 1], or ``(N, K)`` for several classes per sample.

    Raises:
        InputError: the heatmaps do not fit or are not in [0, 1].
        CamlibError: the inputs or the target do not fit the model; see the message.
    """
    measure = ARCC(method, score, shares, noise, seed)
    return measured(measure, model, images, heatmaps, target, **options)
