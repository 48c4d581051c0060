"""Which classes of a photo are explained, told from the one pass that explains them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from camlib import Method
from camlib.targets import Category, Probability, Target, TopK, logits
from camlib.targets.binary import both


@dataclass(frozen=True)
class Question:
    """What is asked of each photo.

    Attributes:
        classes: by index; none for the best.
        top: how many of the best, where no class is given.
        expected: a class to tell the predicted one from: both are explained, and what speaks for
            the predicted one and not for this.
    """

    classes: tuple[int, ...] = ()
    top: int = 1
    expected: int | None = None

    def target(self, method: Method, *, several: bool) -> Target:
        """The target for `method`, of a network of which `several` classes may be present."""
        return _Asked(self, weighs=hasattr(method, "score"), several=several)


class _Asked(Target):
    """The classes of a question, resolved on the clean output."""

    def __init__(self, question: Question, *, weighs: bool, several: bool) -> None:
        self.question = question
        self.weighs = weighs
        self.several = several

    def resolve(self, output: Any, count: int, size: tuple[int, ...]) -> Target:
        """The target of class indices."""
        asked = self.question
        if asked.classes:
            resolved = Category([list(asked.classes)]).resolve(output, count, size)
        else:
            available = max(logits(output, count).shape[1], 2)
            resolved = TopK(min(asked.top, available)).resolve(output, count, size)
        classes: Any = resolved.classes
        if asked.expected is not None:
            Category(asked.expected).resolve(output, count, size)
            if (classes != asked.expected).all():
                pair = torch.cat([classes, torch.full_like(classes, asked.expected)], 1)
                return _Versus(self._of_classes(pair))
        return self._of_classes(classes)

    def _of_classes(self, classes: Tensor | None) -> Target:
        # A method that weighs with probabilities makes those of a softmax itself.
        if self.weighs and self.several:
            return Probability(classes, activation="sigmoid")
        return Category(classes)

    def __call__(self, output: Any) -> Tensor:
        """The scores of the classes that are asked for, ``(N, K)``."""
        return self.resolve(output, len(logits(output)), ())(output)


class _Versus(Target):
    """A class, another, and the one less the other: ``(N, 3)``.

    Args:
        both: the target of the two classes, ``(N, 2)``.
    """

    per_sample = ("pair",)

    def __init__(self, pair: Target) -> None:
        self.pair = pair

    def __call__(self, output: Any) -> Tensor:
        """The scores of both, and their difference."""
        scores = self.pair(output)
        return torch.cat([scores, scores[:, :1] - scores[:, 1:]], 1)

    def __getitem__(self, samples: Tensor) -> Target:
        """The same of other samples."""
        return self.replaced(pair=self.pair[samples])


def scores_of(output: Any) -> Tensor:
    """The scores of all classes for one photo, ``(classes,)``; two of a single output."""
    return both(logits(output, 1))[0].detach().float().cpu()
