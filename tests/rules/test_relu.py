"""What a rectifier passes back, by whatever name it is called."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from nets import Failing, Functional, Net, Pooling, images, spread
from reference import ReluByHand
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import mobilenet_v2

from camlib import (
    CamlibWarning,
    Deconvnet,
    GradCAM,
    GraphError,
    GuidedBackprop,
    GuidedGradCAM,
    Saliency,
)
from camlib.rules.relu import Rectifying

SOURCE = [-2.0, -0.5, 0.0, 0.5, 3.0, 6.0, 7.0]
SIGNAL = [1.0, -1.0]

INFINITE = float("inf")
RECTIFIERS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "nn.ReLU": (nn.ReLU(), INFINITE),
    "nn.ReLU in place": (nn.ReLU(inplace=True), INFINITE),
    "F.relu": (F.relu, INFINITE),
    "F.relu, named": (lambda a: F.relu(input=a), INFINITE),
    "F.relu in place": (lambda a: F.relu(a, inplace=True), INFINITE),
    "F.relu in place, by position": (lambda a: F.relu(a, True), INFINITE),
    "F.relu_": (F.relu_, INFINITE),
    "torch.relu": (torch.relu, INFINITE),
    "torch.relu_": (torch.relu_, INFINITE),
    "x.relu": (lambda a: a.relu(), INFINITE),
    "x.relu_": (lambda a: a.relu_(), INFINITE),
    "nn.ReLU6": (nn.ReLU6(), 6),
    "nn.ReLU6 in place": (nn.ReLU6(inplace=True), 6),
    "F.relu6": (F.relu6, 6),
    "nn.Hardtanh": (nn.Hardtanh(0, 6), 6),
    "nn.Hardtanh in place": (nn.Hardtanh(0.0, 6.0, inplace=True), 6),
    "F.hardtanh_": (lambda a: F.hardtanh_(a, 0, 6), 6),
    "x.clamp(min=0)": (lambda a: a.clamp(min=0), INFINITE),
    "x.clip(0)": (lambda a: a.clip(0), INFINITE),
    "x.clip_(0, 6)": (lambda a: a.clip_(0, 6), 6),
    "x.clamp(0)": (lambda a: a.clamp(0), INFINITE),
    "x.clamp(0, 6)": (lambda a: a.clamp(0, 6), 6),
    "x.clamp_(min=0)": (lambda a: a.clamp_(min=0), INFINITE),
    "x.clamp_(0, max=6)": (lambda a: a.clamp_(0, max=6), 6),
    "torch.clamp": (lambda a: torch.clamp(a, min=0.0), INFINITE),
    "x.clamp_min": (lambda a: a.clamp_min(0), INFINITE),
    "x.clamp_min_": (lambda a: a.clamp_min_(0), INFINITE),
    "F.threshold": (lambda a: F.threshold(a, 0, 0), INFINITE),
    "F.threshold, named": (lambda a: F.threshold(a, threshold=0, value=0.0), INFINITE),
    "F.threshold_": (lambda a: F.threshold_(a, 0, 0), INFINITE),
    "nn.Threshold in place": (nn.Threshold(0, 0, inplace=True), INFINITE),
}
OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "Hardtanh(-1, 1)": nn.Hardtanh(),
    "clamp away from zero": lambda a: a.clamp(min=1e-6),
    "clamp from above": lambda a: a.clamp(max=0),
    "clamp by a tensor": lambda a: a.clamp(min=torch.zeros_like(a)),
    "clamp_min elsewhere": lambda a: a.clamp_min(-1),
    "threshold elsewhere": lambda a: F.threshold(a, 1, 0),
    "threshold to a value": lambda a: F.threshold(a, 0, 1),
    "sigmoid": torch.sigmoid,
    "abs": torch.abs,
}
SMOOTH: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "silu in place": lambda a: F.silu(a, inplace=True),
    "nn.SiLU in place": nn.SiLU(inplace=True),
    "gelu": F.gelu,
    "gelu, tanh": nn.GELU(approximate="tanh"),
    "leaky_relu": lambda a: F.leaky_relu(a, 0.2),
    "leaky_relu in place": nn.LeakyReLU(0.2, inplace=True),
    "hardswish": F.hardswish,
    "hardswish in place": nn.Hardswish(inplace=True),
    "elu in place": nn.ELU(inplace=True),
    "Hardtanh(-1, 1) in place": nn.Hardtanh(inplace=True),
    "tanh": torch.tanh,
}


def by_name(table: dict) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("function", table.values(), ids=table)


def points() -> tuple[Tensor, Tensor]:
    """Every input beside every signal."""
    pairs = torch.tensor([(a, r) for a in SOURCE for r in SIGNAL], dtype=torch.float64)
    return pairs[:, 0].clone().requires_grad_(), pairs[:, 1].clone()


def passed_back(function: Callable[[Tensor], Tensor], rule: str | None, **options: bool):
    """Value of `function`, what it passes back, and the mode it ran in."""
    source, signal = points()
    mode = Rectifying(rule or "guided", **options)
    if rule is None:
        value = function(source.clone())
    else:
        with mode:
            value = function(source.clone())
    [back] = torch.autograd.grad(value, source, signal)
    return value.detach(), back, mode


@by_name(RECTIFIERS)
@pytest.mark.parametrize("rule", ["guided", "deconvnet"])
def test_every_rectifier_follows_the_rule(function, rule):
    function, upper = function
    value, back, mode = passed_back(function, rule)
    plain, _, _ = passed_back(function, None)
    assert torch.equal(value, plain)
    expected = [
        signal if signal > 0 and (rule == "deconvnet" or 0 < source < upper) else 0.0
        for source in SOURCE
        for signal in SIGNAL
    ]
    assert back.tolist() == expected
    assert mode.met == 1
    assert mode.passed == set()


@by_name({**{name: each for name, (each, _) in RECTIFIERS.items()}, **OTHERS, **SMOOTH})
def test_rule_that_is_lifted_leaves_the_ordinary_gradient(function):
    source, signal = points()
    with Rectifying("guided", generalize=True) as rule:
        value = function(source.clone())
    with rule.lifted():
        [ordinary] = torch.autograd.grad(value, source, signal, retain_graph=True)
    [guided] = torch.autograd.grad(value, source, signal)
    other, _ = points()
    [expected] = torch.autograd.grad(function(other.clone()), other, signal)
    smooth = torch.tensor([a not in (0, 6) for a in SOURCE for _ in SIGNAL])  # as versions differ
    assert torch.equal(ordinary[smooth], expected[smooth])
    _, back, _ = passed_back(function, "guided", generalize=True)
    assert torch.equal(guided, back)


@by_name(RECTIFIERS)
def test_guided_is_the_gate_of_the_gradient_times_that_of_the_deconvnet(function):
    function, _ = function
    _, guided, _ = passed_back(function, "guided")
    _, deconvnet, _ = passed_back(function, "deconvnet")
    source, _ = points()
    [gate] = torch.autograd.grad(function(source.clone()).sum(), source)
    smooth = torch.tensor([a not in (0, 6) for a in SOURCE for _ in SIGNAL])  # kinks are ambiguous
    assert torch.equal(guided[smooth], (deconvnet * gate)[smooth])


@by_name(OTHERS)
@pytest.mark.parametrize("rule", ["guided", "deconvnet"])
def test_what_is_no_rectifier_keeps_its_gradient(function, rule):
    value, back, mode = passed_back(function, rule)
    plain, gradient, _ = passed_back(function, None)
    assert torch.equal(value, plain)
    assert torch.equal(back, gradient)
    assert mode.met == 0


@by_name(SMOOTH)
def test_other_activations_keep_their_gradient_unless_generalized(function):
    value, back, mode = passed_back(function, "guided")
    plain, gradient, _ = passed_back(function, None)
    assert torch.equal(value, plain)
    assert torch.equal(back, gradient)
    assert mode.met == 0
    assert len(mode.passed) == 1


@by_name(SMOOTH)
def test_generalized_guided_rule_is_the_slope_times_the_positive_signal(function):
    value, back, mode = passed_back(function, "guided", generalize=True)
    source, signal = points()
    plain = function(source.clone())
    [slope] = torch.autograd.grad(plain.sum(), source)
    assert torch.equal(value, plain)
    assert torch.equal(back, slope * signal.clamp(min=0))
    assert mode.met == 1


@by_name(SMOOTH)
def test_generalized_deconvnet_rule_is_the_positive_signal(function):
    value, back, mode = passed_back(function, "deconvnet", generalize=True)
    plain, _, _ = passed_back(function, None)
    assert torch.equal(value, plain)
    assert torch.equal(back, points()[1].clamp(min=0))
    assert mode.met == 1


@by_name(
    {
        "x.relu_()": lambda a: a.relu_(),
        "F.relu": lambda a: F.relu(a, inplace=True),
        "clamp_": lambda a: a.clamp_(min=0),
        "F.threshold_": lambda a: F.threshold_(a, 0, 0),
    }
)
def test_a_rectified_tensor_can_be_used_through_its_old_name(function):
    def old_name(source: Tensor) -> Tensor:
        function(source)
        return source * 2

    value, back, _ = passed_back(old_name, "guided")
    plain, _, _ = passed_back(old_name, None)
    assert torch.equal(value, plain)
    expected = [2 * max(signal, 0) * (source > 0) for source in SOURCE for signal in SIGNAL]
    assert back.tolist() == expected


@by_name({name: function for name, function in SMOOTH.items() if "in place" in name})
def test_a_generalized_activation_in_place_can_be_used_through_its_old_name(function):
    def old_name(source: Tensor) -> Tensor:
        function(source)
        return source * 2

    value, back, _ = passed_back(old_name, "guided", generalize=True)
    _, once, _ = passed_back(function, "guided", generalize=True)
    plain, _, _ = passed_back(old_name, None)
    assert torch.equal(value, plain)
    assert torch.equal(back, 2 * once)


class Changed(nn.Module):
    """A network that changes in place what its rectifier, a function, returned."""

    def __init__(self, function: Callable[[Tensor], Tensor], change: Callable[[Tensor], Tensor]):
        super().__init__()
        self.first = nn.Conv2d(3, 5, 3)
        self.last = nn.Linear(5, 4)
        self.function = function
        self.change = change
        self.calls = 0

    def forward(self, batch: Tensor) -> Tensor:
        self.calls += 1
        found = self.function(10 * self.first(batch))
        return self.last(self.change(found).mean((2, 3)))


@pytest.mark.parametrize("kind", [GuidedBackprop, GuidedGradCAM, Deconvnet])
@pytest.mark.parametrize("form", ["nn.ReLU in place", "F.relu", "nn.ReLU6", "x.clamp(0, 6)"])
@pytest.mark.parametrize("target", [1, [[0, 3]]], ids=str)
def test_what_a_rectifier_returned_can_be_changed_in_place(kind, form, target):
    function, _ = RECTIFIERS[form]
    in_place = spread(Changed(function, lambda a: a.mul_(-3).add_(7))).double()
    apart = spread(Changed(function, lambda a: a * -3 + 7)).double()
    batch = images(1).double()  # of several, one runs alone first, to see whether they mix
    layer = ("first",) if kind is GuidedGradCAM else ()
    method, expected = kind(in_place, *layer), kind(apart, *layer)(batch, target)
    torch.testing.assert_close(method(batch, target), expected)
    assert (in_place.calls, apart.calls) == (1 if kind is Deconvnet else 2, 1)
    in_place.calls = 0
    torch.testing.assert_close(method(batch, target), expected)
    assert in_place.calls == 1


class Doubling(nn.Module):
    """In place."""

    def forward(self, features):
        return features.mul_(2)


@pytest.mark.parametrize("kind", [GuidedBackprop, GuidedGradCAM])
@pytest.mark.parametrize("form", ["F.relu_", "F.relu", "nn.ReLU6"])
def test_changes_in_place_are_seen_under_hooks_for_saved_tensors(kind, form):
    function, _ = RECTIFIERS[form]
    in_place = spread(Changed(function, lambda a: a.mul_(-3))).double()
    plain = spread(Changed(function, torch.sin)).double()
    layer = ("first",) if kind is GuidedGradCAM else ()
    for net, calls in ((in_place, 2), (plain, 1)):
        expected = kind(net, *layer)(images().double(), 1)
        net.calls = 0
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
            found = kind(net, *layer)(images().double(), 1)
        torch.testing.assert_close(found, expected)
        assert net.calls == calls


def test_a_warning_comes_once_where_masks_are_needed():
    body = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), Doubling(), nn.Conv2d(5, 6, 1))
    net = Net(nn.Sequential(body, nn.ReLU()), nn.Sequential(Pooling(), nn.Linear(6, 4))).eval()
    nn.init.constant_(net.tail[1].weight, -1)
    with pytest.warns(CamlibWarning, match="is zero everywhere") as seen:
        GuidedGradCAM(net, "features")(images(), 1)
    assert len(seen) == 1


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("bound", [0.1, 1 / 3, 0.7])
def test_bounds_are_those_of_the_precision(bound, dtype, masks):
    source = torch.tensor([-1, 0.01, 5, 100], dtype=dtype, requires_grad=True)
    with Rectifying("guided", masks=masks):
        value = source.clamp(0, bound)
    [back] = torch.autograd.grad(value.sum(), source)
    assert back.tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("signal", [float("inf"), -float("inf"), float("nan"), 2.0])
def test_what_is_closed_stops_any_signal(signal, masks):
    source = torch.tensor([-1.0, 1.0], requires_grad=True)
    with Rectifying("guided", masks=masks):
        value = F.relu(source)
    [back] = torch.autograd.grad(value, source, torch.full((2,), signal))
    expected = torch.tensor([0.0, max(signal, 0.0) if signal == signal else signal])
    torch.testing.assert_close(back, expected, equal_nan=True)


def test_an_error_of_the_backward_pass_is_that_of_the_model():
    net = spread(Changed(F.relu, Failing.apply))
    for method in (GuidedBackprop(net), GuidedGradCAM(net, "first")):
        net.calls = 0
        with pytest.raises(RuntimeError, match="the model's own"):
            method(images(), 1)
        assert net.calls == 1


def gradient_of_relu() -> list[float]:
    source, signal = points()
    return torch.autograd.grad(F.relu(source), source, signal)[0].tolist()


GRADIENT_OF_RELU = [signal if source > 0 else 0.0 for source in SOURCE for signal in SIGNAL]


def test_the_rule_holds_in_its_block_alone():
    with pytest.raises(ZeroDivisionError), Rectifying("guided"):
        assert gradient_of_relu() != GRADIENT_OF_RELU
        _ = 1 / 0
    assert gradient_of_relu() == GRADIENT_OF_RELU


def test_the_rule_holds_in_its_thread_alone():
    found = []
    with Rectifying("guided") as mode:
        thread = threading.Thread(target=lambda: found.append(gradient_of_relu()))
        thread.start()
        thread.join()
    assert found == [GRADIENT_OF_RELU]
    assert mode.met == 0


class Reused(nn.Module):
    """A residual network with one activation for all places, as a function of `relu`."""

    def __init__(self, relu: Callable[[Tensor], Tensor], *, residual_in_place: bool = False):
        super().__init__()
        self.first = nn.Conv2d(3, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.second = nn.Conv2d(5, 5, 3, padding=1)
        self.last = nn.Linear(5, 4)
        self.relu = relu
        self.residual_in_place = residual_in_place

    def forward(self, images: Tensor) -> Tensor:
        kept = self.relu(self.norm(self.first(images)))
        out = self.second(kept)
        if self.residual_in_place:
            out += kept
        else:
            out = out + kept
        return self.last(self.relu(out).mean((2, 3)))


def expected_on_reused(rule: str, batch: Tensor, target: list[int]) -> Tensor:
    net = spread(Reused(lambda a: ReluByHand.apply(a, rule))).double()
    source = batch.clone().requires_grad_()
    scores = net(source)[torch.arange(len(batch)), target]
    return torch.autograd.grad(scores.sum(), source)[0]


FORMS = {
    "one module": lambda: nn.ReLU(),
    "one module in place": lambda: nn.ReLU(inplace=True),
    "F.relu": lambda: F.relu,
    "x.relu_": lambda: Tensor.relu_,
    "clamp_min_": lambda: lambda a: a.clamp_min_(0),
}


@pytest.mark.parametrize("residual_in_place", [False, True])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(("method", "rule"), [(GuidedBackprop, "guided"), (Deconvnet, "deconvnet")])
def test_networks_follow_the_rule_however_their_relu_is_written(
    method, rule, form, residual_in_place
):
    net = spread(Reused(form(), residual_in_place=residual_in_place)).double()
    batch = images(3).double()
    found = method(net).explain(batch, [2, 0, 1])
    torch.testing.assert_close(found.heatmap, expected_on_reused(rule, batch, [2, 0, 1]))
    torch.testing.assert_close(found.output, net(batch))
    gradient = Saliency(net)(batch, [2, 0, 1])
    assert not torch.allclose(found.heatmap, gradient)


@pytest.mark.parametrize("method", [GuidedBackprop, Deconvnet])
def test_an_in_place_first_layer_leaves_the_images_alone(method):
    tail = [nn.Conv2d(3, 4, 3), nn.ReLU(), Pooling(), nn.Linear(4, 4)]
    in_place = spread(nn.Sequential(nn.ReLU(inplace=True), *tail)).double()
    plain = nn.Sequential(nn.ReLU(), *in_place[1:])
    batch = images().double()
    before = batch.clone()
    found = method(in_place)(batch, 1)
    assert torch.equal(batch, before)
    assert torch.equal(found, method(plain)(batch, 1))
    assert found[batch < 0].any() == (method is Deconvnet)


@pytest.mark.parametrize("method", [GuidedBackprop, Deconvnet])
def test_without_a_relu_it_is_the_gradient_and_says_so(method):
    net = spread(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), Pooling(), nn.Linear(4, 4))).double()
    batch = images().double()
    message = (
        rf"^{method.__name__} met no ReLU in Sequential, so this is the plain gradient; "
        "generalize=True applies its rule to tanh$"
    )
    with pytest.warns(CamlibWarning, match=message):
        found = method(net)(batch, 1)
    assert torch.equal(found, Saliency(net)(batch, 1))


def test_a_linear_network_has_nothing_to_generalize():
    net = spread(nn.Sequential(nn.Conv2d(3, 4, 3), Pooling(), nn.Linear(4, 4)))
    for generalize in (False, True):
        with pytest.warns(CamlibWarning, match="so this is the plain gradient$") as seen:
            GuidedBackprop(net, generalize=generalize)(images(), 1)
    assert seen[0].filename == __file__


@pytest.mark.parametrize("name", ["silu", "gelu", "hardswish"])
@pytest.mark.parametrize("method", [GuidedBackprop, Deconvnet])
def test_generalized_methods_do_not_warn_and_are_not_the_gradient(method, name):
    net = spread(nn.Sequential(nn.Conv2d(3, 4, 3), Functional(name), Pooling(), nn.Linear(4, 4)))
    found = method(net, generalize=True)(images(), 1)
    assert not torch.allclose(found, Saliency(net)(images(), 1))


def test_gradient_guided_and_deconvnet_all_differ_where_there_is_a_relu():
    net = spread(Reused(nn.ReLU()))
    gradient, guided, deconvnet = (
        method(net)(images(), 1) for method in (Saliency, GuidedBackprop, Deconvnet)
    )
    for one, other in ((gradient, guided), (gradient, deconvnet), (guided, deconvnet)):
        assert (one - other).abs().max() > 0.1 * other.abs().max()


@pytest.mark.parametrize("method", [GuidedBackprop, Deconvnet])
def test_several_classes_in_one_call_equal_single_calls(method):
    net = spread(Reused(nn.ReLU(inplace=True))).double()
    batch = images().double()
    classes = [[0, 2, 3], [1, 1, 0]]
    together = method(net)(batch, classes)
    assert together.shape == (2, 3, 3, 8, 8)
    for k in range(3):
        alone = method(net)(batch, [row[k] for row in classes])
        torch.testing.assert_close(together[:, k], alone)
    assert not torch.allclose(together[0, 0], together[0, 1])


@pytest.mark.parametrize("method", [GuidedBackprop, Deconvnet])
def test_a_second_call_on_the_same_tensor_gives_the_same(method):
    net = spread(Reused(nn.ReLU()))
    batch = images().requires_grad_()
    first, second = (method(net)(batch, 1) for _ in range(2))
    assert torch.equal(first, second)
    assert batch.grad is None
    assert batch.requires_grad


@pytest.mark.parametrize("method", [GuidedBackprop, Deconvnet])
def test_every_image_of_a_batch_comes_back(method):
    net = spread(Reused(nn.ReLU())).double()
    batch = images(4).double()
    found = method(net)(batch, [3, 2, 1, 0])
    alone = [method(net)(batch[n : n + 1], 3 - n)[0] for n in range(4)]
    torch.testing.assert_close(found, torch.stack(alone))


def test_a_network_of_relu6_does_not_give_the_plain_gradient():
    net = spread(mobilenet_v2(weights=None, num_classes=10))
    batch = images(1, 64, 64)
    gradient = Saliency(net)(batch, 3)
    for method in (GuidedBackprop, Deconvnet):
        found = method(net)(batch, 3)
        assert found.isfinite().all()
        assert torch.corrcoef(torch.stack([found.flatten(), gradient.flatten()]))[0, 1] < 0.9


def test_the_grad_cam_half_of_guided_grad_cam_follows_the_ordinary_gradient():
    body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
    tail = nn.Sequential(nn.Conv2d(6, 6, 3), nn.ReLU(), Pooling(), nn.Linear(6, 4))
    net = spread(Net(body, tail), seed=3).double()
    batch = images().double()
    found = GuidedGradCAM(net, "features").explain(batch, 1)
    cam = GradCAM(net, "features").explain(batch, 1)
    assert torch.equal(found.map, cam.map)
    factor = cam.map[:, None]  # of the image's size
    assert torch.equal(found.heatmap, GuidedBackprop(net)(batch, 1) * factor)

    activation = net.features(batch).detach().requires_grad_()
    with Rectifying("guided"):
        score = net.tail(activation)[:, 1].sum()
    [guided] = torch.autograd.grad(score, activation)
    wrong = (guided.mean((2, 3), keepdim=True) * activation.detach()).sum(1).relu()
    assert not torch.allclose(found.map, wrong, rtol=0.01)


@pytest.mark.parametrize("rule", ["guided", "deconvnet"])
@pytest.mark.parametrize("function", [F.silu, F.gelu])
def test_result_of_a_smooth_function_can_be_changed_in_place(function, rule):
    value, back, _ = passed_back(lambda a: function(a).add_(1).mul_(3), rule, generalize=True)
    plain, once, _ = passed_back(function, rule, generalize=True)
    assert torch.equal(value, (plain + 1) * 3)
    torch.testing.assert_close(back, 3 * once, rtol=1e-15, atol=0)


def test_integers_are_not_met():
    with Rectifying("guided") as rule:
        torch.arange(-3, 3).clamp(min=0)
    assert rule.met == 0


@pytest.mark.parametrize("function", [F.relu, F.relu_, F.relu6, lambda a: F.relu(a).mul_(-3)])
def test_checkpointed_layers_are_refused(function):
    class Checkpointed(Changed):
        def forward(self, batch):
            run = torch.utils.checkpoint.checkpoint
            return run(super().forward, batch, use_reentrant=False)

    net = spread(Checkpointed(function, torch.sin))
    for method in (GuidedBackprop(net), GuidedGradCAM(net, "first"), Deconvnet(net)):
        with pytest.raises(GraphError, match="the model recomputes its activations"):
            method(images(), 1)


def test_warning_points_at_the_line_of_the_user():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    calls = [
        lambda: GuidedBackprop(net)(images()),
        lambda: GuidedBackprop(net).explain(images()),
        lambda: Deconvnet(net)(images()),
        lambda: Deconvnet(net, "1")(images(), unit=1),
        lambda: GuidedGradCAM(net, "0")(images()),
    ]
    for call in calls:
        with pytest.warns(CamlibWarning, match="met no ReLU") as met:
            call()
        assert {warning.filename for warning in met} == {__file__}
