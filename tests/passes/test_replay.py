"""Replay gives what the whole model gives, on the architectures of the field and on odd ones."""

from __future__ import annotations

import threading

import pytest
import torch
from nets import Net, Pooling, images, pooled, spread
from snapshot import snapshot
from torch import nn
from torch.nn import functional as F
from torchvision import models

from camlib.layouts import ChannelsFirst
from camlib.passes.capture import replacing
from camlib.passes.forward import Pass
from camlib.passes.inputs import Inputs
from camlib.passes.interception import wrapping
from camlib.passes.replay import Needs, Tail


class UNet(nn.Module):
    """Two levels with a skip connection, one ReLU for all, and the mean as logits."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 6, 3, padding=1)
        self.inner = nn.Conv2d(6, 8, 3, padding=1)
        self.up = nn.Conv2d(14, 6, 3, padding=1)
        self.head = nn.Conv2d(6, 4, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, batch):
        fine = self.relu(self.down(batch))
        coarse = self.relu(self.inner(F.max_pool2d(fine, 2)))
        joined = torch.cat([fine, F.interpolate(coarse, scale_factor=2)], 1)
        return self.head(self.relu(self.up(joined))).mean((2, 3))


def of_torchvision(name, **options):
    return lambda: getattr(models, name)(weights=None, **options)


CASES = {
    "resnet18": (of_torchvision("resnet18"), ["layer4", "layer3.0.conv2", "layer3.0.relu@0"]),
    "vgg11": (of_torchvision("vgg11"), ["features", "features.13"]),
    "densenet121": (
        of_torchvision("densenet121"),
        ["features", "features.denseblock3.denselayer3"],
    ),
    "googlenet": (
        of_torchvision("googlenet", init_weights=False),
        ["inception5b", "inception4c.branch2.0.conv"],
    ),
    "efficientnet_b0": (of_torchvision("efficientnet_b0"), ["features", "features.5.0.block.1"]),
    "mobilenet_v2": (of_torchvision("mobilenet_v2"), ["features", "features.13.conv.1"]),
    "mobilenet_v3": (of_torchvision("mobilenet_v3_small"), ["features", "features.6.block.1"]),
    "vit_b_16": (
        of_torchvision("vit_b_16", image_size=64),
        ["encoder.layers.encoder_layer_11.ln_1", "encoder.layers.encoder_layer_10"],
    ),
    "swin_t": (of_torchvision("swin_t"), ["features", "features.5.1.norm1", "features.5.1.attn"]),
    "convnext_tiny": (of_torchvision("convnext_tiny"), ["features", "features.5.2.block.3"]),
    "unet": (UNet, ["inner", "relu@1", "up"]),
}


def passed(net, batch, layer, needs=None):
    """The clean pass, and the tail of `layer`, tried in it."""
    needs = Needs() if needs is None else needs
    with torch.no_grad():
        tail = Tail(net, layer, needs)
        run = Pass.of(net, Inputs.of(batch), [2, 1][: len(batch)], (layer,), "none", tails=[tail])
        run.try_replay(0, ChannelsFirst(), several=True)
    return run


def in_full(run, samples, changed):
    """What the whole model answers with the output of the layer replaced."""
    [name] = run.seen.names
    call = int(name.partition("@")[2] or run.seen.calls[name] - 1)
    with torch.no_grad(), replacing(run.model, name, call, changed):
        output = run.model(run.inputs.image[samples])
    return run.target[samples](output)[:, None]


@torch.no_grad()
def assert_replayed(run):
    [activation] = run.seen.activations()
    every = torch.arange(len(activation))
    scale = float(run.scores.abs().max())
    torch.testing.assert_close(
        run.again(0, every, activation.clone()), run.scores, rtol=1e-4, atol=1e-5 * scale
    )
    samples = every.flip(0).repeat(2)
    changed = activation[samples] * torch.rand(
        activation[samples].shape, generator=torch.Generator().manual_seed(0)
    )
    expected = in_full(run, samples, changed.clone())
    assert (expected - run.scores[samples]).abs().max() > 1e-3 * scale
    torch.testing.assert_close(
        run.again(0, samples, changed), expected, rtol=1e-4, atol=1e-5 * scale
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_replay_is_the_whole_model_with_the_layer_replaced(name):
    build, layers = CASES[name]
    net = spread(build())
    before = snapshot(net)
    batch = images(2, 64, 64)
    for layer in layers:
        run = passed(net, batch, layer)
        assert run.tails[0].needs.replayable
        assert_replayed(run)
        again = passed(net, batch, layer, run.tails[0].needs)
        assert_replayed(again)
    assert snapshot(net) == before


class Counting(nn.Module):
    """Counts its calls, and adds nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, features):
        self.calls += 1
        return features


