"""Values that can be worked out by hand, of networks small enough for it.

The networks and numbers are those that captum's own tests hold its methods to; the code is ours.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camlib import (
    Deconvnet,
    ExpectedGradients,
    GradCAM,
    GuidedBackprop,
    GuidedGradCAM,
    HiResCAM,
    InputXGradient,
    IntegratedGradients,
    Occlusion,
    Saliency,
    Smooth,
    SmoothGrad,
)

pytestmark = pytest.mark.filterwarnings("ignore:integrated gradients with:camlib.CamlibWarning")


class Convolution(nn.Module):
    """Sums of 3 x 3 pixels less 50 and 75, and five of them less the other three."""

    def __init__(self, *, inplace: bool = False) -> None:
        super().__init__()
        self.entry = nn.Identity()
        self.convolution = nn.Conv2d(1, 2, 3)
        self.first, self.last = nn.ReLU(inplace), nn.ReLU(inplace)
        self.linear = nn.Linear(8, 4)
        with torch.no_grad():
            self.convolution.weight.fill_(1)
            self.convolution.bias.copy_(torch.tensor([-50.0, -75.0]))
            self.linear.weight.fill_(1)[:, 5:] = -1
            self.linear.bias.fill_(0)

    def forward(self, image: Tensor, other: Tensor | None = None) -> Tensor:
        image = image if other is None else image + other
        hidden = self.first(self.convolution(self.entry(image)))
        return self.last(self.linear(hidden.flatten(1)))


class Layers(nn.Module):
    """Three numbers: their sum, less 10 once and more by 1 three times, rectified and summed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)
        with torch.no_grad():
            self.first.weight.fill_(1)
            self.first.bias.copy_(torch.tensor([-10.0, 1.0, 1.0, 1.0]))
            self.second.weight.fill_(1)
            self.second.bias.copy_(torch.tensor([-1.0, 1.0]))

    def forward(self, values: Tensor) -> Tensor:
        return self.second(self.first(values).relu())


