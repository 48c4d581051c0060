"""What PyTorch keeps for each thread: whether it records, its modes, and its autocast."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import overrides
from torch.overrides import TorchFunctionMode
from torch.utils import _python_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

_KINDS = "cpu", "cuda", "mps"
"""The kinds of device whose autocast a call may switch off."""


class Ambient:
    """The state of this thread, as it is now."""

    def __init__(self) -> None:
        self.inference = torch.is_inference_mode_enabled()
        self.grad = torch.is_grad_enabled()
        self.functions = _function_modes()
        self.dispatch = _python_dispatch._get_current_dispatch_mode_stack()
        self.flags = [getattr(_python_dispatch, name, False) for name in _FLAGS]
        self.autocast = _autocast()
        self.cached = torch.is_autocast_cache_enabled()
        self.nesting = _nesting()

    def put_back(self) -> None:
        """The state of this thread is that of then; what is so already is left alone."""
        # PyTorch takes modes off for a call of its own, and an interrupt there leaves them off.
        if _function_modes() != self.functions:
            while torch._C._len_torch_function_stack():
                overrides._pop_mode()  # type: ignore[no-untyped-call]
            for mode in self.functions:
                overrides._push_mode(mode)  # type: ignore[no-untyped-call]
        if _python_dispatch._get_current_dispatch_mode_stack() != self.dispatch:
            while torch._C._len_torch_dispatch_stack():
                _python_dispatch._pop_mode()
            for dispatching in self.dispatch:
                _python_dispatch._push_mode(dispatching)
        for name, flag in zip(_FLAGS, self.flags, strict=True):
            if getattr(_python_dispatch, name, False) != flag:
                setattr(_python_dispatch, name, flag)
        if torch.is_inference_mode_enabled() != self.inference:
            _kept.append(torch._C._InferenceMode(self.inference))
            _kept[-1].__enter__()  # type: ignore[no-untyped-call]
        if torch.is_grad_enabled() != self.grad:
            torch._C._set_grad_enabled(self.grad)
        while _nesting() > self.nesting:
            torch.autocast_decrement_nesting()
        if _autocast() != self.autocast:
            for kind, (enabled, dtype) in zip(_KINDS, self.autocast, strict=True):
                torch.set_autocast_enabled(kind, enabled)
                torch.set_autocast_dtype(kind, dtype)
        torch.set_autocast_cache_enabled(self.cached)


class FunctionMode(TorchFunctionMode):
    """A mode that sees every call, and ends itself alone, where an interrupt ended it already."""

    def __exit__(self, *_: object) -> None:
        while self in _function_modes():
            overrides._pop_mode()  # type: ignore[no-untyped-call]


def enter(undo: Callable[..., None], mode: TorchDispatchMode) -> None:
    """`mode` is in force until `undo`, and no longer where an interrupt ended it already."""
    undo(partial(_leave, mode), own=True)
    mode.__enter__()  # type: ignore[no-untyped-call]


def _function_modes() -> list[TorchFunctionMode]:
    return overrides._get_current_function_mode_stack()  # type: ignore[no-any-return, no-untyped-call]


def _leave(mode: TorchDispatchMode) -> None:
    while mode in _python_dispatch._get_current_dispatch_mode_stack():
        if _python_dispatch._get_current_dispatch_mode() is mode and mode.old_dispatch_mode_flags:
            mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        else:
            _python_dispatch._pop_mode()


def _autocast() -> list[tuple[bool, torch.dtype]]:
    return [(torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in _KINDS]


def _nesting() -> int:
    """How many blocks of autocast this thread is in."""
    try:
        torch.autocast_increment_nesting()
    finally:
        found = torch.autocast_decrement_nesting()
    return found


_FLAGS = (
    "_is_in_torch_dispatch_mode",
    "_is_in_non_infra_torch_dispatch_mode",
    "_is_in_any_mode_without_ignore_compile_internals",
)
"""What PyTorch notes beside its modes, by version."""

_kept: list[torch._C._InferenceMode] = []
"""Inference mode ends with its guard: what was put back stays."""
