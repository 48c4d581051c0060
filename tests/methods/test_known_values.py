"""Values that can be worked out by hand, of networks small enough for it: maps and ReLU rules.

The networks and the numbers are those of captum's own tests (0.9.0), the code is ours; attributions
of pixels are in `test_known_attributions`, what torch-cam, grad-cam and zennit test in
`test_known_behaviour`. Left out is what camlib does not have: maps of layers without places, which
are refused, and of layers that return several tensors; several inputs explained at once, where one
is the image here and the others stay as they are; inputs of integers or booleans; features of any
shape but windows; a baseline with places of its own for windows; and one score for a whole batch.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from worked_out import ANOTHER, ROWS, Convolution, Cut, Function, Layers, Sum, bounded, first

from camlib import (
    Deconvnet,
    GradCAM,
    GraphError,
    GuidedBackprop,
    GuidedGradCAM,
    HiResCAM,
    InputError,
    LayoutError,
    Occlusion,
    Smooth,
)
from camlib.passes.capture import capture

pytestmark = pytest.mark.filterwarnings("ignore:a map of Occlusion is zero:camlib.CamlibWarning")

IMAGE, ONES = torch.arange(16.0).reshape(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
TWO = (IMAGE, ONES)
DARK = IMAGE.clone()
DARK[0, 0, 1, 1] = -4
MANY = torch.cat([IMAGE, DARK, IMAGE])


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(
    ("layer", "inputs", "expected"),
    [
        ("convolution", IMAGE, [[11.25, 13.5], [20.25, 22.5]]),
        ("first", IMAGE, [[0.0, 4.0], [28.0, 32.5]]),
        ("convolution", TWO, [[14.5, 19.0], [32.5, 37.0]]),
        ("convolution", {"image": IMAGE, "other": ONES}, [[14.5, 19.0], [32.5, 37.0]]),
        ("entry", DARK, (0.5625 * DARK[0, 0]).tolist()),
    ],
)
def test_grad_cam(layer, inputs, expected, inplace, frozen):
    net = Convolution(inplace=inplace).requires_grad_(not frozen)
    method = GradCAM(net, layer, image="image")
    found = method.explain(inputs, 0, relu=False).map
    torch.testing.assert_close(found, torch.tensor([expected]))
    torch.testing.assert_close(method.explain(inputs, 0).map, torch.tensor([expected]).relu())


@pytest.mark.parametrize("target", [0, [0, 1, 3], torch.tensor([0, 2, 1]), first])
def test_grad_cam_of_a_batch(target):
    """Its four classes are alike, so each image has the map that it has alone."""
    method = GradCAM(Convolution(), "first")
    found = method.explain(MANY, target).map
    for one, image in zip(found, MANY, strict=True):
        torch.testing.assert_close(one, method.explain(image[None], 0).map[0])
    torch.testing.assert_close(found[0], torch.tensor([[0.0, 4.0], [28.0, 32.5]]))


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


@pytest.mark.parametrize("kind", [GradCAM, HiResCAM])
def test_layers_without_places_have_no_map(kind):
    with pytest.raises(LayoutError, match=r"an activation of shape \(1, 4\) has no grid"):
        kind(Layers(), "first", **ROWS)(torch.tensor([[0.0, 100.0, 0.0]]), 0)


class Unused(nn.Module):
    """Two layers; the answer comes from one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.other = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 1)

    def forward(self, image):
        self.other(image)
        return self.used(image).flatten(2).mean(2)


def test_a_layer_that_the_answer_does_not_come_from_has_no_map():
    assert GradCAM(Unused(), "used").explain(IMAGE, 0, relu=False).map.any()
    with pytest.raises(GraphError, match="no gradient flows from the score to 'other'"):
        GradCAM(Unused(), "other")(IMAGE, 0)


@pytest.mark.parametrize(
    ("inplace", "layer", "values", "activation", "gradient"),
    [
        (False, "zeroth", [0.0, 100.0, 0.0], [0.0, 100.0, 0.0], [4.0, 4.0, 4.0]),
        (False, "first", [0.0, 100.0, 0.0], [90.0, 101.0, 101.0, 101.0], [1.0] * 4),
        (False, "relu", [3.0, 4.0, 0.0], [0.0, 8.0, 8.0, 8.0], [1.0] * 4),
        (False, "second", [0.0, 100.0, 0.0], [392.0, 394.0], [1.0, 0.0]),
        (True, "first", [2.0, -5.0, 4.0], [-9.0, 2.0, 2.0, 2.0], [0.0, 1.0, 1.0, 1.0]),
    ],
)
def test_what_a_layer_returned_and_its_gradient(inplace, layer, values, activation, gradient):
    net = Layers(inplace=inplace)
    with capture(net, [layer]) as seen:
        output = net(torch.tensor([values]))
    torch.testing.assert_close(seen.activations()[0].detach(), torch.tensor([activation]))
    [[found]] = seen.gradients(output[:, :1])
    torch.testing.assert_close(found[0], torch.tensor([gradient]))


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


