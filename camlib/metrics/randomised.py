"""Give a model random weights for the length of a block.

Weights are never written to. Other tensors replace them, and the same tensors come back, whatever
happens in the block. So optimizers, tied layers and every bit stay unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from camlib.draws import Draws, Seeded
from camlib.errors import InputError, LayerError
from camlib.state.shards import sharded
from camlib.state.undoing import Undoing

Draw = Literal["permuted", "reset"]
"""How weights become random: the values of each tensor are permuted, or a layer is initialised."""


def weighted(model: nn.Module, layers: Sequence[str] | None) -> list[str]:
    """The names of `layers`, or of all modules with their own weights, starting at the output.

    Raises:
        InputError: the weights are sharded over several processes.
        LayerError: a layer does not exist, or has no weights.
    """
    modules = dict(model.named_modules())
    if sharded(modules.values()):
        raise InputError(
            "the weights of the model are sharded over processes by FSDP, so camlib cannot "
            "randomise a layer; pass a model that is not sharded"
        )
    if layers is None:
        own = [name for name, each in modules.items() if any(True for _ in each.parameters(False))]
        return own[::-1]
    for name in layers:
        if name not in modules:
            raise LayerError(f"layer {name!r} not found; use names of model.named_modules()")
        if not any(True for _ in modules[name].parameters()):
            raise LayerError(f"layer {name!r} has no weights to randomise; choose another layer")
    return list(layers)


@contextmanager
def randomised(
    model: nn.Module, layers: Sequence[str], how: Draw = "permuted", seed: int = 0
) -> Iterator[None]:
    """Give `layers` of `model`, and all modules in them, random weights in the block.

    Args:
        model: the model, without wrappers.
        layers: dotted names.
        how: ``"permuted"`` keeps the values of each tensor, so that activations keep their scale;
            ``"reset"`` calls ``reset_parameters`` of each module that has it, and permutes the
            tensors of the others.
        seed: the seed; that of a layer depends on it and on the name of the layer only.

    Raises:
        InputError: `how` is not known.
    """
    if how not in ("permuted", "reset"):
        raise InputError(f"weights={how!r} is not known; use 'permuted' or 'reset'")
    twins: dict[int, Tensor] = {}
    with Undoing() as undo:
        for layer in layers:
            for name, module in model.get_submodule(layer).named_modules(prefix=layer):
                _stand_in(undo, module, twins)
                with torch.no_grad():
                    _draw(module, how, _seed(name, seed))
        yield


def _stand_in(undo: Undoing, module: nn.Module, twins: dict[int, Tensor]) -> None:
    """Replace the parameters and buffers of `module` by copies; a tied tensor has one copy."""
    known = {id(twin) for twin in twins.values()}
    for group in (module._parameters, module._buffers):
        for name, tensor in list(group.items()):
            if tensor is None or id(tensor) in known:
                continue
            if id(tensor) not in twins:
                copy = tensor.detach().clone()
                if isinstance(tensor, nn.Parameter):
                    twins[id(tensor)] = nn.Parameter(copy, tensor.requires_grad)
                else:
                    twins[id(tensor)] = copy
            undo(partial(setattr, module, name, tensor))
            setattr(module, name, twins[id(tensor)])


def _draw(module: nn.Module, how: Draw, seed: int) -> None:
    """Randomise the parameters of `module` itself."""
    reset = getattr(module, "reset_parameters", None)
    if how == "reset" and callable(reset):
        with Seeded(seed):
            reset()
        return
    draws = Draws(seed)
    for tensor in module._parameters.values():
        if tensor is not None:
            order = draws.order(tensor.numel()).to(tensor.device)
            tensor.copy_(tensor.flatten()[order].reshape(tensor.shape))


def _seed(name: str, seed: int) -> int:
    """A number that depends on both arguments and nothing else."""
    mixed = seed
    for letter in name.encode():
        mixed = (31 * mixed + letter) % 2**31
    return mixed
