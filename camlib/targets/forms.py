"""Turn the numbers of a target, in lists, tuples, tensors or NumPy arrays, into tensors."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any

import torch
from torch import Tensor

from camlib.errors import TargetError

Classes = Any
"""``None`` (the predicted class), a class for all samples, one for each sample (a list or a 1-D
tensor or array), or several for each, ``(N, K)`` or ``(1, K)``. Negative numbers are refused:
counted from the end, they would hide mistakes such as the label -1 for "ignore"."""


def classes_in(scores: Tensor, asked: Classes) -> Tensor:
    """The classes `asked` for in `scores` ``(N, classes, ...)``: ``(N,)`` or ``(N, K)``.

    Raises:
        TargetError: `asked` has another form, does not fit the samples or is out of range.
    """
    return within(indices(asked, len(scores), scores.device), scores.shape[1])


def indices(
    given: Any, count: int, device: torch.device, *, name: str = "target", noun: str = "class"
) -> Tensor:
    """`given` for each of `count` samples: integers ``(N,)`` or ``(N, K)``.

    Args:
        given: an integer for all samples, one for each, or several for each, ``(N, K)`` or
            ``(1, K)``.
        count: the number of samples.
        device: the device of the result.
        name: the name of the argument, for errors.
        noun: the noun for an integer, for errors.

    Raises:
        TargetError: `given` has another form or does not fit the samples.
    """
    chosen = integers(given)
    if chosen is None:
        function = ", nor a function of the model's output" if name == "target" else ""
        raise TargetError(
            f"{name}={given!r} is neither a {noun} index, nor integers (N,) or (N, K){function}"
            + _advice(given, noun)
        )
    chosen = chosen.to(device=device, dtype=torch.int64)
    if chosen.ndim == 0:
        chosen = chosen.expand(count)
    elif chosen.ndim == 2 and len(chosen) == 1:
        chosen = chosen.expand(count, -1)
    if chosen.ndim > 2 or len(chosen) != count or not chosen.numel():
        article = "an" if name == "index" else "a"
        raise TargetError(
            f"{article} {name} of shape {tuple(chosen.shape)} does not fit {count} samples; pass "
            f"one {noun} for all, a list with one {noun} for each sample, or (N, K): [[281, 285]] "
            f"for two {plural(noun)}"
        )
    return chosen


def within(
    chosen: Tensor, available: int, noun: str = "class", *, from_end: bool = False
) -> Tensor:
    """The `chosen` indices, counted from 0.

    Args:
        chosen: integers.
        available: the number of indices that exist.
        noun: the noun for an index, for errors.
        from_end: whether negative indices count from the end.

    Raises:
        TargetError: an index is out of range.
    """
    if not from_end:
        check_positive(chosen, noun)
    outside = (chosen < -available) | (chosen >= available)
    if outside.any():
        raise TargetError(
            f"{noun} {int(chosen[outside][0])} is out of range: the model has {available} "
            f"{plural(noun)}, 0 to {available - 1}"
        )
    return chosen % available


def check_positive(chosen: Tensor, noun: str) -> None:
    """Check that none of the `chosen` indices is negative.

    Raises:
        TargetError: one is negative.
    """
    if (chosen < 0).any():
        raise TargetError(
            f"{noun} {int(chosen[chosen < 0][0])} is negative: {plural(noun)} count from 0, and "
            "counting from the end would hide mistakes such as a label for 'ignore'; pass the "
            "index itself"
        )


def plural(noun: str) -> str:
    """The plural of `noun`."""
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def integers(given: Any) -> Tensor | None:
    """`given` as a tensor of integers; ``None`` if it holds something else."""
    try:
        if isinstance(given, Tensor):
            tensor = given.detach()
        elif hasattr(given, "__array__") and getattr(given, "ndim", False):
            tensor = torch.tensor(given, device="cpu")
        else:
            tensor = torch.tensor(_plain(given), device="cpu")
    except (TypeError, ValueError, RuntimeError):
        return None
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        return None
    return tensor


def _advice(given: Any, noun: str) -> str:
    """The end of an error that says what to pass instead of `given`; may be empty."""
    several = list(given) if isinstance(given, list | tuple) else [given]
    if any(isinstance(each, str) for each in several):
        return f"; the model does not know the names of its {plural(noun)}: pass indices"
    if any(callable(each) for each in several):
        return (
            f"; one target serves all samples: pass {noun} indices, one for each sample, or one "
            "function of the whole output, such as lambda out: torch.stack([out[:, 1], out[:, 0]], "
            "1)"
        )
    if any(isinstance(each, bool) for each in several) or (
        isinstance(given, Tensor) and given.dtype == torch.bool
    ):
        return f"; a bool is not an index: pass 1 or 0 if that is the {noun}"
    if any(isinstance(each, float) for each in several) or (
        isinstance(given, Tensor) and given.is_floating_point()
    ):
        return f"; indices are integers: pass 1 instead of 1.0, or int(...) or .long() of a {noun}"
    return ""


def numbers(given: Any, name: str, device: torch.device) -> Tensor:
    """`given` as a tensor of any type; `given` may be a list of tensors or arrays.

    Raises:
        TargetError: `given` holds something else, or parts of different shapes.
    """
    try:
        values = _stacked(given).to(device)
        if values.is_complex():
            raise TypeError
        return values
    except (TypeError, ValueError, RuntimeError):
        raise TargetError(
            f"{name}={given!r} is not an array of numbers; pass a tensor, a NumPy array or a list"
        ) from None


def _stacked(given: Any) -> Tensor:
    if isinstance(given, Tensor):
        return given.detach()
    if isinstance(given, list | tuple):
        return torch.stack([_stacked(part) for part in given])
    return torch.tensor(given, device="cpu")


def _plain(values: Any) -> Any:
    """Nested lists of integers, from Python, NumPy or zero-dimensional tensors."""
    if isinstance(values, Sequence) and not isinstance(values, str):
        return [_plain(value) for value in values]
    if isinstance(values, bool):
        raise TypeError
    return values.tolist() if hasattr(values, "tolist") else index(values)
