"""Guided Grad-CAM: two rules for one forward pass."""

from __future__ import annotations

import pytest
import torch
from nets import Net, Pooling, by_hand, convolutional, images, pooled, spread
from torch import nn
from torch.nn import functional as F

from camlib import (
    METHODS,
    RISE,
    AblationCAM,
    CamlibWarning,
    EigenCAM,
    GradCAM,
    GuidedBackprop,
    GuidedGradCAM,
    InputError,
    LayerCAM,
    LayerMethod,
    Saliency,
    ScoreCAM,
    layouts,
)

CAMS = [kind for kind in METHODS.values() if issubclass(kind, LayerMethod)]

TARGETS = pytest.mark.parametrize("target", [None, 1, [3, 0], [[0, 3], [2, 1]]], ids=str)

pytestmark = pytest.mark.filterwarnings("ignore:a map at layer:camlib.CamlibWarning")


def assert_composed(net, batch, target, layer, cam, **options):
    """That both halves are those of two calls of their own, to rounding in float64."""
    seen = GuidedGradCAM(net, layer, cam=cam, **options).explain(batch, target)
    factor = cam(net, layer, relu=True, normalize=False, **options).explain(batch, target)
    predicted = GuidedBackprop(net).explain(batch, target)
    guided = predicted.heatmap
    expected = guided * factor.heatmap.unsqueeze(factor.heatmap.ndim - 2)
    torch.testing.assert_close(seen.heatmap, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(seen.map, factor.map, rtol=1e-12, atol=1e-12)
    assert expected.abs().sum() > 0
    assert seen.layers == factor.layers
    assert torch.equal(seen.target, predicted.target)


@TARGETS
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("cam", CAMS, ids=lambda kind: kind.__name__)
def test_halves_are_those_of_two_calls(cam, in_place, target):
    net = pooled(80, in_place=in_place).double()
    assert_composed(net, images().double(), target, "features", cam)


@TARGETS
@pytest.mark.parametrize("fuse", ["mean", "max", "product", "scaled_max"])
@pytest.mark.parametrize("cam", [GradCAM, LayerCAM, EigenCAM, ScoreCAM, AblationCAM])
def test_halves_at_several_layers(cam, fuse, target):
    net = convolutional(in_place=True).double()
    layers = ["features.1", "features"]
    assert_composed(net, images().double(), target, layers, cam, fuse=fuse)


def test_halves_of_a_layer_that_is_read_by_a_layout():
    class Turned(nn.Module):
        def forward(self, features):
            return features.movedim(1, -1)

    class Back(nn.Module):
        def forward(self, features):
            return features.movedim(-1, 1)

    base = convolutional().double()
    net = Net(nn.Sequential(base.features, Turned()), nn.Sequential(Back(), base.tail)).eval()
    layout = layouts.ChannelsLast()
    assert_composed(net, images().double(), [[0, 1]], "features", GradCAM, layout=layout)


class Bounded(nn.Module):
    """Activation functions after which many values are at the bounds of the next one."""

    def forward(self, features):
        return F.relu(F.relu6(features)).clamp(min=0).clip_(0, 2)


def test_ordinary_half_is_exact_at_the_bounds_of_activation_functions():
    features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), Bounded())
    tail = nn.Sequential(
        Bounded(), nn.Conv2d(6, 7, 3), Bounded(), nn.MaxPool2d(2), nn.GELU(),
        Pooling(), nn.Linear(7, 4),
    )  # fmt: skip
    net, batch = spread(Net(features, tail)).double(), images().double()
    values = net.features(batch)
    assert (values == 0).any()
    assert (values == 2).any()
    assert_composed(net, batch, [[0, 1, 2]], "features", GradCAM)


@pytest.mark.parametrize("lift", [0.0, 3.0])
def test_product_is_that_of_the_authors(lift):
    """The rectified map, enlarged, times the signal at every pixel; nothing is subtracted."""
    net, batch = convolutional().double(), images().double()
    net.features[3].bias.data += lift  # evidence everywhere
    found = GuidedGradCAM(net, "features")(batch, 1)
    guided = GuidedBackprop(net)(batch, 1)
    lows = []
    for n, image in enumerate(batch):
        activation, gradient = by_hand(net, image[None], 4, 1)
        weights = [gradient[0, k].mean() for k in range(6)]
        total = sum(w * activation[0, k] for k, w in enumerate(weights)).clamp(min=0)
        large = F.interpolate(total[None, None], (8, 8), mode="bilinear")[0, 0]
        lows.append(float(large.min()))
        for c in range(3):
            expected = torch.stack([guided[n, c, i] * large[i] for i in range(8)])
            torch.testing.assert_close(found[n, c], expected, rtol=1e-9, atol=1e-12)
    assert lift == 0 or max(lows) > 0


