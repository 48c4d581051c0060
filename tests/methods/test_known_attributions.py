"""Attributions that can be worked out by hand, and the forms that inputs and targets come in.

As in `test_known_values`, the networks and the numbers are those of captum's own tests.
"""

from __future__ import annotations

import pytest
import torch
from nets import spread
from torch import nn
from worked_out import (
    ANOTHER,
    ROWS,
    TWO_RELUS,
    At,
    Convolution,
    Cut,
    Function,
    Layers,
    Sum,
    Weighted,
    bounded,
    first,
)

from camlib import (
    Deconvnet,
    ExpectedGradients,
    GradCAM,
    GuidedBackprop,
    GuidedGradCAM,
    HiResCAM,
    InputXGradient,
    IntegratedGradients,
    LayerCAM,
    Occlusion,
    Saliency,
    Smooth,
    SmoothGrad,
    TargetError,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:integrated gradients with:camlib.CamlibWarning"),
    pytest.mark.filterwarnings("ignore:a map of Occlusion is zero:camlib.CamlibWarning"),
]

VALUES = torch.tensor([[1.0], [2.0], [3.0], [0.0], [-1.0], [7.0]])
SLOPES = torch.tensor([[0.0], [0.0], [0.0], [1.0], [1.0], [0.0]])
STILL = {"samples": 10, "sigma": 2e-7}
STATISTICS = ["mean", "square", "variance"]


def summary(value, statistic):
    """What becomes of a value that noise does not change."""
    return {"mean": value, "square": value**2, "variance": 0 * value}[statistic]


def test_gradients_of_a_bounded_function():
    net = Function(bounded)
    torch.testing.assert_close(Saliency(net, **ROWS)(VALUES, first), SLOPES)
    torch.testing.assert_close(InputXGradient(net, **ROWS)(VALUES, first), VALUES * SLOPES)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_tunnel_of_noise_over_gradients(statistic):
    net, inside = Function(bounded), VALUES - 0.5  # away from the kink, where noise would show
    slopes = Saliency(net, **ROWS)(inside, first)
    for method in (
        SmoothGrad(net, statistic=statistic, **STILL, **ROWS),
        Smooth(Saliency(net, **ROWS), statistic=statistic, **STILL),
    ):
        torch.testing.assert_close(method(inside, first), summary(slopes, statistic))
    found = Smooth(InputXGradient(net, **ROWS), statistic=statistic, **STILL)(inside, first)
    torch.testing.assert_close(found, summary(inside * slopes, statistic), atol=1e-4, rtol=1e-4)


ONE = torch.tensor([[10.5, 12.0, 34.3], [43.4, 51.2, 32.0]]).repeat_interleave(3, 0)
TWO = torch.tensor([[1.0, 3.5, 23.2], [2.3, 1.2, 0.3]]).repeat_interleave(3, 0)
POSITIONAL = (ONE, TWO, [2, 3], 1)
NAMED = {"one": ONE, "two": TWO, "factors": [2, 3], "column": 1}


def same(output):
    """A score for each sample is its own target."""
    return output


@pytest.mark.parametrize(
    ("inputs", "image", "slope"),
    [
        (POSITIONAL, 0, 2.0),
        (POSITIONAL, 1, -3.0),
        (POSITIONAL, "two", -3.0),
        (NAMED, "one", 2.0),
        (NAMED, "two", -3.0),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 2, 3, 6])
@pytest.mark.parametrize("statistic", STATISTICS)
def test_gradients_of_one_of_several_arguments(inputs, image, slope, statistic, batch_size):
    options = {"image": image, **ROWS}
    expected = torch.zeros(6, 3)
    expected[:, 1] = slope
    plain = Saliency(Weighted(), **options)
    torch.testing.assert_close(plain(inputs, same), expected)
    own = ONE if slope == 2 else TWO
    found = InputXGradient(Weighted(), **options)(inputs, same)
    torch.testing.assert_close(found, own * expected)
    method = Smooth(plain, statistic=statistic, batch_size=batch_size, **STILL)
    torch.testing.assert_close(method(inputs, same), summary(expected, statistic))


