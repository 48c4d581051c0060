"""What is explained: the model's output -> a score per sample, or several.

A target is resolved once, on the clean output: "the predicted class" becomes a class index per
sample, and methods that run the model again on changed inputs ask about the same class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from operator import index
from typing import Any

import torch
from torch import Tensor

from camlib.errors import TargetError

Score = Callable[[Any], Tensor]
"""A differentiable function of the model's output, ``(N,)`` or ``(N, K)``."""


class Target(ABC):
    """What is explained, resolved for a batch.

    Attributes:
        classes: the classes explained, ``(N,)`` or ``(N, K)``; ``None`` where there is no class.
    """

    classes: Tensor | None = None

    @abstractmethod
    def __call__(self, output: Any) -> Tensor:
        """The scores in the model's `output`: ``(N,)``, or ``(N, K)`` for several a sample."""

    @abstractmethod
    def __getitem__(self, samples: Tensor) -> Target:
        """The target of the samples numbered `samples` ``(M,)``."""


class Category(Target):
    """The output of a class, before softmax.

    Args:
        classes: class indices, ``(N,)``, or ``(N, K)`` for several a sample.
        probability: the class's softmax probability instead; the sigmoid of a single output.
    """

    def __init__(self, classes: Tensor, *, probability: bool = False) -> None:
        self.classes: Tensor = classes
        self.probability = probability

    def __call__(self, output: Any) -> Tensor:
        """The scores of the classes, shaped like `classes`."""
        scores = logits(output)
        if self.probability:
            scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
            # A single output is one of two classes: a softmax over it alone would always be 1.
            scores = scores.softmax(1) if scores.shape[1] > 1 else scores.sigmoid()
        picked = scores.gather(1, self.classes.reshape(len(self.classes), -1).to(scores.device))
        return picked.reshape(self.classes.shape)

    def __getitem__(self, samples: Tensor) -> Category:
        """The classes of the samples numbered `samples`."""
        classes = self.classes[samples.to(self.classes.device)]
        return Category(classes, probability=self.probability)

    def __repr__(self) -> str:
        return f"Category({self.classes.tolist()})"


class _Custom(Target):
    """A user's function of the output."""

    def __init__(self, function: Score, count: int) -> None:
        self.function = function
        self.count = count

    def __call__(self, output: Any) -> Tensor:
        scores = self.function(output)
        if not isinstance(scores, Tensor) or not scores.is_floating_point():
            given = scores.dtype if isinstance(scores, Tensor) else type(scores).__name__
            raise TargetError(f"expected the target to return a floating-point tensor, got {given}")
        if scores.ndim not in (1, 2) or scores.shape[0] != self.count or not scores.numel():
            raise TargetError(
                f"expected the target to return ({self.count},) or ({self.count}, K), a score for "
                f"each sample, got {tuple(scores.shape)}; sum over the other axes, and do not rely "
                "on the position of a sample in the batch"
            )
        return scores

    def __getitem__(self, samples: Tensor) -> _Custom:
        return _Custom(self.function, len(samples))


def resolve(target: Any, output: Any, count: int) -> Target:
    """`target` as asked for by the user, settled on the clean `output` of `count` samples.

    Args:
        target: ``None`` (the predicted class), a class for all samples, one class a sample (a list
            or a 1-D tensor or array), several a sample ``(N, K)`` or ``(1, K)``, a `Target`, or a
            function of the output. Negative classes count from the end.
        output: what the model returned.
        count: the number of samples.

    Raises:
        TargetError: `target` is of no such form, or does not fit `output`.
    """
    probability = False
    if isinstance(target, Category):
        target, probability = target.classes, target.probability
    elif isinstance(target, Target):
        return target
    elif callable(target):
        return _Custom(target, count)
    scores = logits(output)
    if scores.shape[0] != count:
        raise TargetError(
            f"the model returned scores of shape {tuple(scores.shape)} for {count} samples; "
            "does the input lack a batch axis?"
        )
    if target is None:
        return Category(scores.detach().argmax(1))
    classes = _indices(target, scores.device)
    if classes.ndim == 0:
        classes = classes.expand(count)
    elif classes.ndim == 2 and len(classes) == 1:
        classes = classes.expand(count, -1)
    if classes.ndim > 2 or len(classes) != count or not classes.numel():
        raise TargetError(
            f"a target of shape {tuple(classes.shape)} does not fit {count} samples; pass one "
            "class for all, a list of one class a sample, or (N, K): [[281, 285]] for two classes"
        )
    available = scores.shape[1]
    outside = (classes < -available) | (classes >= available)
    if outside.any():
        raise TargetError(
            f"class {int(classes[outside][0])} is out of range: the model has {available} classes, "
            f"0 to {available - 1}"
        )
    return Category(classes % available, probability=probability)


def logits(output: Any) -> Tensor:
    """The class scores ``(N, classes)`` in what a model returned.

    Raises:
        TargetError: there is no such tensor, or more than one.
    """
    found = output
    if isinstance(output, Mapping):
        found = output.get("logits", output.get("out"))
        if found is None and len(output) == 1:
            [found] = output.values()
    elif isinstance(output, tuple | list) and len(output) == 1:
        [found] = output
    if not isinstance(found, Tensor):
        held = list(output) if isinstance(output, Mapping) else type(output).__name__
        raise TargetError(
            f"cannot tell the class scores in the model's output ({held}); pass a function, such "
            "as target=lambda out: out[0][:, 3]"
        )
    if found.ndim < 2:
        found = found.reshape(-1, 1)
    if found.ndim != 2:
        raise TargetError(
            f"expected class scores (N, classes), the model returned {tuple(found.shape)}; pass a "
            "function that gives a score for each sample, such as "
            "target=lambda out: out[:, 3].flatten(1).mean(1)"
        )
    return found


def _indices(target: Any, device: torch.device) -> Tensor:
    """`target` as a tensor of integers."""
    try:
        if isinstance(target, Tensor):
            classes = target.detach()
        elif isinstance(target, Sequence) and not isinstance(target, str):
            classes = torch.tensor(_plain(target))
        elif hasattr(target, "__array__") and getattr(target, "ndim", False):
            classes = torch.as_tensor(target)
        else:
            classes = torch.tensor(_plain(target))
    except (TypeError, ValueError, RuntimeError):
        classes = torch.empty(0)
    if classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool:
        raise TargetError(
            f"target={target!r} is neither a class index, nor integers (N,) or (N, K), "
            "nor a function of the model's output"
        )
    return classes.to(device=device, dtype=torch.int64)


def _plain(values: Any) -> Any:
    """Nested sequences of integers, also of NumPy's and of zero-dimensional tensors."""
    if isinstance(values, Sequence) and not isinstance(values, str):
        return [_plain(value) for value in values]
    if isinstance(values, bool):
        raise TypeError
    return values.tolist() if hasattr(values, "tolist") else index(values)
