"""Score-CAM, and its kin with several masks of each channel.

The kin cost many times what Score-CAM does, and neither is known to be better than it by a measure
that others have repeated; they are here for comparison with what was published.
"""

from __future__ import annotations

from typing import Literal, Unpack

import torch
from torch import Tensor, nn

from camlib.draws import Draws
from camlib.errors import OptionError
from camlib.methods.changed_inputs import beside
from camlib.methods.masked import MaskedLayerMethod
from camlib.methods.options import MaskedLayerOptions
from camlib.options import Count, Seed, Width, checked
from camlib.passes.names import Layers

__all__ = ["ISCAM", "SSCAM", "ScoreCAM"]


class ScoreCAM(MaskedLayerMethod):
    """Score-CAM: a channel weighs what the model answers when it sees only that channel's region.

    ``w_k = p_c(x * H_k)`` with ``H_k`` the channel resized to the input and scaled to [0, 1]. Wang
    et al., CVPR Workshops 2020, arXiv:1910.01279. The paper gives three definitions that differ;
    this is the one of the authors' code, the others are options. Zero input stands for "no image",
    so inputs should be normalised to zero mean. Channels that are constant say nothing and are
    skipped; of those that give the same mask, one is run. It needs no gradient. Weakness: it is
    expensive, and the network has never seen masked images of this kind; `GroupCAM` is the fast
    form.

    The authors' code resizes the map before its ReLU, which is the same where activations are not
    negative. On signed layers their form is ``ScoreCAM(model, layer, relu=False,
    normalize=False)(images).relu()``, then scaled.
    """

    name = "score_cam"
    cost = "1 forward, 1 forward for each channel"

    def masks(self, regions: Tensor, numbers: Tensor) -> Tensor:
        """The regions themselves."""
        return regions

    def weights(self, scores: Tensor, clean: Tensor) -> Tensor:
        """The scores."""
        return scores


class SSCAM(MaskedLayerMethod):
    """SS-CAM: Score-CAM with noise on the masks, ``w_k = mean_s p_c(x * (H_k + e_s))``.

    Wang, Naidu, Michael and Kundu, 2020, arXiv:2006.14255, the variant with noise on the activation
    map. ``e`` is normal; the masks leave [0, 1] and are not scaled again. The `sigma` of the paper,
    2, drowns the mask and shows the network noise that it does not know; small ones give Score-CAM
    back. In the authors' code, ``form="code"``, a mask is the channel as it is, only resized, and
    the noise has a deviation of ``(2 / range)^2`` of that mask. Weakness: it costs ten times as
    much as Score-CAM; try `Smooth` around a cheaper method first.

    Args:
        samples: how many noisy masks of each channel.
        sigma: of the noise, where masks lie in [0, 1]; by default 2, as in the paper.
        seed: of the noise.
        form: ``"paper"``, or ``"code"`` as in the authors' code, which takes no `sigma`.

    Raises:
        OptionError: `sigma` is given with ``form="code"``.
    """

    name = "ss_cam"
    cost = "1 forward, 10 forward for each channel"

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        samples: Count = 10,
        sigma: Width | None = None,
        seed: Seed = 0,
        form: Literal["paper", "code"] = "paper",
        **options: Unpack[MaskedLayerOptions],
    ) -> None:
        super().__init__(model, layer, **options)
        if form == "code" and sigma is not None:
            raise OptionError(
                f"sigma={sigma} does not go with form='code', where the range of each mask decides "
                "the deviation of its noise; leave out sigma or pass form='paper'"
            )
        self.masks_each = samples
        self.sigma = 2.0 if sigma is None else sigma
        self.seed = seed
        self.scaled = form == "paper"

    def masks(self, regions: Tensor, numbers: Tensor) -> Tensor:
        """The regions with noise, drawn once for all channels."""
        noise = Draws(self.seed).normal(self.masks_each, *regions.shape[1:]).to(regions)[numbers]
        if self.scaled:
            return regions + self.sigma * noise
        rows = regions.flatten(1)
        deviations = (2 / (rows.amax(1) - rows.amin(1))).square()
        return regions + beside(deviations, regions) * noise

    def weights(self, scores: Tensor, clean: Tensor) -> Tensor:
        """The scores."""
        return scores


class ISCAM(MaskedLayerMethod):
    """IS-CAM: Score-CAM with masks from faint to full, ``w_k = mean_i p_c(x * H_k * i / N)``.

    Naidu et al., 2020, arXiv:2010.03023, with ``i`` from 1 to ``N``. As published, the factors are
    summed up on the way, ``sum_{j <= i} j / N``, up to ``(N + 1) / 2``: most pictures are then
    brighter than any the network knows; ``cumulative=True`` does so. Ten times the cost of
    Score-CAM; weak where a faint picture is no evidence of anything.

    Args:
        samples: how many factors, ``N``.
        cumulative: whether factors are summed up, as published.
    """

    name = "is_cam"
    cost = "1 forward, 10 forward for each channel"

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        samples: Count = 10,
        cumulative: bool = False,
        **options: Unpack[MaskedLayerOptions],
    ) -> None:
        super().__init__(model, layer, **options)
        self.masks_each = samples
        self.cumulative = cumulative

    def masks(self, regions: Tensor, numbers: Tensor) -> Tensor:
        """The regions, from faint to full."""
        steps = torch.arange(1, self.masks_each + 1, device=regions.device)
        factors = steps.to(regions) / self.masks_each
        if self.cumulative:
            factors = factors.cumsum(0)
        return regions * beside(factors[numbers], regions)

    def weights(self, scores: Tensor, clean: Tensor) -> Tensor:
        """The scores."""
        return scores