class Skipping(nn.Module):
    """A skip connection into which functions write in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), Counting())
        self.side = nn.Conv2d(6, 6, 1)
        self.body = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, batch):
        stem = self.stem(batch)
        side = self.side(stem)
        body = self.body(stem)
        side += body
        side.relu_()
        return self.head((side * stem).mean((2, 3)))


def test_what_came_before_does_not_run_again():
    net = spread(Skipping())
    run = passed(net, images(), "body")
    assert net.stem[1].calls == 1
    [activation] = run.seen.activations()
    samples = torch.tensor([1, 1, 0])
    with torch.no_grad():
        found = run.again(0, samples, activation[samples])
    assert net.stem[1].calls == 1
    torch.testing.assert_close(found, run.scores[samples])
    assert {number for number in run.tails[0].needs.kept if number >= 0} == {0, 1}


def test_writing_in_place_does_not_corrupt_what_is_kept():
    assert_replayed(passed(spread(Skipping()), images(), "body"))
    assert_replayed(passed(spread(Skipping()), images(1), "body"))


def test_what_is_not_needed_takes_no_memory():
    run = passed(spread(models.resnet18(weights=None)), images(2, 64, 64), "layer4")
    [tail] = run.tails
    kept = [output for _, output in tail._kept]
    assert len(kept) == 8
    assert all(output.untyped_storage().nbytes() == 4 for output in kept)
    assert all(output.isnan().all() for output in kept)
    later = passed(run.model, images(2, 64, 64), "layer4", tail.needs)
    assert all(o.untyped_storage().nbytes() == 4 for _, o in later.tails[0]._kept)


class Structured(Net):
    """The layer returns a mapping, and a module before it a tuple with integers."""

    class Split(nn.Module):
        def forward(self, batch):
            return batch, torch.full((len(batch),), 2)

    class Named(nn.Module):
        def __init__(self, body):
            super().__init__()
            self.body = body

        def forward(self, batch, factor):
            return {"count": 3, "out": self.body(batch * factor[:, None, None, None])}

    def __init__(self) -> None:
        base = pooled()
        super().__init__(self.Named(base.features), base.tail)
        self.split = self.Split()

    def forward(self, batch):
        batch, factor = self.split(batch)
        return self.tail(self.features(batch, factor)["out"])


def test_layers_that_return_mappings_and_modules_that_return_tuples():
    run = passed(Structured().eval(), images(), "features")
    assert run.tails[0].needs.replayable
    assert_replayed(run)


class Table(Net):
    """A module before the layer returns something without samples."""

    class Offsets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([1.0, -2, 3, 0.5]))

        def forward(self):
            return self.weight * 2

    def __init__(self) -> None:
        base = pooled()
        super().__init__(base.features, base.tail)
        self.offsets = self.Offsets()

    def forward(self, batch):
        offsets = self.offsets()
        return self.tail(self.features(batch)) + offsets.mul_(2)


@pytest.mark.parametrize("count", [1, 2])
def test_what_belongs_to_no_sample_is_the_same_for_all(count):
    run = passed(Table().eval(), images(count), "features")
    assert run.tails[0].needs.replayable
    assert_replayed(run)


def test_hooks_of_the_user_change_what_is_kept_once():
    net = spread(Skipping())
    net.side.register_forward_hook(lambda module, args, output: output * 2)
    net.body.register_forward_hook(lambda module, args, output: output + 1)
    assert_replayed(passed(net, images(), "body"))


def test_own_forward_of_a_module_is_put_back():
    net = spread(Skipping())
    own = net.side.forward
    net.side.forward = lambda features: own(features) * 3
    kept = net.side.forward
    before = snapshot(net)
    run = passed(net, images(), "body")
    assert_replayed(run)
    assert net.side.forward is kept
    assert snapshot(net) == before


class Remembering(Net):
    """Uses what a module before the layer left behind, and not what it returned."""

    def __init__(self) -> None:
        base = pooled()
        super().__init__(base.features, base.tail)
        self.stem = nn.ReLU(inplace=True)

    def forward(self, batch):
        batch = batch * 1
        self.stem(batch)
        return self.tail(self.features(batch)) + batch.mean((1, 2, 3))[:, None]


class Foreign(Net):
    """The layer runs inside a module that does not hold it."""

    class Borrowing(nn.Module):
        def __init__(self, lent):
            super().__init__()
            self.lent = [lent]

        def forward(self, batch):
            return self.lent[0](batch) + 1

    def __init__(self) -> None:
        base = pooled()
        super().__init__(base.features, base.tail)
        self.borrowing = self.Borrowing(base.features)

    def forward(self, batch):
        return self.tail(self.borrowing(batch)) * 2


class SamplesSecond(nn.Module):
    """A module before the layer returns ``(T, N, C)``, as many of the first as of the second."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 6)
        self.layer = nn.Conv2d(3, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, batch):
        series = self.stem(batch.mean(3).permute(2, 0, 1)[: len(batch)])
        features = self.layer(batch).mean((2, 3))
        return self.head((series * features).sum(0))


