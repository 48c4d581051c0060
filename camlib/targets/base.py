"""What every target is: scores of the model's output, the same question in every pass."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

from torch import Tensor


class Target(ABC):
    """What is explained, for a batch.

    What was asked for is settled once, on the clean output: "the predicted class" becomes a class
    index per sample, and methods that run the model again on changed inputs ask about the same.
    Until then the attributes hold what was asked for.

    Attributes:
        classes: the classes explained, ``(N,)`` or ``(N, K)``; ``None`` where there is no class.
        signed: whether what lowers the score says as much as what raises it.
        placed: whether it asks about places in the image, which do not move with it.
        resolved: whether it is settled.
    """

    classes: Tensor | None = None

    signed: bool = False

    placed: bool = False

    resolved: bool = False

    per_sample: ClassVar[tuple[str, ...]] = ()
    """Names of the attributes that hold one entry for each sample, tensors ``(N, ...)``."""

    def settled(self, output: Any, count: int, size: tuple[int, ...]) -> Target:
        """The target that asks in every pass what this one asks of the clean `output`.

        Args:
            output: what the model returned.
            count: the number of samples.
            size: of the input, without samples and channels.

        Raises:
            TargetError: what was asked for does not fit `output`.
        """
        return self

    @abstractmethod
    def __call__(self, output: Any) -> Tensor:
        """The scores in the model's `output`: ``(N,)``, or ``(N, K)`` for several a sample."""

    def __getitem__(self, samples: Tensor) -> Target:
        """The target of the samples numbered `samples` ``(M,)``."""
        values = {name: getattr(self, name) for name in self.per_sample}
        return self.replaced(**{name: v[samples.to(v.device)] for name, v in values.items()})

    def replaced(self, **attributes: Any) -> Self:
        """The same target with other attributes."""
        twin = copy.copy(self)
        vars(twin).update(attributes)
        return twin

    def __repr__(self) -> str:
        classes = self.classes.tolist() if isinstance(self.classes, Tensor) else self.classes
        return f"{type(self).__name__}({classes})"
