"""Find modules by name and names by module, behind wrappers."""

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
        advice = f"; pass the module in it: model.{held}" if held else ""
        raise ModelError(
            f"expected a torch.nn.Module as the model, got {type(model).__name__}{advice}"
        )
    while True:
        if isinstance(model, DataParallel | DistributedDataParallel):
            model = model.module
        elif isinstance(original := getattr(model, "_orig_mod", None), nn.Module):
            model = original
        else:
            return model


def check_ran(model: nn.Module, ran: Collection[object]) -> None:
    """Check that modules of `model` ran in a pass.

    Args:
        model: the model.
        ran: the modules that ran.

    Raises:
        ModelError: none ran, for example because `model` runs a copy of them.
    """
    if ran or not list(model.children()):
        return
    whole = set(model.parameters())
    holding = [name for name, m in model.named_children() if whole == set(m.parameters())]
    raise ModelError(
        f"{type(model).__name__} runs none of its own modules, but a copy of them or a program "
        "made from them, which camlib cannot read; pass "
        + (f"the module in it: model.{holding[0]}" if holding else "the original network")
    )


def is_weight(name: str) -> bool:
    """Whether the module `name` computes a weight, like those of `torch.nn.utils.parametrize`."""
    return "parametrizations" in name.split(".")


def find(model: nn.Module, layer: Layer) -> tuple[str, nn.Module]:
    """Dotted name and module of `layer` in `model`, both without wrappers.

    The number of a call stays in the name.

    Raises:
        LayerError: `layer` is not in `model`, or is scripted, or computes a weight.
    """
    model = unwrap(model)
    if isinstance(layer, str) and (named := _at(model, layer)) is not None:
        name = _eager(layer)
        return name, _with_hooks(name, unwrap(named))
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
        f"the {type(wanted).__name__} given as layer is not part of this {type(model).__name__}; "
        "pass a module of the model itself, or its dotted name"
    )


def _at(model: nn.Module, name: str) -> nn.Module | None:
    """The module with exactly this dotted name, without a walk over all modules.

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
            f"layer {name!r} computes a weight and does not see the image; choose the layer that "
            f"uses the weight, {owner!r}"
        )
    if isinstance(module, torch.jit.ScriptModule):
        raise LayerError(
            f"layer {name!r} is scripted ({module.original_name}) and runs no hooks, so camlib "
            "cannot read it; choose another layer, or pass the model that was scripted"
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
            f"the layers of a scripted model ({model.original_name}) run no hooks, so camlib "
            "cannot read them; pass the model that was scripted"
        )
    if layer is None:
        return ()
    several = [layer] if isinstance(layer, str | nn.Module) else layer
    if not isinstance(several, Sequence) or not several:
        raise LayerError(f"expected a layer, a list of layers or None, got {layer!r}")
    return tuple(find(model, each)[0] for each in several)


def call_of(name: str) -> int | None:
    """The number of the call in the layer's `name`, from 0; ``None`` for the last call."""
    _, at, call = name.rpartition("@")
    return int(call) if at and call.isdecimal() else None


def _held_by(holder: object) -> str | None:
    """The name of an attribute of `holder` that is a module; ``model`` comes first."""
    known = getattr(holder, "__dict__", {})
    names = ["model", *(name for name in known if not name.startswith("_"))]
    held = (name for name in names if isinstance(getattr(holder, name, None), nn.Module))
    return next(held, None)


def _eager(name: str) -> str:
    """`name` without the parts that `torch.compile` adds."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def _some(modules: dict[str, nn.Module], most: int = 8) -> str:
    listed = [repr(name) for name in modules if "." not in name]
    return ", ".join(listed[:most]) + (", ..." if len(listed) > most else "")
