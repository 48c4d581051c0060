"""One forward pass on the clean input: what the layers saw, what was answered, what is asked.

Everything a method does starts here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from camlib import targets
from camlib.errors import NOT_FINITE, InputError, LayerError
from camlib.maps import Window, precise
from camlib.passes.batches import Batching, agree, batching, check_order, mixed, warn_of_mixed
from camlib.passes.capture import Capture, Graph
from camlib.passes.gradients import gradients
from camlib.passes.inputs import Inputs
from camlib.passes.one_run import OneRun, one_run
from camlib.passes.replay import Tail
from camlib.passes.running import answer
from camlib.passes.visits import Visits
from camlib.rules.relu import without_recomputation
from camlib.targets import Target
from camlib.targets.binary import undecided
from camlib.targets.parts import named

if TYPE_CHECKING:
    from camlib.layouts import Layout
    from camlib.layouts.recognition import Reading

GRAPHS: tuple[Graph, ...] = ("tail", "whole")
"""What to record, in order of cost. A model whose own ``no_grad`` block ends after the layer takes
the graph with it; if the graph is on before that block, it is on again after it."""


@dataclass(frozen=True, eq=False)
class Pass:
    """One forward pass on the clean input.

    Attributes:
        model: without wrappers.
        inputs: what the model was called with.
        seen: what the layers returned.
        output: what the model returned; ``None`` where only the inputs are known.
        target: what is explained, resolved.
        scores: ``(N, K)``, with their graph.
        shape: ``()`` for one score a sample, ``(K,)`` for several.
        order: the modules that ran, if they were recorded.
        tails: what follows each layer, if it can be run again.
        graphed: whether the model needs a graph from the image on, whatever is asked for.
        readings: of layers that are read so in this pass alone.
    """

    model: nn.Module
    inputs: Inputs
    seen: Capture
    output: Any
    target: Target
    scores: Tensor
    shape: tuple[int, ...]
    order: Visits
    tails: Sequence[Tail] = ()
    graphed: bool = False
    readings: dict[Any, Reading] = field(default_factory=dict)
    _batching: dict[bool, Batching] = field(default_factory=dict)
    _settled: set[int] = field(default_factory=set)

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
        optional: bool = False,
        tails: Sequence[Tail] = (),
    ) -> Pass:
        """The pass, in the context of `rule`, with `target` resolved on its output.

        With `record`, every module that runs is noted; `tails`, of the layers, can run again. With
        `optional`, layers that cannot be captured are left out.

        Raises:
            LayerError: a layer did not run, or cannot be read without changing the answer.
            TargetError: `target` does not fit the output.
        """
        read = one_run(
            model, inputs, layers, graph, rule, record=record, optional=optional, tails=tails
        )
        if not callable(target) or isinstance(target, Target):

            def again(samples: Tensor, image: Tensor) -> Any:
                given = inputs.of_samples(samples, image)
                return answer(model, given, graphed=read.graphed)

            check_order(model, inputs, read.output, again)
        with torch.enable_grad():
            shown = read.output
            if undecided(target, shown):
                shown = _with_graph(model, inputs, shown)
            chosen = targets.resolve(target, shown, len(inputs), inputs.size)
        with torch.set_grad_enabled(graph != "none"):
            scores = chosen(read.output)
        read.seen.hooked = read.hooked
        # Where texts are the classes, each image is compared with all of them.
        inputs = replace(inputs, shared="logits_per_image" in named(read.output))
        if read.seen.aliased is not None:
            _check_alias(read, model, inputs, chosen, scores)
        shape = tuple(scores.shape[1:])
        with torch.set_grad_enabled(graph != "none"):
            scores = scores.reshape(len(inputs), -1)
        run = cls(
            model=model,
            inputs=inputs,
            seen=read.seen,
            output=read.output,
            target=chosen,
            scores=scores,
            shape=shape,
            order=read.order,
            tails=tails,
            graphed=read.graphed,
        )
        if graph != "none" and len(inputs) > 1:
            warn_of_mixed(model, inputs, read.output, run._returned)
        return run

    def windows(self, count: int) -> list[Window]:
        """Which part of the input each of `count` maps covers, those of the layers in order."""
        named = self.seen.names if len(self.seen.names) == count else ("",) * count
        return [self.seen.windows.get(name, ()) for name in named]

    @property
    def replayed(self) -> bool | None:
        """Whether only what follows the layers ran again; ``None`` if nothing did."""
        known = [tail.needs.replayable for tail in self.tails if tail.needs.kept is not None]
        return all(known) if known else None

    def gradients(
        self,
        tensors: Sequence[Tensor],
        names: Sequence[str],
        scores: Tensor | None = None,
        **options: bool,
    ) -> Iterator[list[Tensor]]:
        """The gradients of the scores at `tensors`, as `gradients.gradients` has them.

        Args:
            tensors: what to differentiate by.
            names: what each of them is, for errors.
            scores: ``(N, K)`` of what ran again, instead of those of the pass.
            options: of that function.
        """
        scores = self.scores if scores is None else scores
        return gradients(scores, tensors, names, alone=self.seen.hooked, **options)

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
        tail, asked = self.tails[layer], (self.target if target is None else target)[samples]
        kept = changed.clone() if tail.leaves_out else changed  # what runs may change it in place
        found = precise(asked(tail.output(self.inputs, calls, entering, changed)))
        if tail.leaves_out and not found.isfinite().all() and kept.isfinite().all():
            # Other inputs may need what those did not that it was found out with.
            tail.distrust()
            found = precise(asked(tail.output(self.inputs, calls, entering, kept)))
        return found.reshape(len(samples), -1)

    def settle(self, layer: int, layout: Layout, *, several: bool) -> None:
        """Find out once what running again what follows `layer` takes; a warning if it mixes them.

        Args:
            layer: number of the layer.
            layout: of its output.
            several: whether samples run beside others than in the clean pass.
        """
        tail, name = self.tails[layer], self.seen.names[layer]
        self.check_scores()
        if tail.needs.kept is None:
            clean, raw = self.scores.detach(), self.seen.activations()[layer].detach()
            samples, activation = _on_trial(layout, raw, len(self.inputs))
            samples = samples.to(self.inputs.image.device)
            asked = samples if len(self.inputs) > 1 else samples[1:]

            def right(output: Any) -> bool:
                found = self.target[samples](output).reshape(len(samples), -1)[-len(asked) :]
                expected = clean[asked.to(clean.device)]
                return agree(found, expected, clean.to(raw.dtype), 1 / 2)

            def apart(output: Any) -> bool:
                return not mixed(output, self.output, asked)

            calls = self.seen.calls[name]
            tail.settle(self.inputs, calls, samples, activation, right, apart)
        if several and layer not in self._settled:
            self._settled.add(layer)
            Batching(mixes=not tail.needs.apart).warn_if_mixed(self.model)

    def batching(self, *, several: bool) -> Batching:
        """How the model takes changed images, `several` at once or one; a warning if it mixes them.

        Found out once for a model and a size of images.
        """
        if self.output is None:
            return Batching()
        self.check_scores()
        several = several or True in self._batching  # the last of a row may come alone
        if several not in self._batching:
            self._batching[several] = how = batching(
                self.model,
                self.inputs,
                self.output,
                self._returned,
                several=several,
            )
            how.warn_if_mixed(self.model)
        return self._batching[several]

    def check_scores(self) -> None:
        """Check that there is a score to compare others with.

        Raises:
            InputError: one is not a number.
        """
        if self.target.asks and self.scores.isnan().any():
            raise InputError(NOT_FINITE.format("the score"))

    def _returned(self, samples: Tensor, image: Tensor) -> Any:
        """What the model returns for `image`, which is given away, changed from `samples`."""
        given = self.inputs.of_samples(samples, image)
        return answer(self.model, given, graphed=self.graphed)


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
    with torch.enable_grad():
        image = given.image.detach().clone().requires_grad_()
        run = Pass.of(model, given.with_image(image), target, (), "whole", rule)
        with without_recomputation() if rule else nullcontext():
            return run, image_gradients(run, image)


def image_gradients(run: Pass, image: Tensor) -> Tensor:
    """The gradients of the scores of `run` at the `image` it began with, ``(N, K, C, *size)``."""
    found = [gradient for [gradient] in run.gradients([image], ["the input"])]
    return torch.cat(found).movedim(0, 1)


def scores_at(run: Pass, samples: Tensor, image: Tensor, target: Target | None = None) -> Tensor:
    """The scores ``(M, K)`` of `image` ``(M, C, *size)``, in float32 at least.

    Args:
        run: the clean pass.
        samples: by number, ``(M,)``, which sample of it each image was changed from.
        image: changed images.
        target: what to ask instead of the target of the pass.
    """
    how = run.batching(several=len(samples) > 1)
    output = run._returned(samples, image.clone(memory_format=how.format))
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
    read: OneRun, model: nn.Module, inputs: Inputs, target: Target, scores: Tensor
) -> None:
    """Nothing, if the answer is what it is without the copy that went on after the layer."""
    with torch.no_grad():
        plain = target(answer(model, inputs.owned(), graphed=read.graphed))
    if not torch.allclose(plain, scores.detach(), rtol=1e-3, atol=1e-5, equal_nan=True):
        raise LayerError(
            f"layer {read.seen.aliased!r} returns its input itself, which the model changes in "
            "place later and uses elsewhere too, so it cannot be read; choose the layer before it"
        )


def _on_trial(layout: Layout, activation: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Samples by number, and an `activation` of `count` samples for them, to try a replay with.

    One more than there were, in another order: an axis mistaken for that of samples shows. A single
    one stands behind another that is no copy, which is not to be looked at.
    """
    samples = torch.tensor([1, 0, 1] if count > 1 else [0, 0], device="cpu")
    found = layout.of_samples(activation, count, samples)
    if count == 1:
        arranged = layout(found)
        found = layout.put_back(torch.cat([arranged[:1] / 2, arranged[1:]]), found)
    return samples, found
