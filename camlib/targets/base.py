"""What every target is: scores of the model's output, the same question in every pass."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from camlib.augmentation import Augmentation
from camlib.errors import TargetError
from camlib.targets.apart import in_another_batch


class Target(ABC):
    """What is explained, for a batch.

    What was asked for is settled once, on the clean output: "the predicted class" becomes a class
    index per sample, and methods that run the model again on changed inputs ask about the same.
    Until then the attributes hold what was asked for.

    Attributes:
        classes: the classes explained, ``(N,)`` or ``(N, K)``; ``None`` where there is no class.
        signed: whether what lowers the score says as much as what raises it.
        placed: whether it asks about places in the image. If so, `augmented` moves them with it.
        resolved: whether it is settled.
        clean: the clean output and its number of samples, while the target has yet to be tried in
            another batch; ``None`` if it has been, or need not be.
    """

    classes: Tensor | None = None

    signed: bool = False

    placed: bool = False

    resolved: bool = False

    clean: tuple[Any, int] | None = None

    asks: ClassVar[bool] = True
    """Whether there is a score to explain."""

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
        """The target of the samples numbered `samples` ``(M,)``.

        Raises:
            TargetError: the score of a sample depends on the batch it is in.
        """
        if self.clean is not None:
            self._check_apart(*self.clean)
            self.clean = None
        return self._of(samples)

    def augmented(self, augmentation: Augmentation) -> Target:
        """The target that asks of changed images what this one asks of the images.

        Raises:
            TargetError: it asks about places, and does not say how they move along.
        """
        if self.placed:
            raise TargetError(
                f"the image is moved, and {type(self).__name__} asks about places in it, which do "
                "not move along; give it an `augmented`, pass a class, or use Smooth"
            )
        return self

    def replaced(self, **attributes: Any) -> Self:
        """The same target with other attributes."""
        twin = copy.copy(self)
        vars(twin).update(attributes)
        return twin

    def _of(self, samples: Tensor) -> Self:
        values = {name: getattr(self, name) for name in self.per_sample}
        return self.replaced(**{name: v[samples.to(v.device)] for name, v in values.items()})

    def _check_apart(self, output: Any, count: int) -> None:
        """Nothing, if samples have the same scores in another batch."""
        with torch.no_grad():
            clean = self(output)
            try:
                other, numbers = in_another_batch(output, count)
                found, numbers = self._of(numbers)(other)[:count], numbers[:count].to(clean.device)
                margin = torch.finfo(clean.dtype).eps ** 0.5
                wrong = ~torch.isclose(
                    found, clean[numbers], margin, margin * float(clean.abs().max()), equal_nan=True
                )
                wrong = numbers[wrong.flatten(1).any(1) if wrong.ndim > 1 else wrong]
                why = f"another score for sample {int(wrong[0])}" if len(wrong) else ""
            except Exception as error:  # of the user's own function, which may fail in any way
                why = str(error) or type(error).__name__
        if why:
            raise TargetError(_MIXING.format(why))

    def __repr__(self) -> str:
        classes = self.classes.tolist() if isinstance(self.classes, Tensor) else self.classes
        return f"{type(self).__name__}({classes})"


_MIXING = (
    "the target does not keep samples apart (in another batch: {}): with labels in a closure or a "
    "mean over the batch it cannot be asked of changed inputs; make it a camlib.targets.Target "
    "whose per_sample names what belongs to each sample (docs/guide.md, 'Labels and losses'), or "
    "use a method that changes nothing, such as GradCAM"
)
