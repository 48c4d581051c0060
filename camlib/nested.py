"""Find, replace and change tensors in tuples, mappings and dataclasses.

Models take and return such nested values. A path says where in one a tensor is: the keys, indices
and field names that lead to it, ``()`` for a bare tensor.
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
"""Types of which `copy.copy` copies the items."""

Path = tuple[Any, ...]
"""The keys that lead to a tensor."""


def tensors(value: Any) -> Iterator[tuple[Path, Tensor]]:
    """Path and tensor of every tensor in `value`, in order."""
    if isinstance(value, Tensor):
        yield (), value
    for key, part in _parts(value):
        for path, tensor in tensors(part):
            yield (key, *path), tensor


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in `value`, in order."""
    return [tensor for _, tensor in tensors(value)]


def activations(value: Any) -> list[tuple[Path, Tensor]]:
    """Path and tensor of every floating-point tensor in `value`, the outermost first."""
    floating = [(path, tensor) for path, tensor in tensors(value) if tensor.is_floating_point()]
    return sorted(floating, key=lambda each: len(each[0]))


def first(name: str, output: Any) -> tuple[Path, Tensor]:
    """Path and tensor of the first of the outermost floating-point tensors in `output`.

    Args:
        name: of the layer.
        output: what the layer returned.

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
    """A copy of `value` with `tensor` at `path`; parts off the path are not copied."""
    if not path:
        return tensor
    where, *rest = path
    parts = [
        (key, replaced(part, tuple(rest), tensor) if key == where else part)
        for key, part in _parts(value)
    ]
    return _with_parts(value, parts)


def twin_of(value: Any) -> Any:
    """A copy of `value` whose parts can be replaced while `value` keeps its own."""
    if isinstance(value, _SHALLOW) or not isinstance(value, list | MutableMapping):
        return copy.copy(value)
    # A shallow copy of any other container may share the object that holds the items.
    parts = [part for _, part in _parts(value)]
    return copy.deepcopy(value, {id(part): part for part in (*parts, *tensors_in(value))})


def _parts(value: Any) -> list[tuple[Any, Any]]:
    """The keys and parts of `value`; none for a type that is not a known container."""
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
        # The constructor of a named tuple may take other arguments than its fields.
        return value._make(values) if hasattr(value, "_make") else type(value)(values)
    if isinstance(value, Mapping) and not isinstance(value, MutableMapping):
        return type(value)(dict(parts))  # type: ignore[call-arg]
    twin = twin_of(value)
    for key, part in parts:
        if isinstance(twin, list | MutableMapping):
            twin[key] = part
        else:
            object.__setattr__(twin, key, part)  # works for frozen dataclasses too
    return twin
