"""The target for models that predict values: Regression."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from camlib.targets.base import Target
from camlib.targets.classes import picked
from camlib.targets.forms import indices, within
from camlib.targets.outputs import logits


class Regression(Target):
    """A value that a regression head predicts.

    The target is signed: maps keep the evidence that lowers the value, unless ``relu=True``.

    Args:
        index: the index among the values ``(N, R)``: one for all samples, one for each, or
            ``(N, K)``; negative indices count from the end.
    """

    signed = True
    per_sample = ("index",)

    def __init__(self, index: Any = 0) -> None:
        self.index: Tensor = index

    def resolve(self, output: Any, count: int, size: tuple[int, ...]) -> Regression:
        """The target with an index for each sample."""
        values = logits(output, count)
        index = indices(self.index, count, values.device, name="index", noun="value")
        return self.replaced(index=within(index, values.shape[1], "value", from_end=True))

    def __call__(self, output: Any) -> Tensor:
        """The values, shaped like `index`."""
        return picked(logits(output, len(self.index)), self.index)
