"""Which layers of a model can be explained, and which of them to take.

The best layer is usually the last one that still knows places: it has seen the most, and what
follows it is linear or nearly so.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

from torch import nn
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd

from camlib.capture import Visit, visits
from camlib.errors import GraphError, LayerError, LayoutError
from camlib.forward import GRAPHS, Pass
from camlib.inputs import Inputs
from camlib.layers import up_to
from camlib.layouts import recognize


def default_layer(model: nn.Module, given: Inputs, target: Any = None) -> str:
    """The last layer of `model` that has a grid and a gradient for these inputs.

    Raises:
        LayerError: there is none.
    """
    candidates = grids(model, given)
    for graph, visit in product(GRAPHS, reversed(candidates)):
        try:
            run = Pass.of(model, given.owned(), target, (visit.name,), graph)
            if any(gradient.any() for [gradient] in run.seen.gradients(run.scores)):
                return visit.name
        except GraphError:
            continue
    raise LayerError(
        f"{type(model).__name__} has no layer with a grid and a gradient for inputs of size "
        f"{given.size}; pass layer="
    )


def grids(model: nn.Module, given: Inputs) -> list[Visit]:
    """The layers of `model` with a grid of more than one position, in the order they finish."""
    with visits(model) as order:
        given.owned().run(model)
    return [visit for visit in order if _has_grid(model, visit, given)]


def _has_grid(model: nn.Module, visit: Visit, given: Inputs) -> bool:
    try:
        layout = recognize(visit.shape, given.size, up_to(model, visit.module))
    except LayoutError:
        return False
    # A pooling to a fixed size may even enlarge: its grid is not that of what it pools.
    pooled = isinstance(visit.module, _AdaptiveAvgPoolNd | _AdaptiveMaxPoolNd)
    several = math.prod(layout.grid(visit.shape)) > 1
    return visit.shape[0] == len(given) and several and not pooled
