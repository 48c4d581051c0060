"""The methods once more, with loops straight from the papers; slow, in float64, without camlib."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
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


def added(terms: Iterable[Tensor]) -> Tensor:
    """The sum of `terms`, one by one."""
    return sum(terms, torch.zeros(()))


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


@reference("LIFTCAM")
def lift_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    channels, height, width = activation.shape
    shares = [
        sum(gradient[k, i, j] * activation[k, i, j] for i in range(height) for j in range(width))
        for k in range(channels)
    ]
    return weighted(lambda k, i, j: shares[k], activation)


def turned(projection: Tensor) -> Tensor:
    """`projection` with the sign that makes its largest value in size positive."""
    return -projection if -projection.min() > projection.max() else projection


@reference("EigenCAM")
def eigen_cam(activation: Tensor, _gradient: Tensor) -> Tensor:
    """By the singular value decomposition of positions x channels."""
    channels, height, width = activation.shape
    rows = [
        torch.stack([activation[k, i, j] for k in range(channels)])
        for i in range(height)
        for j in range(width)
    ]
    _, _, right = torch.linalg.svd(torch.stack(rows), full_matrices=True)
    return turned(torch.stack([row @ right[0] for row in rows]).reshape(height, width))


@reference("EigenGradCAM")
def eigen_grad_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    return eigen_cam(gradient * activation, gradient).clamp(min=0)


@reference("SegEigenCAM")
def seg_eigen_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    return eigen_cam(gradient.abs() * activation, gradient).clamp(min=0)


@reference("KPCACAM")
def kpca_cam(activation: Tensor, _gradient: Tensor, gamma: float | None = None) -> Tensor:
    channels, height, width = activation.shape
    centred = torch.stack([channel - channel.mean() for channel in activation]).flatten(1)
    places = range(height * width)
    kernel = torch.empty(len(places), len(places), dtype=activation.dtype)
    for p in places:
        for q in places:
            product = sum(centred[k, p] * centred[k, q] for k in range(channels))
            kernel[p, q] = math.tanh(product * (gamma or 1 / channels) + 1)
    means, mean = kernel.mean(0), kernel.mean()
    for p in places:
        for q in places:
            kernel[p, q] = kernel[p, q] - means[p] - means[q] + mean
    values, vectors = torch.linalg.eig(kernel)
    best = values.real.argmax()
    component = values.real[best].sqrt() * vectors.real[:, best]
    return turned(component.reshape(height, width))


@reference("KPCACAM", gamma=2.0)
def kpca_cam_of_another_scale(activation: Tensor, gradient: Tensor) -> Tensor:
    return kpca_cam(activation, gradient, 2.0)


@reference("FEM")
def fem(activation: Tensor, _gradient: Tensor, factor: float = 2) -> Tensor:
    channels, height, width = activation.shape
    count = height * width
    total = torch.zeros(height, width, dtype=activation.dtype)
    for k in range(channels):
        values = activation[k].flatten().tolist()
        mean = sum(values) / count
        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / count)
        for i in range(height):
            for j in range(width):
                if activation[k, i, j] >= mean + factor * deviation:
                    total[i, j] += mean
    return total


@reference("FEM", k=0.5)
def fem_of_lower_peaks(activation: Tensor, gradient: Tensor) -> Tensor:
    return fem(activation, gradient, 0.5)


@reference("LaFAM")
def lafam(activation: Tensor, _gradient: Tensor) -> Tensor:
    channels = len(activation)
    return added(activation[k] for k in range(channels)) / channels


@reference("CenterGaussian", sigma=0.2)
def center_gaussian(activation: Tensor, _gradient: Tensor) -> Tensor:
    _, height, width = activation.shape
    found = torch.empty(height, width, dtype=activation.dtype)
    for i in range(height):
        for j in range(width):
            down, right = (i + 0.5) / height - 0.5, (j + 0.5) / width - 0.5
            found[i, j] = math.exp(-(down**2 + right**2) / (2 * 0.2**2))
    return found


def shapley_cam(score: Callable[[Tensor], Tensor], activation: Tensor) -> Tensor:
    """From the whole Hessian of `score` at the activation ``(C, H, W)``; before its ReLU."""
    channels, height, width = activation.shape
    gradient = torch.autograd.functional.jacobian(score, activation)
    hessian = torch.autograd.functional.hessian(score, activation)
    weights = []
    for k in range(channels):
        total = torch.zeros(())
        for i in range(height):
            for j in range(width):
                total = total + gradient[k, i, j] - (hessian[k, i, j] * activation).sum() / 2
        weights.append(total / (height * width))
    return added(weight * activation[k] for k, weight in enumerate(weights))


def shapley_values(score: Callable[[Tensor], Tensor], activation: Tensor) -> Tensor:
    """What each channel of ``(C, H, W)`` adds to `score`, averaged over all orders of joining."""
    channels = len(activation)
    values = {}
    for members in itertools.product([0, 1], repeat=channels):
        present = torch.tensor(members, dtype=activation.dtype)[:, None, None]
        values[members] = score(activation * present)
    found = []
    for k in range(channels):
        total = torch.zeros((), dtype=activation.dtype)
        for members, value in values.items():
            if not members[k]:
                joined = (*members[:k], 1, *members[k + 1 :])
                size = sum(members)
                orders = math.factorial(size) * math.factorial(channels - size - 1)
                total += orders / math.factorial(channels) * (values[joined] - value)
        found.append(total)
    return torch.stack(found)


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
    varied: Sequence[Callable[[Tensor], Tensor]] = (lambda mask: mask,),
) -> Tensor:
    """The authors' code for one image ``(C, H, W)`` before its ReLU, and the paper's variants.

    The mask of a channel is used in the ways `varied`, and its scores averaged.
    """

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
        weights[k] = sum(score(image * change(mask)) for change in varied) / len(varied)
        if baseline is not None:
            weights[k] -= score(baseline)
    if channel_softmax:
        total = sum(math.exp(weight) for weight in weights.values())
        weights = {k: math.exp(weight) / total for k, weight in weights.items()}
    return sum((w * activation[k] for k, w in weights.items()), torch.zeros_like(activation[0]))


def group_cam(
    model: Callable[[Tensor], Tensor],
    image: Tensor,
    activation: Tensor,
    gradient: Tensor,
    target: int,
    groups: int,
    percentile: float = 70,
    form: str = "paper",
) -> Tensor:
    """The paper for one image ``(C, H, W)`` before its ReLU, or the authors' code since 2021.

    The blur scales with the image.
    """
    side = min(image.shape[1:])
    blurred = blur(image, side * 50 / 224, max(round(side * 25 / 224), 1))

    def score(picture: Tensor) -> float:
        with torch.no_grad():
            return float(model(picture[None])[0].softmax(0)[target])

    total = torch.zeros_like(image[0])
    size = -(-len(activation) // groups)
    for start in range(0, len(activation), size):
        mask = torch.zeros_like(activation[0])
        for k in range(start, min(start + size, len(activation))):
            mask += gradient[k].mean() * activation[k]
        mask = mask.clamp(min=0)
        if percentile and form == "paper":
            level = np.percentile(mask.numpy(), percentile)
            mask = torch.where(mask > level, mask, 0)
        if mask.max() == mask.min():
            continue
        large = F.interpolate(mask[None, None], list(total.shape), mode="bilinear")[0, 0]
        mask = (large - large.min()) / (large.max() - large.min())
        gain = score(image * mask + blurred * (1 - mask)) - score(blurred)
        total += gain * mask if form == "paper" else max(gain, 0) * large
    return total


def blur(image: Tensor, sigma: float, radius: int) -> Tensor:
    """`image` ``(C, H, W)`` under a Gaussian, mirrored at its borders, pixel by pixel."""
    steps = range(-radius, radius + 1)
    kernel = [math.exp(-(step**2) / (2 * sigma**2)) for step in steps]
    found = torch.zeros_like(image)

    def mirrored(place: int, length: int) -> int:
        place = abs(place)
        return 2 * (length - 1) - place if place >= length else place

    _, height, width = image.shape
    for i in range(height):
        for j in range(width):
            for a, up in zip(kernel, steps, strict=True):
                for b, left in zip(kernel, steps, strict=True):
                    found[:, i, j] += (
                        a * b * image[:, mirrored(i + up, height), mirrored(j + left, width)]
                    )
    return found / sum(kernel) ** 2


def gradient_at(model: Callable[[Tensor], Tensor], image: Tensor, target: int) -> Tensor:
    pixels = image.detach().clone().requires_grad_()
    [gradient] = torch.autograd.grad(model(pixels[None])[0, target], pixels)
    return gradient


def integrated_gradients(
    model: Callable[[Tensor], Tensor], image: Tensor, target: int, baseline: Tensor, steps: int
) -> Tensor:
    total = torch.zeros_like(image)
    for place, weight in zip(*np.polynomial.legendre.leggauss(steps), strict=True):
        here = baseline + (place + 1) / 2 * (image - baseline)
        total += weight / 2 * gradient_at(model, here, target)
    return (image - baseline) * total


def expected_gradients(
    model: Callable[[Tensor], Tensor],
    image: Tensor,
    target: int,
    baselines: Tensor,
    draws: list[tuple[int, float]],
) -> Tensor:
    total = torch.zeros_like(image)
    for which, place in draws:
        way = image - baselines[which]
        total += way * gradient_at(model, baselines[which] + place * way, target)
    return total / len(draws)


def smooth_grad(
    model: Callable[[Tensor], Tensor], image: Tensor, target: int, sigma: float, noise: Tensor
) -> Tensor:
    width = sigma * (image.max() - image.min())
    found = [gradient_at(model, image + width * each, target) for each in noise]
    return added(found) / len(found)


def smooth_grad_cam_plus_plus(
    activation: Tensor, gradients: Sequence[Tensor], *, official: bool = False
) -> Tensor:
    """From the activation of the clean image and the gradients at the noisy ones, ``(C, h, w)``."""
    channels, height, width = activation.shape
    total = torch.zeros(height, width, dtype=activation.dtype)
    for k in range(channels):
        area = sum(activation[k, a, b] for a in range(height) for b in range(width))
        weight, norm = torch.zeros(()), torch.zeros(())
        for i in range(height):
            for j in range(width):
                d1, d2, d3 = (
                    added(g[k, i, j] ** p for g in gradients) / len(gradients) for p in (1, 2, 3)
                )
                if d1 > 0:
                    weight = weight + d2 / (2 * d2 + area * d3) * d1
                    norm = norm + d2 / (2 * d2 + area * d3)
        total += (weight / norm if official and norm != 0 else weight) * activation[k]
    return total


def integrated_grad_cam(
    features: Callable[[Tensor], Tensor],
    tail: Callable[[Tensor], Tensor],
    image: Tensor,
    target: int,
    baseline: Tensor,
    steps: int,
) -> Tensor:
    """The integral of the positive part, by the Gauss-Legendre rule of NumPy."""
    before = features(baseline[None])[0].detach()
    total = torch.zeros_like(before[0])
    for place, weight in zip(*np.polynomial.legendre.leggauss(steps), strict=True):
        here = baseline + (place + 1) / 2 * (image - baseline)
        activation = features(here[None])[0].detach().requires_grad_()
        [gradient] = torch.autograd.grad(tail(activation[None])[0, target], activation)
        found = torch.zeros_like(total)
        for k in range(len(activation)):
            found += gradient[k].mean() * (activation[k].detach() - before[k])
        total += weight / 2 * found.clamp(min=0)
    return total


def cameras(
    features: Callable[[Tensor], Tensor],
    tail: Callable[[Tensor], Tensor],
    image: Tensor,
    target: int,
    sizes: Sequence[tuple[int, int]],
) -> Tensor:
    """As in the authors' code, before its ReLU, images enlarged bilinearly."""
    size = tuple(image.shape[1:])
    activations, gradients = [], []
    for each in sizes:
        larger = F.interpolate(image[None], each, mode="bilinear", align_corners=False)
        activation = features(larger).detach().requires_grad_()
        [gradient] = torch.autograd.grad(tail(activation)[0, target], activation)
        activations.append(F.interpolate(activation.detach(), size, mode="bilinear")[0])
        gradients.append(F.interpolate(gradient, size, mode="bilinear")[0])
    activation = added(activations) / len(sizes)
    gradient = added(gradients) / len(sizes)
    return added(activation[k] * gradient[k] for k in range(len(activation)))


