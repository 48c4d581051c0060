"""Find and remember how the layers of a model are read, once for inputs of one form."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from camlib.errors import LayoutError
from camlib.layouts.base import Layout
from camlib.layouts.conventions import said_by
from camlib.layouts.reader import DIFFERENT, WEAK, NamedReadings, Reader
from camlib.layouts.recognition import Reading
from camlib.maps import Window
from camlib.passes.inputs import Inputs
from camlib.passes.running import completed
from camlib.passes.visits import Visits, visits


def reading_of(
    model: nn.Module,
    given: Inputs,
    order: Visits,
    name: str,
    shape: Sequence[int],
    layout: Layout | None = None,
) -> Reading:
    """The reading of layer `name`.

    Args:
        model: the model, without wrappers.
        given: the arguments of its call.
        order: the modules in the order of the pass; if empty, another pass is made.
        name: the name of the layer.
        shape: the shape of its output.
        layout: the layout of its output, if the user gave it.

    Raises:
        LayoutError: no layout agrees with where the places look, or two layouts do.
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
    reading = known.get(name)
    if isinstance(reading, LayoutError) and DIFFERENT in str(reading):
        raise LayoutError(f"layer {name!r}: {reading}")
    if layout is not None:
        if isinstance(reading, Reading):
            return replace(reading, layout=layout, agreement=None)
        return Reading(layout, _entrance(known, given))
    if isinstance(reading, Reading):
        return reading
    reason = reading or f"camlib cannot read an activation of shape {tuple(shape)}"
    raise LayoutError(
        f"layer {name!r}: {reason}; choose another layer, or pass layout=, such as "
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


def _entrance(known: NamedReadings, given: Inputs) -> Window:
    """The part of the input that the first readable layer gets."""
    windows = [reading.window for reading in known.values() if isinstance(reading, Reading)]
    return windows[0] if windows else ((0.0, 1.0),) * len(given.size)


def as_read(model: nn.Module, given: Inputs, layers: Sequence[str]) -> Inputs:
    """`given` with the axis of channels that the model uses; unchanged if no layer shows it.

    If a convolution or norm gets the image itself, channels follow samples. Otherwise it is the
    axis with which most of `layers` can be read. A tie goes to the reading with more axes, then to
    the one that agrees better.

    Args:
        model: the model, ready for a pass.
        given: the arguments of its call; the axes of the image are in doubt.
        layers: names of layers; empty for all.
    """
    ways = {reading.axis: (reading, visited(model, reading)[0]) for reading in given.readings()}
    if 1 in ways:
        usual, order = ways[1]
        if any(not each.course.moved and said_by(each.module) for each in order.entries):
            return replace(usual, told=True)

    # An image has no side of only a few pixels: that axis holds colours.
    [first, *others] = ways.values()
    if given.image.ndim < 5:
        others = [way for way in others if min(way[0].size) > 4]
    ways = {way[0].axis: way for way in [first, *others]}

    def readable(reading: Inputs, order: Visits) -> tuple[float, ...]:
        by_name = readings(model, reading, order, layers or None)
        read = [each for n in layers or by_name if isinstance(each := by_name.get(n), Reading)]
        # A wrong reading that agrees by chance rarely does so along many axes.
        measured = [each.agreement for each in read if each.agreement is not None]
        return len(read), len(reading.size) * len(measured), sum(measured)

    merits = {axis: readable(*way) for axis, way in ways.items()}
    axis = max(merits, key=merits.__getitem__)
    return replace(given, axis=axis, told=True) if merits[axis][0] else given


def visited(model: nn.Module, given: Inputs) -> tuple[Visits, Any]:
    """The modules that run in a pass, and the output of the model."""

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
) -> NamedReadings:
    """The readings of the layers of a pass, or the reasons why there are none.

    Args:
        model: the model, ready for a pass.
        given: the arguments of its call.
        order: the modules in the order of the pass.
        layers: the names of the layers whose readings are needed; ``None`` for all. The result
            contains others too, such as those that need no measurement.
        strength: the strength of the noise in a measurement.
    """
    key = (
        strength,
        given.form,
        () if any(course.decided for visit in order for course in visit.courses) else order.cuts,
        tuple((visit.name, id(visit.module), visit.calls, len(visit.shape)) for visit in order),
    )
    known = _known.setdefault(model, {}).setdefault(key, {})
    reader = Reader(given, order, layers, known)
    if not known.keys() >= reader.asked:
        reader.read(model, strength)
        lasting = {n: each for n, each in reader.readings.items() if n not in reader.turning}
        known |= lasting
    return reader.readings
