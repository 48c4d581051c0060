"""Which layers of a model can be explained, how each is read, and which of them to take.

The best layer is usually the last one that still knows places: it has seen the most, and what
follows it is linear or nearly so. In a transformer that answers from its class token, what comes
out of the last block at the patches is not looked at any more; the gradient tells.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd

from camlib import maps
from camlib.capture import Graph
from camlib.clues import beside, clues_of
from camlib.errors import LayerError, LayoutError
from camlib.forward import GRAPHS, Pass
from camlib.inputs import Inputs
from camlib.layouts import ChannelsFirst, Known
from camlib.modes import explaining
from camlib.modules import Layer, Layers, find, names, unwrap
from camlib.passes.nested import tensors_in
from camlib.recognition import recognize
from camlib.targets.proposals import detects
from camlib.visits import Visit, visits

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
        share: how much of the gradient of the score lies on the grid, 0 to 1: less than 1 where
            class or register tokens take part, 0 where the score does not depend on the grid.
        default: whether ``layer=None`` takes this one.
    """

    name: str
    module: nn.Module = field(repr=False)
    shape: tuple[int, ...]
    layout: Known
    grid: tuple[int, ...]
    stride: tuple[float, ...]
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
        found, preferred = _readable(model, given)
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
    return _choose(model, given, target, *_readable(model, given))


def layout_of(
    model: nn.Module, given: Inputs, order: Sequence[Visit], name: str, shape: Sequence[int]
) -> Known:
    """The layout of layer `name`, which returned `shape` in a pass that went in `order`.

    Raises:
        LayoutError: no reading fits, or two.
    """
    _, module = find(model, name)
    order = order or visited(model, given)[0]
    clues = clues_of(model, order, given)
    clues = replace(clues, beside=partial(beside, order, name.partition("@")[0]))
    try:
        return recognize(shape, given.size, module, clues, count=len(given))
    except LayoutError as error:
        raise LayoutError(f"layer {name!r}: {error}") from None


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
    raise LayerError(
        f"{type(model).__name__} has no layer with a grid and a gradient for inputs of size "
        f"{given.size}; pass layer="
    )


def _readable(model: nn.Module, given: Inputs) -> tuple[list[Candidate], set[str]]:
    """The layers with a grid, and the names of those that a default is taken from first.

    Not from the head of a detector: it ends in maps of scores, one a level.
    """
    order, output = visited(model, given)
    clues = clues_of(model, order, given)
    dense = {t.shape[1] for t in tensors_in(output) if t.ndim == len(given.size) + 2}
    detector = detects(output)
    found: list[Candidate] = []
    preferred = set()
    for visit in order:
        if "RoI" in type(visit.module).__name__:
            break  # what follows has the grid of a region
        around = replace(clues, beside=partial(beside, order, visit.name))
        try:
            layout = recognize(visit.shape, given.size, visit.module, around, count=len(given))
            grid = layout.grid_of(visit.shape)
        except LayoutError:
            continue
        # A pooling to a fixed size may even enlarge: its grid is not that of what it pools.
        if math.prod(grid) > 1 and not isinstance(visit.module, _POOLING):
            stride = tuple(s / g for s, g in zip(given.size, grid, strict=True))
            found.append(Candidate(visit.name, visit.module, visit.shape, layout, grid, stride))
            scores = detector and "head" in visit.name.split(".")
            if _telling(visit, layout, dense) and not scores:
                preferred.add(visit.name)
    return found, preferred


_POOLING = _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd


def _telling(visit: Visit, layout: Known, answers: Collection[int]) -> bool:
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
    gradients = run.seen.reached(run.scores)
    return {
        c.name: _share(c.layout, maps.precise(gradient))
        for c, gradient in zip(layers, gradients, strict=True)
        if gradient is not None
    }


def _share(layout: Known, gradient: Tensor) -> Tensor:
    on_grid = layout(gradient.abs()).flatten(1).sum(1)
    samples = 0 if getattr(layout, "batch_first", True) else 1
    whole = gradient.abs().movedim(samples, 0).flatten(1).sum(1)
    return on_grid / whole.where(whole > 0, 1)


def visited(model: nn.Module, given: Inputs) -> tuple[list[Visit], Any]:
    """The modules that run and depend on the image, and what the model returns."""
    with visits(model, totals=given.several) as order:
        output = given.owned().run(model)
    if given.several:  # a text beside the image has layers of its own
        with visits(model, totals=True) as again:
            given.with_image((given.image + 1).cos()).owned().run(model)
        totals = {visit.name: visit.total for visit in again}
        order = [visit for visit in order if visit.total != totals.get(visit.name)]
    return order, output
