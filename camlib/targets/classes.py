"""Targets of one class at a time."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from camlib.errors import InputError, TargetError
from camlib.maps import precise
from camlib.options import is_whole
from camlib.targets.base import Target
from camlib.targets.binary import both, predicted
from camlib.targets.forms import Classes, classes_in
from camlib.targets.outputs import logits


class ClassTarget(Target):
    """A score of each class, for the classes asked for.

    A model with a single output ``y`` has two classes: 1 ("yes"), whose logit is ``y``, and 0
    ("no"), whose logit is ``-y``. It predicts 1 where ``y`` is above 0, or from 0.5 on if it ends
    in a sigmoid.

    Args:
        classes: ``None`` (the predicted class), a class for all samples, one a sample, several a
            sample ``(N, K)`` or ``(1, K)``.
    """

    per_sample = ("classes",)

    def __init__(self, classes: Classes = None) -> None:
        self.classes: Tensor = classes

    def settled(self, output: Any, count: int, size: tuple[int, ...]) -> Target:
        """The target of class indices."""
        scores = logits(output, count)
        if self.classes is None:
            return self.replaced(classes=predicted(scores))
        return self.replaced(classes=classes_in(both(scores), self.classes))

    def __call__(self, output: Any) -> Tensor:
        """The scores of the classes, shaped like `classes`."""
        found = logits(output, len(self.classes))
        if found.shape[1] == 1:
            return picked(torch.cat([self.scores(-found), self.scores(found)], 1), self.classes)
        return picked(self.scores(found), self.classes)

    @abstractmethod
    def scores(self, logits: Tensor) -> Tensor:
        """The score of every class, from the `logits` ``(N, classes)``, of the same shape.

        Of a single output, ``(N, 1)``, it is asked once for each class, with the logit of that.
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
        activation: ``"softmax"`` over all classes, or ``"sigmoid"`` of the class's own output, as
            always of a single one.

    Raises:
        InputError: `activation` is not known.
    """

    def __init__(
        self, classes: Classes = None, activation: Literal["softmax", "sigmoid"] = "softmax"
    ) -> None:
        check_activation(activation)
        super().__init__(classes)
        self.activation = activation

    def scores(self, logits: Tensor) -> Tensor:
        """The probabilities, in float32 at least."""
        logits = precise(logits)
        softmax = self.activation == "softmax" and logits.shape[1] > 1
        return logits.softmax(1) if softmax else logits.sigmoid()


class LogProbability(ClassTarget):
    """The logarithm of a class's softmax probability; of its sigmoid, if the output is single.

    Args:
        classes: see `ClassTarget`.
    """

    def scores(self, logits: Tensor) -> Tensor:
        """The logarithms of the probabilities, in float32 at least."""
        logits = precise(logits)
        return logits.log_softmax(1) if logits.shape[1] > 1 else F.logsigmoid(logits)


class Counterfactual(ClassTarget):
    """What speaks against a class, score ``-y_c``.

    Selvaraju et al., ICCV 2017, arXiv:1610.02391, counterfactual explanations: the regions that
    would make the network change its answer.

    Args:
        classes: see `ClassTarget`.
    """

    def scores(self, logits: Tensor) -> Tensor:
        """The logits, negated."""
        return -logits


class TopK(Target):
    """The outputs of the best classes, ``(N, k)``, best first; see `ClassTarget` for single ones.

    Args:
        k: how many.

    Raises:
        InputError: `k` is no whole number from 1 on.
    """

    def __init__(self, k: int) -> None:
        if not is_whole(k):
            raise InputError(f"k={k!r} is no number of classes; use 1, 2, 3, ...")
        if k < 1:
            raise InputError(f"k={k!r} leaves no class; use 1 or more")
        self.k = k

    def settled(self, output: Any, count: int, size: tuple[int, ...]) -> Category:
        """The classes that are best on the clean output."""
        scores = logits(output, count)
        available = max(scores.shape[1], 2)
        if self.k > available:
            raise TargetError(
                f"k={self.k} asks for more than there are: the model has {available} classes"
            )
        if scores.shape[1] == 1:
            best = predicted(scores)
            return Category(torch.stack([best, 1 - best], 1)[:, : self.k])
        return Category(scores.detach().topk(self.k, 1).indices)

    def __call__(self, output: Any) -> Tensor:
        """The highest scores of each sample, ``(N, k)``."""
        return self.settled(output, len(logits(output)), ())(output)


Asked = Literal["probability", "logit"]
"""What of a class: its softmax probability, or its output before that."""


def asked_as(target: Target, score: Asked) -> Target:
    """`target`, settled, with a `Category` asked about by `score`."""
    probable = isinstance(target, Category) and score == "probability"
    return Probability(target.classes) if probable else target


def check_asked(score: str) -> None:
    """Nothing, if `score` is one.

    Raises:
        InputError: it is not.
    """
    if score not in ("probability", "logit"):
        raise InputError(f"score={score!r} is not known; use 'probability' or 'logit'")


def check_activation(activation: str) -> None:
    """Nothing, if `activation` is one.

    Raises:
        InputError: it is not.
    """
    if activation not in ("softmax", "sigmoid"):
        raise InputError(f"activation={activation!r} is not known; use 'softmax' or 'sigmoid'")


def picked(scores: Tensor, classes: Tensor) -> Tensor:
    """Of `scores` ``(N, C)`` those of `classes` ``(N,)`` or ``(N, K)``, shaped like them."""
    found = scores.gather(1, classes.reshape(len(classes), -1).to(scores.device))
    return found.reshape(classes.shape)
