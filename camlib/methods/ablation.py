"""Ablation-CAM: what the score loses without a channel."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn

from camlib import maps
from camlib.methods.ablation_linear import Channelwise
from camlib.methods.cam import closest_classifier
from camlib.methods.components import summed_by_class
from camlib.methods.options import ReplayedOptions
from camlib.methods.replaying import ReplayedMethod, changed_scores
from camlib.options import checked
from camlib.passes.forward import Pass
from camlib.passes.names import Layers
from camlib.targets import Category

__all__ = ["AblationCAM"]


class AblationCAM(ReplayedMethod):
    """Ablation-CAM: a channel weighs what the score loses without it, ``w_k = y - y_{A_k := 0}``.

    Desai and Ramaswamy, WACV 2020, doi:10.1109/WACV45572.2020.9093360. The paper divides the loss
    by the score, which leaves the map as it is, or turns it around where the score is negative;
    here it is not divided. Channels that are zero lose nothing. Where global average pooling and
    one linear layer follow, the loss is ``W_ck mean(A_k)`` and nothing runs again. Where steps for
    each channel alone, a linear layer and more follow, as in VGG, that layer runs once for all
    channels, and only what comes after it for each. Use it at the last layer, to weigh channels by
    their share of the score. Weakness: at earlier layers one weight for a channel says little, and
    what follows is expensive to run.

    Args:
        eigen_smooth: the first principal component of the ``w_k A_k`` over positions in place of
            their sum, with the sign that makes its largest value positive: less noise, and no unit
            of the score.
    """

    name = "ablation_cam"
    cost = "1 forward, 1 forward of what follows the layer for each channel"

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        eigen_smooth: bool = False,
        **options: Unpack[ReplayedOptions],
    ) -> None:
        super().__init__(model, layer, **options)
        self.eigen_smooth = eigen_smooth

    def replayed_map(self, run: Pass, number: int, activation: Tensor) -> Tensor:
        """The channels, weighed by what the score loses without each."""
        weights = self._closed(run, number, activation)
        if weights is None:
            alive = activation.flatten(2).any(2)
            pairs = alive.T.nonzero().flip(1)
            weights = activation.new_zeros(*alive.shape, run.scores.shape[1])
            layout = self.layout_at(run, number)
            blocks = Channelwise.of(run, number, layout, self.chunks) if len(pairs) else None
            if blocks is None:
                left = changed_scores(run, number, layout, self.chunks, pairs, _without)
            else:
                left = blocks.scores(pairs)
            samples, channels = pairs.unbind(1)
            clean = maps.precise(run.scores).to(left.device)
            weights[samples, channels] = (clean[samples] - left).to(weights.dtype)
        return summed_by_class(weights, activation, eigen_smooth=self.eigen_smooth)

    def _closed(self, run: Pass, number: int, activation: Tensor) -> Tensor | None:
        """The weights ``(N, C, K)`` where pooling and one linear layer follow."""
        if not isinstance(run.target, Category):
            return None
        closest = closest_classifier(run, run.seen.activations()[number], activation)
        if not closest.holds:
            return None
        classes = run.target.classes.reshape(len(activation), -1)
        pooled = closest.features.flatten(2).mean(2)
        return (closest.weight[classes.to(pooled.device)] * pooled[:, None]).movedim(1, 2)


def _without(whole: Tensor, channels: Tensor) -> Tensor:
    """`whole` ``(M, C, *grid)`` with one of `channels` ``(M,)`` of each set to zero."""
    kept = torch.arange(whole.shape[1], device=whole.device) != channels[:, None]
    return whole.where(kept.reshape(*kept.shape, *[1] * (whole.ndim - 2)), 0)
