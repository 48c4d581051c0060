"""Which layers of a model can be explained, how each is read, and which of them to take.

The best layer is usually the last one that still knows places: it has seen the most, and what
follows it is linear or nearly so. In a transformer that answers from its class token, what comes
out of the last block at the patches is not looked at any more; the gradient tells.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd

from camlib import maps
from camlib.capture import Graph
from camlib.errors import LayerError, LayoutError
from camlib.forward import GRAPHS, Pass
from camlib.inputs import Inputs
from camlib.layouts import ChannelsFirst, Layout
from camlib.layouts.measured import Measured, measure
from camlib.layouts.recognition import Reading, Readings
from camlib.maps import Window
from camlib.modes import explaining
from camlib.modules import Layer, Layers, find, names, unwrap
from camlib.passes.nested import tensors_in
from camlib.passes.running import completed
from camlib.targets.proposals import detects
from camlib.targets.saturation import saturated
from camlib.visits import Visit, Visits, visits

__all__ = ["Candidate", "Layer", "Layers", "candidates", "find", "names", "unwrap"]


@dataclass(frozen=True)
class Candidate:
    """A layer that can be explained.

    Attributes:
        name: dotted name.
        module: the module.
        shape: of what it returned.
        layout: how that is read.
        grid: the places in it.
        stride: the input's size over the grid, along each axis.
        window: which part of the input the grid covers along each axis, as shares of it.
        agreement: how well the layout agrees with where the places look, measured: a correlation,
            up to 1; ``None`` where nothing had to be measured.
        share: how much of the gradient of the score lies on the grid, 0 to 1: less than 1 where
            class or register tokens take part, 0 where the score does not depend on the grid.
        default: whether ``layer=None`` takes this one.
    """

    name: str
    module: nn.Module = field(repr=False)
    shape: tuple[int, ...]
    layout: Layout
    grid: tuple[int, ...]
    stride: tuple[float, ...]
    window: Window = ()
    agreement: float | None = None
    share: float = 0.0
    default: bool = False

    @property
    def kind(self) -> str:
        """The name of the module's class."""
        return type(self.module).__name__


def candidates(model: nn.Module, inputs: Any, target: Any = None) -> list[Candidate]:
    """The layers of `model` with a grid of more than one place, in the order in which they finish.

    Args:
        model: any network; it is left as found.
        inputs: what a method would be called with.
        target: what a method would explain.

    Raises:
        CamlibError: the inputs or the target do not fit the model.

    Example:
        >>> for layer in camlib.layers.candidates(model, images):
        ...     print(layer.name, layer.kind, layer.grid, f"{layer.share:.0%}")
    """
    given, model = Inputs.of(inputs), unwrap(model)
    with explaining(model, given.image.device), torch.inference_mode(False), torch.no_grad():
        order, output = visited(model, given)
        found, preferred = _readable(model, given, order, output)
        shares: dict[str, Tensor] = {}
        for graph in GRAPHS:
            shares = shares or _shares(model, given, target, found, graph)
        try:
            default = _choose(model, given, target, found, preferred)
        except LayerError:
            default = ""
    return [
        replace(
            c, share=float(shares.get(c.name, torch.zeros(1)).mean()), default=c.name == default
        )
        for c in found
    ]


def default_layer(model: nn.Module, given: Inputs, target: Any = None) -> str:
    """The last layer of `model` that has a grid, and a gradient on it for each sample.

    Raises:
        GraphError: the score depends on no layer at all.
        LayerError: there is none.
    """
    return _choose(model, given, target, *_readable(model, given, *visited(model, given)))


def last_layer(model: nn.Module, given: Inputs) -> str:
    """The last layer of `model` that has a grid, for methods that need no gradient.

    Raises:
        LayerError: there is none.
    """
    found, preferred = _readable(model, given, *visited(model, given))
    names = [c.name for c in found if c.name in preferred] or [c.name for c in found]
    if not names:
        raise LayerError(_NONE.format(type(model).__name__, given.size))
    return names[-1]


def first_pass(model: nn.Module, given: Inputs, target: Any = None) -> tuple[str, Pass | None]:
    """The default layer, and the pass in which it was found if that captured it.

    The last modules that a model holds are mostly the last that run, so the pass captures these.
    If the layer is another, it is sought as `default_layer` does it.

    Raises:
        GraphError: the score depends on no layer at all.
        LayerError: there is none.
    """
    likely = _last_modules(model)
    run = Pass.of(model, given, target, likely, "tail", record=True, optional=True)
    found, preferred = _readable(model, given, run.order, run.output)
    if run.scores.requires_grad and not run.seen.interrupted:
        shares = _reached(run, found, retain_graph=True)
        for candidate in reversed([c for c in found if c.name in preferred]):
            if candidate.name not in run.seen.names:
                break
            if candidate.name in shares and shares[candidate.name].all():
                return candidate.name, replace(run, seen=run.seen.only(candidate.name))
        if (
            preferred
            and not any(share.any() for share in shares.values())
            and saturated(run.output, run.target)
        ):
            # No layer has a gradient then; the map of one says so, at no further pass.
            last = [name for name in run.seen.names if name in preferred][-1:]
            if last:
                return last[0], replace(run, seen=run.seen.only(last[0]))
    return _choose(model, given, target, found, preferred), None


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
    known = _readings(model, given, order)
    if not isinstance(known.get(name), Reading) and layout is None:
        known = _readings(model, given, order, strength=_WEAK)
    base = name.partition("@")[0]
    last = any(name == f"{base}@{visit.calls - 1}" for visit in order if visit.name == base)
    found = known.get(base if last else name)
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
    if len(shape) == len(given.size) + 2:
        return "ChannelsLast()"
    return "Tokens(prefix=1, grid=(14, 14)), or a function from the activation to (N, C, *grid)"


