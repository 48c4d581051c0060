"""Random numbers: what a call draws is put back, what other threads draw meanwhile is not.

A device has one generator for all threads, so that to put it back is to give numbers out again that
another thread has had. It is put back only where the call drew: where no other thread runs, where
the generator moved; else where an operator that draws was seen in the first call for the model.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from camlib.state.ambient import enter
from camlib.state.undoing import Undoing, lock


def put_back_draws(undo: Undoing, model: nn.Module, device: torch.device) -> None:
    """The generators of the devices that `model` is on are there in the end as they are now.

    Args:
        undo: when.
        model: without wrappers.
        device: of its inputs.
    """
    watch = None
    alone = threading.active_count() == 1
    if not alone and model not in _draws:
        watch = _Watch()  # type: ignore[no-untyped-call]
        enter(undo, watch)

    def drew(moved: bool) -> bool:
        if watch is not None:
            _draws[model] = watch.drew
        elif moved and not _draws.get(model, True):
            _draws.pop(model)  # it may be the model after all: its next call is watched
        return (alone and threading.active_count() == 1) or _draws.get(model, False)

    for each in devices_of(model, device):
        _generators.setdefault(each, _Generator(each)).held(undo, drew)


def draw_again(undo: Undoing, devices: Iterable[torch.device]) -> None:
    """The numbers that this thread draws on `devices` until `undo` are those that it draws next."""
    watch = _Watch()  # type: ignore[no-untyped-call]
    for each in devices:
        get, put = _STATE[each.type]
        undo(partial(_put_back_if, watch, partial(put, get(each), each)))
    enter(undo, watch)


def _put_back_if(watch: _Watch, put_back: Callable[[], None]) -> None:
    if watch.drew:
        put_back()


class _Generator:
    """The generator of a device, as it was before the first of the calls that go on."""

    def __init__(self, device: torch.device) -> None:
        self.get, self.put = _STATE[device.type]
        self.device = device
        self.holders: set[int] = set()
        self.state: Tensor | None = None
        self.drawn = False

    def held(self, undo: Undoing, drew: Callable[[bool], bool]) -> None:
        undo(partial(self.released, id(undo), drew))
        with lock:
            self.holders.add(id(undo))
            if self.state is None:
                self.state, self.drawn = self.get(self.device), False

    def released(self, holder: int, drew: Callable[[bool], bool]) -> None:
        with lock:
            if self.state is None:
                return
            moved = not torch.equal(self.get(self.device), self.state)
            self.drawn |= drew(moved)
            if self.holders <= {holder}:
                if moved and self.drawn:
                    self.put(self.state, self.device)
                self.state = None
            self.holders.discard(holder)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes whether an operator draws from the generator of a device."""

    drew = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Where it is skipped, it is imported first, which takes a second.
        return False

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags:
            # With a generator of its own, it draws from that.
            given = (*args, *kwargs.values())
            self.drew |= not any(isinstance(each, torch.Generator) for each in given)
        return func(*args, **kwargs)


def devices_of(model: nn.Module, device: torch.device) -> Iterator[torch.device]:
    """The devices whose generators a pass may use."""
    yield torch.device("cpu")
    if device.type not in _STATE or device.type == "cpu":
        return
    found = {device}
    if device.type == "cuda" and torch.cuda.device_count() > 1:
        found |= {each.device for each in model.parameters() if each.is_cuda}
    yield from found


_STATE: dict[str, tuple[Callable[..., Tensor], Callable[..., None]]] = {
    "cpu": (lambda _: torch.get_rng_state(), lambda state, _: torch.set_rng_state(state)),
    "cuda": (torch.cuda.get_rng_state, torch.cuda.set_rng_state),
    "mps": (lambda _: torch.mps.get_rng_state(), lambda state, _: torch.mps.set_rng_state(state)),
}

_generators: dict[torch.device, _Generator] = {}
_draws: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""Whether a model was seen to draw."""
