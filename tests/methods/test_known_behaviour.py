"""What torch-cam, grad-cam and zennit test of themselves, in this order, asked of camlib.

Left out is what belongs to how they are built: hooks that live between calls, arguments that camlib
does not have, and zennit's relevance propagation.
"""

from __future__ import annotations

import pytest
import torch
from nets import convolutional, images, spread
from torch import nn

import camlib
from camlib import (
    CAM,
    ISCAM,
    SSCAM,
    Deconvnet,
    EigenCAM,
    EigenGradCAM,
    GradCAM,
    GradCAMPlusPlus,
    GraphError,
    GuidedBackprop,
    IntegratedGradients,
    LayerCAM,
    Occlusion,
    Saliency,
    ScoreCAM,
    SmoothGrad,
    SmoothGradCAMPlusPlus,
    TargetError,
    XGradCAM,
    maps,
)
from camlib.targets import Contrast

pytestmark = [
    pytest.mark.filterwarnings("ignore:a map:camlib.CamlibWarning"),
    pytest.mark.filterwarnings("ignore:integrated gradients with:camlib.CamlibWarning"),
    pytest.mark.filterwarnings("ignore:FullGrad does not:camlib.CamlibWarning"),
]


def tiny(classes: int = 3) -> nn.Sequential:
    """Two convolutions at the input's size, pooling and a linear layer."""
    return spread(
        nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(4, 5, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(5, classes),
        )
    )


def test_product_of_two_layers():
    one = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    found = maps.fuse(maps.alike([one, one.flip(2, 3)], "product"), "product")
    torch.testing.assert_close(found, torch.tensor([[[[0.0, 2 / 9], [2 / 9, 0.0]]]]))


class Tones(nn.Module):
    """The mean brightness, once, three times, and less than nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(1, 1, 1, bias=False)
        with torch.no_grad():
            self.features.weight.fill_(1)

    def forward(self, image):
        mean = self.features(image).mean((2, 3))
        return mean * torch.tensor([1.0, 3.0, -1.0])


def test_contrast_weighs_other_classes_before_the_relu():
    """The mean of 1 - 3 and 1 + 1 is 0, where the mean of the two maps is not."""
    image = torch.ones(1, 1, 2, 2)
    method = GradCAM(Tones(), "features")

    def evenly(output):
        return output[:, 0] - output[:, [1, 2]].mean(1)

    assert not method.explain(image, evenly).map.any()
    pairs = [method.explain(image, Contrast(0, others=[[other]])).map for other in (1, 2)]
    torch.testing.assert_close(torch.stack(pairs).mean(0), torch.full((1, 2, 2), 0.25))


@pytest.mark.parametrize("kind", [GradCAM, GradCAMPlusPlus, LayerCAM])
@pytest.mark.parametrize("others", [[[2]], [[1, 2], [0, 2]]])
def test_contrast_is_a_score_like_any_other(kind, others):
    net, batch = tiny().double(), images().double()
    weights = net(batch).detach()

    def by_hand(output):
        scores = []
        for n, label in enumerate([0, 1]):
            row = others[n % len(others)]
            shares = weights[n, row].softmax(0)
            scores.append(output[n, label] - 0.6 * (shares * output[n, row]).sum())
        return torch.stack(scores)

    target = Contrast([0, 1], others=others, strength=0.6)
    found = kind(net, "2").explain(batch, target, relu=False).map
    torch.testing.assert_close(found, kind(net, "2").explain(batch, by_hand, relu=False).map)


@pytest.mark.parametrize("classes", [2, 3])
def test_contrast_of_fewer_classes_than_are_asked_for(classes):
    found = GradCAM(tiny(classes), "2")(images(1), Contrast(0, nearest=10))
    assert found.isfinite().all()


def test_contrast_of_no_strength_is_the_class():
    method, batch = GradCAM(tiny(), "2"), images()
    found = method.explain(batch, Contrast([0, 1], strength=0)).map
    torch.testing.assert_close(found, method.explain(batch, [0, 1]).map)


@pytest.mark.parametrize("kind", [ScoreCAM, SSCAM, ISCAM])
@pytest.mark.parametrize("target", [1, [1, 2]])
def test_masks_in_batches_of_any_size(kind, target):
    options = {} if kind is ScoreCAM else {"samples": 2}
    found = [
        kind(tiny().double(), ["1", "3"], batch_size=size, fuse=None, **options)(
            images().double(), target
        )
        for size in (3, 64)
    ]
    assert found[0].shape == (2, 2, 8, 8)
    assert found[0].dtype == torch.float64
    torch.testing.assert_close(*found)


class Structured(nn.Module):
    """A mapping of two scores for each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(1, 2, 1, bias=False)
        with torch.no_grad():
            self.features.weight.copy_(torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1))

    def forward(self, image):
        scores = self.features(image).mean((2, 3))
        return [{"primary": one, "secondary": two} for one, two in scores]


