"""Averages over sizes of the image, and over its mirror images."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Literal, Unpack

import torch
from torch import Tensor, nn

from camlib import maps
from camlib.augmentation import Augmentation
from camlib.errors import InputError
from camlib.methods.averaged import Ensemble
from camlib.methods.base import Method
from camlib.methods.changed_inputs import Scales, View
from camlib.methods.heatmap import MapMethod
from camlib.methods.layer import LayerMethod
from camlib.methods.options import LayerOptions
from camlib.options import checked
from camlib.passes.forward import Pass
from camlib.passes.names import Layers

__all__ = ["CAMERAS", "Augmented"]

_SIZES = tuple((224 + 100 * i) / 224 for i in range(8))
"""Those of the paper of CAMERAS, as shares of the first."""

_CHANNELS = 32
"""How many channels are enlarged at once: all would be hundreds of megabytes an image."""


class Augmented(Ensemble):
    """Test-time augmentation: maps averaged over flips and scales of the image, mapped back.

    Each signed map is flipped back and resized to the input, where the average is taken and a ReLU
    follows; all views weigh the same. The cells of the layer's grid fall on other pixels in every
    view, so the average is finer than a map. What lies at places in the image moves along: a
    baseline, the mask or box of a target, other inputs of the image's size. Weakness: it does not
    suit pictures in which left and right matter (text, clocks), nor networks that know objects of
    one size only.

    Args:
        method: see `Ensemble`; one of maps.
        flips: whether to see the image mirrored, left and right, as well.
        scales: factors of the image's last two axes; the model must take images of such sizes.

    Raises:
        InputError: `method` is one of attributions.
        TargetError: in a call, the target asks about places in a way that cannot move along.
    """

    cost = "the method's, for each of 2 views and once more"
    whole = True

    @checked
    def __init__(self, method: Method, *, flips: bool = True, scales: Scales = (1.0,)) -> None:
        super().__init__(method)
        inner = method
        while isinstance(inner, Ensemble):
            inner = inner.method
        if not isinstance(inner, MapMethod):
            raise InputError(
                f"Augmented averages maps, and {type(inner).__name__} returns attributions; use "
                "Smooth, or a method of maps"
            )
        self.flips = flips
        self.scales = tuple(scales)

    def views(self, run: Pass) -> Iterable[View]:
        """The inputs in every size, as they are and mirrored."""
        samples = torch.arange(len(run.inputs), device=run.inputs.image.device)
        count = len(self.scales) * (1 + self.flips)
        for scale in self.scales:
            for flip in (False, True)[: 1 + self.flips]:
                view = Augmentation(scale, flip)

                def back(values: Tensor, view: Augmentation = view) -> Tensor:
                    return view.mirrored(values) / count

                yield View(samples, run.inputs.image, back, view)

    def taken(self, run: Pass, again: Pass, values: list[Tensor]) -> list[Tensor]:
        """The maps at the input's size, where those of each view lie in it."""
        return [
            maps.place(each, run.inputs.size, window)
            for each, window in zip(values, again.windows(len(values)), strict=True)
        ]


class CAMERAS(LayerMethod):
    """CAMERAS: HiResCAM with activation and gradient averaged over sizes of the image.

    ``sum_k mean_s(up(A_ks)) mean_s(up(G_ks))``, both enlarged to the input. Jalwana et al., CVPR
    2021, arXiv:2106.10649. Finer than the layer's grid, as the sizes place its cells at different
    pixels. The paper's sizes are the default: 8, from the image's own to 4.1 times as long, which
    is 60 times the pixels of one pass. All count, as in the authors' code where a class is given;
    without one, it leaves out the sizes at which another class is predicted. Images are enlarged
    bilinearly, there bicubically: ``interpolation="cubic"``. Weakness: the network must take images
    of such sizes, and know large objects.

    Args:
        scales: factors of the image's last two axes.
        interpolation: of images: ``"linear"``, or ``"cubic"`` (of pictures, bicubic).

    Raises:
        TargetError: in a call, the target asks about places in a way that cannot move along.
    """

    name = "cameras"
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

    def signed_maps(self, run: Pass) -> list[Tensor]:
        """The product of the mean activation and the mean gradient, at the input's size."""
        layers = run.seen.names

        def both(again: Pass) -> list[Tensor]:
            return [*self.activations(again), *self._derivatives(again)]

        passes = []
        for scale in self.scales:
            larger = Augmentation(scale, cubic=self.interpolation == "cubic" and scale != 1)
            inputs, target = run.inputs.augmented(larger), run.target.augmented(larger)
            passes.append(self._from(layers, run.model, inputs, target, read=both))

        def mean(place: int, channels: slice) -> Tensor:
            """The mean of what was read, at the input's size, ``(N, K, channels, *size)``."""
            each = []
            for again, tensors in passes:
                values = tensors[place] if place >= len(layers) else tensors[place][:, None]
                values = values[:, :, channels]
                window = again.seen.windows[layers[place % len(layers)]]
                large = maps.place(values.flatten(1, 2), run.inputs.size, window)
                each.append(large.reshape(*values.shape[:3], *large.shape[2:]))
            return torch.stack(each).mean(0)

        sums = []
        for layer in range(len(layers)):
            count = passes[0][1][layer].shape[1]
            some = [slice(k, k + _CHANNELS) for k in range(0, count, _CHANNELS)]
            products = (mean(layer, c) * mean(len(layers) + layer, c) for c in some)
            sums.append(functools.reduce(torch.add, (each.sum(2) for each in products)))
        run.seen.windows = {}  # the maps have the input's size already
        return sums
