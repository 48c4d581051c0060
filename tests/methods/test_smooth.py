"""Any method, averaged over noise or over augmented views."""

from __future__ import annotations

import pytest
import torch
from nets import (
    convolutional,
    dense,
    images,
    linear_tail,
    padding,
    pooled,
    rectifying,
    spread,
)
from torch import nn

from camlib import (
    CAM,
    RISE,
    AblationCAM,
    Augmented,
    Deconvnet,
    FullGrad,
    GradCAM,
    GradCAMPlusPlus,
    GuidedBackprop,
    GuidedGradCAM,
    HiResCAM,
    InputError,
    InputXGradient,
    IntegratedGradCAM,
    LayerCAM,
    Occlusion,
    Saliency,
    ScoreCAM,
    Smooth,
    SmoothFullGrad,
    SmoothGrad,
    SmoothGradCAMPlusPlus,
)
from camlib.targets import Contrast, Regression, Segment
from camlib.targets.base import Target

pytestmark = pytest.mark.filterwarnings("ignore:a map at layer:camlib.CamlibWarning")

NOISE = {"samples": 5, "sigma": 0.3, "seed": 2}
LAYERED = [
    GradCAM,
    GradCAMPlusPlus,
    LayerCAM,
    ScoreCAM,
    AblationCAM,
    SmoothGradCAMPlusPlus,
    IntegratedGradCAM,
]
WITHOUT = [
    RISE,
    Occlusion,
    Saliency,
    InputXGradient,
    GuidedBackprop,
    Deconvnet,
    FullGrad,
    SmoothGrad,
]


def built(kind, net):
    options = {"masks": 20} if kind is RISE else {}
    return kind(net, *(["features"] if kind in LAYERED else []), **options)


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", [*LAYERED, *WITHOUT])
def test_without_noise_smooth_is_the_method(kind):
    net, batch = rectifying().double(), images().double()
    method = built(kind, net)
    smooth = Smooth(method, samples=3, sigma=0)
    for target in (None, [[0, 1], [2, 3]]):
        found, expected = smooth.explain(batch, target), method.explain(batch, target)
        assert_same(found.heatmap, expected.heatmap)
        assert_same(found.map, expected.map)
        assert torch.equal(found.score, expected.score)
        assert torch.equal(found.target, expected.target)
        assert torch.equal(found.output, expected.output)
        assert (found.layers, found.size, found.replayed) == (
            expected.layers,
            expected.size,
            expected.replayed,
        )
        assert found.method == f"Smooth({kind.__name__})"
        assert repr(smooth) == f"Smooth({method!r})"


@pytest.mark.parametrize("kind", [*LAYERED, *WITHOUT])
def test_draws_do_not_depend_on_the_batch(kind):
    net, batch = rectifying().double(), images(3).double()
    method = built(kind, net)
    targets = [[0, 1], [2, 3], [1, 1]]
    expected = Smooth(method, **NOISE)(batch, targets)
    for batch_size in (1, 4, 100):
        assert_same(Smooth(method, batch_size=batch_size, **NOISE)(batch, targets), expected)
    for n in range(3):
        alone = Smooth(method, **NOISE)(batch[n : n + 1], targets[n : n + 1])
        assert_same(alone[0], expected[n])
    other = Smooth(method, **{**NOISE, "seed": 3})(batch, targets)
    assert (other - expected).abs().max() > 1e-4 * expected.abs().max()


def test_smooth_saliency_is_smooth_grad():
    net, batch = convolutional(), images()
    found = Smooth(Saliency(net), **NOISE)(batch, [[0, 1]])
    assert torch.equal(found, SmoothGrad(net, **NOISE)(batch, [[0, 1]]))
    absolute = Smooth(Saliency(net, reduce="max"), **NOISE)(batch, [[0, 1]])
    torch.testing.assert_close(absolute, found.abs().amax(2))  # reduced after the average
    assert SmoothGrad(net).explain(batch).method == "SmoothGrad"
    full = SmoothFullGrad(rectifying(), **NOISE)
    assert torch.equal(full(batch), Smooth(FullGrad(rectifying()), **NOISE)(batch))
    assert full.explain(batch).method == "SmoothFullGrad"


