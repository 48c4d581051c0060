"""Which modules run in a forward pass, in what order, and what they return."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from camlib.passes.nested import activations


@dataclass(frozen=True)
class Visit:
    """One module in the order of a forward pass: who it is and what it returned.

    Attributes:
        name: dotted name.
        module: the module.
        shape: of the first floating-point tensor it returned.
        calls: how often it ran.
        parts: how many floating-point tensors it returned side by side with the first.
        total: the sum of the absolute values of the first, if asked for.
    """

    name: str
    module: nn.Module
    shape: tuple[int, ...]
    calls: int
    parts: int
    total: float


@contextmanager
def visits(model: nn.Module, *, totals: bool = False) -> Iterator[list[Visit]]:
    """The modules of `model` that run in the block, in the order in which they finish.

    A module that runs more than once stands where its last run finished.

    Args:
        model: the model that will be called.
        totals: whether to sum what each of them returned.
    """
    visited: dict[str, Visit] = {}
    thread = threading.get_ident()

    def hook_for(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, _args: Any, output: Any) -> None:
            if threading.get_ident() != thread:
                return
            found = activations(output)
            if not found:
                return
            path, first = found[0]
            parts = sum(len(other) == len(path) for other, _ in found)
            calls = visited.pop(name).calls + 1 if name in visited else 1
            total = float(first.detach().abs().sum(dtype=torch.float64)) if totals else 0.0
            visited[name] = Visit(name, module, tuple(first.shape), calls, parts, total)

        return hook

    order: list[Visit] = []
    with ExitStack() as stack:
        for name, module in model.named_modules():
            scripted = isinstance(module, torch.jit.ScriptModule)
            if name and name.rpartition(".")[2] != "_orig_mod" and not scripted:
                stack.callback(module.register_forward_hook(hook_for(name)).remove)
        yield order
    order += visited.values()
