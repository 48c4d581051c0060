"""What a forward pass leaves at layers, and the gradients there."""

from __future__ import annotations

import threading
from collections import namedtuple
from unittest.mock import Mock

import pytest
import torch
from nets import Net, by_hand, convolutional, images, pooled
from snapshot import snapshot
from torch import nn
from torch.nn import functional as F

from camlib import CamlibWarning, GradCAM, GraphError, HiResCAM, LayerError, Saliency
from camlib.passes.capture import capture
from camlib.passes.gradients import gradients
from camlib.passes.means import spread_out
from camlib.passes.visits import visits


@pytest.mark.parametrize("layer", [0, 1, 2, 3, 4])
def test_in_place_layers_do_not_overwrite_what_is_captured(layer):
    net, batch = convolutional(in_place=True), images()
    with capture(net, [f"features.{layer}"]) as seen:
        scores = net(batch)[:, 1:2]
        [[gradient]] = seen.gradients(scores)
    [activation] = seen.activations()
    expected_activation, expected_gradient = by_hand(net, batch, layer, 1)
    torch.testing.assert_close(activation.detach(), expected_activation)
    torch.testing.assert_close(gradient[0], expected_gradient)


def test_several_layers_from_one_pass():
    net, batch = convolutional(), images()
    with capture(net, ["features.4", "features.1", "tail.0"]) as seen:
        [found] = seen.gradients(net(batch)[:, 1:2])
    assert seen.names == ("features.4", "features.1", "tail.0")
    torch.testing.assert_close(found[0][0], by_hand(net, batch, 4, 1)[1])
    torch.testing.assert_close(found[1][0], by_hand(net, batch, 1, 1)[1])


def test_many_classes_come_in_chunks(monkeypatch):
    net, batch = convolutional(), images()
    with capture(net, ["features"]) as seen:
        [whole] = seen.gradients(net(batch))
    monkeypatch.setattr("camlib.passes.gradients._CHUNK_BYTES", 3 * 2 * 6 * 4 * 4 * 4)
    with capture(net, ["features"]) as seen:
        chunks = list(seen.gradients(net(batch)))
    assert [len(gradient) for [gradient] in chunks] == [3, 1]
    torch.testing.assert_close(torch.cat([gradient for [gradient] in chunks]), whole[0])


MEANS = {
    "adaptive pooling": lambda features: F.adaptive_avg_pool2d(features, 1).flatten(1),
    "mean over places": lambda features: features.mean((2, 3)),
    "mean, negative, kept": lambda features: features.mean([-1, -2], keepdim=True).flatten(1),
    "mean of rows": lambda features: features.mean(2).square().sum(2),
    "mean of a copy": lambda features: features.clone().mean((2, 3)),
}
"""Where every place of the features gets one gradient."""

OTHERS = {
    "mean of what is positive": lambda features: features.relu().mean((2, 3)),
    "mean and maximum": lambda features: features.mean((2, 3)) + features.amax((2, 3)),
    "two means": lambda features: features.mean((2, 3)) * features.mean((2, 3)),
    "flat mean": lambda features: features.flatten(2).mean(2),
    "mean of all": lambda features: features.mean() + features.amax((2, 3)),
}


