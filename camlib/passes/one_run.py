"""Run a model once: capture layers, apply a rule, and keep what a replay needs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from camlib.errors import GraphError, LayerError
from camlib.passes.capture import Capture, Graph, capture
from camlib.passes.inputs import Inputs, detached
from camlib.passes.replay import Tail
from camlib.passes.running import completed
from camlib.passes.visits import Visits, visits
from camlib.state.norms import straighten
from camlib.state.undoing import Undoing


@dataclass(frozen=True, eq=False)
class OneRun:
    """The result of a run.

    Attributes:
        seen: the outputs of the layers.
        output: the output of the model.
        order: the modules that ran, if they were recorded.
        graphed: whether the model always needs a graph from the image on.
        handles: the number of the next hook handle, before the run. PyTorch numbers all hooks.
    """

    seen: Capture
    output: Any
    order: Visits
    graphed: bool
    handles: int

    @property
    def hooked(self) -> bool:
        """Whether the run put hooks on tensors, nodes or backward passes of modules."""
        return RemovableHandle.next_id != self.handles


def one_run(
    model: nn.Module,
    inputs: Inputs,
    layers: tuple[str, ...],
    graph: Graph,
    rule: AbstractContextManager[Any] | None,
    *,
    record: bool,
    optional: bool,
    tails: Sequence[Tail],
) -> OneRun:
    """Run `model` with as little graph as it allows; see `Pass.of` for the arguments.

    Raises:
        LayerError: a layer did not run, or cannot be read.
    """

    def attempt(given: Inputs) -> OneRun:
        graphed = given is not inputs
        needed: Graph = "whole" if graphed else graph
        recording: AbstractContextManager[Visits] = nullcontext(Visits())
        if record:
            recording = visits(model, len(inputs.size))
        with ExitStack() as stack:
            seen = stack.enter_context(capture(model, layers, graph=needed, optional=optional))
            if needed != "none" and len(inputs) == 1 and inputs.image.device.type == "cpu":
                straighten(stack.enter_context(Undoing()), model)
            stack.enter_context(rule or nullcontext())
            order = stack.enter_context(recording)
            for tail in tails:
                tail.graphed = graphed
                stack.enter_context(tail.recorded())
            handles = RemovableHandle.next_id
            try:
                output = given.owned().run(model)
            except RuntimeError as error:
                if seen.calls and "leaf Variable" in str(error) and "in-place" in str(error):
                    raise LayerError(
                        f"the output of layer {', '.join(map(repr, seen.names))} was overwritten "
                        "in place through another name after it ran; choose the layer before or "
                        "after it"
                    ) from error
                if needed != "none" and "Inference tensors cannot be saved" in str(error):
                    raise GraphError(
                        "the model, or a part of it, was created under torch.inference_mode(), so "
                        "it has no gradient; create it outside that block, or use ScoreCAM, which "
                        "needs no gradient"
                    ) from error
                raise
            # Leaving a no_grad block of the model undoes the mode that the hook has set.
            seen.interrupted |= needed != "none" and not torch.is_grad_enabled()
        if not optional:
            seen.activations()
        if graphed and graph == "none":
            seen.detach()
            output = detached(output)
        return OneRun(seen, output, order, graphed, handles)

    whole = graph == "whole" and inputs.image.requires_grad
    return completed(attempt, inputs, whole=whole)
