"""Maps weighted by the gradients at several inputs, each by the rule of one of `gradient`."""

from __future__ import annotations

import functools
from typing import Literal, Unpack

import torch
from torch import Tensor, nn

from camlib import maps
from camlib.augmentation import Augmentation
from camlib.forward import Pass
from camlib.inputs import Inputs
from camlib.methods.gradient import GradCAM, GradCAMPlusPlus, HiResCAM
from camlib.methods.options import GradientOptions, LayerOptions, PlusPlusOptions
from camlib.methods.views import (
    Rule,
    Scales,
    averaged,
    check_rule,
    noisy,
    on_the_way,
)
from camlib.modules import Layers
from camlib.options import Count, Seed, Width, checked
from camlib.targets import Target

_SIZES = tuple((224 + 100 * i) / 224 for i in range(8))
"""Those of the paper of CAMERAS, as shares of the first."""

_CHANNELS = 32
"""How many channels are enlarged at once: all would be hundreds of megabytes an image."""


class SmoothGradCAMPlusPlus(GradCAMPlusPlus):
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
    """

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
        **options: Unpack[PlusPlusOptions],
    ) -> None:
        super().__init__(model, layer, **options)
        self.samples = samples
        self.sigma = sigma
        self.seed = seed
        self.batch_size = batch_size

    def _maps(self, run: Pass) -> list[Tensor]:
        def powers(again: Pass) -> list[Tensor]:
            return [torch.stack([g, g**2, g**3], 2) for g in self._derivatives(again)]

        def read(_: Tensor, inputs: Inputs, target: Target) -> list[Tensor]:
            return self._from(run.seen.names, run.model, inputs, target, read=powers)[1]

        views = noisy(run, self.samples, self.sigma, self.seed, self.batch_size)
        found = []
        for activation, means in zip(
            self._activations(run), averaged(run, views, read), strict=True
        ):
            first, second, third = means.flatten(0, 1).unbind(1)
            ratio = third / second.where(second > 0, 1)
            every = activation.repeat_interleave(means.shape[1], 0)
            with torch.autocast(activation.device.type, enabled=False):
                weights = self._weights(every, first, ratio)
                summed = self._summed(weights, every)
            found.append(summed.reshape(*means.shape[:2], *summed.shape[1:]))
        return found


class IntegratedGradCAM(GradCAM):
    """Integrated Grad-CAM: Grad-CAM of what the layer gains, on the way from a baseline.

    ``integral_0^1 relu(sum_k mean_i(G_ki) (A_k - A'_k)) da``, with ``G`` and ``A`` at
    ``x' + a (x - x')`` and ``A'`` at ``x'``. Sattarzadeh et al., ICASSP 2021, arXiv:2102.07805. The
    ReLU stands inside the integral, so ``relu=False`` has no effect; for a target whose sign says
    as much it is left out. The authors' code leaves out ``A'`` and sums 50 equal steps; here the
    integral is taken by the Gauss-Legendre rule unless told. For saturated scores, whose gradient
    at the input itself is small. Weak in the choice of baseline, as `IntegratedGradients`.

    Args:
        baseline: a number, or a tensor that broadcasts to the images.
        steps: points of the rule.
        rule: how the integral is taken: ``"gauss_legendre"``, or over equal steps ``"left"``,
            ``"right"``, ``"middle"`` or ``"trapezoid"``.
        batch_size: how many images the model sees at once; bounds the memory.

    Raises:
        InputError: in a call, `baseline` does not fit.
    """

    cost = "2 forward, 1 forward and backward of what follows the layer for each of 50 steps"

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        baseline: Tensor | float = 0.0,
        steps: Count = 50,
        rule: Rule = "gauss_legendre",
        batch_size: Count = 32,
        **options: Unpack[GradientOptions],
    ) -> None:
        super().__init__(model, layer, **options)
        check_rule(rule, steps)
        self.rule: Rule = rule
        self.baseline = baseline
        self.steps = steps
        self.batch_size = batch_size

    def _accompanied(self, given: Inputs) -> Inputs:
        return given.accompanied("baseline", self.baseline)

    def _maps(self, run: Pass) -> list[Tensor]:
        layers, image = run.seen.names, run.inputs.image
        start, points = on_the_way(run, self.steps, self.batch_size, self.rule)
        blank = run.inputs.with_image(start.to(image.dtype))
        first, before = self._from(layers, run.model, blank, run.target, read=self._activations)
        run.seen.windows |= first.seen.windows

        def read(samples: Tensor, inputs: Inputs, target: Target) -> list[Tensor]:
            def gained(again: Pass) -> list[Tensor]:
                now = self._activations(again)
                gains = [a - b[samples.to(b.device)] for a, b in zip(now, before, strict=True)]
                found = self._sums(again, gains)
                return found if target.signed else [each.relu() for each in found]

            return self._from(layers, run.model, inputs, target, read=gained)[1]

        return averaged(run, points, read)


class CAMERAS(HiResCAM):
    """CAMERAS: HiResCAM with activation and gradient averaged over sizes of the image.

    ``sum_k mean_s(up(A_ks)) mean_s(up(G_ks))``, both enlarged to the input. Jalwana et al.,
    CVPR 2021, arXiv:2106.10649. Finer than the layer's grid, as the sizes place its cells at
    different pixels. The paper's sizes are the default: 8, from the image's own to 4.1 times as
    long, which is 60 times the pixels of one pass. All count, as in the authors' code where a class
    is given; without one, it leaves out the sizes at which another class is predicted. Images are
    enlarged bilinearly, there bicubically: ``interpolation="cubic"``. Weak where the network does
    not know large objects; it must take images of such sizes.

    Args:
        scales: factors of the image's last two axes.
        interpolation: of images: ``"linear"``, or ``"cubic"`` (of pictures, bicubic).

    Raises:
        TargetError: in a call, the target asks about places in a way that cannot move along.
    """

    cost = "1 forward, 1 forward and backward of what follows the layer for each of 8 sizes"

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        scales: Scales = _SIZES,
        interpolation: Literal["linear", "cubic"] = "linear",
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(model, layer, **options)
        self.interpolation = interpolation
        self.scales = tuple(scales)

    def _maps(self, run: Pass) -> list[Tensor]:
        layers = run.seen.names

        def both(again: Pass) -> list[Tensor]:
            return [*self._activations(again), *self._derivatives(again)]

        passes = []
        for scale in self.scales:
            larger = Augmentation(scale, cubic=self.interpolation == "cubic" and scale != 1)
            inputs, target = run.inputs.augmented(larger), run.target.augmented(larger)
            passes.append(self._from(layers, run.model, inputs, target, read=both))

        def mean(place: int, channels: slice) -> Tensor:
            """The mean of what was read, at the input's size, ``(N, K, channels, *size)``."""
            each = []
            for again, found in passes:
                values = found[place] if place >= len(layers) else found[place][:, None]
                values = values[:, :, channels]
                window = again.seen.windows[layers[place % len(layers)]]
                large = maps.place(values.flatten(1, 2), run.inputs.size, window)
                each.append(large.reshape(*values.shape[:3], *large.shape[2:]))
            return torch.stack(each).mean(0)

        found = []
        for layer in range(len(layers)):
            count = passes[0][1][layer].shape[1]
            some = [slice(k, k + _CHANNELS) for k in range(0, count, _CHANNELS)]
            products = (mean(layer, c) * mean(len(layers) + layer, c) for c in some)
            found.append(functools.reduce(torch.add, (each.sum(2) for each in products)))
        run.seen.windows = {}  # the maps have the input's size already
        return found
