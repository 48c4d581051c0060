"""Check the names and the values of options against their annotations.

An option needs nothing but ``samples: Count = 25`` in a signature under `checked`. Type checkers
read the annotation, `help` shows it, and every call is checked against it. Annotations are
evaluated at the first call, so they cost nothing at import.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
import reprlib
import types
from collections import abc
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from camlib.compiling import as_written
from camlib.errors import OptionError


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`.

    Attributes:
        low: the smallest.
        high: the largest.
        above: whether `low` itself is excluded.
        below: whether `high` itself is excluded.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, number: Any) -> bool:
        enough = number > self.low if self.above else number >= self.low
        return bool(enough and (number < self.high if self.below else number <= self.high))

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"above {self.low}" if self.above else f"of {self.low} or more"
        low = f"above {self.low}" if self.above else f"from {self.low}"
        return f"{low}, below {self.high}" if self.below else f"{low} up to {self.high}"


@dataclass(frozen=True)
class Filled:
    """Sequences that are not empty."""

    def __contains__(self, values: Any) -> bool:
        return len(values) > 0

    def __str__(self) -> str:
        return "that is not empty"


Count = Annotated[int, Range(1)]
"""A number of things: 1 or more."""

Width = Annotated[float, Range(0)]
"""A width, or a weight: 0 or more."""

Positive = Annotated[float, Range(0, above=True)]
"""A number above 0."""

Share = Annotated[float, Range(0, 1)]
"""A number from 0 to 1."""

Part = Annotated[float, Range(0, 1, above=True)]
"""A share above 0."""

Natural = Annotated[int, Range(0)]
"""An integer of 0 or more."""

Seed = Annotated[int, Range(-(2**63), 2**64 - 1)]
"""A seed that `torch.Generator` takes."""

F = TypeVar("F", bound=Callable[..., Any])


def checked(function: F) -> F:
    """Check the options of every call of `function`.

    Every keyword must be a parameter or a key of the `TypedDict` in ``**options: Unpack[...]``.
    Every option must match its annotation. A positional argument is checked where its annotation is
    a plain kind, such as a number; models, layers, inputs and targets have errors of their own.

    Raises:
        OptionError: a call has an unknown option, or an invalid value.
    """
    parameters = inspect.signature(function).parameters.values()
    positional = [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    bound = positional[:1] == ["self"]

    usual = {each.name: each.default for each in parameters}
    declared: list[_Declared] = []  # read at the first call

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        if not declared:
            declared.append(_declared(function))
        kinds = declared[0].kinds
        for name, value in (*zip(positional, args, strict=False), *options.items()):
            if name in kinds:
                if kinds[name] is not Any and value is not usual.get(name, usual):
                    check(name, value, kinds[name])
            elif not declared[0].takes_others:
                owner = type(args[0]) if bound and args else function
                raise unknown(owner, name, known_to(owner, function, kinds))
        return function(*args, **options)

    return as_written(call)  # type: ignore[return-value]


def check(name: str, value: Any, kind: Any) -> None:
    """Check that `value` matches `kind`, the annotation of the option `name`.

    Raises:
        OptionError: it does not.
    """
    if fits(value, kind):
        return
    given = f"{name}={_SHORT.repr(value)}"
    if isinstance(value, str | int | tuple | list) and "Literal" in repr(kind):
        raise OptionError(f"{given} is not known; use {expected(kind)}")
    if not _is_empty(value) and fits(value, _without_ranges(kind)):
        raise OptionError(f"{given} is out of range; expected {expected(kind)}")
    raise OptionError(f"{given} is {_kind_of(value)}; expected {expected(kind)}")


def fits(value: Any, kind: Any) -> bool:
    """Whether `value` matches `kind`, an annotation. ``True`` and NaN are not numbers."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Annotated:
        return fits(value, parts[0]) and all(value in each for each in parts[1:])
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if origin is tuple:
        return isinstance(value, tuple) and _each_fits(value, parts[0])
    if origin in (Sequence, list):
        return (
            isinstance(value, origin) and not isinstance(value, str) and _each_fits(value, *parts)
        )
    if origin is abc.Mapping:
        return isinstance(value, abc.Mapping)
    if origin is type:
        return isinstance(value, type) and issubclass(value, parts[0])
    if origin is abc.Callable:
        return callable(value)
    if kind is int:
        return isinstance(value, Integral) and not isinstance(value, bool) and not _is_huge(value)
    if kind is float:
        number = isinstance(value, Real) and not isinstance(value, bool)
        return number and not _is_huge(value) and math.isfinite(value)
    return isinstance(value, kind) if isinstance(kind, type) and kind is not Any else True


