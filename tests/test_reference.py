"""Every method equals the loops of `reference.py`, on networks with in-place layers and without."""

from __future__ import annotations

import pytest
import torch
from nets import by_hand, convolutional, images, pooled
from reference import REFERENCES, ablation_cam, cam, fused_layer_cam, recipro_cam, score_cam

import camlib
from camlib import CAM, AblationCAM, LayerCAM, ReciproCAM, ScoreCAM


@pytest.mark.filterwarnings("ignore:a map at layer:camlib.CamlibWarning")
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("layer", [3, 4])
@pytest.mark.parametrize("build", [pooled, convolutional])
@pytest.mark.parametrize(
    ("name", "options", "function"), REFERENCES, ids=lambda part: getattr(part, "__name__", None)
)
def test_gradient_methods(name, options, function, build, layer, in_place):
    net = build(in_place=in_place).double()
    batch = images(3).double()
    method = getattr(camlib, name)(net, f"features.{layer}", **options)
    found = method.explain(batch, target=[2, 0, 1]).map
    expected = [
        function(*(found[0] for found in by_hand(net, image[None], layer, target)))
        for image, target in zip(batch, [2, 0, 1], strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-12)


def test_cam():
    net = pooled().double()
    batch = images().double()
    found = CAM(net, "features").explain(batch, target=[3, 1]).map
    weight = net.tail[1].weight
    expected = [cam(net.features(batch)[n], weight[target]) for n, target in enumerate([3, 1])]
    torch.testing.assert_close(found, torch.stack(expected).detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "paper"),
    [
        ({}, {}),
        ({"score": "logit"}, {"probability": False}),
        ({"baseline": "zero"}, {"baseline": torch.zeros(3, 8, 8).double()}),
        (
            {"score": "logit", "channel_softmax": True},
            {"probability": False, "channel_softmax": True},
        ),
        ({"channel_softmax": True}, {"channel_softmax": True}),
    ],
)
def test_score_cam(options, paper):
    net = convolutional().double()
    net.features[3].weight.data[1] = 0  # a constant channel, not zero
    net.features[3].bias.data[1] = 0.7
    batch = images().double()
    found = (
        ScoreCAM(net, "features", batch_size=4, **options).explain(batch, target=2, relu=False).map
    )
    activation = net.features(batch).detach()
    assert (activation[:, 1] == 0.7).all()
    expected = [
        score_cam(net, image, maps, 2, **paper)
        for image, maps in zip(batch, activation, strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-10, atol=1e-12)


def test_fusion_of_layer_cam():
    net = convolutional().double()
    batch = images().double()
    layers = ["features.2", "features"]
    found = LayerCAM(net, layers).explain(batch, target=1)
    each = [LayerCAM(net, layer).explain(batch, target=1).map for layer in layers]
    expected = torch.stack([fused_layer_cam([m[n] for m in each], [8, 8]) for n in range(2)])
    low, high = expected.amin((1, 2), keepdim=True), expected.amax((1, 2), keepdim=True)
    torch.testing.assert_close(found.heatmap, (expected - low) / (high - low))
    for one, alone in zip(found.maps, each, strict=True):
        torch.testing.assert_close(one, alone)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("layer", [3, 4])
@pytest.mark.parametrize("build", [pooled, convolutional])
@pytest.mark.parametrize(
    ("kind", "options", "function", "paper"),
    [
        (AblationCAM, {}, ablation_cam, {}),
        (ReciproCAM, {}, recipro_cam, {}),
        (ReciproCAM, {"score": "logit"}, recipro_cam, {"probability": False}),
        (ReciproCAM, {"gaussian": True}, recipro_cam, {"gaussian": True}),
    ],
)
def test_changed_activations(kind, options, function, paper, build, layer, in_place):
    net = build(in_place=in_place).double()
    batch = images(3).double()
    method = kind(net, f"features.{layer}", batch_size=4, **options)
    found = method.explain(batch, target=[2, 0, 1], relu=False).map

    def tail(activation):
        for module in [*net.features[layer + 1 :], *net.tail]:
            activation = module(activation.clone())
        return activation

    for each, image, target in zip(found, batch, [2, 0, 1], strict=True):
        activation, _ = by_hand(net, image[None], layer, target)
        expected = function(tail, activation[0], target, **paper)
        torch.testing.assert_close(each, expected, rtol=1e-9, atol=1e-12)
