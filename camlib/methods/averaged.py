"""What methods around a method are: its values averaged over changed inputs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor, nn

from camlib.errors import InputError
from camlib.maps import Normalize
from camlib.methods.base import Averageable, Explained
from camlib.methods.changed_inputs import View, averaged
from camlib.options import checked
from camlib.passes.forward import Pass
from camlib.passes.inputs import Inputs, ModelInputs
from camlib.results import Explanation
from camlib.targets import Target, TargetLike


class Ensemble(Averageable):
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

    @checked
    def __init__(self, method: Averageable) -> None:
        if not isinstance(method, Averageable):
            given = method.__name__ if isinstance(method, type) else type(method).__name__
            raise InputError(
                f"{type(self).__name__} averages maps or attributions, not {given}; pass a method "
                "that is built, such as GradCAM(model), and multiply the averages where it is a "
                "product of two"
            )
        self.method = method
        self.model = method.model

    @checked
    def __call__(
        self,
        inputs: ModelInputs,
        target: TargetLike = None,
        *,
        relu: bool | None = None,
        resize: bool | None = None,
        normalize: Normalize | None = None,
    ) -> Tensor:
        """The `heatmap` of `explain`, with the same arguments."""
        return self.explain(inputs, target, relu=relu, resize=resize, normalize=normalize).heatmap

    @checked
    def explain(
        self,
        inputs: ModelInputs,
        target: TargetLike = None,
        *,
        relu: bool | None = None,
        resize: bool | None = None,
        normalize: Normalize | None = None,
    ) -> Explanation:
        """Everything one call knows, with score and output of the clean input.

        Args:
            inputs: see `Method.__call__`.
            target: see `Method.__call__`.
            relu: see `MapMethod.explain`; for methods of maps only, as the next two.
            resize: see `MapMethod.explain`.
            normalize: see `MapMethod.explain`.
        """
        given = {"relu": relu, "resize": resize, "normalize": normalize}
        chosen = {name: value for name, value in given.items() if value is not None}
        return self._shown(self._explained, inputs, target, **chosen)

    @abstractmethod
    def _views(self, run: Pass) -> Iterable[View]:
        """The changed inputs."""

    def _shown(self, explained: Explained, inputs: Any, target: Any, **options: Any) -> Explanation:
        seen = self.method._shown(explained, inputs, target, **options)
        name = type(self).__name__
        return replace(seen, method=name if self.named else f"{name}({seen.method})")

    def _explained(self, model: nn.Module, given: Inputs, target: Any) -> tuple[Pass, list[Tensor]]:
        run = self._clean(model, given, target)
        return run, self._joined(run, self._again(run, run.inputs, run.target)[1])

    def _clean(self, model: nn.Module, given: Inputs, target: Any) -> Pass:
        return self.method._clean(model, given, target)

    def _again(self, run: Pass, inputs: Inputs, target: Target) -> tuple[Pass, list[Tensor]]:
        output = run.output if inputs is run.inputs else None
        run = replace(run, inputs=inputs, target=target, output=output)
        again = run

        def read(_: Tensor, inputs: Inputs, target: Target) -> list[Tensor]:
            nonlocal again
            again, values = self.method._again(run, inputs, target)
            return self._taken(self._seen_from(run, again, values))

        values = self._summarised(averaged(run, self._views(run), read))
        return replace(run, seen=again.seen), values

    def _seen_from(self, run: Pass, again: Pass, values: list[Tensor]) -> list[Tensor]:
        """The `values` of the pass `again`, where those of other views lie."""
        return values

    def _taken(self, values: list[Tensor]) -> list[Tensor]:
        """What is averaged of the `values` of each view."""
        return values

    def _summarised(self, means: list[Tensor]) -> list[Tensor]:
        """The values from the `means` of what was taken."""
        return means

    def _joined(self, run: Pass, values: list[Tensor]) -> list[Tensor]:
        return self.method._joined(run, values)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.method!r})"