@pytest.mark.filterwarnings("ignore:SamplesSecond answers a sample:camlib.CamlibWarning")
@pytest.mark.parametrize(
    ("build", "layer"),
    [(Remembering, "features"), (Foreign, "features"), (SamplesSecond, "layer")],
)
def test_models_that_defeat_it_run_in_full(build, layer):
    net = spread(build())
    before = snapshot(net)
    run = passed(net, images(), layer)
    assert not run.tails[0].needs.replayable
    assert_replayed(run)
    later = passed(net, images(), layer, run.tails[0].needs)
    assert_replayed(later)
    assert not later.tails[0]._kept
    assert snapshot(net) == before


def test_several_layers_in_one_pass():
    net, batch = spread(models.resnet18(weights=None)), images(2, 32, 32)
    names = ("layer1.0.conv1", "layer1", "layer3.1.bn1")
    with torch.no_grad():
        tails = [Tail(net, name, Needs()) for name in names]
        run = Pass.of(net, Inputs.of(batch), 1, names, "none", tails=tails)
        for number, (name, activation) in enumerate(
            zip(names, run.seen.activations(), strict=True)
        ):
            run.try_replay(number, ChannelsFirst(), several=True)
            assert tails[number].needs.replayable
            changed = activation.flip(0)
            with replacing(net, name, 0, changed.clone()):
                expected = net(batch)[:, 1:2]
            torch.testing.assert_close(run.again(number, torch.tensor([0, 1]), changed), expected)


def test_other_threads_run_the_model_itself():
    net, batch = spread(Skipping()), images()
    expected = net(batch)
    found = []
    thread = threading.Thread(target=lambda: found.append(net(batch)))
    with wrapping(list(net.modules()), lambda module, forward: None):
        thread.start()
        thread.join()
        assert net(batch) is None
    assert torch.equal(found[0], expected)


def test_wrappers_go_with_the_last_thread_that_needs_them():
    net = spread(Skipping())
    before = snapshot(net)
    modules = list(net.modules())
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with wrapping(modules, lambda module, forward: forward()):
            entered.set()
            leave.wait(5)

    thread = threading.Thread(target=hold)
    with wrapping(modules, lambda module, forward: forward()):
        thread.start()
        entered.wait(5)
    assert "forward" in vars(net.body)
    leave.set()
    thread.join()
    assert snapshot(net) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, ArithmeticError])
def test_error_in_a_replay_leaves_the_model_as_found(error):
    net = spread(Skipping())
    run = passed(net, images(), "body")
    before = snapshot(net)

    def fail(*_):
        raise error

    handle = net.head.register_forward_hook(fail)
    with torch.no_grad():
        with pytest.raises(error):
            run.again(0, torch.tensor([0]), run.seen.activations()[0][:1])
        with pytest.raises(error):
            passed(net, images(), "body")
    handle.remove()
    assert snapshot(net) == before


class Turned(nn.Module):
    def forward(self, tokens):
        return tokens.mT


def test_tokens():
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    patches = nn.Conv2d(3, 8, 2, 2), nn.Flatten(2), Turned()
    net = nn.Sequential(*patches, encoder, Turned(), Pooling(), nn.Linear(8, 4))
    assert_replayed(passed(spread(net), images(), "2"))
