"""Maps from the attention of a vision transformer.

``A^l`` is the attention of block ``l`` of ``L``, ``(N, heads, T, T)``: how much each token, a row,
takes from each, a column. ``G^l`` is the gradient of the score at it. A map is read off at the
patches; class, distillation and register tokens are left out.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Annotated, Any, Unpack

import torch
from torch import Tensor, nn

from camlib.errors import GraphError
from camlib.layouts import Layout, adapted
from camlib.methods.attention_blocks import Blocks, blocks_of
from camlib.methods.heatmap import MapMethod
from camlib.methods.options import AttentionOptions, MapOptions
from camlib.options import Count, Range, checked
from camlib.passes.capture import Graph
from camlib.passes.forward import GRAPHS, Pass
from camlib.passes.inputs import Inputs
from camlib.passes.names import unwrap
from camlib.passes.replay import Needs, Tail
from camlib.rules.attention import Attending, Attention
from camlib.rules.relu import without_recomputation

__all__ = ["AttentionMethod", "AttentionRollout", "GradientRollout"]


class AttentionMethod(MapMethod):
    """A map from what each block of a vision transformer attends to.

    The model has to attend by ``softmax(q k^T / sqrt(d)) v`` from all tokens to all tokens, as ViT,
    DeiT, DINOv2, BEiT and CLIP do; fused or not, of any library. Windows and convolutions are for
    `GradCAM`.

    Args:
        model: any vision transformer; wrapped, compiled, frozen or training.
        blocks: how many of the last blocks count; all by default, as in the papers.
        layout: turns tokens ``(N, T, C)`` into ``(N, C, *grid)``; recognised by default.

    Raises:
        InputError: in a call, there are not so many blocks.
        ModelError: `model` is not a module; in a call, it does not attend like that.
    """

    rectify = False
    needs_attention = True

    @checked
    def __init__(
        self,
        model: nn.Module,
        *,
        blocks: Count | None = None,
        layout: Layout | Callable[[Tensor], Tensor] | None = None,
        **options: Unpack[MapOptions],
    ) -> None:
        super().__init__(model, **options)
        self.blocks = blocks
        self.layout = None if layout is None else adapted(layout)
        self._found: dict[Any, Blocks] = {}
        self._needs: dict[Any, Needs] = {}

    @abstractmethod
    def signed_maps(self, run: Pass, blocks: Blocks, calls: Sequence[Attention]) -> list[Tensor]:
        """The maps ``(N, K, *grid)`` from the calls of attention in `run`."""

    def _first(self, blocks: Blocks) -> int | None:
        """The number of the first call that needs a graph; ``None`` if no call does."""
        return blocks.calls[0]

    def _layers(self, blocks: Blocks) -> tuple[str, ...]:
        """The layers whose output is changed, and what follows the last of them run again."""
        return ()

    def values(self, model: nn.Module, given: Inputs, target: Any) -> tuple[Pass, list[Tensor]]:
        """The clean pass and its maps."""
        key = given.form
        if key not in self._found:
            self._found[key] = blocks_of(model, given, self.layout)
        blocks = self._found[key].latest(self.blocks)
        layers, first = self._layers(blocks), self._first(blocks)
        graphs: tuple[Graph, ...] = GRAPHS if first is not None else ("none",)
        if self.differentiable:
            graphs = ("whole",)
        for graph in graphs:
            attending = Attending(first)
            needs = self._needs.setdefault(key, Needs())
            tails = [Tail(model, name, needs) for name in layers[-1:]]
            run = Pass.of(model, given, target, layers, graph, attending, tails=tails)
            run.seen.windows = dict.fromkeys(layers or ("",), blocks.window)
            if (run.seen.interrupted or attending.interrupted) and graph == "tail":
                continue
            try:
                with without_recomputation("attention"):
                    maps = self.signed_maps(run, blocks, attending.found)
                # A softmax may be one of float32 whatever the model is.
                dtype = torch.promote_types(maps[0].dtype, run.scores.dtype)
                return run, [each.to(dtype) for each in maps]
            except GraphError:
                if graph == graphs[-1]:
                    raise
        raise AssertionError("the whole graph comes last")

    def _gradients(
        self, run: Pass, calls: Sequence[Attention], scores: Tensor | None = None
    ) -> Iterator[list[Tensor]]:
        """The gradients of `scores` ``(N, K)`` at `calls`, each ``(k, N, heads, T, S)``."""
        matrices = [call.matrix for call in calls]
        names = ["attention"] * len(calls)
        options = {"create_graph": self.differentiable, "allow_unused": True}
        for gradients in run.gradients(matrices, names, scores, **options):
            yield [call.per_head(each) for call, each in zip(calls, gradients, strict=True)]

    def advice(self, run: Pass, layer: str) -> str:
        """Another family."""
        return "GradCAM reads the tokens of any layer and may know more"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(unwrap(self.model)).__name__})"


class AttentionRollout(AttentionMethod):
    """Attention rollout: attention followed through the blocks, ``A^L ... A^2 A^1``.

    Each factor is ``mean_h A^l + I`` with its rows normalised, as a token keeps half of itself.
    Abnar and Zuidema, ACL 2020, arXiv:2005.00928. The map is the row of the class token; where the
    answer is read from other tokens, the mean of their rows. The baseline for other maps of
    attention. Class-agnostic; weak because all heads count the same, and the values and perceptrons
    not at all: deep networks blur to a mean.

    Args:
        discard: the share of the lowest values of each block's mean attention that are set to zero,
            0.9 in a well-known code. What the first token has of itself stays.
    """

    name = "attention_rollout"
    cost = "1 forward"

    @checked
    def __init__(
        self,
        model: nn.Module,
        *,
        discard: Annotated[float, Range(0, 1, below=True)] = 0.0,
        **options: Unpack[AttentionOptions],
    ) -> None:
        super().__init__(model, **options)
        self.discard = discard

    def _first(self, blocks: Blocks) -> int:
        return blocks.last

    def signed_maps(self, run: Pass, blocks: Blocks, calls: Sequence[Attention]) -> list[Tensor]:
        """The row that the answer is read from, followed through the blocks."""
        last = calls[blocks.last]
        read = torch.zeros(last.shape[2], device=last.matrix.device, dtype=torch.bool)
        with suppress(GraphError):  # a model may have none
            for [gradient] in self._gradients(run, [last]):
                read |= _read(gradient)
        with torch.autocast(read.device.type, enabled=False):
            means = {i: calls[i].per_head(calls[i].matrix).mean(1) for i in blocks.all}
            if self.discard:
                means |= {i: _without_lowest(means[i], self.discard) for i in blocks.calls}
            row = _mean_row(blocks.queries(read), means[blocks.last])
            if blocks.pooling is not None:
                row = _through(row, means[blocks.pooling])
            for i in reversed(blocks.calls):
                row = _through(row, rolled(means[i]))
        return [blocks.arranged(row[:, None]).repeat_interleave(run.scores.shape[1], 1)]


class GradientRollout(AttentionMethod):
    """Gradient-weighted rollout: the attention that speaks for the class, through the blocks.

    ``R = (I + B^L) ... (I + B^1)`` with ``B^l = mean_h relu(G^l A^l)``. Chefer, Gur and Wolf, ICCV
    2021, arXiv:2103.15679, the rule for self-attention. The map is the row of the class token in
    ``R - I``; where the answer is read from other tokens, the mean of their rows. It shows the
    evidence for a class, where rollout shows whatever the model attends to. Weakness: evidence
    against the class is cut off in every block.
    """

    name = "gradient_rollout"
    linear = False
    cost = "1 forward, 1 backward"

    def signed_maps(self, run: Pass, blocks: Blocks, calls: Sequence[Attention]) -> list[Tensor]:
        """The row that the answer is read from, followed through what speaks for the target."""
        chosen = [calls[i] for i in blocks.all]
        chunks = []
        for chunk in self._gradients(run, chosen):
            with torch.autocast(chunk[0].device.type, enabled=False):
                steps = {
                    i: (gradient * call.per_head(call.matrix)).relu().mean(2).flatten(0, 1)
                    for i, call, gradient in zip(blocks.all, chosen, chunk, strict=True)
                }
                own = row = _mean_row(blocks.queries(_read(chunk[-1])), steps[blocks.last])
                if blocks.pooling is not None:
                    row = _through(row, steps[blocks.pooling])
                    own = torch.zeros_like(row)
                for i in reversed(blocks.calls):
                    row = row + _through(row, steps[i])
            relevance = (row - own).reshape(-1, len(run.inputs), row.shape[1])
            chunks.append(relevance.movedim(0, 1))
        return [blocks.arranged(torch.cat(chunks, 1))]


def rolled(attention: Tensor) -> Tensor:
    """A step of rollout: `attention` ``(N, T, T)`` and the identity, rows normalised."""
    whole = attention + torch.eye(attention.shape[-1], device=attention.device).to(attention)
    return whole / whole.sum(-1, keepdim=True)


def _without_lowest(attention: Tensor, share: float) -> Tensor:
    """`attention` ``(N, T, T)`` with the lowest `share` of its values, but the first, at zero."""
    flat = attention.flatten(1)
    lowest = flat.topk(int(flat.shape[1] * share), 1, largest=False).indices
    kept = torch.ones_like(flat, dtype=torch.bool).scatter(1, lowest, False)
    kept[:, 0] = True
    return flat.where(kept, 0).reshape(attention.shape)


def _mean_row(chosen: Tensor, step: Tensor) -> Tensor:
    """The mean of the rows `chosen` ``(T,)`` of the identity, ``(N, T)`` as for `step`."""
    return (chosen.to(step.dtype) / chosen.sum()).expand(len(step), -1)


def _through(row: Tensor, step: Tensor) -> Tensor:
    """What tokens before `step` ``(N, T, S)`` have in `row` ``(N, T)`` behind it, ``(N, S)``."""
    return torch.einsum("nt,nts->ns", row, step)


def _read(gradient: Tensor) -> Tensor:
    """Which tokens ``(T,)`` a gradient ``(k, N, heads, T, S)`` comes from."""
    return (gradient != 0).flatten(0, 2).any(2).any(0)
