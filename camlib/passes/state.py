"""What a model keeps on itself, put back after a call: buffers, and tensors among its attributes.

A pass may count in a buffer, or keep features on a module, whose graph would outlive the call. Four
facts shape it.

* A buffer that was written to does not say so (batch norm leaves its version as it was), nor what
  it held: buffers are copied before and compared after, those of one type in one piece. Above
  64 MiB they are not, and what their version tells is a warning.
* A tensor that took another's place is known by identity; what stood there before comes back.
* A cache and what is noted about it, such as its length, belong together: where a tensor of a
  module changed, its other attributes go back too. Else they stay, as a counter of calls does.
* Nearly always nothing changed, which has to be seen fast: numbers in a row, of all attributes.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from camlib.errors import warn
from camlib.passes.nested import tensors_in

_LARGE = 2**26
"""Bytes of a buffer that are too many to copy for every call."""

_SMALL = 64
"""How many items a list or a mapping may have to be looked after."""


@contextmanager
def restoring(model: nn.Module) -> Iterator[None]:
    """`model` keeps nothing that a pass in the block left on it.

    Calls in several threads count as one: the first to come notes, the last to go puts back. What
    another thread writes to a buffer meanwhile goes back with it.
    """
    with _lock:
        held = _held.get(id(model)) or _held.setdefault(id(model), _Held(_State(model)))
        held.holders += 1
    try:
        yield
    finally:
        with _lock:
            held.holders -= 1
            if not held.holders:
                del _held[id(model)]
                held.state.put_back()


class _State:
    """What every module of a model keeps."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = [
            _Kept(module)
            for module in model.modules()
            if not isinstance(module, torch.jit.ScriptModule)
        ]
        groups: dict[Any, dict[int, Tensor]] = defaultdict(dict)
        for kept in self.modules:
            for name, buffer in kept.buffers.items():
                if buffer is not None and name not in kept.large and not is_lazy(buffer):
                    groups[buffer.dtype, buffer.device][id(buffer)] = buffer
        self.copies = [(list(group.values()), _joined(group.values())) for group in groups.values()]

    def put_back(self) -> None:
        """Everything as it was."""
        written: dict[int, Tensor] = {}
        for group, copy in self.copies:
            if not torch.equal(_joined(group), copy):
                ends = [*accumulate(buffer.numel() for buffer in group[:-1])]
                for buffer, part in zip(group, copy.tensor_split(ends), strict=True):
                    if not torch.equal(_bytes(_joined([buffer])), _bytes(part)):
                        written[id(buffer)] = part.view(buffer.shape)
        for kept in self.modules:
            if kept.changed(written):
                kept.put_back(written)


class _Kept:
    """What a module keeps."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.attributes = vars(module).copy()
        self.numbers = [*map(id, self.attributes.values())]
        self.buffers = module._buffers.copy()
        self.large = {
            name: buffer
            for name, buffer in self.buffers.items()
            if buffer is not None and not _is_copied(buffer) and not is_lazy(buffer)
        }
        self.versions = [*map(_version, self.large.values())]
        self.items = {
            name: value.copy()
            for name, value in (() if _is_common(module) else self.attributes.items())
            if type(value) in (list, dict) and name not in _OWN and len(value) <= _SMALL
        }

    def changed(self, written: dict[int, Tensor]) -> bool:
        """Whether a tensor came, went, took the place of another, or is one of those `written`."""
        now, buffers = vars(self.module), self.module._buffers
        if written and not written.keys().isdisjoint(map(id, self.buffers.values())):
            return True
        if self.large and [*map(_version, self.large.values())] != self.versions:
            return True
        if (self.buffers or buffers) and not _same(buffers, self.buffers):
            return True
        others: list[Any] = []
        if [*map(id, now.values())] != self.numbers:
            names = (now.keys() | self.attributes.keys()) - _OWN
            pairs = [(now.get(name), self.attributes.get(name)) for name in names]
            others += [pair for pair in pairs if pair[0] is not pair[1]]
        for name, items in self.items.items():
            if not _same(self.attributes[name], items):
                others += [self.attributes[name], items]
        return any(map(tensors_in, others))

    def put_back(self, written: dict[int, Tensor]) -> None:
        """All attributes, their items, and the buffers, with the values of those `written`."""
        now, buffers = vars(self.module), self.module._buffers
        for name in now.keys() - self.attributes.keys() - _OWN:
            del now[name]
        now.update((name, v) for name, v in self.attributes.items() if name not in _OWN)
        for name, items in self.items.items():
            container = self.attributes[name]
            container.clear()
            container.extend(items) if isinstance(items, list) else container.update(items)
        buffers.clear()
        buffers.update(self.buffers)
        for buffer in self.buffers.values():
            if buffer is not None and id(buffer) in written:
                with torch.inference_mode(buffer.is_inference()), torch.no_grad():
                    buffer.copy_(written[id(buffer)])
        for (name, buffer), version in zip(self.large.items(), self.versions, strict=True):
            if _version(buffer) != version:
                warn(
                    f"{type(self.module).__name__} changed its buffer {name!r} of shape "
                    f"{tuple(buffer.shape)} in place, which is too large, or of a type too rare, "
                    "to be put back; copy the model before the call if it matters"
                )


def _same(now: Any, before: Any) -> bool:
    """Whether two lists or mappings hold the very same."""
    if isinstance(before, dict):
        if [*now] != [*before]:
            return False
        now, before = now.values(), before.values()
    return [*map(id, now)] == [*map(id, before)]


def _is_common(module: nn.Module) -> bool:
    """Whether a module is one of PyTorch's own, which keep nothing in lists."""
    return type(module).__module__.startswith("torch.nn.modules.")


def _is_copied(buffer: Tensor) -> bool:
    """Whether a buffer is one to be copied: of a common kind, and not too large."""
    common = type(buffer) is Tensor and buffer.layout is torch.strided
    return common and buffer.nbytes <= _LARGE and not (buffer.is_meta or buffer.is_quantized)


def _joined(buffers: Iterable[Tensor]) -> Tensor:
    """A copy of `buffers` of one type in a row."""
    with torch.no_grad():
        return torch.cat([buffer if buffer.ndim == 1 else buffer.flatten() for buffer in buffers])


def _bytes(row: Tensor) -> Tensor:
    """What is equal where it is the same NaN, too."""
    return row.contiguous().view(torch.uint8)


def _version(buffer: Tensor) -> int:
    return 0 if buffer.is_inference() else buffer._version


@dataclass
class _Held:
    state: _State
    holders: int = 0


_OWN = frozenset(vars(nn.Module())) | {"forward"}
"""What every module has, and what stands between a module and its `forward`."""

_lock = threading.Lock()
_held: dict[int, _Held] = {}
