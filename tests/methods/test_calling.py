"""How a model is called: options of every method, in which mode, and names of other libraries."""

from __future__ import annotations

import pytest
import torch
from nets import Net, convolutional, fitting, images, pooled
from snapshot import snapshot
from torch import nn
from torch.nn import functional as F

from camlib import (
    METHODS,
    AblationCAM,
    DeepFeatureFactorization,
    GradCAM,
    GuidedGradCAM,
    InputError,
    LayerMethod,
    Occlusion,
    OptionError,
    Saliency,
    ScoreCAM,
    Smooth,
    SmoothGrad,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.* answers a sample differently:camlib.CamlibWarning"),
    pytest.mark.filterwarnings("ignore:a map (at layer|of):camlib.CamlibWarning"),
    pytest.mark.filterwarnings("ignore:integrated gradients with:camlib.CamlibWarning"),
    pytest.mark.filterwarnings("ignore:FullGrad does not:camlib.CamlibWarning"),
]


class Dropping(Net):
    """Drops channels before its head: in training mode, or always."""

    always = False

    def __init__(self, features, tail):
        super().__init__(features, tail)
        self.drop = nn.Dropout(0.5)

    def forward(self, picture):
        found = self.features(picture)
        found = F.dropout(found, 0.5, training=True) if self.always else self.drop(found)
        return self.tail(found)


def dropping(kind=GradCAM):
    base = fitting(kind)
    return Dropping(base.features, base.tail).eval()


UNSTEADY = {"CAM"}
"""Methods that refuse a network in which dropout stands before the classifier."""


@pytest.mark.parametrize(
    "kind", [kind for kind in METHODS.values() if kind.__name__ not in UNSTEADY]
)
def test_dropout_in_training_mode_draws_anew_in_every_call(kind):
    net = dropping(kind)
    net.drop.train()
    layer = {"layer": "features"} if issubclass(kind, LayerMethod) else {}
    method = kind(net, **layer, eval=False)
    torch.manual_seed(0)
    seen = [method.explain(images(), [[0, 1, 2, 3]]) for _ in range(5)]
    scores = torch.stack([each.score for each in seen])
    assert len(torch.unique(scores, dim=0)) > 1
    assert net.drop.training
    assert not net.features.training


def test_map_of_a_draw_is_that_of_autograd():
    net = dropping()
    net.drop.train()
    torch.manual_seed(5)
    activation = net.features(images()).detach().requires_grad_()
    score = net.tail(net.drop(activation))[:, 1]
    [gradient] = torch.autograd.grad(score.sum(), activation)
    torch.manual_seed(5)
    seen = GradCAM(net, "features", eval=False).explain(images(), 1, relu=False)
    torch.testing.assert_close(seen.score, score.detach())
    expected = (gradient.mean((2, 3), keepdim=True) * activation).sum(1)
    torch.testing.assert_close(seen.map, expected.detach())


def test_modes_are_switched_off_and_back_by_default():
    net = dropping()
    expected = GradCAM(net, "features").explain(images(), 1)
    net.drop.train()
    before = snapshot(net)
    seen = [GradCAM(net, "features").explain(images(), 1) for _ in range(2)]
    for each in seen:
        assert torch.equal(each.score, expected.score)
        torch.testing.assert_close(each.heatmap, expected.heatmap)
    assert snapshot(net) == before


def test_dropout_that_is_always_on_repeats_unless_asked():
    net = dropping()
    net.always = True
    before = snapshot(net)
    steady = [GradCAM(net, "features").explain(images(), 1).score for _ in range(3)]
    assert torch.equal(steady[0], steady[1])
    assert torch.equal(steady[0], steady[2])
    assert snapshot(net) == before
    loose = [GradCAM(net, "features", eval=False).explain(images(), 1).score for _ in range(5)]
    assert len(torch.unique(torch.stack(loose), dim=0)) > 1


@pytest.mark.parametrize(
    "build",
    [
        lambda net: Smooth(GradCAM(net, "features", eval=False), samples=2),
        lambda net: SmoothGrad(net, samples=2, eval=False),
        lambda net: GuidedGradCAM(net, "features", eval=False),
        lambda net: GuidedGradCAM(net, "features", cam=ScoreCAM, eval=False),
    ],
)
def test_methods_around_methods_keep_the_modes_too(build):
    net = dropping()
    net.drop.train()
    method = build(net)
    scores = [method.explain(images(), 1).score for _ in range(5)]
    assert len(torch.unique(torch.stack(scores), dim=0)) > 1


@pytest.mark.parametrize("kind", METHODS.values(), ids=METHODS)
def test_names_of_other_libraries_are_answered(kind):
    net = fitting(kind)
    for name, message in {
        "target_layers": r"target_layers= is not an option of .*; use layer=",
        "target_layer": r"use layer=: a module, its dotted name",
        "targets": r"pass target= to the call",
        "use_cuda": r"maps are computed on the device of the inputs",
        "reshape_transform": r"leave it out; layout= is for",
    }.items():
        with pytest.raises(OptionError, match=message):
            kind(net, **{name: None})
        with pytest.raises(OptionError, match=message):
            kind(net)(images(), **{name: None})
    with pytest.raises(TypeError, match="the images are the first argument of a call"):
        kind(net)(input_tensor=images(), targets=None)


def test_unknown_options():
    with pytest.raises(OptionError, match=r"fus= is not an option of GradCAM; did you mean fuse="):
        GradCAM(pooled(), fus="max")
    with pytest.raises(OptionError, match=r"zz= is not an option of Saliency; there are eval=, im"):
        Saliency(pooled(), zz=1)
    with pytest.raises(OptionError, match=r"normalise= is not an option of .* mean normalize="):
        GradCAM(pooled())(images(), normalise=True)
    with pytest.raises(OptionError, match=r"relu= is not an option of Saliency; there are inputs="):
        Saliency(pooled())(images(), relu=False)
    with pytest.raises(
        OptionError, match=r"targets= is not an option of Smooth; pass target= to the call"
    ):
        Smooth(GradCAM(pooled()))(images(), targets=None)
    with pytest.raises(OptionError, match=r"DeepFeatureFactorization; did you mean concepts="):
        DeepFeatureFactorization(pooled(), concept=3)
    with pytest.raises(InputError, match=r"expected images as .* got NoneType"):
        GradCAM(pooled())(None)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'inputs'"):
        GradCAM(pooled())()


def test_scores_without_a_gradient_do_for_methods_that_need_none():
    """A count, a rounded value: not differentiable, or no floating point at all."""
    net, batch = convolutional(), images()

    def count(out):
        return (out > 0).sum(1)

    def rounded(out):
        return (out[:, 1] * 1000).round().detach()

    for kind in (ScoreCAM, AblationCAM, Occlusion):
        layer = {"layer": "features"} if issubclass(kind, LayerMethod) else {}
        found = kind(net, **layer).explain(batch, rounded, relu=False)
        expected = kind(net, **layer).explain(batch, lambda out: out[:, 1] * 1000, relu=False)
        torch.testing.assert_close(found.map, expected.map, atol=2, rtol=0.1)
        counted = kind(net, **layer).explain(batch, count)
        assert torch.equal(counted.score, count(net(batch)).float())
