"""Search for the layout that agrees with a measurement of where places look.

The search tries the axes in every order. For tokens it tries rows on the grids of other layers, and
on grids that the number of tokens allows, with a few other tokens before, between or after the
patches. In the end it puts each token where it looks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from camlib.layouts.base import Layout
from camlib.layouts.claims import ROLLED, SURE, Claim, Grid
from camlib.layouts.kinds import Axes, ChannelsFirst, ChannelsLast, Frames, Placed, Series, Tokens
from camlib.layouts.measured import FOLDED, Looks, Measured
from camlib.maps import Window

_AS_GOOD = 0.02
"""Among layouts that agree to within this, the one with the most places is right."""

_OTHERS = 16
"""The most tokens besides patches that the search allows if no other layer shows the grid."""

_AT_ONCE = 2**20
"""The number of tokens that are compared at a time."""

_MANY = 2**24
"""The most tokens to compare in all; beyond this, the search skips the attempt."""


def claims(
    measured: Measured, grids: Collection[Grid], window: Window, *, tokens: bool = True
) -> list[Claim]:
    """The layouts that read an activation on a grid with the axes of the input, the best first.

    Args:
        measured: the measurement of the activation.
        grids: the grids of other layers of the pass.
        window: the part of the input that the previous layer covers.
        tokens: whether to try grids of tokens too, of which there are many.
    """
    axes = len(window)
    tried: list[Claim] = []
    for look in measured.looks:
        row = len(look.axes) == 1 and look.axes != (FOLDED,) and look.channels == 2
        if len(look.axes) == axes and not row:
            for order in _orders(look):
                tried += _on_axes(order, look, measured)
        if row and tokens:
            tried += _of_tokens(look, measured, grids, window)
    # With few places, unusual layouts often agree by chance.
    credible = [claim for claim in tried if claim.usual or claim.agreement >= ROLLED]
    return sorted(credible, key=lambda claim: -claim.agreement)


def orders(look: Looks) -> dict[Grid, float]:
    """How well each order of the axes of an activation agrees, in either direction."""
    along = look.along.abs().tolist()
    single = [look.strength.shape[axis] == 1 for axis in range(len(look.axes))]
    return {
        tuple(look.axes[g] for g in order): min(
            1.0 if single[g] else along[a][g] for a, g in enumerate(order)
        )
        for order in itertools.permutations(range(len(look.axes)))
    }


def _orders(look: Looks, least: float = 0.5) -> list[Grid]:
    """The orders of axes that agree by at least `least`, or the best one if none does."""
    agreements = orders(look)
    least = min(least, max(agreements.values()))
    return [order for order, agreement in agreements.items() if agreement >= least]


def _on_axes(order: Sequence[int], look: Looks, measured: Measured) -> Iterator[Claim]:
    """The claim that these axes of the activation, in this order, are those of the input."""
    if FOLDED not in order:
        axes = (measured.samples, look.channels, *order)
        claim = Claim.of(_named(axes), look)
        backwards = [a for a, c in enumerate(claim.correlations) if c < 0] if claim else []
        if backwards:
            claim = Claim.of(Axes(axes, tuple(backwards)), look)
    elif order[0] == FOLDED and measured.samples == 0:
        each = _named((0, look.channels, *order[1:]))
        claim = Claim.of(Frames(measured.frames, each), look)
    else:
        return
    # In another order, an axis of length 1 may be that of a single channel.
    if claim is not None and (claim.usual or 1 not in claim.grid) and math.prod(claim.grid) > 1:
        yield claim


def _named(order: tuple[int, ...]) -> Layout:
    """The layout with the axes of samples, channels and grid in `order`."""
    if order == tuple(range(len(order))):
        return ChannelsFirst()
    if order == (0, len(order) - 1, *range(1, len(order) - 1)):
        return ChannelsLast()
    return Series(batch_first=False) if order == (1, 2, 0) else Axes(order)


def _of_tokens(
    look: Looks, measured: Measured, grids: Collection[Grid], window: Window
) -> Iterator[Claim]:
    """The best claims of tokens on a grid, row by row or each where it looks."""
    best: list[Claim] = []
    stages = _stages(look, len(window), grids)
    for stage in stages if look.telling else itertools.islice(stages, 2):
        for runs, grid in stage:
            laid = _laid(look, measured, runs, grid)
            best += [claim for claim in laid if not (claim.displaced or claim.leaves_out)]
        if best and max(claim.agreement for claim in best) >= SURE:
            break
    else:
        if look.telling:
            best += _where_they_look(look, measured, grids, window)
    best.sort(key=lambda claim: -claim.agreement)
    good = [claim for claim in best if claim.agreement >= best[0].agreement - _AS_GOOD]
    if good:
        yield max(good, key=_coverage)
    yield from best[len(good) : len(good) + 1]


def _stages(
    look: Looks, axes: int, grids: Collection[Grid]
) -> Iterator[Iterator[tuple[Tensor, Grid]]]:
    """The choices of tokens as patches, ``(S, patches)``, and their grids, the likeliest first."""
    every = torch.arange(len(look.loud), device="cpu")
    loud = every[look.loud.cpu()]
    count = len(every)

    def gaps(grid: Grid) -> Tensor:
        """The tokens without a gap of the surplus ones, for each place of the gap."""
        size, others = math.prod(grid), count - math.prod(grid)
        starts = torch.arange(1, size, device="cpu")[:, None]
        return every[:size] + others * (every[:size] >= starts)

    if axes == 1:
        steps = _steps(look)
        yield iter([(steps[None], (len(steps),))])
        return
    known = [
        turned
        for grid in grids
        if len(grid) == axes and len(loud) / 2 <= math.prod(grid) <= count
        for turned in dict.fromkeys(itertools.permutations(grid))
    ]
    others = range(1, min(_OTHERS, count // 8) + 1)
    fewer = [grid for number in others for grid in _factors(count - number, axes)]
    yield ((every.unfold(0, math.prod(grid), 1), grid) for grid in known)
    yield ((loud[None], grid) for grid in _factors(len(loud), axes) if min(grid) > 1)
    yield ((every.unfold(0, math.prod(grid), 1), grid) for grid in fewer if min(grid) > 1)
    yield (
        (gaps(grid), grid)
        for grid in known
        if 0 < count - math.prod(grid) <= _OTHERS and math.prod(grid) ** 2 <= _MANY
    )


def _steps(look: Looks) -> Tensor:
    """The tokens of a series, without those at its ends that look elsewhere."""
    line = look.positions[0]
    numbers = torch.arange(len(line), device=line.device).to(line)
    keep = look.loud
    for _ in range(3):
        x, y = numbers[keep], line[keep]
        slope = (x - x.mean()) @ (y - y.mean()) / (x - x.mean()).square().sum().clamp(1e-9)
        away = (line - y.mean() - slope * (numbers - x.mean())).abs()
        keep = look.loud & (away <= 0.25 * slope.abs() * len(line))
        if keep.sum() < 2:
            break
    first, last = (int(keep.nonzero()[end, 0]) if keep.any() else 0 for end in (0, -1))
    return torch.arange(first, last + 1, device="cpu")


def _coverage(claim: Claim) -> tuple[int, int, bool]:
    """A sort key: more places that change first, then fewer that do not."""
    return int(claim.loud.sum()), -claim.silent, claim.usual


def _laid(look: Looks, measured: Measured, runs: Tensor, grid: Grid) -> Iterator[Claim]:
    """For each order of the axes, the best claim among `runs` ``(S, patches)`` of tokens."""
    parts = torch.split(runs, max(1, _AT_ONCE // runs.shape[1]))
    correlations = torch.cat([_of_runs(look, part, grid) for part in parts], 2)
    for order in itertools.permutations(range(len(grid))):
        chosen = torch.stack([correlations[a, order[a]] for a in range(len(grid))]).abs()
        numbers = runs[int(chosen.amin(0).argmax())]
        laid = numbers.reshape(grid).permute(order)
        claim = Claim.of(_tokens(laid, measured, look), look)
        if claim is not None and claim.silent <= 1 + numbers.numel() // 32:
            backwards = [axis for axis, c in enumerate(claim.correlations) if c < 0]
            if backwards and look.telling and min(map(abs, claim.correlations)) >= SURE:
                claim = Claim.of(_tokens(laid.flip(backwards), measured, look), look)
            if claim is not None:
                yield claim
        if not look.telling:
            return


def _of_runs(look: Looks, runs: Tensor, grid: Grid) -> Tensor:
    """The correlation of each axis of the input with each axis of the grid, ``(A, A, S)``.

    It counts the places that change, and is 1 for an axis of the grid with one place.
    """
    runs = runs.to(look.positions.device)
    loud = look.loud[runs].to(look.positions)
    count = loud.sum(1).clamp(min=1)
    measured = look.positions[:, runs]
    measured = (measured - ((measured * loud).sum(2) / count)[..., None]) * loud
    correlations = []
    numbers = torch.arange(math.prod(grid), device=runs.device).to(runs)
    for claimed in torch.unravel_index(numbers, grid):
        line = claimed.to(loud).expand_as(loud)
        line = (line - ((line * loud).sum(1) / count)[:, None]) * loud
        size = line.norm(dim=1) * measured.norm(dim=2)
        correlations.append((line * measured).sum(2) / size.clamp(min=1e-12))
    single = torch.tensor([n == 1 for n in grid], device=runs.device)
    return torch.stack(correlations, 1).masked_fill(single[:, None], 1.0)


def _tokens(numbers: Tensor, measured: Measured, look: Looks) -> Layout:
    """The layout with the tokens `numbers` in the cells of the grid; -1 marks an empty cell."""
    first, count = measured.samples == 0, len(look.strength)
    grid, flat = tuple(numbers.shape), numbers.flatten().tolist()
    start, after = flat[0], count - flat[0] - len(flat)
    if -1 in flat:
        return Placed(tuple(flat), grid, first)
    if flat != list(range(start, start + len(flat))):
        return Tokens(grid=grid, batch_first=first, patches=tuple(flat))
    if len(grid) > 1:
        return Tokens(start, grid, after, first)
    return ChannelsLast() if first and not start and not after else Series(start, first, after)


def _where_they_look(
    look: Looks, measured: Measured, grids: Collection[Grid], window: Window
) -> Iterator[Claim]:
    """The claim that each token lies in the cell it looks at, if the cells form one grid."""
    loud = look.loud
    if look.faint.any():
        return
    low, high = torch.tensor(window, device=look.positions.device).to(look.positions).unbind(1)
    places = (look.positions[:, loud] - low[:, None]) / (high - low)[:, None]
    numbers = torch.arange(len(loud), device="cpu")[loud.cpu()]
    lattice = tuple(_cells(line) for line in places)
    for grid in dict.fromkeys([*grids, lattice]):
        if len(grid) != len(places) or len(numbers) > math.prod(grid) or math.prod(grid) < 2:
            continue
        sizes = torch.tensor(grid, device=places.device).to(places)[:, None]
        cells = (places * sizes).floor().clamp(min=0).minimum(sizes - 1).long()
        away = (places * sizes - 0.5 - cells).abs()
        lines = zip(cells.tolist(), grid, strict=True)
        if grid not in grids and any(len(set(line)) < length for line, length in lines):
            continue  # on a lattice that is fine enough, a few tokens lie anywhere
        flat = torch.zeros_like(cells[0])
        for line, length in zip(cells, grid, strict=True):
            flat = flat * length + line
        if (away < 0.3).all() and len(set(flat.tolist())) == len(flat):
            laid = torch.full((math.prod(grid),), -1, device="cpu")
            laid[flat.cpu()] = numbers
            claim = Claim.of(_tokens(laid.reshape(grid), measured, look), look)
            if claim is not None and claim.clear:
                if (claim.spread.flatten(1) * sizes <= 0.75).all():
                    yield claim
                return


def _cells(places: Tensor, most: int = 64) -> int:
    """The smallest number of cells with all `places` ``(T,)`` in [0, 1] at centres; else 1."""
    for count in range(1, most + 1):
        away = (places * count - 0.5) - (places * count - 0.5).round()
        if away.abs().max() < 0.2:
            return count
    return 1


def _factors(number: int, axes: int) -> list[Grid]:
    """The ways to write `number` as a product of `axes` numbers."""
    if axes == 1:
        return [(number,)] if number > 1 else []
    return [
        (first, *rest)
        for first in range(1, number + 1)
        if number % first == 0
        for rest in ([(number // first,)] if axes == 2 else _factors(number // first, axes - 1))
    ]
