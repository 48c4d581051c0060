"""What the user typed, made into what it stands for, or refused in a line that says what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher, get_close_matches

import torch

from camlib import METHODS, Method
from camlib.errors import InputError, TargetError

_OFFERED = 5
"""How many classes a message offers."""

_ALIKE = 0.8
"""How alike a name must be to one that was meant: 1 is the same."""


def method_named(name: str, known: Mapping[str, type[Method]] = METHODS) -> type[Method]:
    """The method called `name`, by its own name or that of its class, however it is spelled.

    Raises:
        InputError: there is none.
    """
    spelled = {_plain(each): kind for each, kind in known.items()}
    spelled |= {_plain(kind.__name__): kind for kind in known.values()}
    if (found := spelled.get(_plain(name))) is not None:
        return found
    # Two that are equally alike would be a guess between methods.
    alike = {each: SequenceMatcher(None, _plain(name), _plain(each)).ratio() for each in known}
    best = [each for each, value in alike.items() if value == max(alike.values())]
    sure = len(best) == 1 and alike[best[0]] >= _ALIKE
    advice = f"did you mean {best[0]!r}?" if sure else "see camlib methods for those there are"
    raise InputError(f"method {name!r} not found; {advice}")


def name_of(kind: type[Method]) -> str:
    """What the method `kind` is called."""
    return next((name for name, known in METHODS.items() if known is kind), kind.__name__)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name.lower().replace("++", "plusplus"))


def class_index(given: str, classes: Sequence[str]) -> int:
    """The class that is `given` by number, or by name in upper or lower case.

    Args:
        given: by the user.
        classes: the names; none where they are not known, and any number will do.

    Raises:
        TargetError: there is none, or more than one.
    """
    last = len(classes) - 1
    if re.fullmatch(r"[+-]?\d+", given):
        if int(given) < 0 or (classes and int(given) > last):
            known = f"the model has {last + 1} classes, 0 to {last}" if classes else "expected 0 on"
            raise TargetError(f"class {given} is out of range: {known}")
        return int(given)
    if not classes:
        raise TargetError(
            f"class {given!r} not found: the classes have no names; pass a number, or --classes "
            "with a file of names"
        )
    lower = [name.lower() for name in classes]
    found = [index for index, name in enumerate(lower) if name == given.lower()]
    if len(found) == 1:
        return found[0]
    if found:
        numbers = " and ".join(map(str, found))
        raise TargetError(f"class {given!r} is the name of {numbers}; pass the number you mean")
    near = [classes[index] for index in _near(given.lower(), lower)]
    advice = f"pass a number from 0 to {last}"
    if near:
        advice = f"did you mean {' or '.join(map(repr, near))}?"
    raise TargetError(f"class {given!r} not found; {advice}")


def _near(given: str, lower: Sequence[str]) -> list[int]:
    """Which of the names `lower` may be meant: those with all words of `given`, else alike."""
    words = set(re.findall(r"\w+", given))
    whole = [i for i, name in enumerate(lower) if words and words <= set(re.findall(r"\w+", name))]
    if whole:
        return sorted(whole, key=lambda index: len(lower[index]))[:_OFFERED]
    alike = get_close_matches(given, lower, n=1)
    return [lower.index(alike[0])] if alike else []


def device_named(name: str) -> torch.device:
    """The device called `name`; the fastest one for ``"auto"``.

    Raises:
        InputError: this computer has none of that name.
    """
    there = ["cpu"]
    there += ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    if name == "auto":
        return torch.device(there[-1])
    try:
        torch.zeros(1, device=name).item()
    # An unknown name, a build without the device and a missing driver have an error each.
    except Exception:
        raise InputError(
            f"device {name!r} is not there; use auto, or one of: {', '.join(there)}"
        ) from None
    return torch.device(name)
