"""Recognising the layout of an activation from its shape and that of the input.

The grid of a layer is a coarser copy of the input's: about the same stride along every axis. That
tells channels first from channels last, and how many tokens of a sequence are no patches, in all
but odd cases; those are settled by the grids that convolutions of the same pass have. A guess
would show a wrong map, which nobody notices: where two readings remain, there is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from torch import nn

from camlib.errors import LayoutError
from camlib.layouts import ChannelsFirst, ChannelsLast, Known, Sequence, Shape, Tokens, said_by


@dataclass(frozen=True)
class Clues:
    """What the rest of a pass, and the model itself, tell about an activation.

    Attributes:
        grids: those of layers known to have channels first, and those that the model's patches
            have by its own word.
        arrays: ``(C, *grid)`` of the former.
        lengths: of the token sequences that pass linear layers and norms.
        normed: of those that pass norms.
        prefixes: how many tokens are no patches, by the model's own word.
        sequence_first: whether a part of the model takes tokens as ``(T, N, C)``, by its own word.
        windowed: whether the model is one that keeps its patches window by window, not row by row,
            until a window is one token.
        beside: the modules that ran before and after on as many axes, asked where a shape has
            channels first or last: a convolution, norm or pooling over channels says first, a
            linear layer or a layer norm last.
    """

    grids: frozenset[tuple[int, ...]] = frozenset()
    arrays: frozenset[tuple[int, ...]] = frozenset()
    lengths: frozenset[int] = frozenset()
    normed: frozenset[int] = frozenset()
    prefixes: frozenset[int] = frozenset()
    sequence_first: bool = False
    windowed: bool = False
    beside: Callable[[], Iterable[nn.Module]] = tuple


def recognize(
    shape: Shape,
    size: Shape,
    module: nn.Module | None = None,
    clues: Clues | None = None,
    *,
    count: int | None = None,
) -> Known:
    """The layout of an activation of `shape` for an input of spatial `size`.

    Args:
        shape: of the activation.
        size: of the input, without samples and channels.
        module: whose output it is. That of a convolution or a batch norm has channels first.
        clues: what else is known of the pass.
        count: the number of samples; by default the first axis.

    Raises:
        LayoutError: no reading fits, or two.
    """
    clues = clues or Clues()
    count = shape[0] if count is None else count
    own = said_by(module)
    if own == ChannelsFirst() and len(shape) == len(size) + 2 and shape[0] == count:
        return ChannelsFirst()
    found = list(_readings(shape, size, count, clues))
    best = [layout for rank, layout in found if rank == min(rank for rank, _ in found)]
    if len(best) == 1:
        return best[0]
    if not best:
        samples = "" if shape[0] == count else f" and {count} samples"
        raise LayoutError(
            f"an activation of shape {tuple(shape)} has no grid for an input of size "
            f"{tuple(size)}{samples}; choose a layer before pooling or flattening, or pass "
            "layout=, a function from the activation to (N, C, *grid)"
        )
    if set(best) == {ChannelsFirst(), ChannelsLast()}:
        said = [own] if own else [layout for each in clues.beside() if (layout := said_by(each))]
        if said and ChannelsLast() not in said:
            return ChannelsFirst()
        # One linear layer proves little: axes are often moved before and after it, unseen.
        if (own or len(said) > 1) and ChannelsFirst() not in said:
            return ChannelsLast()
    raise LayoutError(
        f"an activation of shape {tuple(shape)} for an input of size {tuple(size)} can be read in "
        f"{len(best)} ways; pass one of "
        + " or ".join(f"layout=camlib.layouts.{layout!r}" for layout in best)
    )


def _readings(shape: Shape, size: Shape, count: int, clues: Clues) -> Iterator[tuple[int, Known]]:
    """What `shape` can be read as, with a rank: the least is the best."""
    if len(shape) == len(size) + 2 and shape[0] == count:
        for layout in (ChannelsFirst(), ChannelsLast()):
            grid = layout.grid_of(shape)
            if layout == ChannelsFirst() and _attention(shape, clues):
                continue
            if grid in clues.grids:
                yield 0, layout
            elif layout == ChannelsLast() and shape[-1] in clues.lengths:
                continue  # attention to so many tokens
            elif (rank := _rank(grid, size)) is not None and rank < 4:
                yield rank, layout
            elif not _counts(clues).isdisjoint(grid):
                continue  # one of the axes is a row of tokens
            elif rank or _within(grid, size):
                yield rank or 5, layout
    if len(shape) == 3:
        for batch_first in (True, False):
            # Windows of N images may hold N tokens: then the model must say what comes first.
            turned = clues.sequence_first or count == 1 or shape[0] % count
            if shape[0 if batch_first else 1] == count and (batch_first or turned):
                length = shape[1 if batch_first else 0]
                if len(size) == 1:
                    yield from _series(length, clues, batch_first=batch_first)
                else:
                    yield from _tokens(length, size, clues, batch_first=batch_first)


_MOST_PREFIX = 16
"""Of tokens that are no patches, where the grid is known; half as many where it is guessed."""


def _series(length: int, clues: Clues, *, batch_first: bool) -> Iterator[tuple[int, Known]]:
    steps = {math.prod(grid) for grid in clues.grids}
    for prefix in range(1, _MOST_PREFIX // 2 + 1):
        if length in clues.normed and length not in steps and length - prefix in steps:
            yield 3, Sequence(prefix, batch_first)
            return
    if not batch_first:
        yield 4, Sequence(0, batch_first)


def _tokens(
    length: int, size: Shape, clues: Clues, *, batch_first: bool
) -> Iterator[tuple[int, Known]]:
    if clues.windowed and length > min(clues.normed, default=length):
        return
    known = [
        Tokens(prefix, grid, batch_first=batch_first)
        for grid in sorted(clues.grids)
        if len(grid) == len(size)
        and 0 <= (prefix := length - math.prod(grid)) <= min(_MOST_PREFIX, math.prod(grid) - 1)
    ]
    told = [tokens for tokens in known if tokens.prefix in clues.prefixes]
    for tokens in told or known:
        yield 0, tokens
    if known or (clues.normed and length not in clues.normed):
        return  # every sequence of a transformer passes a norm
    guesses = clues.prefixes or range(_MOST_PREFIX // 2 + 1)
    for prefix in guesses:
        patches = length - prefix
        for grid in _factors(patches, len(size)) if patches > prefix else ():
            rank = _rank(grid, size)
            fits = rank is not None and (rank < 4 or _patched(grid, size))
            if rank and fits and (not clues.grids or _merged(grid, clues.grids)):
                yield rank, Tokens(prefix, grid, batch_first=batch_first)


def _factors(number: int, axes: int) -> Iterator[tuple[int, ...]]:
    """The ways to write `number` as a product of `axes` numbers."""
    if axes == 1:
        yield (number,)
        return
    for first in range(1, number + 1):
        if number % first == 0:
            for rest in _factors(number // first, axes - 1):
                yield first, *rest


def _merged(grid: Shape, seen: Iterable[Shape]) -> bool:
    """Whether merging neighbours, once or often, makes `grid` of one of `seen`."""
    return any(
        all(g in (s >> times, -(-s >> times)) for g, s in zip(grid, each, strict=True))
        for each in seen
        if len(each) == len(grid)
        for times in range(1, 6)
    )


def _attention(shape: Shape, clues: Clues) -> bool:
    """Whether `shape` is that of attention between tokens: their number along every axis."""
    grid = tuple(shape[2:])
    return (
        len(grid) > 1
        and len(set(grid)) == 1
        and grid[0] in clues.lengths
        and tuple(shape[1:]) not in clues.arrays
    )


def _counts(clues: Clues) -> set[int]:
    """The numbers that stand for flattened places."""
    return {*clues.lengths, *(math.prod(grid) for grid in clues.grids if min(grid) > 1)}


def _rank(grid: Shape, size: Shape) -> int | None:
    """How well one stride explains `grid` along every axis: 1 the best, ``None`` not at all."""
    if len(size) == 1:
        return 4 if _within(grid, size) else None
    # A clip may be coarser in space than in time.
    space = slice(-2, None)
    even = len({s / g for g, s in zip(grid[space], size[space], strict=True)}) == 1
    if even and all(s % g == 0 for g, s in zip(grid, size, strict=True)):
        return 1
    if len({s / g for g, s in zip(grid, size, strict=True)}) == 1:
        return 2
    return 4 if _even(grid, size) else None


def _patched(grid: Shape, size: Shape) -> bool:
    """Whether patches of one size, along every axis, make `grid`."""
    edges = range(size[-1] // (grid[-1] + 1), size[-1] // max(grid[-1] - 1, 1) + 1)
    return any(
        tuple(grid) in (tuple(s // edge for s in size), tuple(-(-s // edge) for s in size))
        for edge in edges
        if edge
    )


def _even(grid: Shape, size: Shape) -> bool:
    """Whether one stride explains `grid` along every axis, give or take a border."""
    borders = [min(1.5, g / 4) for g in grid]
    least = max(s / (g + border) for s, g, border in zip(size, grid, borders, strict=True))
    most = min(s / (g - border) for s, g, border in zip(size, grid, borders, strict=True))
    return least <= most


def _within(grid: Shape, size: Shape) -> bool:
    return all(g <= s for s, g in zip(size, grid, strict=True))