@pytest.mark.parametrize("kind", [GradCAM, SmoothGradCAMPlusPlus, ScoreCAM, SSCAM, ISCAM])
def test_a_score_inside_of_a_structure(kind):
    batch = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    options = {} if kind in (GradCAM, ScoreCAM) else {"samples": 2}
    method = kind(Structured(), "features", **options)
    heatmap = method(batch, lambda output: torch.stack([each["secondary"] for each in output]))
    assert heatmap.shape == (2, 4, 4)
    assert heatmap.isfinite().all()
    if kind is GradCAM:
        seen = method.explain(
            batch, lambda output: torch.stack([output[0]["primary"], output[1]["secondary"]])
        )
        expected = torch.stack([batch[0, 0] / 16, 2 * batch[1, 0] / 16])
        torch.testing.assert_close(seen.map, expected)


def test_targets_that_are_no_scores():
    method = GradCAM(tiny(), "2")
    with pytest.raises(GraphError, match="no gradient flows from the score to '2'"):
        method(images(1), lambda output: output[:, 1].detach())
    with pytest.raises(TargetError, match="target"):
        method(images(1), lambda _: 1)
    with pytest.raises(TargetError, match="target"):
        method(images(1), lambda _: "a word")


@pytest.mark.parametrize(
    "kind",
    [
        *(CAM, ScoreCAM, SSCAM, ISCAM, GradCAM, GradCAMPlusPlus),
        *(SmoothGradCAMPlusPlus, XGradCAM, LayerCAM),
    ],
)
def test_maps_of_volumes(kind):
    net = nn.Sequential(
        nn.Sequential(
            nn.Conv3d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv3d(8, 16, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d(1),
        ),
        nn.Flatten(),
        nn.Linear(16, 2),
    )
    options = {"samples": 4} if kind in (SSCAM, ISCAM, SmoothGradCAMPlusPlus) else {}
    video = torch.rand(1, 3, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    found = kind(spread(net), "0.3", **options).explain(video, 1).map
    assert found.shape == (1, 8, 16, 16)
    assert found.isfinite().all()


def test_cam_of_a_network_that_ends_in_a_convolution():
    image = images(1, 32, 32)
    ending = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(5, 3, 1), nn.Flatten())
    net = nn.Sequential(*tiny()[:4], *spread(ending))
    found = CAM(net, "3").explain(image, 1).map
    assert found.shape == (1, 32, 32)
    torch.testing.assert_close(found.mean() + net[5].bias[1], net(image)[0, 1])


WEIGHTED = (
    *("grad_cam", "hires_cam", "xgrad_cam", "grad_cam_plus_plus", "layer_cam", "score_cam"),
    *("element_wise_grad_cam", "shapley_cam", "ablation_cam"),
)
OTHER = ("eigen_cam", "eigen_grad_cam", "seg_eigen_cam", "kpca_cam", "fem", "random_cam")
LAYERS = {"layer": ["features.2", "features"], "fuse": "mean"}
RUNS = [
    *((name, LAYERS | {"eigen_smooth": smooth}) for name in WEIGHTED for smooth in (True, False)),
    *((name, LAYERS) for name in OTHER),
    ("full_grad", {}),
]


@pytest.mark.parametrize("target", [None, 2])
@pytest.mark.parametrize("size", [(2, 8, 8), (1, 8, 10)])
@pytest.mark.parametrize(("name", "options"), RUNS)
def test_every_method_runs_on_every_size(name, options, size, target):
    """Batches, images that are not square, two layers, with and without a class."""
    found = camlib.METHODS[name](convolutional(), **options)(images(*size), target)
    assert found.shape == size
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("kind", [EigenCAM, EigenGradCAM])
def test_projections_leave_the_activation_as_it_was(kind):
    net, batch = convolutional(), images()
    before = net.features(batch).detach().clone()
    kind(net, "features")(batch, 1)
    assert torch.equal(net.features(batch), before)


@pytest.mark.parametrize("generator", range(3))
@pytest.mark.parametrize("shape", [(4, 16), (4, 4, 4), (4, 2, 4, 4)])
def test_rules_of_a_single_relu(shape, generator):
    draws = torch.Generator().manual_seed(generator)
    values, signal = (torch.randn(shape, generator=draws, dtype=torch.float64) for _ in range(2))
    layout = {"image_layout": "NCHW"[: len(shape)] if len(shape) != 2 else "NL"}
    for kind, expected in (
        (Saliency, signal * (values > 0)),
        (GuidedBackprop, signal.clamp(min=0) * (values > 0)),
        (Deconvnet, signal.clamp(min=0)),
    ):
        method = kind(nn.ReLU(), **layout)
        found = method(values, lambda output: (signal * output).flatten(1).sum(1))
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["gelu", "silu", "softplus"])
def test_rules_of_smooth_activations_on_request(name):
    module = {"gelu": nn.GELU(), "silu": nn.SiLU(), "softplus": nn.Softplus()}[name]
    draws = torch.Generator().manual_seed(0)
    values, signal = (torch.randn(4, 16, generator=draws, dtype=torch.float64) for _ in range(2))

    def score(output):
        return (signal * output).sum(1)

    given = values.clone().requires_grad_()
    [slope] = torch.autograd.grad(module(given).sum(), given)
    options = {"generalize": True, "image_layout": "NL"}
    found = GuidedBackprop(module, **options)(values, score)
    torch.testing.assert_close(found, slope * signal.clamp(min=0))
    torch.testing.assert_close(Deconvnet(module, **options)(values, score), signal.clamp(min=0))


