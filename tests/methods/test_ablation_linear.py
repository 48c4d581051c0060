"""Ablation-CAM where a linear layer has the channels side by side, and where it seems to."""

from __future__ import annotations

import threading

import pytest
import torch
from nets import Net, assert_slope, images, spread
from reference import ablation_cam
from snapshot import snapshot
from torch import nn
from torch.nn import functional as F

from camlib import AblationCAM, layouts
from camlib.methods import ablation
from camlib.methods.ablation_linear import Channelwise
from camlib.passes import chunks

pytestmark = pytest.mark.filterwarnings("ignore:a map at layer:camlib.CamlibWarning")

CHANNELS = 24
CLASSES = [[2, 0], [1, 3], [0, 2]]
"""Two for each of three images."""


@pytest.fixture
def taken(monkeypatch):
    """Whether each call found the channels side by side."""
    found = []

    class Noted:
        @staticmethod
        def of(*args):
            found.append((blocks := Channelwise.of(*args)) is not None)
            return blocks

    monkeypatch.setattr(ablation, "Channelwise", Noted)
    return found


class Lambda(nn.Module):
    """A function of what comes in."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, features):
        return self.function(features)


def body(*, in_place=False):
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1),
        nn.ReLU(inplace=in_place),
        nn.Conv2d(5, CHANNELS, 3, padding=1),
        nn.BatchNorm2d(CHANNELS),
        nn.ReLU(inplace=in_place),
        nn.MaxPool2d(2),
    )


def head(width=4 * CHANNELS, *, in_place=False):
    return [
        nn.Linear(width, 16),
        nn.ReLU(inplace=in_place),
        nn.Dropout(),
        nn.Linear(16, 12),
        nn.Hardswish(inplace=in_place),
        nn.Linear(12, 4),
    ]


def vgg(*between, width=4 * CHANNELS, in_place=False):
    """Convolutions, `between`, pooling to 2 x 2, and linear layers of `width` inputs."""
    tail = [*between, nn.AdaptiveAvgPool2d(2), nn.Flatten(), *head(width, in_place=in_place)]
    return spread(Net(body(in_place=in_place), nn.Sequential(*tail))).double()


def expected(net, batch, layer="features"):
    """The maps ``(N, 2, h, w)`` of all channels of `layer` left out one by one, by the paper."""
    module = net.get_submodule(layer)
    with torch.no_grad():
        kept = []
        handle = module.register_forward_hook(lambda *call: kept.append(call[2].clone()))
        net(batch)
        handle.remove()
        maps = []
        for n, classes in enumerate(CLASSES[: len(batch)]):

            def tail(activation, n=n):
                put_in = module.register_forward_hook(lambda *_: activation.clone())
                output = net(batch[n : n + 1])
                put_in.remove()
                return output

            maps.append(torch.stack([ablation_cam(tail, kept[0][n], c) for c in classes]))
    return torch.stack(maps)


def found(net, batch, layer="features", **options):
    return AblationCAM(net, layer, relu=False, **options).explain(batch, CLASSES[: len(batch)])


def assert_right(net, batch, layer="features", **options):
    seen = found(net, batch, layer, **options)
    reference = expected(net, batch, layer)
    scale = float(reference.abs().max())
    assert scale > 1e-3
    torch.testing.assert_close(seen.map, reference, rtol=1e-8, atol=1e-11 * scale)
    return seen


@pytest.mark.parametrize("batch_size", [None, 1, 7])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("layer", ["features.2", "features.3", "features.4", "features"])
def test_the_map_is_that_of_the_paper(taken, layer, in_place, batch_size):
    net, batch = vgg(in_place=in_place), images(3).double()
    before = snapshot(net)
    seen = assert_right(net, batch, layer, batch_size=batch_size)
    assert taken == [True]
    assert seen.replayed is True
    assert snapshot(net) == before


@pytest.mark.parametrize("layer", ["features.1", "features.2", "features"])
def test_one_image(taken, layer):
    assert_right(vgg(), images(1).double(), layer)
    assert taken == [layer != "features.1"]


def test_the_general_way_gives_the_same(monkeypatch):
    net, batch = vgg(), images(3).double()
    blocks = found(net, batch).map
    monkeypatch.setattr(Channelwise, "of", lambda *_: None)
    torch.testing.assert_close(found(net, batch).map, blocks, rtol=1e-9, atol=1e-12)


def test_the_linear_layer_and_what_lies_before_it_do_not_run_for_each_channel():
    net, batch = vgg(), images(1)
    net.float().features[4] = nn.Tanh()  # no channel is zero
    rows = {}
    for name in ("tail.0", "tail.2", "tail.5"):
        rows[name] = []
        net.get_submodule(name).register_forward_hook(
            lambda _module, _args, output, name=name: rows[name].append(len(output))
        )
    method = AblationCAM(net, "features", batch_size=7)
    method(batch, 1)
    for each in rows.values():
        each.clear()
    method(batch, 1)
    # Once clean, whole and without any, two halves for each of 5 bits, 3 channels left out; and
    # one row for each batch behind the linear layer: 3 in one, 24 in four.
    assert sum(rows["tail.0"]) == 1 + 1 + 2 + 10 + 3 + 1 + 4
    assert sum(rows["tail.2"]) == 3 + CHANNELS + 1 + 3
    assert rows["tail.5"][-4:] == [7, 7, 7, 3]
    assert max(rows["tail.0"]) <= 7


def test_progress_sees_the_batches():
    sizes = []

    def progress(chunks):
        sizes.append([len(chunk) for chunk in chunks])
        return chunks

    net = vgg()
    net.features[4] = nn.Tanh()
    found(net, images(2).double(), batch_size=20, progress=progress)
    assert sizes == [[20, 20, 8]]


def test_channels_that_are_zero_do_not_run():
    net, batch = vgg(), images(1).double()
    net.features[3].weight.data[:20] = 0
    net.features[3].bias.data[:20] = -1
    rows = []
    net.tail[5].register_forward_hook(lambda *call: rows.append(len(call[2])))
    AblationCAM(net, "features").explain(batch, 1)
    assert rows[-1] <= CHANNELS - 20
    assert_right(net, batch)


class Wired(nn.Module):
    """`wire(features, linear, batch)` between the body and further layers."""

    def __init__(self, wire, width=4 * CHANNELS, inputs=16) -> None:
        super().__init__()
        self.features, self.wire = body(), wire
        self.linear = nn.Linear(width, 16)
        self.tail = nn.Sequential(nn.Tanh(), nn.Linear(inputs, 4))

    def forward(self, batch):
        return self.tail(self.wire(self.features(batch), self.linear, batch))


def pooled(features):
    return F.adaptive_avg_pool2d(features, 2).flatten(1)


def around(features, linear, _batch):
    return linear(pooled(features)) + 1e-6 * features.mean((1, 2, 3))[:, None]


def around_nan(features, linear, _batch):
    return linear(pooled(features)) + features.nan_to_num().amax((1, 2, 3))[:, None]


def gated(features, linear, _batch):
    gate = features.amax((1, 2, 3)) > features.mean((1, 2, 3)) * 4
    return linear(pooled(features)) * torch.where(gate, 1, 2)[:, None]


def twice(features, linear, _batch):
    return linear(pooled(features)) * linear(pooled(features.square()))


def in_turn(features, linear, _batch):
    inside = linear(pooled(features))
    return inside + linear(inside.repeat(1, 6)).tanh()


def beside(features, linear, batch):
    return linear(pooled(features)) * batch.mean((1, 2, 3))[:, None]


def refusing(features, linear, _batch):
    assert features.isfinite().all()
    return linear(pooled(features))


def catching(features, linear, _batch):
    try:
        return linear(pooled(features))
    except Exception:
        return features.mean((1, 2, 3))[:, None].expand(-1, 16)


def whole_batch(features, linear, _batch):
    flat = pooled(features)
    return linear(flat).reshape(len(features), 16)


def sharpest(features, linear, _batch):
    """The channel that is largest of all counts twice."""
    strength = features.amax((2, 3), keepdim=True)
    return linear(pooled(features * (1 + (strength == strength.amax(1, keepdim=True)))))


def channels_last(features, linear, _batch):
    return linear(F.adaptive_avg_pool2d(features, 2).permute(0, 2, 3, 1).flatten(1))


def weak(features):
    """Channels of which the first two count little."""
    return torch.cat([features[:, :2] / 100, features[:, 2:]], 1)


def added(features, linear, _batch):
    features = weak(features)
    second = features[:, 1:2] + features[:, :1]
    return linear(pooled(torch.cat([features[:, :1], second, features[:, 2:]], 1)))


def gating(features, linear, _batch):
    features = weak(features)
    second = features[:, 1:2] * features[:, :1]
    return linear(pooled(torch.cat([features[:, :1], second, features[:, 2:]], 1)))


def in_half_precision(features, linear, _batch):
    with torch.autocast("cpu", torch.bfloat16, enabled=features.dtype == torch.float32):
        return linear(pooled(features)).to(features.dtype)


def with_count(features, linear, _batch):
    flat = pooled(features)
    return linear(torch.cat([flat, flat.mean(1, keepdim=True)], 1))


def of_tokens(features, linear, _batch):
    return linear(features.flatten(2).mT).mean(1)


def by_name(features, linear, _batch):
    return F.linear(input=pooled(features), weight=linear.weight, bias=linear.bias)


CASES = {
    "GroupNorm": (lambda: vgg(nn.GroupNorm(4, CHANNELS)), False),
    "LayerNorm": (lambda: vgg(nn.LayerNorm([CHANNELS, 4, 4])), False),
    "LocalResponseNorm": (lambda: vgg(nn.LocalResponseNorm(5)), False),
    "1x1 convolution": (lambda: vgg(nn.Conv2d(CHANNELS, CHANNELS, 1)), False),
    "softmax": (lambda: vgg(nn.Softmax(1)), False),
    "shuffled": (lambda: vgg(nn.ChannelShuffle(3)), False),
    "flattened with channels last": (lambda: Wired(channels_last), False),
    "instance norm": (lambda: vgg(nn.InstanceNorm2d(CHANNELS, affine=True)), True),
    "a skip of little weight": (lambda: Wired(around), False),
    "a skip that hides NaN": (lambda: Wired(around_nan), False),
    "a gate that hides NaN": (lambda: Wired(gated), False),
    "the layer's features twice": (lambda: Wired(twice), False),
    "the linear layer again on its output": (lambda: Wired(in_turn), True),
    "something of each sample beside it": (lambda: Wired(beside), False),
    "NaN refused": (lambda: Wired(refusing), False),
    "errors caught": (lambda: Wired(catching), True),
    "the size of the batch remembered": (lambda: Wired(whole_batch), False),
    "the strongest channel": (lambda: Wired(sharpest), False),
    "a weak channel that adds to another": (lambda: Wired(added), False),
    "a weak channel that is a gate for another": (lambda: Wired(gating), False),
    "one input more": (lambda: Wired(with_count, 4 * CHANNELS + 1), False),
    "tokens": (lambda: Wired(of_tokens, CHANNELS), False),
    "a function": (lambda: Wired(by_name), True),
}


@pytest.mark.parametrize("batch_size", [None, 3])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_where_it_does_not_hold_the_map_is_the_same(taken, name, count, batch_size):
    build, holds = CASES[name]
    net, batch = spread(build()).double(), images(count).double()
    seen = assert_right(net, batch, batch_size=batch_size)
    assert seen.replayed is True
    if name == "something of each sample beside it":  # with one sample, that is no matter
        holds = count == 1
    assert taken == [holds]


def test_samples_that_are_tried_alone_and_run_together(taken, monkeypatch):
    monkeypatch.setattr(chunks, "_BUDGET", 2**17)  # for one image and 32 outputs
    assert_right(spread(Wired(beside)).double(), images(3).double())
    assert taken == [False]


def test_number_of_channels_that_does_not_divide_the_inputs_costs_no_pass():
    passes = []

    def counted(*args):
        passes.append(1)
        return with_count(*args)

    net = spread(Wired(counted, 4 * CHANNELS + 1, 17))
    net.tail.insert(1, spread(nn.Linear(16, 17)))
    AblationCAM(net, "features", batch_size=1000)(images(1), 1)
    assert len(passes) == 4  # clean, two to settle what a replay takes, all channels


@pytest.mark.parametrize("count", [1, 3])
def test_model_that_defeats_replay_runs_in_full(taken, count):
    class Stem(nn.Module):
        def forward(self, batch):
            return batch.relu_()

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, net = Stem(), vgg()
            self.features, self.tail = net.features, net.tail

        def forward(self, batch):
            batch = batch * 1
            self.stem(batch)
            return self.tail(self.features(batch)) + batch.mean((1, 2, 3))[:, None]

    seen = assert_right(Model().eval(), images(count).double())
    assert seen.replayed is False
    assert taken == [False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_half_precision_runs_in_the_general_way(taken, dtype):
    net, batch = vgg(), images(2)
    exact = expected(net, batch.double())
    scale = float(exact.abs().max())
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            seen = found(net.to(dtype), batch.to(dtype))
        tolerance = 1e-5 if dtype == torch.float32 and not autocast else 0.1
        assert (seen.map - exact).abs().max() < tolerance * scale
    assert taken == [dtype == torch.float32, False]


def test_a_linear_layer_in_half_precision_runs_in_the_general_way(taken):
    net, batch = spread(Wired(in_half_precision)), images(2)
    seen = found(net, batch)
    exact = expected(net.double(), batch.double())
    assert (seen.map - exact).abs().max() < 0.1 * exact.abs().max()
    assert taken == [False]


@pytest.mark.parametrize("layout", [layouts.ChannelsLast(), lambda a: a.movedim(3, 1)])
def test_layers_with_channels_last(taken, layout):
    base, batch = vgg(), images(3).double()
    last, first = Lambda(lambda f: f.movedim(1, -1)), Lambda(lambda f: f.movedim(-1, 1))
    net = Net(nn.Sequential(*base.features, last), nn.Sequential(first, *base.tail)).eval()
    torch.testing.assert_close(
        found(net, batch, layout=layout).map, expected(base, batch), rtol=1e-8, atol=1e-10
    )
    assert taken == [True]


def test_several_layers(taken):
    net, batch = vgg(in_place=True), images(3).double()
    names = ["features.1", "features.2", "features"]
    for name, map_ in zip(names, found(net, batch, names).maps, strict=True):
        torch.testing.assert_close(map_, expected(net, batch, name), rtol=1e-8, atol=1e-10)
    assert taken == [False, True, True]


def test_a_function_as_the_target(taken):
    net, batch = vgg(), images(3).double()
    method = AblationCAM(net, "features", relu=False)
    seen = method.explain(batch, lambda out: (out[:, 1] - out[:, 2]).reshape(-1))
    one, other = (method.explain(batch, c).map for c in (1, 2))
    torch.testing.assert_close(seen.map, one - other, rtol=1e-8, atol=1e-10)
    assert taken == [True] * 3


def test_gradient_flows_through_the_map(taken):
    assert_slope(AblationCAM, vgg(), images(2).double(), 1)
    assert taken == [True] * 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, ArithmeticError])
@pytest.mark.parametrize("place", ["tail.0", "tail.2", "tail.5"])
def test_an_interrupt_leaves_the_model_as_found(place, error):
    net, batch = vgg(), images(2).double()
    method = AblationCAM(net, "features", batch_size=9)
    right = method(batch)
    calls, at = 0, None

    def stop(*_):
        nonlocal calls
        calls += 1
        if calls - 1 == at:
            raise error

    net.get_submodule(place).register_forward_pre_hook(stop)
    method(batch)
    passes, interrupted = calls, 0
    for at in range(passes):  # noqa: B007
        calls, before = 0, snapshot(net)
        try:
            # Where something is only tried, an error means that it does not hold.
            torch.testing.assert_close(method(batch), right)
        except error:
            interrupted += 1
        assert snapshot(net) == before
    assert interrupted == passes or (error is ArithmeticError and interrupted)


def test_other_threads_run_the_model_itself():
    net, batch = vgg(), images(2).double()
    with torch.no_grad():
        right = net(batch)
    main, answers = threading.get_ident(), []

    def run():
        with torch.no_grad():
            answers.append(net(batch))

    def elsewhere(*_):
        if threading.get_ident() == main:
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()

    plain = found(net, batch).map
    net.tail[0].register_forward_pre_hook(elsewhere)
    torch.testing.assert_close(found(net, batch).map, plain)
    assert len(answers) > 5
    assert all(torch.equal(answer, right) for answer in answers)
