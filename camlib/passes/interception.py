"""Put a function between modules and their `forward`, for the length of a block.

A hook only sees a module run; a function here decides whether it runs. Threads share modules, and
one thread may train a model while another explains it. The first thread that needs a wrapper puts
it on, and the last one takes it off. A wrapper acts only in threads that asked for it. A copy of
the module that is made meanwhile has its own `forward`.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import MethodType
from typing import Any

from torch import nn

from camlib.state.undoing import Undoing, lock

Player = Callable[[nn.Module, Callable[[], Any]], Any]
"""Takes a module and its call of `forward`, which it may make or skip, and returns the output."""


@contextmanager
def wrapping(modules: Sequence[nn.Module], player: Player) -> Iterator[None]:
    """Put `player` between each of `modules` and its `forward`, in this thread."""
    players = getattr(_local, "players", ())
    with Undoing() as undo:
        undo(partial(setattr, _local, "players", players), own=True)
        undo(partial(_released, modules, id(undo)))
        with lock:
            for module in modules:
                wrapped = _wrapped.setdefault(id(module), _Wrapped(module))
                wrapped.holders.add(id(undo))
                if "forward" not in vars(module) or vars(module)["forward"] is wrapped.own:
                    vars(module)["forward"] = _Asking(module, module.forward)
        _local.players = (*players, (frozenset(map(id, modules)), player))
        yield


def _released(modules: Sequence[nn.Module], holder: int) -> None:
    with lock:
        for module in modules:
            wrapped = _wrapped.get(id(module))
            if wrapped is None:
                continue
            if wrapped.holders <= {holder}:
                if wrapped.own is not None:
                    vars(module)["forward"] = wrapped.own
                else:
                    vars(module).pop("forward", None)
                del _wrapped[id(module)]
            wrapped.holders.discard(holder)


@dataclass
class _Wrapped:
    """A module with a wrapper, its own `forward` if it has one, and the blocks that need it."""

    module: nn.Module
    holders: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.own = vars(self.module).get("forward")


class _Asking:
    """The `forward` of `module`, behind the players of the thread, the last one outermost."""

    def __init__(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        self.module = module
        self.forward = self.__wrapped__ = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = partial(self.forward, *args, **kwargs)
        for modules, player in getattr(_local, "players", ()):
            if id(self.module) in modules:
                call = partial(player, self.module, call)
        return call()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """The `forward` of the copied module."""
        return copy.deepcopy(self.forward, memo)

    def __reduce__(self) -> Any:
        if isinstance(self.forward, MethodType):
            return _forward_of, (self.module,)
        return _itself, (self.forward,)


def _forward_of(module: nn.Module) -> Any:
    return MethodType(type(module).forward, module)


def _itself(forward: Any) -> Any:
    return forward


_local = threading.local()
_wrapped: dict[int, _Wrapped] = {}
