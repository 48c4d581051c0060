"""The tensors in what a module returns: bare, or in a tuple, a list or a mapping."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any

from torch import Tensor

from camlib.errors import LayerError


def first(name: str, output: Any) -> tuple[Any, Tensor]:
    """Key and value of the first floating-point tensor in `output`, key ``None`` if bare."""
    for key, value in tensors(output):
        return key, value
    raise LayerError(
        f"layer {name!r} returned {type(output).__name__} with no floating-point tensor in it; "
        "choose another layer"
    )


def tensors(output: Any) -> Iterator[tuple[Any, Tensor]]:
    """Key and value of the floating-point tensors in `output`, key ``None`` if bare."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(output, Tensor):
        items = [(None, output)]
    elif isinstance(output, MutableMapping):
        items = output.items()
    elif isinstance(output, tuple | list):
        items = enumerate(output)
    for key, value in items:
        if isinstance(value, Tensor) and value.is_floating_point():
            yield key, value


def replaced(output: Any, where: Any, tensor: Tensor) -> Any:
    """`output` with `tensor` at `where`."""
    if where is None:
        return tensor
    if isinstance(output, MutableMapping):
        twin = copy.copy(output)
        twin[where] = tensor
        return twin
    parts = [*output[:where], tensor, *output[where + 1 :]]
    return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