def expected(kind: Any) -> str:
    """The values that `kind` allows, in words."""
    *others, last = dict.fromkeys(word for part in _parts(kind) for word in _words(part))
    comma = "," if any(" or " in word for word in others) else ""
    return f"{', '.join(others)}{comma} or {last}" if others else last


def _words(kind: Any) -> list[str]:
    """The values that `kind`, which is no union, allows: each in words."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return [f"{expected(parts[0])} {parts[1]}"]
    if origin is Literal:
        return [repr(part) for part in parts]
    if origin in (tuple, abc.Sequence, list):
        several = _PLURALS.get(parts[0]) or expected(parts[0])
        return [f"a {origin.__name__.lower()} of {several}"]
    if origin is type:
        return [f"a subclass of {parts[0].__name__}"]
    if origin is abc.Callable:
        return ["a function"]
    return _WORDS.get(kind) or [f"a {getattr(kind, '__name__', kind)}"]


def unknown(owner: Any, name: str, known: Iterable[str]) -> OptionError:
    """The error for an option `name` that `owner` does not have.

    Args:
        owner: a class or a function.
        name: the name given.
        known: the names of the options that exist.
    """
    start = f"{name}= is not an option of {owner.__name__}"
    if name in ELSEWHERE:
        return OptionError(f"{start}; {ELSEWHERE[name]}")
    options = sorted(known)
    near = get_close_matches(name, options, n=1)
    listed = ", ".join(f"{each}=" for each in options)
    return OptionError(
        f"{start}; " + (f"did you mean {near[0]}=?" if near else f"there are {listed}")
    )


def known_to(owner: Any, function: Callable[..., Any], kinds: Iterable[str]) -> set[str]:
    """The names of the options of `function`; those of the whole class for a constructor."""
    names = set(kinds)
    if isinstance(owner, type) and function.__name__ == "__init__":
        for base in owner.__mro__:
            if base is not object and "__init__" in vars(base):
                names |= _declared(inspect.unwrap(vars(base)["__init__"])).kinds.keys()
    return names - {"self"}


@dataclass(frozen=True)
class _Declared:
    """The options that a function declares.

    Attributes:
        kinds: the annotation of each.
        takes_others: whether it takes any other keyword too.
    """

    kinds: dict[str, Any]
    takes_others: bool


def _declared(function: Callable[..., Any]) -> _Declared:
    annotations = hints(function)
    kinds: dict[str, Any] = {}
    takes_others = False
    for each in inspect.signature(function).parameters.values():
        kind = annotations.get(each.name, Any)
        if each.kind is each.VAR_KEYWORD:
            parts = get_args(kind)  # of Unpack
            takes_others = not parts
            kinds |= get_type_hints(parts[0], include_extras=True) if parts else {}
        elif each.kind is not each.VAR_POSITIONAL:
            kinds[each.name] = kind if each.kind is each.KEYWORD_ONLY or _is_plain(kind) else Any
    return _Declared(kinds, takes_others)


def check_fields(value: Any) -> None:
    """Check the fields of a dataclass against their annotations.

    Raises:
        OptionError: one does not match.
    """
    owner: Any = type(value)
    for name, kind in hints(owner).items():
        check(name, getattr(value, name), kind)


def hints(annotated: Hashable) -> dict[str, Any]:
    """The annotations of a function or class; `Any` for names that only type checkers import."""
    if annotated not in _hints:
        _hints[annotated] = _evaluated(annotated)
    return _hints[annotated]


def _evaluated(annotated: Any) -> dict[str, Any]:
    try:
        return get_type_hints(annotated, include_extras=True)
    except NameError:
        scope = getattr(inspect.unwrap(annotated), "__globals__", {})
        kinds: dict[str, Any] = dict.fromkeys(annotated.__annotations__, Any)
        for name, text in annotated.__annotations__.items():
            alone = types.SimpleNamespace(__annotations__={name: text})
            with suppress(NameError):
                kinds |= get_type_hints(alone, scope, include_extras=True)
        return kinds


def _is_plain(kind: Any) -> bool:
    """Whether `kind` consists of numbers, strings and flags only."""
    return all(part in _WORDS or get_origin(part) in (Literal, Annotated) for part in _parts(kind))


def _without_ranges(kind: Any) -> Any:
    """`kind`, without bounds on its numbers."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _without_ranges(parts[0])
    if origin in (tuple, abc.Sequence):
        return origin[(_without_ranges(parts[0]), *parts[1:])]
    if parts and parts == _parts(kind):
        return functools.reduce(operator.or_, map(_without_ranges, parts))
    return kind


