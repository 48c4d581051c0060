"""Beside the other libraries: equal where they are right, and where they are not, who is.

`grad-cam` stands for its module `pytorch_grad_cam`. The real network has a file of its own,
`test_peers_real.py`. Each test of a defect computes the paper's
value itself, so it says which of the two libraries is wrong, and by how much.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torchvision
from nets import Net, Pooling, convolutional, images, rectifying, spread
from peer import (
    MARKS,
    activation_and_gradient,
    as_grad_cam_scales,
    correlation,
    equation_19,
    uncut,
    weighted,
)
from reference import ReluByHand
from torch import Tensor, nn
from torch.nn import functional as F

import camlib
from camlib import Deconvnet, GradCAM, GradCAMPlusPlus, GuidedBackprop

pytestmark = MARKS


def wide(seed: int = 0) -> nn.Sequential:
    """A network with overlapping pooling, every ReLU a module of its own."""
    net = nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(16, 24, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24 * 9, 32),
        nn.ReLU(),
        nn.Linear(32, 4),
    )
    return spread(net, seed)


@pytest.mark.parametrize("build", [rectifying, wide])
@pytest.mark.parametrize(
    ("name", "method"), [("GuidedBackprop", GuidedBackprop), ("Deconvolution", Deconvnet)]
)
def test_pixels_equal_those_of_captum_where_every_relu_is_a_module(peers, build, name, method):
    net = build()
    batch = images(3) if build is rectifying else images(3, 31, 31)
    found = method(net)(batch, [0, 3, 1])
    theirs = getattr(peers["captum"], name)(net).attribute(batch, target=[0, 3, 1])
    assert (found - theirs).abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("build", [rectifying, wide])
def test_input_x_gradient_equals_that_of_captum(peers, build):
    net = build()
    batch = images(3) if build is rectifying else images(3, 31, 31)
    found = camlib.InputXGradient(net)(batch, [0, 3, 1])
    theirs = peers["captum"].InputXGradient(net).attribute(batch, target=[0, 3, 1])
    torch.testing.assert_close(found, theirs)


@pytest.mark.filterwarnings("ignore:integrated gradients with:camlib.CamlibWarning")
@pytest.mark.parametrize("steps", [5, 50])
def test_integrated_gradients_equal_those_of_captum(peers, steps):
    net, batch, start = wide(), images(3, 31, 31), images(1, 31, 31, seed=5)
    found = camlib.IntegratedGradients(net, baseline=start, steps=steps)(batch, [0, 3, 1])
    theirs = (
        peers["captum"]
        .IntegratedGradients(net)
        .attribute(batch, start, target=[0, 3, 1], n_steps=steps, method="gausslegendre")
    )
    assert (found - theirs).abs().max() < 1e-5 * theirs.abs().max()


@pytest.fixture(scope="module")
def functional() -> dict[str, nn.Module]:
    """Networks of torchvision that call ReLU as a function, GoogLeNet nothing else."""
    options = {"aux_logits": False, "init_weights": False}
    return {
        "googlenet": spread(torchvision.models.googlenet(weights=None, **options)),
        "densenet121": spread(torchvision.models.densenet121(weights=None)),
    }


@pytest.mark.parametrize("network", ["googlenet", "densenet121"])
@pytest.mark.parametrize(
    ("name", "method", "rule"),
    [("GuidedBackprop", GuidedBackprop, "guided"), ("Deconvolution", Deconvnet, "deconvnet")],
)
def test_functional_relus_follow_the_rule_and_in_captum_do_not(
    peers, monkeypatch, functional, network, name, method, rule
):
    net = functional[network]
    batch = images(1, 64, 64)
    found = method(net)(batch, 7)
    theirs = getattr(peers["captum"], name)(net).attribute(batch, target=7)
    source = batch.clone().requires_grad_()
    with monkeypatch.context() as patch:  # nn.ReLU calls it too
        patch.setattr(F, "relu", lambda a, inplace=False: ReluByHand.apply(a, rule))
        [expected] = torch.autograd.grad(net(source)[0, 7], source)
    peak = expected.abs().max()
    assert (found - expected).abs().max() < 1e-5 * peak
    assert (theirs - expected).abs().max() > 0.1 * peak


def test_grad_cam_returns_one_image_of_a_batch_and_twice_the_value_the_second_time(peers):
    net = rectifying()
    batch = images(2)
    found = GuidedBackprop(net)(batch, 1)
    peer = peers["grad-cam"].GuidedBackpropReLUModel(net, torch.device("cpu"))
    given = batch.clone()
    first, second = (torch.tensor(peer(given, 1).copy()) for _ in range(2))
    assert first.shape == (8, 8, 3)
    torch.testing.assert_close(second, 2 * first)
    torch.testing.assert_close(first, found[0].permute(1, 2, 0))
    assert torch.equal(GuidedBackprop(net)(batch, 1), found)


def test_torchcam_weighs_by_the_cube_of_the_gradient_and_camlib_by_equation_19(peers):
    net = convolutional()
    batch = images(2)
    target = torch.tensor([1, 1])
    activation, gradient = activation_and_gradient(net, "features", batch, target)
    with peers["torchcam"].GradCAMpp(net, "features", input_shape=(3, 8, 8)) as peer:
        scores = net(batch)
        [theirs] = peer._get_weights([1, 1], scores)
    cubes = gradient.clamp(min=0).pow(3).sum((2, 3))
    paper = equation_19(activation, gradient)
    torch.testing.assert_close(theirs.double(), cubes, rtol=1e-4, atol=1e-9)
    assert not torch.allclose(theirs.double(), paper, rtol=0.1)

    found = GradCAMPlusPlus(net, "features").weights(activation, gradient)[:, :, 0, 0]
    torch.testing.assert_close(found, paper)
    found = GradCAMPlusPlus(net, "features").explain(batch, 1).map
    torch.testing.assert_close(found.double(), weighted(paper, activation), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("build", [convolutional, rectifying])
def test_shapley_cam_equals_that_of_grad_cam(peers, build):
    net, batch = build(), images(3)
    layer = [module for module in net.features if isinstance(module, nn.ReLU)][-1]
    found = camlib.ShapleyCAM(net, layer).explain(batch, 3).map
    assert found.amax((1, 2)).min() > 0
    with peers["grad-cam"].ShapleyCAM(net, [layer]) as peer:
        theirs = peer(batch, [peers["target"](3)] * 3)
    assert np.abs(as_grad_cam_scales(found, 8) - theirs).max() < 1e-4


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("KPCA_CAM", camlib.KPCACAM),
        ("EigenCAM", camlib.EigenCAM),
        ("EigenGradCAM", camlib.EigenGradCAM),
        ("SegEigenCAM", camlib.SegEigenCAM),
    ],
)
def test_eigen_methods_equal_those_of_grad_cam_which_centres_the_channels(peers, name, kind):
    net, batch = convolutional(), images(3)
    activation, gradient = activation_and_gradient(net, "features", batch, torch.tensor([1, 1, 1]))
    with getattr(peers["grad-cam"], name)(net, [net.features]) as peer:
        made = uncut(peer)
        peer(batch, [peers["target"](1)] * 3)
    [theirs] = map(torch.tensor, made)
    method = kind(net, "features")
    if kind is camlib.KPCACAM:  # centred in both
        expected, ours = method.pattern(activation), method.explain(batch, 1).map
        torch.testing.assert_close(ours.abs().double(), expected.abs(), rtol=1e-3, atol=1e-4)
    else:
        size = {"EigenGradCAM": gradient, "SegEigenCAM": gradient.abs()}.get(name, torch.ones(1))
        features = size * activation
        centred = features - features.mean((2, 3), keepdim=True)
        expected = camlib.EigenCAM(net, "features").pattern(centred)
        ours = method.explain(batch, 1, relu=False).map
        assert (ours.abs() - theirs.abs()).abs().max() > 0.1 * theirs.abs().max()
    torch.testing.assert_close(theirs.abs().double(), expected.abs(), rtol=1e-3, atol=1e-4)


def test_fem_of_grad_cam_weighs_by_how_many_places_are_strong(peers):
    net, batch = convolutional(), images(3)
    activation, _ = activation_and_gradient(net, "features", batch, torch.tensor([1, 1, 1]))
    with peers["grad-cam"].FEM(net, [net.features]) as peer:
        made = uncut(peer)
        peer(batch, [peers["target"](1)] * 3)
    [theirs] = map(torch.tensor, made)
    mean = activation.mean((2, 3), keepdim=True)
    strong = activation > mean + 2 * activation.std((2, 3), correction=0, keepdim=True)
    counted = (strong.double().mean((2, 3), keepdim=True) * activation).sum(1)
    torch.testing.assert_close(theirs.double(), counted, rtol=1e-4, atol=1e-6)
    found = camlib.FEM(net, "features").explain(batch, 1).map
    dead = activation.amax((2, 3), keepdim=True) == activation.amin((2, 3), keepdim=True)
    paper = (mean * (strong | dead)).sum(1)
    torch.testing.assert_close(found.double(), paper, rtol=1e-4, atol=1e-6)
    assert correlation(found, theirs) < 0.9


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_grad_cam_leaves_mode_hooks_and_gradients_behind_and_camlib_nothing(peers):
    net = convolutional().train()
    batch = images(2)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)

    GradCAM(net, "features")(batch, 1)
    assert all(module.training for module in net.modules())
    assert hooks(net) == 0
    assert all(bool((p.grad == 1).all()) for p in net.parameters())

    peer = peers["grad-cam"].GradCAM(net, [net.features])
    peer(batch, [peers["target"](1)] * 2)
    assert not any(module.training for module in net.modules())
    assert hooks(net) == 2
    assert not any(bool((p.grad == 1).all()) for p in net.parameters())


def test_grad_cam_takes_the_relu_after_a_convolution_for_the_convolution(peers):
    net = convolutional(in_place=True)
    batch = images(2)
    target = torch.tensor([1, 1])
    activation, gradient = activation_and_gradient(net, "features.3", batch, target)
    assert activation.min() < 0
    weights = gradient.mean((2, 3))
    found = GradCAM(net, "features.3").explain(batch, 1).map
    torch.testing.assert_close(found.double(), weighted(weights, activation))

    with peers["grad-cam"].GradCAM(net, [net.features[3]]) as peer:
        theirs = peer(batch, [peers["target"](1)] * 2)
    overwritten = as_grad_cam_scales(weighted(weights, activation.relu()), 8)
    assert np.abs(theirs - overwritten).max() < 1e-4
    assert np.abs(theirs - as_grad_cam_scales(found, 8)).max() > 0.1


@pytest.fixture
def uniform() -> Iterator[tuple[nn.Module, Tensor]]:
    """Every position speaks for class 1 alike."""
    net = Net(nn.Conv2d(3, 2, 1), nn.Sequential(Pooling(), nn.Linear(2, 2))).eval()
    for parameter in net.parameters():
        nn.init.constant_(parameter, 0.5)
    yield net, torch.ones(1, 3, 8, 8)


def test_uniform_evidence_disappears_in_the_peers_and_can_be_kept_in_camlib(peers, uniform):
    net, batch = uniform
    with peers["grad-cam"].GradCAM(net, [net.features]) as peer:
        assert not peer(batch, [peers["target"](1)]).any()
    with peers["torchcam"].GradCAM(net, "features", input_shape=(3, 8, 8)) as peer:
        scores = net(batch)
        assert not peer(1, scores)[0].any()
    found = GradCAM(net, "features").explain(batch, 1, normalize="max")
    assert bool((found.map > 0).all())
    assert bool((found.heatmap == 1).all())
    assert not GradCAM(net, "features")(batch, 1).any()
