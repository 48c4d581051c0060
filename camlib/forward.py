"""One forward pass on the clean input: what the layers saw, what was answered, what is asked.

Everything a method does starts here.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from camlib import targets
from camlib.capture import Capture, Graph, capture, gradients
from camlib.inputs import Inputs
from camlib.rules import without_recomputation
from camlib.targets import Target

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
        output: what the model returned.
        target: what is explained, resolved.
        scores: ``(N, K)``, with their graph.
        shape: ``()`` for one score a sample, ``(K,)`` for several.
    """

    model: nn.Module
    inputs: Inputs
    seen: Capture
    output: Any
    target: Target
    scores: Tensor
    shape: tuple[int, ...]

    @classmethod
    def of(
        cls, model: nn.Module, inputs: Inputs, target: Any, layers: tuple[str, ...], graph: Graph
    ) -> Pass:
        """The pass, `target` resolved on its output."""
        with capture(model, layers, graph=graph) as seen:
            output = inputs.run(model)
            seen.activations()
            # A model that leaves a no_grad block of its own leaves the hook's grad mode with it.
            with torch.set_grad_enabled(graph != "none"):
                chosen = targets.resolve(target, output, len(inputs))
                scores = chosen(output)
                shape = tuple(scores.shape[1:])
                scores = scores.reshape(len(inputs), -1)
        return cls(model, inputs, seen, output, chosen, scores, shape)


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
        with rule or nullcontext():
            run = Pass.of(model, given.owned().with_image(image.clone()), target, (), "whole")
        with without_recomputation() if rule else nullcontext():
            found = [gradient for [gradient] in gradients(run.scores, [image], ["the input"])]
    return run, torch.cat(found).movedim(0, 1)
