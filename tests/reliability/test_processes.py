"""What other threads, copies of the model and children of a fork see of a call."""

from __future__ import annotations

import copy
import io
import os
import pickle
import random
import signal
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from interrupting import whole_state
from nets import Net, images, pooled
from PIL import Image
from snapshot import HOOKS
from torch import Tensor, nn
from torchvision import transforms

import camlib
from camlib import METHODS, AblationCAM, GradCAM, GuidedGradCAM, ReciproCAM, ScoreCAM, metrics
from camlib.draws import Seeded
from camlib.integrations import network
from camlib.methods.attention import AttentionMethod

pytestmark = pytest.mark.filterwarnings("ignore:a map (at layer|of):camlib.CamlibWarning")

KINDS = [kind for kind in METHODS.values() if not issubclass(kind, AttentionMethod)]


class Telling(nn.Module):
    """Runs a function in the middle of a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.tell: list[Callable[[], Any]] = []

    def __deepcopy__(self, _memo: object) -> Telling:
        return Telling()

    def __reduce__(self) -> Any:
        return Telling, ()

    def forward(self, features: Tensor) -> Tensor:
        for tell in self.tell:
            tell()
        return features


def telling(tell: Callable[[], Any]) -> Net:
    base = pooled()
    net = Net(base.features, nn.Sequential(Telling(), *base.tail)).train()
    net.tail[0].tell.append(tell)
    return net


def in_thread(function: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_numbers_that_another_thread_draws_are_never_drawn_again(kind, trials):
    net, batch, draws, stop = pooled(), images(), [], threading.Event()
    method = kind(net)

    def load() -> None:
        while not stop.is_set():
            draws.append(torch.randint(2**62, ()).item())
            stop.wait(1e-4)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for _ in range(5 * trials):
            method(batch, 1)
    finally:
        stop.set()
        thread.join()
    assert len({*draws}) == len(draws)


class TwoImages(Net):
    """Looks at the first of two images."""

    def forward(self, batch: Tensor, other: Tensor) -> Tensor:
        return super().forward(batch) + 0 * other.mean()


def with_two_images() -> None:
    net = TwoImages(pooled().features, pooled().tail).eval()
    GradCAM(net, "features")((images(), images(seed=3)), 1)


def with_random_weights() -> None:
    net, batch = pooled(), images()
    cam = GradCAM(net, "features")
    metrics.parameter_randomisation(
        net, batch, cam(batch, 1), 1, method=cam, weights="reset", similarity="spearman"
    )


def with_a_transform() -> None:
    transform = transforms.Compose([transforms.Resize(8), transforms.ToTensor()])
    camlib.overlay(Image.new("RGB", (20, 16), "green"), torch.rand(8, 10), transform=transform)


@pytest.mark.parametrize(
    "use",
    [
        with_two_images,
        with_random_weights,
        with_a_transform,
        lambda: network.seeded(lambda: nn.Sequential(*(nn.Linear(9, 9) for _ in range(200)))),
    ],
    ids=["two images", "random weights", "a transform", "a seeded network"],
)
def test_what_is_measured_does_not_rewind_other_threads(use):
    draws: list[float] = []
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            draws.append(torch.randint(2**62, ()).item())
            draws.append(random.random())
            draws.append(np.random.random())
            stop.wait(1e-4)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for _ in range(4):
            use()
    finally:
        stop.set()
        thread.join()
    assert len({*draws}) == len(draws) > 9


def test_seeded_draws_are_those_of_a_manual_seed():
    def build() -> list[Tensor]:
        parts = nn.Conv2d(3, 4, 3), nn.Embedding(4, 3), nn.TransformerEncoderLayer(8, 2)
        drawn = torch.rand(3), torch.randn(2), torch.randperm(6), torch.randint(9, (4,))
        return [*(p for part in parts for p in part.parameters()), *drawn]

    before = torch.get_rng_state()
    with Seeded(7):
        seeded = build()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(7)
    expected = build()
    torch.set_rng_state(before)
    assert all(torch.equal(one, other) for one, other in zip(seeded, expected, strict=True))


def test_a_seed_that_another_thread_sets_stays():
    net = telling(lambda: in_thread(lambda: torch.manual_seed(3)))
    waiting = threading.Event()
    thread = threading.Thread(target=waiting.wait)
    thread.start()
    try:
        GradCAM(net, "features")(images(), 1)
        assert torch.initial_seed() == 3
        expected = torch.Generator().manual_seed(3)
        assert torch.equal(torch.rand(4), torch.rand(4, generator=expected))
    finally:
        waiting.set()
        thread.join()


def test_numbers_that_the_model_draws_are_put_back_beside_other_threads():
    net = telling(lambda: torch.rand(3))
    waiting = threading.Event()
    thread = threading.Thread(target=waiting.wait)
    thread.start()
    try:
        before = torch.get_rng_state()
        for kind in (GradCAM, ScoreCAM, AblationCAM):
            for _ in range(2):
                kind(net, "features")(images(), 1)
                assert torch.equal(torch.get_rng_state(), before)
    finally:
        waiting.set()
        thread.join()


def test_a_model_that_begins_to_draw_later_is_noticed():
    net = pooled()
    net.tail.insert(0, Telling())
    waiting = threading.Event()
    thread = threading.Thread(target=waiting.wait)
    thread.start()
    try:
        cam = GradCAM(net, "features")
        cam(images(), 1)
        net.tail[0].tell.append(lambda: torch.rand(3))
        cam(images(), 1)  # it may have been the other thread
        before = torch.get_rng_state()
        cam(images(), 1)
        assert torch.equal(torch.get_rng_state(), before)
    finally:
        waiting.set()
        thread.join()


COPIED = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "save": lambda net: saved(net),
}


def saved(net: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", COPIED.values(), ids=COPIED)
@pytest.mark.parametrize("kind", [GradCAM, AblationCAM, ReciproCAM, GuidedGradCAM])
@pytest.mark.parametrize("apart", [True, False])
def test_a_copy_made_during_a_call_is_a_model_of_its_own(kind, copied, apart):
    twins: list[nn.Module] = []

    def tell() -> None:
        twins.append(in_thread(lambda: copied(net)) if apart else copied(net))

    net = telling(tell)
    kind(net)(images(), 1)
    net.tail[0].tell.clear()
    net.eval()
    assert twins
    with torch.no_grad():
        expected = net(images())
        for parameter in net.parameters():
            parameter.zero_()
    for twin in twins[:: max(1, len(twins) // 5)]:
        twin.eval()
        torch.testing.assert_close(twin(images()), expected)
        saved(twin)
        twice = copy.deepcopy(twin)
        with torch.no_grad():
            twice.tail[-1].bias.add_(1)
        torch.testing.assert_close(twice(images()), expected + 1)
        for module in twin.modules():
            for hooks in (getattr(module, name) for name in HOOKS[:4]):
                assert all(hook.__name__ == "nothing" for hook in hooks.values())


def child_of(check: Callable[[], bool]) -> int:
    """The exit status of a child in which `check` ran; negative if it hangs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        signal.alarm(20)  # ends it
        status = 1
        try:
            status = 0 if check() else 2
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", [GradCAM, AblationCAM, GuidedGradCAM, ScoreCAM])
@pytest.mark.parametrize("apart", [True, False])
def test_a_child_forked_during_a_call_has_nothing_of_it(kind, apart):
    found: list[int] = []

    def check() -> bool:
        net.tail[0].tell.clear()
        with torch.enable_grad():  # the modes of the thread that forks are its own
            now = {k: v for k, v in whole_state(net).items() if isinstance(k, tuple)}
        same = all(now[k] == before[k] for k in now if k[1] in ("hooks", "training", "attributes"))
        explained = GradCAM(net, "features")(images(), 1) if apart else None
        return same and (explained is None or bool(explained.isfinite().all()))

    def tell() -> None:
        if not found:
            found.append(in_thread(lambda: child_of(check)) if apart else child_of(check))

    net = telling(lambda: None)
    method = kind(net, "features")
    method(images(), 1)
    before = whole_state(net)
    net.tail[0].tell[:] = [tell]
    method(images(), 1)
    assert found == [0]
    assert net.training


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_while_another_thread_holds_the_lock():
    from camlib.state.undoing import lock

    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(5)
    net = pooled()
    try:
        assert child_of(lambda: bool(GradCAM(net)(images(), 1).any())) == 0
    finally:
        leave.set()
        thread.join()
