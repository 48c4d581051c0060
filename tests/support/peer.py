"""What the comparisons with other libraries share: their scales, and maps by hand in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from camlib import maps

MARKS = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU activations"),
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients"),
]
"""Of a test that calls other libraries; what they warn of is theirs."""


def as_grad_cam_scales(found: Tensor, size: int) -> np.ndarray:
    """Maps ``(N, h, w)`` scaled first, resized then, and scaled again."""
    return maps.normalize(maps.resize(maps.normalize(found[:, None]), (size, size)))[:, 0].numpy()


def correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


def activation_and_gradient(
    model: nn.Module, layer: str, batch: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    """By hand, in float64: a hook that keeps a clone, and autograd."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _given: object, output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()

    handle = model.get_submodule(layer).register_forward_hook(keep)
    try:
        scores = model(batch)
    finally:
        handle.remove()
    score = scores[torch.arange(len(batch)), target].sum()
    [gradient] = torch.autograd.grad(score, kept)
    return kept[0].detach().double(), gradient.double()


def equation_19(activation: Tensor, gradient: Tensor, epsilon: float = 0.0) -> Tensor:
    """``w_k = sum_i alpha_ki relu(g_ki)``, ``alpha = g^2 / (2 g^2 + sum(A) g^3)``."""
    area = activation.sum((2, 3), keepdim=True)
    alpha = gradient**2 / (2 * gradient**2 + area * gradient**3 + epsilon)
    return (alpha.where(gradient != 0, 0) * gradient.clamp(min=0)).sum((2, 3))


def weighted(weights: Tensor, activation: Tensor) -> Tensor:
    return (weights[:, :, None, None] * activation).sum(1).relu()


def uncut(peer: Any) -> Any:
    """The maps of `peer` as it makes them, neither cut at zero nor scaled, call by call."""
    maker = peer.get_cam_image
    made: list[np.ndarray] = []

    def keep(*given: Any) -> np.ndarray:
        made.append(maker(*given))
        return made[-1]

    peer.get_cam_image = keep
    return made
