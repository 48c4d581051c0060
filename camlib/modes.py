"""Run a model in evaluation mode, uncompiled, and put everything back.

Modes and stances are shared by all threads while several of them may be explaining one model, so
each is counted: the first to come switches, the last to go switches back.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import nn

_lock = threading.Lock()
_switched: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
_eager = 0
_eager_stance = ExitStack()


@contextmanager
def explaining(model: nn.Module, device: torch.device) -> Iterator[None]:
    """`model` ready to be explained; in the end it, and the state of PyTorch, are as found.

    Evaluation mode, compiled parts run as written, random numbers put back, and no copies of
    weights left in the cache of autocast: those made without a graph would cut the gradients of a
    training step in the same autocast block.
    """
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(uncompiled())
        stack.enter_context(_random_numbers_kept(device))
        if torch.is_autocast_enabled(device.type):
            stack.callback(torch.clear_autocast_cache)
        yield


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module of `model` in evaluation mode; each gets its own mode back.

    The flag alone is set: ``train()`` and ``eval()`` are overridden in some models, with effects
    that cannot be taken back.
    """
    with _lock:
        switched = [m for m in model.modules() if m.training or m in _switched]
        for module in switched:
            _switched[module] = _switched.get(module, 0) + 1
            module.training = False
    try:
        yield
    finally:
        with _lock:
            for module in switched:
                _switched[module] -= 1
                if not _switched[module]:
                    del _switched[module]
                    module.training = True


@contextmanager
def uncompiled() -> Iterator[None]:
    """Compiled functions and modules run as written: compiled code ignores hooks that come later.

    https://github.com/pytorch/pytorch/issues/117758
    """
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and importing it takes a second
        yield
        return
    global _eager
    with _lock:
        if not _eager:
            _eager_stance.enter_context(torch.compiler.set_stance("force_eager"))
        _eager += 1
    try:
        yield
    finally:
        with _lock:
            _eager -= 1
            if not _eager:
                _eager_stance.close()


@contextmanager
def _random_numbers_kept(device: torch.device) -> Iterator[None]:
    with ExitStack() as stack:
        cuda = [device] if device.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(devices=cuda))
        if device.type == "mps":
            stack.callback(torch.mps.set_rng_state, torch.mps.get_rng_state())
        yield
