"""Run a model in evaluation mode, uncompiled, and put everything back.

Modes and stances are shared by all threads while several of them may be explaining one model: the
first to come switches, the last to go switches back. A mode that another thread sets meanwhile
looks like that of the call, and goes back with it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from camlib.state.kept import put_back_state
from camlib.state.modules import modules_of, prepares
from camlib.state.random import put_back_draws
from camlib.state.undoing import Shared, Undo, Undoing, lock


@contextmanager
def explaining(model: nn.Module, device: torch.device, *, eval: bool = True) -> Iterator[None]:
    """`model` ready to be explained; in the end it, and the state of PyTorch, are as found.

    Evaluation mode, compiled and checkpointed parts run as written, buffers, kept tensors and
    random numbers put back, and no copies of weights left in the cache of autocast: those made
    without a graph would cut the gradients of a training step in the same autocast block (torch 2.6
    does so, 2.15 no longer).

    Gradients can be taken, also where the caller is in inference mode. Without `eval`, modules keep
    the modes they have, and random numbers are not put back.
    """
    with Undoing() as undo:
        state = put_back_state(undo, model)
        if eval:
            evaluate(undo, model, prepare=lambda: state.prepare(model))
        run_uncompiled(undo)
        run_unchecked(undo)
        if eval:
            put_back_draws(undo, model, device)
        if torch.is_autocast_enabled(device.type):
            undo(torch.clear_autocast_cache, own=True)
        run_plainly(undo, grad=True)
        yield


def evaluate(undo: Undoing, model: nn.Module, prepare: Undo | None = None) -> None:
    """Every module of `model` in evaluation mode until `undo`; each gets its own mode back.

    The flag alone is set where that is all that ``eval()`` does.

    Args:
        undo: when.
        model: without wrappers.
        prepare: calls ``eval()`` where a module has one of its own, or its own ``train()``, and
            sees to what that does beside; by default it is not called.
    """
    switched: list[nn.Module] = []
    undo(partial(_released, switched, id(undo)))
    modules = modules_of(model)
    with lock:
        for module in modules:
            if module.training or id(module) in _switched:
                switched.append(module)
                _switched.setdefault(id(module), (module, set()))[1].add(id(undo))
    if prepare is not None and switched and any(map(prepares, modules)):
        prepare()
        modules = modules_of(model)
    with lock:
        for module in modules:
            if module.training:
                module.training = False


def _released(switched: list[nn.Module], holder: int) -> None:
    with lock:
        for module in switched:
            if id(module) in _switched:
                _, holders = _switched[id(module)]
                if holders <= {holder}:
                    module.training = True
                    del _switched[id(module)]
                holders.discard(holder)


def run_uncompiled(undo: Undoing) -> None:
    """Compiled functions and modules run as written: compiled code ignores hooks that come later.

    https://github.com/pytorch/pytorch/issues/117758
    """
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and importing it takes a second
        return
    _stance.held(undo)


def run_unchecked(undo: Undoing) -> None:
    """In this thread, reentrant checkpoints run what they hold as it is.

    Their backward pass knows ``backward()`` alone, which fills the ``.grad`` of every weight.
    """
    if "torch.utils.checkpoint" in sys.modules:  # else nobody uses it
        _checkpoints.held(undo)
        undo(partial(setattr, _local, "direct", getattr(_local, "direct", 0)), own=True)
        _local.direct = 1


def run_differentiable_rnns(undo: Undoing, model: nn.Module) -> None:
    """Recurrent layers of `model` run so that a backward pass can follow in evaluation mode.

    That of cuDNN refuses: it keeps what it takes in training mode alone.
    """
    if any(map(_by_cudnn, modules_of(model))):
        _cudnn.held(undo)


def run_plainly(undo: Undoing, *, grad: bool) -> None:
    """Outside of inference mode until `undo`, with a graph recorded or not."""
    undo(partial(torch._C._set_grad_enabled, torch.is_grad_enabled()), own=True)
    if torch.is_inference_mode_enabled():
        guard = torch._C._InferenceMode(False)  # in force from here on
        undo(partial(guard.__exit__, None, None, None), own=True)
    torch._C._set_grad_enabled(grad)


def _eager() -> tuple[Undo, Undo]:
    from torch._dynamo import eval_frame

    set_stance = eval_frame._set_stance
    forced = eval_frame.DynamoStance("force_eager")
    return partial(set_stance, forced), partial(set_stance, eval_frame._stance)


def _direct() -> tuple[Undo, Undo]:
    from torch.utils.checkpoint import CheckpointFunction

    ordinary = CheckpointFunction.apply

    def apply(run: Callable[..., object], keep_random: bool, *args: object) -> object:
        if getattr(_local, "direct", 0):
            return run(*args)
        return ordinary(run, keep_random, *args)

    def undo() -> None:
        if "apply" in vars(CheckpointFunction):
            del CheckpointFunction.apply  # back to that of every function

    return partial(setattr, CheckpointFunction, "apply", staticmethod(apply)), undo


def _without_cudnn() -> tuple[Undo, Undo]:
    switch = partial(setattr, torch.backends.cudnn, "enabled")
    return partial(switch, False), partial(switch, torch.backends.cudnn.enabled)


def _by_cudnn(module: nn.Module) -> bool:
    """Whether `module` is a recurrent layer on a GPU."""
    return isinstance(module, nn.RNNBase) and any(p.is_cuda for p in module.parameters(False))


_switched: dict[int, tuple[nn.Module, set[int]]] = {}
_stance = Shared(_eager)
_checkpoints = Shared(_direct)
_cudnn = Shared(_without_cudnn)
_local = threading.local()
