"""Maps of a layer that ask for no class: the same whatever the answer and the target.

They show what the layer responds to, which is often the object, and they cost no gradient. As
explanations of an answer they are what any other method has to beat.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Unpack

import torch
from torch import Tensor, nn

from camlib.draws import Draws
from camlib.maps import positions
from camlib.methods.layer import LayerMethod
from camlib.methods.options import LayerOptions
from camlib.options import Positive, Seed, checked
from camlib.passes.forward import Pass
from camlib.passes.names import Layers

__all__ = ["FEM", "CenterGaussian", "ClassAgnostic", "LaFAM", "RandomCAM"]


class ClassAgnostic(LayerMethod):
    """A map of the activation alone.

    Without a target, the model's output may be anything, and the score is NaN. Every form of target
    is accepted; several classes of a sample get the same map each. A subclass gives the pattern and
    nothing else.
    """

    cost = "1 forward"
    asks = False
    graph = "none"
    rectify = False

    @abstractmethod
    def pattern(self, activation: Tensor) -> Tensor:
        """The signed map ``(N, *grid)`` of an activation ``(N, C, *grid)`` in float32 at least."""

    def signed_maps(self, run: Pass) -> list[Tensor]:
        """The pattern of each layer, once for every class asked for."""
        classes = run.scores.shape[1]
        with torch.autocast(run.inputs.image.device.type, enabled=False):
            patterns = [self.pattern(activation) for activation in self.activations(run)]
        return [each[:, None].repeat_interleave(classes, 1) for each in patterns]


class LaFAM(ClassAgnostic):
    """LaFAM, the mean activation: ``M_i = mean_k A_ki``.

    Karjauv and Albayrak, 2024, arXiv:2407.06059. For networks without labels, and as the baseline
    of first choice: at the last layer of a classifier it is hard to tell from Grad-CAM by the
    measures of faithfulness. Class-agnostic; weak on layers with negative values, where channels
    cancel.
    """

    name = "lafam"

    def pattern(self, activation: Tensor) -> Tensor:
        """The mean over channels."""
        return activation.mean(1)


class FEM(ClassAgnostic):
    """FEM: where a channel is unusually strong, ``M_i = sum_k m_k 1[A_ki >= m_k + k s_k]``.

    Fuad et al., IPTA 2020, doi:10.1109/IPTA50016.2020.9286629. ``m`` and ``s`` are a channel's mean
    and standard deviation (of the population) over positions. Peaks alone count, so small objects
    stay small. Class-agnostic; weak on coarse grids, where few positions lie so far out: of ``n``
    none lies more than ``sqrt(n - 1)`` deviations from the mean.

    Args:
        k: how many standard deviations above its mean a channel counts.
    """

    name = "fem"

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        k: float = 2.0,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(model, layer, **options)
        self.k = k

    def pattern(self, activation: Tensor) -> Tensor:
        """The means of the channels that are strong, summed."""
        axes = positions(activation)
        deviation, mean = torch.std_mean(activation, axes, correction=0, keepdim=True)
        return (mean * (activation >= mean + self.k * deviation)).sum(1)


class RandomCAM(ClassAgnostic):
    """A baseline with no paper: channels weighed at random, ``M = relu(sum_k w_k A_k)``.

    ``w_k`` is uniform in [-1, 1], the same for every sample and in every call. A method that does
    not beat it says nothing of the class that the activations do not say already; average the
    measure over several seeds.

    Args:
        seed: of the weights.
    """

    name = "random_cam"
    rectify = True

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        seed: Seed = 0,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(model, layer, **options)
        self.seed = seed

    def pattern(self, activation: Tensor) -> Tensor:
        """The channels, weighed at random."""
        weights = 2 * Draws(self.seed).uniform(activation.shape[1]) - 1
        return torch.einsum("c,nc...->n...", weights.to(activation), activation)


class CenterGaussian(ClassAgnostic):
    """A baseline with no paper: a Gaussian in the middle, ``M_i = exp(-|r_i|^2 / 2 sigma^2)``.

    ``r`` runs from -1 / 2 to 1 / 2 along every axis, so the map has the shape of the picture. It
    looks at neither: photographs have their object in the middle, and a localisation that does not
    beat it may have learnt no more than that.

    Args:
        sigma: standard deviation, as a share of each side.
    """

    name = "center_gaussian"
    looks = False

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        sigma: Positive = 0.25,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(model, layer, **options)
        self.sigma = sigma

    def pattern(self, activation: Tensor) -> Tensor:
        """The Gaussian on the layer's grid."""
        gaussian = torch.ones_like(activation[:, 0])
        for axis, length in enumerate(gaussian.shape[1:], 1):
            places = torch.arange(length, device=gaussian.device, dtype=gaussian.dtype)
            away = (places + 0.5) / length - 0.5
            shape = [-1 if each == axis else 1 for each in range(gaussian.ndim)]
            gaussian = gaussian * torch.exp(-((away / self.sigma) ** 2) / 2).view(shape)
        return gaussian
