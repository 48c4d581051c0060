"""Resolve the user's ``target=`` on the clean output of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from camlib.errors import TargetError
from camlib.targets.base import Target
from camlib.targets.classes import Category
from camlib.targets.dense import Segment
from camlib.targets.detection import Detection
from camlib.targets.embedding import Similarity
from camlib.targets.forms import Classes
from camlib.targets.outputs import is_dense, only_embeds
from camlib.targets.proposals import detects

Score = Callable[[Any], Tensor]
"""A differentiable function from the model's output to scores ``(N,)`` or ``(N, K)``."""


Indices = SupportsIndex | Sequence[SupportsIndex] | Sequence[Sequence[SupportsIndex]] | Tensor
"""A class for all samples, one for each, or several for each."""

TargetLike = Target | Score | Indices | None
"""The forms of a target: see `resolve`."""


def resolve(target: Any, output: Any, count: int, size: tuple[int, ...]) -> Target:
    """Resolve the user's `target` on the clean `output` of `count` samples.

    A resolved target stays unchanged, so passes on changed inputs explain the same scores.

    Args:
        target: ``None`` (the predicted class), a class for all samples, one for each sample (a list
            or a 1-D tensor or array), several for each, ``(N, K)`` or ``(1, K)``, a `Target`, or a
            function of the output. Classes of a dense output mean `Segment`, and those of a
            detector `Detection`. ``None`` means `Similarity` if there are only embeddings.
        output: the model's clean output.
        count: the number of samples.
        size: the size of the input, without samples and channels.

    Raises:
        TargetError: `target` has another form, or does not fit `output`.
    """
    if not isinstance(target, Target):
        target = Custom(target, count) if callable(target) else _meant(target, output, size)
    asked: Target = target
    if asked.resolved:
        return asked
    resolved = asked.resolve(output, count, size).replaced(resolved=True)
    if isinstance(resolved, Custom) or not type(resolved).__module__.startswith(f"{__package__}."):
        resolved.clean = output, count
    return resolved


def _meant(classes: Classes, output: Any, size: tuple[int, ...]) -> Target:
    """The target that `classes` mean for this kind of output."""
    if detects(output):
        return Detection(label=classes)
    if classes is None and only_embeds(output):
        return Similarity()
    return Segment(classes) if is_dense(output, size) else Category(classes)


class Custom(Target):
    """A user's function of the output, for a batch of `count` samples."""

    per_sample = ("samples",)

    def __init__(self, function: Score, count: int) -> None:
        self.function = function
        self.samples = torch.arange(count, device="cpu")

    def __call__(self, output: Any) -> Tensor:
        """The scores that the function returns.

        Raises:
            TargetError: it does not return a score for each sample.
        """
        scores, count = self.function(output), len(self.samples)
        if not isinstance(scores, Tensor) or scores.is_complex():
            given = scores.dtype if isinstance(scores, Tensor) else type(scores).__name__
            raise TargetError(
                f"expected the target to return a tensor of real numbers, got {given}"
            )
        if not scores.is_floating_point():  # scores without a gradient, such as counts
            scores = scores.to(torch.get_default_dtype())
        if scores.ndim not in (1, 2) or scores.shape[0] != count or not scores.numel():
            raise TargetError(
                f"expected the target to return ({count},) or ({count}, K), a score for each "
                f"sample, got {tuple(scores.shape)}; sum over the other axes, and do not rely on "
                "the position of a sample in the batch"
            )
        return scores
