"""Run a model in evaluation mode, uncompiled, and put everything back.

Modes and stances are shared by all threads while several of them may be explaining one model, so
each is counted: the first to come switches, the last to go switches back.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from camlib.passes.state import restoring


@contextmanager
def explaining(model: nn.Module, device: torch.device, *, eval: bool = True) -> Iterator[None]:
    """`model` ready to be explained; in the end it, and the state of PyTorch, are as found.

    Evaluation mode, compiled and checkpointed parts run as written, buffers, kept tensors and
    random numbers put back, and no copies of weights left in the cache of autocast: those made
    without a graph would cut the gradients of a training step in the same autocast block (torch 2.6
    does so, 2.15 no longer).

    Without `eval`, modules keep the modes they have, and random numbers are not put back.
    """
    with ExitStack() as stack:
        if eval:
            stack.enter_context(evaluating(model))
        stack.enter_context(restoring(model))
        stack.enter_context(uncompiled())
        stack.enter_context(uncheckpointed())
        for kind in {"cpu", device.type} & _RANDOM.keys() if eval else ():
            stack.enter_context(_random[kind].held(device))
        if torch.is_autocast_enabled(device.type):
            stack.callback(torch.clear_autocast_cache)
        yield


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module of `model` in evaluation mode; each gets its own mode back.

    The flag alone is set: ``train()`` and ``eval()`` are overridden in some models, with effects
    that cannot be taken back.
    """
    switched: list[nn.Module] = []
    try:
        with _lock:
            for module in model.modules():
                if module.training or id(module) in _switched:
                    switched.append(module)
                    _switched[id(module)] = _switched.get(id(module), 0) + 1
                    module.training = False
        yield
    finally:
        with _lock:
            for module in switched:
                left = _switched.pop(id(module), 1) - 1
                if left > 0:
                    _switched[id(module)] = left
                else:
                    module.training = True


@contextmanager
def uncompiled() -> Iterator[None]:
    """Compiled functions and modules run as written: compiled code ignores hooks that come later.

    https://github.com/pytorch/pytorch/issues/117758
    """
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and importing it takes a second
        yield
        return
    with _stance.held():
        yield


@contextmanager
def uncheckpointed() -> Iterator[None]:
    """In this thread, reentrant checkpoints run what they hold as it is.

    Their backward pass knows ``backward()`` alone, which fills the ``.grad`` of every weight.
    """
    if "torch.utils.checkpoint" not in sys.modules:  # nobody uses it
        yield
        return
    with _checkpoints.held():
        _local.direct = getattr(_local, "direct", 0) + 1
        try:
            yield
        finally:
            _local.direct -= 1


@contextmanager
def differentiable_rnns(model: nn.Module) -> Iterator[None]:
    """Recurrent layers of `model` run so that a backward pass can follow in evaluation mode.

    That of cuDNN refuses: it keeps what it takes in training mode alone.
    """
    if not any(map(_by_cudnn, model.modules())):
        yield
        return
    with _cudnn.held():
        yield


class _Shared:
    """A change to PyTorch that threads share: the first to come makes it, the last undoes it."""

    def __init__(self, change: Callable[..., Callable[[], object]]) -> None:
        self.change = change
        self.holders = 0
        self.undo: Callable[[], object] | None = None

    @contextmanager
    def held(self, *given: object) -> Iterator[None]:
        """The change in force; `given` goes to it."""
        entered = False
        try:
            with _lock:
                self.holders += 1
                entered = True
                if self.undo is None:
                    self.undo = self.change(*given)
            yield
        finally:
            with _lock:
                self.holders -= entered
                if not self.holders and self.undo is not None:
                    undo, self.undo = self.undo, None
                    undo()


def _eager() -> Callable[[], object]:
    stack = ExitStack()
    stack.enter_context(torch.compiler.set_stance("force_eager"))
    return stack.close


def _direct() -> Callable[[], object]:
    from torch.utils.checkpoint import CheckpointFunction

    ordinary = CheckpointFunction.apply

    def apply(run: Callable[..., object], keep_random: bool, *args: object) -> object:
        if getattr(_local, "direct", 0):
            return run(*args)
        return ordinary(run, keep_random, *args)

    CheckpointFunction.apply = staticmethod(apply)

    def undo() -> None:
        del CheckpointFunction.apply  # back to that of every function

    return undo


def _without_cudnn() -> Callable[[], object]:
    before = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    return partial(setattr, torch.backends.cudnn, "enabled", before)


def _by_cudnn(module: nn.Module) -> bool:
    """Whether `module` is a recurrent layer on a GPU."""
    return isinstance(module, nn.RNNBase) and any(p.is_cuda for p in module.parameters(False))


def _kept(kind: str) -> Callable[[torch.device], Callable[[], object]]:
    """Saves the random numbers of a kind of device; what it returns puts them back."""
    get, put = _RANDOM[kind]

    def keep(device: torch.device) -> Callable[[], object]:
        state = get(device)
        return lambda: put(state, device)

    return keep


_RANDOM: dict[str, tuple[Callable[..., Tensor], Callable[..., None]]] = {
    "cpu": (lambda _: torch.get_rng_state(), lambda state, _: torch.set_rng_state(state)),
    "cuda": (torch.cuda.get_rng_state, torch.cuda.set_rng_state),
    "mps": (lambda _: torch.mps.get_rng_state(), lambda state, _: torch.mps.set_rng_state(state)),
}

_lock = threading.Lock()
_switched: dict[int, int] = {}
_stance = _Shared(_eager)
_checkpoints = _Shared(_direct)
_cudnn = _Shared(_without_cudnn)
_local = threading.local()
_random = {kind: _Shared(_kept(kind)) for kind in _RANDOM}
