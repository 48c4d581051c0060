"""Maps from what the model answers when activations are changed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Unpack

import torch
from torch import Tensor, nn

from camlib.layouts import Layout
from camlib.methods.layer import LayerMethod
from camlib.methods.options import LayerOptions
from camlib.options import Count, checked
from camlib.passes.chunks import Chunks, Progress
from camlib.passes.forward import Pass
from camlib.passes.names import Layers
from camlib.targets import Target

__all__ = ["ReplayedMethod"]

Change = Callable[[Tensor, Tensor], Tensor]
"""From activations of samples ``(M, C, *grid)`` and a number for each to the changed ones."""


class ReplayedMethod(LayerMethod):
    """A map from running again what follows the layer, on changed activations.

    Only what follows runs; where a model defeats that, all of it, and `Explanation.replayed` says
    so. Tokens that the map does not show, such as a class token, are kept as they are. A subclass
    says what to change, and what map follows from the scores.

    Args:
        batch_size: how many changed activations run at once; by default what fits into memory.
        progress: wraps the loop over batches, such as `tqdm.tqdm`.
    """

    graph = "none"
    replays = True

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        batch_size: Count | None = None,
        progress: Progress | None = None,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(model, layer, **options)
        self.chunks = Chunks(batch_size, progress)

    @abstractmethod
    def replayed_map(self, run: Pass, number: int, activation: Tensor) -> Tensor:
        """The signed map ``(N, K, *grid)`` of a layer.

        Args:
            run: the clean pass; ``run.scores`` ``(N, K)`` are its scores.
            number: of the layer, to be handed on to `scores`.
            activation: of the layer, ``(N, C, *grid)``, in float32 at least.
        """

    def scores(
        self, run: Pass, number: int, count: int, change: Change, target: Target | None = None
    ) -> Tensor:
        """The scores ``(N, count, K)`` of changed activations, in float32 at least.

        Args:
            run: the clean pass.
            number: of the layer.
            count: how many changes to make of each sample.
            change: from activations ``(M, C, *grid)`` and the number of the change to make in each
                ``(M,)`` to the changed ones, which may be any tensor of that shape.
            target: what to ask instead of the target of the pass.
        """
        samples = len(run.inputs)
        pairs = torch.cartesian_prod(*(torch.arange(n, device="cpu") for n in (samples, count)))
        layout = self.layout_at(run, number)
        scores = changed_scores(run, number, layout, self.chunks, pairs, change, target)
        return scores.reshape(samples, count, -1)

    def signed_maps(self, run: Pass) -> list[Tensor]:
        """The map of each layer."""
        return [self.replayed_map(run, n, each) for n, each in enumerate(self.activations(run))]

    def layout_at(self, run: Pass, number: int) -> Layout:
        """The layout of the output of layer `number`."""
        shape = run.seen.activations()[number].shape
        return self._reading(run, run.seen.names[number], shape).layout


def changed_scores(
    run: Pass,
    number: int,
    layout: Layout,
    chunks: Chunks,
    pairs: Tensor,
    change: Change,
    target: Target | None = None,
) -> Tensor:
    """The scores ``(P, K)`` for `pairs` ``(P, 2)`` of a sample and a number for `change`.

    Args:
        run: the clean pass, with what follows its layers.
        number: of the layer.
        layout: of its output.
        chunks: how many pairs run at once.
        pairs: what to run.
        change: what becomes of the activation.
        target: what to ask instead of the target of the pass.
    """
    raw = run.seen.activations()[number]

    def scores(chunk: Tensor) -> Tensor:
        samples, numbers = chunk.unbind(1)
        whole = layout.of_samples(raw, len(run.inputs), samples)
        changed = change(layout(whole), numbers.to(raw.device))
        answers = run.again(number, samples, layout.put_back(changed, whole), target)
        return answers.to(raw.device)

    run.try_replay(number, layout, several=chunks.size != 1 or len(run.inputs) > 1)
    like = run.inputs.image, layout(raw)
    pairs = pairs.to(run.inputs.image.device)
    answered = [each for _, each in chunks.run(scores, pairs, *like)]
    return torch.cat(answered) if answered else run.scores.new_zeros(0, run.scores.shape[1])
