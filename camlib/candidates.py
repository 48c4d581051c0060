"""Which layers of a model can be explained, and which of them to take.

The best layer is usually the last one that still knows places: it has seen the most, and what
follows it is linear or nearly so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

from torch import nn
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd

from camlib.capture import Visit, visits
from camlib.errors import GraphError, LayerError, LayoutError
from camlib.forward import GRAPHS, Pass
from camlib.inputs import Inputs
from camlib.layers import find
from camlib.layouts import ChannelsFirst, ChannelsLast, recognize, said_by


@dataclass(frozen=True)
class Candidate:
    """A layer that can be explained.

    Attributes:
        name: dotted name.
        module: the module.
        shape: of what it returned.
        grid: the places in it.
    """

    name: str
    module: nn.Module
    shape: tuple[int, ...]
    grid: tuple[int, ...]


def candidates(model: nn.Module, given: Inputs) -> list[Candidate]:
    """The layers of `model` with a grid of more than one place, in the order they finish."""
    order = _visited(model, given)
    found = []
    for visit in order:
        try:
            around = partial(_neighbours, order, visit.name)
            layout = recognize(visit.shape, given.size, visit.module, around)
        except LayoutError:
            continue
        grid = layout.grid(visit.shape)
        # A pooling to a fixed size may even enlarge: its grid is not that of what it pools.
        pooled = isinstance(visit.module, _AdaptiveAvgPoolNd | _AdaptiveMaxPoolNd)
        if visit.shape[0] == len(given) and math.prod(grid) > 1 and not pooled:
            found.append(Candidate(visit.name, visit.module, visit.shape, grid))
    return found


def default_layer(model: nn.Module, given: Inputs, target: Any = None) -> str:
    """The last layer of `model` that has a grid and a gradient for these inputs.

    Raises:
        GraphError: the score depends on no layer at all.
        LayerError: there is none.
    """
    found = candidates(model, given)
    for graph, candidate in product(GRAPHS, reversed(found)):
        try:
            run = Pass.of(model, given, target, (candidate.name,), graph)
            if run.seen.interrupted and graph == "tail":
                continue
            if any(gradient.any() for [gradient] in run.seen.gradients(run.scores)):
                return candidate.name
        except GraphError:
            if graph == "whole" and not run.scores.requires_grad:
                raise  # no layer would do better
        except LayerError:  # overwritten later on
            continue
    raise LayerError(
        f"{type(model).__name__} has no layer with a grid and a gradient for inputs of size "
        f"{given.size}; pass layer="
    )


def layout_of(
    model: nn.Module, given: Inputs, name: str, shape: Sequence[int]
) -> ChannelsFirst | ChannelsLast:
    """The layout of layer `name`, which returned `shape`; a tie costs a forward pass.

    Raises:
        LayoutError: no reading fits, or two.
    """
    _, module = find(model, name)
    try:
        return recognize(
            shape, given.size, module, lambda: _neighbours(_visited(model, given), name)
        )
    except LayoutError as error:
        raise LayoutError(f"layer {name!r}: {error}") from None


def _visited(model: nn.Module, given: Inputs) -> list[Visit]:
    with visits(model) as order:
        given.owned().run(model)
    return order


def _neighbours(order: list[Visit], name: str) -> list[nn.Module]:
    """The last module before the end of `name` that knows its layout, and the first after it."""
    [place] = [i for i, visit in enumerate(order) if visit.name == name][-1:] or [-1]
    known = [i for i, visit in enumerate(order) if said_by(visit.module)]
    beside = [i for i in known if i <= place][-1:] + [i for i in known if i > place][:1]
    axes = len(order[place].shape)
    return [order[i].module for i in beside if len(order[i].shape) == axes]
