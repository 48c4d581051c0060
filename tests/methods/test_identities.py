"""Identities that hold exactly, in float64, and inequalities that must not vanish."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
import torchvision
from nets import Net, Pooling, convolutional, flat, images, pooled, rectifying, spread
from reference import shapley_values
from torch import nn
from torch.nn import functional as F

from camlib import (
    CAM,
    CAMERAS,
    FEM,
    ISCAM,
    KPCACAM,
    LIFTCAM,
    RISE,
    SSCAM,
    AblationCAM,
    CenterGaussian,
    EigenCAM,
    EigenGradCAM,
    ElementWiseGradCAM,
    ExpectedGradients,
    FullGrad,
    GradCAM,
    GradCAMPlusPlus,
    GuidedBackprop,
    GuidedGradCAM,
    HiResCAM,
    InputXGradient,
    IntegratedGradCAM,
    IntegratedGradients,
    LaFAM,
    LayerCAM,
    Occlusion,
    RandomCAM,
    ReciproCAM,
    Saliency,
    ScoreCAM,
    SegEigenCAM,
    ShapleyCAM,
    SmoothGrad,
    SmoothGradCAMPlusPlus,
    XGradCAM,
)

pytestmark = pytest.mark.filterwarnings("ignore:a map at layer:camlib.CamlibWarning")

AGNOSTIC = [CenterGaussian, EigenCAM, FEM, KPCACAM, LaFAM, RandomCAM]
GRADIENT = [
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    XGradCAM,
    ElementWiseGradCAM,
    LayerCAM,
    LIFTCAM,
    ShapleyCAM,
]
LINEAR = [GradCAM, HiResCAM, XGradCAM]
SEVERAL = [CAMERAS, IntegratedGradCAM, SmoothGradCAMPlusPlus]  # of gradients at several inputs
CELLS = 16  # positions of the 4 x 4 grid of `pooled` and `convolutional`


def signed(kind, net, target, layer="features", batch=None, **options):
    """The map before its ReLU, at the layer's grid, of two images."""
    batch = images().double() if batch is None else batch
    return kind(net, layer, **options).explain(batch, target=target, relu=False).map


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def assert_differ(found, other, by=1e-3):
    assert (found - other).abs().max() > by * other.abs().max()


@pytest.mark.parametrize("target", range(4))
def test_on_pooling_and_linear_the_family_is_one_method(target):
    net = pooled().double()
    cam = signed(CAM, net, target)
    for kind in LINEAR:
        assert_same(signed(kind, net, target), cam / CELLS)


def test_cam_sums_to_the_output():
    net, batch = pooled().double(), images().double()
    bias = net.tail[1].bias.detach()
    assert_same(
        signed(CAM, net, [1, 2]).mean((1, 2)) + bias[[1, 2]], net(batch)[[0, 1], [1, 2]].detach()
    )
    hires = signed(HiResCAM, net, [1, 2]).sum((1, 2))
    assert_same(hires + bias[[1, 2]], net(batch)[[0, 1], [1, 2]].detach())


def test_hires_sums_to_the_output_of_one_linear_layer_and_grad_cam_does_not():
    net, batch = flat().double(), images().double()
    output = (net(batch) - net.tail[1].bias)[:, 2].detach()
    assert_same(signed(HiResCAM, net, 2).sum((1, 2)), output)
    assert_differ(signed(GradCAM, net, 2).sum((1, 2)), output)


def test_weights_of_grad_cam_plus_plus_on_pooling_and_linear():
    net, batch = pooled().double(), images().double()
    activation = net.features(batch).detach()
    gradient = net.tail[1].weight[2].detach()[:, None, None] / CELLS
    area = activation.sum((2, 3), keepdim=True)
    weights = CELLS * gradient.clamp(min=0) / (2 + gradient * area)
    assert_same(signed(GradCAMPlusPlus, net, 2), (weights * activation).sum(1))
    positive = (gradient.clamp(min=0) * activation).sum(1)
    assert_same(signed(GradCAMPlusPlus, net, 2, normalize_alpha=True), positive)


