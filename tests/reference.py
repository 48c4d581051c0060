"""The methods once more, with loops straight from the papers; slow, in float64, without camlib."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

REFERENCES: list[tuple[str, dict[str, Any], Callable[..., Tensor]]] = []


def reference(
    name: str, **options: Any
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Pairs a function with the class `name` of camlib, made with `options`."""

    def pair(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        REFERENCES.append((name, options, function))
        return function

    return pair


def weighted(weight: Callable[[int, int, int], Any], activation: Tensor) -> Tensor:
    channels, height, width = activation.shape
    total = torch.zeros(height, width, dtype=activation.dtype)
    for i in range(height):
        for j in range(width):
            total[i, j] = sum(weight(k, i, j) * activation[k, i, j] for k in range(channels))
    return total.clamp(min=0)


@reference("GradCAM")
def grad_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    channels, height, width = activation.shape
    total = torch.zeros(height, width, dtype=activation.dtype)
    for k in range(channels):
        weight = sum(gradient[k, i, j] for i in range(height) for j in range(width))
        total += weight / (height * width) * activation[k]
    return total.clamp(min=0)


@reference("GradCAMPlusPlus")
def grad_cam_plus_plus(activation: Tensor, gradient: Tensor, *, official: bool = False) -> Tensor:
    channels, height, width = activation.shape
    grid = [(i, j) for i in range(height) for j in range(width)]
    total = torch.zeros(height, width, dtype=activation.dtype)
    for k in range(channels):
        area = sum(activation[k, a, b] for a, b in grid)
        alpha = {}
        for i, j in grid:
            g = gradient[k, i, j]
            alpha[i, j] = g**2 / (2 * g**2 + area * g**3) if g != 0 else 0.0
        if official:
            norm = sum(alpha[i, j] for i, j in grid if gradient[k, i, j] > 0)
            alpha = {place: value / norm if norm != 0 else 0.0 for place, value in alpha.items()}
        weight = sum(alpha[i, j] * max(float(gradient[k, i, j]), 0) for i, j in grid)
        total += weight * activation[k]
    return total.clamp(min=0)


@reference("GradCAMPlusPlus", normalize_alpha=True)
def official_grad_cam_plus_plus(activation: Tensor, gradient: Tensor) -> Tensor:
    return grad_cam_plus_plus(activation, gradient, official=True)


@reference("HiResCAM")
def hires_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    return weighted(lambda k, i, j: gradient[k, i, j], activation)


@reference("XGradCAM")
def xgrad_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    channels, height, width = activation.shape
    weights = []
    for k in range(channels):
        places = [(i, j) for i in range(height) for j in range(width)]
        area = sum(activation[k, i, j] for i, j in places)
        share = sum(gradient[k, i, j] * activation[k, i, j] for i, j in places)
        weights.append(share / area if area != 0 else 0.0)
    return weighted(lambda k, i, j: weights[k], activation)


@reference("ElementWiseGradCAM")
def element_wise_grad_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    channels, height, width = activation.shape
    total = torch.zeros(height, width, dtype=activation.dtype)
    for i in range(height):
        for j in range(width):
            for k in range(channels):
                total[i, j] += max(float(gradient[k, i, j] * activation[k, i, j]), 0)
    return total


@reference("LayerCAM")
def layer_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    return weighted(lambda k, i, j: max(float(gradient[k, i, j]), 0), activation)


def cam(activation: Tensor, weight: Tensor) -> Tensor:
    """`weight` ``(C,)`` of the class in the linear layer after the pooling."""
    channels, height, width = activation.shape
    total = torch.zeros(height, width, dtype=activation.dtype)
    for i in range(height):
        for j in range(width):
            total[i, j] = sum(weight[k] * activation[k, i, j] for k in range(channels))
    return total


def score_cam(
    model: Callable[[Tensor], Tensor],
    image: Tensor,
    activation: Tensor,
    target: int,
    *,
    probability: bool = True,
    baseline: Tensor | None = None,
    channel_softmax: bool = False,
) -> Tensor:
    """The authors' code for one image ``(C, H, W)`` before its ReLU, and the paper's variants."""

    def score(picture: Tensor) -> float:
        with torch.no_grad():
            logits = model(picture[None])[0]
        return float(logits.softmax(0)[target] if probability else logits[target])

    size = list(image.shape[1:])
    weights: dict[int, float] = {}
    for k in range(len(activation)):
        if activation[k].max() == activation[k].min():
            continue
        mask = F.interpolate(activation[k][None, None], size, mode="bilinear", align_corners=False)[
            0, 0
        ]
        mask = (mask - mask.min()) / (mask.max() - mask.min())
        weights[k] = score(image * mask)
        if baseline is not None:
            weights[k] -= score(baseline)
    if channel_softmax:
        total = sum(math.exp(weight) for weight in weights.values())
        weights = {k: math.exp(weight) / total for k, weight in weights.items()}
    return sum(weight * activation[k] for k, weight in weights.items())


def ablation_cam(tail: Callable[[Tensor], Tensor], activation: Tensor, target: int) -> Tensor:
    """What the score loses without each channel of ``(C, h, w)``, before the ReLU."""
    with torch.no_grad():
        score = tail(activation[None])[0, target]
        total = torch.zeros_like(activation[0])
        for k in range(len(activation)):
            without = activation.clone()
            without[k] = 0
            total += (score - tail(without[None])[0, target]) * activation[k]
    return total


def recipro_cam(
    tail: Callable[[Tensor], Tensor],
    activation: Tensor,
    target: int,
    *,
    probability: bool = True,
    gaussian: bool = False,
) -> Tensor:
    """The score of each position of ``(C, h, w)`` alone, or spread as in the authors' code."""
    _, height, width = activation.shape
    spread = {(0, 0): 1.0}
    if gaussian:
        line = {-1: 1, 0: 2, 1: 1}
        spread = {(a, b): line[a] * line[b] / 16 for a in line for b in line}
    total = torch.zeros_like(activation[0])
    for i in range(height):
        for j in range(width):
            alone = torch.zeros_like(activation)
            for (a, b), share in spread.items():
                if 0 <= i + a < height and 0 <= j + b < width:
                    alone[:, i + a, j + b] = share * activation[:, i, j]
            with torch.no_grad():
                logits = tail(alone[None])[0]
            total[i, j] = logits.softmax(0)[target] if probability else logits[target]
    return total


def rise(
    model: Callable[[Tensor], Tensor], image: Tensor, target: int, masks: list[Tensor], share: float
) -> Tensor:
    """The mean of `masks` ``(H, W)``, each times the probability of what it lets through."""
    total = torch.zeros_like(image[0])
    with torch.no_grad():
        for mask in masks:
            total += model((image * mask)[None])[0].softmax(0)[target] * mask
    return total / (len(masks) * share)


def occlusion(
    model: Callable[[Tensor], Tensor],
    image: Tensor,
    target: int,
    *,
    window: tuple[int, int],
    stride: tuple[int, int],
    value: float,
) -> Tensor:
    """What the probability loses, on average over the windows that hide a pixel."""
    _, height, width = image.shape
    total, often = torch.zeros_like(image[0]), torch.zeros_like(image[0])

    def starts(length: int, size: int, step: int) -> list[int]:
        found = [0]
        while found[-1] + size < length:
            found.append(min(found[-1] + step, length - size))
        return found

    with torch.no_grad():
        score = model(image[None])[0].softmax(0)[target]
        for i in starts(height, window[0], stride[0]):
            for j in starts(width, window[1], stride[1]):
                hidden = image.clone()
                hidden[:, i : i + window[0], j : j + window[1]] = value
                loss = score - model(hidden[None])[0].softmax(0)[target]
                total[i : i + window[0], j : j + window[1]] += loss
                often[i : i + window[0], j : j + window[1]] += 1
    return total / often


def fused_layer_cam(maps: list[Tensor], size: list[int]) -> Tensor:
    """Maps ``(h, w)`` of several layers: the maximum of their scaled, resized values."""
    scaled = []
    for found in maps:
        large = F.interpolate(found[None, None], size, mode="bilinear", align_corners=False)[0, 0]
        scaled.append([[math.tanh(2 * float(v / large.max())) for v in row] for row in large])
    rows, columns = size
    return torch.tensor(
        [[max(s[i][j] for s in scaled) for j in range(columns)] for i in range(rows)],
        dtype=maps[0].dtype,
    )


class ReluByHand(torch.autograd.Function):
    """A ReLU and its rule, ``"guided"`` or ``"deconvnet"``, written as in the papers."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, rule: str) -> Tensor:
        ctx.rule = rule
        ctx.save_for_backward(source)
        return source * (source > 0)

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor, None]:
        [source] = ctx.saved_tensors
        positive = signal * (signal > 0)
        return positive if ctx.rule == "deconvnet" else positive * (source > 0), None
