"""Two-stage Grad-CAM: its formula, its identities, and the layers that it takes."""

from __future__ import annotations

import pytest
import torch
from nets import images, spread
from reference import two_stage_grad_cam
from torch import nn

from camlib import ElementWiseGradCAM, GradCAM, LayerError, TwoStageGradCAM, zoo


class Stages(nn.Module):
    """Three stages, each half as fine as the one before, of blocks with parts of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.first = self.stage(6, 8)
        self.second = self.stage(8, 8)
        self.third = self.stage(8, 10)
        self.head = nn.Linear(10, 4)
        spread(self)

    def stage(self, channels: int, wider: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(channels, wider, 3, 2, 1), nn.ReLU(), nn.Conv2d(wider, wider, 3, 1, 1)
        )

    def forward(self, batch):
        found = self.third(self.second(self.first(self.stem(batch))))
        return self.head(found.relu().mean((2, 3)))


@pytest.fixture
def net():
    return Stages().eval()


def of_layers(net, batch, target, *layers):
    """Activation and gradient of each layer, ``(N, C, H, W)``."""
    kept, hooks = {}, []
    for layer in layers:
        module = net.get_submodule(layer)
        hooks.append(
            module.register_forward_hook(lambda _m, _a, out, layer=layer: kept.update({layer: out}))
        )
    score = net(batch)[:, target].sum()
    for hook in hooks:
        hook.remove()
    gradients = torch.autograd.grad(score, [kept[layer] for layer in layers])
    return [(kept[layer].detach(), g) for layer, g in zip(layers, gradients, strict=True)]


@pytest.mark.parametrize("root", [False, True])
@pytest.mark.parametrize("width", [0.4, 0.7])
@pytest.mark.parametrize("size", [(32, 32), (32, 48)])
def test_it_follows_its_formula(net, root, width, size):
    net, batch = net.double(), images(2, *size).double()
    layers = ["first", "third"]
    method = TwoStageGradCAM(net, layers, width=width, root=root)
    fine, coarse = of_layers(net, batch, 2, *layers)
    expected = [
        two_stage_grad_cam(
            tuple(each[n] for each in coarse),
            tuple(each[n] for each in fine),
            width=width,
            root=root,
        )
        for n in range(2)
    ]
    found = method.explain(batch, 2, relu=False).map
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-12)


def test_layers_are_the_last_one_and_the_end_of_an_earlier_stage(net):
    batch = images(2, 64, 64)
    assert TwoStageGradCAM(net).explain(batch, 1).layers == ("second", "third")  # stride 8
    assert TwoStageGradCAM(net, finer=4).explain(batch, 1).layers == ("first", "third")
    assert TwoStageGradCAM(net, "third", finer=8).explain(batch, 1).layers == ("stem", "third")
    assert TwoStageGradCAM(net, "second").explain(batch, 1).layers == ("first", "second")
    assert TwoStageGradCAM(zoo.load()).explain(batch, 1).layers == ("features.2", "features")


def test_layers_are_sought_in_the_first_call_alone(net):
    method, batch = TwoStageGradCAM(net), images(2, 64, 64)
    method(batch, 1)
    passes = []
    net.register_forward_pre_hook(lambda *_: passes.append(1))
    method(batch, 1)
    assert len(passes) == 1


def test_the_map_is_on_the_finer_grid_and_has_the_peak_of_the_product(net):
    batch = images(2, 64, 64)
    methods = (TwoStageGradCAM(net, root=root) for root in (True, False))
    rooted, product = (each.explain(batch, 1, relu=False).map for each in methods)
    assert rooted.shape == (2, 16, 16)
    torch.testing.assert_close(rooted.abs().amax((1, 2)), product.abs().amax((1, 2)))
    assert (rooted.abs() >= product.abs() * (1 - 1e-6)).all()


def test_sign_is_that_of_grad_cam(net):
    batch = images(2, 64, 64)
    found = TwoStageGradCAM(net, ["first", "third"]).explain(batch, 1, relu=False).map
    coarse = GradCAM(net, "third").explain(batch, 1, relu=False).map
    enlarged = torch.nn.functional.interpolate(coarse[:, None], found.shape[1:], mode="bilinear")
    assert (found.sign() * enlarged[:, 0].sign() >= 0).all()
    assert (found < 0).any()
    assert (found > 0).any()


def test_fine_map_that_is_even_leaves_grad_cam(net):
    """An even soft map is 1 everywhere; here by a Gaussian as wide as the image."""
    batch = images(2, 64, 64)
    wide = TwoStageGradCAM(net, ["first", "third"], width=100, root=False)
    found = wide.explain(batch, 1, relu=False).map
    coarse = GradCAM(net, "third").explain(batch, 1, relu=False).map
    enlarged = torch.nn.functional.interpolate(coarse[:, None], found.shape[1:], mode="bilinear")
    ratio = (found / enlarged[:, 0]).flatten(1)
    assert (ratio.std(1) / ratio.mean(1)).max() < 0.15


def test_it_shows_nothing_where_the_earlier_stage_shows_nothing(net):
    batch = images(2, 64, 64)
    fine = ElementWiseGradCAM(net, "first").explain(batch, 1).map
    found = TwoStageGradCAM(net, ["first", "third"], width=0).explain(batch, 1, relu=False).map
    assert (fine == 0).any()
    assert (found[fine == 0] == 0).all()


def test_without_a_finer_layer_it_takes_the_last_one_for_both(net):
    batch = images(2, 64, 64)
    found = TwoStageGradCAM(net, "stem").explain(batch, 1, relu=False)
    assert found.layers == ("stem",)
    [(activation, gradient)] = of_layers(net.double(), batch.double(), 1, "stem")
    both = (activation[0], gradient[0])
    expected = two_stage_grad_cam(both, both, width=0.7, root=True)
    torch.testing.assert_close(found.map[0], expected.float(), rtol=1e-4, atol=1e-6)


def test_several_earlier_layers_count_by_their_mean(net):
    net, batch = net.double(), images(1, 64, 64).double()
    layers = ["first", "second", "third"]
    found = TwoStageGradCAM(net, layers, root=False).explain(batch, 1, relu=False).map
    *fine, coarse = of_layers(net, batch, 1, *layers)
    even = torch.ones(1, *coarse[0].shape[2:]).double()
    soft = [
        two_stage_grad_cam((even, even), (a[0], g[0]), width=0.7, root=False)[None, None]
        for a, g in fine
    ]
    enlarged = [torch.nn.functional.interpolate(each, (32, 32), mode="bilinear") for each in soft]
    last = GradCAM(net, "third").explain(batch, 1, relu=False).map[:, None]
    last = torch.nn.functional.interpolate(last, (32, 32), mode="bilinear")
    expected = last * (enlarged[0] + enlarged[1]) / 2
    torch.testing.assert_close(found, expected[:, 0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("layers", [["third", "first"], ["first", "third", "second"]])
def test_layers_in_the_wrong_order_are_refused(net, layers):
    with pytest.raises(LayerError, match="'third' has a grid of"):
        TwoStageGradCAM(net, layers)(images(2, 64, 64), 1)


def test_a_heatmap_can_stand_in_a_loss(net):
    batch = images(2, 64, 64).requires_grad_()
    heat = TwoStageGradCAM(net, differentiable=True)(batch, 1)
    [gradient] = torch.autograd.grad(heat.mean(), batch)
    assert gradient.isfinite().all()
    assert gradient.any()
