"""Which modules run in a forward pass, in what order, and what they return."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from camlib.passes.ambient import enter
from camlib.passes.hooks import hook, hook_before
from camlib.passes.moves import Moves
from camlib.passes.nested import activations
from camlib.passes.undoing import Undoing


@dataclass(frozen=True)
class Visit:
    """One module in the order of a forward pass: who it is and what it returned.

    Attributes:
        name: dotted name.
        module: the module.
        shapes: of the first floating-point tensor that it returned, in each of its calls.
        parts: how many floating-point tensors it returned side by side with the first.
        passed_on: whether it returned what it was given by another module, as a dropout does in
            evaluation mode.
        moved: whether anything before its end may have moved places, see `Moves`.
        since: whether anything has since the image entered.
    """

    name: str
    module: nn.Module
    shapes: tuple[tuple[int, ...], ...]
    parts: int
    passed_on: bool
    moved: bool
    since: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what it returned in its last call."""
        return self.shapes[-1]

    @property
    def calls(self) -> int:
        """How often it ran."""
        return len(self.shapes)


@dataclass(frozen=True)
class Entry:
    """The first module with weights that gets an image.

    Attributes:
        module: the module.
        shape: of what it gets.
        moved: whether anything before it may have moved places.
    """

    module: nn.Module
    shape: tuple[int, ...]
    moved: bool


class Visits(list[Visit]):
    """The modules of a pass in the order in which they finish.

    Attributes:
        entry: where the image enters; ``None`` if no module with weights gets one.
    """

    entry: Entry | None = None


@contextmanager
def visits(model: nn.Module, axes: int = 0) -> Iterator[Visits]:
    """The modules of `model` that run in the block, in the order in which they finish.

    A module that runs more than once stands where its last run finished.

    Args:
        model: the model that will be called.
        axes: how many the grid of the image has; 0 to leave out where it enters.
    """
    visited: dict[str, Visit] = {}
    order = Visits()
    moves = Moves()
    returned: dict[int, tuple[ref[Tensor], int]] = {}

    def arrive(module: nn.Module, args: Any) -> None:
        if order.entry is not None or not args:
            return
        given = args[0]
        image = isinstance(given, Tensor) and given.ndim == axes + 2
        if image and given.is_floating_point():
            order.entry = Entry(module, tuple(given.shape), moves.moved)
            moves.since = False

    def version(tensor: Tensor) -> int:
        return 0 if tensor.is_inference() else tensor._version

    def by_a_module(tensor: Tensor) -> bool:
        other, unchanged = returned.get(id(tensor), (lambda: None, 0))
        return other() is tensor and unchanged == version(tensor)

    def noter(name: str) -> Callable[..., None]:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            found = activations(output)
            if not found:
                return
            path, first = found[0]
            parts = sum(len(other) == len(path) for other, _ in found)
            shapes = visited.pop(name).shapes if name in visited else ()
            shapes = (*shapes, tuple(first.shape))
            passed_on = any(first is given for given in args) and by_a_module(first)
            returned[id(first)] = ref(first), version(first)
            visited[name] = Visit(name, module, shapes, parts, passed_on, moves.moved, moves.since)

        return note

    with Undoing() as undo:
        for name, module in model.named_modules():
            scripted = isinstance(module, torch.jit.ScriptModule)
            if name and name.rpartition(".")[2] != "_orig_mod" and not scripted:
                hook(undo, module, noter(name))
                if axes and next(module.parameters(recurse=False), None) is not None:
                    hook_before(undo, module, arrive)
        enter(undo, moves)
        yield order
    order += visited.values()
