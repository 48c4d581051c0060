"""Follow an image through a pass: what happened to its positions on the way to each tensor.

As long as only convolutions and the like have run, each ``(N, C, *grid)`` that comes from the image
lies on the image's axes. After the first permutation, slice, padding or matrix product, that is no
longer certain. Tensors are identified by the memory that they show, and not kept alive.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor
from torch._ops import OpOverload
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from camlib.passes.operators import choosing, joins_all_places, keeps_places, makes_new, name_of

Cut = tuple[tuple[float, float], ...]
"""Start and end of a part of a grid along each axis, as shares of the grid."""


@dataclass(frozen=True)
class Course:
    """What happened to the image on the way to a tensor.

    Attributes:
        moved: whether anything may have moved positions.
        since: whether that may have happened after the image entered the first module with weights.
        joined: whether all positions became one, as in a global pooling.
        decided: whether the content of the image decided how positions moved.
        entry: the number of the module with weights where it entered; -1 before any.
        behind: the number of the last module that finished on the way; -1 for none.
        cut: the part that was cut out of that module's output, along each axis of the grid, as
            shares of it; ``None`` if something else has moved positions since.
    """

    moved: bool = False
    since: bool = False
    joined: bool = False
    decided: bool = False
    entry: int = -1
    behind: int = -1
    cut: Cut | None = ()


UNKNOWN = Course(moved=True, since=True, cut=None)
"""The course of a tensor that may or may not come from the image."""

_Key = tuple[int, tuple[int, ...], tuple[int, ...]]


@dataclass
class _Memory:
    """The courses of the tensors on a piece of memory, by the part that each shows."""

    weak: StorageWeakRef
    courses: dict[_Key, Course] = field(default_factory=dict)


class Courses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the image through the operators that run in the block.

    Attributes:
        cuts: the cuts, paddings and rolls, in order.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.cuts: list[Hashable] = []
        self._memory: dict[int, _Memory] = {}
        self._read = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Skipping Dynamo means importing it first, which takes a second.
        return False

    def of(self, tensor: Tensor) -> Course | None:
        """The course of `tensor`; ``None`` if it does not come from the image."""
        memory, key = self._place(tensor)
        if memory is None:
            return None
        if key not in memory.courses:  # another view wrote to the memory
            every = _met(memory.courses.values())
            return every and replace(every, moved=True, since=True)
        return memory.courses[key]

    def set(self, tensor: Tensor, course: Course | None) -> None:
        """Note the `course` of `tensor`, or that it has none."""
        memory, key = self._place(tensor, new=course is not None)
        if memory is not None and course is not None:
            memory.courses[key] = course
        elif memory is not None:
            memory.courses.pop(key, None)

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [(t, c) for t in _tensors((args, kwargs)) if (c := self.of(t)) is not None]
        result = func(*args, **kwargs)
        if given and not makes_new(func):
            self._follow(func, args, kwargs, given, result)
        return result

    def _follow(
        self,
        func: OpOverload,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        given: list[tuple[Tensor, Course]],
        result: Any,
    ) -> None:
        """Note the courses of the `result` of `func` for tensors `given` with their courses."""
        self._read |= name_of(func) in _READING
        course = _met(c for _, c in given)
        assert course is not None
        if not keeps_places(func, args, kwargs):
            chosen = any(self.of(each) is not None for each in choosing(func, args))
            cut, decided = _cut(func, args, course.cut), course.decided or chosen
            course = replace(course, moved=True, since=True, decided=decided, cut=cut)
            self.cuts += _numbers(func, args)
        # A program that reads a value may move positions for another image only.
        course = replace(course, decided=course.decided or self._read)
        writes = func._schema.is_mutable
        for each in _tensors(result):
            joined = course.joined or joins_all_places(func, given[0][0], each)
            self._note(each, replace(course, joined=joined), writes=writes)

    def _note(self, tensor: Tensor, course: Course, *, writes: bool) -> None:
        memory, key = self._place(tensor, new=True)
        if memory is None:
            return
        if writes:
            for other, known in memory.courses.items():
                memory.courses[other] = _met([known, course]) or known
            memory.courses[key] = course
        else:  # a view keeps the course of the memory that it shows
            known = memory.courses.setdefault(key, course)
            memory.courses[key] = replace(known, decided=known.decided or course.decided)

    def _place(self, tensor: Tensor, *, new: bool = False) -> tuple[_Memory | None, _Key]:
        """The memory of `tensor` and the part it shows; with `new`, the memory is noted."""
        try:
            storage = tensor.untyped_storage()
            key = int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride()
        except (NotImplementedError, RuntimeError):  # sparse tensors have no storage
            return None, (0, (), ())
        memory = self._memory.get(storage._cdata)
        if memory is None and new:
            memory = self._memory[storage._cdata] = _Memory(
                StorageWeakRef(storage)  # type: ignore[no-untyped-call]
            )
        return memory, key


_READING = {"_local_scalar_dense", "is_nonzero", "equal", "item"}
"""Operators that hand a value to the program, which may branch on it."""


def _met(courses: Iterable[Course]) -> Course | None:
    """The course of a tensor made from tensors with `courses`; ``None`` if there are none.

    A joined tensor has no positions that could move, so it counts only if all are joined.
    """
    every = list(courses)
    some = [course for course in every if not course.joined] or every
    if not some:
        return None
    entries = sorted({course.entry for course in some if course.entry >= 0})
    last = max(some, key=lambda course: course.behind)
    return Course(
        moved=any(course.moved for course in some),
        since=any(course.since for course in some) or len(entries) > 1,
        joined=all(course.joined for course in some),
        decided=any(course.decided for course in some),
        entry=entries[0] if entries else -1,
        behind=last.behind,
        cut=last.cut,
    )


def _cut(func: OpOverload, args: tuple[Any, ...], before: Cut | None) -> Cut | None:
    """The part of a grid that is left after `func`, if it only cuts it or pads it by far."""
    if before is None or not isinstance(args[0], Tensor) or args[0].ndim < 3:
        return None
    size = args[0].shape[2:]
    ends = [(0.0, 1.0)] * len(size)
    if name_of(func) == "convolution":
        reach = zip(args[4], args[5], args[1].shape[2:], size, strict=False)
        beyond = [max(0.0, p - d * (k - 1) / 2) / n for p, d, k, n in reach]
        ends = [(-more, 1 + more) for more in beyond]
    elif name_of(func) == "slice":
        told: tuple[Any, ...] = (*args[1:], *(0, None, None, 1)[len(args) - 1 :])
        axis, start, end, step = told
        axis %= args[0].ndim
        if axis < 2 or step != 1:
            return None
        first, last, _ = slice(start, end).indices(size[axis - 2])
        ends[axis - 2] = first / size[axis - 2], max(first, last) / size[axis - 2]
    else:
        return None
    return cut_out(before, tuple(ends))


def cut_out(window: Cut, cut: Cut | None) -> Cut:
    """The part of the input that a `cut` out of `window` covers; `window` if there is no cut."""
    if not window or not cut or len(cut) != len(window):
        return window or cut or ()
    return tuple(
        (low + (high - low) * start, low + (high - low) * end)
        for (low, high), (start, end) in zip(window, cut, strict=True)
    )


def _numbers(func: OpOverload, args: tuple[Any, ...]) -> list[Hashable]:
    """The arguments of a cut, padding or roll, besides tensors, if it does not cut samples."""
    name, told = name_of(func), [tuple(a) if isinstance(a, list) else a for a in args[1:]]
    samples = name in ("slice", "select") and (not told or told[0] == 0)
    if samples or (name not in ("slice", "select", "roll", "flip") and "pad" not in name):
        return []
    return [(name, *told)]


def _tensors(given: Any) -> Iterator[Tensor]:
    if isinstance(given, Tensor):
        yield given
    elif isinstance(given, (tuple, list)):
        for each in given:
            yield from _tensors(each)
    elif isinstance(given, dict):
        yield from _tensors(tuple(given.values()))
