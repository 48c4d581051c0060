"""Targets that combine several classes into one score: Contrast and MultiLabel."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any

import torch
from torch import Tensor

from camlib.errors import TargetError
from camlib.maps import precise
from camlib.options import Count, Range, checked
from camlib.targets.base import Target
from camlib.targets.binary import both, predicted
from camlib.targets.classes import picked
from camlib.targets.forms import Classes, classes_in, integers, within
from camlib.targets.outputs import logits


class Contrast(Target):
    """A class as opposed to others, ``y_c - strength * sum_d p_d y_d / sum_d p_d``.

    The target of Finer-CAM: Zhang et al., CVPR 2025, arXiv:2501.11309. The weights ``p_d`` are the
    softmax probabilities on the clean output, constants for the gradient. A single output has two
    classes; see `ClassTarget`.

    Args:
        category: the class to explain, as for `Category`.
        others: the classes to compare with, in the same forms; ``(N, D)`` or ``(1, D)`` for
            several. ``None`` takes the `nearest` ones, whose outputs are closest to that of
            `category`.
        nearest: the number of those; all other classes if the model has no more.
        strength: the weight of the other classes.
    """

    per_sample = ("classes", "others", "weights")

    @checked
    def __init__(
        self,
        category: Classes = None,
        others: Classes = None,
        nearest: Count = 3,
        strength: float = 1.0,
    ) -> None:
        self.classes: Tensor = category
        self.others: Tensor = others
        self.weights: Tensor
        self.nearest = nearest
        self.strength = strength

    def resolve(self, output: Any, count: int, size: tuple[int, ...]) -> Contrast:
        """The target with classes, the other classes ``(N, K, D)`` of each, and their weights."""
        raw = logits(output, count)
        scores = both(precise(raw.detach()))
        available = scores.shape[1]
        classes = predicted(raw) if self.classes is None else classes_in(scores, self.classes)
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
        # Probabilities divided by their sum are a softmax over the other classes alone.
        weights = every.gather(2, others).softmax(2)
        return self.replaced(classes=classes, others=others, weights=weights)

    def __call__(self, output: Any) -> Tensor:
        """The differences, shaped like `classes`."""
        scores = both(precise(logits(output, len(self.classes))))
        others, weights = self.others.to(scores.device), self.weights.to(scores.device)
        shared = (weights * scores.gather(1, others.flatten(1)).reshape(others.shape)).sum(2)
        return picked(scores, self.classes) - self.strength * shared.reshape(self.classes.shape)


class MultiLabel(Target):
    """A set of labels together: the sum of their outputs before the sigmoid.

    Args:
        labels: a set for all samples, ``{3, 7}``, or a list of sets or lists of any length, one for
            each sample. ``None`` takes the labels whose sigmoid exceeds `threshold` on the clean
            output.
        threshold: see `labels`.
    """

    per_sample = ("labels",)

    @checked
    def __init__(
        self, labels: Any = None, threshold: Annotated[float, Range(0, 1, below=True)] = 0.5
    ) -> None:
        self.labels: Tensor = labels
        self.threshold = threshold

    def resolve(self, output: Any, count: int, size: tuple[int, ...]) -> MultiLabel:
        """The target with membership in the sets, bool ``(N, labels)``."""
        scores = logits(output, count).detach()
        if self.labels is None:
            members = precise(scores).sigmoid() > self.threshold
            reason = f"the model gives no label more than threshold={self.threshold} in sample {{}}"
        else:
            members = torch.stack([_members(s, scores) for s in _sets(self.labels, count)])
            reason = "the set of labels of sample {} is empty"
        empty = (~members.any(1)).nonzero().flatten().tolist()
        if empty:
            raise TargetError(
                reason.format(empty[0]) + "; pass labels= with at least one for each sample"
            )
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
        f"labels={labels!r} is neither a set of labels for all samples, nor a list of {count} "
        "sets, one for each sample"
    )


def _members(labels: Any, scores: Tensor) -> Tensor:
    """Which labels of `scores` ``(N, labels)`` are in the set `labels`, bool."""
    chosen = integers(labels if hasattr(labels, "ndim") else list(labels))
    members = scores.new_zeros(scores.shape[1], dtype=torch.bool)
    if isinstance(labels, Collection) and not len(labels):
        return members
    if chosen is None or chosen.ndim != 1:
        raise TargetError(
            f"labels={labels!r} are not label indices; pass integers, such as {{3, 7}}"
        )
    members[within(chosen.to(scores.device, torch.int64), scores.shape[1], "label")] = True
    return members
