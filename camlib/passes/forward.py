"""The forward pass on the clean input, with which every method starts.

A `Pass` holds the layers' outputs, the model's output, the target and its scores. It can run the
model again on changed inputs or activations.
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
"""The graphs to try, in order of cost. If a layer runs in a ``no_grad`` block of the model, leaving
that block restores the mode from before it: off for a tail, on for the whole graph."""


@dataclass(frozen=True, eq=False)
class Pass:
    """One forward pass on the clean input.

    Attributes:
        model: the model, without wrappers.
        inputs: the arguments of its call.
        seen: the outputs of the layers.
        output: the output of the model; ``None`` if only the inputs are known.
        target: the resolved target.
        scores: the scores ``(N, K)``, with their graph.
        shape: ``()`` for one score per sample, ``(K,)`` for several.
        order: the modules that ran, if they were recorded.
        tails: for each layer, the part of the model after it, if it may run again.
        graphed: whether the model always needs a graph from the image on.
        readings: the readings of layers that hold for this pass only.
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
    _tried: set[int] = field(default_factory=set)

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
        """Run the model and resolve `target` on its output.

        Args:
            model: the model, without wrappers.
            inputs: the arguments of its call.
            target: the target.
            layers: the names of the layers to capture.
            graph: the part of the pass that autograd records.
            rule: a context for the pass.
            record: whether to note every module that runs.
            optional: whether to leave out layers that cannot be captured.
            tails: the parts of the model that may run again.

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
        # If texts are the classes, each image is compared with all of them.
        inputs = replace(inputs, shared="logits_per_image" in named(read.output))
        if read.seen.aliased is not None:
            _check_alias(read, model, inputs, chosen, scores)
        shape = tuple(scores.shape[1:])
        with torch.set_grad_enabled(graph != "none"):
            scores = scores.reshape(len(inputs), -1)
        return cls(
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

    def windows(self, count: int) -> list[Window]:
        """The part of the input that each of `count` maps covers, in the order of the layers."""
        return [self.seen.windows.get(name, ()) for name in self.names(count)]

    def names(self, count: int) -> tuple[str, ...]:
        """The layer of each of `count` maps: the last one of several that make a map together."""
        return self.seen.names[-count:] or ("",) * count

    @property
    def replayed(self) -> bool | None:
        """Whether only the part after the layers ran again; ``None`` if nothing ran again."""
        known = [tail.needs.replayable for tail in self.tails if tail.needs.kept is not None]
        return all(known) if known else None

    def gradients(
        self,
        tensors: Sequence[Tensor],
        names: Sequence[str],
        scores: Tensor | None = None,
        **options: bool,
    ) -> Iterator[list[Tensor]]:
        """The gradients of the scores at `tensors`, in the chunks of `gradients.gradients`.

        Args:
            tensors: the tensors to differentiate by.
            names: what each of them is, for errors.
            scores: scores ``(N, K)`` of a later pass, instead of those of this pass.
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
        """The scores ``(M, K)`` of the model with another output of a layer.

        Args:
            layer: the number of the layer among those with a tail.
            samples: the number of the sample that each of ``M`` outputs belongs to, ``(M,)``.
            changed: the new outputs; the model may change them in place.
            target: a target that replaces that of the pass.
            entering: the samples of `changed`, if the model turns them into ``M`` later.
        """
        calls = self.seen.calls[self.seen.names[layer]]
        entering = samples if entering is None else entering
        tail, asked = self.tails[layer], (self.target if target is None else target)[samples]
        kept = changed.clone() if tail.leaves_out else changed  # the model may change it in place
        scores = precise(asked(tail.output(self.inputs, calls, entering, changed)))
        if tail.leaves_out and not scores.isfinite().all() and kept.isfinite().all():
            # These inputs may need a kept output that those of the trial did not.
            tail.distrust()
            scores = precise(asked(tail.output(self.inputs, calls, entering, kept)))
        return scores.reshape(len(samples), -1)

    def try_replay(self, layer: int, layout: Layout, *, several: bool) -> None:
        """Find out once how the part after `layer` can run again; warn if it mixes samples.

        Args:
            layer: the number of the layer.
            layout: the layout of its output.
            several: whether the batch may differ from that of the clean pass.
        """
        tail, name = self.tails[layer], self.seen.names[layer]
        self.check_scores()
        if tail.needs.kept is None:
            clean, raw = self.scores.detach(), self.seen.activations()[layer].detach()
            samples, activation = _on_trial(layout, raw, len(self.inputs))
            samples = samples.to(self.inputs.image.device)
            asked = samples if len(self.inputs) > 1 else samples[1:]

            def right(output: Any) -> bool:
                scores = self.target[samples](output).reshape(len(samples), -1)[-len(asked) :]
                expected = clean[asked.to(clean.device)]
                return agree(scores, expected, clean.to(raw.dtype), 1 / 2)

            def apart(output: Any) -> bool:
                return not mixed(output, self.output, asked)

            calls = self.seen.calls[name]
            tail.try_replay(self.inputs, calls, samples, activation, right, apart)
        if several and layer not in self._tried:
            self._tried.add(layer)
            Batching(mixes=not tail.needs.apart).warn_if_mixed(self.model)

    def batching(self, *, several: bool) -> Batching:
        """How the model takes changed images, `several` at once or one; warn if it mixes samples.

        This is found out once for a model and a size of images.
        """
        if self.output is None:
            return Batching()
        self.check_scores()
        several = several or True in self._batching  # the last chunk may hold a single image
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

    def warn_of_mixed(self) -> None:
        """A warning if the gradients of all scores, taken at once, are not those of each sample.

        None where changed inputs have told of it already.
        """
        if self.seen.graph != "none" and len(self.inputs) > 1 and not self._batching:
            warn_of_mixed(self.model, self.inputs, self.output, self._returned)

    def check_scores(self) -> None:
        """Check that other scores can be compared with those of the pass.

        Raises:
            InputError: a score is not a number.
        """
        if self.target.asks and self.scores.isnan().any():
            raise InputError(NOT_FINITE.format("the score"))

    def _returned(self, samples: Tensor, image: Tensor) -> Any:
        """The output for `image`, changed from `samples`; the model may change it in place."""
        given = self.inputs.of_samples(samples, image)
        return answer(self.model, given, graphed=self.graphed)


