"""The pattern that most of the channels share: the first component of features over positions.

Positions are samples and channels their features. The first component has no sign of its own; here
its largest value in size is positive, or a map might show the background. All of it stays on the
device: the eigenvectors of the smaller Gram matrix, positions or channels, are enough.
"""

from __future__ import annotations

import torch
from torch import Tensor

from camlib import maps
from camlib.errors import NOT_FINITE, InputError


def summed(weights: Tensor, activation: Tensor, *, eigen_smooth: bool) -> Tensor:
    """``sum_k w_k A_k`` ``(N, *grid)`` of weights that broadcast to an activation.

    With `eigen_smooth`, the first component of the ``w_k A_k`` in place of their sum.
    """
    if eigen_smooth:
        return projected(weights * activation)
    return maps.weighted_sum(weights, activation)


def summed_by_class(weights: Tensor, activation: Tensor, *, eigen_smooth: bool = False) -> Tensor:
    """The map of each class, ``sum_k w_k A_k``, ``(N, K, *grid)``; autocast has no effect on it.

    Args:
        weights: of each channel for each class, ``(N, C, K)``.
        activation: ``(N, C, *grid)``.
        eigen_smooth: whether the first component of the ``w_k A_k`` stands for their sum.
    """
    with torch.autocast(activation.device.type, enabled=False):
        if not eigen_smooth:
            return torch.einsum("nck,nc...->nk...", weights, activation)
        places = [1] * (activation.ndim - 2)
        each = [w.reshape(*w.shape, *places) * activation for w in weights.unbind(2)]
        return torch.stack([projected(weighted) for weighted in each], 1)


def projected(features: Tensor) -> Tensor:
    """`features` ``(N, C, *grid)``, centred over positions, along their first component."""
    rows = features.flatten(2)
    centred = (rows - rows.mean(2, keepdim=True)).reshape(features.shape)
    return (first_vector(centred) * centred).sum(1)


def first_vector(features: Tensor) -> Tensor:
    """The first right singular vector of `features` ``(N, C, *grid)``, ``(N, C, 1...)``."""
    rows = exact(features.flatten(2))
    by_position = rows.shape[2] < rows.shape[1]
    vector = top_vector(rows.mT @ rows if by_position else rows @ rows.mT)
    if by_position:
        vector = rows @ vector
        length = vector.norm(dim=1, keepdim=True)
        vector = vector / length.where(length > 0, 1)
    vector = vector[..., 0]
    vector = vector * sign(torch.einsum("nc,ncz->nz", vector, rows))
    return vector.to(features).reshape(*features.shape[:2], *[1] * (features.ndim - 2))


def exact(rows: Tensor) -> Tensor:
    """`rows` in float64, where the device has it: a Gram matrix squares the rounding errors."""
    return rows if rows.device.type == "mps" else rows.double()


def sign(projection: Tensor) -> Tensor:
    """What makes the largest value in size of each `projection` ``(N, Z)`` positive, ``(N, 1)``."""
    low, high = torch.aminmax(projection.detach(), dim=1, keepdim=True)
    return torch.ones_like(high).where(-low <= high, -1)


def top_vector(gram: Tensor) -> Tensor:
    """The eigenvector ``(N, m, 1)`` of the largest eigenvalue of `gram` ``(N, m, m)``."""
    if not gram.isfinite().all():
        raise InputError(NOT_FINITE.format("the activation"))
    values, vectors = torch.linalg.eigh(gram.detach())
    rest: Tensor = vectors[..., :-1]
    top: Tensor = vectors[..., -1:]
    if gram.requires_grad:
        # Adds zero, with the gradient. That of `eigh` is NaN wherever two eigenvalues are equal,
        # as all those of dead channels are.
        gaps = (values[..., -1:] - values[..., :-1])[..., None]
        top = top + rest @ ((rest.mT @ gram @ top) / gaps.where(gaps > 0, torch.inf))
    return top
