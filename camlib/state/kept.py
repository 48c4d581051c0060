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

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from camlib.errors import ModelError, warn
from camlib.nested import tensors_in
from camlib.state.copies import NOTHING, Copies, Noted, is_copied, same
from camlib.state.hooks import hook_before
from camlib.state.shards import reshard, sharded
from camlib.state.undoing import Undoing, lock


def put_back_state(undo: Undoing, model: nn.Module) -> State:
    """`model` keeps nothing that passes leave on it from now on.

    Calls in several threads count as one: the first to come notes, the last to go puts back. What
    another thread writes to a buffer meanwhile goes back with it.
    """
    undo(partial(_released, id(model), id(undo)))
    with lock:
        held = _held.get(id(model)) or _held.setdefault(id(model), _Held(State(model)))
        held.holders.add(id(undo))
    if held.state.sharded:
        reshard(undo, model.modules())
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


def owned(model: nn.Module) -> Callable[[Tensor], bool]:
    """Tells of a tensor whether `model` holds it now, not whether a pass leaves it there.

    In its state, or among its attributes.
    """
    held = _held.get(id(model))
    return (held.state if held else State(model)).holds


class State:
    """What every module of a model keeps."""

    def __init__(self, model: nn.Module) -> None:
        every = [*model.modules()]
        modules = [m for m in every if not isinstance(m, torch.jit.ScriptModule)]
        scripted = [m for m in every if isinstance(m, torch.jit.ScriptModule)]
        self.sharded = sharded(modules)
        self.lazy = [
            module
            for module in modules
            if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params()
        ]
        self.modules = [_Kept(module, sharded=self.sharded) for module in modules]
        groups: dict[Any, dict[int, Tensor]] = defaultdict(dict)
        for kept in self.modules:
            for tensor in kept.small:
                groups[tensor.dtype, tensor.device][id(tensor)] = tensor
        self.copies = [Copies(list(group.values())) for group in groups.values()]
        weights = [] if self.sharded else [*self._weights(scripted)]
        self.data = [(parameter, parameter.data) for parameter in weights]
        self.places = [parameter.data_ptr() for parameter in weights]
        self.frozen: list[tuple[Tensor, bool]] = []

    def _weights(self, scripted: Iterable[nn.Module]) -> Iterator[nn.Parameter]:
        """The parameters of all modules and of those `scripted`, each once."""
        every = {id(p): p for kept in self.modules for p in kept.parameters.values()}
        every |= {id(p): p for module in scripted for p in module.parameters(recurse=False)}
        for parameter in every.values():
            # FSDP lends parameters of other kinds, and those that it marks, for a pass.
            if type(parameter) is nn.Parameter and "_fsdp_flattened" not in vars(parameter):
                yield parameter

    def holds(self, tensor: Tensor) -> bool:
        """Whether `tensor` was among what the modules held."""
        return any(kept.holds(tensor) for kept in self.modules)

    def prepare(self, model: nn.Module) -> None:
        """Call ``eval()`` of `model`; what its modules prepare in it goes back too."""
        if not self.frozen:
            self.frozen = [(p, p.requires_grad) for p in model.parameters()]
            for kept in self.modules:
                if prepares(kept.module):
                    own = [p for p in kept.parameters.values() if p is not None and not is_lazy(p)]
                    self.copies += [Copies([parameter]) for parameter in own]
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
        self.noted = NOTHING
        if not _is_common(type(module).__module__):
            self.noted = Noted()
            for name, value in self.attributes.items():
                if name not in _OWN:
                    self.noted.note(value)
        self.large: list[Tensor] = []
        self.small: list[Tensor] = []
        for tensor in (*self.buffers.values(), *self.noted.tensors):
            if tensor is not None and not is_lazy(tensor):
                (self.small if is_copied(tensor) else self.large).append(tensor)
        self.versions = [*map(_version, self.large)]
        self.prepared = False
        """Whether ``eval()`` changed an attribute."""

    def holds(self, tensor: Tensor) -> bool:
        """Whether `tensor` was a buffer or parameter of the module, or among its attributes."""
        number = id(tensor)
        if number in self.numbers or number in self.inside:
            return True
        return any(tensor is other for other in (*self.buffers.values(), *self.noted.tensors))

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
        if (self.buffers or module._buffers) and not same(module._buffers, self.buffers):
            return True
        inside = [*map(id, module._parameters.values()), *map(id, module._modules.values())]
        if inside != self.inside and not self.sharded:
            return True
        others: list[Any] = []
        if [*map(id, now.values())] != self.numbers:
            names = (now.keys() | self.attributes.keys()) - _OWN
            pairs = [(now.get(name), self.attributes.get(name)) for name in names]
            others += [pair for pair in pairs if pair[0] is not pair[1]]
        if self.noted.containers:
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
            if not same(registered, before):
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


def prepares(module: nn.Module) -> bool:
    """Whether a module has a ``train()`` or ``eval()`` of its own, which may do more."""
    kind = type(module)
    return kind.train is not nn.Module.train or kind.eval is not nn.Module.eval


@cache
def _is_common(home: str) -> bool:
    """Whether modules from there are PyTorch's own, which keep nothing in containers."""
    return home.startswith("torch.nn.modules.")


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


@dataclass
class _Held:
    state: State
    holders: set[int] = field(default_factory=set)


_OWN = frozenset(vars(nn.Module())) | {"forward"}
"""What every module has, and what stands between a module and its `forward`."""

_held: dict[int, _Held] = {}