def test_halves_where_other_activation_functions_follow_the_rule():
    net, batch = convolutional().double(), images().double()
    found = GuidedGradCAM(net, "features", generalize=True)(batch, [[1, 2]])
    guided = GuidedBackprop(net, generalize=True)(batch, [[1, 2]])
    assert not torch.allclose(guided, GuidedBackprop(net)(batch, [[1, 2]]))
    heatmap = GradCAM(net, "features", normalize=False)(batch, [[1, 2]])
    torch.testing.assert_close(found, guided * heatmap[:, :, None], rtol=1e-12, atol=1e-12)


class Counting(Net):
    """Notes the size of every batch."""

    def forward(self, batch):
        self.sizes = [*getattr(self, "sizes", []), len(batch)]
        return super().forward(batch)


@pytest.mark.parametrize("kind", CAMS, ids=lambda kind: kind.__name__)
def test_halves_share_a_forward_pass(kind):
    base = pooled()
    net = Counting(base.features, base.tail).eval()
    cam, both = kind(net, "features"), GuidedGradCAM(net, "features", cam=kind)
    for each in (cam, both, Saliency(net)):
        each(images(), 1)  # finds out how the model takes many images, and each alone
    net.sizes.clear()
    cam(images(), 1)
    alone = len(net.sizes)
    both(images(), 1)
    assert len(net.sizes) == 2 * alone
    if "for each" not in kind.cost:
        assert alone == 1


def kept(method, batch):
    """Bytes that autograd keeps for backward passes."""
    found = {}

    def pack(tensor):
        found[tensor.data_ptr(), tensor.dtype] = tensor.nbytes
        return tensor

    alive = []  # or an address would be used twice
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: alive.append(t) or pack(t), lambda t: t
    ):
        method(batch, 1)
    return sum(found.values())


@pytest.mark.parametrize("in_place", [False, True])
def test_graph_is_that_of_the_gradient_and_an_activation(in_place):
    net, batch = convolutional(in_place=in_place), images(8, 32, 32)
    gradient = kept(Saliency(net), batch)
    assert 0 < kept(GuidedBackprop(net), batch) <= gradient
    assert kept(GuidedGradCAM(net, "features"), batch) <= gradient + net.features(batch).nbytes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cam": RISE}, "cam=<class '.*RISE'> is a class; expected a subclass of LayerMethod"),
        (
            {"cam": LayerCAM(pooled())},
            r"cam=LayerCAM\(Net, .*\) is of type LayerCAM; expected a subclass",
        ),
        ({"cam": LayerCAM, "fuse": None}, "fuse=None leaves several maps to multiply with"),
        ({"relu": False}, "relu cannot be chosen: the map is a factor, rectified as it is"),
        ({"differentiable": True}, "differentiable cannot be chosen: the map is a factor"),
        (
            {"cam": ScoreCAM, "batch_size": 0},
            "batch_size=0 is out of range; expected an integer of 1 or more",
        ),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        GuidedGradCAM(pooled(), **options)


def test_options_are_those_of_the_cam():
    net, batch = pooled(), images()
    found = GuidedGradCAM(net, cam=ScoreCAM, score="logit", batch_size=3)(batch, 1)
    factor = ScoreCAM(net, score="logit", relu=True, normalize=False)(batch, 1)
    torch.testing.assert_close(found, GuidedBackprop(net)(batch, 1) * factor[:, None])


def test_values_that_overflow_on_the_way_to_the_pixels_are_refused():
    class Steep(torch.autograd.Function):
        @staticmethod
        def forward(ctx, features):
            return features.clone()

        @staticmethod
        def backward(ctx, signal):
            return signal * float("inf")

    base = pooled()
    net = Net(base.features, base.tail).eval()
    net.features[0].register_forward_hook(lambda _, __, output: Steep.apply(output))
    with pytest.raises(InputError, match="the attribution is not finite"):
        GuidedGradCAM(net, "features")(images(), 1)


def test_halves_of_guided_grad_cam_explain_the_same_class():
    net, batch = convolutional(), images(4)
    seen = GuidedGradCAM(net, "features").explain(batch)
    target = net(batch).argmax(1)
    assert torch.equal(seen.target, target)
    assert seen.method == "GuidedGradCAM"
    heatmap = GradCAM(net, "features", normalize=False)(batch, target=target)
    guided = GuidedBackprop(net)(batch, target=target)
    torch.testing.assert_close(seen.heatmap, guided * heatmap[:, None])
    assert repr(GuidedGradCAM(net, "features")) == "GuidedGradCAM(Net, layer='features')"


def test_guided_backprop_of_a_network_without_relu_warns():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.warns(
        CamlibWarning, match="GuidedBackprop met no ReLU in Sequential, so this is the"
    ):
        GuidedBackprop(net)(images())
