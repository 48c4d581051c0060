"""Targets of several classes that make one score."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from camlib.errors import InputError, TargetError
from camlib.maps import precise
from camlib.options import is_real, is_whole
from camlib.targets.base import Target
from camlib.targets.binary import both, predicted
from camlib.targets.classes import picked
from camlib.targets.forms import Classes, classes_in, integers, within
from camlib.targets.outputs import logits


class Contrast(Target):
    """This class and not those, ``y_c - strength * sum_d p_d y_d / sum_d p_d``.

    The target of Finer-CAM: Zhang et al., CVPR 2025, arXiv:2501.11309. The weights ``p_d`` are the
    softmax probabilities on the clean output, constants for the gradient. Of a single output the
    two classes are told apart, see `ClassTarget`.

    Args:
        category: what is explained, in the forms of `Category`.
        others: what it is told from, in the same forms; ``(N, D)`` or ``(1, D)`` for several.
            ``None``: the `nearest` classes, those whose output is closest to that of `category`.
        nearest: how many of them; all others where the model has no more.
        strength: how much of what they share is taken away.

    Raises:
        InputError: `nearest` is no whole number from 1 on, or `strength` no number.
    """

    per_sample = ("classes", "others", "weights")

    def __init__(
        self,
        category: Classes = None,
        others: Classes = None,
        nearest: int = 3,
        strength: float = 1.0,
    ) -> None:
        if not is_whole(nearest):
            raise InputError(f"nearest={nearest!r} is no number of classes; use 1, 2, 3, ...")
        if nearest < 1:
            raise InputError(f"nearest={nearest!r} leaves no class to contrast with; use 1 or more")
        if not is_real(strength):
            raise InputError(f"strength={strength!r} is no number; use one such as 1.0 or 0.6")
        self.classes: Tensor = category
        self.others: Tensor = others
        self.weights: Tensor
        self.nearest = nearest
        self.strength = strength

    def settled(self, output: Any, count: int, size: tuple[int, ...]) -> Contrast:
        """The classes, the others ``(N, K, D)`` of each, and their weights."""
        found = logits(output, count)
        scores = both(precise(found.detach()))
        available = scores.shape[1]
        classes = predicted(found) if self.classes is None else classes_in(scores, self.classes)
        several = classes.reshape(count, -1, 1)
        every = scores[:, None].expand(-1, several.shape[1], -1)
        if self.others is None:
            distance = (every - every.gather(2, several)).abs().scatter(2, several, torch.inf)
            others = distance.topk(min(self.nearest, available - 1), 2, largest=False).indices
        else:
            others = classes_in(scores, self.others).reshape(count, 1, -1)
            others = others.expand(-1, several.shape[1], -1)
            same = (others == several).nonzero().tolist()
            if same:
                sample, place, _ = same[0]
                raise TargetError(
                    f"class {int(several[sample, place])} of sample {sample} is contrasted with "
                    "itself; leave it out of others="
                )
        # Probabilities that add up to 1 among these: a softmax over these alone.
        weights = every.gather(2, others).softmax(2)
        return self.replaced(classes=classes, others=others, weights=weights)

    def __call__(self, output: Any) -> Tensor:
        """The differences, shaped like `classes`."""
        scores = both(precise(logits(output, len(self.classes))))
        others, weights = self.others.to(scores.device), self.weights.to(scores.device)
        shared = (weights * scores.gather(1, others.flatten(1)).reshape(others.shape)).sum(2)
        return picked(scores, self.classes) - self.strength * shared.reshape(self.classes.shape)


class MultiLabel(Target):
    """A set of labels jointly: the sum of their outputs before the sigmoid.

    Args:
        labels: a set for all samples ``{3, 7}``, or a list of sets or lists, one a sample, of any
            length. ``None``: the labels whose sigmoid exceeds `threshold` on the clean output.
        threshold: see `labels`.

    Raises:
        InputError: `threshold` is no probability.
    """

    per_sample = ("labels",)

    def __init__(self, labels: Any = None, threshold: float = 0.5) -> None:
        if not (is_real(threshold) and 0 <= threshold < 1):
            raise InputError(f"threshold={threshold!r} is no probability; use 0 to 1, 1 excluded")
        self.labels: Tensor = labels
        self.threshold = threshold

    def settled(self, output: Any, count: int, size: tuple[int, ...]) -> MultiLabel:
        """The target of membership, bool ``(N, labels)``."""
        scores = logits(output, count).detach()
        if self.labels is None:
            members = precise(scores).sigmoid() > self.threshold
            reason = f"the model gives no label more than threshold={self.threshold} in sample {{}}"
        else:
            members = torch.stack([_members(s, scores) for s in _sets(self.labels, count)])
            reason = "the set of labels of sample {} is empty"
        empty = (~members.any(1)).nonzero().flatten().tolist()
        if empty:
            raise TargetError(reason.format(empty[0]) + "; pass labels=, at least one a sample")
        return self.replaced(labels=members)

    def __call__(self, output: Any) -> Tensor:
        """The sums ``(N,)``."""
        scores = precise(logits(output, len(self.labels)))
        return scores.where(self.labels.to(scores.device), 0).sum(1)


def _sets(labels: Any, count: int) -> list[Any]:
    """The labels of each sample."""
    given = labels.tolist() if hasattr(labels, "tolist") else labels
    if isinstance(given, Collection) and not isinstance(given, str):
        nested = [isinstance(part, Collection) or getattr(part, "ndim", 0) for part in given]
        if not any(nested):
            return [given] * count
        if all(nested) and len(given) == count:
            return list(given)
    raise TargetError(
        f"labels={labels!r} is neither a set of labels for all, nor a list of {count} sets, one a "
        "sample"
    )


def _members(labels: Any, scores: Tensor) -> Tensor:
    """Which of the labels of `scores` ``(N, labels)`` are in the set `labels`, bool."""
    found = integers(labels if hasattr(labels, "ndim") else list(labels))
    members = scores.new_zeros(scores.shape[1], dtype=torch.bool)
    if isinstance(labels, Collection) and not len(labels):
        return members
    if found is None or found.ndim != 1:
        raise TargetError(f"labels={labels!r} are no label indices")
    members[within(found.to(scores.device, torch.int64), scores.shape[1], "label")] = True
    return members
