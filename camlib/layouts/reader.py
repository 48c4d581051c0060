"""Find the readings of the layers of one pass: certain ones at once, others by measuring."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from camlib.errors import LayoutError
from camlib.layouts.base import Shape
from camlib.layouts.kinds import ChannelsFirst
from camlib.layouts.measured import Measured, measure
from camlib.layouts.recognition import Reading, Readings, confirm
from camlib.maps import Window
from camlib.passes.courses import Course, cut_out
from camlib.passes.inputs import Inputs
from camlib.passes.visits import Visits

NamedReadings = Mapping[str, Reading | LayoutError]
"""The reading of each layer, or the reason why it has none, by name; calls before the last have a
name and a number, ``"head@0"``."""

WEAK = 1e-2
"""The strength of noise for layers that give the same answer to all strong noise."""


class Reader:
    """Finds the readings of the layers of a pass; measured layers are read as each finishes.

    Attributes:
        asked: the names of the layers whose readings are needed.
        readings: the readings.
        turning: the names of the layers that must be measured for every image, because the content
            of the image decides where the model looks.
    """

    def __init__(
        self, given: Inputs, order: Visits, layers: Collection[str] | None, known: NamedReadings
    ) -> None:
        self.readings: dict[str, Reading | LayoutError] = dict(known)
        self._known = known.keys() - ()
        self._given = given
        self._order = order
        self._doubtful = given.several or given.axis != 1
        self._calls = {
            f"{visit.name}@{call}": (visit.module, shape, course, call == visit.calls - 1)
            for visit in order
            for call, (shape, course) in enumerate(zip(visit.shapes, visit.courses, strict=True))
        }
        labels = {self._label(name) for name in self._calls}
        self.asked = labels if layers is None else labels.intersection(layers)
        self.turning = {
            self._label(name) for name, (_, _, c, _) in self._calls.items() if c.decided
        }
        self._entrances: dict[int, tuple[Window, Reading | None]] = {}
        self._measured: dict[str, Shape] = {}
        for name, (_, shape, course, _) in self._calls.items():
            # The first layer of a shape provides the grid for later layers of that shape.
            needed = self._label(name) in self.asked or shape not in self._measured.values()
            if (not _certain(course) or self._doubtful) and len(shape) > 2 and needed:
                self._measured[name] = shape

    def read(self, model: nn.Module, strength: float) -> None:
        """Find all readings, with passes of `model` where layers must be measured."""
        self._begun({})
        parts: tuple[dict[str, Shape], dict[str, Shape]] = {}, {}
        lasting, turning = parts
        for name, shape in self._measured.items():
            parts[self._label(name) in self.turning][name] = shape
        for entry in self._order.entries:
            if entry.course.moved or entry.course.decided or self._given.axis != 1:
                parts[entry.course.decided][f"{entry.name}<{entry.call}"] = entry.shape
        missing = self.asked - self._known
        if missing.intersection(self._labels(lasting)):
            begin: Callable[[], Callable[[str, Measured], None]] = partial(self._begun, lasting)
            for sample in range(len(self._given) if self._given.several else 1):
                self._measure(model, lasting, sample, begin, strength)
                begin = self._confirming
        if missing.intersection(self._labels(turning)):
            begin = partial(self._begun, turning)
            self._measure(model, turning, 0, begin, WEAK)
            for sample in range(1, len(self._given)):
                before = {name: self.readings.get(name) for name in self.turning}
                self._measure(model, turning, sample, begin, WEAK)
                for name, each in before.items():
                    if isinstance(each, Reading) and not _alike(each, self.readings[name]):
                        self.readings[name] = LayoutError(DIFFERENT)
        for name in self.turning:
            if isinstance(each := self.readings.get(name), Reading):
                self.readings[name] = replace(each, lasting=False)

    def _measure(
        self,
        model: nn.Module,
        shapes: Mapping[str, Shape],
        sample: int,
        begin: Callable[[], Callable[[str, Measured], None]],
        strength: float,
    ) -> None:
        """Measure a sample at the layers named in `shapes`."""
        if not shapes:
            return
        try:
            measure(model, self._given, sample, shapes, begin, strength)
        except Exception as error:  # the model may refuse noise or another batch size in any way
            failed = f"camlib cannot measure where it looks ({type(error).__name__}: {error})"
            for name in shapes:
                if name in self._calls:
                    self.readings[self._label(name)] = LayoutError(failed)

    def _label(self, name: str) -> str:
        """The name of a call; the last call has the name of its layer."""
        _, _, _, last = self._calls[name]
        return name.partition("@")[0] if last else name

    def _labels(self, shapes: Iterable[str]) -> set[str]:
        return {self._label(name) for name in shapes if name in self._calls}

    def _begun(self, measured: Mapping[str, Shape]) -> Callable[[str, Measured], None]:
        """Note the certain readings; return a function that reads the `measured` layers."""
        readings = Readings(len(self._given.size))
        entries = {f"{each.name}<{each.call}": n for n, each in enumerate(self._order.entries)}
        for name, (_, shape, course, _) in self._calls.items():
            if _certain(course) and not self._doubtful:
                self._note(name, readings.certain, shape)
            elif name in measured or len(shape) < 3:
                size, count = self._given.size, len(self._given)
                self.readings[self._label(name)] = LayoutError(
                    f"an activation of shape {tuple(shape)} has no grid for an input of size "
                    f"{size} and {count} samples"
                )

        def take(name: str, seen: Measured) -> None:
            if name in entries:
                self._entrances[entries[name]] = readings.entry(seen)
                return
            module, shape, course, _ = self._calls[name]
            if _certain(course) and self._given.axis == 1:
                self._note(name, readings.unmoved, shape, seen)
                return
            window = self._window_before(course, readings.whole)
            _, entrance = self._entrances.get(course.entry, (window, None))
            self._note(
                name, readings.measured, shape, seen, module, course, window, entrance=entrance
            )

        return take

    def _window_before(self, course: Course, whole: Window) -> Window:
        """The part of the input that the last layer on the image's course passed on."""
        cut = course.cut
        while course.behind >= 0:
            name = self._order.finished[course.behind]
            _, _, before, _ = self._calls[name]
            reading = self.readings.get(self._label(name))
            if isinstance(reading, Reading):
                return cut_out(reading.window, cut if reading.layout == ChannelsFirst() else None)
            if before.behind >= course.behind:
                break
            cut = None if cut is None or before.cut is None else cut_out(before.cut, cut)
            course = before
        window, _ = self._entrances.get(course.entry, (whole, None))
        return cut_out(window, cut)

    def _confirming(self) -> Callable[[str, Measured], None]:
        """A function that compares readings with another sample."""

        def take(name: str, seen: Measured) -> None:
            reading = self.readings.get(self._label(name)) if name in self._calls else None
            if isinstance(reading, Reading):
                self._note(name, confirm, reading, seen)

        return take

    def _note(self, name: str, read: Callable[..., Reading], *given: Any, **options: Any) -> None:
        """Note the reading of a call by `read`, or the reason why there is none."""
        label = self._label(name)
        try:
            self.readings[label] = read(*given, **options)
        except LayoutError as error:
            # A new error: the traceback of this one would keep activations.
            self.readings[label] = LayoutError(str(error))


DIFFERENT = (
    "the content of an image decides where the model looks, and it looks at different parts of "
    "these images; explain one image at a time"
)


def _alike(one: Reading, other: Reading | LayoutError) -> bool:
    """Whether two readings of a layer have the same layout, and windows within 0.02."""
    if not isinstance(other, Reading) or other.layout != one.layout:
        return False
    ends = zip(one.window, other.window, strict=True)
    return all(abs(a - b) < 0.02 for pair in ends for a, b in zip(*pair, strict=True))


def _certain(course: Course) -> bool:
    """Whether an activation with this course lies on the axes of the image."""
    return not (course.moved or course.joined or course.decided)
