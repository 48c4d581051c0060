"""Find and replace tensors in nested arguments by their paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from camlib.errors import InputError
from camlib.nested import twin_of
from camlib.passes.arguments import described

Path = tuple[int | str, ...]
"""The place of a value among the arguments: a position or a name, then keys into containers."""

Where = int | str | Path
"""A position, a name, or a path of these, as users pass it."""

Pictures = Tensor | list[Tensor]
"""A tensor, or a list of images ``(C, H, W)``, which is one batch."""


def walk(value: Any, path: Path = ()) -> Iterator[tuple[Path, Pictures]]:
    """The tensors in tuples, lists, mappings and dataclasses, with their paths.

    A list of images counts as one tensor.
    """
    if isinstance(value, Tensor) or _holds_images(value):
        yield path, value
    elif isinstance(value, MutableMapping):
        for key, part in value.items():
            yield from walk(part, (*path, key))
    elif isinstance(value, tuple | list):
        for key, part in enumerate(value):
            yield from walk(part, (*path, key))
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from walk(getattr(value, field.name), (*path, field.name))


def at(value: Any, path: Sequence[int | str]) -> Any:
    """The part of nested `value` at `path`."""
    for step in path:
        keyed = isinstance(value, MutableMapping | tuple | list)
        value = value[step] if keyed else getattr(value, str(step))
    return value


def put(value: Any, path: Sequence[int | str], new: Any) -> Any:
    """Nested `value` with `new` at `path`; containers on the way are copied."""
    if not path:
        return new
    step, *rest = path
    new = put(at(value, [step]), rest, new)
    if isinstance(value, tuple | list):
        parts = [new if place == step else part for place, part in enumerate(value)]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    twin = twin_of(value)
    if isinstance(value, MutableMapping):
        twin[step] = new
    else:
        object.__setattr__(twin, str(step), new)  # works for frozen dataclasses too
    return twin


def matching(where: Where, tensors: Mapping[Path, Pictures], by_position: Path) -> Path:
    """The path of the tensor that `where` names.

    `where` may also be the end of a path, if only one path ends so.

    Args:
        where: the user's choice.
        tensors: the tensors among the arguments, by path.
        by_position: `where` with a parameter's position instead of its name.

    Raises:
        InputError: no path fits, or more than one.
    """
    asked = tuple(where) if isinstance(where, tuple | list) else (where,)
    for wanted in (asked, by_position):
        if wanted in tensors:
            return wanted
    ends = [path for path in tensors if asked and path[-len(asked) :] == asked]
    if len(ends) == 1:
        return ends[0]
    listed = ", ".join(f"{shown(path)} ({described(value)})" for path, value in tensors.items())
    raise InputError(
        f"image={where!r} names {'more than one' if ends else 'none'} of the inputs; pass one of "
        f"{listed}"
    )


def shown(path: Path) -> str:
    """`path` as the user passes it."""
    return repr(path[0] if len(path) == 1 else path)


def _holds_images(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(each, Tensor) and each.is_floating_point() and each.ndim == 3
            for each in value
        )
    )
