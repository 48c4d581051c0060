"""The forms in which a target's numbers may be given: lists, tuples, tensors, NumPy's arrays."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any

import torch
from torch import Tensor

from camlib.errors import TargetError

Classes = Any
"""``None`` (the predicted class), a class for all samples, one a sample (a list or a 1-D tensor or
array), several a sample ``(N, K)`` or ``(1, K)``. Negative numbers are none: counted from the end,
they would hide mistakes such as the label -1 for "ignore"."""


def classes_in(scores: Tensor, asked: Classes) -> Tensor:
    """The classes `asked` for, of `scores` ``(N, classes, ...)``: ``(N,)`` or ``(N, K)``.

    Raises:
        TargetError: `asked` has no such form, does not fit the samples or is out of range.
    """
    return within(indices(asked, len(scores), scores.device), scores.shape[1])


def indices(
    given: Any, count: int, device: torch.device, *, name: str = "target", noun: str = "class"
) -> Tensor:
    """`given` for each of `count` samples: integers ``(N,)`` or ``(N, K)``.

    Args:
        given: an integer for all, one a sample, several a sample ``(N, K)`` or ``(1, K)``.
        count: the number of samples.
        device: where the result goes.
        name: of the argument, for errors.
        noun: for what an integer stands, for errors.

    Raises:
        TargetError: `given` has no such form or does not fit the samples.
    """
    found = integers(given)
    if found is None:
        function = ", nor a function of the model's output" if name == "target" else ""
        raise TargetError(
            f"{name}={given!r} is neither a {noun} index, nor integers (N,) or (N, K){function}"
            + _advice(given, noun)
        )
    found = found.to(device=device, dtype=torch.int64)
    if found.ndim == 0:
        found = found.expand(count)
    elif found.ndim == 2 and len(found) == 1:
        found = found.expand(count, -1)
    if found.ndim > 2 or len(found) != count or not found.numel():
        article = "an" if name == "index" else "a"
        raise TargetError(
            f"{article} {name} of shape {tuple(found.shape)} does not fit {count} samples; pass "
            f"one {noun} for all, a list of one {noun} a sample, or (N, K): [[281, 285]] for two "
            f"{plural(noun)}"
        )
    return found


def within(found: Tensor, available: int, noun: str = "class", *, from_end: bool = False) -> Tensor:
    """The indices `found`, of `available` ones, counted from 0.

    Args:
        found: integers.
        available: how many there are.
        noun: for what an index stands, for errors.
        from_end: whether negative ones count from the end.

    Raises:
        TargetError: one is out of range.
    """
    if not from_end:
        check_positive(found, noun)
    outside = (found < -available) | (found >= available)
    if outside.any():
        raise TargetError(
            f"{noun} {int(found[outside][0])} is out of range: the model has {available} "
            f"{plural(noun)}, 0 to {available - 1}"
        )
    return found % available


def check_positive(found: Tensor, noun: str) -> None:
    """Nothing, if none of the indices `found` is negative.

    Raises:
        TargetError: one is.
    """
    if (found < 0).any():
        raise TargetError(
            f"{noun} {int(found[found < 0][0])} is negative: {plural(noun)} count from 0, and "
            "counting from the end would hide mistakes such as a label for 'ignore'; pass the "
            "index itself"
        )


def plural(noun: str) -> str:
    """`noun` for several."""
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def integers(given: Any) -> Tensor | None:
    """`given` as a tensor of integers; ``None`` if it is none."""
    try:
        if isinstance(given, Tensor):
            found = given.detach()
        elif hasattr(given, "__array__") and getattr(given, "ndim", False):
            found = torch.tensor(given, device="cpu")
        else:
            found = torch.tensor(_plain(given), device="cpu")
    except (TypeError, ValueError, RuntimeError):
        return None
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        return None
    return found


def _advice(given: Any, noun: str) -> str:
    """What to pass instead of `given`, if that can be told."""
    several = list(given) if isinstance(given, list | tuple) else [given]
    if any(isinstance(each, str) for each in several):
        return f"; the model does not know the names of its {plural(noun)}: pass indices"
    if any(callable(each) for each in several):
        return (
            f"; one target asks of all samples: pass {noun} indices, one a sample, or one function "
            "of the whole output, such as lambda out: torch.stack([out[:, 1], out[:, 0]], 1)"
        )
    if any(isinstance(each, bool) for each in several) or (
        isinstance(given, Tensor) and given.dtype == torch.bool
    ):
        return f"; a bool is no index: pass 1 or 0 if that is the {noun}"
    if any(isinstance(each, float) for each in several) or (
        isinstance(given, Tensor) and given.is_floating_point()
    ):
        return f"; indices are integers: pass 1 and not 1.0, or int(...) and .long() of a {noun}"
    return ""


def numbers(given: Any, name: str, device: torch.device) -> Tensor:
    """`given` as a tensor of any type, also where it is a list of tensors or arrays.

    Raises:
        TargetError: `given` holds something else, or parts of different shapes.
    """
    try:
        found = _stacked(given).to(device)
        if found.is_complex():
            raise TypeError
        return found
    except (TypeError, ValueError, RuntimeError):
        raise TargetError(
            f"{name}={given!r} is no array of numbers; pass a tensor, a NumPy array or a list"
        ) from None


def _stacked(given: Any) -> Tensor:
    if isinstance(given, Tensor):
        return given.detach()
    if isinstance(given, list | tuple):
        return torch.stack([_stacked(part) for part in given])
    return torch.tensor(given, device="cpu")


def _plain(values: Any) -> Any:
    """Nested sequences of integers, also of NumPy's and of zero-dimensional tensors."""
    if isinstance(values, Sequence) and not isinstance(values, str):
        return [_plain(value) for value in values]
    if isinstance(values, bool):
        raise TypeError
    return values.tolist() if hasattr(values, "tolist") else index(values)
