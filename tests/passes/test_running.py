"""Models whose own `forward` needs a graph, and errors that are the model's own."""

from __future__ import annotations

import inspect

import pytest
import torch
from nets import Net, convolutional, images, pooled
from snapshot import snapshot
from torch import Tensor, nn

from camlib import (
    CAM,
    METHODS,
    AblationCAM,
    AttentionMethod,
    CamlibWarning,
    Deconvnet,
    EigenCAM,
    GradCAM,
    Occlusion,
    Saliency,
    ScoreCAM,
    Smooth,
    TargetError,
)
from camlib.passes.inputs import Inputs
from camlib.passes.running import completed

pytestmark = [
    pytest.mark.filterwarnings("ignore:a map (at layer|of):camlib.CamlibWarning"),
    pytest.mark.filterwarnings("ignore:FullGrad does not:camlib.CamlibWarning"),
]


def hooked(features: Tensor) -> None:
    features.register_hook(lambda gradient: None)


def retained(features: Tensor) -> None:
    features.retain_grad()


def differentiated(features: Tensor) -> None:
    source = features.grad_fn and features
    [gradient] = torch.autograd.grad(features.sum(), source, retain_graph=True)
    assert gradient.eq(1).all()


def noded(features: Tensor) -> None:
    features.grad_fn.register_hook(lambda *_: None)


def asserted(features: Tensor) -> None:
    assert features.requires_grad


class Needing(nn.Module):
    """A convolution whose output has to be part of a graph."""

    def __init__(self, inner: nn.Module, need) -> None:
        super().__init__()
        self.inner, self.need = inner, need

    def forward(self, batch: Tensor) -> Tensor:
        found = self.inner(batch)
        self.need(found)
        return found


def needing(need, build=convolutional) -> tuple[Net, Net]:
    """A network whose first and last convolutions need a graph, and its twin, which does not."""
    twin, other = build(), build()
    body = nn.Sequential(Needing(other.features[0], need), *other.features[1:])
    tail = other.tail
    if build is convolutional:
        tail = nn.Sequential(Needing(tail[0], need), *tail[1:])
    return Net(body, tail).eval(), twin


NEEDS = pytest.mark.parametrize("need", [hooked, retained, differentiated, noded, asserted])
KINDS = [
    kind
    for kind in METHODS.values()
    if not issubclass(kind, (AttentionMethod, Deconvnet)) and kind is not CAM
]


def made(kind, net, **options):
    """A method at the end of the features, if it has a layer."""
    layered = "layer" in inspect.signature(kind).parameters
    return kind(net, *["features"] * layered, **options)


@NEEDS
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_forward_that_needs_a_graph(kind, need):
    net, twin = needing(need)
    before = snapshot(net)
    found = made(kind, net)(images(), 1)
    torch.testing.assert_close(found, made(kind, twin)(images(), 1))
    assert not found.requires_grad
    assert snapshot(net) == before


@NEEDS
@pytest.mark.parametrize("frozen", [False, True])
def test_forward_that_needs_a_graph_in_other_ways(need, frozen):
    net, twin = needing(need)
    net.requires_grad_(not frozen)
    several, batch = [[0, 2], [3, 1]], images()
    for kind in (GradCAM, ScoreCAM, AblationCAM, Saliency):
        with torch.inference_mode():
            found = made(kind, net)(batch, several)
        torch.testing.assert_close(found, made(kind, twin)(batch, several))
    layer = "features.0"  # what needs the graph itself
    torch.testing.assert_close(GradCAM(net, layer)(batch, 1), GradCAM(twin, layer)(batch, 1))
    seen = ScoreCAM(net, "features").explain(batch)
    assert not seen.output.requires_grad
    heat = GradCAM(net, "features", differentiable=True)(batch, 1)
    torch.testing.assert_close(heat.detach(), GradCAM(twin, "features")(batch, 1))
    assert heat.requires_grad
    found = Smooth(GradCAM(net, "features"), samples=3)(batch, 1)
    torch.testing.assert_close(found, Smooth(GradCAM(twin, "features"), samples=3)(batch, 1))
    net, twin = needing(need, pooled)
    torch.testing.assert_close(CAM(net, "features")(batch, 1), CAM(twin, "features")(batch, 1))


def test_bad_target_of_a_model_that_needs_a_graph():
    net, _ = needing(hooked)
    with pytest.raises(TargetError, match="class 7"):
        GradCAM(net, "features")(images(), 7)


class Failing(Net):
    """Fails in its own way."""

    def __init__(self, error: BaseException, start: int = 0) -> None:
        base = convolutional()
        super().__init__(base.features, base.tail)
        self.error, self.start, self.runs = error, start, 0
        self.eval()

    def forward(self, batch: Tensor) -> Tensor:
        self.runs += 1
        if self.runs > self.start:
            raise self.error
        return super().forward(batch)


@pytest.mark.parametrize("error", [RuntimeError("view of my own"), KeyError("words"), ValueError()])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_errors_of_the_model_come_once_and_unchanged(kind, error):
    net = Failing(error)
    before = snapshot(net)
    with pytest.raises(type(error)) as caught:
        made(kind, net)(images(), 1)
    assert caught.value is error
    assert (error.__cause__, error.__context__) == (None, None)
    assert net.runs <= 2
    assert snapshot(net) == before


@pytest.mark.parametrize("kind", [ScoreCAM, Occlusion])
def test_errors_of_the_model_in_changed_images_come_once(kind):
    error = RuntimeError("my own")
    net = Failing(error, start=1)
    with pytest.raises(RuntimeError) as caught:
        made(kind, net)(images(), 1)
    assert caught.value is error
    assert net.runs <= 3


def test_interrupts_and_lack_of_memory_are_not_tried_again():
    for error in (KeyboardInterrupt(), torch.OutOfMemoryError("none left")):
        net = Failing(error)
        with pytest.raises(type(error)):
            GradCAM(net, "features")(images(), 1)
        assert net.runs == 1


def test_attempts_start_with_what_is_given_and_then_with_a_graph():
    seen = []

    def attempt(given: Inputs) -> int:
        seen.append((given.image.requires_grad, torch.is_grad_enabled()))
        if len(seen) < 2:
            raise ArithmeticError
        return 3

    with torch.no_grad():
        assert completed(attempt, Inputs.of(images())) == 3
    assert seen == [(False, False), (True, True)]


class Opaque(torch.autograd.Function):
    @staticmethod
    def forward(ctx, output):
        return output.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise ArithmeticError("no backward here")


class Undifferentiable(Net):
    def forward(self, batch: Tensor) -> Tensor:
        return Opaque.apply(super().forward(batch))


@pytest.mark.parametrize("kind", [EigenCAM, ScoreCAM])
def test_layer_is_chosen_without_a_gradient_where_there_is_none(kind):
    base = convolutional()
    net = Undifferentiable(base.features, base.tail).eval()
    assert kind(net)(images()).shape == (2, 8, 8)
    with pytest.raises(ArithmeticError, match="no backward here"):
        GradCAM(net)(images())


@pytest.mark.parametrize("kind", [ScoreCAM, AblationCAM])
def test_advice_does_not_cost_the_map(kind):
    base = convolutional()
    net = Undifferentiable(base.features, base.tail).eval()
    with pytest.warns(CamlibWarning, match="zero everywhere.* another layer may know more"):
        found = kind(net, "features")(images(), lambda output: 0 * output[:, 1])
    assert not found.any()