def test_denominator_of_grad_cam_plus_plus_sums_activations_alone():
    def mixed(activation, gradient):
        """The indices mixed, as in several codes: sum of A g^3 in place of g^3 sum of A."""
        axes = (2, 3)
        below = 2 * gradient**2 + (activation * gradient**3).sum(axes, keepdim=True)
        alpha = (gradient**2 / below).where(below != 0, 0)
        return (alpha * gradient.clamp(min=0)).sum(axes, keepdim=True)

    def theirs(net):
        activation = net.features(images().double()).detach().requires_grad_()
        [gradient] = torch.autograd.grad(net.tail(activation)[:, 2].sum(), activation)
        return (mixed(activation, gradient) * activation).sum(1).detach()

    assert_same(theirs(pooled().double()), signed(GradCAMPlusPlus, pooled().double(), 2))
    assert_differ(
        theirs(convolutional().double()), signed(GradCAMPlusPlus, convolutional().double(), 2)
    )


def test_grad_cam_plus_plus_does_not_underflow():
    net = pooled()
    net.tail[1].weight.data *= 1e-18
    batch = images()
    found = signed(GradCAMPlusPlus, net, 2, batch=batch)
    positive = net.tail[1].weight[2].clamp(min=0)[:, None, None] / 2
    torch.testing.assert_close(found, (positive * net.features(batch)).sum(1).detach())


def test_hires_is_not_grad_cam_before_a_convolution():
    net = convolutional().double()
    assert_differ(signed(HiResCAM, net, 1), signed(GradCAM, net, 1))


def test_xgrad_conserves_gradient_times_activation():
    net = convolutional().double()
    assert_same(signed(XGradCAM, net, 1).sum((1, 2)), signed(HiResCAM, net, 1).sum((1, 2)))


def test_element_wise_is_layer_cam_on_activations_that_are_not_negative():
    net = convolutional().double()
    assert_same(signed(ElementWiseGradCAM, net, 1), signed(LayerCAM, net, 1))
    assert_differ(*(signed(kind, net, 1, "tail.3") for kind in (ElementWiseGradCAM, LayerCAM)))


def test_layer_cam_exceeds_hires_by_what_negative_gradients_take():
    net = convolutional().double()
    assert (signed(LayerCAM, net, 1) - signed(HiResCAM, net, 1) >= 0).all()


def test_without_biases_hires_sums_to_the_output():
    net, batch = rectifying(bias=False).double(), images().double()
    assert_same(signed(HiResCAM, net, 3).sum((1, 2)), net(batch)[:, 3].detach())


def test_with_biases_hires_and_their_gradients_sum_to_the_output():
    net, batch = rectifying().double(), images(1).double()
    score = net(batch)[0, 3]
    biases = [m.bias for m in net.tail if hasattr(m, "bias")]
    gradients = torch.autograd.grad(score, biases)
    rest = sum((b * g).sum() for b, g in zip(biases, gradients, strict=True))
    found = signed(HiResCAM, net, 3, batch=batch).sum()
    assert_same(found + rest.detach(), score.detach())


def lift(net, activation, target=2):
    """The weights of LIFT-CAM at an activation ``(N, C, h, w)``."""
    activation = activation.detach().requires_grad_()
    [gradient] = torch.autograd.grad(net.tail(activation)[:, target].sum(), activation)
    return LIFTCAM(net, "features").weights(activation.detach(), gradient)[:, :, 0, 0]


def test_lift_is_what_the_score_loses_without_the_channel():
    net, batch = pooled().double(), images().double()
    activation = net.features(batch).detach()
    output = net.tail(activation)[:, 2].detach()
    found = lift(net, activation)
    for k in range(6):
        without = activation.clone()
        without[:, k] = 0
        assert_same(found[:, k], output - net.tail(without)[:, 2].detach())
    assert_same(found.sum(1) + net.tail[1].bias[2].detach(), output)


def test_lift_is_the_shapley_value_of_a_channel_behind_which_all_is_linear():
    for net in (pooled().double(), convolutional().double()):
        activation = net.features(images().double()).detach()
        expected = [
            shapley_values(lambda a, net=net: net.tail(a[None])[0, 2].detach(), each)
            for each in activation
        ]
        found = lift(net, activation)
        same = isinstance(net.tail[0], Pooling)
        (assert_same if same else assert_differ)(found, torch.stack(expected))


@pytest.mark.parametrize("target", [3, lambda out: out[:, :2]])
def test_shapley_cam_is_grad_cam_behind_layers_of_relu(target):
    net = rectifying().double()
    assert_same(signed(ShapleyCAM, net, target), signed(GradCAM, net, target))
    frozen = pooled().double().requires_grad_(False)
    assert_same(signed(ShapleyCAM, frozen, target), signed(GradCAM, frozen, target))


