"""Hooks on modules for the length of a block, in one thread, on the modules themselves alone.

Hooks belong to the model, which other threads run, copy or save meanwhile: for them, a hook is not
there. A copy of the model gets one that does nothing, in place of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from camlib.state.undoing import Undoing


def hook(undo: Undoing, module: nn.Module, function: Callable[..., Any]) -> None:
    """`function` gets `module`, what it is called with and what it returns, until `undo`."""
    made = _Hook(module, function)
    undo(partial(_remove, module._forward_hooks, made))
    module.register_forward_hook(made)


def hook_before(
    undo: Undoing,
    module: nn.Module,
    function: Callable[..., Any],
    *,
    first: bool = False,
    with_kwargs: bool = False,
) -> None:
    """`function` gets `module` and what it is called with, until `undo`.

    Args:
        undo: when it ends.
        module: the module.
        function: what is called.
        first: whether before the hooks that are there.
        with_kwargs: whether it gets the arguments by name too.
    """
    made = _Hook(module, function)
    noted = module._forward_pre_hooks_with_kwargs
    undo(partial(_remove, module._forward_pre_hooks, made, noted))
    module.register_forward_pre_hook(made, prepend=first, with_kwargs=with_kwargs)


class _Hook:
    """A hook that acts in the thread that made it, on one module."""

    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        self.module = module
        self.function = function
        self.thread = threading.get_ident()

    def __call__(self, module: nn.Module, *given: Any) -> Any:
        """What the function returns, where it is asked for."""
        if module is self.module and threading.get_ident() == self.thread:
            return self.function(module, *given)
        return None

    def __deepcopy__(self, _memo: object) -> Callable[..., None]:
        return nothing

    def __reduce__(self) -> Any:
        return _of_a_copy, ()


def nothing(*_: object) -> None:
    """The hook of a copy."""


def _of_a_copy() -> Callable[..., None]:
    return nothing


def _remove(hooks: dict[int, Any], made: _Hook, noted: dict[int, Any] | None = None) -> None:
    for number in [number for number, other in [*hooks.items()] if other is made]:
        if noted:
            noted.pop(number, None)
        hooks.pop(number, None)
