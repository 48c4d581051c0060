"""What a model keeps on itself, put back after a call: buffers, and tensors among its attributes.

A pass may count in a buffer, or keep features on a module, whose graph would outlive the call. Two
facts shape it, and those of `camlib.state.modules`.

* A tensor that was written to does not say so (batch norm leaves its version as it was), nor what
  it held: buffers, and tensors among attributes, are copied before and compared after, those of one
  type in one piece. Above 64 MiB they are not, and what their version tells is a warning.
* Parameters are too large to copy. One that is given other data gets its own back; one that is
  written to is not seen, except in modules that do so in ``eval()``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from camlib.errors import ModelError
from camlib.state.copies import Copies
from camlib.state.hooks import hook_before
from camlib.state.modules import Kept, modules_of, prepares
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
        reshard(undo, modules_of(model))
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
        every = modules_of(model)
        modules = [m for m in every if not isinstance(m, torch.jit.ScriptModule)]
        scripted = [m for m in every if isinstance(m, torch.jit.ScriptModule)]
        self.sharded = sharded(modules)
        self.lazy = [
            module
            for module in modules
            if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params()
        ]
        self.modules = [Kept(module, sharded=self.sharded) for module in modules]
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


@dataclass
class _Held:
    state: State
    holders: set[int] = field(default_factory=set)


_held: dict[int, _Held] = {}
