"""Maps from activations and the classifier's own weights, without gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from camlib import maps, targets
from camlib.errors import ModelError, TargetError
from camlib.methods.layer import LayerMethod
from camlib.passes.forward import Pass
from camlib.targets import Category
from camlib.targets.binary import both

__all__ = ["CAM"]


class CAM(LayerMethod):
    """Class activation map: the classifier's weights at every position, ``M_c = sum_k W_ck A_k``.

    Zhou et al., CVPR 2016, arXiv:1512.04150. For networks that end in global average pooling and
    one linear layer, or in a 1x1 convolution and global average pooling. The map keeps its sign and
    leaves out the bias, so that ``mean(M_c) + b_c`` is the output of class ``c``; this is how the
    classifier is found, and how other networks are refused. At a 1x1 convolution that is itself the
    classifier the map is what it returns, with its bias. A ReLU between the layer and the pooling
    (DenseNet) is found in the same way. It gives the maps of all classes at once, without a
    gradient. Weakness: in a picture in [0, 1] the sign puts "no evidence" above zero; ``relu=True``
    is Grad-CAM.
    """

    name = "cam"
    cost = "1 forward"
    graph = "none"
    rectify = False
    any_score = False
    linear = False

    def signed_maps(self, run: Pass) -> list[Tensor]:
        """The classifier's weights at every position, where they give the output."""
        if not isinstance(run.target, Category):
            raise TargetError("CAM explains classes alone: pass class indices, or use Grad-CAM")
        classes = run.target.classes.reshape(len(run.inputs), -1)
        weighted = []
        for name, raw, activation in zip(
            run.seen.names, run.seen.activations(), self.activations(run), strict=True
        ):
            closest = closest_classifier(run, raw, activation)
            if not closest.holds:
                raise ModelError(_REFUSED.format(name, type(run.model).__name__, closest.why))
            with torch.autocast(raw.device.type, enabled=False):
                weight = closest.weight[classes]
                weighted.append(torch.einsum("nkc,nc...->nk...", weight, closest.features))
        return weighted


_REFUSED = (
    "CAM needs global average pooling and one linear layer (or 1x1 convolution) right after layer "
    "{!r} of {}; {}; choose the last layer before the pooling, or use Grad-CAM"
)


@dataclass(frozen=True)
class Classifier:
    """What could lead from the mean of an activation to the output, ``W mean(A) + b``.

    Attributes:
        features: what the pooling sees, ``(N, C, *grid)``: the activation, or its positive part.
        weight: ``(classes, C)``; of a single output for both classes, see `ClassTarget`.
        bias: ``(classes,)``.
        holds: whether it gives the output, up to rounding.
        why: why it does not.
    """

    features: Tensor
    weight: Tensor
    bias: Tensor
    holds: bool
    why: str


def closest_classifier(run: Pass, raw: Tensor, activation: Tensor) -> Classifier:
    """The classifier in the model that gives the output best.

    Args:
        run: the clean pass.
        raw: the output of a layer.
        activation: the same as ``(N, C, *grid)``, in float32 at least.
    """
    logits = targets.logits(run.output).detach()
    rounding = max(torch.finfo(tensor.dtype).eps for tensor in (raw, logits)) ** 0.5
    logits = maps.precise(logits)
    error = math.inf
    best = activation, logits[0, :, None], logits[0]
    with torch.autocast(raw.device.type, enabled=False):
        for features in (activation, activation.relu()):  # what the pooling may have seen
            pooled = features.flatten(2).mean(2)
            for weight, bias in _classifiers(run.model, pooled, logits):
                distance = _distance(pooled @ weight.T, logits - bias)
                if distance < error:
                    error, best = distance, (features, weight, bias)
    why = (
        f"mean(map) + bias misses the output by {error:.2g} of its range"
        if math.isfinite(error)
        else f"no such layer leads from {activation.shape[1]} channels to {logits.shape[1]} classes"
    )
    features, weight, bias = best
    return Classifier(features, both(weight, 0), both(bias, 0), error <= rounding, why)


def _distance(estimate: Tensor, expected: Tensor) -> float:
    """The largest error of `estimate`, as a share of the largest value of `expected`."""
    scale = expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny)
    return float((estimate.detach() - expected).abs().max() / scale)


def _classifiers(
    model: nn.Module, pooled: Tensor, logits: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Weight and bias of what could lead from `pooled` to `logits`: layers, or nothing at all."""
    if pooled.shape == logits.shape:
        yield (
            torch.eye(pooled.shape[1], device=pooled.device).to(pooled),
            pooled.new_zeros(pooled.shape[1]),
        )
    shape = logits.shape[1], pooled.shape[1]
    for module in reversed(list(model.modules())):
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            weight = module.weight
            if weight.shape[:2] == shape and weight.shape[2:].numel() == 1:
                bias = pooled.new_zeros(shape[0]) if module.bias is None else _whole(module.bias)
                yield _whole(weight).flatten(1).to(pooled), bias.to(pooled)


def _whole(parameter: Tensor) -> Tensor:
    """The values of `parameter`; all of them, where each process holds a part."""
    parameter = parameter.detach()
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
