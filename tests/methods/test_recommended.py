"""`camlib.explain`: the rule follows from the layer and the answer, and the result says why."""

from __future__ import annotations

import pytest
import torch
from nets import images, spread
from torch import nn

import camlib
from camlib import ElementWiseGradCAM, GradCAM, HiResCAM, OptionError, targets, zoo


class Dense(nn.Module):
    """Answers at every place."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.head = nn.Conv2d(6, 4, 1)
        spread(self)

    def forward(self, batch):
        return self.head(self.features(batch))


def linear(last: nn.Module) -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), last, nn.Flatten(), nn.Linear(6 * 16 * 16, 4)
    )
    spread(net)
    return net.eval()


def assert_same(found, method, batch, target):
    expected = method.explain(batch, target)
    assert found.method == type(method).__name__
    assert found.layers == expected.layers
    torch.testing.assert_close(found.map, expected.map)
    torch.testing.assert_close(found.heatmap, expected.heatmap)


def test_pooled_network_gets_grad_cam():
    net, batch = zoo.load(), zoo.preprocess(zoo.scene(3).image)[None]
    found = camlib.explain(net, batch)
    assert_same(found, GradCAM(net), batch, None)
    assert "no other method" in found.reason


def test_network_with_linear_layers_gets_grad_cam():
    net, batch = linear(nn.ReLU()), images(2, 16, 16)
    found = camlib.explain(net, batch, 1, layer="1", relu=False)
    assert_same(found, GradCAM(net, "1", relu=False), batch, 1)


@pytest.mark.parametrize("last", [nn.Identity(), nn.Tanh()])
def test_signed_layer_gets_the_element_wise_rule(last):
    net, batch = linear(last), images(2, 16, 16)
    found = camlib.explain(net, batch, 1, layer="1")
    assert_same(found, ElementWiseGradCAM(net, "1"), batch, 1)
    assert "negative values have" in found.reason


def test_slightly_negative_values_are_not_signed():
    net, batch = linear(nn.SiLU()), images(2, 16, 16)
    seen = net[:2](batch)
    assert (seen < 0).any()
    assert camlib.explain(net, batch, 1, layer="1").method == "GradCAM"


def test_answer_at_every_place_gets_hires_cam():
    net, batch = Dense().eval(), images(2, 16, 16)
    where = torch.zeros(2, 16, 16)
    where[:, 4:8, 4:8] = 1
    target = targets.Segment(1, where.bool())
    found = camlib.explain(net, batch, target, layer="features")
    assert_same(found, HiResCAM(net, "features"), batch, target)
    assert "every place" in found.reason


def test_later_calls_of_methods_give_no_reason():
    net, batch = zoo.load(), zoo.preprocess(zoo.scene(3).image)[None]
    assert GradCAM(net).explain(batch).reason == ""


def test_options_are_those_of_a_method_of_layers():
    net, batch = zoo.load(), zoo.preprocess(zoo.scene(3).image)[None]
    found = camlib.explain(net, batch, layer=["features.2", "features"], fuse="max", resize=False)
    assert found.layers == ("features.2", "features")
    assert found.heatmap.shape == (1, 32, 32)
    with pytest.raises(OptionError, match="layers"):
        camlib.explain(net, batch, layers="features")


def test_it_costs_no_more_passes_than_the_method():
    net, batch = zoo.load(), zoo.preprocess(zoo.scene(3).image)[None]
    passes = []
    net.register_forward_pre_hook(lambda *_: passes.append(1))
    camlib.explain(net, batch)
    first = len(passes)
    passes.clear()
    GradCAM(net)(batch)
    assert first <= len(passes) + 1  # what is known of the model is found once
    passes.clear()
    camlib.explain(net, batch)
    assert len(passes) == 1
