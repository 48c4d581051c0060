"""List the layers of a model that can be explained, and choose the default layer.

The best layer is usually the last one that keeps positions apart: it has seen the most, and what
follows it is nearly linear. A transformer that answers from its class token ignores the patches
that leave its last block. The gradient there is zero, so an earlier layer is taken.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd

from camlib import maps
from camlib.errors import LayerError
from camlib.layouts import ChannelsFirst, Layout
from camlib.layouts.reader import NamedReadings
from camlib.layouts.reading import as_read, readings, visited
from camlib.layouts.recognition import Reading
from camlib.maps import Window
from camlib.nested import tensors_in
from camlib.passes.capture import Graph
from camlib.passes.forward import GRAPHS, Pass
from camlib.passes.inputs import Inputs
from camlib.passes.names import Layer, Layers, find, is_weight, names, unwrap
from camlib.passes.visits import Visit, Visits
from camlib.state.modes import explaining
from camlib.state.undoing import Called
from camlib.targets.proposals import detects
from camlib.targets.saturation import saturated

__all__ = ["Candidate", "Layer", "Layers", "candidates", "find", "names", "unwrap"]


def __dir__() -> list[str]:
    """The public names, without helpers."""
    return __all__


@dataclass(frozen=True)
class Candidate:
    """A layer that can be explained.

    Attributes:
        name: dotted name.
        module: the module.
        shape: shape of the layer's output.
        layout: how the output is read.
        grid: the number of positions along each axis.
        stride: the input's size divided by the grid, along each axis.
        window: the part of the input that the grid covers along each axis, as shares of it.
        agreement: how well the layout agrees with where the positions look, as measured: a
            correlation up to 1; ``None`` where no measurement was needed.
        share: the share of the score's gradient that lies on the grid, 0 to 1: less than 1 where
            class or register tokens take part, 0 where the score does not depend on the grid.
        default: whether ``layer=None`` takes this layer.
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
    """The layers of `model` whose grid has more than one position, in the order they finish.

    Args:
        model: any network; it is left unchanged.
        inputs: as for a method.
        target: as for a method.

    Raises:
        CamlibError: the inputs or the target do not fit the model.

    Example:
        >>> for layer in camlib.layers.candidates(model, images):
        ...     print(layer.name, layer.kind, layer.grid, f"{layer.share:.0%}")
    """
    given, model = Inputs.of(inputs), unwrap(model)
    with Called(), explaining(model, given.image.device), torch.no_grad():
        given = as_read(model, given, ()) if len(given.readings()) > 1 else given
        order, output = visited(model, given)
        readable, preferred = _readable(readings(model, given, order), given, order, output)
        shares: dict[str, Tensor] = {}
        for graph in GRAPHS:
            shares = shares or _shares(model, given, target, readable, graph)
        try:
            default = _choose(model, given, target, readable, preferred)
        except LayerError:
            default = ""
    means = {name: float(share.mean()) for name, share in shares.items()}
    return [replace(c, share=means.get(c.name, 0.0), default=c.name == default) for c in readable]


def default_layer(model: nn.Module, given: Inputs, target: Any = None) -> str:
    """The last layer of `model` that has a grid, and a gradient on it for each sample.

    Raises:
        GraphError: the score depends on no layer at all.
        LayerError: no layer has both.
    """
    order, output = visited(model, given)
    readable, preferred = _readable(readings(model, given, order), given, order, output)
    return _choose(model, given, target, readable, preferred)


def last_layer(model: nn.Module, given: Inputs) -> str:
    """The last layer of `model` that has a grid, for methods that need no gradient.

    Raises:
        LayerError: no layer has a grid.
    """
    order, output = visited(model, given)
    for wanted in (_last_modules(model), None):
        known = readings(model, given, order, wanted)
        readable, preferred = _readable(known, given, order, output)
        for candidate in _back_from_the_end(order, known, readable, preferred):
            return candidate.name
    if not readable:
        raise LayerError(_NONE.format(type(model).__name__, given.size))
    return readable[-1].name


