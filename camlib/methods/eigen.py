"""Maps by decomposition: the pattern that most of the channels share."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor, nn

from camlib import maps
from camlib.methods.class_agnostic import ClassAgnostic
from camlib.methods.components import exact, first_vector, sign, top_vector
from camlib.methods.layer import GradientWeighted
from camlib.methods.options import LayerOptions
from camlib.options import checked
from camlib.passes.names import Layers

__all__ = ["KPCACAM", "EigenCAM", "EigenGradCAM", "SegEigenCAM"]


class EigenCAM(ClassAgnostic):
    """Eigen-CAM: the projection on the first right singular vector, ``M_i = sum_k v_k A_ki``.

    Muhammad and Yeasin, IJCNN 2020, arXiv:2008.00299. Not centred, as in the paper; some codes
    subtract each channel's mean over positions first and get another map. Popular where a gradient
    is hard to come by, as for detectors. Class-agnostic: on photographs of one object hard to tell
    from Grad-CAM by the measures of faithfulness, and weak where there are two, of which it shows
    the one that the layer responds to most, whichever is asked for.
    """

    name = "eigen_cam"

    def pattern(self, activation: Tensor) -> Tensor:
        """The projection of every position."""
        return maps.weighted_sum(first_vector(activation), activation)


class EigenGradCAM(GradientWeighted):
    """Eigen-Grad-CAM: Eigen-CAM of gradient times activation, ``w_ki = v_k G_ki``.

    With no paper of its own; after Eigen-CAM, Muhammad and Yeasin, IJCNN 2020, arXiv:2008.00299.
    ``v`` is the first right singular vector of ``G * A``, not centred. It is a smoother HiResCAM
    that keeps to one pattern of evidence. Weakness: if evidence for and against share that pattern,
    the sign of the map is that of its largest value, not that of the score.
    """

    name = "eigen_grad_cam"

    def weights(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """The gradient, times the share of its channel in the pattern."""
        return first_vector(gradient * activation) * gradient


class SegEigenCAM(GradientWeighted):
    """Seg-Eigen-CAM: Eigen-CAM of the activation where it matters, ``w_ki = v_k |G_ki|``.

    Chung and Ying, Applied Sciences 15(13), 2025, doi:10.3390/app15137562. ``v`` is the first right
    singular vector of ``|G| * A``, not centred, as that of Eigen-CAM. It is made for segmentation
    (a class over a region, `camlib.targets.Segment`). Weakness: ``|G|`` drops the sign of evidence.
    """

    name = "seg_eigen_cam"

    def weights(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """The size of the gradient, times the share of its channel in the pattern."""
        size = gradient.abs()
        return first_vector(size * activation) * size


class KPCACAM(ClassAgnostic):
    """KPCA-CAM: the first component of kernel PCA, ``M = sqrt(lambda) u`` of the centred kernel.

    Karmani et al., 2024, arXiv:2410.00267, with the sigmoid kernel
    ``K_ij = tanh(gamma sum_k A_ki A_kj + 1)`` of channels centred over positions. Eigen-CAM for
    patterns that no linear projection shows; no independent evidence that they matter.
    Class-agnostic; weak on large grids, since its cost grows with the cube of the positions.

    Args:
        gamma: the scale of the kernel; one over the number of channels by default.
    """

    name = "kpca_cam"

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
        rows = exact(activation.flatten(2)).mT
        rows = rows - rows.mean(1, keepdim=True)
        gamma = 1 / rows.shape[2] if self.gamma is None else self.gamma
        kernel = torch.tanh(gamma * rows @ rows.mT + 1)
        kernel = kernel - kernel.mean(1, keepdim=True)
        kernel = kernel - kernel.mean(2, keepdim=True)
        vector = top_vector(kernel)
        variance = (vector.mT @ kernel @ vector).flatten()
        # A constant layer leaves rounding noise, which is no pattern.
        noise = rows.shape[1] * torch.finfo(rows.dtype).eps
        used = variance > noise
        component = vector[..., 0] * (variance.where(used, 1).sqrt() * used)[:, None]
        return (component * sign(component)).to(activation).reshape(-1, *activation.shape[2:])
