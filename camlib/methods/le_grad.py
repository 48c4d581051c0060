"""LeGrad: each block of a transformer explained by a score of its own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Literal, Unpack

import torch
from torch import Tensor, nn

from camlib.errors import ModelError
from camlib.maps import Fuse
from camlib.methods.attention import AttentionMethod
from camlib.methods.attention_blocks import Blocks
from camlib.methods.options import AttentionOptions
from camlib.options import checked
from camlib.passes.forward import Pass
from camlib.rules.attention import Attending, Attention

__all__ = ["LeGrad"]


class LeGrad(AttentionMethod):
    """LeGrad: what attention would raise the score, summed over the blocks.

    ``E = sum_l mean_hq relu(ds^l / dA^l)``, the mean over heads and rows. Bousselham et al., ICCV
    2025, arXiv:2404.03214. The score ``s^l`` is what the network makes of the tokens behind block
    ``l`` where it expects those behind the last one: with its own norm, pooling and head, which run
    again. It shows the evidence for a class, also in deep networks, as no block is seen through
    another. Weakness: early blocks count as much as the last, also if the head cannot read their
    tokens.

    Where attention pools the tokens in the end, as in SigLIP and CoCa, ``A^l`` is that of the
    pooling over the tokens of block ``l``, as in the authors' code; its rows are those that the
    answer is read from. The tokens pass the network's norm on the way, which that code leaves out.

    All blocks count by default, as in the paper; the authors' code takes the last two,
    ``blocks=2``.

    Args:
        tokens: ``"mean"``: in ``s^l`` each token is replaced by the mean of all, as the authors'
            code for CLIP does it, whichever of them the network pools; ``"own"``: the tokens stay
            what they are, and ``s^L`` is the score. By default ``"own"`` where attention pools
            them, and else ``"mean"``.
    """

    name = "le_grad"
    cost = "1 forward, 1 forward and backward of what follows, for each block"
    fuse: Fuse = "sum"

    @checked
    def __init__(
        self,
        model: nn.Module,
        *,
        tokens: Literal["mean", "own"] | None = None,
        **options: Unpack[AttentionOptions],
    ) -> None:
        super().__init__(model, **options)
        self.tokens = tokens

    def _first(self, blocks: Blocks) -> int | None:
        return blocks.calls[0] if blocks.pooling is None else None

    def _layers(self, blocks: Blocks) -> tuple[str, ...]:
        if not blocks.names:
            raise ModelError(
                "the blocks of the model are no modules of their own, so what follows them cannot "
                "be run on other tokens; use GradientRollout"
            )
        return blocks.names

    def signed_maps(self, run: Pass, blocks: Blocks, calls: Sequence[Attention]) -> list[Tensor]:
        """The mean positive gradient at the attention of each block."""
        axis = blocks.layout.samples_axis
        outputs = run.seen.activations()
        samples = torch.arange(len(run.inputs), device=run.inputs.image.device)
        run.try_replay(-1, blocks.layout, several=False)
        maps = []
        mean = self.tokens == "mean" or (self.tokens is None and blocks.pooling is None)
        for call, output in zip(blocks.calls, outputs, strict=True):
            again = nullcontext() if blocks.pooling is None else Attending(0)
            with torch.enable_grad():
                changed = output.clone()
                if mean:
                    changed = output.mean(1 - axis, keepdim=True).expand_as(output).clone()
                with again as attending:
                    scores = run.again(-1, samples, changed)
            attention = calls[call]
            if attending is not None and blocks.pooling is not None:
                # As many calls follow the pooling as in the whole pass, and maybe less precede it.
                attention = attending.found[blocks.pooling - len(calls)]
            chunks = [
                _mean(gradient, read=blocks.pooling is not None)
                for [gradient] in self._gradients(run, [attention], scores)
            ]
            maps.append(blocks.arranged(torch.cat(chunks).movedim(0, 1)))
        return maps


def _mean(gradient: Tensor, *, read: bool) -> Tensor:
    """The mean of positive `gradient` ``(k, N, heads, T, S)`` over heads and rows, ``(k, N, S)``.

    With `read`, over the rows that have any gradient.
    """
    rows = gradient.relu().mean(2)
    if not read:
        return rows.mean(2)
    used = (gradient != 0).any(2).any(3).sum(2, keepdim=True)
    return rows.sum(2) / used.clamp(min=1)
