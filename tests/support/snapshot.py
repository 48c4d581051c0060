"""Everything a method must leave as it found it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks
from torch.overrides import _get_current_function_mode_stack

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
)


def snapshot(model: nn.Module) -> dict[Any, Any]:
    """What can be compared with ``==`` before and after; tensors by identity, version and bytes."""
    found: dict[Any, Any] = {
        "rng": bytes_of(torch.get_rng_state()),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "function modes": len(_get_current_function_mode_stack()),
        "global hooks": [len(getattr(global_hooks, f"_global{kind}")) for kind in HOOKS[:4]],
        "keys": list(model.state_dict()),
    }
    for name, module in model.named_modules():
        found[name, "identity"] = id(module), type(module), module.forward
        found[name, "attributes"] = sorted(vars(module))
        found[name, "training"] = module.training
        found[name, "hooks"] = {kind: list(getattr(module, kind)) for kind in HOOKS}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        found[name] = state_of(tensor)
    for name, tensor in model.named_parameters():
        found[name, "grad"] = None if tensor.grad is None else state_of(tensor.grad)
    return found


def state_of(tensor: Tensor) -> tuple[Any, ...]:
    version = None if tensor.is_inference() else tensor._version
    return id(tensor), version, tensor.requires_grad, tensor.grad_fn, bytes_of(tensor)


def bytes_of(tensor: Tensor) -> bytes:
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes()