@pytest.mark.parametrize(
    ("layer", "values", "target", "expected"),
    [
        ("second", [0.0, 100.0, 0.0], 0, [4.0] * 3),
        ("first", [0.0, 100.0, 0.0], 0, [1.0] * 3),
        ("relu", [0.0, 5.0, 4.0], 0, [0.0] * 3),
        ("relu", [0.0, 5.0, 4.0], 1, [1.0] * 3),
        ("relu", [0.0, 5.0, 4.0], lambda output: output.sum(1), [3.0] * 3),
        ("relu", [0.0, 5.0, 4.0], lambda output: output[:, 0:2].sum(1), [1.0] * 3),
    ],
)
@pytest.mark.parametrize("inplace", [False, True])
def test_gradient_of_a_neuron(layer, values, target, expected, inplace):
    net = Cut(Layers(inplace=inplace), layer)
    found = Saliency(net, **ROWS)(torch.tensor([values]), target)
    torch.testing.assert_close(found, torch.tensor([expected]))


@pytest.mark.parametrize(
    ("layer", "scale", "slope"), [("layers.second", 3, 12.0), ("layers.first", 5, 5.0)]
)
def test_gradient_of_a_neuron_of_several_inputs(layer, scale, slope):
    values = torch.tensor([[0.0, 100.0, 0.0]])
    for image in (0, 1, 2):
        method = Saliency(Cut(Sum(), layer), image=image, **ROWS)
        found = method((values, values, values, scale), 0)
        torch.testing.assert_close(found, torch.full((1, 3), slope))


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 100.0, 0.0], [0.0, 400.0, 0.0]), ([3.0, 4.0, 0.0], [9.0, 12.0, 0.0])],
)
def test_gradient_times_input(values, expected):
    found = InputXGradient(Layers(), **ROWS)(torch.tensor([values]), 0)
    torch.testing.assert_close(found, torch.tensor([expected]))


def test_gradients_of_the_user_stay_where_they_are():
    values = VALUES.clone().requires_grad_()
    values.grad = torch.full_like(values, 3)
    Saliency(Function(bounded), **ROWS)(values, first)
    assert torch.equal(values.grad, torch.full_like(values, 3))


WAY = torch.tensor([[3.0, 1.0]])
RULES = ["gauss_legendre", "middle", "left", "right", "trapezoid"]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("net", [TWO_RELUS, ANOTHER], ids=["one", "another"])
def test_integrated_gradients_of_the_papers_examples(net, rule):
    """Sundararajan et al., figure 3: two networks of one function have the same attributions."""
    options = {"steps": 800, "rule": rule, "batch_size": 800, **ROWS}
    found = IntegratedGradients(net, **options)(WAY, first)
    torch.testing.assert_close(found, torch.tensor([[1.5, -0.5]]), atol=0.005, rtol=0)
    slopes = IntegratedGradients(net, multiply=False, **options)(WAY, first)
    torch.testing.assert_close(slopes, torch.tensor([[0.5, -0.5]]), atol=0.005, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("rule", RULES)
def test_tunnel_of_noise_over_integrated_gradients(rule, statistic, batch_size):
    inner = IntegratedGradients(TWO_RELUS, rule=rule, steps=500, batch_size=500, **ROWS)
    method = Smooth(inner, samples=5, sigma=2e-8, statistic=statistic, batch_size=batch_size)
    expected = summary(torch.tensor([[1.5, -0.5]]), statistic)
    torch.testing.assert_close(method(WAY, first), expected, atol=0.02, rtol=0)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("start", [0.0, 1e-5, torch.zeros(1, 3), torch.zeros(2, 3)])
def test_integrated_gradients_sum_to_what_the_score_gains(rule, start):
    """Of a bounded number, of one of two arguments with others beside it, and of a batch."""
    values = torch.tensor([[1.5, 2.0, 34.3], [3.4, 1.2, 2.0]])
    beside = torch.tensor([[0.1, 0.2, 2.2], [2.3, 0.1, 0.3]])
    options = {"baseline": start, "steps": 500, "rule": rule, **ROWS}
    for net, inputs, asked in (
        (Weighted(), (values, beside, [2, 3], 1), same),
        (Weighted(), (values, beside, (2.0, 1.0)), same),
        (Layers(), (values, beside), 0),
        (Layers(), (values, beside), [1, 0]),
    ):
        found = IntegratedGradients(net, image=0, **options)(inputs, asked)
        before = torch.as_tensor(start).expand_as(values)
        score = asked if callable(asked) else At(torch.tensor(asked).expand(2)[:, None])
        gain = score(net(*inputs)) - score(net(before, *inputs[1:]))
        torch.testing.assert_close(found.sum(1), gain.detach(), atol=0.07, rtol=0)


@pytest.mark.parametrize("value", [1.0, 0.0, -1.0])
@pytest.mark.parametrize("rule", RULES)
def test_integrated_gradients_of_a_bounded_number(rule, value):
    net, values = Function(bounded), torch.tensor([[value]])
    found = IntegratedGradients(net, steps=500, rule=rule, **ROWS)(values, first)
    torch.testing.assert_close(found, values, atol=0.005, rtol=0)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("last", [nn.Sigmoid(), nn.Softmax(1)], ids=["sigmoid", "softmax"])
def test_integrated_gradients_of_classifiers_are_complete(last, rule):
    net = spread(nn.Sequential(nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 10), last))
    batch, blank = torch.arange(120.0).reshape(3, 40) / 40, torch.zeros(1, 40)
    target = torch.tensor([5, 5, 2])
    method = IntegratedGradients(net, baseline=blank, steps=200, rule=rule, **ROWS)
    gain = (net(batch) - net(blank)).gather(1, target[:, None])[:, 0].detach()
    assert gain.abs().max() > 0.1
    atol = 0.02 if rule in ("left", "right") else 0.005
    torch.testing.assert_close(method(batch, target).sum(1), gain, atol=atol, rtol=0)


