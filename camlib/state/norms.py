"""Batch norm on a CPU, kept from a wrong gradient.

With one sample, or a grid of one place along an axis, the strides of a tensor may be those of
channels last and yet not what PyTorch makes for that format. The backward pass of batch norm then
takes one reading of its input and another of the gradient, and mixes channels (torch 2.14; a matrix
of tokens that is turned into a grid has such strides).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from camlib.state.hooks import hook_before
from camlib.state.modules import modules_of
from camlib.state.undoing import Undoing


def straighten(undo: Undoing, model: nn.Module) -> None:
    """What batch norms of `model` get lies in memory as it should, until `undo`."""
    for module in modules_of(model):
        if isinstance(module, _BatchNorm) and not isinstance(module, torch.jit.ScriptModule):
            hook_before(undo, module, _straight)


def _straight(_module: nn.Module, args: Any) -> Any:
    if args and isinstance(args[0], Tensor) and _is_ambiguous(args[0]):
        # `contiguous` would see that nothing is to be done.
        return args[0].clone(memory_format=torch.contiguous_format), *args[1:]
    return None


def _is_ambiguous(tensor: Tensor) -> bool:
    """Whether the strides are of channels last, but for axes of length 1."""
    if tensor.ndim not in (4, 5) or 1 not in tensor.shape or tensor.is_contiguous():
        return False
    format = torch.channels_last if tensor.ndim == 4 else torch.channels_last_3d
    usual = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta").to(memory_format=format)
    return tensor.stride() != usual.stride()