def finer_layer(
    model: nn.Module, given: Inputs, last: str, most: float | None = None
) -> tuple[str, ...]:
    """The last layer before `last` with the finest grid that is at most `most` times as fine.

    Of the layers with that grid it is the output of the outermost module, as a stage rather than a
    part of a block.

    Args:
        model: without wrappers.
        given: what it is called with.
        last: the name of a layer.
        most: by default the square root of the stride of `last`, halfway to the image in octaves.

    Returns:
        Its name, alone; nothing if no layer before `last` has such a grid.
    """
    order, output = visited(model, given)
    readable, preferred = _readable(readings(model, given, order), given, order, output)
    before = list(itertools.takewhile(lambda c: c.name != last, readable))
    if len(before) == len(readable):
        return ()
    coarse = readable[len(before)]
    most = math.sqrt(max(coarse.stride)) if most is None else most
    factors: dict[str, float] = {}
    for layer in before:
        if layer.name in preferred and len(layer.grid) == len(coarse.grid):
            factor = min(n / m for n, m in zip(layer.grid, coarse.grid, strict=True))
            if 1 < factor <= most:
                factors[layer.name] = factor
    finest = [name for name, factor in factors.items() if factor == max(factors.values())]
    stage = min(reversed(finest), key=lambda name: name.count("."), default=None)
    return () if stage is None else (stage,)


def first_pass(
    model: nn.Module, given: Inputs, target: Any = None, *, needed: bool = True
) -> tuple[str, Pass | None]:
    """The default layer, and a pass that captured it if there is one.

    The last modules in a model are usually the last to run, so the pass captures these. If the
    default layer is another one, it is found as in `default_layer`.

    Args:
        model: without wrappers.
        given: what it is called with.
        target: what is explained.
        needed: whether the method needs a gradient; else the last layer is taken where the model's
            own backward pass fails.

    Raises:
        GraphError: the score depends on no layer at all.
        LayerError: no layer has a grid and a gradient.
    """
    likely = _last_modules(model)
    run = Pass.of(model, given, target, likely, "tail", record=True, optional=True)
    known = readings(model, given, run.order, likely)
    readable, preferred = _readable(known, given, run.order, run.output)
    if run.scores.requires_grad and not run.seen.interrupted:
        try:
            gradients = run.seen.reached(run.scores, retain_graph=True)
        except Exception:
            if needed:
                raise
            return last_layer(model, given), None
        reached = dict(zip(run.seen.names, gradients, strict=True))
        last = ""
        for candidate in _back_from_the_end(run.order, known, readable, preferred):
            if candidate.name not in reached:
                break
            last = last or candidate.name
            gradient = reached[candidate.name]
            if gradient is not None and _share(candidate.layout, gradient).all():
                return candidate.name, replace(run, seen=run.seen.only(candidate.name))
        none = not any(gradient is not None and gradient.any() for gradient in gradients)
        if last and none and saturated(run.output, run.target):
            # No layer has a gradient then. The map of this one warns of it, without more passes.
            return last, replace(run, seen=run.seen.only(last))
    known = readings(model, given, run.order)
    readable, preferred = _readable(known, given, run.order, run.output)
    return _choose(model, given, target, readable, preferred), None


def _choose(
    model: nn.Module,
    given: Inputs,
    target: Any,
    readable: Sequence[Candidate],
    preferred: Collection[str],
) -> str:
    good = [c for c in readable if c.name in preferred]
    others = [c for c in readable if c.name not in preferred]
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


def _last_modules(model: nn.Module, least: int = 12, block: int = 16) -> tuple[str, ...]:
    """The last modules of `model` in the order of `named_modules`, and all that contain them.

    These are the last `least` leaves, and all leaves of a part that ends with them if it has no
    more than `block`.
    """
    modules = {
        name: module
        for name, module in model.named_modules()
        if name and unwrap(module) is module and not isinstance(module, torch.jit.ScriptModule)
        if not is_weight(name)
    }
    leaves = [
        name
        for name, module in modules.items()
        if not any(f"{name}.{part}" in modules for part, _ in module.named_children())
    ]
    inside = Counter(part for name in leaves for part in _around(name))
    around = {part for name in leaves[-least:] for part in _around(name)}
    small = {part for part in around if 1 < inside[part] <= block}
    wanted = around.union(name for name in leaves if small.intersection(_around(name)))
    wanted |= {part for name in wanted for part in _around(name)}
    return tuple(name for name in modules if name in wanted)


