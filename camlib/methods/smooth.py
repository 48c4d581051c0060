"""Averages over noisy inputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from torch import Tensor, nn

from camlib.forward import Pass
from camlib.methods.base import Averageable
from camlib.methods.ensemble import Ensemble
from camlib.methods.fullgrad import FullGrad
from camlib.methods.pixel import Saliency
from camlib.methods.views import View, noisy
from camlib.options import Count, Seed, Width, checked
from camlib.paths import Where

Statistic = Literal["mean", "square", "variance"]
"""What of the values at noisy images: their mean, the mean of their squares, their variance."""


class Smooth(Ensemble):
    """A method averaged over noise, ``mean_s M(x + e_s)``.

    After SmoothGrad, Smilkov et al., 2017, arXiv:1706.03825. ``e`` is normal with `sigma` times the
    range of each image, max - min. Of any map or attribution: of `Saliency` it is `SmoothGrad`, of
    `FullGrad` Smooth-FullGrad. What changes from pixel to pixel averages out. Maps of late layers
    change little with it; weak where the noise leads the network out of what it knows.

    Args:
        samples: how many noisy images.
        sigma: of the noise, as a share of the image's range.
        statistic: ``"mean"``; ``"square"``, the mean of the squares (SmoothGrad-Squared, Hooker et
            al., NeurIPS 2019, arXiv:1806.10758); or ``"variance"``, of the population (VarGrad,
            Adebayo et al., NeurIPS 2018, arXiv:1810.03292). The last two have no sign.
        seed: of the noise.
        batch_size: how many noisy images the model sees at once; bounds the memory.
    """

    cost = "the method's, for each of 25 samples and once more"

    @checked
    def __init__(
        self,
        method: Averageable,
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

    def _views(self, run: Pass) -> Iterable[View]:
        return noisy(run, self.samples, self.sigma, self.seed, self.batch_size)

    def _taken(self, values: list[Tensor]) -> list[Tensor]:
        squares = [value**2 for value in values] if self.statistic != "mean" else []
        return squares if self.statistic == "square" else [*values, *squares]

    def _summarised(self, means: list[Tensor]) -> list[Tensor]:
        if self.statistic != "variance":
            return means
        pairs = zip(means[: len(means) // 2], means[len(means) // 2 :], strict=True)
        return [(squares - mean**2).clamp(min=0) for mean, squares in pairs]


class SmoothGrad(Smooth):
    """SmoothGrad: the gradient averaged over noise, ``mean_s dy_c(x + e_s) / dx``.

    Smilkov et al., 2017, arXiv:1706.03825. It is `Smooth` of `Saliency`. The gradient of a ReLU
    network jumps from pixel to pixel; its average does not. Signed; the paper shows the absolute
    value. Weak where the noise leads the network out of what it knows, and no more complete than
    the gradient.

    Args:
        reduce: ``None`` for the signed gradient ``(N, C, H, W)``; ``"max"``, ``"sum"`` or ``"l2"``
            of its absolute values over channels, before the average, for a map ``(N, H, W)``.
    """

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


class SmoothFullGrad(Smooth):
    """Smooth-FullGrad: the terms of FullGrad averaged over noise, then drawn.

    Srinivas and Fleuret, NeurIPS 2019, arXiv:1905.00780, with the noise of SmoothGrad. It is
    `Smooth` of `FullGrad`; the authors' code sums the input's term over colours before its absolute
    value, here it is drawn as in FullGrad. Calmer than FullGrad, 25 times its cost, and as weak
    at telling classes apart; the authors do not promise that it is better.
    """

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
