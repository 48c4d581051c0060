"""Options that stand for variants of a method, as other code has them, against loops in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from nets import Pooling, by_hand, convolutional, images, pooled
from reference import gradient_at, score_cam
from torch import nn

from camlib import (
    CAM,
    CAMERAS,
    AblationCAM,
    Augmented,
    ElementWiseGradCAM,
    ExpectedGradients,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    InputError,
    IntegratedGradCAM,
    IntegratedGradients,
    LayerCAM,
    Occlusion,
    Saliency,
    ScoreCAM,
    ShapleyCAM,
    Smooth,
    SmoothGrad,
    SmoothGradCAMPlusPlus,
    XGradCAM,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:a map at layer:camlib.CamlibWarning"),
    pytest.mark.filterwarnings("ignore:integrated gradients with:camlib.CamlibWarning"),
]

NOISE = {"samples": 4, "sigma": 0.3, "seed": 2}


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)


def noisy(image):
    noise = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    return [image + 0.3 * (image.max() - image.min()) * each for each in noise]


def summary(found, statistic):
    mean = sum(found) / len(found)
    square = sum(each * each for each in found) / len(found)
    return {"mean": mean, "square": square, "variance": square - mean * mean}[statistic]


@pytest.mark.parametrize("batch_size", [1, 3, 32])
@pytest.mark.parametrize("statistic", ["mean", "square", "variance"])
def test_smooth_grad_of_squares_and_its_variance(statistic, batch_size):
    net, batch = convolutional().double(), images().double()
    expected = [
        summary([gradient_at(net, each, 2) for each in noisy(image)], statistic) for image in batch
    ]
    options = {"statistic": statistic, "batch_size": batch_size, **NOISE}
    assert_same(SmoothGrad(net, **options)(batch, 2), torch.stack(expected))
    assert_same(Smooth(Saliency(net), **options)(batch, 2), torch.stack(expected))


@pytest.mark.parametrize("statistic", ["square", "variance"])
def test_squares_and_variance_of_maps(statistic):
    net, batch = convolutional().double(), images().double()
    method = HiResCAM(net, "features")
    expected = []
    for image in batch:
        found = [by_hand(net, each[None], 4, 1) for each in noisy(image)]
        expected.append(summary([(a * g)[0].sum(0) for a, g in found], statistic))
    found = Smooth(method, statistic=statistic, **NOISE).explain(batch, 1).map
    assert_same(found, torch.stack(expected))
    both = Smooth(method, statistic=statistic, **NOISE).explain(batch, [[1, 3]]).map
    assert_same(both[:, 0], found)
    turned = Augmented(Smooth(method, statistic=statistic, **NOISE), flips=False)
    assert turned(batch, 1).isfinite().all()


def points(rule, steps):
    """Places in [0, 1] and their weights."""
    if rule == "gauss_legendre":
        places, weights = np.polynomial.legendre.leggauss(steps)
        return [((p + 1) / 2, w / 2) for p, w in zip(places, weights, strict=True)]
    if rule == "trapezoid":
        ends = [0.5 if i in (0, steps - 1) else 1.0 for i in range(steps)]
        return [(i / (steps - 1), end / (steps - 1)) for i, end in enumerate(ends)]
    start = {"left": 0.0, "middle": 0.5, "right": 1.0}[rule]
    return [((i + start) / steps, 1 / steps) for i in range(steps)]


@pytest.mark.parametrize("steps", [2, 5])
@pytest.mark.parametrize("multiply", [True, False])
@pytest.mark.parametrize("rule", ["gauss_legendre", "left", "right", "middle", "trapezoid"])
def test_rules_of_integration(rule, multiply, steps):
    net, batch = convolutional().double(), images().double()
    starts = images(2, seed=5).double()
    expected = []
    for image, start in zip(batch, starts, strict=True):
        total = torch.zeros_like(image)
        for place, weight in points(rule, steps):
            total += weight * gradient_at(net, start + place * (image - start), 1)
        expected.append(total * (image - start) if multiply else total)
    method = IntegratedGradients(
        net, baseline=starts, steps=steps, rule=rule, multiply=multiply, batch_size=3
    )
    assert_same(method(batch, 1), torch.stack(expected))


def test_integrated_grad_cam_over_equal_steps():
    net, image = convolutional().double(), images(1).double()
    found = IntegratedGradCAM(net, "features", steps=4, rule="right").explain(image, 1).map
    total = torch.zeros(4, 4).double()
    before = net.features(0 * image)[0].detach()
    for place in (0.25, 0.5, 0.75, 1.0):
        activation, gradient = by_hand(net, place * image, 4, 1)
        weights = [gradient[0, k].mean() for k in range(6)]
        gain = sum(w * (activation[0, k] - before[k]) for k, w in enumerate(weights))
        total += gain.clamp(min=0) / 4
    assert_same(found[0], total)


def test_expected_gradients_without_the_way():
    net, batch, baselines = convolutional().double(), images().double(), images(4, seed=5).double()
    generator = torch.Generator().manual_seed(3)
    chosen = torch.randint(4, (5,), generator=generator).tolist()
    places = torch.rand(5, generator=generator).tolist()
    found = ExpectedGradients(net, baselines=baselines, samples=5, seed=3, multiply=False)(batch, 1)
    for n, image in enumerate(batch):
        total = torch.zeros_like(image)
        for which, place in zip(chosen, places, strict=True):
            total += gradient_at(net, baselines[which] + place * (image - baselines[which]), 1) / 5
        assert_same(found[n], total)


@pytest.mark.parametrize("overlap", ["mean", "sum"])
@pytest.mark.parametrize("last", ["moved", "cut"])
@pytest.mark.parametrize(("window", "stride"), [(3, 2), (4, 3), (5, 5), (8, 1)])
def test_windows_of_occlusion(window, stride, last, overlap):
    net, batch = convolutional().double(), images().double()
    method = Occlusion(net, window=window, stride=stride, last=last, overlap=overlap, score="logit")
    found = method.explain(batch, 2).map
    count = math.ceil((8 - window) / stride) + 1
    starts = [i * stride for i in range(count)]
    if last == "moved":
        starts[-1] = 8 - window
    for n, image in enumerate(batch):
        total, often = torch.zeros(8, 8).double(), torch.zeros(8, 8).double()
        with torch.no_grad():
            score = net(image[None])[0, 2]
            for i in starts:
                for j in starts:
                    hidden = image.clone()
                    hidden[:, i : i + window, j : j + window] = 0
                    total[i : i + window, j : j + window] += score - net(hidden[None])[0, 2]
                    often[i : i + window, j : j + window] += 1
        assert_same(found[n], total if overlap == "sum" else total / often)


class Curved(nn.Module):
    """A tail with a second derivative."""

    def forward(self, features):
        return nn.functional.gelu(features) * features.tanh()


@pytest.mark.parametrize("element_wise", [False, True])
def test_shapley_cam_at_every_position(element_wise):
    net, batch = convolutional().double(), images().double()
    net.tail[1] = Curved()
    method = ShapleyCAM(net, "features.3", element_wise=element_wise)
    found = method.explain(batch, [2, 0], relu=False).map
    for n, (image, target) in enumerate(zip(batch, [2, 0], strict=True)):
        activation, _ = by_hand(net, image[None], 3, target)
        score = lambda a, t=target: net.tail(net.features[4](a[None]))[0, t]  # noqa: E731
        gradient = torch.autograd.functional.jacobian(score, activation[0])
        hessian = torch.autograd.functional.hessian(score, activation[0])
        total = torch.zeros_like(activation[0, 0])
        for k in range(len(activation[0])):
            corrected = torch.zeros_like(total)
            for i in range(total.shape[0]):
                for j in range(total.shape[1]):
                    second = (hessian[k, i, j] * activation[0]).sum()
                    corrected[i, j] = gradient[k, i, j] - second / 2
            if element_wise:
                total += (corrected * activation[0, k]).clamp(min=0)
            else:
                total += corrected.mean() * activation[0, k]
        assert_same(found[n], total)
    plain = (ElementWiseGradCAM if element_wise else GradCAM)(net, "features.3")
    other = plain.explain(batch, [2, 0], relu=False).map
    assert (found - other).abs().max() > 1e-3 * found.abs().max()


def component(weighted):
    """The projection on the first right singular vector of centred positions x channels."""
    _, height, width = weighted.shape
    rows = torch.stack([weighted[:, i, j] for i in range(height) for j in range(width)])
    rows = rows - rows.mean(0)
    _, _, right = torch.linalg.svd(rows, full_matrices=True)
    found = (rows @ right[0]).reshape(height, width)
    return -found if -found.min() > found.max() else found


def weights_of(kind, activation, gradient):
    """The weights of one sample, as the references have them."""
    channels = range(len(activation))
    if kind is HiResCAM:
        return gradient
    if kind is LayerCAM:
        return gradient.clamp(min=0)
    if kind is GradCAM:
        return torch.stack([gradient[k].mean().expand(gradient[k].shape) for k in channels])
    if kind is XGradCAM:
        shares = [(gradient[k] * activation[k]).sum() / activation[k].sum() for k in channels]
    else:
        shares = []
        for k in channels:
            g, area = gradient[k], activation[k].sum()
            alpha = torch.where(g > 0, g**2 / (2 * g**2 + area * g**3), 0)
            shares.append((alpha * g.clamp(min=0)).sum())
    return torch.stack([s.expand(gradient[0].shape) for s in shares])


@pytest.mark.parametrize("kind", [GradCAM, HiResCAM, LayerCAM, XGradCAM, GradCAMPlusPlus])
def test_eigen_smooth_of_gradients(kind):
    net, batch = convolutional().double(), images(3).double()
    method = kind(net, "features", eigen_smooth=True)
    found = method.explain(batch, [[2], [0], [1]], relu=False).map
    for n, (image, target) in enumerate(zip(batch, [2, 0, 1], strict=True)):
        activation, gradient = (each[0] for each in by_hand(net, image[None], 4, target))
        weights = weights_of(kind, activation, gradient)
        alive = activation.flatten(1).any(1)
        assert_same(found[n, 0], component((weights * activation)[alive]))
    plain = kind(net, "features").explain(batch, [2, 0, 1]).map
    assert (found[:, 0].relu() - plain).abs().max() > 0.01 * plain.max()


@pytest.mark.parametrize("kind", [ScoreCAM, AblationCAM])
def test_eigen_smooth_of_perturbations(kind):
    net, batch = convolutional().double(), images().double()
    found = kind(net, "features", eigen_smooth=True).explain(batch, [[2, 0], [1, 3]], relu=False)
    for n, (image, targets) in enumerate(zip(batch, [[2, 0], [1, 3]], strict=True)):
        activation = net.features(image[None])[0].detach()
        for k, target in enumerate(targets):
            parts = []
            for c in range(len(activation)):
                alone = torch.zeros_like(activation)
                alone[c] = activation[c]
                if kind is ScoreCAM:
                    part = score_cam(net, image, activation[c : c + 1], target)
                else:
                    without = activation.clone()
                    without[c] = 0
                    with torch.no_grad():
                        lost = net.tail(activation[None]) - net.tail(without[None])
                    part = lost[0, target] * activation[c]
                parts.append(part)
            assert_same(found.map[n, k], component(torch.stack(parts)))


def test_eigen_smooth_with_other_options():
    net, batch = convolutional().double(), images().double().requires_grad_()
    smooth = Smooth(GradCAM(net, "features", eigen_smooth=True), samples=2, sigma=0)
    assert_same(smooth(batch, 1), GradCAM(net, "features", eigen_smooth=True)(batch, 1))
    found = SmoothGradCAMPlusPlus(net, "features", eigen_smooth=True, samples=2, sigma=0)
    assert_same(found(batch, 1), GradCAMPlusPlus(net, "features", eigen_smooth=True)(batch, 1))
    method = GradCAM(net, "features", eigen_smooth=True, differentiable=True)
    [gradient] = torch.autograd.grad(method(batch, 1, normalize=False).sum(), batch)
    assert gradient.isfinite().all()
    assert gradient.any()
    with pytest.raises(InputError, match="eigen_smooth= is not an option of CAMERAS; methods that"):
        CAMERAS(net, "features", eigen_smooth=True)


def test_nothing_to_smooth_before_a_pooling():
    net, batch = pooled().double(), images().double()
    plain = GradCAMPlusPlus(net, "features").explain(batch, 1).map
    assert plain.any()
    smooth = SmoothGradCAMPlusPlus(net, "features", samples=3, sigma=0.5)
    assert_same(smooth.explain(batch, 1).map, plain)


def test_cam_at_a_convolution_that_classifies_has_its_bias():
    net, batch = convolutional().double(), images().double()
    net.tail = nn.Sequential(nn.Conv2d(6, 4, 1), Pooling()).double()
    found = CAM(net, "tail.0").explain(batch, 2).map
    assert_same(found, net.tail[0](net.features(batch))[:, 2].detach())
    before = CAM(net, "features").explain(batch, 2).map
    assert_same(found - before, torch.full_like(before, net.tail[0].bias[2].item()))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda net: Smooth(Saliency(net), statistic="median"), "statistic='median' is not known"),
        (lambda net: IntegratedGradients(net, rule="simpson"), "rule='simpson' is not known; use"),
        (lambda net: IntegratedGradCAM(net, rule="mid"), "rule='mid' is not known; use 'gauss"),
        (
            lambda net: IntegratedGradients(net, rule="trapezoid", steps=1),
            "rule='trapezoid' has its points at both ends; use steps=2 or more",
        ),
        (lambda net: Occlusion(net, last="kept"), "last='kept' is not known; use 'moved' or 'cut'"),
        (lambda net: Occlusion(net, overlap="max"), "overlap='max' is not known; use 'mean' or"),
    ],
)
def test_bad_options(build, message):
    with pytest.raises(InputError, match=message):
        build(convolutional())