def _parts(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _each_fits(values: Sequence[Any], kind: Any) -> bool:
    return all(fits(value, kind) for value in values)


def _is_empty(value: Any) -> bool:
    return isinstance(value, tuple | list) and not value


def _is_huge(value: Any) -> bool:
    """Whether `value` is an integer that PyTorch cannot take."""
    return isinstance(value, Integral) and not -(2**63) <= int(value) < 2**64


def _kind_of(value: Any) -> str:
    """What `value` is, for an error."""
    if isinstance(value, type):
        return "a class"
    if _is_huge(value):
        return "too large"
    if _is_empty(value):
        return "empty"
    if isinstance(value, Real) and not isinstance(value, bool) and not math.isfinite(value):
        return "not finite"
    return f"of type {type(value).__name__}"


_hints: dict[Hashable, dict[str, Any]] = {}
"""The annotations that were evaluated before."""

_WORDS = {
    bool: ["True", "False"],
    int: ["an integer"],
    float: ["a number"],
    str: ["a string"],
    types.NoneType: ["None"],
}
_PLURALS = {
    int: "integers",
    float: "numbers",
    str: "strings",
    Count: "integers of 1 or more",
    Positive: "numbers above 0",
}

_SHORT = reprlib.Repr()
_SHORT.maxother = _SHORT.maxstring = 60

_LAYER = (
    "use layer=: a module, its dotted name, a list of either, or None for the default; pixel "
    "methods have no layer"
)
_TARGET = "pass target= to the call: a class, one class for each sample, or a function"
_BLOCKS = "attention methods take blocks=: how many of the last blocks count"
_DEVICE = "leave it out: maps are computed on the device of the inputs"
ELSEWHERE = {
    "target_layer": _LAYER,
    "target_layers": _LAYER,
    "targets": _TARGET,
    "target_category": _TARGET,
    "class_idx": _TARGET,
    "use_cuda": _DEVICE,
    "device": _DEVICE,
    "reshape_transform": "leave it out; layout= is for layers that camlib cannot read by itself",
    "input_tensor": "the images are the first argument of a call, inputs",
    "input_img": "the images are the first argument of a call, inputs",
    "input_shape": "leave it out; the layer is chosen from the first inputs",
    "fc_layer": "leave it out; camlib finds the classifier",
    "aug_smooth": "wrap the method: Augmented(GradCAM(model))",
    "eigen_smooth": "methods that weight channels have it: GradCAM(model, eigen_smooth=True)",
    "normalized": "use normalize=",
    "multiply_by_inputs": "use multiply=",
    "n_steps": "use steps=",
    "nt_type": "SmoothGrad and Smooth have statistic=: 'mean', 'square' or 'variance'",
    "layer_index": _BLOCKS,
    "start_layer": _BLOCKS,
}
"""Options of other libraries, and what to use here instead."""