ROWS_OF_THREE = torch.tensor([[1.5, 2.0, 1.3], [0.5, 0.1, 2.3], [1.5, 2.0, 1.3]])


@pytest.mark.parametrize("steps_at_once", [1, 10, 20, 500])
def test_integrated_gradients_of_a_batch_are_those_of_each_sample(steps_at_once):
    net = Layers()
    method = IntegratedGradients(net, steps=100, batch_size=steps_at_once, **ROWS)
    found = method(ROWS_OF_THREE, 0)
    for one, values in zip(found, ROWS_OF_THREE, strict=True):
        torch.testing.assert_close(one, method(values[None], 0)[0])
    plain = IntegratedGradients(net, steps=100, multiply=False, batch_size=steps_at_once, **ROWS)
    tunnel = Smooth(plain, samples=5, sigma=0)
    torch.testing.assert_close(tunnel(ROWS_OF_THREE, 0) * ROWS_OF_THREE, found)


def test_a_baseline_for_each_sample_in_a_tunnel_of_noise():
    """Smoothed integrated gradients of a linear function are its weights times the way."""
    net = Function(lambda a, b, c: 2 * a - b + 3 * c)
    values, starts = torch.randn(4, 3), torch.randn(4, 3)
    weights = torch.tensor([2.0, -1.0, 3.0])
    for batch_size in (1, 2, 3, 32):
        inner = IntegratedGradients(net, baseline=starts, steps=3, **ROWS)
        found = Smooth(inner, samples=5, sigma=0, batch_size=batch_size)(values, first)
        torch.testing.assert_close(found, weights * (values - starts))


def test_expected_gradients():
    net = Function(lambda a, b, c: 2 * a - b + 3 * c)
    values, starts = torch.randn(4, 3), torch.randn(20, 3)
    weights = torch.tensor([2.0, -1.0, 3.0])
    method = ExpectedGradients(net, baselines=starts[:1], samples=4, **ROWS)
    torch.testing.assert_close(method(values, first), weights * (values - starts[:1]))
    plain = ExpectedGradients(net, baselines=starts, samples=4, multiply=False, **ROWS)
    torch.testing.assert_close(plain(values, first), weights.expand(4, 3))
    several = ExpectedGradients(TWO_RELUS, samples=20000, batch_size=20000, **ROWS)
    torch.testing.assert_close(several(WAY, first), torch.tensor([[1.5, -0.5]]), atol=0.05, rtol=0)


