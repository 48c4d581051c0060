"""Record the modules that run in a forward pass: their order, shapes and courses."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from camlib.nested import activations
from camlib.passes.courses import UNKNOWN, Course, Courses
from camlib.state.ambient import enter
from camlib.state.hooks import hook, hook_before
from camlib.state.undoing import Undoing


@dataclass(frozen=True)
class Visit:
    """A module that ran in a forward pass.

    Attributes:
        name: dotted name.
        module: the module.
        shapes: the shape of the first floating-point tensor that each call returned.
        courses: what happened to the image on the way to each of these.
        parts: the number of floating-point tensors next to the first one, including it.
        passed_on: whether it returned the output of another module, as a dropout does in
            evaluation mode.
    """

    name: str
    module: nn.Module
    shapes: tuple[tuple[int, ...], ...]
    courses: tuple[Course, ...]
    parts: int
    passed_on: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the last call returned."""
        return self.shapes[-1]

    @property
    def course(self) -> Course:
        """What happened to the image on the way to the output of the last call."""
        return self.courses[-1]

    @property
    def calls(self) -> int:
        """The number of calls."""
        return len(self.shapes)


@dataclass(frozen=True)
class Entry:
    """A call in which an image enters the first module with weights on its way.

    Attributes:
        name: dotted name of the module.
        call: the number of the call.
        module: the module.
        shape: the shape of the image that the module gets.
        course: what happened to the image before.
    """

    name: str
    call: int
    module: nn.Module
    shape: tuple[int, ...]
    course: Course


class Visits(list[Visit]):
    """The modules of a pass in the order in which they finish.

    Attributes:
        entries: the entries of the image into each branch; a `Course` has their numbers.
        finished: the calls in the order in which they finish, ``"name@call"``; a `Course` has their
            numbers.
        cuts: the cuts, paddings and rolls of positions. Other cuts need other readings.
    """

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[Entry] = []
        self.finished: list[str] = []
        self.cuts: Hashable = ()


@contextmanager
def visits(model: nn.Module, axes: int = 0) -> Iterator[Visits]:
    """The modules of `model` that run in the block, in the order in which they finish.

    A module that runs more than once has the place of its last call.

    Args:
        model: the model that will be called.
        axes: the number of axes of the image's grid; 0 to record no entries.
    """
    visited: dict[str, Visit] = {}
    order = Visits()
    courses = Courses()
    returned: dict[int, tuple[ref[Tensor], int]] = {}
    entering: list[tuple[Tensor, Course | None]] = []

    def begin(_module: nn.Module, args: Any, kwargs: Any) -> None:
        if not visited:
            for _, tensor in activations((args, kwargs)):
                courses.set(tensor, Course())

    def arrive(name: str, module: nn.Module, args: Any) -> None:
        given = args[0] if args else None
        if isinstance(given, Tensor) and given.ndim == axes + 2 and given.is_floating_point():
            course = courses.of(given)
            if (course or UNKNOWN).entry < 0:
                calls = visited[name].calls if name in visited else 0
                new = Entry(name, calls, module, tuple(given.shape), course or UNKNOWN)
                order.entries.append(new)
                number = len(order.entries) - 1
                courses.set(given, replace(new.course, since=False, entry=number, cut=()))
                entering.append((given, course))

    def leave() -> None:
        while entering:
            courses.set(*entering.pop())

    def version(tensor: Tensor) -> int:
        return 0 if tensor.is_inference() else tensor._version

    def by_a_module(tensor: Tensor) -> bool:
        other, unchanged = returned.get(id(tensor), (lambda: None, 0))
        return other() is tensor and unchanged == version(tensor)

    def noter(name: str) -> Callable[..., None]:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            leave()
            tensors = activations(output)
            if not tensors:
                return
            path, first = tensors[0]
            parts = sum(len(other) == len(path) for other, _ in tensors)
            earlier = visited.pop(name, None)
            course = courses.of(first)
            passed_on = any(first is given for given in args) and by_a_module(first)
            returned[id(first)] = ref(first), version(first)
            visited[name] = Visit(
                name,
                module,
                (*(earlier.shapes if earlier else ()), tuple(first.shape)),
                (*(earlier.courses if earlier else ()), course or UNKNOWN),
                parts,
                passed_on,
            )
            order.finished.append(f"{name}@{visited[name].calls - 1}")
            for _, tensor in tensors:
                if (known := courses.of(tensor)) is not None:
                    number = len(order.finished) - 1
                    courses.set(tensor, replace(known, behind=number, cut=()))

        return note

    with Undoing() as undo:
        for name, module in model.named_modules():
            scripted = isinstance(module, torch.jit.ScriptModule)
            if name and name.rpartition(".")[2] != "_orig_mod" and not scripted:
                hook(undo, module, noter(name))
                if axes and not any(True for _ in module.children()) and any(_own(module)):
                    hook_before(undo, module, partial(arrive, name))
        if not isinstance(model, torch.jit.ScriptModule):
            hook_before(undo, model, begin, with_kwargs=True)
        enter(undo, courses)
        yield order
    order += visited.values()
    order.cuts = tuple(courses.cuts)


def _own(module: nn.Module) -> Iterator[bool]:
    return (True for _ in module.parameters(recurse=False))
