"""What every method is: a model, and `explain`."""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from camlib.methods.calling import Calling
from camlib.options import checked
from camlib.passes.forward import Pass
from camlib.passes.inputs import Inputs, ModelInputs
from camlib.results import Explanation
from camlib.state.undoing import Called
from camlib.targets import Target, TargetLike

__all__ = ["Method"]


class Method(Calling, ABC):
    """A way to explain what `model` answers. The model is never changed."""

    name: ClassVar[str] = ""
    """What `METHODS`, the command line and the tables of the docs call it."""

    cost: ClassVar[str]
    """Forward and backward passes of a call."""

    scaled: bool = True
    """Whether a call returns maps in [0, 1], not attributions of input values."""

    looks: ClassVar[bool] = True
    """Whether the values depend on the input."""

    asks: ClassVar[bool] = True
    """Whether the values depend on the target. If not, a call needs none."""

    any_score: ClassVar[bool] = True
    """Whether the target may be any function of the output, not a class alone."""

    linear: ClassVar[bool] = True
    """Whether a score times a positive number has the same map, or the attribution times it."""

    needs_attention: ClassVar[bool] = False
    """Whether the model has to be a vision transformer."""

    averageable: ClassVar[bool] = True
    """Whether its values can be averaged over changed inputs, as by `camlib.Smooth`."""

    differentiable: bool = False
    """Whether a call keeps the graph."""

    @checked
    def __call__(self, inputs: ModelInputs, target: TargetLike = None) -> Tensor:
        """Where the model looked: the `heatmap` of `explain`.

        Args:
            inputs: images ``(N, C, H, W)``, series ``(N, C, L)`` or volumes ``(N, C, D, H, W)``; a
                tuple of positional or a mapping of keyword arguments with one in it; a list of
                images ``(C, H, W)``, or of batches, as the one argument; ``(mapping,)`` for a
                mapping as the one argument.
            target: what to explain: ``None`` for the predicted class, a class, one class a sample,
                ``(N, K)`` classes, a `camlib.targets.Target`, or a function of the model's output
                that returns ``(N,)`` or ``(N, K)``, for each sample whatever else is in the batch.

        Returns:
            A map ``(N, H, W)`` in [0, 1] for each sample, or of the methods that explain pixels an
            attribution ``(N, C, H, W)``, signed and not normalised; ``(N, K, ...)`` for several
            classes a sample. Float32, on the input's device.

        Raises:
            CamlibError: the inputs, the target or the layer do not fit the model; see the message.
            OptionError: there is no such option.
        """
        return self.explain(inputs, target).heatmap

    @checked
    def explain(self, inputs: ModelInputs, target: TargetLike = None) -> Explanation:
        """Everything one call knows.

        Args:
            inputs: see `__call__`.
            target: see `__call__`.

        Returns:
            What the call returns, its `heatmap`, and what else there is.

        Raises:
            CamlibError: the inputs, the target or the layer do not fit the model; see the message.
        """
        return self._explain(inputs, target)

    def _explain(self, inputs: Any, target: Any, **shown: Any) -> Explanation:
        """The one way of a call: the model is prepared, explained, and put back.

        Args:
            inputs: see `__call__`.
            target: see `__call__`.
            shown: options of `present`.
        """
        with (
            Called(),
            self._prepared(inputs) as (model, given),
            torch.set_grad_enabled(self.differentiable),
        ):
            run, values = self.values(model, given, target)
            run.warn_of_mixed()
            return self.present(run, values, **shown)

    @abstractmethod
    def values(self, model: nn.Module, given: Inputs, target: Any) -> tuple[Pass, list[Tensor]]:
        """The clean pass and its signed values ``(N, K, ...)``, of each layer where there are any.

        Args:
            model: without wrappers, ready to be run.
            given: what it is called with.
            target: what to explain.
        """

    @abstractmethod
    def present(self, run: Pass, values: list[Tensor], **shown: Any) -> Explanation:
        """What a call returns, from what `values` returned."""

    def clean(self, model: nn.Module, given: Inputs, target: Any) -> Pass:
        """The clean pass alone."""
        return self.values(model, given, target)[0]

    def parts(self, run: Pass, inputs: Inputs, target: Target) -> tuple[Pass, list[Tensor]]:
        """A pass on changed inputs, and its values before anything in them that is not linear.

        Args:
            run: the clean pass.
            inputs: ``M`` samples.
            target: of the clean pass, for these samples.
        """
        return self.values(run.model, inputs, target)

    def joined(self, run: Pass, parts: list[Tensor]) -> list[Tensor]:
        """The values that have these `parts`, or averages of them."""
        return parts

    @classmethod
    def paper(cls) -> str:
        """The source, as the docstring cites it: the sentence up to the first arXiv or DOI.

        ``"no paper"`` where there is none.
        """
        text = " ".join((inspect.getdoc(cls) or "").split())
        number = re.search(r"(?:arXiv|doi):[^\s,;)]*[^\s,;).]", text)
        return text[: number.end()].rpartition(". ")[2] if number else "no paper"

    def __enter__(self) -> Self:
        """Optional: there is nothing to open or close."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close; errors pass."""
        return
