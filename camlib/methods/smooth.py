"""Averages over noisy inputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from camlib.forward import Pass
from camlib.methods.base import Averageable
from camlib.methods.ensemble import Ensemble
from camlib.methods.fullgrad import FullGrad
from camlib.methods.pixel import Saliency
from camlib.methods.views import View, check_noise, noisy


class Smooth(Ensemble):
    """A method averaged over noise, ``mean_s M(x + e_s)``.

    After SmoothGrad, Smilkov et al., 2017, arXiv:1706.03825. ``e`` is normal with `sigma` times the
    range of each image, max - min. Of any map or attribution: of `Saliency` it is `SmoothGrad`, of
    `FullGrad` Smooth-FullGrad. What changes from pixel to pixel averages out. Maps of late layers
    change little with it; weak where the noise leads the network out of what it knows.

    Args:
        method: see `Ensemble`.
        samples: how many noisy images.
        sigma: of the noise, as a share of the image's range.
        seed: of the noise.
        batch_size: how many noisy images the model sees at once; bounds the memory.

    Raises:
        InputError: `samples` or `batch_size` is below 1, or `sigma` below 0.
    """

    cost = "the method's, for each of 25 samples and once more"

    def __init__(
        self,
        method: Averageable,
        *,
        samples: int = 25,
        sigma: float = 0.15,
        seed: int = 0,
        batch_size: int = 32,
    ) -> None:
        super().__init__(method)
        check_noise(samples, sigma, batch_size)
        self.samples = samples
        self.sigma = sigma
        self.seed = seed
        self.batch_size = batch_size

    def _views(self, run: Pass) -> Iterable[View]:
        return noisy(run, self.samples, self.sigma, self.seed, self.batch_size)


class SmoothGrad(Smooth):
    """SmoothGrad: the gradient averaged over noise, ``mean_s dy_c(x + e_s) / dx``.

    Smilkov et al., 2017, arXiv:1706.03825. It is `Smooth` of `Saliency`. The gradient of a ReLU
    network jumps from pixel to pixel; its average does not. Signed; the paper shows the absolute
    value. Weak where the noise leads the network out of what it knows, and no more complete than
    the gradient.

    Args:
        model: see `Saliency`.
        samples: see `Smooth`.
        sigma: see `Smooth`.
        seed: see `Smooth`.
        batch_size: see `Smooth`.
        options: of `Saliency`.
    """

    cost = "1 forward, 1 forward and backward for each of 25 samples"
    named = True

    def __init__(
        self,
        model: nn.Module,
        *,
        samples: int = 25,
        sigma: float = 0.15,
        seed: int = 0,
        batch_size: int = 32,
        **options: Any,
    ) -> None:
        super().__init__(
            Saliency(model, **options),
            samples=samples,
            sigma=sigma,
            seed=seed,
            batch_size=batch_size,
        )


class SmoothFullGrad(Smooth):
    """Smooth-FullGrad: the terms of FullGrad averaged over noise, then drawn.

    Srinivas and Fleuret, NeurIPS 2019, arXiv:1905.00780, with the noise of SmoothGrad. It is
    `Smooth` of `FullGrad`; the authors' code sums the input's term over colours before its absolute
    value, here it is drawn as in FullGrad. Calmer than FullGrad, 25 times its cost, and as weak
    at telling classes apart; the authors do not promise that it is better.

    Args:
        model: see `FullGrad`.
        samples: see `Smooth`.
        sigma: see `Smooth`.
        seed: see `Smooth`.
        batch_size: see `Smooth`.
        options: of `FullGrad`.
    """

    cost = "1 forward, 1 forward and backward for each of 25 samples"
    named = True

    def __init__(
        self,
        model: nn.Module,
        *,
        samples: int = 25,
        sigma: float = 0.15,
        seed: int = 0,
        batch_size: int = 32,
        **options: Any,
    ) -> None:
        super().__init__(
            FullGrad(model, **options),
            samples=samples,
            sigma=sigma,
            seed=seed,
            batch_size=batch_size,
        )
