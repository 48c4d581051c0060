"""Rearrange the samples of an output, to check that a target keeps samples apart.

Methods that change the input or an activation explain batches with other samples, in another order
and number. A function with the labels of the clean batch in a closure, or with a mean over the
batch, would give wrong scores.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, MutableMapping
from dataclasses import is_dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from camlib.nested import twin_of
from camlib.targets.parts import named, parts


def in_another_batch(output: Any, count: int) -> tuple[Any, Tensor]:
    """`output` with its samples in another order, and their original numbers ``(count + 1,)``.

    One more sample follows: in a tensor, the last one again with its values halved, so that it
    equals none. Samples are found by their number, on the first axis of a tensor or else on the
    second, or as parts of a list. A single tensor for one sample without such an axis is repeated.

    Raises:
        ValueError: nothing in `output` has an entry for each sample.
    """
    numbers = torch.arange(-1, count, device="cpu") % count
    if isinstance(output, Tensor) and count == 1 and 1 not in output.shape[:2]:
        return _chosen(output[None], numbers, count), numbers
    several = isinstance(output, tuple | list) and len(output) == count
    if several and all(isinstance(part, Mapping) for part in output):
        return type(output)(output[number] for number in numbers.tolist()), numbers
    other = _chosen(output, numbers, count)
    before, after = ([id(part.tensor) for part in parts(each)] for each in (output, other))
    if before == after:
        raise ValueError(f"nothing in the model's output has {count} entries, one for each sample")
    return other, numbers


def _chosen(value: Any, numbers: Tensor, count: int) -> Any:
    """`value` for the samples with these `numbers`; the values of the last one are halved."""
    if isinstance(value, Tensor):
        axis = next((n for n, size in enumerate(value.shape[:2]) if size == count), None)
        if axis is None:
            return value
        chosen = value.detach().index_select(axis, numbers.to(value.device))
        if chosen.is_floating_point():
            chosen.select(axis, count).mul_(0.5)
        return chosen
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return type(value)(_listed(value, numbers, count))
    held = {name: _chosen(part, numbers, count) for name, part in named(value).items()}
    if isinstance(value, tuple) and held:
        return value._replace(**held)  # type: ignore[attr-defined]
    if isinstance(value, MutableMapping):
        twin = twin_of(value)
        for name, part in held.items():
            twin[name] = part
        return twin
    if isinstance(value, SimpleNamespace) or is_dataclass(value):
        other = copy.copy(value)
        for name, part in held.items():
            object.__setattr__(other, name, part)  # works for frozen dataclasses too
        return other
    return value


def _listed(value: tuple[Any, ...] | list[Any], numbers: Tensor, count: int) -> list[Any]:
    """The parts of a tuple or list for the samples; the parts may be the samples themselves."""
    inside = [_chosen(part, numbers, count) for part in value]
    before, after = ([id(p.tensor) for p in parts(list(each))] for each in (value, inside))
    if len(value) == count and before == after:
        return [value[number] for number in numbers.tolist()]
    return inside
