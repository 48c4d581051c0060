"""How a score changes where an image is multiplied by its map.

Soft masks multiply the image as the model gets it, so what is removed becomes the mean colour of
the data. Two things follow. One bright pixel in a map scaled to [0, 1] darkens all others. And a
map of ones, which explains nothing, has no drop at all: report `average_drop` beside a metric that
sees it, such as `complexity`.
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
    """What becomes of the score of an image that is multiplied by its map.

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
        margin = margin + 4 * torch.finfo(clean.dtype).eps * clean.abs() * (self.tolerance > 0)
        whole = (given.values == 1).flatten(1).all(1, keepdim=True)  # nothing is hidden
        same = whole | ((masked - clean).abs() <= margin)
        return clean, clean.where(same, masked)


class AverageDrop(Confidence):
    """See `average_drop`."""

    higher = False

    def check(self, given: Given) -> None:
        """Refuse maps that are not in [0, 1], and scores that nothing can be a share of."""
        super().check(given)
        clean = given.clean(self.score)
        if not (clean > 0).all():
            raise InputError(
                f"{self.name} divides by the score, which has to be positive, got "
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
                f"{self.name} divides by what a probability lacks to 1, got a score of "
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
    """How many percent of its score an image loses where it is multiplied by its map.

    ``100 max(0, Y - O) / Y``, with ``Y = p_c(x)`` and ``O = p_c(x * M)``; less is better. Its mean
    over images is the average drop of Chattopadhyay et al., WACV 2018, arXiv:1710.11063, section
    4.1. Score-CAM's paper mutes half of the pixels first; its numbers cannot be compared.

    Args:
        model: any network; it is left as found.
        images: see `camlib.Method.__call__`.
        heatmaps: one for each image, ``(N, H, W)`` in [0, 1]; ``(N, K, H, W)`` for several
            classes a sample, or one for all of them.
        target: see `camlib.Method.__call__`; ``None`` for the class predicted for the clean image.
        score: ``"probability"`` (softmax) or ``"logit"`` of the class. Other targets, such as a
            function, are taken as they are. Where the model returns probabilities already, use
            ``"logit"``, which takes what it returns.
        tolerance: differences of the log-odds up to this one count as none, since a batch of
            another size is rounded otherwise; of scores outside [0, 1], relative differences.
        options: `batch_size`, how many images the model sees at once (by default what fits into
            memory); `progress`, which wraps the loop over batches; and `image`, `image_layout` and
            `eval`, see `camlib.methods.calling.Calling`.

    Returns:
        Percents ``(N,)``, or ``(N, K)`` for several classes a sample. A map of ones has exactly 0.

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
    """100 where an image multiplied by its map has a higher score than the image, else 0.

    ``100 [O > Y]``, in the words of `average_drop`; more is better. Its mean over images is the
    rate of increase in confidence of Chattopadhyay et al., WACV 2018, arXiv:1710.11063, section
    4.1. Without a tolerance, rounding alone gives a map of ones a rate of up to a half.

    Args:
        model: see `average_drop`, as all arguments.
        images: see there.
        heatmaps: see there.
        target: see there.
        score: see there.
        tolerance: see there.
        options: see there.

    Returns:
        Percents ``(N,)``, or ``(N, K)`` for several classes a sample.

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
    """How many percent of what its probability lacks to 1 an image gains by its map.

    ``100 max(0, O - Y) / (1 - Y)``, in the words of `average_drop`; more is better. Zhang et al.,
    Opti-CAM, CVIU 2024, arXiv:2301.07002.

    Args:
        model: see `average_drop`, as all arguments.
        images: see there.
        heatmaps: see there.
        target: see there.
        score: see there.
        tolerance: see there.
        options: see there.

    Returns:
        Percents ``(N,)``, or ``(N, K)`` for several classes a sample.

    Raises:
        InputError: a score is above 1; see also `average_drop`.
    """
    return measured(AverageGain(score, tolerance), model, images, heatmaps, target, **options)