def test_signed_maps_are_averaged_before_the_relu():
    net, batch = convolutional().double(), images().double()
    method = HiResCAM(net, "features")
    signed = Smooth(method, **NOISE).explain(batch, 1, relu=False).map
    found = Smooth(method, **NOISE).explain(batch, 1).map
    assert_same(found, signed.relu())
    noise = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    spread_ = 0.3 * (batch.amax((1, 2, 3)) - batch.amin((1, 2, 3)))[:, None, None, None]
    late = sum(method.explain(batch + spread_ * each, 1).map for each in noise) / 5
    assert (late - found).abs().max() > 0.01 * found.max()


def test_smooth_of_a_linear_model_is_the_map_of_the_mean_input():
    net, batch = linear_tail().double(), images().double()
    noise = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    spread_ = 0.3 * (batch.amax((1, 2, 3)) - batch.amin((1, 2, 3)))
    mean = batch + spread_[:, None, None, None] * noise.mean(0)
    method = HiResCAM(net, "features", relu=False, normalize=False)
    assert_same(Smooth(method, **NOISE)(batch, 1), method(mean, 1))
    assert_same(Smooth(Saliency(net), **NOISE)(batch, 1), Saliency(net)(batch, 1))


FAR = images(4, seed=5) * 4


@pytest.mark.parametrize("kind", [*LAYERED, *WITHOUT])
def test_class_is_that_of_the_clean_input(kind):
    net, batch = rectifying(), images(4)
    method = Smooth(built(kind, net), samples=3, sigma=3)
    seen = method.explain(batch)
    assert torch.equal(seen.target, net(batch).argmax(1))
    torch.testing.assert_close(seen.heatmap, method(batch, net(batch).argmax(1)))


def test_options_of_the_method_are_kept():
    net, batch = pooled(), images()
    method = GradCAM(net, "features", relu=False, resize=False, normalize=False)
    found = Smooth(method, **NOISE)(batch, 1)
    assert found.shape == (2, 4, 4)
    assert (found < 0).any()
    assert Smooth(method, **NOISE)(batch, 1, relu=True, resize=True, normalize="max").amax() == 1
    with pytest.raises(InputError, match="normalize='l2' is not known"):
        Smooth(method)(batch, normalize="l2")
    with pytest.raises(
        InputError,
        match="Saliency returns attributions as they are and takes no relu=, resize=; leave it out",
    ):
        Smooth(Saliency(net))(batch, relu=True, resize=False)


def test_several_layers_and_classes():
    net, batch = convolutional().double(), images().double()
    layers = ["features.2", "features"]
    for wrap in (lambda m: Smooth(m, **NOISE), Augmented):
        found = wrap(HiResCAM(net, layers, fuse=None)).explain(batch, [[0, 1, 2]])
        assert found.heatmap.shape == (2, 3, 2, 8, 8)
        assert found.layers == tuple(layers)
        for index, layer in enumerate(layers):
            alone = wrap(HiResCAM(net, layer)).explain(batch, [[0, 1, 2]])
            assert_same(found.heatmap[:, :, index], alone.heatmap)
            assert_same(found.maps[index], alone.map)
        fused = wrap(HiResCAM(net, layers, fuse="geometric"))(batch, 1)
        assert fused.shape == (2, 8, 8)


def test_layer_is_chosen_once_on_the_clean_input():
    net, batch = rectifying(), images()
    found = Smooth(GradCAM(net), **NOISE).explain(batch, 1)
    named = Smooth(GradCAM(net, found.layers[0]), **NOISE).explain(batch, 1)
    assert torch.equal(found.heatmap, named.heatmap)


