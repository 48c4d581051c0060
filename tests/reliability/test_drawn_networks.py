"""Networks drawn at random, against the slow loops of `reference.py`, in float64."""

from __future__ import annotations

import random

import pytest
import torch
from nets import Net, Pooling, by_hand, images, spread
from reference import (
    REFERENCES,
    ablation_cam,
    cam,
    full_grad,
    gradient_at,
    integrated_gradients,
    recipro_cam,
    score_cam,
    shapley_cam,
)
from torch import Tensor, nn

import camlib

pytestmark = [
    pytest.mark.filterwarnings("ignore:a map (at layer|of):camlib.CamlibWarning"),
    pytest.mark.filterwarnings("ignore:FullGrad does not:camlib.CamlibWarning"),
    pytest.mark.filterwarnings("ignore:integrated gradients with:camlib.CamlibWarning"),
]

CLASSES = 4
ACTIVATIONS = (
    nn.ReLU,
    lambda: nn.ReLU(inplace=True),
    lambda: nn.LeakyReLU(0.1, inplace=True),
    nn.GELU,
    lambda: nn.SiLU(inplace=True),
    nn.Tanh,
    nn.Identity,
)


def drawn(draw: random.Random, size: tuple[int, int]) -> Net:
    """A network of convolutions, norms, activations and poolings, of some shape."""
    channels, layers = 3, []
    for block in range(draw.randint(1, 3)):
        width = draw.choice([2, 4, 6])
        kernel = draw.choice([1, 3, 3, 5])
        stride = draw.choice([1, 2]) if block else 1
        groups = 2 if channels % 2 == 0 and draw.random() < 0.3 else 1
        layers.append(
            nn.Conv2d(
                channels,
                width,
                kernel,
                stride,
                kernel // 2,
                groups=groups,
                bias=draw.random() < 0.7,
            )
        )
        if draw.random() < 0.5:
            layers.append(draw.choice([nn.BatchNorm2d(width), nn.GroupNorm(2, width)]))
        layers.append(draw.choice(ACTIVATIONS)())
        if draw.random() < 0.3:
            layers.append(draw.choice([nn.MaxPool2d, nn.AvgPool2d])(2, ceil_mode=True))
        channels = width
    features = nn.Sequential(*layers)
    with torch.no_grad():
        grid = spread(features)(torch.zeros(1, 3, *size)).shape[2:]
    if min(grid) < 2:  # no place lies beside another
        return drawn(draw, size)
    how = draw.choice(["pooled", "pooled", "convolutional", "flat"])
    if how == "flat":
        tail = [nn.Flatten(), nn.Linear(channels * grid.numel(), CLASSES)]
    elif how == "pooled":
        tail = [Pooling(), nn.Linear(channels, CLASSES)]
    else:
        tail = [nn.Conv2d(channels, 5, 3, padding=1), draw.choice(ACTIVATIONS)()]
        tail += [Pooling(), nn.Linear(5, 6), nn.ReLU(inplace=True), nn.Linear(6, CLASSES)]
    return spread(Net(features, nn.Sequential(*tail)), draw.randrange(2**31)).double()


def assert_same(found: Tensor, expected: Tensor, what: object) -> None:
    assert found.shape == expected.shape, what
    scale = float(expected.abs().max())
    torch.testing.assert_close(
        found, expected, rtol=1e-7, atol=1e-9 * scale + 1e-14, msg=lambda told: f"{what}: {told}"
    )


def compared(seed: int) -> int:
    """How many maps of the network with this `seed` equal the reference: all."""
    draw = random.Random(seed)
    size = draw.randint(6, 10), draw.randint(6, 10)
    net, batch = drawn(draw, size), images(draw.randint(1, 2), *size, seed=seed).double()
    layer = draw.randrange(len(net.features))
    name = f"features.{layer}"
    targets = [draw.randrange(CLASSES) for _ in batch]
    rest = [*net.features[layer + 1 :], *net.tail]

    def tail(activation: Tensor) -> Tensor:
        for module in rest:
            activation = module(activation.clone())
        return activation

    maps = 0
    for kind, options, function in REFERENCES:
        method = getattr(camlib, kind)(net, name, **options)
        found = method.explain(batch, targets).map
        for n, target in enumerate(targets):
            seen = [part[0] for part in by_hand(net, batch[n : n + 1], layer, target)]
            if kind == "KPCACAM" and seen[0].flatten(1).var(1).max() < 1e-20:
                continue  # every direction is a principal one
            try:
                expected = function(*seen)
            except torch.linalg.LinAlgError:
                continue  # the reference itself does not tell directions apart that are alike
            assert_same(found[n], expected, (seed, net, name, method))
            maps += 1
    replayed = [
        (camlib.AblationCAM, ablation_cam, {}, {}),
        (camlib.ReciproCAM, recipro_cam, {}, {}),
        (camlib.ReciproCAM, recipro_cam, {"gaussian": True}, {"gaussian": True}),
    ]
    for kind, function, options, paper in replayed:
        found = kind(net, name, **options).explain(batch, targets, relu=False).map
        for n, target in enumerate(targets):
            activation, _ = by_hand(net, batch[n : n + 1], layer, target)
            expected = function(tail, activation[0], target, **paper)
            assert_same(found[n], expected, (seed, net, name, kind))
            maps += 1
    found = {
        kind: kind(net, name).explain(batch, targets, relu=False).map
        for kind in (camlib.ScoreCAM, camlib.ShapleyCAM)
    }
    pixels = {
        kind: kind(net)(batch, targets)
        for kind in (camlib.InputXGradient, camlib.IntegratedGradients)
    }
    full = camlib.FullGrad(net).explain(batch, targets).map
    for n, (image, target) in enumerate(zip(batch, targets, strict=True)):
        activation = by_hand(net, image[None], layer, target)[0][0]
        where = (seed, net, name)
        expected = score_cam(net, image, activation, target)
        assert_same(found[camlib.ScoreCAM][n], expected, where)
        expected = shapley_cam(lambda a, c=target: tail(a[None])[0, c], activation).detach()
        assert_same(found[camlib.ShapleyCAM][n], expected, where)
        expected = image * gradient_at(net, image, target)
        assert_same(pixels[camlib.InputXGradient][n], expected, where)
        steps = camlib.IntegratedGradients(net).steps
        expected = integrated_gradients(net, image, target, torch.zeros_like(image), steps)
        assert_same(pixels[camlib.IntegratedGradients][n], expected, where)
        modules = [*net.features, *net.tail]
        if not any(isinstance(module, nn.GroupNorm) for module in modules):
            assert_same(full[n], full_grad(modules, image, target)[1], where)
        maps += 5
    if isinstance(net.tail[0], Pooling):
        found = camlib.CAM(net, "features").explain(batch, targets).map
        weight = net.tail[1].weight.detach()
        for n, target in enumerate(targets):
            expected = cam(net.features(batch[n : n + 1].clone())[0].detach(), weight[target])
            assert_same(found[n], expected, (seed, net))
            maps += 1
    return maps


@pytest.mark.parametrize("part", range(4))
def test_drawn_networks(part, trials, count):
    maps = sum(compared(seed) for seed in range(part * 10**6, part * 10**6 + 2 * trials))
    assert maps > 40
    count("maps of drawn networks", maps)
