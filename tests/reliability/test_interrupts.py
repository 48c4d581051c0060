"""An interrupt at any step of a call leaves nothing behind.

``CAMLIB_TRIALS=50`` takes every step of every method here, and more signals than anybody sends.
"""

from __future__ import annotations

import random
import time

import pytest
import torch._dynamo
import torch.utils.checkpoint
from interrupting import interrupt, interrupt_after, steps_of, whole_state
from nets import Net, images, pooled
from torch import Tensor, nn
from torchvision.models import resnet18

from camlib import (
    CAM,
    METHODS,
    AblationCAM,
    GradCAM,
    GuidedGradCAM,
    ScoreCAM,
    ShapleyCAM,
    layers,
)
from camlib.methods.attention import AttentionMethod

pytestmark = [
    pytest.mark.filterwarnings("ignore:a map (at layer|of):camlib.CamlibWarning"),
    # What interrupts a generator that is thrown away has nobody to go to.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Keeping(Net):
    """A network in training, in part frozen, that counts in a buffer and keeps its features."""

    def __init__(self) -> None:
        base = pooled()
        super().__init__(base.features, base.tail)
        self.register_buffer("seen", torch.zeros(1))
        self.found, self.rows = None, [torch.zeros(2)]
        self.train()
        self.features[1].eval()
        self.features[0].weight.requires_grad_(False)

    def forward(self, batch: Tensor) -> Tensor:
        self.seen += len(batch)
        self.found = self.features(batch)
        self.rows.append(self.found)
        return self.tail(self.found)


OWN = {"blocks", "open"}
"""What camlib notes for itself, which is put in order by the next call."""


def state_of(net: nn.Module) -> dict[str, object]:
    """All but what camlib notes for itself."""
    found = {k: v for k, v in whole_state(net).items() if k not in OWN}
    kept = id(net.seen), net.seen.item(), id(net.found), [*map(id, net.rows)]
    return found | {"seen": kept}  # what is put back counts as written


CALLS = {
    "first": lambda net, batch: GradCAM(net)(batch, 1),
    "grad_cam": lambda net, batch: GradCAM(net, "features")(batch, 1),
    "cam": lambda net, batch: CAM(net)(batch, 1),
    "ablation_cam": lambda net, batch: AblationCAM(net, "features")(batch, 1),
    "score_cam": lambda net, batch: ScoreCAM(net, "features")(batch, 1),
    "guided_grad_cam": lambda net, batch: GuidedGradCAM(net, "features")(batch, 1),
    "candidates": lambda net, batch: layers.candidates(net, batch, 1),
}
KINDS = [kind for kind in METHODS.values() if not issubclass(kind, AttentionMethod)]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_an_interrupt_at_any_step(call, trials, count):
    net, batch = Keeping(), images()
    call(net, batch)
    before = state_of(net)
    steps = steps_of(lambda: call(net, batch))
    interrupted = 0
    # The beginning and the end of a call are where state changes: every step of these.
    edge = range(1, 200, 7), range(steps - 200, steps + 1, 7)
    for step in sorted({*edge[0], *edge[1], *range(1, steps + 1, max(1, steps // (40 * trials)))}):
        interrupted += interrupt(lambda: call(net, batch), step)
        assert state_of(net) == before, step
    assert interrupted > 50
    count("interrupts, one after the other", interrupted)
    call(net, batch)
    assert whole_state(net)["blocks"] == []
    assert whole_state(net)["open"] == {}


def test_two_interrupts_are_healed_by_the_next_call(trials, count):
    net, batch = Keeping(), images()
    cam = GradCAM(net, "features")
    expected = cam(batch, 1)
    before = state_of(net)
    steps, pairs = steps_of(lambda: cam(batch, 1)), 0
    for step in range(steps - 400, steps + 1, max(1, 29 // trials)):
        for apart in (1, 2, 5, 20):
            pairs += interrupt(lambda: cam(batch, 1), step, step + apart)
            torch.testing.assert_close(cam(batch, 1), expected)
            assert state_of(net) == before, (step, apart)
    count("interrupts of the cleaning up", pairs)


def interrupted_by_a_clock(call, state, times: int) -> int:
    """How many of so many `times` an alarm ended a `call`, at random moments."""
    call()
    before, moments, interrupted = state(), random.Random(0), 0
    for _ in range(times):
        start = time.perf_counter()
        call()
        length = time.perf_counter() - start
        interrupted += interrupt_after(call, max(moments.uniform(0, 1.1) * length, 1e-5))
        assert state() == before
    return interrupted


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_interrupts_by_a_clock(kind, trials, count):
    net, batch = Keeping(), images()
    method = kind(net)
    found = interrupted_by_a_clock(lambda: method(batch), lambda: state_of(net), 2 * trials)
    count("interrupts by a clock", found)
    method(batch)
    assert whole_state(net)["blocks"] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", [GradCAM, CAM, GuidedGradCAM, ShapleyCAM])
def test_interrupts_of_a_resnet_by_a_clock(kind, trials, count):
    net, batch = resnet18().train(), images(1, 64, 64)
    net.layer1.eval()
    method = kind(net)

    def state() -> dict[str, object]:
        return {name: value for name, value in whole_state(net).items() if name not in OWN}

    expected = method(batch)
    interrupts = interrupted_by_a_clock(lambda: method(batch), state, 10 * trials)
    assert interrupts > 0
    torch.testing.assert_close(method(batch), expected)
    count("interrupts of ResNet-18", interrupts)