def test_resolved_targets_are_not_resolved_again():
    net, batch = convolutional(), images()
    for target in (Contrast([[0, 1], [2, 3]]), Contrast(nearest=2)):
        found = Smooth(GradCAM(net, "features"), samples=3, sigma=0)(batch, target)
        torch.testing.assert_close(found, GradCAM(net, "features")(batch, target))

    class Counting(Target):
        settings = 0

        def resolve(self, output, count, size):
            Counting.settings += 1
            return self

        def __call__(self, output):
            return output[:, 0]

    Smooth(GradCAM(net, "features"), samples=40)(batch, Counting())
    assert Counting.settings == 1


def test_signed_target_keeps_its_sign():
    net, batch = pooled(), images()
    smooth = Smooth(GradCAM(net, "features"), samples=3, sigma=0)
    expected = GradCAM(net, "features")(batch, Regression(1))
    torch.testing.assert_close(smooth(batch, Regression(1)), expected)
    assert (expected < 0.5).any()


@pytest.mark.parametrize("kind", [GradCAM, LayerCAM, AblationCAM, ScoreCAM])
@pytest.mark.parametrize("wrap", [Smooth, Augmented])
def test_average_can_stand_in_a_loss(kind, wrap):
    net = convolutional().double()
    options = {"samples": 3} if wrap is Smooth else {"scales": (1, 1.5)}
    method = wrap(kind(net, "features", differentiable=True), **options)
    batch = images().double().requires_grad_()

    def loss(pixels):
        return (method(pixels, 2, normalize=False, relu=False) ** 2).sum()

    if kind in (AblationCAM, ScoreCAM):  # their weights are constants
        loss(batch).backward()
        assert batch.grad.isfinite().all()
        assert batch.grad.any()
        return
    [gradient] = torch.autograd.grad(loss(batch), batch)
    step = torch.zeros_like(batch)
    step[1, 2, 3, 4] = 1e-6
    with torch.no_grad():
        numeric = (loss(batch + step) - loss(batch - step)) / 2e-6
    torch.testing.assert_close(gradient[1, 2, 3, 4], numeric, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", WITHOUT)
def test_attributions_carry_no_graph(kind):
    batch = images().requires_grad_()
    assert not Smooth(built(kind, rectifying()), samples=3)(batch, 1).requires_grad


def mirrored():
    """A network that answers alike for an image and its mirror image, place by place."""
    net = convolutional()
    net.features[3] = nn.Conv2d(5, 6, 3, padding=1)
    spread(net)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.data
            module.weight.data = (weight + weight.flip(-1)) / 2
    return net


@pytest.mark.parametrize("kind", [GradCAM, HiResCAM, GradCAMPlusPlus, LayerCAM, ScoreCAM])
def test_flips_of_a_network_that_is_mirrored_change_nothing(kind):
    net, batch = mirrored().double(), images().double()
    method = kind(net, "features", relu=False, normalize=False)
    torch.testing.assert_close(method(batch.flip(-1), 1), method(batch, 1).flip(-1))
    torch.testing.assert_close(Augmented(method)(batch, 1), method(batch, 1))
    plain = kind(convolutional().double(), "features", relu=False, normalize=False)
    assert (Augmented(plain)(batch, 1) - plain(batch, 1)).abs().max() > 1e-3


def test_one_view_is_the_method():
    net, batch = convolutional().double(), images().double()
    method = GradCAM(net, "features")
    found = Augmented(method, flips=False).explain(batch, [[0, 1]])
    assert_same(found.heatmap, method(batch, [[0, 1]]))
    assert found.map.shape == (2, 2, 8, 8)
    assert found.method == "Augmented(GradCAM)"
    assert Augmented(Smooth(method)).explain(batch).method == "Augmented(Smooth(GradCAM))"


def test_wrappers_within_wrappers():
    net, batch = convolutional().double(), images().double()
    method = GradCAM(net, "features", normalize=False, relu=False)
    still = Smooth(method, samples=2, sigma=0)
    assert_same(Augmented(still)(batch, 1), Augmented(method)(batch, 1))
    assert_same(
        Smooth(Augmented(method), samples=2, sigma=0)(batch, 1), Augmented(method)(batch, 1)
    )


def test_views_see_the_size_they_should():
    sizes = []
    net = pooled()
    GradCAM(net, "features")(images())  # compares a sample alone with the batch, once
    net.register_forward_pre_hook(lambda _module, given: sizes.append(tuple(given[0].shape[2:])))
    Augmented(GradCAM(net, "features"), scales=(1.0, 1.5, 0.4))(images(2, 10, 6), 1)
    clean, *views = sizes
    assert clean == (10, 6)
    assert views == [(10, 6)] * 2 + [(15, 9)] * 2 + [(4, 2)] * 2


def test_volumes_and_series_are_flipped_and_scaled():
    for axes, size in ((1, (12,)), (3, (5, 6, 8))):
        net, batch = pooled(axes=axes), images(2, *size)
        GradCAM(net, "features")(batch)  # compares a sample alone with the batch, once
        sizes = []
        net.register_forward_pre_hook(lambda _m, g, s=sizes: s.append(tuple(g[0].shape[2:])))
        found = Augmented(GradCAM(net, "features"), scales=(2,))(batch, 1)
        assert found.shape == (2, *size)
        assert sizes[1] == ((24,) if axes == 1 else (5, 12, 16))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda m: Smooth(m, samples=2, sigma=0),
        lambda m: Augmented(m, flips=False),
        lambda m: Augmented(Smooth(m, samples=2, sigma=0), flips=False),
        lambda m: Smooth(Augmented(m, flips=False), samples=2, sigma=0),
        lambda m: Augmented(Augmented(m, flips=False), flips=False),
    ],
)
def test_padding_is_cut_off_once(wrap):
    net, batch = padding(pooled()).double(), images(2, 12, 10).double()
    method = HiResCAM(net, "net.features.2", relu=False)
    torch.testing.assert_close(wrap(method)(batch, 1), method(batch, 1))


