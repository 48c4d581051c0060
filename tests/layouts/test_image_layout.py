"""Which axis of the image has its channels: told by `image_layout=`, or the usual one."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from nets import Net, fitting, images, pooled
from torch import nn

from camlib import (
    CAM,
    METHODS,
    RISE,
    Augmented,
    DeepFeatureFactorization,
    FullGrad,
    GradCAM,
    GroupCAM,
    GuidedGradCAM,
    InputError,
    LayerMethod,
    LayoutError,
    Occlusion,
    Saliency,
    ScoreCAM,
    Smooth,
    SmoothFullGrad,
    figure,
)
from camlib.passes.inputs import Inputs

pytestmark = [
    pytest.mark.filterwarnings("ignore:a map (at layer|of):camlib.CamlibWarning"),
    pytest.mark.filterwarnings("ignore:integrated gradients with:camlib.CamlibWarning"),
]

LAYOUTS = {
    "NLC": (1, "NCL"),
    "NL": (1, None),
    "NHWC": (2, "NCHW"),
    "NHW": (2, None),
    "NWHC": (2, "NCWH"),
    "NTCHW": (3, "NCTHW"),
    "NTHWC": (3, "NCTHW"),
    "NTHW": (3, None),
}
"""Each layout, with the axes of its grid and the order in which a convolution has them."""

SOME = GradCAM, ScoreCAM, Occlusion, Saliency, FullGrad, GuidedGradCAM
KINDS = [
    pytest.param(kind, id=name, marks=() if kind in SOME else pytest.mark.slow)
    for name, kind in METHODS.items()
]

SIZES = {1: (12,), 2: (8, 10), 3: (4, 8, 6)}


class Turned(Net):
    """A network whose input has its axes in another order."""

    layout = "NCHW"

    def forward(self, picture):
        if "C" not in self.layout:
            return super().forward(picture.unsqueeze(1))
        return super().forward(picture.movedim(self.layout.index("C"), 1))


def turned(kind, layout):
    """A network for `kind` of inputs of `layout`, the usual one, and the same picture for both."""
    axes, _ = LAYOUTS[layout]
    net = fitting(kind, 3, axes=axes)
    if "C" not in layout:
        first = net.features[0]
        first.weight = nn.Parameter(first.weight.detach().sum(1, keepdim=True))
        first.in_channels = 1
    other = Turned(net.features, net.tail).eval()
    other.layout = layout
    picture = images(2, *SIZES[axes], seed=1)
    if "C" not in layout:
        return net, other, picture[:, :1], picture[:, 0]
    return net, other, picture, picture.movedim(1, layout.index("C"))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_layout_gives_what_channels_first_gives(kind, layout):
    net, other, plain, picture = turned(kind, layout)
    layer = {"layer": "features"} if issubclass(kind, LayerMethod) else {}
    for target in (1, [[0, 1, 2, 3]]):
        expected = kind(net, **layer).explain(plain, target)
        found = kind(other, **layer, image_layout=layout).explain(picture, target)
        assert expected.heatmap.any() or target == 1
        shown = found.heatmap
        if found.attribution:
            leading = (2, *found.score.shape[1:])
            assert shown.shape == (*leading, *picture.shape[1:])
            apart = shown.flatten(0, found.score.ndim - 1)
            shown = found.channels_first(apart).unflatten(0, leading)
        torch.testing.assert_close(shown, expected.heatmap, rtol=1e-4, atol=1e-5)
        assert found.size == expected.size


@pytest.mark.parametrize("layout", ["NHWC", "NHW", "NLC", "NTHWC"])
def test_wrappers_and_options_of_methods_follow_the_layout(layout):
    net, other, plain, picture = turned(GradCAM, layout)
    options = {"image_layout": layout}
    builds = [
        lambda net, **o: Augmented(GradCAM(net, "features", **o), scales=(1, 1.5)),
        lambda net, **o: Smooth(ScoreCAM(net, "features", baseline="blur", **o), samples=2),
        lambda net, **o: Smooth(Saliency(net, reduce="max", **o), samples=2, sigma=0),
        lambda net, **o: Saliency(net, reduce="l2", **o),
        lambda net, **o: SmoothFullGrad(net, samples=2, sigma=0, **o),
    ]
    for build in builds:
        expected = build(net)(plain, [[0, 1, 2, 3]])
        assert expected.any()
        torch.testing.assert_close(build(other, **options)(picture, [[0, 1, 2, 3]]), expected)
    expected = DeepFeatureFactorization(net, "features", concepts=2)(plain)
    found = DeepFeatureFactorization(other, "features", concepts=2, **options)(picture)
    torch.testing.assert_close(found.heatmaps, expected.heatmaps)


@pytest.mark.parametrize(
    "layout",
    ["NHWC", *(pytest.param(each, marks=pytest.mark.slow) for each in ("NHW", "NTHWC", "NLC"))],
)
@pytest.mark.parametrize("kind", [GradCAM, Saliency, FullGrad, GuidedGradCAM, Occlusion])
def test_pictures_of_results_follow_the_layout(kind, layout):
    net, other, plain, picture = turned(kind, layout)
    layer = {"layer": "features"} if kind in (GradCAM, GuidedGradCAM) else {}
    expected = kind(net, **layer).explain(plain, 1)
    found = kind(other, **layer, image_layout=layout).explain(picture, 1)
    one, two = expected.figure(plain.sigmoid()), found.figure(picture.sigmoid())
    assert len(one.axes) == len(two.axes)
    for left, right in zip(one.axes, two.axes, strict=True):
        for a, b in zip(left.images, right.images, strict=True):
            assert (abs(a.get_array().astype(int) - b.get_array().astype(int)) <= 1).all()
    if layout != "NLC" and not found.attribution:
        torch.testing.assert_close(
            found.overlay(picture.sigmoid()), expected.overlay(plain.sigmoid()), atol=1e-4, rtol=0
        )
    assert figure(picture.sigmoid(), {"map": found}).axes


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ((2, 3, 64, 64), ["NCHW"]),
        ((2, 13, 64, 64), ["NCHW", "NHWC"]),
        ((2, 64, 64, 8), ["NCHW", "NHWC"]),
        ((2, 3, 64, 3), ["NCHW"]),
        ((2, 64, 64, 3), ["NHWC", "NCHW"]),
        ((2, 64, 64, 1), ["NHWC", "NCHW"]),
        ((2, 3, 100), ["NCL"]),
        ((2, 100, 3), ["NLC", "NCL", "NHW"]),
        ((2, 64, 96), ["NCL", "NHW", "NLC"]),
        ((2, 3, 16, 64, 64), ["NCDHW"]),
        ((2, 8, 3, 64, 64), ["NTCHW", "NCDHW"]),
        ((2, 4, 3, 64, 64), ["NTCHW", "NCDHW"]),
        ((2, 3, 3, 64, 64), ["NCDHW", "NTCHW"]),
        ((2, 8, 64, 64, 3), ["NTHWC", "NCDHW"]),
        ((2, 8, 64, 64, 2), ["NCDHW", "NTHWC"]),
    ],
)
def test_readings_of_a_shape(shape, names):
    given = Inputs.of(torch.zeros(shape))
    readings = given.readings()
    assert [each.layout for each in readings] == names
    assert given.axis == readings[0].axis
    told = Inputs.of(torch.zeros(shape), image_layout=names[-1])
    assert [each.layout for each in told.readings()] == [names[-1]]


class Bands(nn.Module):
    """Answers how bright patches of 8 x 8 pixels are; `move` is done to the image before."""

    def __init__(self, channels, move):
        super().__init__()
        self.move = move
        self.patches = nn.Conv2d(channels, 1, 8, 8, bias=False).requires_grad_(False)
        self.patches.weight.fill_(1 / self.patches.weight.numel())

    def forward(self, picture):
        evidence = self.patches(self.move(picture)).flatten(1).square().mean(1)
        return torch.stack([-evidence, evidence], 1)


@pytest.mark.parametrize("channels", [2, 5, 8, 16])
@pytest.mark.parametrize(
    "method", [Occlusion, lambda net: Saliency(net, reduce="l2"), lambda net: GradCAM(net)]
)
def test_bands_are_told_from_sides_by_what_the_model_does_with_them(method, channels):
    picture = 0.05 * torch.rand(2, channels, 40, 56, generator=torch.Generator().manual_seed(0))
    picture[:, :, 16:24, 32:40] = 1
    last = Bands(channels, lambda picture: picture.permute(0, 3, 1, 2)).eval()
    first = Bands(channels, lambda picture: picture).eval()
    for net, given in ((first, picture), (last, picture.permute(0, 2, 3, 1).contiguous())):
        heatmap = method(net)(given, 1)
        assert heatmap.shape == (2, 40, 56)
        for one in heatmap:
            row, column = (one > 0.7 * one.max()).nonzero().double().mean(0).tolist()
            assert (row, column) == pytest.approx((19.5, 35.5), abs=4)


def test_bands_of_a_model_without_places_are_refused():
    net = nn.Sequential(nn.Flatten(), nn.Linear(5 * 6 * 7, 2)).eval()
    with pytest.raises(InputError, match="'NCHW' or 'NHWC'; choose one"):
        Occlusion(net, window=2)(torch.rand(1, 5, 6, 7))
    assert Occlusion(net, window=2, image_layout="NCHW")(torch.rand(1, 5, 6, 7)).shape == (1, 6, 7)


def test_reading_can_be_replaced():
    picture = torch.rand(2, 5, 6, 3)
    given = replace(Inputs.of(picture), axis=3, told=True)
    assert given.size == (5, 6)
    assert torch.equal(given.arranged, picture.movedim(3, 1))
    assert given.at_places(torch.ones(2, 1, 5, 6)).shape == (2, 5, 6, 1)
    grey = replace(Inputs.of(picture[..., 0]), axis=None)
    assert grey.size == (5, 6)
    assert torch.equal(grey.arranged, picture[:, None, ..., 0])
    assert grey.at_places(torch.ones(2, 1, 5, 6)).shape == (2, 5, 6)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 16, 16, 3), r"shape \(2, 16, 16, 3\) can be read as 'NHWC' or 'NCHW'; choose one: im"),
        ((2, 16, 16), r"can be read as 'NCL' or 'NHW' or 'NLC'; choose one: image_layout='NCL'"),
        ((2, 8, 3, 16, 16), r"can be read as 'NTCHW' or 'NCDHW'; choose one: image_layout='NTCHW'"),
    ],
)
@pytest.mark.parametrize(
    "method",
    [
        lambda net: RISE(net, masks=2),
        Occlusion,
        FullGrad,
        lambda net: Saliency(net, reduce="max"),
    ],
)
def test_methods_without_a_layer_do_not_guess(method, shape, message):
    net = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape[1:]), 3)).eval()
    with pytest.raises(InputError, match=message):
        method(net)(torch.rand(shape), 1)


@pytest.mark.parametrize("layout", ["NHW", "NHWC"])
@pytest.mark.parametrize("layer", ["features", None])
def test_layers_tell_the_layout_of_an_image_in_doubt(layout, layer):
    net, other, plain, picture = turned(GradCAM, layout)
    found = GradCAM(other, layer)(picture, 1, relu=False)
    torch.testing.assert_close(found, GradCAM(net, layer)(plain, 1, relu=False))


def test_layer_that_does_not_fit_the_layout_given_says_how_to_change_it():
    _, other, _, picture = turned(GradCAM, "NHW")
    with pytest.raises(LayoutError, match="layer 'features': no layout of"):
        GradCAM(other, "features", image_layout="NCL")(picture, 1)


@pytest.mark.parametrize(
    "image_layout", ["HWC", "CHW", "N", "NC", "NCC", "nchw", "NCDHWT", "N CHW", ""]
)
@pytest.mark.parametrize("kind", [GradCAM, Saliency, RISE, ScoreCAM, CAM, GroupCAM])
def test_layout_that_is_none(kind, image_layout):
    with pytest.raises(InputError, match=r"image_layout=.* is not known; expected one letter for"):
        kind(pooled(), image_layout=image_layout)


def test_layout_of_another_number_of_axes():
    with pytest.raises(InputError, match=r"got a float32 .*; image_layout='NHW' names 3 axes"):
        GradCAM(pooled(), image_layout="NHW")(images(), 1)
    with pytest.raises(InputError, match=r"image=0 is a float32 .*; image_layout='NHW' names 3 ax"):
        GradCAM(pooled(), image=0, image_layout="NHW")(images(), 1)


def test_every_method_has_the_option():
    for kind in METHODS.values():
        assert kind(fitting(kind), image_layout="NCHW")(images(), [[0, 1, 2, 3]]).any()
