"""What a call changes for its length is undone, whatever ends it.

An interrupt, or an exception that another thread sends, may come between any two steps of Python:
between a change and the line that notes it, and before the first line of the code that undoes it.
Four rules follow.

* What undoes is noted before what it undoes is done, and may run twice, or for nothing.
* Every block undoes twice over, and a block of its own stands around each call as a whole: what
  interrupts the end of one block is outside of it, and inside the other.
* What is left even so, as after two interrupts, is undone when the same thread calls next.
* The child of a fork has the changes of its parent's calls, but not the threads that would undo
  them: it undoes them itself, first of all. Locks that they held are new there.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Self

from camlib.state.ambient import Ambient

Undo = Callable[[], object]
"""Undoes a change; nothing, if it was never made, or undone before."""

lock = threading.RLock()
"""For all that is shared between threads; held for a few steps at a time."""


class Undoing:
    """Everything that is noted in the block is undone at its end, the last first."""

    def __init__(self) -> None:
        self._undos: list[Undo] = []
        self._own: list[Undo] = []

    def __enter__(self) -> Self:
        """Nothing is noted yet."""
        _blocks().append(self)
        _open[id(self)] = self
        return self

    def __call__(self, undo: Undo, *, own: bool = False) -> None:
        """Note `undo`.

        Args:
            undo: what to do in the end.
            own: whether it is of the thread alone, so that there is nothing to undo in a fork.
        """
        if own:
            self._own.append(undo)
        self._undos.append(undo)

    def __exit__(self, *_: object) -> None:
        """Undo everything, also what blocks inside this one left."""
        try:
            self._close()
        finally:
            self._close()

    def _close(self) -> None:
        blocks = _blocks()
        if self in blocks:
            while blocks[-1] is not self:
                blocks[-1]._undo()
                blocks.pop()
        self._undo()
        if self in blocks:
            blocks.remove(self)

    def _undo(self) -> None:
        while self._undos:
            undo = self._undos[-1]
            try:
                undo()
            except BaseException:
                self._undos.remove(undo)
                undo()  # it may have been interrupted; an error of its own comes again
                raise
            if self._undos:
                self._undos.pop()
        _open.pop(id(self), None)

    def _undo_in_fork(self) -> None:
        for undo in reversed(self._undos):
            if undo not in self._own:
                with suppress(Exception):  # such as what needs the device of the parent
                    undo()
        self._undos.clear()


class Called(Undoing):
    """The block around a call as a whole, which leaves the state of the thread as found too.

    To be entered by the function that makes the call, not by a generator.
    """

    def __enter__(self) -> Self:
        """What an earlier call left is undone first."""
        blocks = _blocks()
        calls = [block for block in blocks if isinstance(block, Called)]
        if blocks[:1] == calls[:1] and not any(map(_goes_on, calls)):
            while blocks:
                blocks[-1]._undo()
                blocks.pop()
        self.frame: FrameType | None = sys._getframe(1)
        self(Ambient().put_back, own=True)
        return super().__enter__()

    def __exit__(self, *raised: object) -> None:
        """Undo everything, and have what was interrupted as it began end first."""
        _end_contexts(raised[1] if len(raised) > 1 else None)
        super().__exit__()
        self.frame = None


def _end_contexts(error: object) -> None:
    """Nothing, but contexts that an interrupt kept from being entered are closed.

    They would be when `error` is forgotten, and put back what was there before them then.
    """
    while isinstance(error, BaseException):
        step = error.__traceback__
        while step is not None:
            if step.tb_frame.f_code.co_filename == contextlib.__file__:
                with suppress(RuntimeError):  # those that still run
                    step.tb_frame.clear()
            step = step.tb_next
        error = error.__context__


def _goes_on(call: Called) -> bool:
    """Whether `call` is still being made, so that the one to come is inside it."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame is not call.frame:
        frame = frame.f_back
    return frame is not None


class Shared:
    """A change that threads share: the first to come makes it, the last to go undoes it.

    Args:
        prepare: from what `held` is given, what makes the change and what undoes it.
    """

    def __init__(self, prepare: Callable[..., tuple[Undo, Undo]]) -> None:
        self.prepare = prepare
        self.holders: set[int] = set()
        self.undo: Undo | None = None

    def held(self, undo: Undoing, *given: object) -> None:
        """The change is in force until `undo`; what is `given` goes to `prepare`."""
        holder = id(undo)
        undo(partial(self._released, holder))
        with lock:
            self.holders.add(holder)
            if self.undo is None:
                change, self.undo = self.prepare(*given)
                change()

    def _released(self, holder: int) -> None:
        with lock:
            self.holders.discard(holder)
            if not self.holders and self.undo is not None:
                self.undo()
                self.undo = None


def _blocks() -> list[Undoing]:
    """The blocks that this thread is in, the innermost last."""
    found: list[Undoing] | None = getattr(_local, "blocks", None)
    if found is None:
        found = _local.blocks = []
    return found


def _forked() -> None:
    for block in reversed([*_open.values()]):
        block._undo_in_fork()
    _open.clear()


_local = threading.local()
_open: dict[int, Undoing] = {}

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lock._at_fork_reinit)  # type: ignore[attr-defined]
    os.register_at_fork(after_in_child=_forked)
