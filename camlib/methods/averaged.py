"""Attribution of input values from gradients at many changed inputs.

Every sample is changed in the same ways, in the order of the draws, so that what one gets does not
depend on the batch it is in. The target is settled on the clean input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from camlib import maps
from camlib.chunks import check_counts
from camlib.errors import InputError
from camlib.forward import Pass, gradients_at, scores_at
from camlib.inputs import Inputs
from camlib.methods.pixel import PixelMethod, warn_if_incomplete

Change = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From draws ``(M,)`` and samples ``(M,)``, both by number, to the images ``(M, C, *size)`` at
which gradients are taken, and the factors of these."""


class SmoothGrad(PixelMethod):
    """SmoothGrad: the gradient averaged over noise, ``mean_s dy_c(x + e_s) / dx``.

    Smilkov et al., 2017, arXiv:1706.03825. ``e`` is normal with `sigma` times the range of each
    image, max - min. The gradient of a ReLU network jumps from pixel to pixel; its average does
    not. Signed; the paper shows the absolute value. Weak where the noise leads the network out of
    what it knows, and no more complete than the gradient.

    Args:
        model: see `PixelMethod`.
        samples: how many noisy images.
        sigma: of the noise, as a share of the image's range.
        seed: of the noise.
        batch_size: how many noisy images the model sees at once; bounds the memory.

    Raises:
        InputError: `samples` or `batch_size` is below 1, or `sigma` below 0.
    """

    cost = "1 forward, 1 forward and backward for each of 25 samples"

    def __init__(
        self,
        model: nn.Module,
        *,
        samples: int = 25,
        sigma: float = 0.15,
        seed: int = 0,
        batch_size: int = 32,
    ) -> None:
        super().__init__(model)
        check_counts(samples=samples, batch_size=batch_size)
        if not sigma >= 0:
            raise InputError(f"sigma={sigma!r} is no width; use a share of the range, 0 or more")
        self.samples = samples
        self.sigma = sigma
        self.seed = seed
        self.batch_size = batch_size

    def _attributed(self, model: nn.Module, given: Inputs, target: Any) -> tuple[Pass, Tensor]:
        image = maps.precise(given.image)
        low, high = torch.aminmax(image.flatten(1), dim=1)
        spread = self.sigma * (high - low)
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(self.samples, *image.shape[1:], generator=generator).to(image)

        def change(draws: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
            noisy = image[samples] + _beside(image, spread[samples]) * noise[draws]
            return noisy, image.new_full([1] * image.ndim, 1 / self.samples)

        return _averaged(model, given, target, change, self.samples, self.batch_size)


class IntegratedGradients(PixelMethod):
    """Integrated gradients: ``(x - x') * integral_0^1 dy_c(x' + a (x - x')) / dx da``.

    Sundararajan, Taly and Yan, ICML 2017, arXiv:1703.01365. The attribution sums to what the score
    gains from the baseline ``x'`` to ``x``; a sum that misses it by more than 5 % is warned of, and
    more `steps` are the remedy. The integral is taken by the Gauss-Legendre rule. For questions of
    "how much", with a baseline that means "nothing". Weak in that choice: what equals the baseline
    gets nothing, and pictures on the way are none that the network knows.

    Args:
        model: see `PixelMethod`.
        baseline: a number, or a tensor that broadcasts to the images.
        steps: points of the rule.
        batch_size: how many images the model sees at once; bounds the memory.

    Raises:
        InputError: `steps` or `batch_size` is below 1; in a call, `baseline` does not fit.
    """

    cost = "2 forward, 1 forward and backward for each of 50 steps"

    def __init__(
        self,
        model: nn.Module,
        *,
        baseline: Tensor | float = 0.0,
        steps: int = 50,
        batch_size: int = 32,
    ) -> None:
        super().__init__(model)
        check_counts(steps=steps, batch_size=batch_size)
        self.baseline = baseline
        self.steps = steps
        self.batch_size = batch_size

    def _attributed(self, model: nn.Module, given: Inputs, target: Any) -> tuple[Pass, Tensor]:
        image = maps.precise(given.image)
        start = torch.as_tensor(self.baseline).detach().to(image)
        try:
            start = start.expand_as(image)
        except RuntimeError:
            raise InputError(
                f"baseline of shape {tuple(start.shape)} does not fit images of shape "
                f"{tuple(image.shape)}; pass a number, or a tensor that broadcasts to them"
            ) from None
        places, weights = (each.to(image) for each in _gauss_legendre(self.steps))

        def change(draws: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
            way = (image - start)[samples]
            here = start[samples] + _beside(image, places[draws]) * way
            return here, _beside(image, weights[draws]) * way

        run, found = _averaged(model, given, target, change, self.steps, self.batch_size)
        samples = torch.arange(len(image), device=image.device)
        with torch.no_grad():
            before = scores_at(run, samples, start.to(given.image.dtype))
        score = maps.precise(run.scores)
        warn_if_incomplete(
            run,
            found.flatten(2).sum(2),
            found.flatten(2).abs().sum(2) + score.abs(),
            score - before,
            f"integrated gradients with steps={self.steps} miss {{}} of what the score gains from "
            "the baseline; use more steps",
        )
        return run, found


class ExpectedGradients(PixelMethod):
    """Expected gradients: ``mean_s (x - x'_s) * dy_c(x'_s + a_s (x - x'_s)) / dx``.

    Erion et al., Nature Machine Intelligence 2021, arXiv:1906.10670. Integrated gradients averaged
    over baselines, one drawn for each sample together with ``a``, uniform in [0, 1]; complete in
    expectation, with the mean score of the baselines. Pass images of the training set: no single
    picture has to mean "nothing". Weak in its variance: use many samples.

    Args:
        model: see `PixelMethod`.
        baselines: images ``(B, C, H, W)`` to draw from; by default one of zeros.
        samples: how many draws, the same for all images.
        seed: of the draws.
        batch_size: how many images the model sees at once; bounds the memory.

    Raises:
        InputError: `samples` or `batch_size` is below 1; in a call, `baselines` do not fit.
    """

    cost = "1 forward, 1 forward and backward for each of 50 samples"

    def __init__(
        self,
        model: nn.Module,
        *,
        baselines: Tensor | None = None,
        samples: int = 50,
        seed: int = 0,
        batch_size: int = 32,
    ) -> None:
        super().__init__(model)
        check_counts(samples=samples, batch_size=batch_size)
        self.baselines = baselines
        self.samples = samples
        self.seed = seed
        self.batch_size = batch_size

    def _attributed(self, model: nn.Module, given: Inputs, target: Any) -> tuple[Pass, Tensor]:
        image = maps.precise(given.image)
        baselines = torch.zeros_like(image[:1])
        if self.baselines is not None:
            baselines = self.baselines.detach().to(image)
        if baselines.shape[1:] != image.shape[1:] or not len(baselines):
            raise InputError(
                f"baselines of shape {tuple(baselines.shape)} do not fit images of shape "
                f"{tuple(image.shape)}; pass (B, {', '.join(map(str, image.shape[1:]))})"
            )
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randint(len(baselines), (self.samples,), generator=generator)
        places = torch.rand(self.samples, generator=generator).to(image)
        starts = baselines[chosen.to(image.device)]

        def change(draws: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
            way = image[samples] - starts[draws]
            return starts[draws] + _beside(image, places[draws]) * way, way / self.samples

        return _averaged(model, given, target, change, self.samples, self.batch_size)


def _averaged(
    model: nn.Module, given: Inputs, target: Any, change: Change, draws: int, batch_size: int
) -> tuple[Pass, Tensor]:
    """The clean pass, and the gradients at all changes times their factors, summed."""
    with torch.no_grad():
        run = Pass.of(model, given, target, (), "none")
    image = given.image
    total = maps.precise(image.new_zeros(len(image), run.scores.shape[1], *image.shape[1:]))
    pairs = torch.cartesian_prod(torch.arange(draws), torch.arange(len(image))).to(image.device)
    for batch in torch.split(pairs, batch_size):
        changed, factors = change(*batch.unbind(1))
        found = maps.precise(gradients_at(run, batch[:, 1], changed.to(image.dtype)))
        total.index_add_(0, batch[:, 1], found * factors[:, None])
    return run, total


def _beside(image: Tensor, values: Tensor) -> Tensor:
    """`values` ``(M,)``, shaped to be multiplied with images like `image`."""
    return values.reshape(-1, *[1] * (image.ndim - 1))


def _gauss_legendre(count: int) -> tuple[Tensor, Tensor]:
    """Places in [0, 1] and their weights, from the eigenvalues of the Jacobi matrix."""
    k = torch.arange(1, count, dtype=torch.float64)
    beside = k / (4 * k**2 - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(beside, 1) + torch.diag(beside, -1))
    return (values + 1) / 2, vectors[0] ** 2