def refined(maps: list[Tensor], mixer: str) -> Tensor:
    """Positive maps ``(h, w)`` in [0, 1] by a mixer of RefineCAM, as in the authors' code."""
    total = torch.zeros_like(maps[0])
    for i in range(len(total)):
        for j in range(len(total[0])):
            values = [float(m[i, j]) for m in maps]
            if mixer == "geometric":
                total[i, j] = math.prod(values) ** (1 / len(values))
            elif min(values) > 0:
                most = 1 / min(values)  # taken out of the sum, or it would overflow
                rest = math.log(sum(math.exp(1 / value - most) for value in values))
                total[i, j] = (
                    (math.log(len(values)) + 1) / (most + rest)
                    if mixer == "log_exp"
                    else 1 / (most + rest - math.log(len(values)))
                )
    return total


def full_grad(modules: list[nn.Module], image: Tensor, target: int) -> tuple[list[Tensor], Tensor]:
    """The terms of the score, input first, and the authors' map, corners not aligned."""
    pixels = image.detach().clone().requires_grad_()
    value, kept = pixels[None], list[tuple[Any, Tensor]]()
    for module in modules:
        value = module(value.clone())
        if getattr(module, "bias", None) is not None:
            kept.append((module, value))
    gradients = torch.autograd.grad(value[0, target], [pixels, *(output for _, output in kept)])
    terms, shown = [image * gradients[0]], [image * gradients[0]]
    for (module, _), gradient in zip(kept, gradients[1:], strict=True):
        bias = module.bias.detach().clone()
        if isinstance(module, nn.BatchNorm2d):
            mean, variance = module.running_mean, module.running_var
            assert mean is not None and variance is not None
            for k in range(len(bias)):
                deviation = math.sqrt(variance[k] + module.eps)
                bias[k] -= mean[k] * module.weight[k].detach() / deviation
        terms.append(torch.stack([bias[k] * gradient[0, k] for k in range(len(bias))]))
        if not isinstance(module, nn.Linear):
            shown.append(terms[-1])
    return terms, full_grad_picture(shown, image)


