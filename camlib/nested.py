"""One walk through what a model takes and returns: tensors in tuples, mappings, dataclasses.

A path says where a tensor stands: the keys, numbers and names of fields that lead to it, ``()`` for
a bare tensor.
"""

from __future__ import annotations

import copy
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import fields, is_dataclass
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from camlib.errors import LayerError

_SHALLOW = dict, list, UserDict
"""What `copy.copy` copies the items of."""

Path = tuple[Any, ...]
"""The keys that lead to a tensor."""


def tensors(value: Any) -> Iterator[tuple[Path, Tensor]]:
    """Path and tensor of all that `value` holds, one after the other."""
    if isinstance(value, Tensor):
        yield (), value
    for key, part in _parts(value):
        for path, tensor in tensors(part):
            yield (key, *path), tensor


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors that `value` holds, one after the other."""
    return [tensor for _, tensor in tensors(value)]


def activations(value: Any) -> list[tuple[Path, Tensor]]:
    """Path and tensor of the floating-point tensors in `value`, the outermost first."""
    found = [each for each in tensors(value) if each[1].is_floating_point()]
    return sorted(found, key=lambda each: len(each[0]))


def first(name: str, output: Any) -> tuple[Path, Tensor]:
    """Path and tensor of the first of the outermost floating-point tensors in `output`.

    Args:
        name: of the layer that returned it.
        output: what it returned.

    Raises:
        LayerError: there is none.
    """
    for path, tensor in activations(output):
        return path, tensor
    raise LayerError(
        f"layer {name!r} returned {type(output).__name__} with no floating-point tensor in it; "
        "choose another layer"
    )


def mapped(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """A copy of `value` with `change` made to every tensor in it."""
    if isinstance(value, Tensor):
        return change(value)
    return _with_parts(value, [(key, mapped(change, part)) for key, part in _parts(value)])


def replaced(value: Any, path: Path, tensor: Tensor) -> Any:
    """A copy of `value` with `tensor` at `path`; what does not lead there is the same."""
    if not path:
        return tensor
    where, *rest = path
    parts = [
        (key, replaced(part, tuple(rest), tensor) if key == where else part)
        for key, part in _parts(value)
    ]
    return _with_parts(value, parts)


def twin_of(value: Any) -> Any:
    """A copy of `value` that can be given other parts, while `value` keeps these."""
    if isinstance(value, _SHALLOW) or not isinstance(value, list | MutableMapping):
        return copy.copy(value)
    # One that holds its items in something of its own shares that with a shallow copy.
    parts = [part for _, part in _parts(value)]
    return copy.deepcopy(value, {id(part): part for part in (*parts, *tensors_in(value))})


def _parts(value: Any) -> list[tuple[Any, Any]]:
    """Key and value of what `value` is made of; nothing if it is made of nothing known."""
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, tuple | list):
        return list(enumerate(value))
    if isinstance(value, SimpleNamespace):
        return list(vars(value).items())
    if is_dataclass(value) and not isinstance(value, type):
        return [(each.name, getattr(value, each.name)) for each in fields(value)]
    return []


def _with_parts(value: Any, parts: Sequence[tuple[Any, Any]]) -> Any:
    """A copy of `value` made of `parts`."""
    if not parts:
        return twin_of(value) if isinstance(value, list | MutableMapping) else value
    if isinstance(value, tuple):
        values = [part for _, part in parts]
        # A named tuple may be made of other arguments than its fields.
        return value._make(values) if hasattr(value, "_make") else type(value)(values)
    if isinstance(value, Mapping) and not isinstance(value, MutableMapping):
        return type(value)(dict(parts))  # type: ignore[call-arg]
    twin = twin_of(value)
    for key, part in parts:
        if isinstance(twin, list | MutableMapping):
            twin[key] = part
        else:
            object.__setattr__(twin, key, part)  # also where it is frozen
    return twin
