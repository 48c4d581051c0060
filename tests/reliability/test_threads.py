"""Calls in several threads, of one model: each gets its own map, and the model is as found."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from nets import convolutional, fitting, images
from snapshot import snapshot

from camlib import CAM, METHODS
from camlib.methods.attention import AttentionMethod

pytestmark = [
    pytest.mark.filterwarnings("ignore:a map (at layer|of):camlib.CamlibWarning"),
    pytest.mark.filterwarnings("ignore:FullGrad does not:camlib.CamlibWarning"),
    pytest.mark.filterwarnings("ignore:integrated gradients with:camlib.CamlibWarning"),
]

THREADS = 4


def assert_in_threads(calls, expected, number):
    """Calls drawn from `calls`, so many in all, each give what is `expected` of it."""

    def some(thread: int) -> None:
        chosen = random.Random(thread)
        for _ in range(number // THREADS):
            which = chosen.randrange(len(calls))
            scale = float(expected[which].abs().max())
            torch.testing.assert_close(
                calls[which](), expected[which], rtol=1e-5, atol=1e-5 * scale
            )

    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(some, thread) for thread in range(THREADS)]:
            done.result()


@pytest.mark.parametrize("kind", METHODS.values(), ids=METHODS)
def test_one_method(kind, trials, count):
    net = fitting(kind).train()
    before, method = snapshot(net), kind(net)
    calls = [
        partial(method, images(seed=seed), target) for seed, target in enumerate([0, 1, 2, None])
    ]
    expected = [call() for call in calls]
    assert_in_threads(calls, expected, 8 * trials)
    assert snapshot(net) == before
    count("calls in threads", 8 * trials)


def test_all_methods_at_once(trials, count):
    net, batch = convolutional().train(), images()
    before = snapshot(net)
    kinds = [k for k in METHODS.values() if k is not CAM and not issubclass(k, AttentionMethod)]
    calls = [partial(kind(net), batch, 1) for kind in kinds]
    expected = [call() for call in calls]
    assert_in_threads(calls, expected, 80 * trials)
    assert snapshot(net) == before
    count("calls in threads", 80 * trials)
