"""How the layers of a model are read: found once for inputs of one form, remembered beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from camlib.errors import LayoutError
from camlib.inputs import Inputs
from camlib.layouts.conventions import said_by
from camlib.layouts.kinds import Layout, Shape
from camlib.layouts.measured import Measured, measure
from camlib.layouts.recognition import Reading, Readings, confirm
from camlib.maps import Window
from camlib.passes.running import completed
from camlib.visits import Visits, visits

Found = Mapping[str, Reading | LayoutError]
"""How each layer is read, or why it cannot be, by name; calls before the last by name and call."""

WEAK = 1e-2
"""The strength of noise for layers that answer the same to all strong noise."""


def reading_of(
    model: nn.Module,
    given: Inputs,
    order: Visits,
    name: str,
    shape: Sequence[int],
    layout: Layout | None = None,
) -> Reading:
    """How layer `name` is read, which returned `shape` in a pass that went in `order`.

    Args:
        model: without wrappers.
        given: the arguments of its call.
        order: of the pass; if empty, another pass is made.
        name: of the layer.
        shape: of its output.
        layout: of its output, if it is known.

    Raises:
        LayoutError: no reading agrees with where its places look, or two do.
    """
    order = order or visited(model, given)[0]
    base = name.partition("@")[0]
    if any(name == f"{base}@{visit.calls - 1}" for visit in order if visit.name == base):
        name = base
    known = readings(model, given, order, (name,))
    if not isinstance(known.get(name), Reading) and layout is None:
        weak = readings(model, given, order, (name,), strength=WEAK).get(name)
        if isinstance(weak, Reading) and weak.agreement is not None:
            return weak
    found = known.get(name)
    if layout is not None:
        window = found.window if isinstance(found, Reading) else _entrance(known, given)
        return Reading(layout, window)
    if isinstance(found, Reading):
        return found
    raise LayoutError(
        f"layer {name!r}: {found or f'an activation of shape {tuple(shape)} cannot be read'}; "
        "choose another layer, or pass layout=, such as "
        f"layout=camlib.layouts.{_example(shape, given)}"
    )


def _example(shape: Sequence[int], given: Inputs) -> str:
    function = "or a function from the activation to (N, C, *grid)"
    if len(shape) == len(given.size) + 2:
        return f"ChannelsLast(), {function}"
    if len(given.size) == 1:
        return f"Series(prefix=1), {function}"
    count = shape[1] if len(shape) == 3 else 0
    sides = [math.isqrt(max(count - others, 0)) for others in range(16)]
    squares = [(n, side) for n, side in enumerate(sides) if side > 1 and side**2 + n == count]
    prefix, side = squares[0] if squares else (1, 14)
    return f"Tokens(prefix={prefix}, grid=({side}, {side})), {function}"


def _entrance(known: Found, given: Inputs) -> Window:
    """Which part of the input the first layer gets that can be read."""
    windows = [reading.window for reading in known.values() if isinstance(reading, Reading)]
    return windows[0] if windows else ((0.0, 1.0),) * len(given.size)


def as_read(model: nn.Module, given: Inputs, layers: Sequence[str]) -> Inputs:
    """`given` with the axis of its channels as the model has it; as it is, where nothing tells.

    A convolution or norm that gets the image as it is has the channels behind the samples. Else it
    is the axis with which the most of `layers` can be read; of several with as many, that with more
    axes, then the one that agrees better.

    Args:
        model: ready for a pass.
        given: the arguments of its call, the axes of whose image are in doubt.
        layers: by name; empty for all.
    """

    ways = {reading.axis: (reading, visited(model, reading)[0]) for reading in given.readings()}
    if 1 in ways:
        usual, order = ways[1]
        entry = order.entry
        if entry is not None and not entry.moved and said_by(entry.module):
            return replace(usual, told=True)

    def readable(reading: Inputs, order: Visits) -> tuple[float, ...]:
        found = readings(model, reading, order, layers or None)
        read = [each for n in layers or found if isinstance(each := found.get(n), Reading)]
        # Of readings that agree by chance, fewer axes do.
        measured = [each.agreement for each in read if each.agreement is not None]
        return len(read), len(reading.size) * len(measured), sum(measured)

    found = {axis: readable(*way) for axis, way in ways.items()}
    axis = max(found, key=found.__getitem__)
    return replace(given, axis=axis, told=True) if found[axis][0] else given


def visited(model: nn.Module, given: Inputs) -> tuple[Visits, Any]:
    """The modules that run in a pass, and what the model returns."""

    def attempt(each: Inputs) -> tuple[Visits, Any]:
        with visits(model, len(given.size)) as order:
            output = each.owned().run(model)
        return order, output

    return completed(attempt, given)


_known: WeakKeyDictionary[nn.Module, dict[Any, dict[str, Reading | LayoutError]]]
_known = WeakKeyDictionary()


def readings(
    model: nn.Module,
    given: Inputs,
    order: Visits,
    layers: Collection[str] | None = None,
    strength: float = 1.0,
) -> Found:
    """How the layers of a pass are read, or why they cannot be.

    Args:
        model: ready for a pass.
        given: the arguments of its call.
        order: of the pass.
        layers: by name, of which the readings are needed; ``None`` for all. Others are in the
            answer as well, those for which nothing had to be measured for one.
        strength: of the noise where it is measured.
    """
    key = (
        strength,
        given.form,
        tuple((visit.name, id(visit.module), visit.calls, len(visit.shape)) for visit in order),
    )
    known = _known.setdefault(model, {}).setdefault(key, {})
    reader = _Reader(given, order, layers)
    if not known.keys() >= reader.asked:
        reader.read(model, strength)
        known |= reader.found
    return known


class _Reader:
    """Reads the layers of a pass, those that must be measured as soon as each finishes.

    Attributes:
        asked: the names of the layers of which the readings are needed.
        found: the readings.
    """

    def __init__(self, given: Inputs, order: Visits, layers: Collection[str] | None) -> None:
        self.found: dict[str, Reading | LayoutError] = {}
        self._given = given
        self._entry = order.entry
        self._doubtful = given.several or given.axis != 1
        self._moved = order.entry is not None and (order.entry.moved or given.axis != 1)
        self._calls = {
            f"{visit.name}@{call}": (visit, shape)
            for visit in order
            for call, shape in enumerate(visit.shapes)
        }
        labels = {self._label(name) for name in self._calls}
        self.asked = labels if layers is None else labels.intersection(layers)
        self._measured: dict[str, Shape] = {}
        for name, (visit, shape) in self._calls.items():
            # The first layer of a shape tells the grid to those that follow, and the window.
            needed = self._label(name) in self.asked or shape not in self._measured.values()
            if (visit.moved or self._doubtful) and len(shape) > 2 and needed:
                self._measured[name] = shape

    def read(self, model: nn.Module, strength: float) -> None:
        """Find all readings, with passes of `model` where it must be measured."""
        begin: Callable[[], Callable[[str, Measured], None]] = self._begun
        begin()
        if self.found.keys() >= self.asked and not self.asked.intersection(
            map(self._label, self._measured)
        ):
            return
        entry = self._entry if self._moved else None
        shapes = {**self._measured, **({"": entry.shape} if entry else {})}
        if not shapes:
            return
        try:
            for sample in range(len(self._given) if self._given.several else 1):
                module = entry.module if entry else None
                measure(model, self._given, sample, shapes, begin, module, strength)
                begin = self._confirming
        except Exception as error:  # the model takes no other batch, or no noise
            failed = f"where it looks cannot be measured ({type(error).__name__}: {error})"
            self.found |= {self._label(name): LayoutError(failed) for name in self._measured}

    def _label(self, name: str) -> str:
        """The name of a call, which is that of its layer if it is the last."""
        visit, _ = self._calls[name]
        return visit.name if name == f"{visit.name}@{visit.calls - 1}" else name

    def _begun(self) -> Callable[[str, Measured], None]:
        """Read what is certain, and return what reads the rest."""
        readings = Readings(len(self._given.size))
        for name, (visit, shape) in self._calls.items():
            if not visit.moved and not self._doubtful:
                self._note(name, readings.certain, shape)
            elif name in self._measured or len(shape) < 3:
                size, count = self._given.size, len(self._given)
                self.found[self._label(name)] = LayoutError(
                    f"an activation of shape {tuple(shape)} has no grid for an input of size "
                    f"{size} and {count} samples"
                )

        def take(name: str, seen: Measured) -> None:
            if not name:
                readings.entry(seen)
                return
            visit, shape = self._calls[name]
            if not visit.moved and self._given.axis == 1:
                self._note(name, readings.unmoved, shape, seen)
            else:
                self._note(name, readings.measured, shape, seen, visit.module, since=visit.since)

        return take

    def _confirming(self) -> Callable[[str, Measured], None]:
        """What compares readings with another sample."""

        def take(name: str, seen: Measured) -> None:
            reading = self.found.get(self._label(name)) if name else None
            if isinstance(reading, Reading):
                self._note(name, confirm, reading, seen)

        return take

    def _note(self, name: str, read: Callable[..., Reading], *given: Any, **options: Any) -> None:
        """Note what `read` finds of a call, or why it finds nothing."""
        label = self._label(name)
        try:
            self.found[label] = read(*given, **options)
        except LayoutError as error:
            self.found[label] = LayoutError(str(error))  # its traceback would keep activations
