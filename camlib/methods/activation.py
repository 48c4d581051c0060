"""Maps from activations and the classifier's own weights, without gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from camlib import maps, targets
from camlib.errors import ModelError, TargetError
from camlib.forward import Pass
from camlib.methods.base import LayerMethod
from camlib.targets import Category


class CAM(LayerMethod):
    """Class activation map: the classifier's weights at every position, ``M_c = sum_k W_ck A_k``.

    Zhou et al., CVPR 2016, arXiv:1512.04150. For networks that end in global average pooling and
    one linear layer, or in a 1x1 convolution and global average pooling. The map keeps its sign and
    leaves out the bias, so that ``mean(M_c) + b_c`` is the output of class ``c``; this is how the
    classifier is found, and how other networks are refused. A ReLU between the layer and the
    pooling (DenseNet) is found in the same way.
    """

    cost = "1 forward"
    graph = "none"
    rectify = False

    def _maps(self, run: Pass) -> list[Tensor]:
        if not isinstance(run.target, Category):
            raise TargetError("CAM explains classes alone: pass class indices, or use Grad-CAM")
        classes = run.target.classes.reshape(len(run.inputs), -1)
        logits = targets.logits(run.output)
        found = []
        for name, raw, activation in zip(
            run.seen.names, run.seen.activations(), self._activations(run), strict=True
        ):
            rounding = max(torch.finfo(tensor.dtype).eps for tensor in (raw, logits)) ** 0.5
            with torch.autocast(raw.device.type, enabled=False):
                found.append(
                    self._map(run.model, name, activation, maps.precise(logits), classes, rounding)
                )
        return found

    def _map(
        self,
        model: nn.Module,
        name: str,
        activation: Tensor,
        logits: Tensor,
        classes: Tensor,
        rounding: float,
    ) -> Tensor:
        """The maps ``(N, K, *grid)`` of `classes` ``(N, K)``."""
        closest, best = float("inf"), (activation, activation[0, :, :0])
        for features in (activation, activation.relu()):  # what the pooling may have seen
            pooled = features.flatten(2).mean(2)
            for weight, bias in _classifiers(model, pooled, logits):
                error = _distance(pooled @ weight.T, logits - bias)
                if error < closest:
                    closest, best = error, (features, weight)
        if closest <= rounding:
            features, weight = best
            return torch.einsum("nkc,nc...->nk...", weight[classes], features)
        raise ModelError(
            f"CAM needs global average pooling and one linear layer (or 1x1 convolution) right "
            f"after layer {name!r} of {type(model).__name__}; "
            + (
                f"mean(map) + bias misses the output by {closest:.2g} of its range"
                if math.isfinite(closest)
                else f"no such layer leads from {activation.shape[1]} channels to "
                f"{logits.shape[1]} classes"
            )
            + "; choose the last layer before the pooling, or use Grad-CAM"
        )


def _distance(estimate: Tensor, expected: Tensor) -> float:
    """The largest error of `estimate`, as a share of the largest value of `expected`."""
    scale = expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny)
    return float((estimate - expected).abs().max() / scale)


def _classifiers(
    model: nn.Module, pooled: Tensor, logits: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Weight and bias of what could lead from `pooled` to `logits`: layers, or nothing at all."""
    if pooled.shape == logits.shape:
        yield torch.eye(pooled.shape[1]).to(pooled), pooled.new_zeros(pooled.shape[1])
    shape = logits.shape[1], pooled.shape[1]
    for module in reversed(list(model.modules())):
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            weight = module.weight.detach()
            if weight.shape[:2] == shape and weight[0, 0].numel() == 1:
                bias = weight.new_zeros(shape[0]) if module.bias is None else module.bias.detach()
                yield weight.flatten(1).to(pooled), bias.to(pooled)
