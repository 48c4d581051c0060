"""Modules by name: wrappers off, name to module and back."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import get_close_matches

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from camlib.errors import LayerError, ModelError

Layer = nn.Module | str
"""A module of the model, or its dotted name; ``"encoder@0"`` is the first call of ``encoder``."""

Layers = Layer | Sequence[Layer] | None
"""A layer, several, or ``None`` for the default."""


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside DataParallel, DistributedDataParallel and `torch.compile`.

    Raises:
        ModelError: `model` is not a module.
    """
    if not isinstance(model, nn.Module):
        held = _held_by(model)
        raise ModelError(
            f"expected a torch.nn.Module as the model, got {type(model).__name__}"
            + f"; pass the module that it holds: model.{held}" * bool(held)
        )
    while True:
        if isinstance(model, DataParallel | DistributedDataParallel):
            model = model.module
        elif isinstance(original := getattr(model, "_orig_mod", None), nn.Module):
            model = original
        else:
            return model


def check_ran(model: nn.Module, ran: Collection[object]) -> None:
    """Check that modules of `model` ran in a pass: those noted in `ran`.

    Raises:
        ModelError: none did, as where `model` runs a copy of them, or something it made of them.
    """
    if ran or not list(model.children()):
        return
    whole = set(model.parameters())
    holding = [name for name, m in model.named_children() if whole == set(m.parameters())]
    raise ModelError(
        f"{type(model).__name__} ran none of the modules that it holds: it runs a copy of them, or "
        "a program made from them, which cannot be read; pass "
        + (f"the module that it holds: model.{holding[0]}" if holding else "the original network")
    )


def is_weight(name: str) -> bool:
    """Whether the module `name` makes a weight, as those of `torch.nn.utils.parametrize` do."""
    return "parametrizations" in name.split(".")


def find(model: nn.Module, layer: Layer) -> tuple[str, nn.Module]:
    """Dotted name and module of `layer` in `model`, both without wrappers.

    A call that is meant stays in the name.

    Raises:
        LayerError: there is no such layer in `model`, or it is scripted, or makes a weight.
    """
    model = unwrap(model)
    if isinstance(layer, str) and (there := _at(model, layer)) is not None:
        return (name := _eager(layer)), _with_hooks(name, unwrap(there))
    modules = {
        _eager(name): unwrap(module)
        for name, module in model.named_modules(remove_duplicate=False)
        if name
    }
    if isinstance(layer, str):
        for name in (_eager(layer), _eager(layer).removeprefix("module.")):
            if name in modules:
                return name, _with_hooks(name, modules[name])
        called, at, call = layer.rpartition("@")
        if at and call.isdecimal():
            name, module = find(model, called)
            return f"{name}@{int(call)}", module
        near = get_close_matches(layer, modules, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {_some(modules)}"
        raise LayerError(f"layer {layer!r} not found in {type(model).__name__}; {hint}")
    if not isinstance(layer, nn.Module):
        raise LayerError(
            f"expected a module of the model or its dotted name as a layer, got {layer!r}"
        )
    wanted = unwrap(layer)
    for name, module in modules.items():
        if module is wanted:
            return name, _with_hooks(name, module)
    raise LayerError(
        f"the {type(wanted).__name__} given as layer is not part of {type(model).__name__}; "
        "pass a module of this very model, or its dotted name"
    )


def _at(model: nn.Module, name: str) -> nn.Module | None:
    """The module of exactly this dotted name, found without a walk over all of them.

    ``None`` if there is none, or if it is inside a scripted module.
    """
    module: nn.Module | None = model
    for part in name.split("."):
        if module is None or isinstance(module, torch.jit.ScriptModule):
            return None
        module = module._modules.get(part)
    return module


def _with_hooks(name: str, module: nn.Module) -> nn.Module:
    if is_weight(name):
        owner = name.partition("parametrizations")[0].rstrip(".")
        raise LayerError(
            f"layer {name!r} makes a weight and sees nothing of the image; choose the layer that "
            f"uses it, {owner!r}"
        )
    if isinstance(module, torch.jit.ScriptModule):
        raise LayerError(
            f"layer {name!r} is scripted ({module.original_name}) and cannot be read, as it runs "
            "no hooks; choose another layer, or pass the model it was made from"
        )
    return module


def names(model: nn.Module, layer: Layers) -> tuple[str, ...]:
    """The dotted names of `layer`, empty for ``None``.

    Raises:
        LayerError: a layer is not in `model`, or the list of layers is empty.
        ModelError: `model` is scripted.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            f"the layers of a scripted model ({model.original_name}) run no hooks and cannot be "
            "read; pass the model it was made from"
        )
    if layer is None:
        return ()
    several = [layer] if isinstance(layer, str | nn.Module) else layer
    if not isinstance(several, Sequence) or not several:
        raise LayerError(f"expected a layer, a list of layers or None, got {layer!r}")
    return tuple(find(model, each)[0] for each in several)


def call_of(name: str) -> int | None:
    """Which call the layer `name` stands for, counted from 0; ``None`` for the last."""
    _, at, call = name.rpartition("@")
    return int(call) if at and call.isdecimal() else None


def _held_by(holder: object) -> str | None:
    """The attribute of `holder`, which is no module, that is one: ``model`` if there is."""
    known = getattr(holder, "__dict__", {})
    names = ["model", *(name for name in known if not name.startswith("_"))]
    held = (name for name in names if isinstance(getattr(holder, name, None), nn.Module))
    return next(held, None)


def _eager(name: str) -> str:
    """`name` without what `torch.compile` put in."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def _some(modules: dict[str, nn.Module], most: int = 8) -> str:
    listed = [repr(name) for name in modules if "." not in name]
    return ", ".join(listed[:most]) + (", ..." if len(listed) > most else "")