ROWS = {"image_layout": "NL"}


def everything(output):
    return output.flatten(1).sum(1)


def numbers():
    return torch.randn(4, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Told(nn.Module):
    """The identity, which tells what it was given."""

    def __init__(self, tell) -> None:
        super().__init__()
        self.tell = tell

    def forward(self, values):
        self.tell(values.detach().clone())
        return values


def test_one_sample_without_noise_is_the_gradient():
    net, batch = convolutional().double(), images().double()
    found = SmoothGrad(net, samples=1, sigma=0)(batch, 1)
    torch.testing.assert_close(found, Saliency(net)(batch, 1))


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.3, 0.5])
def test_noise_has_the_share_of_the_range_that_is_asked_for(sigma):
    values, seen = numbers(), []
    method = SmoothGrad(Told(seen.append), samples=100, sigma=sigma, batch_size=4, **ROWS)
    torch.testing.assert_close(method(values, everything), torch.ones_like(values))
    noise = torch.stack([each for each in seen if len(each) == 4][-100:]) - values
    span = values.amax(1) - values.amin(1)
    torch.testing.assert_close(
        noise.square().mean((0, 2)).sqrt(), sigma * span, rtol=0.1, atol=1e-12
    )


@pytest.mark.parametrize("start", [0.0, 1.0])
def test_one_step_is_the_gradient_times_the_way(start):
    net, batch = convolutional().double(), images().double()
    method = IntegratedGradients(net, baseline=start, steps=1, rule="right")
    torch.testing.assert_close(method(batch, 1), Saliency(net)(batch, 1) * (batch - start))


def test_the_way_is_straight():
    values, seen = numbers(), []
    net = Told(seen.append)
    method = IntegratedGradients(net, steps=100, rule="right", batch_size=4, **ROWS)
    torch.testing.assert_close(method(values, everything), values)
    points = {step: step / 100 * values for step in range(1, 101)}
    for step, point in points.items():
        assert any(each.shape == point.shape and torch.allclose(each, point) for each in seen), step


@pytest.mark.parametrize("window", [1, 2, 4, (4,)])
def test_windows_side_by_side_hide_every_value_once(window):
    values = numbers()
    method = Occlusion(
        nn.Identity(), window=window, stride=window, batch_size=4, score="logit", **ROWS
    )
    found = method.explain(values, everything).map
    size = window if isinstance(window, int) else window[0]
    hidden = values.reshape(4, -1, size).sum(2).repeat_interleave(size, 1)
    torch.testing.assert_close(found, hidden)


def test_a_window_as_large_as_the_input_hides_all_of_it():
    net, batch = convolutional().double(), images().double()
    for value in (0.0, 1.0):
        method = Occlusion(net, window=8, stride=8, value=value, score="logit")
        found = method.explain(batch, 1).map
        lost = (net(batch) - net(torch.full_like(batch, value)))[:, 1].detach()
        torch.testing.assert_close(found, lost[:, None, None].expand(2, 8, 8))


@pytest.mark.parametrize("argument", ["window", "stride"])
@pytest.mark.parametrize("given", ["monkey", {3}, ("you", "are"), range(3), 0, -1, 1.5])
def test_windows_that_are_no_lengths(argument, given):
    with pytest.raises(camlib.OptionError, match=f"{argument}="):
        Occlusion(convolutional(), **{argument: given})