def test_shapley_cam_is_not_grad_cam_behind_gelu_or_for_a_curved_score():
    net = convolutional().double()
    assert_differ(signed(ShapleyCAM, net, 3), signed(GradCAM, net, 3))
    assert_differ(*(signed(kind, rectifying().double(), rest) for kind in (ShapleyCAM, GradCAM)))


def rest(output):
    """The utility of the paper of Shapley-CAM, of class 3."""
    return output[:, 3] + output.log_softmax(1)[:, 3]


@pytest.mark.parametrize("kind", [*GRADIENT, *SEVERAL])
def test_linear_in_the_score_where_the_rule_is(kind):
    net = convolutional().double()

    def contrast(output):
        return 2 * output[:, 1] - 0.5 * output[:, 3]

    found = signed(kind, net, contrast)
    expected = 2 * signed(kind, net, 1) - 0.5 * signed(kind, net, 3)
    linear = [*LINEAR, LIFTCAM, ShapleyCAM, CAMERAS]
    (assert_same if kind in linear else assert_differ)(found, expected)


@pytest.mark.parametrize("kind", [*LINEAR, LIFTCAM])
def test_probabilities_from_the_maps_of_all_classes(kind):
    net = convolutional().double()
    every = kind(net, "features").explain(images().double(), target=[[0, 1, 2, 3]], relu=False).map
    share = net(images().double()).softmax(1).detach()[..., None, None]
    mean = (share * every).sum(1)
    assert_same(
        signed(kind, net, lambda out: out.softmax(1)[:, 1]), share[:, 1] * (every[:, 1] - mean)
    )
    assert_same(signed(kind, net, lambda out: out.log_softmax(1)[:, 1]), every[:, 1] - mean)


class Scaled(nn.Module):
    def __init__(self, factors):
        super().__init__()
        self.factors = factors

    def forward(self, features):
        return features * self.factors.view(-1, *[1] * (features.ndim - 2))


def test_rescaled_channels_leave_gradient_rules_alone():
    factors = torch.tensor([0.3, 2.0, 1.0, 5.0, 0.7, 1.5]).double()
    net = convolutional().double()
    scaled = Net(
        nn.Sequential(*net.features, Scaled(factors)),
        nn.Sequential(Scaled(1 / factors), *net.tail),
    )
    perturbing = (ScoreCAM, SSCAM, ISCAM, AblationCAM, ReciproCAM)
    for kind in (*GRADIENT, *SEVERAL, EigenGradCAM, SegEigenCAM, EigenCAM, *perturbing):
        changes = kind in (LIFTCAM, EigenCAM, ScoreCAM, SSCAM, ISCAM, AblationCAM)
        (assert_differ if changes else assert_same)(signed(kind, scaled, 1), signed(kind, net, 1))


@pytest.mark.parametrize("kind", [*GRADIENT, *SEVERAL])
def test_scaled_score_keeps_the_normalised_map(kind):
    net, batch = convolutional().double(), images().double()
    found = kind(net, "features")(batch, target=lambda out: 3 * out[:, 2])
    expected = kind(net, "features")(batch, target=2)
    (assert_differ if kind in (GradCAMPlusPlus, SmoothGradCAMPlusPlus) else assert_same)(
        found, expected
    )
    assert_same(kind(net, "features")(batch, target=lambda out: out[:, 2] + 7), expected)


def with_channels(net, order):
    """`net` with the channels of its features reordered, or repeated and their share split."""
    twin = copy.deepcopy(net)
    last, first = net.features[3], net.tail[0]
    share = torch.bincount(order)[order][None, :, None, None]
    twin.features[3] = nn.Conv2d(5, len(order), 3, stride=2, padding=1).double()
    twin.features[3].weight.data = last.weight.data[order]
    twin.features[3].bias.data = last.bias.data[order]
    twin.tail[0] = nn.Conv2d(len(order), 7, 3, padding=1).double()
    twin.tail[0].weight.data = first.weight.data[:, order] / share
    twin.tail[0].bias.data = first.bias.data
    return twin


