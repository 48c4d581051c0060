"""The base class of targets: scores of the model's output, the same in every pass."""

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
    """The scores to explain, for a batch.

    A target is resolved once, on the clean output: "the predicted class" becomes a class index for
    each sample. Methods that run the model again on changed inputs explain the same class. Before
    that, the attributes hold what the user asked for.

    Attributes:
        classes: the classes explained, ``(N,)`` or ``(N, K)``; ``None`` if the target is no class.
        signed: whether evidence that lowers the score matters as much as evidence that raises it.
        placed: whether the target refers to places in the image. Then `augmented` moves them with
            the image.
        resolved: whether the target is resolved.
        clean: the clean output and its number of samples, until the target is checked in another
            batch; ``None`` if it is checked or needs no check.
    """

    classes: Tensor | None = None

    signed: bool = False

    placed: bool = False

    resolved: bool = False

    clean: tuple[Any, int] | None = None

    asks: ClassVar[bool] = True
    """Whether there is a score to explain."""

    per_sample: ClassVar[tuple[str, ...]] = ()
    """The names of the attributes with one entry for each sample, tensors ``(N, ...)``."""

    def resolve(self, output: Any, count: int, size: tuple[int, ...]) -> Target:
        """The target with everything that depends on the clean `output` fixed.

        Args:
            output: the model's clean output.
            count: the number of samples.
            size: the size of the input, without samples and channels.

        Raises:
            TargetError: the target does not fit `output`.
        """
        return self

    @abstractmethod
    def __call__(self, output: Any) -> Tensor:
        """The scores of the model's `output`: ``(N,)``, or ``(N, K)`` for several per sample."""

    def __getitem__(self, samples: Tensor) -> Target:
        """The target of the samples numbered `samples` ``(M,)``.

        Raises:
            TargetError: the score of a sample depends on the rest of the batch.
        """
        if self.clean is not None:
            self._check_apart(*self.clean)
            self.clean = None
        return self._of(samples)

    def augmented(self, augmentation: Augmentation) -> Target:
        """The target for images changed by `augmentation`.

        Raises:
            TargetError: the target refers to places, and does not define how they move.
        """
        if self.placed:
            raise TargetError(
                f"the image moves, but the places that {type(self).__name__} refers to do not; "
                "define `augmented` in it, pass a class, or use Smooth"
            )
        return self

    def replaced(self, **attributes: Any) -> Self:
        """A copy of the target with other attributes."""
        twin = copy.copy(self)
        vars(twin).update(attributes)
        return twin

    def _of(self, samples: Tensor) -> Self:
        values = {name: getattr(self, name) for name in self.per_sample}
        return self.replaced(**{name: v[samples.to(v.device)] for name, v in values.items()})

    def _check_apart(self, output: Any, count: int) -> None:
        """Check that samples have the same scores in another batch.

        Raises:
            TargetError: they do not.
        """
        with torch.no_grad():
            clean = self(output)
            try:
                other, numbers = in_another_batch(output, count)
                scores = self._of(numbers)(other)[:count]
                numbers = numbers[:count].to(clean.device)
                margin = torch.finfo(clean.dtype).eps ** 0.5
                least = margin * float(clean.abs().max())
                wrong = ~torch.isclose(scores, clean[numbers], margin, least, equal_nan=True)
                wrong = numbers[wrong.flatten(1).any(1) if wrong.ndim > 1 else wrong]
                why = f"sample {int(wrong[0])} has another score" if len(wrong) else ""
            except Exception as error:  # the user's own function may fail in any way
                why = str(error) or type(error).__name__
        if why:
            raise TargetError(_MIXING.format(why))

    def __repr__(self) -> str:
        classes = self.classes.tolist() if isinstance(self.classes, Tensor) else self.classes
        return f"{type(self).__name__}({classes})"


_MIXING = (
    "the target does not keep samples apart (in another batch: {}); a target with labels in a "
    "closure, or a mean over the batch, cannot score changed inputs; make it a "
    "camlib.targets.Target whose per_sample names what belongs to each sample (docs/guide.md, "
    "'Labels and losses'), or use a method that does not change inputs, such as GradCAM"
)
