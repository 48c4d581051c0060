"""What a forward pass, and the model itself, tell about the axes of an activation.

Convolutions know their grid, and a transformer's patches are made by one; norms know the length of
a sequence; models of timm and Hugging Face tell of their patches and of the tokens that are none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from camlib.inputs import Inputs
from camlib.layouts import ChannelsFirst, said_by
from camlib.recognition import Clues
from camlib.visits import Visit


def clues_of(model: nn.Module, order: Sequence[Visit], given: Inputs) -> Clues:
    """What the modules of a pass in `order`, and `model` itself, tell; not yet what is beside."""
    axes, count = len(given.size), len(given)
    first = [
        visit
        for visit in order
        if said_by(visit.module) == ChannelsFirst() and len(visit.shape) == axes + 2
    ]
    lengths, normed = set(), set()
    for visit in order:
        norm = "norm" in type(visit.module).__name__.lower() and visit not in first
        if len(visit.shape) == 3 and (norm or isinstance(visit.module, nn.Linear)):
            turned = visit.shape[0] != count == visit.shape[1]
            length = visit.shape[0 if turned else 1]
            lengths.add(length)
            normed |= {length} if norm else set()
    grids = {visit.shape[2:] for visit in first} | _told_grids(model, given.size)
    return Clues(
        grids=frozenset(grid for grid in grids if math.prod(grid) > 1),
        arrays=frozenset(visit.shape[1:] for visit in first),
        lengths=frozenset(lengths),
        normed=frozenset(normed),
        prefixes=frozenset(_told_prefixes(model)),
        windowed=any("Hiera" in type(m).__name__ for m in model.modules()),
        sequence_first=any(getattr(m, "batch_first", None) is False for m in model.modules()),
    )


def beside(order: Sequence[Visit], name: str) -> list[nn.Module]:
    """The last module before the end of `name` that knows its layout, and the first after it."""
    [place] = [i for i, visit in enumerate(order) if visit.name == name][-1:] or [-1]
    known = [i for i, visit in enumerate(order) if said_by(visit.module)]
    beside = [i for i in known if i <= place][-1:] + [i for i in known if i > place][:1]
    axes = len(order[place].shape)
    return [order[i].module for i in beside if len(order[i].shape) == axes]


def _told_grids(model: nn.Module, size: Sequence[int]) -> set[tuple[int, ...]]:
    """The grids of patches that parts of `model` tell of, as timm's and Hugging Face's do."""
    found = set()
    for module in model.modules():
        patch = getattr(getattr(module, "config", module), "patch_size", None)
        if isinstance(patch, int):
            patch = (patch,) * len(size)
        if (
            isinstance(patch, Sequence)
            and len(patch) == len(size)
            and all(isinstance(p, int) and 0 < p <= s for p, s in zip(patch, size, strict=True))
        ):
            found.add(tuple(s // p for s, p in zip(size, patch, strict=True)))
    return found


def _told_prefixes(model: nn.Module) -> set[int]:
    """How many tokens of a sequence are no patches, as parts of `model` tell."""
    found = set()
    for module in model.modules():
        prefix = getattr(module, "num_prefix_tokens", None)
        registers = getattr(getattr(module, "config", None), "num_register_tokens", None)
        found |= {prefix} if isinstance(prefix, int) else set()
        found |= {1 + registers} if isinstance(registers, int) else set()
    return found
