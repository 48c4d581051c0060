"""What methods around a method are: its values, averaged over changed inputs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor, nn

from camlib.errors import InputError
from camlib.methods.base import Method
from camlib.methods.changed_inputs import View, averaged
from camlib.methods.heatmap import Showable
from camlib.options import checked
from camlib.passes.forward import Pass
from camlib.passes.inputs import Inputs
from camlib.results import Explanation
from camlib.targets import Target


class Ensemble(Showable):
    """A method averaged over changed inputs; what it takes and returns stays as it is.

    Signed values are averaged, before a ReLU, an absolute value or a normalisation, which follow as
    the method has them. A subclass gives the changed inputs and nothing else.

    Args:
        method: what to average, such as ``GradCAM(model, "layer4")``, with its options.

    Raises:
        InputError: `method` is none, or not one whose values can be averaged.
    """

    named: ClassVar[bool] = False
    """Whether the name alone says what is averaged."""

    whole: ClassVar[bool] = False
    """Whether what is averaged has the input's size, wherever the method's values lie."""

    @checked
    def __init__(self, method: Method) -> None:
        if not (isinstance(method, Method) and method.averageable):
            given = method.__name__ if isinstance(method, type) else type(method).__name__
            raise InputError(
                f"{type(self).__name__} averages maps or attributions, not {given}; pass a method "
                "that is built, such as GradCAM(model), and multiply the averages where it is a "
                "product of two"
            )
        super().__init__(
            method.model, image=method.image, image_layout=method.image_layout, eval=method.eval
        )
        self.method = method
        self.differentiable = method.differentiable
        self.scaled = method.scaled

    @abstractmethod
    def views(self, run: Pass) -> Iterable[View]:
        """The changed inputs, of a clean pass."""

    def taken(self, run: Pass, again: Pass, values: list[Tensor]) -> list[Tensor]:
        """What is averaged of the `values` of the pass `again`; by default these."""
        return values

    def summarised(self, means: list[Tensor]) -> list[Tensor]:
        """The values from the `means` of what was taken; by default these."""
        return means

    def values(self, model: nn.Module, given: Inputs, target: Any) -> tuple[Pass, list[Tensor]]:
        """The clean pass and the averages."""
        run = self.clean(model, given, target)
        averages, parts = self.parts(run, run.inputs, run.target)
        return averages, self.joined(averages, parts)

    def clean(self, model: nn.Module, given: Inputs, target: Any) -> Pass:
        """The clean pass of the method."""
        return self._at_size(self.method.clean(model, given, target))

    def parts(self, run: Pass, inputs: Inputs, target: Target) -> tuple[Pass, list[Tensor]]:
        """A pass on changed inputs and the averages around it."""
        output = run.output if inputs is run.inputs else None
        run = replace(run, inputs=inputs, target=target, output=output)
        last = run

        def read(_: Tensor, inputs: Inputs, target: Target) -> list[Tensor]:
            nonlocal last
            last, values = self.method.parts(run, inputs, target)
            return self.taken(run, last, values)

        means = self.summarised(averaged(run, self.views(run), read))
        return self._at_size(replace(run, seen=last.seen)), means

    def joined(self, run: Pass, parts: list[Tensor]) -> list[Tensor]:
        """The values of the method from averages of their parts."""
        return self.method.joined(run, parts)

    def present(self, run: Pass, values: list[Tensor], **shown: Any) -> Explanation:
        """What the method makes of them."""
        seen = self.method.present(run, values, **shown)
        name = type(self).__name__
        return replace(seen, method=name if self.named else f"{name}({seen.method})")

    def _completed(self, model: nn.Module, given: Inputs) -> Inputs:
        return self.method._completed(model, given)

    def _at_size(self, run: Pass) -> Pass:
        if self.whole:
            run.seen.windows = {}
        return run

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.method!r})"