@pytest.mark.parametrize("last", [True, False], ids=["class", "neuron"])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize(
    ("kind", "inputs", "target", "expected"),
    [
        (GuidedBackprop, IMAGE, 0, GUIDED),
        (GuidedBackprop, IMAGE, lambda output: output[:, 0:1].sum(1), GUIDED),
        (GuidedBackprop, TWO, 3, GUIDED_OF_TWO),
        (Deconvnet, IMAGE, 0, DECONVOLVED),
        (Deconvnet, IMAGE, [0], DECONVOLVED),
        (Deconvnet, TWO, 3, DECONVOLVED),
    ],
)
def test_rules_of_relu(kind, inputs, target, expected, inplace, last):
    """Of a class, and of a neuron before the last ReLU, which is open for it."""
    for image in (0, 1) if isinstance(inputs, tuple) else (0,):  # each of the two inputs
        found = kind(Convolution(inplace=inplace, last=last), image=image)(inputs, target)
        torch.testing.assert_close(found[0, 0], torch.tensor(expected))


@pytest.mark.parametrize("kind", [GuidedBackprop, Deconvnet])
def test_rules_of_relu_on_many_images(kind):
    method = kind(Convolution())
    found = method(MANY, [0, 1, 2])
    for one, image in zip(found, MANY, strict=True):
        torch.testing.assert_close(one, method(image[None], 0)[0])


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
    ("layer", "inputs", "image", "expected"),
    [
        ("first", IMAGE, 0, NEAREST),
        ("convolution", TWO, 0, NEAREST_OF_TWO),
        ("convolution", TWO, 1, NEAREST_OF_TWO),
        ("convolution", (IMAGE, 1.0), 0, NEAREST_OF_TWO),
        ("convolution", (IMAGE, ONES[..., :1, :1]), 0, NEAREST_OF_TWO),
    ],
)
def test_guided_grad_cam(layer, inputs, image, expected, inplace):
    """Captum enlarges by nearest neighbours by default; here the map is enlarged linearly."""
    net = Convolution(inplace=inplace)
    seen = GuidedGradCAM(net, layer, image=image).explain(inputs, 0)
    guided = GuidedBackprop(net, image=image)(inputs, 0)[0, 0]
    nearest = seen.map[0].repeat_interleave(2, 0).repeat_interleave(2, 1)
    torch.testing.assert_close(guided * nearest, torch.tensor(expected))
    (a, b), (c, d) = seen.map[0].tolist()
    top, bottom = ([p, 0.75 * p + 0.25 * q, 0.25 * p + 0.75 * q, q] for p, q in ((a, b), (c, d)))
    rows = [
        [(1 - share) * t + share * u for t, u in zip(top, bottom, strict=True)]
        for share in (0, 0.25, 0.75, 1)
    ]
    torch.testing.assert_close(seen.heatmap[0, 0], guided * torch.tensor(rows))


PIXELS = [
    [0.0, 2.0, 4.0, 3.0],
    [4.0, 9.0, 10.0, 7.0],
    [4.0, 13.0, 14.0, 11.0],
    [0.0, 0.0, 0.0, 0.0],
]


