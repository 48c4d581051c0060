import sys
from types import SimpleNamespace

import matplotlib.figure
import numpy as np
import pytest
import torch
from nets import Net, convolutional, fitting, images, pooled, transformer
from torch import nn

from camlib import (
    METHODS,
    AttentionMethod,
    CamlibWarning,
    CenterGaussian,
    ClassAgnostic,
    Explanation,
    GradCAM,
    GradCAMPlusPlus,
    GradientWeighted,
    GuidedBackprop,
    GuidedGradCAM,
    InputError,
    LayerCAM,
    ModelError,
    Saliency,
    overlay,
)

pytestmark = pytest.mark.filterwarnings("ignore:a map at layer:camlib.CamlibWarning")

DIFFERENTIABLE = [
    kind
    for kind in METHODS.values()
    if issubclass(kind, GradientWeighted | ClassAgnostic) and kind is not CenterGaussian
]


@pytest.mark.parametrize("kind", DIFFERENTIABLE)
def test_heatmap_can_stand_in_a_loss(kind):
    net = convolutional().double()
    method = kind(net, "features", differentiable=True)
    batch = images().double().requires_grad_()
    heatmap = method(batch, target=2)
    torch.testing.assert_close(heatmap.detach(), kind(net, "features")(batch, target=2))

    def loss(pixels):
        return (method(pixels, target=2, normalize=False, relu=False) ** 2).sum()

    [gradient] = torch.autograd.grad(loss(batch), batch)
    step = torch.zeros_like(batch)
    step[1, 2, 3, 4] = 1e-6
    numeric = (loss(batch + step) - loss(batch - step)) / 2e-6
    torch.testing.assert_close(gradient[1, 2, 3, 4], numeric, rtol=1e-4, atol=1e-6)
    loss(images().double()).backward()
    assert net.features[0].weight.grad.abs().sum() > 0


def test_new_method_is_one_function():
    class SumCAM(GradientWeighted):
        def weights(self, activation, gradient):
            return gradient.sum((2, 3), keepdim=True)

    net, batch = pooled(), images()
    torch.testing.assert_close(SumCAM(net)(batch), GradCAM(net)(batch))
    assert SumCAM(net)(batch, target=[[0, 1]]).shape == (2, 2, 8, 8)


def test_explanation_is_seen():
    net, batch = pooled(), images()
    seen = GradCAM(net).explain(batch, target=[0, 1])
    pixels = batch.sigmoid()
    assert torch.equal(seen.overlay(pixels, alpha=0.3), overlay(pixels, seen.heatmap, alpha=0.3))
    one = GradCAM(net).explain(batch[:1], target=1)
    picture = one.overlay(np.full((8, 8, 3), 255, np.uint8))
    assert picture.shape == (8, 8, 3)
    assert torch.equal(one.overlay(pixels[0]), overlay(pixels[0], one.heatmap[0]))
    assert isinstance(seen.figure(pixels), matplotlib.figure.Figure)
    assert seen._repr_png_().startswith(b"\x89PNG")
    assert repr(seen) == (
        "Explanation(GradCAM, heatmap=(2, 8, 8), target=[0, 1], layers=('features',))"
    )


@pytest.mark.parametrize("kind", [GradCAM, Saliency, GuidedGradCAM])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_explanations_of_every_kind_of_input_are_seen(kind, axes):
    net, batch = pooled(axes=axes), images(2, *[8] * axes)
    seen = kind(net).explain(batch, target=[[0, 1], [1, 0]])
    assert seen.size == (8,) * axes
    assert seen._repr_png_().startswith(b"\x89PNG")
    drawn = seen.figure(batch.sigmoid())
    rows = {1: 2, 2: 2, 3: 2 * 5}[axes]
    assert len(drawn.axes) == rows * 3


def test_explanation_of_volumes_is_laid_over_them():
    net, batch = pooled(axes=3), images(2, 8, 8, 8)
    seen = GradCAM(net).explain(batch)
    pixels = batch.sigmoid()
    assert torch.equal(seen.overlay(pixels), overlay(pixels, seen.heatmap))


def test_explanation_in_units_of_the_score_is_no_picture():
    seen = GradCAM(pooled()).explain(images() * 100, normalize=False)
    assert seen._repr_png_() is None
    with pytest.raises(InputError, match=r"heatmap holds values from .* normalise it first"):
        seen.figure()