@pytest.mark.parametrize(
    "kind",
    [
        *(*GRADIENT, *SEVERAL, EigenGradCAM, SegEigenCAM, EigenCAM, KPCACAM, FEM, LaFAM),
        *(ScoreCAM, SSCAM, ISCAM, AblationCAM, ReciproCAM),
    ],
)
def test_order_of_channels_does_not_matter(kind):
    net = convolutional().double()
    twin = with_channels(net, torch.tensor([3, 1, 5, 0, 2, 4]))
    assert_same(signed(kind, twin, 2), signed(kind, net, 2))


SPLIT = [GradCAM, HiResCAM, LayerCAM, LIFTCAM, ShapleyCAM, CAMERAS, IntegratedGradCAM]


@pytest.mark.parametrize("kind", [*SPLIT, GradCAMPlusPlus, SmoothGradCAMPlusPlus, EigenCAM, LaFAM])
def test_channel_split_in_two(kind):
    net = convolutional().double()
    twin = with_channels(net, torch.tensor([0, 1, 2, 3, 4, 5, 5]))
    (assert_same if kind in SPLIT else assert_differ)(signed(kind, twin, 2), signed(kind, net, 2))


@pytest.mark.parametrize("kind", AGNOSTIC)
def test_maps_without_a_class_do_not_depend_on_the_target(kind):
    net, method = convolutional().double(), kind(convolutional().double(), "features")
    expected = method.explain(images().double())
    for target in (3, [1, 0], lambda out: out.softmax(1)[:, 2]):
        found = method.explain(images().double(), target)
        assert torch.equal(found.map, expected.map)
        assert torch.equal(found.heatmap, expected.heatmap)
    several = method.explain(images().double(), [[0, 3, 1]])
    assert torch.equal(several.heatmap, expected.heatmap[:, None].expand(-1, 3, -1, -1))
    assert_same(several.score, net(images().double())[:, [0, 3, 1]].detach())


@pytest.mark.parametrize("channels", [3, 40])
def test_eigen_cam_of_one_pattern_is_the_pattern(channels):
    pattern = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(0)).double()
    strength = torch.linspace(-1, 2, channels).double()
    activation = strength.view(1, -1, 1, 1) * pattern[:, None]
    found = EigenCAM(convolutional(), "features").pattern(activation)
    assert_same(found, strength.norm() * pattern)
    centred = pattern - pattern.mean((1, 2), keepdim=True)
    activation = strength.view(1, -1, 1, 1) * centred[:, None]
    found = EigenCAM(convolutional(), "features").pattern(activation)
    assert_same(found.abs(), strength.norm() * centred.abs())


@pytest.mark.parametrize(
    "shape", [(2, 30, 3, 4), (2, 5, 6, 7), (2, 9, 3, 3), (2, 4, 20), (1, 9, 2, 2, 2)]
)
def test_eigen_cam_by_the_gram_matrix_is_that_of_the_singular_values(shape):
    activation = torch.randn(shape, generator=torch.Generator().manual_seed(1)).double()
    found = EigenCAM(convolutional(), "features").pattern(activation)
    left, values, _ = torch.linalg.svd(activation.flatten(2).mT, full_matrices=False)
    expected = (left[..., 0] * values[:, :1]).reshape(found.shape)
    assert_same(found.abs(), expected.abs())
    peak = found.flatten(1).gather(1, found.abs().flatten(1).argmax(1, keepdim=True))
    assert (peak > 0).all()


@pytest.mark.parametrize("kind", [EigenCAM, KPCACAM])
def test_sign_of_a_layer_does_not_turn_its_pattern(kind):
    activation = torch.randn(3, 6, 4, 4, generator=torch.Generator().manual_seed(2)).double()
    method = kind(convolutional(), "features")
    assert_same(method.pattern(-activation), method.pattern(activation))


@pytest.mark.parametrize("kind", [*GRADIENT, IntegratedGradCAM])
def test_flipped_image_gives_the_flipped_map(kind):
    net = spread(
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), Pooling(), nn.Linear(6, 4),
        )
    ).double()  # fmt: skip
    for convolution in (net[0], net[3]):
        convolution.weight.data += convolution.weight.data.flip(3)
    batch = images().double()
    found = signed(kind, net, 2, "1", batch.flip(3))
    assert_same(found, signed(kind, net, 2, "1", batch).flip(2))


def test_guided_grad_cam_is_guided_backprop_where_grad_cam_looks():
    net, batch = convolutional().double(), images().double()
    heatmap = GradCAM(net, "features", normalize=False)(batch, target=2)
    found = GuidedGradCAM(net, "features")(batch, target=2)
    assert (heatmap == 0).any()
    assert (found[(heatmap == 0)[:, None].expand_as(found)] == 0).all()
    assert_same(found, GuidedBackprop(net)(batch, target=2) * heatmap[:, None])


