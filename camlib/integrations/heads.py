"""Weights put into a network that they fit but for their prefix and their head.

Fine-tuning leaves the body of a network as it is and changes its last layer: another number of
classes, or a few layers in its place. So the names in a file are matched with those of the network,
whatever stands before them, and the head is built from what the file has for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from torch import Tensor, nn

from camlib.errors import InputError, warn

_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.", "aux_classifier.")
"""Heads for training alone."""

_COUNTER = "num_batches_tracked"
_STATISTICS = ("running_mean", "running_var", _COUNTER)

_SHOWN = 5
"""How many names of each side a message has."""


def fill(model: nn.Module, state: Mapping[str, Tensor], called: str, name: str) -> int:
    """Put `state` into `model`, its head rebuilt where it differs; the number of its outputs.

    Args:
        model: the network, with the head of its published weights.
        state: weights by name, with any prefix.
        called: the file, in a message.
        name: the network, in a message.

    Raises:
        InputError: they are the weights of another network.
    """
    own = _trained(model.state_dict())
    prefix = _prefix(state, own)
    given = _trained(_under(state, prefix))
    outside = {key: value for key, value in state.items() if not key.startswith(prefix)}
    head = _head(model)
    root = _root(head, own, given)
    body = {key: value for key, value in own.items() if not key.startswith(f"{root}.")}
    parts = _under(given, f"{root}.") or _elsewhere(outside, model.get_submodule(head))
    further = [key for key in given if key not in body and not key.startswith(f"{root}.")]
    lacking = [
        key
        for key, value in body.items()
        if not (key.endswith(_COUNTER) and key not in given)  # an old file has no counters
        and (key not in given or given[key].shape != value.shape)
    ]
    built = None
    if parts and not further and not lacking:
        built = _built(model.get_submodule(root), parts)
    if built is None:
        if not further and not lacking:  # then it is the head that nothing can be built for
            further = [key for key in given if key not in body]
            lacking = [key for key in own if key not in body]
        raise _misfit(own, given, lacking, further, called, name)
    parent, _, last = root.rpartition(".")
    setattr(model.get_submodule(parent), last, built)
    model.load_state_dict({key: given[key] for key in body if key in given}, strict=False)
    built.load_state_dict(dict(parts), strict=False)
    weights = [(_order(key), value) for key, value in parts.items() if value.ndim > 1]
    return len(max(weights, key=lambda pair: pair[0])[1])


def _trained(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` without heads for training alone."""
    return {key: value for key, value in state.items() if not key.startswith(_AUXILIARY)}


