"""Models by name: what holds a model, what runs none of its modules, what is no layer."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from nets import images, pooled
from torch import nn
from torch.nn.utils import parametrizations

from camlib import METHODS, GradCAM, LayerError, ModelError
from camlib.passes.names import check_ran, find, is_weight


@pytest.mark.parametrize("kind", METHODS.values(), ids=METHODS)
def test_object_that_holds_a_model(kind):
    with pytest.raises(
        ModelError, match=r"got SimpleNamespace; pass the module in it: model\.model$"
    ):
        kind(SimpleNamespace(spare=pooled(), model=pooled()))
    with pytest.raises(ModelError, match=r"pass the module in it: model\.network$"):
        kind(SimpleNamespace(_hidden=pooled(), network=pooled()))
    with pytest.raises(ModelError, match=r"as the model, got SimpleNamespace$"):
        kind(SimpleNamespace(_hidden=pooled()))


class Copying(nn.Module):
    """Runs a copy of the network it holds, as inference programs do."""

    def __init__(self) -> None:
        super().__init__()
        self.model = pooled()
        self.copies = [copy.deepcopy(self.model)]
        self.passes = 0

    def forward(self, batch):
        self.passes += 1
        return self.copies[0](batch)


def test_model_that_runs_none_of_its_modules():
    net = Copying().eval()
    with pytest.raises(
        ModelError, match=r"Copying runs none of its own modules, .*: model\.model$"
    ):
        GradCAM(net, net.model.features)(images())
    assert net.passes == 2
    assert GradCAM(net.model).explain(images(), 1, relu=False).map.any()


def test_layer_that_does_not_run_where_others_do():
    net = pooled()
    net.spare = nn.Conv2d(3, 3, 1)
    with pytest.raises(LayerError, match="layer 'spare' did not run in the forward pass"):
        GradCAM(net, "spare")(images())


def test_program_made_from_modules():
    net = nn.ModuleDict({"one": nn.Conv2d(3, 3, 1), "two": nn.Linear(3, 3)})
    check_ran(net, ["one"])
    with pytest.raises(ModelError, match=r"camlib cannot read; pass the original network$"):
        check_ran(net, [])
    check_ran(nn.Identity(), [])


def test_parametrised_weight_is_no_layer():
    net = pooled()
    net.features[0] = parametrizations.weight_norm(net.features[0])
    names = [name for name, _ in net.named_modules()]
    weights = [name for name in names if is_weight(name)]
    assert weights == [
        "features.0.parametrizations",
        "features.0.parametrizations.weight",
        "features.0.parametrizations.weight.0",
    ]
    for name in weights:
        with pytest.raises(
            LayerError, match=r"computes a weight .* that uses the weight, 'features\.0'"
        ):
            GradCAM(net, name)
    with pytest.raises(LayerError, match="computes a weight and does not see the image"):
        GradCAM(net, net.features[0].parametrizations.weight[0])
    assert find(net, "features.0")[0] == "features.0"
    found = GradCAM(net.eval(), "features")(images(), 1)
    torch.testing.assert_close(found, GradCAM(pooled(), "features")(images(), 1))