def affine(net, factors, shifts):
    """The features of `net` for `ScoreCAM`, changed per channel; the tail sees them unchanged."""

    class Features(nn.Module):
        def forward(self, features):
            return features * factors + shifts

    class Undo(nn.Module):
        def forward(self, features):
            return (features - shifts) / factors

    factors, shifts = factors.view(-1, 1, 1), shifts.view(-1, 1, 1)
    return Net(nn.Sequential(*net.features, Features()), nn.Sequential(Undo(), *net.tail))


def weights_of_score_cam(net, channels, batch):
    """Weights by least squares from map and activations."""
    activation = net.features(batch).detach().flatten(2)
    found = signed(ScoreCAM, net, 2, batch=batch).flatten(1)
    return torch.linalg.lstsq(activation.mT, found[..., None]).solution[..., 0]


def test_scores_of_score_cam_do_not_depend_on_the_scale_of_a_channel():
    net, batch = convolutional().double(), images(1).double()
    net.features[4] = nn.Tanh()  # no constant channels, full rank
    changed = affine(net, torch.tensor([2, 0.5, 3, 1, 0.1, 4]).double(), torch.arange(6.0).double())
    found = weights_of_score_cam(changed, 6, batch)
    torch.testing.assert_close(found, weights_of_score_cam(net, 6, batch), rtol=1e-6, atol=1e-9)


def test_with_a_softmax_over_channels_the_baseline_is_irrelevant():
    net = convolutional().double()
    plain = signed(ScoreCAM, net, 2, channel_softmax=True)
    assert_same(signed(ScoreCAM, net, 2, channel_softmax=True, baseline="zero"), plain)
    assert_same(signed(ScoreCAM, net, 2, channel_softmax=True, baseline="blur"), plain)
    assert_differ(signed(ScoreCAM, net, 2, baseline="blur"), signed(ScoreCAM, net, 2))


def test_all_channels_are_the_most_channels():
    net = convolutional().double()
    assert_same(signed(ScoreCAM, net, 2, max_channels=6), signed(ScoreCAM, net, 2))
    assert_differ(signed(ScoreCAM, net, 2, max_channels=2), signed(ScoreCAM, net, 2))