def _under(state: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    """What of `state` has names that begin with `start`, without it."""
    return {key[len(start) :]: value for key, value in state.items() if key.startswith(start)}


def _prefix(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """What most names of `state` have before a name of `own`."""
    counts: Counter[str] = Counter(
        key[: len(key) - len(name)]
        for name in own
        for key in state
        if key == name or key.endswith(f".{name}")
    )
    # Of equally many, the shortest: a part of a network may look like the whole.
    found: str = min(counts, key=lambda prefix: (-counts[prefix], len(prefix)), default="")
    return found


def _head(model: nn.Module) -> str:
    """The name of the last layer with a weight: a linear one, or a convolution in SqueezeNet."""
    last = ""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and not f"{name}.".startswith(_AUXILIARY):
            last = name
    return last


def _root(head: str, own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """The module that holds all names that differ, at `head` or above, but not the whole."""
    differ = [
        key
        for key in {*own, *given}
        if not key.endswith(_COUNTER)
        and (key not in own or key not in given or own[key].shape != given[key].shape)
    ]
    while "." in head and not all(key.startswith(f"{head}.") for key in differ):
        head = head.rpartition(".")[0]
    return head


def _elsewhere(outside: Mapping[str, Tensor], head: nn.Module) -> dict[str, Tensor]:
    """The one linear layer among `outside` that takes what `head` takes."""
    width = head.weight.shape[1] if isinstance(head.weight, Tensor) else 0
    fitting = [
        key.removesuffix("weight")
        for key, value in outside.items()
        if key.endswith(".weight") and value.ndim == 2 and value.shape[1] == width
    ]
    if len(fitting) != 1:
        return {}
    return _under(outside, fitting[0])


def _order(key: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in key.split(".")]


def _built(old: nn.Module, parts: Mapping[str, Tensor]) -> nn.Module | None:
    """A module for the weights `parts`, as much like `old` as they are; ``None`` if unknown."""
    own = {key: value.shape for key, value in old.state_dict().items()}
    if own == {key: value.shape for key, value in parts.items()}:
        return old
    if "weight" in parts and set(parts) <= {"weight", "bias", *_STATISTICS}:
        return _layer(old, parts)
    names = {key.partition(".")[0] for key in parts}
    numbers = {int(name) for name in names if name.isdigit()}
    if not numbers or len(numbers) < len(names):
        return _named(old, parts, names)
    steps: list[nn.Module] = []
    assumed = False
    before = list(old) if isinstance(old, nn.Sequential) else []
    weighed = [number for number, step in enumerate(before) if step.state_dict()]
    last = max(numbers)
    # What follows the last layer stays, if it is still the last: SqueezeNet has a pooling there.
    length = max(len(before), last + 1) if weighed and weighed[-1] == last else last + 1
    for number in range(length):
        inner = before[number] if number < len(before) else None
        mine = _under(parts, f"{number}.")
        if mine:
            step = _built(nn.Identity() if inner is None else inner, mine)
            if step is None:
                return None
        elif inner is not None and not inner.state_dict():
            step = inner
        elif inner is None and number < last and _straight(steps):
            step, assumed = nn.ReLU(), True
        else:
            step = nn.Identity()
        steps.append(step)
    if assumed:
        warn(
            "the head has layers without weights between linear ones, which the file does not "
            "name; they are taken for ReLU and dropout"
        )
    return nn.Sequential(*steps)


def _straight(steps: list[nn.Module]) -> bool:
    """Whether nothing bends what the last linear layer of `steps` returns."""
    linear = [number for number, step in enumerate(steps) if isinstance(step, nn.Linear)]
    return bool(linear) and not any(isinstance(step, nn.ReLU) for step in steps[linear[-1] :])


def _named(old: nn.Module, parts: Mapping[str, Tensor], names: set[str]) -> nn.Module | None:
    """`old` with its parts of these names built anew."""
    children = dict(old.named_children())
    if not names or not names <= set(children):
        return None
    for name in names:
        built = _built(children[name], _under(parts, f"{name}."))
        if built is None:
            return None
        setattr(old, name, built)
    return old


def _layer(old: nn.Module, parts: Mapping[str, Tensor]) -> nn.Module | None:
    """One layer for `parts`."""
    weight, bias = parts["weight"], "bias" in parts
    if weight.ndim == 2:
        return nn.Linear(weight.shape[1], weight.shape[0], bias=bias)
    if weight.ndim == 4 and isinstance(old, nn.Conv2d):
        kernel = (weight.shape[2], weight.shape[3])
        return nn.Conv2d(weight.shape[1], weight.shape[0], kernel, bias=bias)
    if weight.ndim == 1 and "running_mean" in parts:
        return nn.BatchNorm1d(len(weight))
    return nn.LayerNorm(len(weight)) if weight.ndim == 1 and bias else None


def _misfit(
    own: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    lacking: list[str],
    further: list[str],
    called: str,
    name: str,
) -> InputError:
    """What differs: the first names of each side."""
    missing = [key for key in lacking if key not in given]
    shapes = [
        f"{key} {tuple(given[key].shape)} for {tuple(own[key].shape)}"
        for key in lacking
        if key in given
    ]
    reasons = [
        f"{what} {_listed(names)}"
        for what, names in (
            ("it lacks", missing),
            ("it has besides", further),
            ("shapes differ at", shapes),
        )
        if names
    ]
    return InputError(
        f"{called!r} does not fit {name!r}: {'; '.join(reasons)}; choose the network that it was "
        "saved from"
    )


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