def full_grad_picture(shown: list[Tensor], image: Tensor) -> Tensor:
    """The authors' map of terms that have places."""
    picture = torch.zeros_like(image[0])
    for term in shown:
        size = term.abs()
        scaled = (size - size.min()) / (size.max() - size.min())
        for channel in scaled:
            picture += F.interpolate(channel[None, None], picture.shape, mode="bilinear")[0, 0]
    return picture


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


def token_recipro_cam(
    follow: Callable[[Tensor], Tensor],
    tokens: Tensor,
    grid: tuple[int, int],
    target: int,
    *,
    gaussian: bool = False,
) -> Tensor:
    """ViT-ReciproCAM: tokens ``(T, C)``, those before the patches as they are, then one patch.

    With `gaussian` its neighbours too, each with its own features times the kernel.
    """
    height, width = grid
    prefix = len(tokens) - height * width
    line = {-1: 0.25, 0: 0.5, 1: 0.25} if gaussian else {0: 1.0}
    total = torch.zeros(height, width, dtype=tokens.dtype)
    for i in range(height):
        for j in range(width):
            seen = torch.zeros_like(tokens)
            seen[:prefix] = tokens[:prefix]
            for a, down in line.items():
                for b, right in line.items():
                    if 0 <= i + a < height and 0 <= j + b < width:
                        place = prefix + (i + a) * width + j + b
                        seen[place] = down * right * tokens[place]
            with torch.no_grad():
                total[i, j] = follow(seen[None])[0].softmax(0)[target]
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
    """Maps ``(h, w)`` of several layers: each scaled at its own grid, resized, the maximum."""
    larger = []
    for found in maps:
        values = [[math.tanh(2 * float(value / found.max())) for value in row] for row in found]
        scaled = torch.tensor(values, dtype=found.dtype)[None, None]
        larger.append(F.interpolate(scaled, size, mode="bilinear", align_corners=False)[0, 0])
    rows, columns = size
    return torch.tensor(
        [[max(float(each[i, j]) for each in larger) for j in range(columns)] for i in range(rows)],
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


def factorization(rows: Tensor, weights: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """One multiplicative update of Lee and Seung of the weights, then one of the vectors."""
    many, channels = rows.shape
    count = weights.shape[1]

    def product(left: Tensor, right: Tensor, m: int, c: int) -> Any:
        return sum(left[m, k] * right[k, c] for k in range(count))

    new = weights.clone()
    for m in range(many):
        for k in range(count):
            wanted = sum(rows[m, c] * vectors[k, c] for c in range(channels))
            there = sum(product(weights, vectors, m, c) * vectors[k, c] for c in range(channels))
            new[m, k] = weights[m, k] * wanted / there if there > 0 else 0.0
    other = vectors.clone()
    for k in range(count):
        for c in range(channels):
            wanted = sum(new[m, k] * rows[m, c] for m in range(many))
            there = sum(new[m, k] * product(new, vectors, m, c) for m in range(many))
            other[k, c] = vectors[k, c] * wanted / there if there > 0 else 0.0
    return new, other


def squared_error(rows: Tensor, weights: Tensor, vectors: Tensor) -> float:
    """``|rows - weights vectors|^2``."""
    total = 0.0
    for m in range(len(rows)):
        for c in range(rows.shape[1]):
            made = sum(float(weights[m, k] * vectors[k, c]) for k in range(len(vectors)))
            total += (float(rows[m, c]) - made) ** 2
    return total


def attention_of(
    tokens: Tensor, block: dict[str, Tensor], heads: int
) -> tuple[Tensor, list[list[list[Tensor]]]]:
    """The tokens behind a block, and its attention by head, row and column, from its weights."""
    count, width = tokens.shape
    size = width // heads

    def normed(rows: Tensor, number: int) -> Tensor:
        weight, bias = block[f"norms.{number}.weight"], block[f"norms.{number}.bias"]
        away = rows - rows.mean(1, keepdim=True)
        return away / (away.square().mean(1, keepdim=True) + 1e-5).sqrt() * weight + bias

    inside = normed(tokens, 0) @ block["attention.in_proj_weight"].T
    inside = inside + block["attention.in_proj_bias"]
    query, key, value = inside[:, :width], inside[:, width : 2 * width], inside[:, 2 * width :]
    found, attention = [], []
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        matrix, rows = [], []
        for t in range(count):
            powers = [(query[t, part] @ key[s, part] / math.sqrt(size)).exp() for s in range(count)]
            row = [power / sum(powers) for power in powers]
            rows.append(added(a * value[s, part] for s, a in enumerate(row)))
            matrix.append(row)
        attention.append(matrix)
        found.append(torch.stack(rows))
    out = torch.cat(found, 1) @ block["attention.out_proj.weight"].T
    tokens = tokens + out + block["attention.out_proj.bias"]
    hidden = normed(tokens, 1) @ block["perceptron.0.weight"].T + block["perceptron.0.bias"]
    out = F.gelu(hidden) @ block["perceptron.2.weight"].T + block["perceptron.2.bias"]
    return tokens + out, attention


Heads = list[list[list[float]]]
"""Attention, or its gradient, of one block: by head, row and column."""


def rollout(blocks: list[Heads]) -> list[list[float]]:
    """Abnar and Zuidema: the product of row-normalised mean attention and identity."""
    count = len(blocks[0][0])
    places = range(count)
    product = [[float(t == s) for s in places] for t in places]
    for heads in blocks:
        step = []
        for t in places:
            row = [sum(head[t][s] for head in heads) / len(heads) + (t == s) for s in places]
            step.append([a / sum(row) for a in row])
        product = [
            [sum(step[t][u] * product[u][s] for u in places) for s in places] for t in places
        ]
    return product


def gradient_rollout(blocks: list[Heads], gradients: list[Heads]) -> list[list[float]]:
    """Chefer et al.: ``R <- R + B R`` with the mean of positive gradient times attention."""
    count = len(blocks[0][0])
    places = range(count)
    relevance = [[float(t == s) for s in places] for t in places]
    for heads, slopes in zip(blocks, gradients, strict=True):
        step = [
            [
                sum(max(g[t][s] * a[t][s], 0.0) for a, g in zip(heads, slopes, strict=True))
                / len(heads)
                for s in places
            ]
            for t in places
        ]
        relevance = [
            [relevance[t][s] + sum(step[t][u] * relevance[u][s] for u in places) for s in places]
            for t in places
        ]
    return relevance


def pooled_by_attention(
    tokens: Tensor, latents: Tensor, weights: dict[str, Tensor], heads: int
) -> tuple[Tensor, list[list[list[Tensor]]]]:
    """What `latents` ``(Q, C)`` take from `tokens`, and their attention by head, row and column."""
    width = tokens.shape[1]
    size = width // heads
    inside, bias = weights["in_proj_weight"], weights["in_proj_bias"]
    query = latents @ inside[:width].T + bias[:width]
    key = tokens @ inside[width : 2 * width].T + bias[width : 2 * width]
    value = tokens @ inside[2 * width :].T + bias[2 * width :]
    found, attention = [], []
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        matrix, rows = [], []
        for q in range(len(latents)):
            powers = [(query[q, part] @ k[part] / math.sqrt(size)).exp() for k in key]
            row = [power / sum(powers) for power in powers]
            rows.append(sum(a * v[part] for a, v in zip(row, value, strict=True)))
            matrix.append(row)
        attention.append(matrix)
        found.append(torch.stack(rows))
    return torch.cat(found, 1) @ weights["out_proj.weight"].T + weights["out_proj.bias"], attention


def le_grad(gradients: list[Heads]) -> list[float]:
    """Bousselham et al.: positive gradients, averaged over heads and rows, summed over blocks."""
    count = len(gradients[0][0])
    return [
        sum(
            sum(max(head[t][s], 0.0) for head in slopes for t in range(count))
            / (len(slopes) * count)
            for slopes in gradients
        )
        for s in range(count)
    ]


def two_stage_grad_cam(
    coarse: tuple[Tensor, Tensor], fine: tuple[Tensor, Tensor], *, width: float, root: bool
) -> Tensor:
    """The signed map on the fine grid, from activation and gradient ``(C, H, W)`` of two layers."""
    activation, gradient = coarse
    cells = activation.shape[1:]
    a = torch.zeros(cells, dtype=activation.dtype)
    for k in range(len(activation)):
        a += gradient[k].mean() * activation[k]
    b = element_wise_grad_cam(*fine)
    height, columns = b.shape
    a = F.interpolate(a[None, None], (height, columns), mode="bilinear")[0, 0]
    level = float(np.percentile(b.detach().numpy(), 98))
    b = torch.tensor([[min(float(v) / level, 1.0) for v in row] for row in b], dtype=b.dtype)
    sigma = width * min(height / cells[0], columns / cells[1])
    reach = min(math.ceil(3 * sigma), min(height, columns) - 1)
    weights = [math.exp(-((d / sigma) ** 2) / 2) for d in range(-reach, reach + 1)]

    def mirrored(place: int, length: int) -> int:
        place = abs(place)
        return place if place < length else 2 * (length - 1) - place

    soft = torch.zeros_like(b)
    for i, j in itertools.product(range(height), range(columns)):
        for p, q in itertools.product(range(-reach, reach + 1), repeat=2):
            weight = weights[p + reach] * weights[q + reach] / sum(weights) ** 2
            soft[i, j] += weight * b[mirrored(i + p, height), mirrored(j + q, columns)]
    product = a * soft
    if not root:
        return product
    peak = max(abs(float(v)) for v in product.flatten())
    values = [math.copysign(math.sqrt(abs(float(v)) * peak), float(v)) for v in product.flatten()]
    return torch.tensor(values, dtype=b.dtype).reshape(height, columns)