class Unusual(nn.Module):
    """Layers called as functions, shared, transposed, without statistics learnt or weights."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular")
        self.norm = nn.BatchNorm2d(3, affine=False)
        self.up = nn.ConvTranspose2d(3, 4, 2, stride=2)
        self.head = nn.Linear(4, 4)

    def forward(self, batch):
        found = self.norm(self.shared(self.shared(batch).relu_()))
        again = F.conv2d(found, self.shared.weight, bias=self.shared.bias)
        found = again.relu() + found[:, :, 2:, 2:]
        found = F.batch_norm(self.up(found), *self.statistics, eps=0.1)
        return self.head(F.linear(found.mean((2, 3)), self.head.weight, self.head.bias).relu())

    @property
    def statistics(self):
        return torch.arange(4.0).double(), torch.arange(1.0, 5.0).double()


@pytest.mark.parametrize(
    "build",
    [
        pooled,
        rectifying,
        lambda: spread(Unusual()),
        lambda: spread(torchvision.models.resnet18(weights=None, num_classes=4)),
        lambda: spread(
            torchvision.models.googlenet(
                weights=None, aux_logits=True, init_weights=False, num_classes=4
            )
        ),
    ],
)
def test_terms_of_full_grad_sum_to_the_score(build):
    net = build().double()
    batch = images(2, 8, 8).double()
    if len(list(net.modules())) > 30:
        batch = images(2, 40, 40).double()
    output = net(batch).detach()
    for target in (1, [[0, 3, 1]]):
        terms = FullGrad(net).terms(batch, target)
        scores = output[:, 1] if target == 1 else output[:, [0, 3, 1]]
        total = sum(term.flatten(scores.ndim).sum(-1) for term in terms)
        torch.testing.assert_close(total, scores, rtol=1e-10, atol=1e-10)


def test_every_bias_is_a_term_of_full_grad():
    """Left out one by one, each is missed: convolution twice, batch norm, and so on."""
    terms = FullGrad(spread(Unusual()).double()).terms(images().double(), 1)
    assert [term.shape[1:] for term in terms] == [
        (3, 8, 8), (3, 8, 8), (3, 8, 8), (3, 8, 8), (3, 6, 6), (4, 12, 12), (4, 12, 12), (4,), (4,)
    ]  # fmt: skip
    assert all(term.any() for term in terms)


def test_terms_of_full_grad_do_not_sum_to_the_score_behind_gelu():
    net, batch = convolutional().double(), images().double()
    total = sum(term.flatten(1).sum(1) for term in FullGrad(net).terms(batch, 1))
    assert_differ(total, net(batch)[:, 1].detach())


def smooth():
    """A network without corners, on which the Gauss-Legendre rule is exact."""
    body = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Tanh())
    return spread(Net(body, nn.Sequential(Pooling(), nn.Linear(5, 4)))).double()


def test_integrated_gradients_sum_to_what_the_score_gains():
    batch, starts = images().double(), images(seed=3).double()
    net = smooth()
    found = IntegratedGradients(net, baseline=starts, steps=60)(batch, [1, 2])
    gain = (net(batch) - net(starts))[[0, 1], [1, 2]].detach()
    assert_same(found.sum((1, 2, 3)), gain)


@pytest.mark.filterwarnings("ignore:integrated gradients with:camlib.CamlibWarning")
def test_gap_of_integrated_gradients_falls_with_the_steps():
    net, batch = convolutional().double(), images(8).double()
    gain = (net(batch) - net(torch.zeros_like(batch)))[:, 1].detach()
    gaps = [
        (IntegratedGradients(net, steps=steps)(batch, 1).sum((1, 2, 3)) - gain).abs().mean()
        for steps in (4, 32, 256)
    ]
    assert gaps[1] < gaps[0] / 3
    assert gaps[2] < gaps[1] / 3
    assert gaps[2] < 5e-3 * gain.abs().mean()


@pytest.mark.parametrize("steps", [1, 3])
def test_without_biases_paths_from_zero_are_input_times_gradient(steps):
    net, batch = rectifying(bias=False).double(), images().double()
    expected = InputXGradient(net)(batch, 3)
    assert_same(expected.sum((1, 2, 3)), net(batch)[:, 3].detach())
    assert_same(IntegratedGradients(net, steps=steps)(batch, 3), expected)
    assert_same(ExpectedGradients(net, samples=steps)(batch, 3), expected)
    with_biases = rectifying().double()
    assert_differ(
        IntegratedGradients(with_biases, steps=40)(batch, 3), InputXGradient(with_biases)(batch, 3)
    )


def test_on_a_linear_model_every_attribution_is_its_weights():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4)).double()
    batch, start = images().double(), images(1, seed=3).double()
    weights = net[1].weight[2].detach().reshape(3, 8, 8)
    expected = weights * (batch - start)
    assert_same(IntegratedGradients(net, baseline=start, steps=1)(batch, 2), expected)
    assert_same(ExpectedGradients(net, baselines=start, samples=3)(batch, 2), expected)
    assert_same(SmoothGrad(net, samples=2, sigma=3)(batch, 2), weights.expand_as(batch))


def test_smooth_grad_without_noise_is_the_gradient():
    net, batch = convolutional().double(), images().double()
    expected = Saliency(net)(batch, [[1, 2]])
    assert_same(SmoothGrad(net, sigma=0, samples=3)(batch, [[1, 2]]), expected)
    assert_differ(SmoothGrad(net, sigma=0.15, samples=3)(batch, [[1, 2]]), expected)


def test_expected_gradients_are_integrated_gradients_of_the_mean_baseline():
    net, batch, baselines = smooth(), images().double(), images(3, seed=3).double()
    expected = torch.stack(
        [IntegratedGradients(net, baseline=start)(batch, 1) for start in baselines]
    ).mean(0)
    found = ExpectedGradients(net, baselines=baselines, samples=20000, batch_size=2000)(batch, 1)
    assert (found - expected).norm() < 0.02 * expected.norm()


def test_recipro_cam_of_logits_is_cam_on_pooling_and_linear():
    net = pooled().double()
    found = signed(ReciproCAM, net, 2, score="logit")
    assert_same(found, signed(CAM, net, 2) / CELLS + net.tail[1].bias[2].detach())
    batch = images().double()
    assert_same(
        ReciproCAM(net, "features", score="logit")(batch, 2), CAM(net, "features")(batch, 2)
    )
    spread_ = signed(ReciproCAM, net, 2, score="logit", gaussian=True)
    assert_same(spread_[:, 1:-1, 1:-1], found[:, 1:-1, 1:-1])  # nothing is lost over the border
    assert_differ(spread_, found)


def weights_of(kind, net, **options):
    """Weights by least squares from map and activations, of layers with full rank."""
    activation = net.features(images().double()).detach().flatten(2)
    found = signed(kind, net, 2, **options).flatten(1)
    return torch.linalg.lstsq(activation.mT, found[..., None]).solution[..., 0]


def test_weights_of_ablation_cam_on_pooling_and_linear():
    net, batch = pooled().double(), images().double()
    net.features[4] = nn.Tanh()
    mean = net.features(batch).mean((2, 3))
    expected = (net.tail[1].weight[2] * mean).detach()
    torch.testing.assert_close(weights_of(AblationCAM, net), expected, rtol=1e-6, atol=1e-9)
    assert_same(expected.sum(1) + net.tail[1].bias[2].detach(), net(batch)[:, 2].detach())


def test_weights_of_ablation_cam_are_shapley_values_on_pooling_and_linear():
    net, batch = pooled().double(), images(1).double()
    activation = net.features(batch).detach()

    def worth(players):
        kept = torch.zeros(6, 1, 1).double()
        kept[list(players)] = 1
        return net.tail(activation * kept)[0, 2].detach()

    found = torch.zeros(6).double()
    for player in range(6):
        others = [other for other in range(6) if other != player]
        for count in range(6):
            for before in itertools.combinations(others, count):
                gain = worth((*before, player)) - worth(before)
                found[player] += gain / (6 * math.comb(5, count))
    assert_same(
        (found[:, None, None] * activation[0]).sum(0), signed(AblationCAM, net, 2, batch=batch)[0]
    )


@pytest.mark.parametrize("kind", [AblationCAM, ReciproCAM])
def test_shifted_score(kind):
    net = convolutional().double()
    shift = 7 * torch.ones(4).double()
    plain = signed(kind, net, lambda out: out[:, 2])
    shifted = signed(kind, net, lambda out: out[:, 2] + shift[2])
    assert_same(shifted, plain if kind is AblationCAM else plain + 7)
    assert_same(signed(kind, net, lambda out: 3 * out[:, 2]), 3 * plain)


def uniform(value):
    """A network that gives class 1 the probability `value`, whatever it sees."""
    net = pooled().double()
    net.tail[1].weight.data.zero_()
    net.tail[1].bias.data.fill_(math.log((1 - value) / 3))
    net.tail[1].bias.data[1] = math.log(value)
    return net


def test_rise_of_a_constant_model_is_the_mean_mask():
    batch = images().double()
    found, other = (RISE(uniform(value), masks=50).explain(batch, 1).map for value in (0.4, 0.8))
    assert_same(2 * found, other)
    assert_same(found[0], found[1])
    many = RISE(uniform(0.4), masks=4000).explain(batch, 1).map
    torch.testing.assert_close(many, torch.full_like(many, 0.4), rtol=0.05, atol=0)


@pytest.mark.filterwarnings("ignore:a map of RISE:camlib.CamlibWarning")
def test_rise_that_hides_nothing_is_the_probability():
    net, batch = convolutional().double(), images().double()
    found = RISE(net, masks=3, probability=1).explain(batch, [1, 2]).map
    share = net(batch).softmax(1).detach()[[0, 1], [1, 2]]
    assert_same(found, share[:, None, None].expand_as(found))


def test_occlusion_of_everything_is_what_the_score_loses():
    net, batch = convolutional().double(), images().double()
    for value in (0.0, 1.5):
        blank = net(torch.full_like(batch, value))
        lost = (net(batch) - blank)[:, 2].detach()
        found = Occlusion(net, window=8, value=value, score="logit").explain(batch, 2).map
        assert_same(found, lost[:, None, None].expand_as(found))


def test_occlusion_of_pixels_is_weight_times_change_in_a_linear_model():
    net = spread(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4))).double()
    batch = images().double()
    found = Occlusion(net, window=1, value=0.5, score="logit").explain(batch, 2).map
    weight = net[1].weight[2].detach().reshape(3, 8, 8)
    assert_same(found, (weight * (batch - 0.5)).sum(1))