def _around(name: str) -> list[str]:
    """The name of a module, and those of all modules that contain it."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]


def _back_from_the_end(
    order: Visits, known: NamedReadings, readable: Sequence[Candidate], preferred: Collection[str]
) -> Iterator[Candidate]:
    """The preferred layers, the last one first, back to the first one that is not `known` yet."""
    candidates = {c.name: c for c in readable if c.name in preferred}
    for visit in reversed(order):
        if visit.name not in known:
            break
        if visit.name in candidates:
            yield candidates[visit.name]


def _readable(
    known: NamedReadings, given: Inputs, order: Visits, output: Any
) -> tuple[list[Candidate], set[str]]:
    """The layers with a grid, and the names of those that are preferred as the default.

    The head of a detector is not preferred: it ends in maps of scores, one for each level.
    """
    dense = {t.shape[1] for t in tensors_in(output) if t.ndim == len(given.size) + 2}
    detector = detects(output)
    readable: list[Candidate] = []
    preferred = set()
    for visit in order:
        if "RoI" in type(visit.module).__name__:
            break  # the layers after it have the grid of a region
        reading = known.get(visit.name)
        if not isinstance(reading, Reading):
            continue
        grid = reading.layout.grid_of(visit.shape)
        # A pooling to a fixed size may even enlarge its input, so its grid is its own.
        if math.prod(grid) > 1 and not isinstance(visit.module, _POOLING):
            stride = tuple(s / g for s, g in zip(given.size, grid, strict=True))
            readable.append(
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
    return readable, preferred


_POOLING = _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd


def _telling(visit: Visit, layout: Layout, answers: Collection[int]) -> bool:
    """Whether the output of a layer is the whole state of the model at that point.

    It is not for a part of an attention or a perceptron, the queries of a decoder, one level of a
    pyramid (a layer with several calls or outputs), an answer with one channel for each class, and
    a layer that returns the output of another.
    """
    if layout == ChannelsFirst():
        inner = visit.shape[1] in answers
    else:
        inner = isinstance(visit.module, nn.Linear) or "decoder" in visit.name.lower()
    return not inner and visit.calls == 1 and visit.parts == 1 and not visit.passed_on


def _from_the_end(layers: Sequence[Candidate], least: int = 8) -> Iterator[Sequence[Candidate]]:
    """`layers` in parts, from the end; each part is twice as long as the one before."""
    stop, step = len(layers), least
    while stop:
        start = max(0, stop - step)
        yield layers[start:stop]
        stop, step = start, 2 * step


def _shares(
    model: nn.Module, given: Inputs, target: Any, layers: Sequence[Candidate], graph: Graph
) -> dict[str, Tensor]:
    """The share of the gradient that lies on the grid of each of `layers`, ``(N,)``, by name.

    A layer is left out if the graph does not reach it or its output cannot be read.

    Raises:
        GraphError: the score depends on no layer at all.
    """
    if not layers:
        return {}
    try:
        run = Pass.of(model, given, target, tuple(c.name for c in layers), graph)
    except LayerError:  # one of them is overwritten later in the pass
        half = len(layers) // 2
        parts = (layers[:half], layers[half:]) if half else ()
        return {k: v for p in parts for k, v in _shares(model, given, target, p, graph).items()}
    if graph == "tail" and (run.seen.interrupted or not run.scores.requires_grad):
        return {}
    layouts = {c.name: c.layout for c in layers}
    return {
        name: _share(layouts[name], gradient)
        for name, gradient in zip(run.seen.names, run.seen.reached(run.scores), strict=True)
        if gradient is not None
    }


def _share(layout: Layout, gradient: Tensor) -> Tensor:
    """The share of a gradient that lies on the grid, ``(N,)``."""
    size = maps.precise(gradient).abs()
    on_grid = layout(size).flatten(1).sum(1)
    whole = layout.by_sample(size, len(on_grid)).sum(1)
    return on_grid / whole.where(whole > 0, 1)
