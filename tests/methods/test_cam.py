"""CAM: its classifier is found behind a pooling, and other networks are refused."""

from __future__ import annotations

import pytest
import torch
from nets import Functional, Net, Pooling, convolutional, features, flat, images, pooled, spread
from torch import nn

from camlib import CAM, ModelError, TargetError


def test_all_classes_from_one_pass():
    net, batch = pooled(), images()
    every = CAM(net).explain(batch, target=[[0, 1, 2, 3]])
    output = net(batch).detach()
    torch.testing.assert_close(every.map.mean((2, 3)) + net.tail[1].bias.detach(), output)
    torch.testing.assert_close(every.score, output)


def test_nothing_is_recorded_for_autograd():
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda t: t):
        CAM(pooled(), "features")(images())
    assert not saved


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "tail",
    [
        lambda bias: [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(6, 4, bias)],
        lambda bias: [nn.Conv2d(6, 4, 1, bias=bias), nn.AdaptiveAvgPool2d(1), nn.Flatten()],
        lambda bias: [nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 4, 1, bias=bias), nn.Flatten()],
        lambda bias: [Functional("relu"), Pooling(), nn.Linear(6, 4, bias)],
    ],
)
def test_classifier_is_found(tail, bias):
    body = features()[:4]  # ends with a convolution: the layer has negative values
    net = spread(Net(body, nn.Sequential(*tail(bias))))
    seen = CAM(net, "features").explain(images(), target=[1, 2])
    classifier = next(m for m in net.tail if hasattr(m, "weight"))
    offset = classifier.bias.detach()[[1, 2]] if bias else 0
    torch.testing.assert_close(seen.map.mean((1, 2)) + offset, seen.score)


def test_convolution_with_a_relu_before_the_pooling_is_the_map_itself():
    head = [nn.Conv2d(6, 4, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    net = spread(Net(features(), nn.Sequential(*head)))  # as SqueezeNet ends
    for layer in ("tail.0", "tail.1"):
        seen = CAM(net, layer).explain(images(), target=[1, 2])
        torch.testing.assert_close(seen.map.mean((1, 2)), seen.score)


def test_the_right_one_of_two_linear_layers_is_found():
    net = pooled()
    net.spare = spread(nn.Linear(6, 4), seed=5)
    torch.testing.assert_close(CAM(net)(images()), CAM(pooled())(images()))


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (
            convolutional(),
            r"no such layer leads from 6 channels to 4 classes; choose the last layer",
        ),
        (flat(), r"no such layer leads from 6 channels to 4 classes"),
        (
            spread(Net(features(), nn.Sequential(Pooling(), nn.LayerNorm(6), nn.Linear(6, 4)))),
            r"CAM needs global average pooling and one linear layer .* right after layer "
            r"'features' of Net; mean\(map\) \+ bias misses the output by .* of its range",
        ),
    ],
)
def test_other_networks_are_refused(net, message):
    with pytest.raises(ModelError, match=message):
        CAM(net, "features")(images())


def test_target_must_be_a_class():
    with pytest.raises(TargetError, match="CAM explains classes alone: pass class indices"):
        CAM(pooled())(images(), target=lambda out: out[:, 0])
