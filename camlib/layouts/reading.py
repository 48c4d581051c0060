"""How the layers of a model are read: found once for inputs of one form, remembered beside it."""

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
from camlib.layouts.reader import DIFFERENT, WEAK, Found, Reader
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
    if isinstance(found, LayoutError) and DIFFERENT in str(found):
        raise LayoutError(f"layer {name!r}: {found}")
    if layout is not None:
        if isinstance(found, Reading):
            return replace(found, layout=layout, agreement=None)
        return Reading(layout, _entrance(known, given))
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
        if any(not each.course.moved and said_by(each.module) for each in order.entries):
            return replace(usual, told=True)

    # A side of a few pixels is none: it would be a map of colours.
    [first, *others] = ways.values()
    if given.image.ndim < 5:
        others = [way for way in others if min(way[0].size) > 4]
    ways = {way[0].axis: way for way in [first, *others]}

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
        () if any(course.decided for visit in order for course in visit.courses) else order.cuts,
        tuple((visit.name, id(visit.module), visit.calls, len(visit.shape)) for visit in order),
    )
    known = _known.setdefault(model, {}).setdefault(key, {})
    reader = Reader(given, order, layers, known)
    if not known.keys() >= reader.asked:
        reader.read(model, strength)
        known |= {name: each for name, each in reader.found.items() if name not in reader.turning}
    return reader.found
