"""Targets for single classes: Category, Probability, LogProbability, Counterfactual, TopK."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from camlib.errors import TargetError
from camlib.maps import precise
from camlib.options import Count, checked
from camlib.targets.base import Target
from camlib.targets.binary import both, predicted
from camlib.targets.forms import Classes, classes_in
from camlib.targets.outputs import logits


class ClassTarget(Target):
    """A score for each class.

    A model with a single output ``y`` has two classes: 1 ("yes"), whose logit is ``y``, and 0
    ("no"), whose logit is ``-y``. It predicts 1 if ``y`` is above 0, or from 0.5 on if it ends in a
    sigmoid.

    Args:
        classes: ``None`` (the predicted class), a class for all samples, one for each sample, or
            several for each, ``(N, K)`` or ``(1, K)``.
    """

    per_sample = ("classes",)

    def __init__(self, classes: Classes = None) -> None:
        self.classes: Tensor = classes

    def resolve(self, output: Any, count: int, size: tuple[int, ...]) -> Target:
        """The target with class indices."""
        scores = logits(output, count)
        if self.classes is None:
            return self.replaced(classes=predicted(scores))
        return self.replaced(classes=classes_in(both(scores), self.classes))

    def __call__(self, output: Any) -> Tensor:
        """The scores of the classes, shaped like `classes`."""
        raw = logits(output, len(self.classes))
        if raw.shape[1] == 1:
            return picked(torch.cat([self.scores(-raw), self.scores(raw)], 1), self.classes)
        return picked(self.scores(raw), self.classes)

    @abstractmethod
    def scores(self, logits: Tensor) -> Tensor:
        """The score of every class, with the shape of `logits` ``(N, classes)``.

        For a single output it is called once for each class, with that class's logit ``(N, 1)``.
        """


class Category(ClassTarget):
    """The output of a class, before softmax.

    Args:
        classes: see `ClassTarget`.
    """

    def scores(self, logits: Tensor) -> Tensor:
        """The logits."""
        return logits


class Probability(ClassTarget):
    """The probability of a class.

    Args:
        classes: see `ClassTarget`.
        activation: ``"softmax"`` over all classes, or ``"sigmoid"`` of the class's own output; a
            single output always gets a sigmoid.
    """

    @checked
    def __init__(
        self, classes: Classes = None, activation: Literal["softmax", "sigmoid"] = "softmax"
    ) -> None:
        super().__init__(classes)
        self.activation = activation

    def scores(self, logits: Tensor) -> Tensor:
        """The probabilities, in float32 or better."""
        logits = precise(logits)
        softmax = self.activation == "softmax" and logits.shape[1] > 1
        return logits.softmax(1) if softmax else logits.sigmoid()


class LogProbability(ClassTarget):
    """The logarithm of a class's softmax probability, or of its sigmoid for a single output.

    Args:
        classes: see `ClassTarget`.
    """

    def scores(self, logits: Tensor) -> Tensor:
        """The logarithms of the probabilities, in float32 or better."""
        logits = precise(logits)
        return logits.log_softmax(1) if logits.shape[1] > 1 else F.logsigmoid(logits)


class Counterfactual(ClassTarget):
    """The evidence against a class, score ``-y_c``.

    Selvaraju et al., ICCV 2017, arXiv:1610.02391, counterfactual explanations: the regions that
    would make the network change its answer.

    Args:
        classes: see `ClassTarget`.
    """

    def scores(self, logits: Tensor) -> Tensor:
        """The logits, negated."""
        return -logits


class TopK(Target):
    """The outputs of the ``k`` best classes, ``(N, k)``, the best first.

    A single output has two classes; see `ClassTarget`.

    Args:
        k: the number of classes.
    """

    @checked
    def __init__(self, k: Count) -> None:
        self.k = k

    def resolve(self, output: Any, count: int, size: tuple[int, ...]) -> Category:
        """The best classes on the clean output."""
        scores = logits(output, count)
        available = max(scores.shape[1], 2)
        if self.k > available:
            raise TargetError(
                f"k={self.k} is too large: the model has {available} classes; pass k={available} "
                "or less"
            )
        if scores.shape[1] == 1:
            best = predicted(scores)
            return Category(torch.stack([best, 1 - best], 1)[:, : self.k])
        return Category(scores.detach().topk(self.k, 1).indices)

    def __call__(self, output: Any) -> Tensor:
        """The highest scores of each sample, ``(N, k)``."""
        return self.resolve(output, len(logits(output)), ())(output)


Asked = Literal["probability", "logit"]
"""The score of a class: its softmax probability, or its output before that."""


def asked_as(target: Target, score: Asked) -> Target:
    """The resolved `target`; a `Category` becomes a `Probability` if `score` says so."""
    probable = isinstance(target, Category) and score == "probability"
    return Probability(target.classes) if probable else target


def picked(scores: Tensor, classes: Tensor) -> Tensor:
    """The `scores` ``(N, C)`` of `classes` ``(N,)`` or ``(N, K)``, shaped like `classes`."""
    chosen = scores.gather(1, classes.reshape(len(classes), -1).to(scores.device))
    return chosen.reshape(classes.shape)
