"""Maps by decomposition: the pattern that most of the channels share.

Positions are samples and channels their features. The first component has no sign of its own; here
its largest value in size is positive, or the map might show the background. All of it stays on the
device: the eigenvectors of the smaller Gram matrix, positions or channels, are enough.
"""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn

from camlib import maps
from camlib.errors import NOT_FINITE, InputError
from camlib.methods.agnostic import ClassAgnostic
from camlib.methods.layer import GradientWeighted
from camlib.methods.options import LayerOptions
from camlib.modules import Layers
from camlib.options import checked


class EigenCAM(ClassAgnostic):
    """Eigen-CAM: the projection on the first right singular vector, ``M_i = sum_k v_k A_ki``.

    Muhammad and Yeasin, IJCNN 2020, arXiv:2008.00299. Not centred, as in the paper; some codes
    subtract each channel's mean over positions first and get another map. Popular where a gradient
    is hard to come by, as for detectors. Class-agnostic: on photographs of one object hard to tell
    from Grad-CAM by the measures of faithfulness, and weak where there are two, of which it shows
    the one that the layer responds to most, whichever is asked for.
    """

    def pattern(self, activation: Tensor) -> Tensor:
        """The projection of every position."""
        return maps.weighted_sum(_first(activation), activation)


class EigenGradCAM(GradientWeighted):
    """Eigen-Grad-CAM: Eigen-CAM of gradient times activation, ``w_ki = v_k G_ki``.

    With no paper of its own; after Eigen-CAM, Muhammad and Yeasin, IJCNN 2020, arXiv:2008.00299.
    ``v`` is the first right singular vector of ``G * A``, not centred. A smoother HiResCAM that
    keeps to one pattern of evidence. Weak where evidence for and against share that pattern: the
    sign of the map is that of its largest value, not that of the score.
    """

    def weights(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """The gradient, times the share of its channel in the pattern."""
        return _first(gradient * activation) * gradient


class SegEigenCAM(GradientWeighted):
    """Seg-Eigen-CAM: Eigen-CAM of the activation where it matters, ``w_ki = v_k |G_ki|``.

    Chung and Ying, Applied Sciences 15(13), 2025, doi:10.3390/app15137562. ``v`` is the first right
    singular vector of ``|G| * A``, not centred, as that of Eigen-CAM. Made for segmentation (a
    class over a region, `camlib.targets.Segment`). Weak on the sign of evidence, which ``|G|``
    drops.
    """

    def weights(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """The size of the gradient, times the share of its channel in the pattern."""
        size = gradient.abs()
        return _first(size * activation) * size


class KPCACAM(ClassAgnostic):
    """KPCA-CAM: the first component of kernel PCA, ``M = sqrt(lambda) u`` of the centred kernel.

    Karmani et al., 2024, arXiv:2410.00267, with the sigmoid kernel
    ``K_ij = tanh(gamma sum_k A_ki A_kj + 1)`` of channels centred over positions. Eigen-CAM for
    patterns that no linear projection shows; no independent evidence that they matter.
    Class-agnostic; weak on large grids, since its cost grows with the cube of the positions.

    Args:
        gamma: the scale of the kernel; one over the number of channels by default.
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        gamma: float | None = None,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(model, layer, **options)
        self.gamma = gamma

    def pattern(self, activation: Tensor) -> Tensor:
        """The component at every position."""
        rows = _exact(activation.flatten(2)).mT
        rows = rows - rows.mean(1, keepdim=True)
        gamma = 1 / rows.shape[2] if self.gamma is None else self.gamma
        kernel = torch.tanh(gamma * rows @ rows.mT + 1)
        kernel = kernel - kernel.mean(1, keepdim=True)
        kernel = kernel - kernel.mean(2, keepdim=True)
        vector = _top(kernel)
        variance = (vector.mT @ kernel @ vector).flatten()
        # A constant layer leaves rounding noise, which is no pattern.
        noise = rows.shape[1] * torch.finfo(rows.dtype).eps
        used = variance > noise
        found = vector[..., 0] * (variance.where(used, 1).sqrt() * used)[:, None]
        return (found * _sign(found)).to(activation).reshape(-1, *activation.shape[2:])


def _first(features: Tensor) -> Tensor:
    """The first right singular vector of `features` ``(N, C, *grid)``, ``(N, C, 1...)``."""
    rows = _exact(features.flatten(2))
    by_position = rows.shape[2] < rows.shape[1]
    vector = _top(rows.mT @ rows if by_position else rows @ rows.mT)
    if by_position:
        vector = rows @ vector
        length = vector.norm(dim=1, keepdim=True)
        vector = vector / length.where(length > 0, 1)
    vector = vector[..., 0]
    vector = vector * _sign(torch.einsum("nc,ncz->nz", vector, rows))
    return vector.to(features).reshape(*features.shape[:2], *[1] * (features.ndim - 2))


def _exact(rows: Tensor) -> Tensor:
    """`rows` in float64, where the device has it: a Gram matrix squares the rounding errors."""
    return rows if rows.device.type == "mps" else rows.double()


def _sign(projection: Tensor) -> Tensor:
    """What makes the largest value in size of each `projection` ``(N, Z)`` positive, ``(N, 1)``."""
    low, high = torch.aminmax(projection.detach(), dim=1, keepdim=True)
    return torch.ones_like(high).where(-low <= high, -1)


def _top(gram: Tensor) -> Tensor:
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