NOISY = {"samples": 3, "sigma": 0.1}
PIXELS = {
    "Saliency": Saliency,
    "InputXGradient": InputXGradient,
    "IntegratedGradients": lambda net, **o: IntegratedGradients(net, steps=5, **o),
    "ExpectedGradients": lambda net, **o: ExpectedGradients(net, samples=5, **o),
    "Occlusion": lambda net, **o: Occlusion(net, window=1, score="logit", normalize=False, **o),
    "GuidedBackprop": GuidedBackprop,
    "Deconvnet": Deconvnet,
    "SmoothGrad": lambda net, **o: SmoothGrad(net, **NOISY, **o),
    "Smooth(IntegratedGradients)": lambda net, **o: Smooth(
        IntegratedGradients(net, steps=4, **o), batch_size=5, **NOISY
    ),
    "Smooth(Occlusion)": lambda net, **o: Smooth(
        Occlusion(net, window=1, score="logit", normalize=False, **o), **NOISY
    ),
}
PLACES = [(1, 0, 0), (0, 1, 1), (1, 1, 1), (0, 0, 0)]
TARGETS = {
    "a number": (1, [1, 1, 1, 1]),
    "a list": ([0, 1, 1, 0], [0, 1, 1, 0]),
    "a tensor": (torch.tensor([1, 1, 0, 0]), [1, 1, 0, 0]),
    "a tensor of no axes": (torch.tensor(0), [0, 0, 0, 0]),
    "a function": (first, [0, 0, 0, 0]),
}


def batches():
    generator = torch.Generator().manual_seed(3)
    return [s * torch.randn(4, 3, generator=generator) for s in (10, 5, 2)]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("build", PIXELS.values(), ids=PIXELS)
def test_targets_of_a_batch_are_those_of_its_samples(build, target):
    """Of one input, and of one of three with a number beside them."""
    given, alone = TARGETS[target]
    one, two, three = batches()
    method = build(Layers(), **ROWS)
    several = build(Sum(), image=1, **ROWS)
    found = method(one, given), several((one, two, three, 5), given)
    for n, label in enumerate(alone):
        rows = slice(n, n + 1)
        own = method(one[rows], label), several((one[rows], two[rows], three[rows], 5), label)
        assert any(each.any() for each in own) or n  # a ReLU may be shut for a sample
        torch.testing.assert_close([each[n] for each in found], [each[0] for each in own])


@pytest.mark.parametrize("target", [[1], torch.tensor([1])])
def test_one_class_in_a_list_is_for_one_sample(target):
    """Captum takes it for all; here a list has as many classes as there are samples."""
    one, _, _ = batches()
    method = Saliency(Layers(), **ROWS)
    assert torch.equal(method(one[:1], target), method(one[:1], 1))
    with pytest.raises(TargetError, match=r"a target of shape \(1,\) does not fit 4 samples"):
        method(one, target)


@pytest.mark.parametrize("build", PIXELS.values(), ids=PIXELS)
def test_a_place_in_a_dense_output_for_each_sample(build):
    one, _, _ = batches()
    method = build(Layers(), image=0, **ROWS)
    found = method((one, None, True), At(PLACES))
    for n, (row, column, depth) in enumerate(PLACES):
        alone = method(one[n : n + 1], row)
        torch.testing.assert_close(found[n], 2**column * 4**depth * alone[0])


@pytest.mark.parametrize("kind", [GradCAM, HiResCAM, LayerCAM, GuidedGradCAM])
@pytest.mark.parametrize("target", [[0, 1, 3], torch.tensor([2, 2, 1])])
@pytest.mark.filterwarnings("ignore:a map at layer:camlib.CamlibWarning")
def test_targets_of_maps_in_a_batch(kind, target):
    """Each class is a multiple of the first."""
    net = Convolution(last=False)
    with torch.no_grad():
        net.linear.weight.mul_(torch.tensor([1.0, 2.0, 3.0, -1.0])[:, None])
    images = 30 * torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    method = kind(net, "first")
    found = method.explain(images, target).map
    for n, label in enumerate(target):
        alone = method.explain(images[n : n + 1], int(label)).map
        torch.testing.assert_close(found[n], alone[0])
    signed = GradCAM(net, "first").explain(images, target, relu=False).map
    factor = torch.tensor([[1.0, 2.0, 3.0, -1.0][label] for label in target])[:, None, None]
    torch.testing.assert_close(
        signed, factor * GradCAM(net, "first").explain(images, 0, relu=False).map
    )
