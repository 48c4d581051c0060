"""What a model keeps on itself, put back after a call: buffers, and tensors among its attributes.

A pass may count in a buffer, or keep features on a module, whose graph would outlive the call. Five
facts shape it.

* A tensor that was written to does not say so (batch norm leaves its version as it was), nor what
  it held: buffers, and tensors among attributes, are copied before and compared after, those of one
  type in one piece. Above 64 MiB they are not, and what their version tells is a warning.
* A tensor that took another's place is known by identity; what stood there before comes back. So it
  is with what a list or another small container holds, and with a part or a parameter.
* A cache and what is noted about it, such as its length, belong together: where a tensor of a
  module changed, its other attributes go back too. Else they stay, as a counter of calls does.
* Parameters are too large to copy. One that is given other data gets its own back; one that is
  written to is not seen, except in modules that do so in ``eval()``.
* Nearly always nothing changed, which has to be seen fast: numbers in a row, of all attributes.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from camlib.errors import ModelError, warn
from camlib.passes.hooks import hook_before
from camlib.passes.nested import tensors_in
from camlib.passes.undoing import Undoing, lock

_LARGE = 2**26
"""Bytes of a tensor that are too many to copy for every call."""

_SMALL = 64
"""How many items a container may have to be looked after."""


def put_back_state(undo: Undoing, model: nn.Module) -> State:
    """`model` keeps nothing that passes leave on it from now on.

    Calls in several threads count as one: the first to come notes, the last to go puts back. What
    another thread writes to a buffer meanwhile goes back with it.
    """
    undo(partial(_released, id(model), id(undo)))
    with lock:
        held = _held.get(id(model)) or _held.setdefault(id(model), _Held(State(model)))
        held.holders.add(id(undo))
    for module in held.state.lazy:
        hook_before(undo, module, _refuse, first=True)
    if parametrize._cache_enabled:
        known = {*parametrize._cache}
        undo(lambda: [parametrize._cache.pop(each) for each in {*parametrize._cache} - known])
    return held.state


def _released(model: int, holder: int) -> None:
    with lock:
        held = _held.get(model)
        if held is None:
            return
        if held.holders <= {holder}:
            held.state.put_back()
            del _held[model]
        held.holders.discard(holder)


def _refuse(module: nn.Module, _args: object) -> None:
    raise ModelError(
        f"a {type(module).__name__} of the model has no weights yet, as its shape comes from the "
        "first input; run the model once, then explain it"
    )


def owned(model: nn.Module) -> Callable[[], set[int]]:
    """Gives the identities of the tensors that `model` holds now, not of those that a pass leaves.

    Its state, and what is among its attributes.
    """
    held = _held.get(id(model))
    return cache((held.state if held else State(model)).tensors)


class State:
    """What every module of a model keeps."""

    def __init__(self, model: nn.Module) -> None:
        modules = [m for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)]
        sharded = any(map(_is_sharded, {*map(type, modules)}))
        self.lazy = [
            module
            for module in modules
            if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params()
        ]
        self.modules = [_Kept(module, sharded=sharded) for module in modules]
        groups: dict[Any, dict[int, Tensor]] = defaultdict(dict)
        for kept in self.modules:
            for tensor in kept.small:
                groups[tensor.dtype, tensor.device][id(tensor)] = tensor
        self.copies = [_Copies(list(group.values())) for group in groups.values()]
        known = [] if sharded else [*model.parameters()]
        # FSDP lends parameters of other kinds, and those that it marks, for a pass.
        weights = [p for p in known if type(p) is nn.Parameter and "_fsdp_flattened" not in vars(p)]
        self.data = [(parameter, parameter.data) for parameter in weights]
        self.places = [parameter.data_ptr() for parameter in weights]
        self.frozen: list[tuple[Tensor, bool]] = []

    def tensors(self) -> set[int]:
        """The identities of all that the modules held."""
        found: set[int] = set()
        for kept in self.modules:
            found.update(map(id, (*kept.buffers.values(), *kept.parameters.values())))
            found.update(map(id, kept.noted.tensors))
            found.update(id(v) for v in kept.attributes.values() if isinstance(v, Tensor))
        return found

    def prepare(self, model: nn.Module) -> None:
        """Call ``eval()`` of `model`; what its modules prepare in it goes back too."""
        if not self.frozen:
            self.frozen = [(p, p.requires_grad) for p in model.parameters()]
            for kept in self.modules:
                if prepares(kept.module):
                    own = [p for p in kept.parameters.values() if p is not None and not is_lazy(p)]
                    self.copies += [_Copies([parameter]) for parameter in own]
        model.eval()
        for kept in self.modules:
            kept.prepared |= kept.differs()

    def put_back(self) -> None:
        """Everything as it was."""
        if [parameter.data_ptr() for parameter, _ in self.data] != self.places:
            for (parameter, data), place in zip(self.data, self.places, strict=True):
                if parameter.data_ptr() != place:
                    parameter.data = data
        written: dict[int, Tensor] = {}
        for copies in self.copies:
            written.update(copies.written())
        for kept in self.modules:
            if kept.changed(written):
                kept.put_back()
        for copies in self.copies:
            copies.put_back(written)
        for tensor, wanted in self.frozen:
            if tensor.requires_grad != wanted:
                tensor.requires_grad = wanted


@dataclass(eq=False)
class _Copies:
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


class _Kept:
    """What a module keeps."""

    def __init__(self, module: nn.Module, *, sharded: bool) -> None:
        self.module = module
        self.sharded = sharded
        self.attributes = vars(module).copy()
        self.numbers = [*map(id, self.attributes.values())]
        self.buffers = module._buffers.copy()
        self.parameters = module._parameters.copy()
        self.parts = module._modules.copy()
        self.inside = [*map(id, self.parameters.values()), *map(id, self.parts.values())]
        self.noted = _NOTHING
        if not _is_common(type(module).__module__):
            self.noted = _Noted()
            for name, value in self.attributes.items():
                if name not in _OWN:
                    self.noted.note(value)
        self.large: list[Tensor] = []
        self.small: list[Tensor] = []
        for tensor in (*self.buffers.values(), *self.noted.tensors):
            if tensor is not None and not is_lazy(tensor):
                (self.small if _is_copied(tensor) else self.large).append(tensor)
        self.versions = [*map(_version, self.large)]
        self.prepared = False
        """Whether ``eval()`` changed an attribute."""

    def differs(self) -> bool:
        """Whether an attribute is another."""
        return [*map(id, vars(self.module).values())] != self.numbers or bool(self.noted.changed())

    def changed(self, written: dict[int, Tensor]) -> bool:
        """Whether a tensor came, went, took the place of another, or is one of those `written`."""
        if self.prepared:
            return True
        now = vars(self.module)
        if written and not written.keys().isdisjoint(map(id, self.small)):
            return True
        if self.large and [*map(_version, self.large)] != self.versions:
            return True
        module = self.module
        if (self.buffers or module._buffers) and not _same(module._buffers, self.buffers):
            return True
        inside = [*map(id, module._parameters.values()), *map(id, module._modules.values())]
        if inside != self.inside and not self.sharded:
            return True
        others: list[Any] = []
        if [*map(id, now.values())] != self.numbers:
            names = (now.keys() | self.attributes.keys()) - _OWN
            pairs = [(now.get(name), self.attributes.get(name)) for name in names]
            others += [pair for pair in pairs if pair[0] is not pair[1]]
        others += self.noted.changed()
        return bool(others) and any(map(tensors_in, others))

    def put_back(self) -> None:
        """All attributes, their items, and what is registered."""
        now = vars(self.module)
        for name in now.keys() - self.attributes.keys() - _OWN:
            del now[name]
        now.update((name, v) for name, v in self.attributes.items() if name not in _OWN)
        self.noted.put_back()
        for registered, before in self._registered():
            if not _same(registered, before):
                for name in registered.keys() - before.keys():
                    del registered[name]
                registered.update(before)
        for tensor, version in zip(self.large, self.versions, strict=True):
            if _version(tensor) != version:
                names = [name for name, other in self.buffers.items() if other is tensor]
                warn(
                    f"{type(self.module).__name__} changed its "
                    f"{f'buffer {names[0]!r}' if names else 'tensor'} of shape "
                    f"{tuple(tensor.shape)} in place, which is too large, or of a type too rare, "
                    "to be put back; copy the model before the call if it matters"
                )

    def _registered(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        module = self.module
        pairs: list[tuple[dict[str, Any], dict[str, Any]]] = [(module._buffers, self.buffers)]
        if not self.sharded:
            pairs += [(module._parameters, self.parameters), (module._modules, self.parts)]
        return pairs


@dataclass
class _Noted:
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
        return [each for pair in self.containers if not _same(*pair) for each in pair]

    def put_back(self) -> None:
        """Each holds what it held."""
        for container, before in self.containers:
            if not _same(container, before):
                container.clear()
                container.extend(before) if isinstance(before, list | deque) else container.update(
                    before
                )


_NOTHING = _Noted()


def prepares(module: nn.Module) -> bool:
    """Whether a module has a ``train()`` or ``eval()`` of its own, which may do more."""
    kind = type(module)
    return kind.train is not nn.Module.train or kind.eval is not nn.Module.eval


def _same(now: Any, before: Any) -> bool:
    """Whether two containers hold the very same."""
    if isinstance(before, set):
        return {*map(id, now)} == {*map(id, before)}
    if isinstance(before, dict):
        if now.keys() != before.keys() or [*now] != [*before]:
            return False
        now, before = now.values(), before.values()
    return [*map(id, now)] == [*map(id, before)]


@cache
def _is_common(home: str) -> bool:
    """Whether modules from there are PyTorch's own, which keep nothing in containers."""
    return home.startswith("torch.nn.modules.")


@cache
def _is_sharded(kind: type[object]) -> bool:
    """Whether the parameters of such modules are lent to them for a pass, by FSDP."""
    return any(base.__name__ in _SHARDED for base in kind.__mro__)


def _is_copied(tensor: Tensor) -> bool:
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


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


@dataclass
class _Held:
    state: State
    holders: set[int] = field(default_factory=set)


_OWN = frozenset(vars(nn.Module())) | {"forward"}
"""What every module has, and what stands between a module and its `forward`."""

_CONTAINERS = frozenset({list, dict, OrderedDict, defaultdict, set, deque})
_NOTED = _CONTAINERS | {tuple, Tensor, SimpleNamespace}
_DEEP = 4
"""How many containers may lie around one that is looked after."""

_SHARDED = {"FSDPModule", "FullyShardedDataParallel"}

_held: dict[int, _Held] = {}
