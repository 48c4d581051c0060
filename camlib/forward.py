"""One forward pass on the clean input: what the layers saw, what was answered, what is asked.

Everything a method does starts here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from camlib import targets
from camlib.capture import Capture, Graph, capture
from camlib.errors import LayerError
from camlib.gradients import gradients
from camlib.inputs import Inputs
from camlib.maps import precise
from camlib.replay import Tail
from camlib.rules import without_recomputation
from camlib.targets import Target
from camlib.targets.binary import undecided
from camlib.targets.parts import named
from camlib.visits import Visit, visits

GRAPHS: tuple[Graph, ...] = ("tail", "whole")
"""What to record, in order of cost. A model whose own ``no_grad`` block ends after the layer takes
the graph with it; if the graph is on before that block, it is on again after it."""

_FORMATS = torch.channels_last, torch.preserve_format
"""On a CPU, convolutions of many images are faster with channels last, and the same to rounding. A
model that makes views of what they return may not take them so."""


@dataclass(frozen=True, eq=False)
class Pass:
    """One forward pass on the clean input.

    Attributes:
        model: without wrappers.
        inputs: what the model was called with.
        seen: what the layers returned.
        output: what the model returned.
        target: what is explained, resolved.
        scores: ``(N, K)``, with their graph.
        shape: ``()`` for one score a sample, ``(K,)`` for several.
        order: the modules that ran, if they were recorded.
        tails: what follows each layer, if it can be run again.
        formats: of memory, the fastest first, in which changed images come. What the model refuses
            is dropped.
    """

    model: nn.Module
    inputs: Inputs
    seen: Capture
    output: Any
    target: Target
    scores: Tensor
    shape: tuple[int, ...]
    order: list[Visit]
    tails: Sequence[Tail] = ()
    formats: list[torch.memory_format] = field(default_factory=lambda: list(_FORMATS))

    @classmethod
    def of(
        cls,
        model: nn.Module,
        inputs: Inputs,
        target: Any,
        layers: tuple[str, ...],
        graph: Graph,
        rule: AbstractContextManager[Any] | None = None,
        *,
        record: bool = False,
        tails: Sequence[Tail] = (),
    ) -> Pass:
        """The pass, in the context of `rule`, with `target` resolved on its output.

        With `record`, every module that runs is noted; `tails`, of the layers, can run again.

        Raises:
            LayerError: a layer did not run, or cannot be read without changing the answer.
            TargetError: `target` does not fit the output.
        """
        with capture(model, layers, graph=graph) as seen:
            try:
                recording: AbstractContextManager[list[Visit]]
                recording = visits(model) if record else nullcontext([])
                with rule or nullcontext(), recording as order, ExitStack() as stack:
                    for tail in tails:
                        stack.enter_context(tail.recorded())
                    output = inputs.owned().run(model)
            except RuntimeError as error:
                if seen.calls and "leaf Variable" in str(error) and "in-place" in str(error):
                    raise LayerError(
                        f"the output of layer {', '.join(map(repr, seen.names))} was overwritten "
                        "in place through another name after it ran; choose the layer before or "
                        "after it"
                    ) from error
                raise
            seen.activations()
            # A model that leaves a no_grad block of its own leaves the hook's grad mode with it.
            seen.interrupted |= graph != "none" and not torch.is_grad_enabled()
        with torch.inference_mode(False):
            with torch.enable_grad():
                shown = _with_graph(model, inputs, output) if undecided(target, output) else output
                chosen = targets.resolve(target, shown, len(inputs), inputs.size)
            with torch.set_grad_enabled(graph != "none"):
                scores = chosen(output)
        # Where texts are the classes, each image is compared with all of them.
        inputs = replace(inputs, shared="logits_per_image" in named(output))
        if seen.aliased is not None:
            _check_alias(model, inputs, chosen, scores, seen.aliased)
        shape = tuple(scores.shape[1:])
        with torch.set_grad_enabled(graph != "none"):
            scores = scores.reshape(len(inputs), -1)
        return cls(model, inputs, seen, output, chosen, scores, shape, order, tails)

    @property
    def replayed(self) -> bool | None:
        """Whether only what follows the layers ran again; ``None`` if nothing did."""
        known = [tail.needs.replayable for tail in self.tails if tail.needs.kept is not None]
        return all(known) if known else None

    def again(
        self,
        layer: int,
        samples: Tensor,
        changed: Tensor,
        target: Target | None = None,
        *,
        entering: Tensor | None = None,
    ) -> Tensor:
        """The scores ``(M, K)`` where the output of a layer is another.

        Args:
            layer: number of the layer, one of those with a tail.
            samples: which sample each is a change of, ``(M,)``.
            changed: ``M`` samples, shaped as the layer returns them; given away.
            target: what to ask instead of the target of the pass.
            entering: which samples `changed` has instead, where they become ``M`` on the way.
        """
        calls = self.seen.calls[self.seen.names[layer]]
        entering = samples if entering is None else entering
        output = self.tails[layer].output(self.inputs, calls, entering, changed)
        found = (self.target if target is None else target)[samples](output)
        return precise(found).reshape(len(samples), -1)

    def settle(self, layer: int, activation: Callable[[Tensor], Tensor]) -> None:
        """Find out once what running again what follows `layer` takes.

        Args:
            layer: number of the layer.
            activation: its output for samples ``(M,)``, by number.
        """
        tail, name = self.tails[layer], self.seen.names[layer]
        if tail.needs.kept is not None:
            return
        clean = self.scores.detach()
        eps = max(torch.finfo(t.dtype).eps for t in (clean, self.seen.activations()[layer]))

        def right(samples: Tensor, output: Any) -> bool:
            found = self.target[samples](output).reshape(len(samples), -1)
            error = (found - clean[samples.to(clean.device)]).abs().max()
            return bool(error <= eps**0.5 * clean.abs().max())

        tail.settle(self.inputs, self.seen.calls[name], activation, right)


def input_gradients(
    model: nn.Module, given: Inputs, target: Any, rule: AbstractContextManager[Any] | None = None
) -> tuple[Pass, Tensor]:
    """The clean pass, and the gradient of each score at the image, ``(N, K, C, *size)``.

    Args:
        model: without wrappers.
        given: the arguments of its call.
        target: what to explain.
        rule: a context in which the model runs.
    """
    with torch.inference_mode(False), torch.enable_grad():
        image = given.image.detach().clone().requires_grad_()
        run = Pass.of(model, given.with_image(image), target, (), "whole", rule)
        with without_recomputation() if rule else nullcontext():
            return run, image_gradients(run.scores, image)


def image_gradients(scores: Tensor, image: Tensor) -> Tensor:
    """The gradients of `scores` ``(N, K)`` at the `image` they come from, ``(N, K, C, *size)``."""
    found = [gradient for [gradient] in gradients(scores, [image], ["the input"])]
    return torch.cat(found).movedim(0, 1)


def scores_at(run: Pass, samples: Tensor, image: Tensor, target: Target | None = None) -> Tensor:
    """The scores ``(M, K)`` of `image` ``(M, C, *size)``, in float32 at least.

    Args:
        run: the clean pass.
        samples: by number, ``(M,)``, which sample of it each image was changed from.
        image: changed images.
        target: what to ask instead of the target of the pass.
    """
    # The kernels of a CPU have it for images, and not in float64.
    if image.ndim != 4 or image.device.type != "cpu" or image.dtype == torch.float64:
        del run.formats[:-1]
    output = None
    while output is None:
        given = run.inputs.of_samples(samples, image.clone(memory_format=run.formats[0]))
        try:
            output = given.run(run.model)
        except RuntimeError:
            if len(run.formats) == 1:
                raise
            del run.formats[0]
    found = (run.target if target is None else target)[samples](output)
    return precise(found).reshape(len(samples), -1)


def _with_graph(model: nn.Module, inputs: Inputs, output: Any) -> Any:
    """The `output` once more, with the graph that leads to it if the model lets it have one."""
    image = inputs.image.detach().clone().requires_grad_()
    try:
        return inputs.with_image(image).owned().run(model)
    except RuntimeError:
        return output


def _check_alias(
    model: nn.Module, inputs: Inputs, target: Target, scores: Tensor, layer: str
) -> None:
    """Nothing, if the answer is what it is without the copy that went on after `layer`."""
    with torch.no_grad():
        plain = target(inputs.owned().run(model))
    if not torch.allclose(plain, scores.detach(), rtol=1e-3, atol=1e-5):
        raise LayerError(
            f"layer {layer!r} returns its input itself, which the model changes in place later and "
            "uses elsewhere too, so it cannot be read; choose the layer before it"
        )
