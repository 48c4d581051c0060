"""Calls without end, and calls cut short: neither leaves anything behind."""

from __future__ import annotations

import gc
import inspect
import threading
from collections import Counter
from pathlib import Path

import pytest
import torch
from nets import Net, convolutional, fitting, images
from snapshot import snapshot
from torch import nn

from camlib import CAM, METHODS, AttentionMethod, LayerMethod
from camlib.passes import interception
from camlib.state import modes

pytestmark = [
    pytest.mark.filterwarnings("ignore:a map (at layer|of):camlib.CamlibWarning"),
    pytest.mark.filterwarnings("ignore:integrated gradients with:camlib.CamlibWarning"),
]

FEW = {"samples": 2, "steps": 2, "masks": 2, "groups": 2, "window": 4, "max_channels": 2}
"""Options that make a call short, for the methods that have them."""


def few(kind, net, **options):
    """A method of `kind` that takes few passes."""
    known = inspect.signature(kind).parameters
    layer = {"layer": "features"} if issubclass(kind, LayerMethod) else {}
    options = {**FEW, **options}
    return kind(net, **layer, **{name: options[name] for name in options if name in known})


def lengths():
    """Each method and how often it is called; a thousand times at night."""
    for name, kind in METHODS.items():
        yield pytest.param(kind, 100 if "for each" in kind.cost else 300, id=name)
        yield pytest.param(kind, 1000, id=f"{name}-at-night", marks=pytest.mark.nightly)


def left():
    """What there is in this process: objects by kind, tensors among them, threads, registers."""
    gc.collect()
    found = Counter(type(each).__qualname__ for each in gc.get_objects())
    found["threads"] = threading.active_count()
    found["switched modules"] = len(modes._switched)
    found["wrapped modules"] = len(interception._wrapped)
    return found


def resident():
    """Bytes of memory in use; 0 where that is not known."""
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * 4096 if pages.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "calls"), list(lengths()))
def test_many_calls_leave_nothing_behind(kind, calls):
    net, batch = fitting(kind).train(), images(1, 4, 4)
    method = few(kind, net)
    model = snapshot(net)

    def grown(count):
        """What there is more of after `count` calls, and bytes."""
        found, memory = left(), resident()
        for call in range(count):
            method(batch, target=call % 4)
        return left() - found, resident() - memory

    grown(20)
    # What is filled once grows once; a leak grows again.
    (first, memory), (second, more) = grown(calls // 2), grown(calls // 2)
    assert snapshot(net) == model
    assert not {name: count for name, count in (first & second).items() if count > calls // 40}
    assert min(memory, more) < 4e6


class Stopped(nn.Module):
    """Raises what `error` is in the pass with number `at`, forward or backward."""

    def __init__(self):
        super().__init__()
        self.passes = 0
        self.at = None

    def forward(self, features):
        self.stop()
        return _Stopping.apply(features, self)

    def stop(self):
        self.passes += 1
        if self.passes - 1 == self.at:
            raise KeyboardInterrupt


class _Stopping(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features, module):
        ctx.module = module
        return features.clone()

    @staticmethod
    def backward(ctx, signal):
        ctx.module.stop()
        return signal, None


@pytest.mark.filterwarnings("ignore:FullGrad does not:camlib.CamlibWarning")
@pytest.mark.parametrize("place", ["before the layer", "behind the layer"])
@pytest.mark.parametrize("kind", METHODS.values(), ids=METHODS)
def test_an_interrupt_in_any_pass_leaves_the_model_as_found(kind, place):
    # Behind the layer of this network, all of Ablation-CAM runs.
    fits = kind is CAM or issubclass(kind, AttentionMethod)
    base = fitting(kind) if fits else convolutional()
    batch, stopped = images(), Stopped()
    features, tail = base.features, base.tail
    if place == "before the layer":
        features = nn.Sequential(features[0], stopped, *features[1:])
    else:
        tail = nn.Sequential(stopped, *tail)
    net = Net(features, tail).train()
    net.features[1].eval()
    net.tail[-1].weight.requires_grad_(False)
    method = few(kind, net, batch_size=1)
    expected = method(batch)
    stopped.passes = 0
    method(batch)
    passes = stopped.passes
    assert passes > 0
    for at in range(passes):
        stopped.at, stopped.passes = at, 0
        before, threads = snapshot(net), threading.active_count()
        with pytest.raises(KeyboardInterrupt):
            few(kind, net, batch_size=1)(batch)
        assert snapshot(net) == before
        with pytest.raises(KeyboardInterrupt):
            stopped.passes = 0
            method(batch)
        assert snapshot(net) == before
        assert not modes._switched
        assert not interception._wrapped
        assert threading.active_count() == threads
        stopped.at = None
        assert torch.equal(method(batch), expected)
