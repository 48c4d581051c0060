"""How a score changes when an image is multiplied by its map.

The map multiplies the model's input, so removed parts become the mean colour of the data. Two
things follow. A single bright pixel in a map scaled to [0, 1] darkens all others. And a map of
ones, which explains nothing, has no drop at all. Report `average_drop` together with a metric that
notices it, such as `complexity`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from camlib.errors import InputError
from camlib.metrics.given import Given
from camlib.metrics.measures import Measure, Perturbation, measured
from camlib.targets.classes import Asked


@dataclass(frozen=True)
class Masked(Perturbation):
    """Each image times its map."""

    def count(self, given: Given) -> int:
        """One."""
        return 1

    def images(self, given: Given, rows: Tensor, numbers: Tensor) -> Tensor:
        """``x * M``."""
        image = given.image[given.samples(rows)]
        return image * given.values[rows].to(image.dtype)


class Confidence(Measure):
    """The score of an image that is multiplied by its map.

    Args:
        score: see `Measure`.
        tolerance: see `average_drop`.

    Raises:
        InputError: `tolerance` is below 0.
    """

    name = "average_drop"

    def __init__(self, score: Asked = "probability", tolerance: float = 1e-3) -> None:
        super().__init__(score)
        if not tolerance >= 0:
            raise InputError(f"tolerance={tolerance} is out of range; use 0 or more")
        self.tolerance = tolerance

    def check(self, given: Given) -> None:
        """Refuse maps that are not in [0, 1]."""
        given.check_unit(self.name)

    def needs(self) -> tuple[tuple[Perturbation, Asked], ...]:
        """The image times its map."""
        return ((Masked(), self.score),)

    def both(self, given: Given) -> tuple[Tensor, Tensor]:
        """The scores ``(R, K)`` of the clean and of the masked image, equal up to rounding."""
        clean = given.clean(self.score)
        masked = given.scores(Masked(), self.score)[:, 0].to(clean)
        inside = (clean >= 0) & (clean <= 1)
        margin = self.tolerance * torch.where(inside, clean * (1 - clean), clean.abs())
        if self.tolerance > 0:
            margin = margin + 4 * torch.finfo(clean.dtype).eps * clean.abs()
        whole = (given.values == 1).flatten(1).all(1, keepdim=True)  # the map hides nothing
        same = whole | ((masked - clean).abs() <= margin)
        return clean, clean.where(same, masked)


class AverageDrop(Confidence):
    """See `average_drop`."""

    higher = False

    def check(self, given: Given) -> None:
        """Refuse maps that are not in [0, 1], and scores that are not positive."""
        super().check(given)
        clean = given.clean(self.score)
        if not (clean > 0).all():
            raise InputError(
                f"{self.name} divides by the score; expected a positive one, got "
                f"{float(clean.min()):.3g}; use score='probability', or a target with a positive "
                "score"
            )

    def values(self, given: Given) -> Tensor:
        """``100 max(0, Y - O) / Y``."""
        clean, masked = self.both(given)
        return 100 * (clean - masked).clamp(min=0) / clean


class IncreaseInConfidence(Confidence):
    """See `increase_in_confidence`."""

    name = "increase_in_confidence"
    higher = True

    def values(self, given: Given) -> Tensor:
        """``100 [O > Y]``."""
        clean, masked = self.both(given)
        return 100 * (masked > clean).to(clean.dtype)


class AverageGain(Confidence):
    """See `average_gain`."""

    name = "average_gain"
    higher = True

    def check(self, given: Given) -> None:
        """Refuse maps that are not in [0, 1], and scores above 1."""
        super().check(given)
        clean = given.clean(self.score)
        if (clean > 1).any():
            raise InputError(
                f"{self.name} divides by 1 - p; expected a probability p, got a score of "
                f"{float(clean.max()):.3g}; use score='probability'"
            )

    def values(self, given: Given) -> Tensor:
        """``100 max(0, O - Y) / (1 - Y)``."""
        clean, masked = self.both(given)
        gain = (masked - clean).clamp(min=0)
        return 100 * gain / (1 - clean).where(gain > 0, 1)


def average_drop(
    model: nn.Module,
    images: Any,
    heatmaps: Tensor,
    target: Any = None,
    *,
    score: Asked = "probability",
    tolerance: float = 1e-3,
    **options: Any,
) -> Tensor:
    """The percentage of its score that an image loses when it is multiplied by its map.

    ``100 max(0, Y - O) / Y``, with ``Y = p_c(x)`` and ``O = p_c(x * M)``; less is better. Its mean
    over images is the average drop of Chattopadhyay et al., WACV 2018, arXiv:1710.11063, section
    4.1. Score-CAM's paper mutes half of the pixels first, so its numbers cannot be compared.

    Args:
        model: any network; it is left unchanged.
        images: see `camlib.Method.__call__`.
        heatmaps: one for each image, ``(N, H, W)`` in [0, 1]; with several classes per sample,
            ``(N, K, H, W)`` or one map for all of them.
        target: see `camlib.Method.__call__`; ``None`` for the class predicted for the clean image.
        score: ``"probability"`` (softmax) or ``"logit"`` of the class. Other targets, such as a
            function, stay unchanged. If the model itself returns probabilities, use ``"logit"``,
            which takes the model's output.
        tolerance: the largest difference of log-odds that counts as none, because batches of other
            sizes round differently; for scores outside [0, 1], the largest relative difference.
        options: `batch_size`, the number of images at once (by default, as many as fit into
            memory); `progress`, which wraps the loop over batches; and `image`, `image_layout` and
            `eval`, see `camlib.methods.calling.Calling`.

    Returns:
        Percentages ``(N,)``, or ``(N, K)`` for several classes per sample; exactly 0 for a map of
        ones.

    Raises:
        InputError: the heatmaps do not fit or are not in [0, 1], or a score is not positive.
        CamlibError: the inputs or the target do not fit the model; see the message.
    """
    return measured(AverageDrop(score, tolerance), model, images, heatmaps, target, **options)


def increase_in_confidence(
    model: nn.Module,
    images: Any,
    heatmaps: Tensor,
    target: Any = None,
    *,
    score: Asked = "probability",
    tolerance: float = 1e-3,
    **options: Any,
) -> Tensor:
    """100 if an image multiplied by its map has a higher score than the image, else 0.

    ``100 [O > Y]``, in the symbols of `average_drop`; more is better. Its mean over images is the
    rate of increase in confidence of Chattopadhyay et al., WACV 2018, arXiv:1710.11063, section
    4.1. Without a tolerance, rounding alone gives a map of ones a rate of up to one half.

    Args:
        model: see `average_drop`, as for all arguments.
        images: see there.
        heatmaps: see there.
        target: see there.
        score: see there.
        tolerance: see there.
        options: see there.

    Returns:
        Percentages ``(N,)``, or ``(N, K)`` for several classes per sample.

    Raises:
        CamlibError: see `average_drop`.
    """
    measure = IncreaseInConfidence(score, tolerance)
    return measured(measure, model, images, heatmaps, target, **options)


def average_gain(
    model: nn.Module,
    images: Any,
    heatmaps: Tensor,
    target: Any = None,
    *,
    score: Asked = "probability",
    tolerance: float = 1e-3,
    **options: Any,
) -> Tensor:
    """The percentage of the possible gain in probability that an image gains by its map.

    ``100 max(0, O - Y) / (1 - Y)``, in the symbols of `average_drop`; more is better. Zhang et al.,
    Opti-CAM, CVIU 2024, arXiv:2301.07002.

    Args:
        model: see `average_drop`, as for all arguments.
        images: see there.
        heatmaps: see there.
        target: see there.
        score: see there.
        tolerance: see there.
        options: see there.

    Returns:
        Percentages ``(N,)``, or ``(N, K)`` for several classes per sample.

    Raises:
        InputError: a score is above 1; see also `average_drop`.
    """
    return measured(AverageGain(score, tolerance), model, images, heatmaps, target, **options)
