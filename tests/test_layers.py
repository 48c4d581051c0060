"""Layers by name, and the one that is chosen where none is named."""

from __future__ import annotations

import pytest
import torch
from nets import Net, features, images, pooled, spread
from snapshot import snapshot
from torch import nn

from camlib import CamlibWarning, GradCAM, GraphError, InputError, LayerError, ModelError, layers
from camlib.layouts import ChannelsFirst, Tokens


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
    inside = net.features._orig_mod
    assert layers.find(net, "features._orig_mod.2") == ("features.2", inside[2])
    assert layers.find(net, "features") == ("features", inside)
    assert layers.find(net, net.features) == ("features", inside)


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
    with pytest.raises(LayerError, match="the Conv2d given as layer is not part of this Net"):
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
    assert GradCAM(spread(last)).explain(images(), 1, relu=False).layers == ("tail.0",)


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


class OwnTransformer(nn.Module):
    """A vision transformer as people write it: patches by a convolution, PyTorch's encoder."""

    def __init__(self, *, batch_first: bool, axes: int = 2, channels: int = 8) -> None:
        super().__init__()
        conv = [nn.Conv1d, nn.Conv2d, nn.Conv3d][axes - 1]
        self.batch_first = batch_first
        self.patches = conv(3, channels, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, channels))
        block = nn.TransformerEncoderLayer(
            channels, 2, 16, batch_first=batch_first, norm_first=True, dropout=0
        )
        self.encoder = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Linear(channels, 4)
        spread(self)

    def forward(self, batch):
        tokens = self.patches(batch).flatten(2).mT
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1)
        if not self.batch_first:
            return self.head(self.encoder(tokens.movedim(1, 0))[0])
        return self.head(self.encoder(tokens)[:, 0])


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("size", [(16, 16), (12, 20), (24,), (8, 12, 16)])
def test_default_of_a_transformer_is_the_last_norm_that_the_answer_sees(batch_first, size):
    net = OwnTransformer(batch_first=batch_first, axes=len(size))
    batch = images(2, *size)
    seen = GradCAM(net).explain(batch, 1, relu=False)
    assert seen.layers == ("encoder.layers.1.norm1",)
    assert seen.map.shape == (2, *(s // 4 for s in size))
    kept = []
    net.encoder.layers[1].norm1.register_forward_hook(lambda _m, _a, out: kept.append(out))
    with torch.enable_grad():
        score = net(batch)[:, 1].sum()
    [tokens] = kept
    [gradient] = torch.autograd.grad(score, tokens)
    if not batch_first:
        tokens, gradient = tokens.movedim(1, 0), gradient.movedim(1, 0)
    tokens, gradient = tokens[:, 1:], gradient[:, 1:]
    expected = torch.einsum("ntc,nc->nt", tokens, gradient.mean(1)).detach()
    torch.testing.assert_close(seen.map.flatten(1), expected)


def test_transformers_of_both_orders_agree():
    first, second = OwnTransformer(batch_first=True), OwnTransformer(batch_first=False)
    batch = images(3, 16, 16)
    several = GradCAM(first)(batch, [[0, 3]], relu=False)
    torch.testing.assert_close(GradCAM(second)(batch, [[0, 3]], relu=False), several)


def test_layer_whose_patches_the_answer_does_not_see_gets_a_better_one_named():
    net = OwnTransformer(batch_first=True)
    with pytest.warns(
        CamlibWarning,
        match="at layer 'encoder' is zero everywhere: nothing there speaks for the target; "
        "layer 'encoder.layers.1.norm1' may know more",
    ):
        GradCAM(net, "encoder")(images(2, 16, 16))


def test_candidates_tell_what_a_layer_is():
    net = OwnTransformer(batch_first=True, channels=32)
    before = snapshot(net)
    batch = images(2, 12, 20)
    found = {c.name: c for c in layers.candidates(net, batch, 1)}
    assert snapshot(net) == before
    first, last = found["patches"], found["encoder"]
    assert (first.kind, first.shape, first.grid) == ("Conv2d", (2, 32, 3, 5), (3, 5))
    assert (first.layout, first.stride, first.share) == (ChannelsFirst(), (4, 4), 1)
    assert (last.layout, last.grid, last.share) == (Tokens(1, (3, 5)), (3, 5), 0)
    assert 0 < found["encoder.layers.1.norm1"].share < 1
    assert [c.name for c in found.values() if c.default] == ["encoder.layers.1.norm1"]
    assert list(found).index("patches") == 0
    assert "head" not in found
    assert "share=" in repr(first)
    assert "Conv2d(" not in repr(first)


def test_share_of_the_gradient_on_the_grid():
    net, batch = OwnTransformer(batch_first=False), images(1, 16, 16)
    kept = []
    handle = net.encoder.layers[0].register_forward_hook(lambda _m, _a, out: kept.append(out))
    with torch.enable_grad():
        score = net(batch)[0, 2]
    handle.remove()
    [gradient] = torch.autograd.grad(score, kept[0])
    expected = gradient[1:].abs().sum() / gradient.abs().sum()
    found = {c.name: c for c in layers.candidates(net, batch, 2)}
    assert found["encoder.layers.0"].share == pytest.approx(float(expected), rel=1e-5)


def test_candidates_of_a_model_that_gives_no_gradient():
    with pytest.raises(GraphError, match="no gradient flows from the score"):
        layers.candidates(pooled(), images(), lambda out: out.detach()[:, 0])


class Shared(nn.Module):
    """One network for two images, as siamese networks have it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = pooled().features
        self.head = nn.Linear(6, 4)
        spread(self)

    def forward(self, left, right):
        one, other = (self.body(each).mean((2, 3)) for each in (left, right))
        return self.head(one * other)


def test_call_of_a_layer_that_runs_several_times():
    net, left, right = Shared(), images(seed=1), images(seed=2)
    pair = left, right
    first = GradCAM(net, "body@0").explain(pair, 1, relu=False)
    second = GradCAM(net, "body@1").explain(pair, 1, relu=False)
    assert first.layers == ("body@0",)
    swapped = GradCAM(net, "body@1").explain((right, left), 1, relu=False)
    torch.testing.assert_close(first.map, swapped.map)
    assert not torch.allclose(first.map, second.map)
    with pytest.raises(InputError, match=r"'body@0' on 0; layer 'body@1' on 1; explain them in"):
        GradCAM(net, ["body@0", "body@1"], fuse=None)(pair, 1)
    with pytest.warns(CamlibWarning, match="ran 2 times in one pass.* 'body@0' is the first"):
        last = GradCAM(net, "body").explain(pair, 1, relu=False)
    torch.testing.assert_close(last.map, second.map)
    with pytest.raises(LayerError, match=r"layer 'body@2' ran 2 times in .* choose one up to @1"):
        GradCAM(net, "body@2")(pair)
    with pytest.raises(LayerError, match="layer 'bodi' not found in Shared; did you mean 'body'"):
        GradCAM(net, "bodi@0")


def test_layers_of_a_text_beside_the_image_are_passed_over():
    class WithText(Net):
        def forward(self, image, words):
            text = self.norm(self.embed(words)).tanh()
            return self.tail(self.features(image)) + self.read(text).mean(1)

    net = WithText(pooled().features, pooled().tail)
    net.embed, net.norm, net.read = nn.Embedding(9, 6), nn.LayerNorm(6), nn.Linear(6, 4)
    words = torch.arange(16).reshape(1, 16).remainder(9).expand(2, 16)
    spread(net)
    assert GradCAM(net).explain((images(), words)).layers == ("features",)
    assert "norm" not in {c.name for c in layers.candidates(net, (images(), words))}


class Pyramid(nn.Module):
    """The brighter half of an image decides which of two levels answers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = pooled().features
        self.coarse = nn.Conv2d(6, 4, 3, stride=2, padding=1)
        self.fine = nn.Conv2d(6, 4, 3, padding=1)
        spread(self)

    def forward(self, batch):
        found = self.body(batch)
        levels = [each(found).mean((2, 3)) for each in (self.coarse, self.fine)]
        left = (batch[..., :4].sum((1, 2, 3)) > batch[..., 4:].sum((1, 2, 3)))[:, None]
        return torch.where(left, *levels)


def test_default_is_sought_again_where_another_level_answers():
    batch = torch.ones(2, 3, 8, 8)
    left, right = batch.clone(), batch.clone()
    left[..., 4:] = right[..., :4] = 0
    cam = GradCAM(Pyramid())
    assert cam.explain(left, 1, relu=False).layers == ("coarse",)
    assert cam.explain(right, 1, relu=False).layers == ("fine",)
    assert cam.explain(left, 1, relu=False).layers == ("coarse",)
    # What serves every image of a batch comes before what serves one.
    assert GradCAM(Pyramid()).explain(torch.cat([left, right]), 1, relu=False).layers == ("body",)


def test_layer_found_before_is_kept_where_no_other_says_more():
    net = pooled()
    cam = GradCAM(net)
    expected = cam.explain(images(), 1, relu=False).layers
    with pytest.warns(CamlibWarning, match="a map at layer 'features' is zero everywhere"):
        seen = cam.explain(images(), lambda out: 0 * out[:, 1], relu=False)
    assert seen.layers == expected
    with pytest.raises(LayerError, match="has no layer with a grid and a gradient"):
        GradCAM(net)(images(), lambda out: 0 * out[:, 1])


@pytest.mark.filterwarnings("ignore:a map at layer:camlib.CamlibWarning")
def test_default_is_sought_with_all_scores():
    """The first of several scores may depend on nothing, as a label that is not detected."""
    assert GradCAM(pooled()).explain(images(), lambda out: out[:, :2] * torch.tensor([0, 1])).layers
    both = lambda out: torch.stack([out[:, 1], -out[:, 1]], 1)  # noqa: E731
    assert GradCAM(pooled()).explain(images(), both, relu=False).layers == ("features",)


def test_default_of_a_dense_answer_is_not_the_answer_itself():
    net = spread(nn.Sequential(*pooled().features, nn.Conv2d(6, 4, 1)))
    seen = GradCAM(net).explain(images(), lambda out: out[:, 1].mean((1, 2)))
    assert seen.layers == ("4",)


def test_the_default_beside_layers_whose_weights_are_made():
    net = pooled()
    expected = GradCAM(net)(images(), 1)
    torch.nn.utils.parametrizations.weight_norm(net.tail[-1])
    torch.nn.utils.parametrizations.weight_norm(net.features[3])
    seen = GradCAM(net).explain(images(), 1)
    assert seen.layers == ("features",)
    torch.testing.assert_close(seen.heatmap, expected)
