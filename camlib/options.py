"""Options are checked by what their annotations say, by name and by value.

``samples: Count = 25`` in a signature under `checked` is all that an option needs: the annotation
is what type checkers read, what `help` shows and what a call is held to. Annotations are resolved
at the first call, so that they cost nothing at import.
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
        low: the least.
        high: the greatest.
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
    """Sequences with something in them."""

    def __contains__(self, values: Any) -> bool:
        return len(values) > 0

    def __str__(self) -> str:
        return "that is not empty"


Count = Annotated[int, Range(1)]
"""How many: 1 or more."""

Width = Annotated[float, Range(0)]
"""A width, or a weight: 0 or more."""

Positive = Annotated[float, Range(0, above=True)]
"""A number above 0."""

Share = Annotated[float, Range(0, 1)]
"""A number from 0 to 1."""

Natural = Annotated[int, Range(0)]
"""A number that counts from 0."""

Seed = Annotated[int, Range(-(2**63), 2**64 - 1)]
"""What a `torch.Generator` takes as a seed."""

F = TypeVar("F", bound=Callable[..., Any])


def checked(function: F) -> F:
    """`function`, with the options of every call checked.

    Every keyword must be a parameter, or stand in the `TypedDict` of ``**options: Unpack[...]``,
    and every option must be of the kind that its annotation says. Arguments by position are checked
    where that is a plain kind, such as a number; models, layers, inputs and targets have errors of
    their own.

    Raises:
        OptionError: in a call, an option is not known or has no such value.
    """
    parameters = inspect.signature(function).parameters.values()
    positional = [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    bound = positional[:1] == ["self"]

    usual = {each.name: each.default for each in parameters}
    declared: list[tuple[dict[str, Any], bool]] = []  # once read

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        if not declared:
            declared.append(_declared(function))
        kinds, open_ended = declared[0]
        for name, value in (*zip(positional, args, strict=False), *options.items()):
            if name in kinds:
                if kinds[name] is not Any and value is not usual.get(name, usual):
                    check(name, value, kinds[name])
            elif not open_ended:
                owner = type(args[0]) if bound and args else function
                raise unknown(owner, name, known_to(owner, function, kinds))
        return function(*args, **options)

    return as_written(call)  # type: ignore[return-value]


def check(name: str, value: Any, kind: Any) -> None:
    """Check that the option `name` may be `value`.

    Raises:
        OptionError: it is not of this `kind`, an annotation.
    """
    if fits(value, kind):
        return
    given = f"{name}={_SHORT.repr(value)}"
    if isinstance(value, str | tuple | list) and "Literal" in repr(kind):
        raise OptionError(f"{given} is not known; use {expected(kind)}")
    if not _is_empty(value) and fits(value, _without_ranges(kind)):
        raise OptionError(f"{given} is out of range; expected {expected(kind)}")
    raise OptionError(f"{given} is {_kind_of(value)}; expected {expected(kind)}")


def fits(value: Any, kind: Any) -> bool:
    """Whether `value` is of this `kind`, an annotation. ``True`` is no number, nor is NaN."""
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
    """What values an option of this `kind` takes, in words."""
    *others, last = dict.fromkeys(word for part in _parts(kind) for word in _words(part))
    comma = "," if any(" or " in word for word in others) else ""
    return f"{', '.join(others)}{comma} or {last}" if others else last


def _words(kind: Any) -> list[str]:
    """What values a `kind` that is no union takes, each in words."""
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
        name: of the option given.
        known: names of those that there are.
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
    """The names of what `function` takes: all of a class's, where it is its constructor."""
    names = set(kinds)
    if isinstance(owner, type) and function.__name__ == "__init__":
        for base in owner.__mro__:
            if base is not object and "__init__" in vars(base):
                names |= _declared(inspect.unwrap(vars(base)["__init__"]))[0].keys()
    return names - {"self"}


def _declared(function: Callable[..., Any]) -> tuple[dict[str, Any], bool]:
    """What each parameter of `function` may be, and whether it takes others as well."""
    declared = hints(function)
    kinds: dict[str, Any] = {}
    open_ended = False
    for each in inspect.signature(function).parameters.values():
        kind = declared.get(each.name, Any)
        if each.kind is each.VAR_KEYWORD:
            parts = get_args(kind)  # of Unpack
            open_ended = not parts
            kinds |= get_type_hints(parts[0], include_extras=True) if parts else {}
        elif each.kind is not each.VAR_POSITIONAL:
            kinds[each.name] = kind if each.kind is each.KEYWORD_ONLY or _is_plain(kind) else Any
    return kinds, open_ended


def check_fields(value: Any) -> None:
    """Check that the fields of a dataclass are what their annotations say.

    Raises:
        OptionError: one is not.
    """
    owner: Any = type(value)
    for name, kind in hints(owner).items():
        check(name, getattr(value, name), kind)


def hints(annotated: Hashable) -> dict[str, Any]:
    """The annotations of a function or class; `Any` for what only a type checker imports."""
    if annotated not in _hints:
        _hints[annotated] = _resolved(annotated)
    return _hints[annotated]


def _resolved(held: Any) -> dict[str, Any]:
    try:
        return get_type_hints(held, include_extras=True)
    except NameError:
        scope = getattr(inspect.unwrap(held), "__globals__", {})
        found: dict[str, Any] = dict.fromkeys(held.__annotations__, Any)
        for name, text in held.__annotations__.items():
            alone = types.SimpleNamespace(__annotations__={name: text})
            with suppress(NameError):
                found |= get_type_hints(alone, scope, include_extras=True)
        return found


def _is_plain(kind: Any) -> bool:
    """Whether `kind` is made of numbers, names and flags alone."""
    return all(part in _WORDS or get_origin(part) in (Literal, Annotated) for part in _parts(kind))


def _without_ranges(kind: Any) -> Any:
    """`kind` with numbers of any size."""
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
"""The annotations that were resolved."""

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
    "the layer is called layer=: a module, its dotted name, a list of either, or None for the "
    "default; methods of pixels have none"
)
_TARGET = "what to explain is the target= of a call: a class, one a sample, or a function"
_BLOCKS = "maps of attention take blocks=: how many of the last ones count"
_DEVICE = "nothing has to be said: a map is computed where the inputs are"
ELSEWHERE = {
    "target_layer": _LAYER,
    "target_layers": _LAYER,
    "targets": _TARGET,
    "target_category": _TARGET,
    "class_idx": _TARGET,
    "use_cuda": _DEVICE,
    "device": _DEVICE,
    "reshape_transform": "layers are read without one; layout= is for those that cannot be",
    "input_tensor": "the images are the first argument of a call, inputs",
    "input_img": "the images are the first argument of a call, inputs",
    "input_shape": "the layer is chosen from the first inputs; leave it out",
    "fc_layer": "the classifier is found by itself; leave it out",
    "aug_smooth": "wrap the method: Augmented(GradCAM(model))",
    "eigen_smooth": "methods that weigh channels have it: GradCAM(model, eigen_smooth=True)",
    "normalized": "use normalize=",
    "multiply_by_inputs": "use multiply=",
    "n_steps": "use steps=",
    "nt_type": "SmoothGrad and Smooth have statistic=: 'mean', 'square' or 'variance'",
    "layer_index": _BLOCKS,
    "start_layer": _BLOCKS,
}
"""What other libraries have, and where it is here."""
