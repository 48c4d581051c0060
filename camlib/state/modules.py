"""What one module keeps on itself: buffers, parameters, parts, and tensors among its attributes.

* A tensor that took another's place is known by identity; what stood there before comes back. So it
  is with what a list or another small container holds, and with a part or a parameter.
* A cache and what is noted about it, such as its length, belong together: where a tensor of a
  module changed, its other attributes go back too. Else they stay, as a counter of calls does.
* Nearly always nothing changed, which has to be seen fast: numbers in a row, of all attributes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from camlib.errors import warn
from camlib.nested import tensors_in
from camlib.state.copies import NOTHING, Noted, is_copied, same


def modules_of(model: nn.Module) -> list[nn.Module]:
    """All modules of `model`, each once; some times as fast as ``model.modules()``."""
    modules: dict[int, nn.Module] = {}
    waiting: list[nn.Module | None] = [model]
    while waiting:
        module = waiting.pop()
        if module is not None and id(module) not in modules:
            modules[id(module)] = module
            waiting.extend(module._modules.values())
    return [*modules.values()]


def prepares(module: nn.Module) -> bool:
    """Whether a module has a ``train()`` or ``eval()`` of its own, which may do more."""
    kind = type(module)
    return kind.train is not nn.Module.train or kind.eval is not nn.Module.eval


class Kept:
    """What a module keeps."""

    def __init__(self, module: nn.Module, *, sharded: bool) -> None:
        self.module = module
        self.sharded = sharded
        self.attributes = vars(module).copy()
        self.numbers = [*map(id, self.attributes.values())]
        # What is empty, as it mostly is, costs nothing.
        self.buffers = module._buffers.copy() if module._buffers else _NOTHING
        self.parameters = module._parameters.copy() if module._parameters else _NOTHING
        self.parts = module._modules.copy() if module._modules else _NOTHING
        self.inside = (*map(id, self.parameters.values()), *map(id, self.parts.values()))
        self.noted = NOTHING
        if not _is_common(type(module).__module__):
            self.noted = Noted()
            for name, value in self.attributes.items():
                if name not in _OWN:
                    self.noted.note(value)
        tensors = (*self.buffers.values(), *self.noted.tensors)
        known = [tensor for tensor in tensors if tensor is not None and not is_lazy(tensor)]
        self.small = [tensor for tensor in known if is_copied(tensor)]
        self.large = [tensor for tensor in known if not is_copied(tensor)]
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
        inside = (*map(id, module._parameters.values()), *map(id, module._modules.values()))
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


@cache
def _is_common(home: str) -> bool:
    """Whether modules from there are PyTorch's own, which keep nothing in containers."""
    return home.startswith("torch.nn.modules.")


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


_NOTHING: dict[str, Any] = {}

_OWN = frozenset(vars(nn.Module())) | {"forward"}
"""What every module has, and what stands between a module and its `forward`."""
