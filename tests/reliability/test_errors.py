"""An error in any module, whenever it runs: it reaches the caller, and all is left as found."""

from __future__ import annotations

import random
from functools import partial

import pytest
import torch
from nets import Net, convolutional, fitting, images, rectifying
from snapshot import snapshot
from torch import Tensor, nn

from camlib import CAM, CAMERAS, METHODS
from camlib.methods.attention import AttentionMethod

pytestmark = [
    pytest.mark.filterwarnings("ignore:a map (at layer|of):camlib.CamlibWarning"),
    pytest.mark.filterwarnings("ignore:FullGrad does not:camlib.CamlibWarning"),
    pytest.mark.filterwarnings("ignore:integrated gradients with:camlib.CamlibWarning"),
]


class Stopped(Exception):
    """The model's own error."""


class Noisy(Net):
    """Counts its calls in a buffer and draws random numbers."""

    def __init__(self, base: Net) -> None:
        super().__init__(base.features, base.tail)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, batch: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(batch) + 0 * torch.rand(())


def networks(kind):
    bases = [fitting(kind)]
    if kind is not CAM and not issubclass(kind, AttentionMethod):
        bases += [convolutional(in_place=True)]
        if kind is not CAMERAS:  # which needs a network for every size
            bases += [rectifying()]
    for base in bases:
        net = Noisy(base).train()
        net.features[1].eval()
        net.features[0].weight.requires_grad_(False)
        yield net


def left(net: nn.Module) -> dict:
    """What must be the same; what is put back into the buffer counts as written."""
    return snapshot(net) | {"calls": (id(net.calls), net.calls.item())}


class Stopping:
    """A hook that raises an error when a module runs for the time with number `at`, and later."""

    def __init__(self, at: float) -> None:
        self.runs, self.at = 0, at

    def __call__(self, *_: object) -> None:
        self.runs += 1
        if self.runs > self.at:
            raise Stopped


def runs_of(call, module: nn.Module) -> int:
    hook = Stopping(float("inf"))
    handle = module.register_forward_pre_hook(hook)
    call()
    handle.remove()
    return hook.runs


@pytest.mark.parametrize("kind", METHODS.values(), ids=METHODS)
def test_an_error_at_any_module(kind, trials, count):
    chosen, raised = random.Random(0), 0
    for net in [*networks(kind)][: 1 if trials == 1 else None]:
        batch, method = images(), kind(net)
        method(batch, 1)
        for module in net.modules():
            runs = runs_of(partial(method, batch, 1), module)
            times = {0, runs - 1, *chosen.sample(range(runs), min(runs, trials // 5))}
            for at in sorted(times & {*range(runs)}):
                hook = Stopping(at)
                register = chosen.choice(
                    [module.register_forward_pre_hook, module.register_forward_hook]
                )
                handle, before = register(hook), left(net)
                caller = method if chosen.random() < 0.5 else kind(net)
                try:
                    caller(batch, 1)
                except Stopped:
                    raised += 1
                assert left(net) == before
                handle.remove()
    assert raised > 5
    count("errors", raised)