def as_read(model: nn.Module, given: Inputs, layers: Sequence[str]) -> Inputs:
    """`given` with the axis of its channels at which the most of `layers` can be read.

    Args:
        model: ready for a pass.
        given: the arguments of its call, the axes of whose image are in doubt.
        layers: by name; empty for all.
    """

    def readable(reading: Inputs) -> int:
        order, _ = visited(model, reading)
        found = _readings(model, reading, order)
        return sum(isinstance(found.get(name), Reading) for name in layers or found)

    return max(given.readings(), key=readable)


_readings_of: WeakKeyDictionary[nn.Module, dict[Any, dict[str, Reading | LayoutError]]]
_readings_of = WeakKeyDictionary()
"""What was found out about the layers of each model, by the shapes of its inputs."""


_WEAK = 1e-2
"""Of noise for layers that answer the same to all strong noise."""


def _readings(
    model: nn.Module, given: Inputs, order: Visits, strength: float = 1.0
) -> Mapping[str, Reading | LayoutError]:
    """How each layer of a pass is read, or why it cannot be, by name and by call.

    Found once for a model and inputs of one form.
    """
    key = (
        strength,
        given.form,
        tuple((visit.name, id(visit.module), visit.shapes) for visit in order),
    )
    known = _readings_of.setdefault(model, {})
    if key not in known:
        known[key] = dict(_read(model, given, order, strength))
    return known[key]


def _read(
    model: nn.Module, given: Inputs, order: Visits, strength: float
) -> Iterator[tuple[str, Reading | LayoutError]]:
    """The readings of `_readings`."""
    entry = order.entry if order.entry is not None and order.entry.moved else None
    doubtful = given.several or given.axis != 1
    measured: list[dict[str, Measured]] = []
    shapes: dict[str, Sequence[int]] = {"": entry.shape} if entry else {}
    for visit in order:
        if (visit.moved or doubtful) and len(visit.shape) > 2:
            calls = {f"{visit.name}@{i}": s for i, s in enumerate(visit.shapes[:-1])}
            shapes |= {**calls, visit.name: visit.shape}
    failed = ""
    if shapes:
        samples = range(len(given)) if given.several else range(1)
        try:
            module = entry.module if entry else None
            measured = [measure(model, given, i, shapes, module, strength) for i in samples]
        except Exception as error:  # the model takes no other batch, or no noise
            failed = f"where it looks cannot be measured ({type(error).__name__}: {error})"
    found = Readings(len(given.size))
    if measured and "" in measured[0]:
        found.entry(measured[0][""])
    elif order.entry is not None and not order.entry.moved:
        found.entry(None)
    for visit in order:
        for call, shape in enumerate(visit.shapes):
            name = visit.name if call == visit.calls - 1 else f"{visit.name}@{call}"
            try:
                if not visit.moved and not doubtful:
                    yield name, found.certain(shape)
                elif all(name in each for each in measured) and measured:
                    seen = [each[name] for each in measured]
                    if not visit.moved and given.axis == 1:
                        yield name, found.unmoved(shape, seen)
                    else:
                        read = found.measured(shape, seen, visit.module, since=visit.since)
                        yield name, read
                else:
                    yield (
                        name,
                        LayoutError(
                            failed or _NO_GRID.format(tuple(shape), given.size, len(given))
                        ),
                    )
            except LayoutError as error:
                yield name, error


def _entrance(known: Mapping[str, Reading | LayoutError], given: Inputs) -> Window:
    """Which part of the input the first layer gets that can be read."""
    windows = [reading.window for reading in known.values() if isinstance(reading, Reading)]
    return windows[0] if windows else ((0.0, 1.0),) * len(given.size)


_NO_GRID = "an activation of shape {} has no grid for an input of size {} and {} samples"


def _choose(
    model: nn.Module,
    given: Inputs,
    target: Any,
    found: Sequence[Candidate],
    preferred: Collection[str],
) -> str:
    good = [c for c in found if c.name in preferred]
    others = [c for c in found if c.name not in preferred]
    for graph in GRAPHS:
        partly = ""
        for part in [*_from_the_end(good), *_from_the_end(others)]:
            shares = _shares(model, given, target, part, graph)
            reached = [c.name for c in reversed(part) if c.name in shares]
            for name in reached:
                if shares[name].all():
                    return name
            partly = partly or next((name for name in reached if shares[name].any()), "")
        if partly:
            return partly
    raise LayerError(_NONE.format(type(model).__name__, given.size))