def input_gradients(
    model: nn.Module, given: Inputs, target: Any, rule: AbstractContextManager[Any] | None = None
) -> tuple[Pass, Tensor]:
    """The clean pass, and the gradient of each score at the image, ``(N, K, C, *size)``.

    Args:
        model: the model, without wrappers.
        given: the arguments of its call.
        target: the target.
        rule: a context for the pass.
    """
    with torch.enable_grad():
        image = given.image.detach().clone().requires_grad_()
        run = Pass.of(model, given.with_image(image), target, (), "whole", rule)
        with without_recomputation() if rule else nullcontext():
            return run, image_gradients(run, image)


def image_gradients(run: Pass, image: Tensor) -> Tensor:
    """The gradients of the scores of `run` at the `image` it started from, ``(N, K, C, *size)``."""
    chunks = [gradient for [gradient] in run.gradients([image], ["the input"])]
    return torch.cat(chunks).movedim(0, 1)


def scores_at(run: Pass, samples: Tensor, image: Tensor, target: Target | None = None) -> Tensor:
    """The scores ``(M, K)`` of `image` ``(M, C, *size)``, in float32 or better.

    Args:
        run: the clean pass.
        samples: the number of the sample that each image was changed from, ``(M,)``.
        image: the changed images.
        target: a target that replaces that of the pass.
    """
    how = run.batching(several=len(samples) > 1)
    output = run._returned(samples, image.clone(memory_format=how.format))
    scores = (run.target if target is None else target)[samples](output)
    return precise(scores).reshape(len(samples), -1)


def _with_graph(model: nn.Module, inputs: Inputs, output: Any) -> Any:
    """The `output` of another pass with a graph, if the model allows one."""
    image = inputs.image.detach().clone().requires_grad_()
    try:
        return inputs.with_image(image).owned().run(model)
    except RuntimeError:
        return output


def _check_alias(
    read: OneRun, model: nn.Module, inputs: Inputs, target: Target, scores: Tensor
) -> None:
    """Check that the copy after an aliased layer does not change the answer.

    Raises:
        LayerError: it does.
    """
    with torch.no_grad():
        plain = target(answer(model, inputs.owned(), graphed=read.graphed))
    if not torch.allclose(plain, scores.detach(), rtol=1e-3, atol=1e-5, equal_nan=True):
        raise LayerError(
            f"layer {read.seen.aliased!r} returns its own input, which the model later changes in "
            "place and uses elsewhere too, so camlib cannot read it; choose the layer before it"
        )


def _on_trial(layout: Layout, activation: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Numbers of samples for a trial replay, and the `activation` for them.

    The trial replays three samples out of order, so that a wrong batch axis is noticed. A single
    sample follows a changed copy of itself, whose scores are ignored.
    """
    samples = torch.tensor([1, 0, 1] if count > 1 else [0, 0], device="cpu")
    chosen = layout.of_samples(activation, count, samples)
    if count == 1:
        arranged = layout(chosen)
        chosen = layout.put_back(torch.cat([arranged[:1] / 2, arranged[1:]]), chosen)
    return samples, chosen
