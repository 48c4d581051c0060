"""Models whose weights lie in parts on several processes, and whole only during a pass (FSDP)."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import cache, partial
from typing import Any

from torch import nn

from camlib.state.undoing import Undoing


def sharded(modules: Iterable[nn.Module]) -> bool:
    """Whether FSDP lends one of `modules` its weights."""
    return any(map(_is_sharded, {*map(type, modules)}))


def reshard(undo: Undoing, modules: Iterable[nn.Module]) -> None:
    """Weights of `modules` that lie in parts do so after `undo`.

    A pass leaves those of the outermost module whole, and one that is cut short those of others.
    """
    for module in modules:
        if sharded([module]) and hasattr(module, "reshard"):
            undo(partial(_reshard, module, [*module.parameters()]))


def _reshard(module: Any, parts: list[nn.Parameter]) -> None:
    if _holds(module, parts):
        return
    module.reshard()
    # What was cut short waits for its end, and is resharded by no other means (torch 2.14).
    if not _holds(module, parts) and hasattr(module, "reset_iter_state"):
        with suppress(RuntimeError):  # for the outermost module alone
            module.reset_iter_state()


def _holds(module: nn.Module, parameters: list[nn.Parameter]) -> bool:
    return [*map(id, module.parameters())] == [*map(id, parameters)]


@cache
def _is_sharded(kind: type[nn.Module]) -> bool:
    return any(base.__name__ in _KINDS for base in kind.__mro__)


_KINDS = {"FSDPModule", "FullyShardedDataParallel"}