_NONE = "{} has no layer with a grid and a gradient for inputs of size {}; pass layer="


def _last_modules(model: nn.Module, least: int = 12) -> tuple[str, ...]:
    """The last modules of `model` in the order in which it holds them, and those around them."""
    modules = {
        name: module
        for name, module in model.named_modules()
        if name and unwrap(module) is module and not isinstance(module, torch.jit.ScriptModule)
    }
    last = [name for name, module in modules.items() if not any(True for _ in module.children())]
    wanted = {".".join(name.split(".")[:n]) for name in last[-least:] for n in range(1, 99)}
    return tuple(name for name in modules if name in wanted)


def _readable(
    model: nn.Module, given: Inputs, order: Visits, output: Any
) -> tuple[list[Candidate], set[str]]:
    """The layers with a grid, and the names of those that a default is taken from first.

    Not from the head of a detector: it ends in maps of scores, one a level.
    """
    readings = _readings(model, given, order)
    dense = {t.shape[1] for t in tensors_in(output) if t.ndim == len(given.size) + 2}
    detector = detects(output)
    found: list[Candidate] = []
    preferred = set()
    for visit in order:
        if "RoI" in type(visit.module).__name__:
            break  # what follows has the grid of a region
        reading = readings[visit.name]
        if isinstance(reading, LayoutError):
            continue
        grid = reading.layout.grid_of(visit.shape)
        # A pooling to a fixed size may even enlarge: its grid is not that of what it pools.
        if math.prod(grid) > 1 and not isinstance(visit.module, _POOLING):
            stride = tuple(s / g for s, g in zip(given.size, grid, strict=True))
            found.append(
                Candidate(
                    visit.name,
                    visit.module,
                    visit.shape,
                    reading.layout,
                    grid,
                    stride,
                    reading.window,
                    reading.agreement,
                )
            )
            scores = detector and "head" in visit.name.split(".")
            if _telling(visit, reading.layout, dense) and not scores:
                preferred.add(visit.name)
    return found, preferred


_POOLING = _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd


def _telling(visit: Visit, layout: Layout, answers: Collection[int]) -> bool:
    """Whether a layer holds what the model knows at its point.

    Not so the parts of an attention or a perceptron, the queries of a decoder, one level of a
    pyramid (a layer with several calls or outputs), and the answer itself, a channel a class.
    """
    if layout == ChannelsFirst():
        inner = visit.shape[1] in answers
    else:
        inner = isinstance(visit.module, nn.Linear) or "decoder" in visit.name.lower()
    return not inner and visit.calls == 1 and visit.parts == 1


def _from_the_end(layers: Sequence[Candidate], least: int = 8) -> Iterator[Sequence[Candidate]]:
    """`layers` in parts, the last one first, each twice as long as the one before."""
    stop, step = len(layers), least
    while stop:
        start = max(0, stop - step)
        yield layers[start:stop]
        stop, step = start, 2 * step


def _shares(
    model: nn.Module, given: Inputs, target: Any, layers: Sequence[Candidate], graph: Graph
) -> dict[str, Tensor]:
    """The share of the gradient that lies on the grid of each of `layers`, ``(N,)``, by name.

    A layer is left out if the graph does not reach it, or if it cannot be read.

    Raises:
        GraphError: the score depends on no layer at all.
    """
    if not layers:
        return {}
    try:
        run = Pass.of(model, given, target, tuple(c.name for c in layers), graph)
    except LayerError:  # one of them is overwritten later on
        half = len(layers) // 2
        parts = (layers[:half], layers[half:]) if half else ()
        return {k: v for p in parts for k, v in _shares(model, given, target, p, graph).items()}
    if graph == "tail" and (run.seen.interrupted or not run.scores.requires_grad):
        return {}
    return _reached(run, layers)


def _reached(
    run: Pass, layers: Sequence[Candidate], *, retain_graph: bool = False
) -> dict[str, Tensor]:
    """The share of the gradient on the grid of those of `layers` that the graph reaches."""
    layouts = {c.name: c.layout for c in layers}
    gradients = run.seen.reached(run.scores, retain_graph=retain_graph)
    return {
        name: _share(layouts[name], maps.precise(gradient))
        for name, gradient in zip(run.seen.names, gradients, strict=True)
        if gradient is not None and name in layouts
    }


def _share(layout: Layout, gradient: Tensor) -> Tensor:
    on_grid = layout(gradient.abs()).flatten(1).sum(1)
    whole = layout.by_sample(gradient.abs(), len(on_grid)).sum(1)
    return on_grid / whole.where(whole > 0, 1)


def visited(model: nn.Module, given: Inputs) -> tuple[Visits, Any]:
    """The modules that run in a pass, and what the model returns."""

    def attempt(each: Inputs) -> tuple[Visits, Any]:
        with visits(model, len(given.size)) as order:
            output = each.owned().run(model)
        return order, output

    return completed(attempt, given)
