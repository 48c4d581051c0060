"""Maps weighted by gradients.

``A`` is the activation and ``G`` the gradient of the score at it, both ``(N, C, *grid)``; ``k``
runs over channels and ``i`` over positions. The map is ``relu(sum_k w_k A_k)`` throughout.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Unpack

import torch
from torch import Tensor, nn

from camlib.errors import GraphError
from camlib.maps import Fuse, positions
from camlib.methods.layer import GradientWeighted
from camlib.methods.options import ArrangedOptions, GradientOptions
from camlib.options import checked
from camlib.passes.forward import Pass
from camlib.passes.names import Layers

__all__ = [
    "LIFTCAM",
    "ElementWiseGradCAM",
    "GradCAM",
    "GradCAMPlusPlus",
    "HiResCAM",
    "LayerCAM",
    "ShapleyCAM",
    "XGradCAM",
]


class GradCAM(GradientWeighted):
    """Grad-CAM: the mean gradient of a channel is its weight, ``w_k = mean_i G_ki``.

    Selvaraju et al., ICCV 2017, arXiv:1610.02391, eq. 1 and 2. Begin with this one, at the last
    layer before a pooling; most of the other rules are the same there, or nearly so. Weakness:
    earlier layers, where a channel means something else at every place, and layers with negative
    values need another rule.
    """

    name = "grad_cam"

    def weights(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """The mean gradient of each channel, ``(N, C, 1, 1)``."""
        return mean_gradient(activation, gradient)


class GradCAMPlusPlus(GradientWeighted):
    """Grad-CAM++: positive gradients, weighted by position, ``w_k = sum_i a_ki relu(G_ki)``.

    Chattopadhyay et al., WACV 2018, arXiv:1710.11063, eq. 19:
    ``a_ki = G_ki^2 / (2 G_ki^2 + S_k G_ki^3)`` with ``S_k = sum_j A_kj``. It is computed as
    ``1 / (2 + S_k G_ki)``, which is the same where ``G_ki`` is not zero and cannot underflow. The
    score is the output before softmax; the factor ``exp(score)`` of the paper scales the whole map
    and is left out. Weakness: on layers with negative values the denominator may vanish, so use it
    after a ReLU.

    Args:
        normalize_alpha: divide ``a_k`` by its sum over positions with positive gradient, as the
            authors' code does and the paper does not.
    """

    name = "grad_cam_plus_plus"
    linear = False

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        normalize_alpha: bool = False,
        **options: Unpack[GradientOptions],
    ) -> None:
        super().__init__(model, layer, **options)
        self.normalize_alpha = normalize_alpha

    def weights(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """Positive gradients summed with alpha, ``(N, C, 1, 1)``."""
        return plus_plus(activation, gradient, gradient, normalize_alpha=self.normalize_alpha)


class HiResCAM(GradientWeighted):
    """HiResCAM: every position keeps its own gradient, ``w_ki = G_ki``.

    Draelos and Carin, 2020, arXiv:2011.08891. At layers of all depths with ``fuse="max"`` it is
    Zoom-CAM (Shi et al., ICPR 2020, arXiv:2010.08644), whose code also takes away each map's
    minimum and enlarges it from layer to layer, where maps are enlarged at once here. Use it for
    answers of a region, as in segmentation, and where the map has to sum to what the layer adds to
    the score. Weakness: on layers with negative values, evidence for and against cancels.
    """

    name = "hires_cam"

    def weights(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """The gradient itself."""
        return gradient


class XGradCAM(GradientWeighted):
    """XGrad-CAM: gradients averaged with the activation, ``w_k = sum_i G_ki A_ki / sum_i A_ki``.

    Fu et al., BMVC 2020, arXiv:2008.02312. A channel that sums to zero, which the paper leaves
    open, gets weight zero. Its map sums to the same as that of HiResCAM, with one weight a channel.
    Before a pooling it is Grad-CAM; weak on layers with negative values, where a sum may be next to
    nothing, and at earlier layers, as Grad-CAM.
    """

    name = "xgrad_cam"

    def weights(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """The mean gradient of each channel, weighted by the activation, ``(N, C, 1, 1)``."""
        axes = positions(gradient)
        total = activation.sum(axes, keepdim=True)
        # Values that cancel leave rounding noise, which must not become a divisor.
        noise = activation.abs().sum(axes, keepdim=True) * 8 * torch.finfo(total.dtype).eps
        weighted = (gradient * activation).sum(axes, keepdim=True)
        used = total.abs() > noise
        return (weighted / total.where(used, 1)).where(used, 0)


class ElementWiseGradCAM(GradientWeighted):
    """Element-wise Grad-CAM: what is positive at each place, ``w_ki A_ki = relu(G_ki A_ki)``.

    Pillai and Pirsiavash, AAAI 2021, doi:10.1609/aaai.v35i3.16344. The same as Layer-CAM where
    activations are not negative; on layers with negative values (bottlenecks, tokens) the rule of
    choice. Weakness: what speaks against the class is cut off place by place, so that a map also
    shows some evidence of other classes.
    """

    name = "element_wise_grad_cam"

    def weights(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """The gradient where it has the sign of the activation, else zero."""
        return element_wise(activation, gradient)


class LayerCAM(GradientWeighted):
    """Layer-CAM: positive gradients, position by position, ``w_ki = relu(G_ki)``.

    Jiang et al., TIP 2021, doi:10.1109/TIP.2021.3089943. Fit for early layers, where a mean over
    positions says little. Several layers are fused as in the paper, by the maximum of
    ``tanh(2 M / max M)``, taken at each layer's own grid and resized then: deep maps say where,
    shallow ones draw the outline. Weakness: like `ElementWiseGradCAM`, it cuts off what speaks
    against the class. On layers with negative values the authors' code has no ReLU at the end:
    ``relu=False``.
    """

    name = "layer_cam"

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        fuse: Fuse = "scaled_max",
        eigen_smooth: bool = False,
        **options: Unpack[ArrangedOptions],
    ) -> None:
        super().__init__(model, layer, fuse=fuse, eigen_smooth=eigen_smooth, **options)

    def weights(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """The positive part of the gradient."""
        return gradient.clamp(min=0)


class LIFTCAM(GradientWeighted):
    """LIFT-CAM: a channel weighs what it adds to the score, ``w_k = sum_i G_ki A_ki``.

    Jung and Oh, ICCV 2021, arXiv:2102.05228. The paper has the weights from DeepLIFT with zero as
    the reference; this is its linear form, which is DeepLIFT exactly where what follows the layer
    is linear (there it is also the Shapley value of the channel), and elsewhere its first-order
    approximation. Use it at the last layer before a pooling, to weigh channels by their share of
    the score. Weakness: on a signed layer, channels of opposite sign cancel in the map, and the map
    changes if a channel is rescaled and its weights behind it are divided by as much.
    """

    name = "lift_cam"

    def weights(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """The share of each channel in the score, ``(N, C, 1, 1)``."""
        return (gradient * activation).sum(positions(gradient), keepdim=True)


class ShapleyCAM(GradientWeighted):
    """Shapley-CAM: Grad-CAM with a second derivative, ``w_k = mean_i (G - H A / 2)_ki``.

    Cai, 2025, arXiv:2501.06261. ``H`` is the Hessian of the score at the layer; the product with
    the activation is a second backward pass, one for each class. The paper scores with ReST,
    ``y_c + log p_c``: pass ``lambda out: out[:, c] + out.log_softmax(1)[:, c]``. For a logit behind
    linear layers and ReLU, ``H`` is zero and this is Grad-CAM; use it behind GELU, attention or
    normalisation. Weakness: it says little where the score is far from its second-order expansion
    at zero.

    Args:
        element_wise: whether what is positive at each position counts, ``relu((G - H A / 2) A)``:
            what the authors' repository has by the name of Shapley-CAM.

    Raises:
        GraphError: an operator behind the layer has no second derivative, as fused attention.
    """

    name = "shapley_cam"
    cost = "1 forward, 2 backward of what follows the layer"

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        element_wise: bool = False,
        **options: Unpack[GradientOptions],
    ) -> None:
        super().__init__(model, layer, **options)
        self.element_wise = element_wise

    def weights(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """The mean of each channel, ``(N, C, 1, 1)``; `gradient` is ``G - H A / 2``."""
        if self.element_wise:
            return element_wise(activation, gradient)
        return gradient.mean(positions(gradient), keepdim=True)

    def gradients(self, run: Pass) -> Iterator[list[Tensor]]:
        """``G - H A / 2`` at each layer, ``(k, N, ...)``, the next ``k`` classes at a time."""
        activations = run.seen.activations()
        for gradients in run.seen.gradients(run.scores, create_graph=True):
            yield [
                self._corrected(activation, gradient)
                for activation, gradient in zip(activations, gradients, strict=True)
            ]

    def _corrected(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """``G - H A / 2`` from ``G`` ``(k, N, ...)``, a class at a time."""
        if not gradient.requires_grad:  # what follows is linear, and frozen
            return gradient
        with torch.enable_grad():
            classes = gradient.unbind()
        try:
            products = [
                torch.autograd.grad(
                    each,
                    activation,
                    activation,
                    retain_graph=True,
                    create_graph=self.differentiable,
                    materialize_grads=True,
                )[0]
                for each in classes
            ]
        except RuntimeError as error:
            if "is not implemented" not in str(error):
                raise
            raise GraphError(
                f"Shapley-CAM needs a second derivative of what follows the layer: {error}; fused "
                "attention has one inside "
                "torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)"
            ) from None
        if not self.differentiable:
            gradient = gradient.detach()
        return gradient - torch.stack(products) / 2


def element_wise(activation: Tensor, gradient: Tensor) -> Tensor:
    """The weights of element-wise Grad-CAM: the gradient where the product is positive, else 0."""
    return gradient.where(gradient * activation > 0, 0)


def mean_gradient(_: Tensor, gradient: Tensor) -> Tensor:
    """The weights of Grad-CAM: the mean gradient of each channel, ``(N, C, 1, 1)``."""
    axes = positions(gradient)
    if any(gradient.stride(axis) for axis in axes):
        return gradient.mean(axes, keepdim=True)
    for axis in axes:  # the same at every place, as before a pooling
        gradient = gradient.narrow(axis, 0, 1)
    return gradient


def plus_plus(
    activation: Tensor, gradient: Tensor, ratio: Tensor, *, normalize_alpha: bool
) -> Tensor:
    """The weights of Grad-CAM++, ``(N, C, 1, 1)``.

    Args:
        activation: ``(N, C, *grid)``.
        gradient: of the score at it.
        ratio: of the third to the second derivative: ``G^3 / G^2`` is the gradient.
        normalize_alpha: see `GradCAMPlusPlus`.
    """
    axes = positions(gradient)
    denominator = 2 + ratio * activation.sum(axes, keepdim=True)
    used = (gradient > 0) & (denominator != 0)
    alpha = (1 / denominator.where(used, 1)).where(used, 0)
    if normalize_alpha:
        total = alpha.sum(axes, keepdim=True)
        alpha = alpha / total.where(total != 0, 1)
    return (alpha * gradient.clamp(min=0)).sum(axes, keepdim=True)
