"""Copies of what tensors and containers hold, to compare with what they hold later and to restore.

A tensor that was written to does not say so (batch norm leaves its version as it was), nor what it
held. Tensors of one type are copied and compared in one piece.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

_LARGE = 2**26
"""Bytes of a tensor that are too many to copy for every call."""

_SMALL = 64
"""How many items a container may have to be looked after."""

_CONTAINERS = frozenset({list, dict, OrderedDict, defaultdict, set, deque})
_NOTED = _CONTAINERS | {tuple, Tensor, SimpleNamespace}
_DEEP = 4
"""How many containers may lie around one that is looked after."""


@dataclass(eq=False)
class Copies:
    """Tensors of one type, and copies of what they hold in a row."""

    tensors: list[Tensor]

    def __post_init__(self) -> None:
        self.shapes = [tensor.shape for tensor in self.tensors]
        self.row = _joined(self.tensors)

    def written(self) -> Iterator[tuple[int, Tensor]]:
        """Identity and copy of those that hold something else now."""
        alike = [tensor.shape for tensor in self.tensors] == self.shapes
        if alike and torch.equal(_joined(self.tensors), self.row):
            return
        parts = torch.split(self.row, [shape.numel() for shape in self.shapes])
        for tensor, part, shape in zip(self.tensors, parts, self.shapes, strict=True):
            same = tensor.shape == shape and torch.equal(_bytes(_joined([tensor])), _bytes(part))
            if not same:
                yield id(tensor), part.view(shape)

    def put_back(self, written: dict[int, Tensor]) -> None:
        """Those `written` hold what they held."""
        for tensor in self.tensors:
            if (part := written.get(id(tensor))) is not None:
                inside = torch.inference_mode() if tensor.is_inference() else nullcontext()
                with inside, torch.no_grad():
                    if tensor.shape != part.shape:
                        tensor.resize_(part.shape)
                    tensor.copy_(part)


@dataclass
class Noted:
    """Containers as they are now, those inside them too, and the tensors in them."""

    containers: list[tuple[Any, Any]] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)

    def note(self, value: Any, depth: int = 0) -> None:
        """Note `value`, if it is a tensor or a container of up to so many items."""
        kind = type(value)
        if kind is Tensor:
            self.tensors.append(value)
        elif kind is SimpleNamespace:
            self.note(vars(value), depth)
        elif depth < _DEEP and (kind in _CONTAINERS or kind is tuple) and len(value) <= _SMALL:
            if kind is not tuple:
                self.containers.append((value, value.copy()))
            for part in value.values() if isinstance(value, dict) else value:
                if type(part) in _NOTED:
                    self.note(part, depth + 1)

    def changed(self) -> list[Any]:
        """What those hold that hold something else now, and what they held."""
        return [each for pair in self.containers if not same(*pair) for each in pair]

    def put_back(self) -> None:
        """Each holds what it held."""
        for container, before in self.containers:
            if not same(container, before):
                container.clear()
                container.extend(before) if isinstance(before, list | deque) else container.update(
                    before
                )


NOTHING = Noted()


def same(now: Any, before: Any) -> bool:
    """Whether two containers hold the very same."""
    if isinstance(before, set):
        return {*map(id, now)} == {*map(id, before)}
    if isinstance(before, dict):
        if now.keys() != before.keys() or [*now] != [*before]:
            return False
        now, before = now.values(), before.values()
    return [*map(id, now)] == [*map(id, before)]


def is_copied(tensor: Tensor) -> bool:
    """Whether a tensor is one to be copied: of a common kind, and not too large."""
    common = type(tensor) is Tensor and tensor.layout is torch.strided
    return common and tensor.nbytes <= _LARGE and not (tensor.is_meta or tensor.is_quantized)


def _joined(tensors: Iterable[Tensor]) -> Tensor:
    """A copy of `tensors` of one type in a row."""
    with torch.no_grad():
        return torch.cat([tensor if tensor.ndim == 1 else tensor.flatten() for tensor in tensors])


def _bytes(row: Tensor) -> Tensor:
    """What is equal where it is the same NaN, too."""
    return row.contiguous().view(torch.uint8)