def test_explanation_is_saved(tmp_path):
    seen = GradCAM(pooled()).explain(images(), target=[0, 1])
    seen.save(tmp_path / "maps.png")
    assert (tmp_path / "maps.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["maps.png"]


def test_notebook_shows_a_few_of_many_samples(monkeypatch):
    from camlib import visual

    drawn = []
    real = visual.figure
    monkeypatch.setattr(visual, "figure", lambda *args, **how: drawn.append(real(*args, **how)))
    monkeypatch.setattr(visual, "to_png", lambda figure: b"")
    many = torch.cat([images()] * 10)
    GradCAM(pooled()).explain(many, target=0, relu=False)._repr_png_()
    assert len(drawn[0].axes) == 16 < len(many)


def notebook(monkeypatch, running=True):
    """What is displayed in a notebook that takes the place of IPython's."""
    shown = []
    display = SimpleNamespace(display=shown.append)
    kernel = object() if running else None
    found = SimpleNamespace(get_ipython=lambda: kernel, display=display, version_info=(9, 0))
    monkeypatch.setitem(sys.modules, "IPython", found)
    return shown


def test_explanation_is_shown(monkeypatch):
    shown = notebook(monkeypatch)
    GradCAM(pooled()).explain(images(), target=1).show(images().sigmoid())
    assert isinstance(shown[0], matplotlib.figure.Figure)
    assert shown[0]._repr_png_().startswith(b"\x89PNG")  # without %matplotlib inline


@pytest.mark.parametrize("installed", [True, False])
def test_explanation_is_not_shown_outside_of_a_notebook(monkeypatch, installed):
    notebook(monkeypatch, running=False)
    if not installed:
        monkeypatch.delitem(sys.modules, "IPython")
    with pytest.raises(InputError, match=r"in a notebook, and none is running; .* save\('figure"):
        GradCAM(pooled()).explain(images(), target=1).show()


def test_explanation_is_frozen():
    seen = GradCAM(pooled()).explain(images())
    assert isinstance(seen, Explanation)
    with pytest.raises(AttributeError):
        seen.heatmap = None


def test_saliency_reduced_over_colours():
    net, batch = convolutional(), images()
    pixels = batch.clone().requires_grad_()
    [expected] = torch.autograd.grad(net(pixels)[:, 1].sum(), pixels)
    torch.testing.assert_close(Saliency(net)(batch, target=1), expected)
    absolute = expected.abs()
    found = {how: Saliency(net, reduce=how)(batch, target=1) for how in ("max", "sum", "l2")}
    torch.testing.assert_close(found["max"], absolute.amax(1))
    torch.testing.assert_close(found["sum"], absolute.sum(1))
    torch.testing.assert_close(found["l2"], expected.norm(dim=1))
    assert Saliency(net, reduce="max")(batch, target=[[0, 1, 2]]).shape == (2, 3, 8, 8)
    with pytest.raises(
        InputError, match="reduce='mean' is not known; use 'max', 'sum', 'l2' or None"
    ):
        Saliency(net, reduce="mean")


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


@pytest.mark.filterwarnings("ignore:FullGrad does not:camlib.CamlibWarning")
def test_model_that_changes_its_input_in_place():
    class InPlace(Net):
        def forward(self, batch):
            return super().forward(batch.mul_(2).sub_(1))

    batch = images()
    for kind in METHODS.values():
        base = fitting(kind, 6)
        net = InPlace(base.features, base.tail).eval()
        method = kind(net)
        expected = method(batch, target=1)
        assert torch.equal(batch, images())
        assert torch.equal(method(batch, target=1), expected)
        assert expected.abs().sum() > 0


@pytest.mark.filterwarnings("ignore:FullGrad does not:camlib.CamlibWarning")
def test_second_call_gives_the_same():
    batch = images()
    for kind in METHODS.values():
        if kind.__name__ != "CAM":
            transforms = issubclass(kind, AttentionMethod)
            net = transformer() if transforms else convolutional(in_place=True)
            method = kind(net)
            first = method(batch, target=1)
            assert torch.equal(method(batch, target=1), first)


@pytest.mark.filterwarnings("ignore:integrated gradients with:camlib.CamlibWarning")
def test_gradients_of_a_training_step_are_not_touched():
    batch = images()
    for kind in METHODS.values():
        net = fitting(kind).train()
        net(batch).sum().backward()
        before = [parameter.grad.clone() for parameter in net.parameters()]
        kind(net)(batch, target=1)
        for parameter, grad in zip(net.parameters(), before, strict=True):
            assert torch.equal(parameter.grad, grad)


def test_interpolating_relu_off_keeps_what_speaks_against():
    net = convolutional()
    against = GradCAM(net, "features").explain(images(), target=2, relu=False).map
    assert (against < 0).any()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_layers_of_a_scripted_model():
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten()))
    with pytest.raises(
        ModelError, match=r"the layers of a scripted model \(Sequential\) run no hooks"
    ):
        GradCAM(scripted)
    assert Saliency(scripted)(images(), target=1).shape == (2, 3, 8, 8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", METHODS.values(), ids=METHODS)
def test_cuda_gives_what_the_cpu_gives(kind):
    net, batch = fitting(kind), images()
    expected = kind(net)(batch, target=1)
    state = torch.cuda.get_rng_state()
    found = kind(net.cuda())(batch.cuda(), target=1)
    assert found.is_cuda
    assert torch.equal(torch.cuda.get_rng_state(), state)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)


def test_guided_backprop_of_a_network_without_relu_warns():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.warns(
        CamlibWarning, match="GuidedBackprop met no ReLU in Sequential, so this is the"
    ):
        GuidedBackprop(net)(images())


@pytest.mark.parametrize("kind", [GradCAM, GradCAMPlusPlus, LayerCAM])
def test_many_classes_of_one_pass_equal_a_loop(kind):
    net, batch = convolutional().double(), images(3).double()
    cam = kind(net, ["features.1", "features"], fuse=None)
    several = cam.explain(batch, [list(range(4))], relu=False)
    for k in range(4):
        alone = cam.explain(batch, k, relu=False)
        for together, single in zip(several.maps, alone.maps, strict=True):
            torch.testing.assert_close(together[:, k], single, rtol=1e-10, atol=1e-14)
