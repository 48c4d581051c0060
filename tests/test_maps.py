"""The arithmetic of maps: resized, normalised, fused, blurred."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Net, Pooling, convolutional, images, padding, pooled
from torch import nn
from torch.nn import functional as F

from camlib import CamlibWarning, GradCAM, HiResCAM, InputError, LayerCAM, maps


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.floats(1e-6, 1e6), st.floats(-1e3, 1e3))
def test_min_max_is_idempotent_and_ignores_scale_and_offset(seed, scale, offset):
    found = maps.normalize(random(2, 3, 4, 5, seed=seed).double())
    assert found.amin((2, 3)).eq(0).all()
    assert found.amax((2, 3)).eq(1).all()
    torch.testing.assert_close(maps.normalize(found), found)
    torch.testing.assert_close(maps.normalize(found * scale + offset), found, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0, 1e-30, 1e30])
def test_flat_map_gives_zeros(value):
    assert maps.normalize(torch.full((1, 1, 3, 3), value)).eq(0).all()


def test_flat_map_stays_flat_when_resized_in_any_memory_layout():
    flat = torch.full((2, 4, 7, 7), 0.1).to(memory_format=torch.channels_last)
    assert maps.normalize(maps.resize(flat, (224, 224))).eq(0).all()


def test_tiny_values_are_not_lost():
    tiny = random(1, 1, 3, 3).abs() * 1e-30
    torch.testing.assert_close(maps.normalize(tiny), maps.normalize(tiny * 1e30))


def test_division_by_the_maximum_keeps_zero_and_uniform_evidence():
    torch.testing.assert_close(
        maps.normalize(torch.tensor([[[[1.0, -2.0, 4.0]]]]), "max"),
        torch.tensor([[[[0.25, -0.5, 1.0]]]]),
    )
    assert maps.normalize(torch.full((1, 1, 2, 2), 3.0), "max").eq(1).all()
    assert maps.normalize(torch.zeros(1, 1, 2, 2), "max").eq(0).all()


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_weighting_one_activation_many_times_is_weighting_its_copies(dims):
    one, weights = random(5, *[4] * dims).double(), random(7, 5, *[1] * dims).double()
    expected = torch.stack([(each * one).sum(0) for each in weights])
    shared = one.expand(7, *one.shape)
    torch.testing.assert_close(maps.weighted_sum(weights, shared), expected)
    torch.testing.assert_close(maps.weighted_sum(weights, shared.clone()), expected)


@pytest.mark.parametrize("how", [True, "minmax", "max", "centered", False])
def test_normalising_in_place_gives_the_same(how):
    raw = torch.stack([random(3, 4, 5), torch.full((3, 4, 5), -0.5), torch.zeros(3, 4, 5)])
    expected = maps.normalize(raw, how)
    place = raw.clone()
    assert torch.equal(maps.normalize_(place, how), expected)
    assert torch.equal(place, expected)
    assert how is False or not torch.equal(raw, expected)


@pytest.mark.parametrize("fuse", ["mean", None])
@pytest.mark.parametrize("layers", [["features.3"], ["features.0"], ["features.0", "features.3"]])
@pytest.mark.parametrize("resize", [True, False])
def test_scaling_a_heatmap_leaves_the_map_in_units_of_the_score(fuse, layers, resize):
    """Also where the grid has the size of the input, and nothing is resized."""
    net, batch = pooled(), images()
    seen = HiResCAM(net, layers, fuse=fuse).explain(batch, 1, relu=False, resize=resize)
    for k, layer in enumerate(layers):
        alone = HiResCAM(net, layer).explain(batch, 1, relu=False, normalize=False, resize=False)
        torch.testing.assert_close(seen.maps[k], alone.heatmap)
    assert seen.heatmap.amax() == 1


@pytest.mark.parametrize("size", [(9,), (9, 5), (9, 5, 4)])
def test_resize_is_linear_without_aligned_corners(size):
    small = random(2, 3, *[3] * len(size))
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    expected = F.interpolate(small, size, mode=mode, align_corners=False)
    assert torch.equal(maps.resize(small, size), expected)


@pytest.mark.parametrize(
    ("grid", "size"), [((7, 7), (224, 224)), ((3, 5), (65, 40)), ((1, 4), (9, 9))]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_resizing_many_maps_is_resizing_each(grid, size, dtype, memory):
    many = random(3, 5, *grid).to(dtype).contiguous(memory_format=memory)
    expected = torch.stack(
        [
            F.interpolate(each[None, None], size, mode="bilinear")[0, 0]
            for each in many.flatten(0, 1)
        ]
    ).reshape(3, 5, *size)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(maps.resize(many, size), expected, rtol=4 * eps, atol=4 * eps)
    torch.testing.assert_close(
        maps.resize(many.clone().requires_grad_(), size).detach(), expected, rtol=0, atol=4 * eps
    )


def test_gradients_flow_through_many_maps_when_resized():
    many = random(1, 9, 2, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda maps_: maps.resize(maps_, (16, 16)), many)


@pytest.mark.parametrize("fuse", ["mean", None])
def test_heatmaps_of_several_layers_reach_from_0_to_1(fuse):
    net = pooled().double()
    net.features.append(nn.AvgPool2d(5))
    method = GradCAM(net, ["features", "features.3"], fuse=fuse, relu=False)
    heat = method(images(4, 64, 64).double(), [[0, 1]] * 4).flatten(-2)
    assert heat.amin(-1).eq(0).all()
    assert heat.amax(-1).eq(1).all()


def test_heatmaps_of_padded_images_reach_from_0_to_1():
    net = pooled()
    net.features.append(nn.AvgPool2d(5))
    method = GradCAM(padding(net), "net.features", relu=False)
    heat = method(images(4, 59, 61), [[0, 1]] * 4).flatten(-2)
    assert heat.amin(-1).eq(0).all()
    assert heat.amax(-1).eq(1).all()


def test_normalising_comes_after_resizing():
    batch, net = images(), pooled()
    seen = GradCAM(net).explain(batch)
    resized = F.interpolate(seen.map[:, None], (8, 8), mode="bilinear", align_corners=False)
    assert torch.equal(seen.heatmap, maps.normalize(resized)[:, 0])
    other = F.interpolate(maps.normalize(seen.map[:, None]), (8, 8), mode="bilinear")[:, 0]
    assert (other - seen.heatmap).abs().max() > 1e-2


def fused(found, how):
    return maps.fuse(maps.alike(found, how), how)


def test_fusions():
    one, two = torch.tensor([[[[0.0, 2.0, 4.0]]]]), torch.tensor([[[[3.0, 3.0, 6.0]]]])
    a, b = one / 4, two / 6
    assert torch.equal(fused([one, two], "mean"), (a + b) / 2)
    assert torch.equal(fused([one, two], "max"), torch.maximum(a, b))
    assert torch.equal(fused([one, two], "product"), a * b)
    expected = torch.maximum(torch.tanh(2 * a), torch.tanh(2 * b))
    assert torch.equal(fused([one, two], "scaled_max"), expected)
    assert torch.equal(fused([one, two], None), torch.stack([one, two], 2))
    assert torch.equal(fused([one, two], "sum"), one + two)
    with pytest.raises(InputError, match="fuse='median' is not known; use 'mean', 'max'"):
        GradCAM(pooled(), ["features", "tail"], fuse="median")


@pytest.mark.parametrize("kind", [HiResCAM, LayerCAM])
@pytest.mark.parametrize("resize", [True, False])
def test_maps_of_layers_are_scaled_at_their_own_grids(kind, resize):
    """As the authors of Layer-CAM and Zoom-CAM do: a peak between pixels counts in full."""
    net, batch = convolutional().double(), images(2, 9, 9).double()
    layers = ["features.2", "features", "tail.1"]
    method = kind(net, layers, fuse="max", normalize=False, resize=resize)
    seen = method.explain(batch, 1)
    assert len({each.shape for each in seen.maps}) > 1
    size = (9, 9) if resize else max(each.shape[1:] for each in seen.maps)
    expected = torch.zeros(2, *size).double()
    for one in seen.maps:
        for n in range(2):
            scaled = one[n] / one[n].max()
            large = F.interpolate(scaled[None, None], size, mode="bilinear")[0, 0]
            expected[n] = torch.maximum(expected[n], large)
    torch.testing.assert_close(seen.heatmap, expected, rtol=1e-9, atol=1e-12)


MIXERS = ["geometric", "log_exp", "exp_mean"]


@pytest.mark.parametrize("fuse", MIXERS)
def test_mixers_of_refine_cam_on_agreement_and_dissent(fuse):
    half = torch.tensor([[[[0.5, 1.0, 0.25]]]]).double()
    other = torch.tensor([[[[0.0, 1.0, -0.5]]]]).double()
    found = fused([half, other], fuse)
    assert found[..., [0, 2]].eq(0).all()
    torch.testing.assert_close(found[..., 1], torch.ones(1, 1, 1).double())
    twice = fused([half, half], fuse)
    if fuse == "log_exp":  # not a mean: two at 1/2 are (1 + log 2) / (2 + log 2)
        torch.testing.assert_close(twice[0, 0, 0, 0].item(), (1 + math.log(2)) / (2 + math.log(2)))
    else:
        torch.testing.assert_close(twice, half)


@pytest.mark.parametrize("fuse", MIXERS)
def test_mixers_of_refine_cam_have_finite_gradients(fuse):
    one = torch.tensor([[[[0.0, 1e-30, 1e-3, 1.0]]]], requires_grad=True)
    two = torch.tensor([[[[1.0, 1.0, 0.0, 1e-3]]]], requires_grad=True)
    found = fused([one] * 5 + [two], fuse)
    assert found.isfinite().all()
    for gradient in torch.autograd.grad(found.sum(), [one, two]):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("fuse", ["mean", "max", "product", *MIXERS, "scaled_max", None])
def test_one_layer_in_a_list_is_that_layer(fuse):
    net, batch = pooled(), images()
    found = GradCAM(net, ["features"], fuse=fuse)(batch)
    assert torch.equal(found[:, 0] if fuse is None else found, GradCAM(net, "features")(batch))


def test_several_layers():
    net, batch = pooled(), images()
    layers = ["features.2", "features"]
    each = [HiResCAM(net, layer).explain(batch, target=1) for layer in layers]
    apart = HiResCAM(net, layers, fuse=None).explain(batch, target=1)
    assert apart.heatmap.shape == (2, 2, 8, 8)
    assert apart.map.shape == (2, 2, 8, 8)
    assert [m.shape for m in apart.maps] == [(2, 8, 8), (2, 4, 4)]
    assert apart.layers == tuple(layers)
    for index, alone in enumerate(each):
        torch.testing.assert_close(apart.heatmap[:, index], alone.heatmap)
        torch.testing.assert_close(apart.maps[index], alone.map)
    product = HiResCAM(net, layers, fuse="product").explain(batch, target=1)
    peaks = [maps.resize(maps.normalize(seen.map[:, None], "max"), (8, 8)) for seen in each]
    torch.testing.assert_close(product.heatmap, maps.normalize(peaks[0] * peaks[1])[:, 0])
    assert product.map.shape == (2, 8, 8)
    assert HiResCAM(net, layers, fuse=None)(batch, target=[[0, 1, 2]], relu=False).shape == (
        2,
        3,
        2,
        8,
        8,
    )
    assert LayerCAM(net, layers).fuse == "scaled_max"


def test_product_with_itself_is_the_square():
    net, batch = pooled(), images()
    found = GradCAM(net, ["features", "features"], fuse="product")(batch, normalize="max")
    torch.testing.assert_close(found, GradCAM(net, "features")(batch, normalize="max") ** 2)


def test_what_a_call_returns_on_request():
    net, batch = pooled(), images()
    cam = GradCAM(net, "features")
    seen = cam.explain(batch)
    own = cam(batch, resize=False, normalize=False)
    assert torch.equal(own, seen.map)
    assert torch.equal(GradCAM(net, "features", resize=False, normalize=False)(batch), own)
    signed = cam(batch, relu=False, normalize=False, resize=False)
    assert (signed < 0).any()
    assert torch.equal(signed.relu(), own)
    assert torch.equal(GradCAM(net, "features", relu=False).explain(batch).map, signed)
    assert cam(batch, normalize="max").amax() == 1
    with pytest.raises(
        InputError, match="normalize='l2' is not known; use True, False, 'minmax', 'max'"
    ):
        cam(batch, normalize="l2")


def test_uniform_evidence_stays_visible_on_request():
    net = Net(nn.Sequential(nn.AvgPool2d(2)), nn.Sequential(Pooling(), nn.Linear(3, 2)))
    net.tail[1].weight.data.fill_(1)
    cam = GradCAM(net.eval(), "features")
    grey = torch.ones(1, 3, 8, 8)
    assert cam(grey, target=0).eq(0).all()
    assert cam(grey, target=0, normalize="max").eq(1).all()


def test_map_of_zeros_warns():
    net = pooled()
    net.tail[1].weight.data[1] = -1
    with pytest.warns(CamlibWarning, match="a map at layer 'features' is zero everywhere") as met:
        assert GradCAM(net)(images(), target=1).eq(0).all()
    assert met[0].filename == __file__


def test_values_that_are_not_finite():
    batch = images()
    batch[1, 0, 3, 3] = torch.nan
    with pytest.raises(
        InputError, match="the map at layer 'features' is not finite: the inputs or"
    ):
        GradCAM(pooled(), "features")(batch, target=1)


def test_blur_keeps_the_mean_of_flat_images_and_smooths_others():
    flat = torch.full((1, 3, 16, 20), 0.3)
    torch.testing.assert_close(maps.blur(flat), flat)
    rough = random(2, 3, 16, 20)
    assert maps.blur(rough).std() < rough.std() / 3
    assert maps.blur(random(2, 3, 9)).shape == (2, 3, 9)


def test_centred_map_keeps_its_sign_around_one_half():
    signed = torch.tensor([[[[1.0, -4.0, 0.0, 2.0]], [[0.0, 3.0, 1.5, 0.0]]]])
    expected = torch.tensor([[[[0.625, 0.0, 0.5, 0.75]], [[0.5, 1.0, 0.75, 0.5]]]])
    assert torch.equal(maps.normalize(signed, "centered"), expected)
    assert maps.normalize(torch.zeros(1, 1, 2, 2), "centered").eq(0.5).all()
    net, batch = pooled(), images()
    found = GradCAM(net, "features", normalize="centered", relu=False)(batch)
    raw = GradCAM(net, "features", normalize=False, relu=False)(batch)
    torch.testing.assert_close(found, maps.normalize(raw[:, None], "centered")[:, 0])
