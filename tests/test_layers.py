import pytest
import torch
from nets import Net, features, images, pooled, spread
from torch import nn

from camlib import GradCAM, LayerError, ModelError, layers


def test_wrappers_come_off():
    net = pooled()
    assert layers.unwrap(nn.DataParallel(torch.compile(nn.DataParallel(net)))) is net
    with pytest.raises(ModelError, match=r"expected a torch\.nn\.Module as the model, got int"):
        layers.unwrap(3)


@pytest.mark.parametrize("name", ["features.4", "module.features.4", "_orig_mod.features.4"])
def test_names_with_and_without_wrappers(name):
    net = pooled()
    assert layers.find(net, name) == ("features.4", net.features[4])


def test_module_that_is_called_module():
    net = Net(nn.ModuleDict({"module": nn.ReLU()}), nn.ReLU())
    assert layers.find(net, "features.module")[1] is net.features["module"]


def test_modules_are_found_by_identity():
    net = pooled()
    assert layers.find(net, net.features[2])[0] == "features.2"
    compiled = torch.compile(net)
    assert layers.find(compiled, compiled.features)[0] == "features"
    net.features = torch.compile(net.features)
    assert layers.find(net, "features.2")[1] is net.features._orig_mod[2]
    assert layers.find(net, net.features) == ("features", net.features._orig_mod)


def test_unknown_names_get_a_suggestion():
    with pytest.raises(
        LayerError, match=r"layer 'featurs' not found in Net; did you mean 'features'"
    ):
        GradCAM(pooled(), "featurs")
    with pytest.raises(
        LayerError, match=r"layer 'zzz' not found in Net; there are 'features', 'tail'"
    ):
        GradCAM(pooled(), "zzz")


def test_module_of_another_model():
    with pytest.raises(LayerError, match="the Conv2d given as layer is not part of Net"):
        GradCAM(pooled(), pooled().features[0])


@pytest.mark.parametrize("layer", [3, [], ["features", 3]])
def test_what_is_no_layer(layer):
    with pytest.raises(LayerError, match="expected a"):
        GradCAM(pooled(), layer)


def test_default_is_the_last_layer_with_a_grid_and_a_gradient():
    net = pooled()
    cam = GradCAM(net)
    assert repr(cam) == "GradCAM(Net, layer=None, chosen in the first call)"
    assert cam.explain(images()).layers == ("features",)
    assert repr(cam) == "GradCAM(Net, layer='features')"
    last = Net(net.features, nn.Sequential(nn.Conv2d(6, 6, 1), nn.AdaptiveAvgPool2d(1), net.tail))
    assert GradCAM(last.eval()).explain(images()).layers == ("tail.0",)


def test_default_is_not_a_pooling_that_enlarges():
    tail = nn.Sequential(nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(6 * 49, 4))
    assert GradCAM(spread(Net(features(), tail))).explain(images()).layers == ("features",)


def test_default_passes_over_a_layer_beside_the_way():
    class Beside(Net):
        def forward(self, batch):
            found = self.features(batch)
            self.aside(found)
            return self.tail(found)

    net = Beside(pooled().features, pooled().tail).eval()
    net.aside = nn.Conv2d(6, 4, 3, padding=1)
    assert GradCAM(net).explain(images()).layers == ("features",)


def test_no_layer_to_choose():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4))
    with pytest.raises(LayerError, match="Sequential has no layer with a grid and a gradient"):
        GradCAM(net)(images())
