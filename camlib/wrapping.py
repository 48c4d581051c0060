"""Stand between modules and their `forward`, for the length of a block.

A hook sees a module run; who stands here decides whether it does. Threads share modules while one
of them may be training what another explains: the first that needs a wrapper puts it on, the last
takes it off, and a wrapper acts in the threads of those alone, and lets all others through.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

Player = Callable[[nn.Module, Callable[[], Any]], Any]
"""Gets a module and its call of `forward`, which it may make or not; returns what comes out."""


@contextmanager
def wrapping(modules: Sequence[nn.Module], player: Player) -> Iterator[None]:
    """`player` stands between each of `modules` and its `forward`, in this thread."""
    players = getattr(_local, "players", ())
    entered: list[nn.Module] = []
    try:
        with _lock:
            for module in modules:
                entered.append(module)
                if id(module) in _wrapped:
                    _wrapped[id(module)].holders += 1
                else:
                    _wrapped[id(module)] = _Wrapped(vars(module).get("forward"))
                    vars(module)["forward"] = _asking(module)
        _local.players = (*players, (frozenset(map(id, modules)), player))
        yield
    finally:
        _local.players = players
        with _lock:
            for module in entered:
                if (wrapped := _wrapped.get(id(module))) is None:
                    continue
                wrapped.holders -= 1
                if not wrapped.holders:
                    del _wrapped[id(module)]
                    vars(module).pop("forward", None)
                    if wrapped.own is not None:
                        vars(module)["forward"] = wrapped.own


@dataclass
class _Wrapped:
    """A module with a wrapper: its own `forward`, if not that of its class, and who needs it."""

    own: Any
    holders: int = 1


def _asking(module: nn.Module) -> Callable[..., Any]:
    """The `forward` of `module`, with the players of the thread before it, the last one first."""
    forward = module.forward

    def asking(*args: Any, **kwargs: Any) -> Any:
        call = partial(forward, *args, **kwargs)
        for modules, player in getattr(_local, "players", ()):
            if id(module) in modules:
                call = partial(player, module, call)
        return call()

    return asking


_lock = threading.Lock()
_local = threading.local()
_wrapped: dict[int, _Wrapped] = {}
