"""Every method equals the loops of `reference.py`, on networks with in-place layers and without."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from nets import by_hand, convolutional, images, pooled, rectifying
from reference import (
    REFERENCES,
    ablation_cam,
    cam,
    cameras,
    expected_gradients,
    full_grad,
    full_grad_picture,
    fused_layer_cam,
    gradient_at,
    integrated_grad_cam,
    integrated_gradients,
    recipro_cam,
    refined,
    score_cam,
    shapley_cam,
    smooth_grad,
    smooth_grad_cam_plus_plus,
)

import camlib
from camlib import (
    CAM,
    CAMERAS,
    ISCAM,
    SSCAM,
    AblationCAM,
    Augmented,
    ElementWiseGradCAM,
    ExpectedGradients,
    FullGrad,
    HiResCAM,
    InputXGradient,
    IntegratedGradCAM,
    IntegratedGradients,
    LayerCAM,
    ReciproCAM,
    ScoreCAM,
    ShapleyCAM,
    Smooth,
    SmoothFullGrad,
    SmoothGrad,
    SmoothGradCAMPlusPlus,
)
from camlib.errors import OptionError
from camlib.methods import multiscale


@pytest.mark.filterwarnings("ignore:a map at layer:camlib.CamlibWarning")
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("layer", [3, 4])
@pytest.mark.parametrize("build", [pooled, convolutional])
@pytest.mark.parametrize(
    ("name", "options", "function"), REFERENCES, ids=lambda part: getattr(part, "__name__", None)
)
def test_gradient_methods(name, options, function, build, layer, in_place):
    net = build(in_place=in_place).double()
    batch = images(3).double()
    method = getattr(camlib, name)(net, f"features.{layer}", **options)
    found = method.explain(batch, target=[2, 0, 1]).map
    expected = [
        function(*(found[0] for found in by_hand(net, image[None], layer, target)))
        for image, target in zip(batch, [2, 0, 1], strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("target", [[2, 0], [[2, 1], [0, 3]]])
def test_shapley_cam(target):
    net = convolutional().double()
    batch = images().double()
    found = ShapleyCAM(net, "features").explain(batch, target=target, relu=False).map
    expected = [
        shapley_cam(lambda a, c=c: net.tail(a[None])[0, c], activation)
        for activation, classes in zip(net.features(batch).detach(), target, strict=True)
        for c in ([classes] if isinstance(classes, int) else classes)
    ]
    expected = torch.stack(expected).reshape(found.shape).detach()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_cam():
    net = pooled().double()
    batch = images().double()
    found = CAM(net, "features").explain(batch, target=[3, 1]).map
    weight = net.tail[1].weight
    expected = [cam(net.features(batch)[n], weight[target]) for n, target in enumerate([3, 1])]
    torch.testing.assert_close(found, torch.stack(expected).detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "paper"),
    [
        ({}, {}),
        ({"score": "logit"}, {"probability": False}),
        ({"baseline": "zero"}, {"baseline": torch.zeros(3, 8, 8).double()}),
        (
            {"score": "logit", "channel_softmax": True},
            {"probability": False, "channel_softmax": True},
        ),
        ({"channel_softmax": True}, {"channel_softmax": True}),
    ],
)
def test_score_cam(options, paper):
    net = convolutional().double()
    net.features[3].weight.data[1] = 0  # a constant channel, not zero
    net.features[3].bias.data[1] = 0.7
    batch = images().double()
    found = (
        ScoreCAM(net, "features", batch_size=4, **options).explain(batch, target=2, relu=False).map
    )
    activation = net.features(batch).detach()
    assert (activation[:, 1] == 0.7).all()
    expected = [
        score_cam(net, image, maps, 2, **paper)
        for image, maps in zip(batch, activation, strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-10, atol=1e-12)


def test_fusion_of_layer_cam():
    net = convolutional().double()
    batch = images().double()
    layers = ["features.2", "features"]
    found = LayerCAM(net, layers).explain(batch, target=1)
    each = [LayerCAM(net, layer).explain(batch, target=1).map for layer in layers]
    expected = torch.stack([fused_layer_cam([m[n] for m in each], [8, 8]) for n in range(2)])
    low, high = expected.amin((1, 2), keepdim=True), expected.amax((1, 2), keepdim=True)
    torch.testing.assert_close(found.heatmap, (expected - low) / (high - low))
    for one, alone in zip(found.maps, each, strict=True):
        torch.testing.assert_close(one, alone)


@pytest.mark.parametrize(
    ("kind", "options", "varied"),
    [
        (SSCAM, {"samples": 5, "sigma": 0.5, "seed": 3}, "noise"),
        (ISCAM, {"samples": 4}, [0.25, 0.5, 0.75, 1.0]),
        (ISCAM, {"samples": 4, "cumulative": True}, [0.25, 0.75, 1.5, 2.5]),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 7, None])
def test_score_cam_with_masks_varied(kind, options, varied, batch_size):
    net, batch = convolutional().double(), images().double()
    method = kind(net, "features", batch_size=batch_size, **options)
    found = method.explain(batch, target=2, relu=False).map
    if varied == "noise":
        noise = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(3)).double()
        changes = [lambda mask, e=e: mask + 0.5 * e[0] for e in noise]
    else:
        changes = [lambda mask, factor=factor: factor * mask for factor in varied]
    expected = [
        score_cam(net, image, maps, 2, varied=changes)
        for image, maps in zip(batch, net.features(batch).detach(), strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 7, None])
def test_ss_cam_as_in_the_authors_code(batch_size):
    net, batch = convolutional().double(), 3 * images().double()
    method = SSCAM(net, "features", form="code", samples=4, seed=3, batch_size=batch_size)
    noise = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(3)).double()
    expected = torch.zeros(2, *net.features(batch).shape[2:]).double()
    for n, image in enumerate(batch):
        for channel in net.features(image[None])[0].detach():
            if channel.max() == channel.min():
                continue
            mask = torch.nn.functional.interpolate(channel[None, None], (8, 8), mode="bilinear")
            deviation = (2 / (mask.max() - mask.min())) ** 2
            answers = [net(image * (mask + deviation * e)).softmax(1)[0, 2] for e in noise]
            expected[n] += torch.stack(answers).mean().detach() * channel
    found = method.explain(batch, target=2, relu=False).map
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_channels_that_differ_in_scale_alone_are_not_one_mask_in_the_authors_code():
    net, batch = convolutional().double(), images().double()
    last = net.features[3]
    last.weight.data[1], last.bias.data[1] = 2 * last.weight.data[0], 2 * last.bias.data[0]
    assert torch.equal(net.features[:4](batch)[:, 1], 2 * net.features[:4](batch)[:, 0])
    SSCAM(net, "features.3", samples=1).explain(batch, target=2, relu=False)  # finds the layers
    pictures = Counter()
    for form in ("paper", "code"):
        hook = net.register_forward_pre_hook(
            lambda _m, args, form=form: pictures.update({form: len(args[0])})
        )
        SSCAM(net, "features.3", form=form, samples=1).explain(batch, target=2, relu=False)
        hook.remove()
    assert pictures["code"] == pictures["paper"] + len(batch)


def test_sigma_does_not_go_with_the_authors_form_of_ss_cam():
    with pytest.raises(OptionError, match="leave out sigma"):
        SSCAM(convolutional(), "features", form="code", sigma=1.0)


@pytest.mark.parametrize("mixer", ["geometric", "log_exp", "exp_mean"])
def test_mixers_of_refine_cam(mixer):
    net, batch = convolutional().double(), images().double()
    layers = ["features.2", "features", "tail.4"]
    found = ElementWiseGradCAM(net, layers, fuse=mixer).explain(batch, target=1)
    scaled = [
        torch.nn.functional.interpolate(
            (m / m.amax((1, 2), keepdim=True))[:, None], (8, 8), mode="bilinear"
        )[:, 0]
        for m in found.maps
    ]
    expected = [refined([m[n] for m in scaled], mixer) for n in range(2)]
    torch.testing.assert_close(found.map, torch.stack(expected))
    assert found.map.eq(0).any()


TARGETS = [[2, 0], [1, 3]]


def each(function, net, *given):
    """`function` of every image and class, ``(N, K, C, H, W)``."""
    batch = images().double()
    return torch.stack(
        [
            torch.stack([function(net, image, c, *given) for c in classes])
            for image, classes in zip(batch, TARGETS, strict=True)
        ]
    )


def found(kind, net, **options):
    return kind(net, **options)(images().double(), TARGETS)


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_input_x_gradient():
    net, batch = convolutional().double(), images().double()
    assert_same(found(InputXGradient, net), batch[:, None] * each(gradient_at, net))


@pytest.mark.filterwarnings("ignore:integrated gradients with:camlib.CamlibWarning")
@pytest.mark.parametrize("steps", [1, 2, 7, 30])
@pytest.mark.parametrize("baseline", [0.0, -0.7, torch.linspace(0, 1, 3)[:, None, None]])
def test_integrated_gradients(steps, baseline):
    net = convolutional().double()
    start = torch.as_tensor(baseline).double().expand(3, 8, 8)
    assert_same(
        found(IntegratedGradients, net, steps=steps, baseline=baseline, batch_size=5),
        each(integrated_gradients, net, start, steps),
    )


def test_integrated_gradients_with_a_baseline_for_each_image():
    net, starts = convolutional().double(), images(seed=5).double()
    method = IntegratedGradients(net, baseline=starts, steps=40)
    expected = [
        integrated_gradients(net, image, 1, start, 40)
        for image, start in zip(images().double(), starts, strict=True)
    ]
    assert_same(method(images().double(), 1), torch.stack(expected))


def test_expected_gradients():
    net, baselines = convolutional().double(), images(4, seed=5).double()
    generator = torch.Generator().manual_seed(3)
    chosen = torch.randint(4, (9,), generator=generator).tolist()
    draws = list(zip(chosen, torch.rand(9, generator=generator).tolist(), strict=True))
    options = {"baselines": baselines, "samples": 9, "seed": 3, "batch_size": 4}
    assert_same(
        found(ExpectedGradients, net, **options), each(expected_gradients, net, baselines, draws)
    )


def test_smooth_grad():
    net = convolutional().double()
    noise = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(4)).double()
    options = {"sigma": 0.2, "samples": 6, "seed": 4, "batch_size": 5}
    assert_same(found(SmoothGrad, net, **options), each(smooth_grad, net, 0.2, noise))


def noisy(image, sigma, count, seed):
    """`image` with the noise that all ensembles draw."""
    noise = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)).double()
    return [image + sigma * (image.max() - image.min()) * each for each in noise]


NOISE = {"sigma": 0.2, "samples": 6, "seed": 4, "batch_size": 5}


def signed(method):
    return method.explain(images().double(), TARGETS, relu=False).map


def hires(net, image, target):
    """HiResCAM before its ReLU."""
    activation, gradient = by_hand(net, image[None], 4, target)
    return (activation * gradient)[0].sum(0)


def test_smooth_map():
    net = convolutional().double()

    def smooth(net, image, target):
        found = [hires(net, changed, target) for changed in noisy(image, 0.2, 6, 4)]
        return sum(found) / len(found)

    assert_same(signed(Smooth(HiResCAM(net, "features"), **NOISE)), each(smooth, net))


def test_smooth_full_grad():
    net = rectifying().double()
    modules = [*net.features, *net.tail]

    def smooth(net, image, target):
        draws = [full_grad(modules, changed, target)[0] for changed in noisy(image, 0.2, 6, 4)]
        means = [sum(parts) / len(parts) for parts in zip(*draws, strict=True)]
        return full_grad_picture(means[:-2], image)  # the linear layers have no places

    found = SmoothFullGrad(net, **NOISE).explain(images().double(), TARGETS)
    assert_same(found.map, each(smooth, net))
    low, high = found.map.amin((2, 3), keepdim=True), found.map.amax((2, 3), keepdim=True)
    assert_same(found.heatmap, (found.map - low) / (high - low))


@pytest.mark.parametrize("official", [False, True])
def test_smooth_grad_cam_plus_plus(official):
    net = convolutional().double()

    def smooth(net, image, target):
        activation, _ = by_hand(net, image[None], 4, target)
        gradients = [by_hand(net, c[None], 4, target)[1][0] for c in noisy(image, 0.2, 6, 4)]
        return smooth_grad_cam_plus_plus(activation[0], gradients, official=official)

    method = SmoothGradCAMPlusPlus(net, "features", normalize_alpha=official, **NOISE)
    assert_same(signed(method), each(smooth, net))


@pytest.mark.parametrize("baseline", [0.0, torch.linspace(0, 1, 3)[:, None, None]])
def test_integrated_grad_cam(baseline):
    net = convolutional().double()
    start = torch.as_tensor(baseline).double().expand(3, 8, 8)

    def integrated(net, image, target):
        return integrated_grad_cam(net.features, net.tail, image, target, start, 7)

    method = IntegratedGradCAM(net, "features", baseline=baseline, steps=7, batch_size=5)
    assert_same(signed(method), each(integrated, net))


def test_integrated_grad_cam_with_a_baseline_for_each_image():
    net, starts = convolutional().double(), images(seed=5).double()
    method = IntegratedGradCAM(net, "features", baseline=starts, steps=6)
    expected = [
        integrated_grad_cam(net.features, net.tail, image, 1, start, 6)
        for image, start in zip(images().double(), starts, strict=True)
    ]
    assert_same(method.explain(images().double(), 1).map, torch.stack(expected))


def test_cameras(monkeypatch):
    monkeypatch.setattr(multiscale, "_CHANNELS", 4)  # of 6, so that chunks are summed
    net = convolutional().double()
    sizes = [(8, 8), (12, 12), (18, 18)]

    def fused(net, image, target):
        return cameras(net.features, net.tail, image, target, sizes)

    method = CAMERAS(net, "features", scales=(1, 1.5, 2.3))
    assert_same(signed(method), each(fused, net))


def test_augmented():
    net = convolutional().double()

    def large(map_):
        return torch.nn.functional.interpolate(map_[None, None], (8, 8), mode="bilinear")[0, 0]

    def augmented(net, image, target):
        bigger = torch.nn.functional.interpolate(image[None], (10, 10), mode="bilinear")[0]
        found = []
        for each_ in (image, bigger):
            found.append(large(hires(net, each_, target)))
            found.append(large(hires(net, each_.flip(-1), target)).flip(-1))
        return sum(found) / 4

    method = Augmented(HiResCAM(net, "features"), scales=(1.0, 1.25))
    assert_same(signed(method), each(augmented, net))


@pytest.mark.filterwarnings("ignore:FullGrad does not:camlib.CamlibWarning")
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("build", [pooled, convolutional, rectifying])
def test_full_grad(build, in_place):
    net = (build() if build is rectifying else build(in_place=in_place)).double()
    modules = [*net.features, *net.tail]
    seen = FullGrad(net).explain(images().double(), TARGETS)
    terms = FullGrad(net).terms(images().double(), TARGETS)
    for n, (image, classes) in enumerate(zip(images().double(), TARGETS, strict=True)):
        for k, c in enumerate(classes):
            expected, picture = full_grad(modules, image, c)
            assert_same(seen.map[n, k], picture)
            low, high = picture.min(), picture.max()
            assert_same(seen.heatmap[n, k], (picture - low) / (high - low))
            for one, other in zip(terms, expected, strict=True):
                assert_same(one[n, k], other)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("layer", [3, 4])
@pytest.mark.parametrize("build", [pooled, convolutional])
@pytest.mark.parametrize(
    ("kind", "options", "function", "paper"),
    [
        (AblationCAM, {}, ablation_cam, {}),
        (ReciproCAM, {}, recipro_cam, {}),
        (ReciproCAM, {"score": "logit"}, recipro_cam, {"probability": False}),
        (ReciproCAM, {"gaussian": True}, recipro_cam, {"gaussian": True}),
    ],
)
def test_changed_activations(kind, options, function, paper, build, layer, in_place):
    net = build(in_place=in_place).double()
    batch = images(3).double()
    method = kind(net, f"features.{layer}", batch_size=4, **options)
    found = method.explain(batch, target=[2, 0, 1], relu=False).map

    def tail(activation):
        for module in [*net.features[layer + 1 :], *net.tail]:
            activation = module(activation.clone())
        return activation

    for each, image, target in zip(found, batch, [2, 0, 1], strict=True):
        activation, _ = by_hand(net, image[None], layer, target)
        expected = function(tail, activation[0], target, **paper)
        torch.testing.assert_close(each, expected, rtol=1e-9, atol=1e-12)