def test_targets_that_ask_about_places():
    net, batch = dense(), images()
    mask = torch.zeros(8, 8)
    mask[:, :3] = 1
    method = GradCAM(net, "features")
    still = Smooth(method, samples=2, sigma=0)(batch, Segment([[0, 1]], mask))
    torch.testing.assert_close(still, method(batch, Segment([[0, 1]], mask)))


def test_what_cannot_be_averaged():
    net = pooled()
    for given, name in (
        (GradCAM, "GradCAM"),
        (net, "Net"),
        (GuidedGradCAM(net), "GuidedGradCAM"),
        (None, "NoneType"),
    ):
        for wrap in (Smooth, Augmented):
            with pytest.raises(
                InputError,
                match=f"{wrap.__name__} averages maps or attributions, not {name}; pass a method "
                r"that is built, such as GradCAM\(model\), and multiply the averages",
            ):
                wrap(given)
    for inner in (Saliency(net), FullGrad(net), Smooth(Saliency(net))):
        with pytest.raises(
            InputError, match=r"Augmented averages maps, and (Saliency|FullGrad) returns attrib"
        ):
            Augmented(inner)
    with pytest.raises(
        InputError,
        match="Deconvnet from layer 'features' starts at one unit of one call and cannot be "
        "averaged over inputs; build it without a layer, for a class",
    ):
        Smooth(Deconvnet(net, "features"))(images())


def test_bad_options():
    method = GradCAM(pooled())
    for name in ("samples", "batch_size"):
        with pytest.raises(
            InputError, match=f"{name}=0 is out of range; expected an integer of 1 or more"
        ):
            Smooth(method, **{name: 0})
    for sigma in (-0.1, float("nan"), "a"):
        with pytest.raises(
            InputError,
            match=f"sigma={sigma!r} is (out of range|not finite|of type str); expected a number of",
        ):
            Smooth(method, sigma=sigma)
    for scales in ((), (1, 0), (-1.0,), ("a",)):
        with pytest.raises(
            InputError, match=r"scales=\(.*\) is (out of range|empty|of type tuple); expected a seq"
        ):
            Augmented(method, scales=scales)


def test_cam_can_be_averaged_too():
    net, batch = pooled().double(), images().double()
    smooth = Smooth(CAM(net, "features"), samples=2, sigma=0)
    assert_same(smooth(batch), CAM(net, "features")(batch))