class Function(nn.Module):
    """A function of the columns of its input."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, values: Tensor) -> Tensor:
        return self.function(*values.unbind(1))[:, None]


def first(output: Tensor) -> Tensor:
    return output[:, 0]


IMAGE, ONES = torch.arange(16.0).reshape(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
DARK = IMAGE.clone()
DARK[0, 0, 1, 1] = -4
ROWS = {"image_layout": "NL"}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(
    ("layer", "inputs", "expected"),
    [
        ("convolution", IMAGE, [[11.25, 13.5], [20.25, 22.5]]),
        ("first", IMAGE, [[0.0, 4.0], [28.0, 32.5]]),
        ("convolution", (IMAGE, ONES), [[14.5, 19.0], [32.5, 37.0]]),
        ("entry", DARK, (0.5625 * DARK[0, 0]).tolist()),
    ],
)
def test_grad_cam(layer, inputs, expected, inplace, frozen):
    net = Convolution(inplace=inplace).requires_grad_(not frozen)
    method = GradCAM(net, layer, image=0)
    found = method.explain(inputs, 0, relu=False).map
    torch.testing.assert_close(found, torch.tensor([expected]))
    torch.testing.assert_close(method.explain(inputs, 0).map, torch.tensor([expected]).relu())


def test_hires_cam_of_each_channel():
    """What captum returns for each channel sums to Grad-CAM, as here."""
    net = Convolution()
    parts = torch.tensor([[[-3.75, 3.0], [23.25, 30.0]], [[15.0, 10.5], [-3.0, -7.5]]])
    found = GradCAM(net, "convolution").explain(IMAGE, 0, relu=False).map
    torch.testing.assert_close(found[0], parts.sum(0))
    activation = net.convolution(IMAGE)[0].detach()
    slopes = torch.ones(2, 2, 2)
    slopes[1].flatten()[1:] = -1
    slopes = slopes * (activation > 0)
    found = HiResCAM(net, "convolution").explain(IMAGE, 0, relu=False).map
    torch.testing.assert_close(found[0], (slopes * activation).sum(0))


GUIDED = [
    [0.0, 1.0, 1.0, 1.0],
    [1.0, 3.0, 3.0, 2.0],
    [1.0, 3.0, 3.0, 2.0],
    [1.0, 2.0, 2.0, 1.0],
]
GUIDED_OF_TWO = [
    [1.0, 2.0, 2.0, 1.0],
    [2.0, 4.0, 4.0, 2.0],
    [2.0, 4.0, 4.0, 2.0],
    [1.0, 2.0, 2.0, 1.0],
]
DECONVOLVED = [
    [2.0, 3.0, 3.0, 1.0],
    [3.0, 5.0, 5.0, 2.0],
    [3.0, 5.0, 5.0, 2.0],
    [1.0, 2.0, 2.0, 1.0],
]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(
    ("kind", "inputs", "expected"),
    [
        (GuidedBackprop, IMAGE, GUIDED),
        (GuidedBackprop, (IMAGE, ONES), GUIDED_OF_TWO),
        (Deconvnet, IMAGE, DECONVOLVED),
        (Deconvnet, (IMAGE, ONES), DECONVOLVED),
    ],
)
def test_rules_of_relu(kind, inputs, expected, inplace):
    for image in (0, 1) if isinstance(inputs, tuple) else (0,):  # each of the two inputs
        found = kind(Convolution(inplace=inplace), image=image)(inputs, 0)
        torch.testing.assert_close(found[0, 0], torch.tensor(expected))


NEAREST = [
    [0.0, 0.0, 4.0, 4.0],
    [0.0, 0.0, 12.0, 8.0],
    [28.0, 84.0, 97.5, 65.0],
    [28.0, 56.0, 65.0, 32.5],
]
NEAREST_OF_TWO = [
    [14.5, 29.0, 38.0, 19.0],
    [29.0, 58.0, 76.0, 38.0],
    [65.0, 130.0, 148.0, 74.0],
    [32.5, 65.0, 74.0, 37.0],
]


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(
    ("layer", "inputs", "expected"),
    [("first", IMAGE, NEAREST), ("convolution", (IMAGE, ONES), NEAREST_OF_TWO)],
)
def test_guided_grad_cam(layer, inputs, expected, inplace):
    """Captum enlarges by nearest neighbours by default; here the map is enlarged linearly."""
    net = Convolution(inplace=inplace)
    seen = GuidedGradCAM(net, layer, image=0).explain(inputs, 0)
    guided = GuidedBackprop(net, image=0)(inputs, 0)[0, 0]
    nearest = seen.map[0].repeat_interleave(2, 0).repeat_interleave(2, 1)
    torch.testing.assert_close(guided * nearest, torch.tensor(expected))
    (a, b), (c, d) = seen.map[0].tolist()
    top, bottom = ([p, 0.75 * p + 0.25 * q, 0.25 * p + 0.75 * q, q] for p, q in ((a, b), (c, d)))
    rows = [
        [(1 - share) * t + share * u for t, u in zip(top, bottom, strict=True)]
        for share in (0, 0.25, 0.75, 1)
    ]
    torch.testing.assert_close(seen.heatmap[0, 0], guided * torch.tensor(rows))


TWO = (IMAGE, ONES)


@pytest.mark.parametrize("batch_size", [1, 3, None])
@pytest.mark.parametrize(
    ("inputs", "image", "options", "expected"),
    [
        (TWO, 0, {"window": (4, 4)}, [[67.0] * 4] * 4),
        (TWO, 1, {"window": (4, 4)}, [[13.0] * 4] * 4),
        (
            TWO,
            0,
            {"window": (2, 3), "stride": (2, 1)},
            [[17.0] * 4] * 2 + [[64.0, 65.5, 65.5, 67.0]] * 2,
        ),
        (TWO, 1, {"window": (1, 2), "stride": (1, 2)}, [[3.0] * 4] * 3 + [[0.0] * 4]),
        (
            (IMAGE, ONES[..., :1]),
            0,
            {"window": (2, 4), "stride": (2, 1)},
            [[17.0] * 4] * 2 + [[67.0] * 4] * 2,
        ),
        (
            (IMAGE, ONES[..., :1]),
            1,
            {"window": (2, 1), "stride": (1, 1)},
            [[10.0], [10.0], [8.0], [6.0]],
        ),
    ],
)
def test_occlusion_of_images(inputs, image, options, expected, batch_size):
    method = Occlusion(
        Convolution(), score="logit", image=image, batch_size=batch_size, last="cut", **options
    )
    torch.testing.assert_close(method.explain(inputs, 0).map, torch.tensor([expected]))


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        ([[20.0, 50.0, 30.0]], {"window": 1}, [[80.0, 200.0, 120.0]]),
        ([[20.0, 50.0, 30.0]], {"window": 2, "value": 10.0, "stride": 1}, [[200.0, 220.0, 240.0]]),
        ([[20.0, 50.0, 30.0]], {"window": 2, "stride": 2}, [[280.0, 280.0, 120.0]]),
        (
            [[2.0, 10.0, 3.0], [20.0, 50.0, 30.0]],
            {"window": 1},
            [[8.0, 35.0, 12.0], [80.0, 200.0, 120.0]],
        ),
    ],
)
def test_occlusion_of_rows(values, options, expected, batch_size):
    method = Occlusion(
        Layers(), score="logit", batch_size=batch_size, last="cut", **options, **ROWS
    )
    found = method.explain(torch.tensor(values), 0).map
    torch.testing.assert_close(found, torch.tensor(expected))


VALUES = torch.tensor([[1.0], [2.0], [3.0], [0.0], [-1.0], [7.0]])
SLOPES = torch.tensor([[0.0], [0.0], [0.0], [1.0], [1.0], [0.0]])


def bounded(value: Tensor) -> Tensor:
    return 1 - F.relu(1 - value)


def test_gradients_of_a_bounded_function():
    net = Function(bounded)
    torch.testing.assert_close(Saliency(net, **ROWS)(VALUES, first), SLOPES)
    torch.testing.assert_close(InputXGradient(net, **ROWS)(VALUES, first), VALUES * SLOPES)
    inside = VALUES - 0.5  # away from the kink, where noise would show
    slopes = Saliency(net, **ROWS)(inside, first)
    for method in (
        SmoothGrad(net, samples=10, sigma=2e-7, **ROWS),
        Smooth(Saliency(net, **ROWS), samples=10, sigma=2e-7),
    ):
        torch.testing.assert_close(method(inside, first), slopes)
    still = Smooth(Saliency(net, **ROWS), samples=10, sigma=2e-7, statistic="variance")
    assert still(inside, first).abs().max() < 1e-6


TWO_RELUS = Function(lambda a, b: F.relu(F.relu(a) - 1 - F.relu(b)))
ANOTHER = Function(lambda a, b: F.relu(F.relu(a - 1) - F.relu(b)))


@pytest.mark.parametrize("rule", ["gauss_legendre", "middle", "left", "right", "trapezoid"])
@pytest.mark.parametrize("net", [TWO_RELUS, ANOTHER], ids=["one", "another"])
def test_integrated_gradients_of_the_papers_examples(net, rule):
    """Sundararajan et al., figure 3: two networks of one function have the same attributions."""
    way, expected = torch.tensor([[3.0, 1.0]]), torch.tensor([[1.5, -0.5]])
    options = {"steps": 2000, "rule": rule, "batch_size": 2000, **ROWS}
    found = IntegratedGradients(net, **options)(way, first)
    torch.testing.assert_close(found, expected, atol=0.005, rtol=0)
    slopes = IntegratedGradients(net, multiply=False, **options)(way, first)
    torch.testing.assert_close(slopes * way, found)


def test_a_baseline_for_each_sample_in_a_tunnel_of_noise():
    """Smoothed integrated gradients of a linear function are its weights times the way."""
    net = Function(lambda a, b, c: 2 * a - b + 3 * c)
    values, starts = torch.randn(4, 3), torch.randn(4, 3)
    weights = torch.tensor([2.0, -1.0, 3.0])
    for batch_size in (1, 2, 3, 32):
        inner = IntegratedGradients(net, baseline=starts, steps=3, **ROWS)
        found = Smooth(inner, samples=5, sigma=0, batch_size=batch_size)(values, first)
        torch.testing.assert_close(found, weights * (values - starts))
    method = ExpectedGradients(net, baselines=starts[:1], samples=4, **ROWS)
    torch.testing.assert_close(method(values, first), weights * (values - starts[:1]))
    plain = ExpectedGradients(net, baselines=starts, samples=4, multiply=False, **ROWS)
    torch.testing.assert_close(plain(values, first), weights.expand(4, 3))
