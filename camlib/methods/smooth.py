"""Averages over noisy inputs: of maps, of attributions, of the derivatives in Grad-CAM++."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Unpack

import torch
from torch import Tensor, nn

from camlib.methods.averaged import Ensemble
from camlib.methods.base import Method
from camlib.methods.changed_inputs import View, averaged, noisy
from camlib.methods.components import summed
from camlib.methods.fullgrad import FullGrad
from camlib.methods.gradient import plus_plus
from camlib.methods.layer import LayerMethod
from camlib.methods.options import LayerOptions
from camlib.methods.pixel import Saliency
from camlib.options import Count, Seed, Width, checked
from camlib.passes.forward import Pass
from camlib.passes.inputs import Inputs
from camlib.passes.names import Layers
from camlib.passes.paths import Where
from camlib.targets import Target

__all__ = ["Smooth", "SmoothFullGrad", "SmoothGrad", "SmoothGradCAMPlusPlus"]

Statistic = Literal["mean", "square", "variance"]
"""What of the values at noisy images: their mean, the mean of their squares, their variance."""


class Noisy(Ensemble):
    """A method averaged over noise.

    Args:
        method: see `Ensemble`.
        samples: how many noisy images.
        sigma: of the noise, as a share of the image's range.
        statistic: ``"mean"``; ``"square"``, the mean of the squares (SmoothGrad-Squared, Hooker et
            al., NeurIPS 2019, arXiv:1806.10758); or ``"variance"``, of the population (VarGrad,
            Adebayo et al., NeurIPS 2018, arXiv:1810.03292). The last two have no sign.
        seed: of the noise.
        batch_size: how many noisy images the model sees at once; bounds the memory.
    """

    @checked
    def __init__(
        self,
        method: Method,
        *,
        samples: Count = 25,
        sigma: Width = 0.15,
        statistic: Statistic = "mean",
        seed: Seed = 0,
        batch_size: Count = 32,
    ) -> None:
        super().__init__(method)
        self.statistic: Statistic = statistic
        self.samples = samples
        self.sigma = sigma
        self.seed = seed
        self.batch_size = batch_size

    def views(self, run: Pass) -> Iterable[View]:
        """The inputs with noise."""
        return noisy(run, self.samples, self.sigma, self.seed, self.batch_size)

    def taken(self, run: Pass, again: Pass, values: list[Tensor]) -> list[Tensor]:
        """The values, their squares, or both."""
        squares = [value**2 for value in values] if self.statistic != "mean" else []
        return squares if self.statistic == "square" else [*values, *squares]

    def summarised(self, means: list[Tensor]) -> list[Tensor]:
        """The means, or the variance from those of values and squares."""
        if self.statistic != "variance":
            return means
        pairs = zip(means[: len(means) // 2], means[len(means) // 2 :], strict=True)
        return [(squares - mean**2).clamp(min=0) for mean, squares in pairs]


class Smooth(Noisy):
    """A method averaged over noise, ``mean_s M(x + e_s)``.

    After SmoothGrad, Smilkov et al., 2017, arXiv:1706.03825. ``e`` is normal with `sigma` times the
    range of each image, max - min. Of any map or attribution: of `Saliency` it is `SmoothGrad`, of
    `FullGrad` Smooth-FullGrad. What changes from pixel to pixel averages out. Maps of late layers
    change little with it; weak where the noise leads the network out of what it knows.
    """

    cost = "the method's, for each of 25 samples and once more"


class SmoothGrad(Noisy):
    """SmoothGrad: the gradient averaged over noise, ``mean_s dy_c(x + e_s) / dx``.

    Smilkov et al., 2017, arXiv:1706.03825. It is `Smooth` of `Saliency`. The gradient of a ReLU
    network jumps from pixel to pixel; its average does not. It is signed; the paper shows the
    absolute value. Weakness: strong noise leads the network away from what it knows. The values do
    not sum to the score, as those of the gradient do not.

    Args:
        reduce: ``None`` for the signed gradient ``(N, C, H, W)``; ``"max"``, ``"sum"`` or ``"l2"``
            of its absolute values over channels, after the average, for a map ``(N, H, W)``.
    """

    name = "smooth_grad"
    cost = "1 forward, 1 forward and backward for each of 25 samples"
    named = True

    @checked
    def __init__(
        self,
        model: nn.Module,
        *,
        reduce: Literal["max", "sum", "l2"] | None = None,
        samples: Count = 25,
        sigma: Width = 0.15,
        statistic: Statistic = "mean",
        seed: Seed = 0,
        batch_size: Count = 32,
        image: Where | None = None,
        image_layout: str | None = None,
        eval: bool = True,
    ) -> None:
        super().__init__(
            Saliency(model, reduce=reduce, image=image, image_layout=image_layout, eval=eval),
            samples=samples,
            sigma=sigma,
            statistic=statistic,
            seed=seed,
            batch_size=batch_size,
        )


class SmoothFullGrad(Noisy):
    """Smooth-FullGrad: the terms of FullGrad averaged over noise, then drawn.

    Srinivas and Fleuret, NeurIPS 2019, arXiv:1905.00780, with the noise of SmoothGrad. It is
    `Smooth` of `FullGrad`; the authors' code sums the input's term over colours before its absolute
    value, here it is drawn as in FullGrad. Calmer than FullGrad, 25 times its cost, and as weak
    at telling classes apart; the authors do not promise that it is better.
    """

    name = "smooth_full_grad"
    cost = "1 forward, 1 forward and backward for each of 25 samples"
    named = True

    @checked
    def __init__(
        self,
        model: nn.Module,
        *,
        samples: Count = 25,
        sigma: Width = 0.15,
        seed: Seed = 0,
        batch_size: Count = 32,
        image: Where | None = None,
        image_layout: str | None = None,
        eval: bool = True,
    ) -> None:
        super().__init__(
            FullGrad(model, image=image, image_layout=image_layout, eval=eval),
            samples=samples,
            sigma=sigma,
            seed=seed,
            batch_size=batch_size,
        )


class SmoothGradCAMPlusPlus(LayerMethod):
    """Smooth Grad-CAM++: Grad-CAM++ with its derivatives averaged over noise.

    Omeiza et al., 2019, arXiv:1908.01224. ``w_k = sum_i a_ki relu(D1_ki)`` with
    ``a_ki = D2_ki / (2 D2_ki + S_k D3_ki)``, where ``Dp`` is the mean of ``G^p`` over noisy inputs
    and ``A`` and ``S_k = sum_j A_kj`` are of the clean one. The paper prints ``D1`` as the
    numerator of ``a``; without noise that would not be Grad-CAM++. ``Smooth(GradCAMPlusPlus(...))``
    averages the maps instead, with the activations of the noisy inputs. The noise is that of
    SmoothGrad. Before global pooling and one linear layer there is nothing to smooth, as the
    gradient is the same for every input: the map is that of Grad-CAM++. Where few gradients of a
    place are positive, ``D3`` may have another sign than ``D1`` and the denominator vanish: weak
    there, and on layers with negative values.

    Args:
        samples: how many noisy images.
        sigma: of the noise, as a share of the image's range.
        seed: of the noise.
        batch_size: how many noisy images the model sees at once; bounds the memory.
        normalize_alpha: divide ``a_k`` by its sum over positions with positive gradient, as the
            authors' code of Grad-CAM++ does and the paper does not.
        eigen_smooth: the first principal component of the ``w_k A_k`` over positions in place of
            their sum, with the sign that makes its largest value positive: less noise, and no unit
            of the score.
    """

    name = "smooth_grad_cam_plus_plus"
    linear = False
    cost = "1 forward, 1 forward and backward of what follows the layer for each of 25 samples"

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        samples: Count = 25,
        sigma: Width = 0.15,
        seed: Seed = 0,
        batch_size: Count = 32,
        normalize_alpha: bool = False,
        eigen_smooth: bool = False,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(model, layer, **options)
        self.normalize_alpha = normalize_alpha
        self.eigen_smooth = eigen_smooth
        self.samples = samples
        self.sigma = sigma
        self.seed = seed
        self.batch_size = batch_size

    def signed_maps(self, run: Pass) -> list[Tensor]:
        """The activations, weighted by the means of the powers of the gradient."""

        def powers(again: Pass) -> list[Tensor]:
            return [torch.stack([g, g**2, g**3], 2) for g in self._derivatives(again)]

        def read(_: Tensor, inputs: Inputs, target: Target) -> list[Tensor]:
            return self._from(run.seen.names, run.model, inputs, target, read=powers)[1]

        views = noisy(run, self.samples, self.sigma, self.seed, self.batch_size)
        weighted = []
        for activation, means in zip(
            self.activations(run), averaged(run, views, read), strict=True
        ):
            first, second, third = means.flatten(0, 1).unbind(1)
            ratio = third / second.where(second > 0, 1)
            every = activation.repeat_interleave(means.shape[1], 0)
            with torch.autocast(activation.device.type, enabled=False):
                weights = plus_plus(every, first, ratio, normalize_alpha=self.normalize_alpha)
                each = summed(weights, every, eigen_smooth=self.eigen_smooth)
            weighted.append(each.reshape(*means.shape[:2], *each.shape[1:]))
        return weighted
