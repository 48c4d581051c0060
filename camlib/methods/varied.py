"""Score-CAM with several masks of each channel.

Both cost many times what Score-CAM does, and neither is known to be better than it by a measure
that others have repeated; they are here for comparison with what was published.
"""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn

from camlib.draws import Draws
from camlib.methods.options import ScoreOptions
from camlib.methods.perturbation import ScoreCAM
from camlib.methods.views import beside
from camlib.modules import Layers
from camlib.options import Count, Seed, Width, checked


class SSCAM(ScoreCAM):
    """SS-CAM: Score-CAM with noise on the masks, ``w_k = mean_s p_c(x * (H_k + e_s))``.

    Wang, Naidu, Michael and Kundu, 2020, arXiv:2006.14255, the variant with noise on the activation
    map. ``e`` is normal; the masks leave [0, 1] and are not scaled again. In the authors' code the
    mask is the resized channel, not scaled to [0, 1] at all, and the noise has a deviation of
    ``(2 / range)^2`` of that channel; here it has the paper's `sigma`, the same for all channels
    and images. That `sigma` drowns the mask and shows the network noise that it does not know;
    small ones give Score-CAM back. Weak for ten times its cost: try `Smooth` around a cheaper one.

    Args:
        samples: how many noisy masks of each channel.
        sigma: of the noise, where masks lie in [0, 1].
        seed: of the noise.
    """

    cost = "1 forward, 10 forward for each channel"

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        samples: Count = 10,
        sigma: Width = 2.0,
        seed: Seed = 0,
        **options: Unpack[ScoreOptions],
    ) -> None:
        super().__init__(model, layer, **options)
        self.ways = samples
        self.sigma = sigma
        self.seed = seed

    def _varied(self, masks: Tensor, ways: Tensor) -> Tensor:
        noise = Draws(self.seed).normal(self.ways, *masks.shape[1:])
        return masks + self.sigma * noise.to(masks)[ways]


class ISCAM(ScoreCAM):
    """IS-CAM: Score-CAM with masks from faint to full, ``w_k = mean_i p_c(x * H_k * i / N)``.

    Naidu et al., 2020, arXiv:2010.03023, with ``i`` from 1 to ``N``. As published, the factors are
    summed up on the way, ``sum_{j <= i} j / N``, up to ``(N + 1) / 2``: most pictures are then
    brighter than any the network knows; ``cumulative=True`` does so. Ten times the cost of
    Score-CAM; weak where a faint picture is no evidence of anything.

    Args:
        samples: how many factors, ``N``.
        cumulative: whether factors are summed up, as published.
    """

    cost = "1 forward, 10 forward for each channel"

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        samples: Count = 10,
        cumulative: bool = False,
        **options: Unpack[ScoreOptions],
    ) -> None:
        super().__init__(model, layer, **options)
        self.ways = samples
        self.cumulative = cumulative

    def _varied(self, masks: Tensor, ways: Tensor) -> Tensor:
        factors = torch.arange(1, self.ways + 1, device=masks.device).to(masks) / self.ways
        if self.cumulative:
            factors = factors.cumsum(0)
        return masks * beside(factors[ways], masks)
