"""Recipro-CAM: what the model answers when it sees one position of a layer alone."""

from __future__ import annotations

import math
from typing import Unpack

import torch
from torch import Tensor, nn

from camlib.layouts import Custom, Layout, Placed, Series, Tokens
from camlib.methods.options import ReplayedOptions
from camlib.methods.replaying import ReplayedMethod
from camlib.options import checked
from camlib.passes.forward import Pass
from camlib.passes.names import Layers
from camlib.targets.classes import Asked, asked_as

__all__ = ["ReciproCAM"]


class ReciproCAM(ReplayedMethod):
    """Recipro-CAM: a position is worth what the model answers when it sees that position alone.

    ``M_i = p_c(A where everything but position i is 0)``. Byun and Lee, 2022, arXiv:2209.14074; for
    vision transformers arXiv:2310.02588, where the class token stays. It needs no gradient.
    Weakness: on large grids it is slow, with one run for each position. Where nothing speaks for
    the class, the map does not end at zero.

    With `gaussian`, a position comes with its neighbours, by the kernel ``[1 2 1] / 4`` along each
    axis; what falls over the border is lost. As in the authors' code, this is one operation in
    convolutional networks, where the features of the position itself stand at its neighbours, and
    another in transformers, where each neighbouring token keeps its own features.

    Args:
        score: ``"probability"`` (softmax) or ``"logit"`` of the class. Other targets, such as a
            function, are taken as they are.
        gaussian: whether a position comes with its neighbours. The authors' code for transformers
            does so by default, that for convolutional networks does not.
    """

    name = "recipro_cam"
    cost = "1 forward, 1 forward of what follows the layer for each position"
    rectify = False

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        score: Asked = "probability",
        gaussian: bool = False,
        **options: Unpack[ReplayedOptions],
    ) -> None:
        super().__init__(model, layer, **options)
        self.score: Asked = score
        self.gaussian = gaussian

    def replayed_map(self, run: Pass, number: int, activation: Tensor) -> Tensor:
        """The scores of each position alone."""
        grid = activation.shape[2:]
        own = _in_a_row(self.layout_at(run, number), run.seen.activations()[number])

        def alone(whole: Tensor, positions: Tensor) -> Tensor:
            flat = whole.flatten(2)
            values = flat if own else flat.take_along_dim(positions[:, None, None], 2)
            values = values.reshape(*whole.shape[:2], *(grid if own else [1] * len(grid)))
            places = torch.unravel_index(positions, grid)
            for axis, (place, length) in enumerate(zip(places, grid, strict=True)):
                shape = [len(whole), 1, *[1] * len(grid)]
                shape[2 + axis] = length
                values = values * self._line(length, place).to(values).reshape(shape)
            return values

        target = asked_as(run.target, self.score)
        scores = self.scores(run, number, math.prod(grid), alone, target)
        return scores.mT.reshape(*scores.shape[::2], *grid).to(activation.device)

    def _line(self, length: int, places: Tensor) -> Tensor:
        """What of each of `places` ``(M,)`` on a line comes to its positions, ``(M, length)``."""
        apart = (torch.arange(length, device=places.device) - places[:, None]).abs()
        return (2 - apart).clamp(min=0) / 4 if self.gaussian else apart == 0


def _in_a_row(layout: Layout, activation: Tensor) -> bool:
    """Whether `activation` is a row of tokens, as transformers have it, and no grid of its own."""
    if isinstance(layout, Custom):
        return activation.ndim == 3 and len(layout(activation).shape) > 3
    return isinstance(layout, Tokens | Series | Placed)