@pytest.mark.parametrize("batch_size", [1, 3, None])
@pytest.mark.parametrize(
    ("inputs", "image", "options", "expected"),
    [
        (TWO, 0, {"window": 4}, [[67.0] * 4] * 4),
        (TWO, 1, {"window": 4}, [[13.0] * 4] * 4),
        (TWO, 0, {"window": 1}, PIXELS),
        (TWO, 1, {"window": 1}, [[1.0, 2.0, 2.0, 1.0]] * 3 + [[0.0] * 4]),
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


ROW, PAIR = [[20.0, 50.0, 30.0]], [[2.0, 10.0, 3.0], [20.0, 50.0, 30.0]]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        (ROW, {"window": 1}, [[80.0, 200.0, 120.0]]),
        (ROW, {"window": 2, "value": 10.0, "stride": 1}, [[200.0, 220.0, 240.0]]),
        (ROW, {"window": 2, "stride": 2}, [[280.0, 280.0, 120.0]]),
        (ROW, {"window": 2, "value": 4.0, "stride": 2}, [[248.0, 248.0, 104.0]]),
        (PAIR, {"window": 1}, [[8.0, 35.0, 12.0], [80.0, 200.0, 120.0]]),
    ],
)
def test_occlusion_of_rows(values, options, expected, batch_size):
    method = Occlusion(
        Layers(), score="logit", batch_size=batch_size, last="cut", **options, **ROWS
    )
    found = method.explain(torch.tensor(values), 0).map
    torch.testing.assert_close(found, torch.tensor(expected))


THREE = (
    torch.tensor([[23.0, 100.0, 0.0], [20.0, 50.0, 30.0]]),
    torch.tensor([[20.0, 50.0, 30.0], [0.0, 100.0, 0.0]]),
    torch.tensor([[0.0, 100.0, 10.0], [2.0, 10.0, 3.0]]),
    1,
)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (0, {"window": 3}, [[492.0] * 3, [400.0] * 3]),
        (1, {"window": 1}, [[80.0, 200.0, 120.0], [0.0, 400.0, 0.0]]),
        (2, {"window": 2, "stride": 1}, [[400.0, 420.0, 440.0], [48.0, 50.0, 52.0]]),
        (1, {"window": 1, "value": 3.0}, [[68.0, 188.0, 108.0], [-12.0, 388.0, -12.0]]),
    ],
)
def test_occlusion_of_one_of_several_inputs(image, options, expected, batch_size):
    """Of two tensors with a third and a number beside them, or of all three."""
    method = Occlusion(
        Sum(), score="logit", image=image, batch_size=batch_size, last="cut", **options, **ROWS
    )
    torch.testing.assert_close(method.explain(THREE, 0).map, torch.tensor(expected))


def test_occlusion_of_single_numbers():
    for place, expected in ((0, [0.0, 1.0]), (1, [0.0, -1.0])):
        pair = torch.tensor([[-10.0, -5.0], [3.0, 1.0]])
        found = Occlusion(ANOTHER, window=1, **ROWS).explain(pair, first).map
        torch.testing.assert_close(found[:, place], torch.tensor(expected))


def test_occlusion_averaged_over_noise():
    values = torch.tensor([[-3.0, 1.0, 2.0]])
    net = Function(lambda a, b, c: bounded(a) + bounded(b) + bounded(c))
    expected = torch.tensor([[-3.0, 1.0, 1.0]])
    method = Occlusion(net, window=1, **ROWS)
    torch.testing.assert_close(method.explain(values, first).map, expected)
    found = Smooth(method, samples=5, sigma=1e-8).explain(values, first).map
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": (2,)}, "window=.* is for 1 axes, and the input has 2"),
        ({"window": (1, 1, 2)}, "window=.* is for 3 axes, and the input has 2"),
        ({"window": 2, "stride": (1, 2, 2)}, "stride=.* is for 3 axes, and the input has 2"),
        ({"window": (1, 2), "stride": 2}, "stride=2 leaves pixels between windows of 1"),
    ],
)
def test_windows_and_strides_that_do_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        Occlusion(Convolution(), **options)(IMAGE, 0)


WINDOW = [[1.0, 1.0, 1.0, 0.0]] * 3 + [[0.0] * 4]


@pytest.mark.parametrize(
    ("layer", "guided", "deconvolved"),
    [
        ("convolution", WINDOW, WINDOW),
        ("first", WINDOW, WINDOW),
        ("linear", GUIDED_OF_TWO, DECONVOLVED),
        ("last", GUIDED_OF_TWO, DECONVOLVED),
    ],
)
def test_a_neuron_is_a_target_of_the_network_up_to_its_layer(layer, guided, deconvolved):
    """What captum's classes for neurons return: they start from one at the neuron."""
    net = Cut(Convolution(), layer)
    for kind, expected in ((GuidedBackprop, guided), (Deconvnet, deconvolved)):
        for image in (0, 1):
            found = kind(net, image=image)(TWO, lambda output: output.flatten(1)[:, 0])
            torch.testing.assert_close(found[0, 0], torch.tensor(expected))