def gradients_behind(pool, classes):
    """The gradients of `classes` scores at features ``(2, 6, 4, 5)``, and those of a loop."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 6, 4, 5, generator=generator, dtype=torch.float64)
    weights = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    scores = (pool(features.requires_grad_()) @ weights).square()[:, :classes]
    [[found]] = gradients(scores, [features], ["features"])
    scores = (pool(features) @ weights).square()
    expected = [
        torch.autograd.grad(scores[:, k].sum(), features, retain_graph=True)[0]
        for k in range(classes)
    ]
    return found, torch.stack(expected)


@pytest.mark.parametrize("pool", MEANS.values(), ids=MEANS)
def test_backward_stops_at_a_mean_and_copies_nothing(pool):
    found, expected = gradients_behind(pool, 3)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert found.untyped_storage().nbytes() <= expected.untyped_storage().nbytes() / 4


@pytest.mark.parametrize("pool", [*MEANS.values(), *OTHERS.values()], ids=[*MEANS, *OTHERS])
@pytest.mark.parametrize("classes", [1, 2])
def test_gradients_are_those_of_a_loop_whatever_pools(pool, classes):
    found, expected = gradients_behind(pool, classes)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("pool", MEANS.values(), ids=MEANS)
def test_a_mean_that_does_not_agree_with_the_ordinary_pass_is_not_taken(pool, monkeypatch):
    mistaken = Mock(side_effect=lambda gradients, expected: spread_out(2 * gradients, expected))
    monkeypatch.setattr("camlib.passes.gradients.spread_out", mistaken)
    found, expected = gradients_behind(pool, 3)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert mistaken.called


def weighed(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(7)).double().requires_grad_()


W, B = weighed(5, 6), weighed(5)
HEADS = {
    "linear": lambda pooled: F.linear(pooled, W, B),
    "two linear": lambda pooled: F.linear(F.linear(pooled, W[:, :6].T @ W).tanh(), W, B),
    "weight from the input": lambda pooled: F.linear(pooled, W * pooled.mean()),
    "bias alone": lambda pooled: F.linear(pooled.detach(), W, pooled.mean(0)[:5]),
    "softmax": lambda pooled: F.linear(pooled, W, B).softmax(1),
}


@pytest.mark.parametrize("index", [[[0, 3, 1], [4, 4, 2]], [[1], [0]]])
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_gradients_of_picked_classes_are_those_of_a_loop_whatever_follows_the_mean(head, index):
    features = weighed(2, 6, 4, 5)
    scores = head(features.mean((2, 3))).gather(1, torch.tensor(index)).reshape(2, -1)
    expected = [
        torch.autograd.grad(each.sum(), features, retain_graph=True)[0] for each in scores.t()
    ]
    [[found]] = gradients(scores, [features], ["features"])
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dims", [(2,), (-1,), (1, -1), (-2,)])
def test_gradient_of_a_mean_over_any_axes(dims):
    series = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    scores = series.mean(dims, keepdim=True).square().sum((1, 2))
    expected = torch.autograd.grad(scores.sum(), series, retain_graph=True)[0]
    [[found]] = gradients(torch.stack([scores, 2 * scores], 1), [series], ["series"])
    torch.testing.assert_close(found, torch.stack([expected, 2 * expected]))


class Doubling(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        return 2 * value

    @staticmethod
    def backward(ctx, gradient):
        # Data-dependent: there is no way to batch this.
        return 2 * gradient if bool(gradient.abs().sum() >= 0) else gradient


class Raw(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        return 2 * value

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient.data  # of a batched gradient this ends the process


@pytest.mark.parametrize("function", [Doubling, Raw])
def test_operator_without_batching_rule_takes_a_loop(function):
    class Odd(nn.Module):
        def forward(self, features):
            return function.apply(features)

    net, batch = pooled(), images()
    odd = Net(net.features, nn.Sequential(Odd(), net.tail)).eval()
    with capture(net, ["features"]) as seen:
        [[expected]] = seen.gradients(net(batch))
    with capture(odd, ["features"]) as seen:
        [[found]] = seen.gradients(odd(batch))
    torch.testing.assert_close(found, 2 * expected)


def doubled(gradient):
    gradient.mul_(2)


KEPT = []
HOOKS = {
    "scaled": lambda gradient: 3 * gradient,
    "positive": lambda gradient: gradient.clamp(min=0),
    "normed": lambda gradient: gradient / gradient.norm(),
    "normed if large": lambda g: g / g.norm() if g.norm() > 1e-3 else g,
    "in place": doubled,
    "data": lambda gradient: gradient.data * 2,
    "NumPy": lambda gradient: torch.from_numpy(2 * gradient.numpy()),
    "masked": lambda gradient: gradient.clone().masked_fill_(gradient < 0, 0),
    "kept": lambda gradient: KEPT.append(gradient.mean()),
}
"""What models and their users do with gradients on their way."""

PLACES = {
    "tensor before the tail": lambda net, hook: net.tail.register_forward_pre_hook(
        lambda _module, args: args[0].register_hook(hook) and None
    ),
    "output of the layer": lambda net, hook: net.features.register_forward_hook(
        lambda _module, _args, output: output.register_hook(hook) and None, prepend=True
    ),
    "scores": lambda net, hook: net.register_forward_hook(
        lambda _module, _args, output: output.register_hook(hook) and None
    ),
    "node": lambda net, hook: net.register_forward_hook(
        lambda _module, _args, output: (
            output.grad_fn.register_prehook(lambda g: (hook(g[0]),)) and None
        )
    ),
    "backward pass of a module": lambda net, hook: net.tail.register_full_backward_hook(
        lambda _module, gradients, _outer: (hook(gradients[0]),)
    ),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
@pytest.mark.parametrize("build", [pooled, convolutional])
def test_hooks_on_tensors_see_one_class_and_several_alike(build, hook, place):
    net, batch = build(), images()
    place(net, lambda gradient: kept if (kept := hook(gradient)) is not None else gradient)
    for method in (HiResCAM(net, "features"), GradCAM(net, "features"), Saliency(net)):
        options = {} if isinstance(method, Saliency) else {"relu": False}
        together = method.explain(batch, [[1, 2], [1, 2]], **options).map
        for k in (0, 1):
            alone = method.explain(batch, k + 1, **options).map
            assert torch.equal(together[:, k], alone)
            assert alone.any()
    assert all(type(each) is torch.Tensor and each.isfinite() for each in KEPT)
    KEPT.clear()


def test_graph_starts_at_the_layer():
    net = pooled()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t.shape) or t, lambda t: t
    ):
        with capture(net, ["features"]):
            net(images())
    assert saved
    assert not [shape for shape in saved if shape[-1] == 8]


def test_other_threads_do_not_write_here():
    net = pooled()
    with capture(net, ["features"]) as seen:
        net(images(2))
        other = threading.Thread(target=net, args=(images(5),))
        other.start()
        other.join()
        [activation] = seen.activations()
    assert len(activation) == 2


def test_layer_that_runs_twice_gives_its_last_call():
    class Twice(Net):
        def forward(self, batch):
            found = self.features(batch)
            return self.tail(found + self.features[4](1 - found))

    net = Twice(pooled().features, pooled().tail).eval()
    relu = net.features[4]
    with pytest.warns(
        CamlibWarning, match="layer 'features.4' ran 2 times in one pass, and the map"
    ):
        GradCAM(net, relu)(images())
    with capture(net, [relu], graph="none") as seen:
        net(images())
    torch.testing.assert_close(seen.activations()[0], relu(1 - net.features(images())))


Pair = namedtuple("Pair", ["name", "maps"])


@pytest.mark.parametrize(
    "pack",
    [
        lambda maps: (maps, None),
        lambda maps: ["ids", maps],
        lambda maps: Pair("ids", maps),
        lambda maps: {"ids": torch.zeros(2).long(), "maps": maps},
    ],
)
def test_layer_that_returns_more_than_a_tensor(pack):
    class Packed(nn.Module):
        def forward(self, batch):
            return pack(batch)

    class Unpacked(nn.Module):
        def forward(self, packed):
            kind = type(pack(None))
            assert type(packed) is kind
            values = packed.values() if isinstance(packed, dict) else packed
            [maps] = [v for v in values if isinstance(v, torch.Tensor) and v.is_floating_point()]
            return maps

    net = pooled()
    packing = Net(nn.Sequential(net.features, Packed()), nn.Sequential(Unpacked(), net.tail)).eval()
    torch.testing.assert_close(GradCAM(packing, "features")(images()), GradCAM(net)(images()))


def test_layer_without_a_tensor():
    class Words(nn.Module):
        def forward(self, batch):
            self_words.append(batch)
            return "words"

    class Reads(nn.Module):
        def forward(self, _words):
            return self_words.pop()

    self_words = []
    net = pooled()
    odd = Net(nn.Sequential(net.features, Words()), nn.Sequential(Reads(), net.tail)).eval()
    with pytest.raises(LayerError, match="layer 'features' returned str with no floating-point"):
        GradCAM(odd, "features")(images())


def test_layer_that_does_not_run():
    net = pooled()
    net.spare = nn.Conv2d(3, 3, 1)
    with pytest.raises(LayerError, match="layer 'spare' did not run in the forward pass"):
        GradCAM(net, "spare")(images())


def test_output_overwritten_through_another_name():
    class Sly(Net):
        def forward(self, batch):
            found = self.features(batch)
            kept = self.same(found)
            found.mul_(3)
            return self.tail(kept)

    net = Sly(pooled().features, pooled().tail).eval()
    net.same = nn.Identity()
    with pytest.raises(LayerError, match="'same' was overwritten in place through another name"):
        GradCAM(net, "same")(images())


def test_score_that_does_not_depend_on_the_layer():
    class Beside(Net):
        def forward(self, batch):
            self.aside(batch)
            return super().forward(batch)

    net = Beside(pooled().features, pooled().tail).eval()
    net.aside = nn.Conv2d(3, 4, 3, padding=1)
    with pytest.raises(GraphError, match="no gradient flows from the score to 'aside'"):
        GradCAM(net, "aside")(images())
    with pytest.raises(GraphError, match="no gradient flows from the score to 'aside'"):
        GradCAM(net, ["aside", "features"])(images())


def test_detached_tail():
    class Detached(nn.Module):
        def forward(self, features):
            return features.detach()

    net = pooled()
    cut = Net(net.features, nn.Sequential(Detached(), net.tail)).eval()
    with pytest.raises(GraphError, match="no gradient flows from the score to 'features'"):
        GradCAM(cut, "features")(images())


def test_no_grad_inside_the_model_around_the_layer():
    class FrozenBackbone(Net):
        def forward(self, batch):
            with torch.no_grad():
                found = self.features(batch)
            return self.tail(found)

    class NeverTrained(Net):
        @torch.no_grad()
        def forward(self, batch):
            return super().forward(batch)

    net = pooled()
    expected = GradCAM(net, "features")(images())
    for kind in (FrozenBackbone, NeverTrained):
        model = kind(net.features, net.tail).eval()
        torch.testing.assert_close(GradCAM(model, "features")(images()), expected)
        torch.testing.assert_close(GradCAM(model)(images()), expected)


def test_checkpointed_layers():
    class Checkpointed(Net):
        def forward(self, batch):
            run = torch.utils.checkpoint.checkpoint
            found = run(self.features, batch, use_reentrant=False)
            return run(self.tail, found, use_reentrant=False)

    net = pooled()
    model = Checkpointed(net.features, net.tail).eval()
    expected = GradCAM(net, "features.2")(images())
    torch.testing.assert_close(GradCAM(model, "features.2")(images()), expected)


def test_hooks_are_gone_after_an_interrupt():
    net = pooled()
    before = snapshot(net)
    with pytest.raises(KeyboardInterrupt), capture(net, ["features"]):
        raise KeyboardInterrupt
    assert snapshot(net) == before


def test_visits_come_in_the_order_in_which_layers_finish():
    net = pooled()
    before = snapshot(net)
    with visits(net) as order:
        net(images())
    assert [visit.name for visit in order][:6] == [*(f"features.{i}" for i in range(5)), "features"]
    assert order[4].shape == (2, 6, 4, 4)
    assert snapshot(net) == before
