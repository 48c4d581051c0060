"""The ways to read an activation, compared with where its places were measured to look.

A reading claims a position for every place. It agrees with the measurement if the measured
positions grow with the claimed ones along every axis of the input. A wrong number of tokens in a
row, or a class token taken for a patch, disagrees along one axis at least.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from camlib.errors import LayoutError
from camlib.layouts.kinds import (
    Axes,
    ChannelsFirst,
    ChannelsLast,
    Frames,
    Layout,
    Placed,
    Series,
    Tokens,
)
from camlib.layouts.measured import ALIKE, FOLDED, Looks, Measured, loud_places
from camlib.maps import Window

Grid = tuple[int, ...]

AGREES = 0.8
"""From which correlation on, along every axis, a reading agrees with a measurement."""

SURE = 0.95
"""A reading that agrees so well ends the search."""

APART = 0.05
"""Places whose positions deviate by less may look at the same part of the input."""

SPEAKS = 0.5
"""Places that look apart speak for a reading with a correlation from this on, else against it."""

_CLEAR = 0.98
"""From which correlation on the borders of a grid are told by its positions."""

_ASTRAY = 0.75
"""A place that looks at little more than its cell looks at most so many cells beside it."""

_ASLANT = 0.25
"""From which slope on an axis of the grid lies aslant in the input."""

_ASLANT_AT_ONCE = 0.1
"""The same where each place looks at little more than its cell, and positions are exact."""

_FEW = 0.03
"""The share of places that may look further away, by chance or at a border."""

_ROLLED = 0.9
"""From which correlation on a grid is one that was rolled over, as windows are shifted."""

_AS_GOOD = 0.02
"""Of readings that agree to within this, the one with the most places is right."""

_OTHERS = 16
"""How many tokens that are no patches are looked for where no other layer tells the grid."""

_AT_ONCE = 2**20
"""How many tokens are compared at a time."""

_MANY = 2**24
"""So many tokens to compare in all that it is not tried."""


@dataclass(frozen=True, eq=False)
class Claim:
    """A reading, and how well it agrees with a measurement.

    Attributes:
        layout: the reading.
        look: the measurement, of the axis that it takes for the channels.
        positions: that were measured, ``(A, *grid)``.
        spread: of what each place looks at, ``(A, *grid)``.
        loud: which places change with the input, ``(*grid)``.
        numbers: of the places, counted from 1, ``(*grid)``; 0 where there is none.
    """

    layout: Layout
    look: Looks
    positions: Tensor
    spread: Tensor
    loud: Tensor
    numbers: Tensor

    @classmethod
    def of(cls, layout: Layout, look: Looks) -> Claim | None:
        """What `layout` claims; ``None`` if it does not fit the activation."""
        axes = len(look.positions)
        try:
            fields = layout(look.fields)
        except (LayoutError, RuntimeError):
            return None
        if fields.shape[:2] != (1, 2 * axes + 2) or fields.ndim != axes + 2:
            return None
        positions, spread = fields[0, :axes], fields[0, axes:-2]
        strength, numbers = fields[0, -2:]
        loud = loud_places(strength)
        if loud.sum() < 2:
            return None
        return cls(layout, look, positions, spread, loud, numbers)

    @property
    def grid(self) -> Grid:
        """The places along each axis."""
        return tuple(self.loud.shape)

    @cached_property
    def correlations(self) -> list[float]:
        """Of claimed and measured positions along each axis, negative where it runs backwards."""
        return [self._correlation(axis) for axis in range(len(self.grid))]

    @cached_property
    def slant(self) -> float:
        """How far positions go along another axis of the input, over how far along the claimed.

        Where they go there by more than chance.
        """
        axes = [axis for axis, length in enumerate(self.grid) if length > 1]
        chance = 2 / math.sqrt(int(self.loud.sum()))
        steepest = 0.0
        for axis, other in itertools.permutations(axes, 2):
            claimed, along = self._pair(axis)
            aside = self.positions[other][self.loud]
            if abs(_correlated(claimed, aside)) > chance:
                numbers = claimed - claimed.mean()
                slope = float(numbers @ aside) / (float(numbers @ along) or 1e-12)
                steepest = max(steepest, abs(slope))
        return steepest

    @cached_property
    def agreement(self) -> float:
        """The lowest of the correlations; 0 where the axes of the grid lie aslant in the input."""
        aslant = self.slant > (_ASLANT_AT_ONCE if self.local else _ASLANT)
        return 0.0 if aslant else min(self.correlations)

    def agrees(self, grids: Collection[Grid]) -> bool:
        """Whether the claim is right, where other layers have `grids`.

        A row of tokens can be laid out in many ways, of which some agree by half. The right one
        agrees well where tokens look at little parts of the input, each at another. A few places
        agree by chance unless they look apart.
        """
        few = self.loud.numel() < 9
        row = self.loud.ndim > len(self.look.axes) or isinstance(self.layout, Series)
        if (row and self.displaced) or (few and not self.look.telling):
            return False
        known = self.grid in grids or not (self.look.telling or isinstance(self.layout, Series))
        if row and not (self.complete and self.usual and known):
            sure = True
        else:
            sure = few and not self.usual
        return self.agreement >= (SURE if sure else AGREES)

    @property
    def complete(self) -> bool:
        """Whether all places change, and all that do are shown."""
        return not self.silent and int(self.loud.sum()) == int(self.look.loud.sum())

    @property
    def silent(self) -> int:
        """How many of the places do not change."""
        return self.loud.numel() - int(self.loud.sum())

    @property
    def turned_over(self) -> bool:
        """Whether the positions agree better if the grid is rolled over along an axis."""
        for axis, length in enumerate(self.grid):
            claimed, measured = self._pair(axis)
            rolled = [(claimed + by).remainder(length) for by in range(length)]
            found = [_correlated(each, measured) for each in rolled]
            if length > 2 and found[0] < _ROLLED - 0.1 and max(found) > _ROLLED:
                return True
        return False

    @property
    def contradicted(self) -> bool:
        """Whether the measurement speaks against the claim: places look apart, and elsewhere."""
        apart = self.positions[:, self.loud].std(1, correction=0) > APART
        against = [c < SPEAKS for c in self.correlations]
        return self.turned_over or any(
            a and b for a, b in zip(apart.tolist(), against, strict=True)
        )

    @property
    def usual(self) -> bool:
        """Whether the axes come in order and none runs backwards, and tokens row by row."""
        tokens = isinstance(self.layout, Tokens) and self.layout.patches is not None
        return not tokens and not isinstance(self.layout, Axes | Placed)

    @cached_property
    def spread_in_cells(self) -> float:
        """How far what a place looks at deviates from its middle; 0.29 for one cell, evenly."""
        spread = self.spread[:, self.loud].median(1).values.tolist()
        return max((s * n for s, n in zip(spread, self.grid, strict=True) if n > 1), default=0)

    @property
    def local(self) -> bool:
        """Whether each place looks at little more than its cell."""
        return self.spread_in_cells <= 0.75 and self.look.telling

    @property
    def clear(self) -> bool:
        """Whether each place looks at little more than its cell, just where it is claimed."""
        return self.local and self.agreement >= _CLEAR

    @property
    def sharp(self) -> bool:
        """Whether each place looks at its cell alone; a mean that is added draws all inwards."""
        return self.clear and self.spread_in_cells <= 0.4

    @cached_property
    def displaced(self) -> bool:
        """Whether some places look at another cell than they are claimed to, though it is clear."""
        if self.complete or not self.local:
            return False
        for axis, ((low, high), length) in enumerate(zip(self.borders(), self.grid, strict=True)):
            claimed, measured = self._pair(axis)
            cell = (high - low) / length
            away = ((measured - low) / cell - claimed - 0.5).abs()
            if length > 1 and (away > _ASTRAY).double().mean() > _FEW:
                return True
        return False

    def rivals(self, other: Claim) -> bool:
        """Whether `other` puts places that both show at another distance from each other."""
        if self.look is not other.look:
            return True
        mine, theirs = self._cells(), other._cells()
        apart = {
            tuple(a - b for a, b in zip(cell, theirs[number], strict=True))
            for number, cell in mine.items()
            if number in theirs
        }
        return len(apart) > 1

    def _cells(self) -> dict[int, tuple[int, ...]]:
        """The cell of each place, by its number."""
        cells = self.numbers.nonzero()
        numbers = self.numbers[tuple(cells.T)].long().tolist()
        return dict(zip(numbers, map(tuple, cells.tolist()), strict=True))

    @property
    def leaves_out(self) -> bool:
        """Whether a place that is not shown looks at as little of the input as those shown."""
        if not self.local:
            return False
        shown = torch.zeros_like(self.look.loud).flatten()
        numbers = self.numbers[self.numbers > 0].long() - 1
        shown[numbers] = True
        others = self.look.loud.flatten() & ~shown
        spread = self.look.spread.flatten(1)
        most = 1.5 * spread[:, numbers].median(1, keepdim=True).values
        return bool((others & (spread <= most).all(0)).any())

    @property
    def extent(self) -> float:
        """Which share of the input the grid covers."""
        return math.prod(abs(end - start) for start, end in self.borders())

    def borders(self) -> list[tuple[float, float]]:
        """Where the grid begins and ends along each axis of the input, by a line through it."""
        found = []
        for axis, length in enumerate(self.grid):
            claimed, measured = self._pair(axis)
            keep = torch.ones_like(measured, dtype=torch.bool)
            for _ in range(3):  # less what the border of a padding mirrors
                x, y = claimed[keep], measured[keep]
                slope = (x - x.mean()) @ (y - y.mean()) / (x - x.mean()).square().sum().clamp(1e-9)
                start = y.mean() - slope * x.mean()
                away = (measured - start - slope * claimed).abs()
                keep = away <= 4 * away[keep].median() + 1e-6
            found.append((float(start - slope / 2), float(start + slope * (length - 0.5))))
        return found

    def _pair(self, axis: int) -> tuple[Tensor, Tensor]:
        """Claimed and measured positions along `axis` of the places that change."""
        numbers = torch.arange(self.grid[axis]).to(self.positions)
        shape = [-1 if a == axis else 1 for a in range(len(self.grid))]
        return numbers.reshape(shape).expand(self.grid)[self.loud], self.positions[axis][self.loud]

    def _correlation(self, axis: int) -> float:
        claimed, measured = self._pair(axis)
        if self.grid[axis] == 1:  # a row of them would have a deviation of 0.29
            return 1.0 if measured.std(correction=0) < 0.15 else 0.0
        few = len(measured) < 9 and measured.std(correction=0) < ALIKE  # by chance
        return 0.0 if few else _correlated(claimed, measured)


def _correlated(one: Tensor, other: Tensor) -> float:
    one, other = one - one.mean(), other - other.mean()
    size = one.norm() * other.norm()
    return float(one @ other / size) if size > 0 else 0.0


def claims(
    measured: Measured, grids: Collection[Grid], window: Window, *, tokens: bool = True
) -> list[Claim]:
    """The ways to read an activation on a grid with the axes of the input, the best first.

    Args:
        measured: what was measured of it.
        grids: of other layers of the pass.
        window: which part of the input the layer before covers.
        tokens: whether to look for grids of tokens too, of which there are many.
    """
    axes = len(window)
    found: list[Claim] = []
    for look in measured.looks:
        row = len(look.axes) == 1 and look.axes != (FOLDED,) and look.channels == 2
        if len(look.axes) == axes and not row:
            for order in _orders(look):
                found += _on_axes(order, look, measured)
        if row and tokens:
            found += _of_tokens(look, measured, grids, window)
    # The fewer the places, the more of the unusual readings agree by chance.
    found = [claim for claim in found if claim.usual or claim.agreement >= _ROLLED]
    return sorted(found, key=lambda claim: -claim.agreement)


def orders(look: Looks) -> dict[Grid, float]:
    """How well each order of the axes of an activation agrees, in one direction or the other."""
    along = look.along.abs().tolist()
    single = [look.strength.shape[axis] == 1 for axis in range(len(look.axes))]
    return {
        tuple(look.axes[g] for g in order): min(
            1.0 if single[g] else along[a][g] for a, g in enumerate(order)
        )
        for order in itertools.permutations(range(len(look.axes)))
    }


def _orders(look: Looks, least: float = 0.5) -> list[Grid]:
    """The orders of axes that agree at all, at least the one that agrees best."""
    agreement = orders(look)
    least = min(least, max(agreement.values()))
    return [order for order, found in agreement.items() if found >= least]


def _on_axes(order: Sequence[int], look: Looks, measured: Measured) -> Iterator[Claim]:
    """The claim that these axes of the activation are those of the input, in this order."""
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
    # An axis of one place may as well be that of one channel, in another order.
    if claim is not None and (claim.usual or 1 not in claim.grid) and math.prod(claim.grid) > 1:
        yield claim


def _named(order: tuple[int, ...]) -> Layout:
    """The layout with the axes of samples, channels and grid in this `order`."""
    if order == tuple(range(len(order))):
        return ChannelsFirst()
    if order == (0, len(order) - 1, *range(1, len(order) - 1)):
        return ChannelsLast()
    return Series(batch_first=False) if order == (1, 2, 0) else Axes(order)


def _of_tokens(
    look: Looks, measured: Measured, grids: Collection[Grid], window: Window
) -> Iterator[Claim]:
    """The best reading as tokens on a grid, or each at the place it looks at."""
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
    """Which tokens may be patches, ``(S, patches)``, on which grid: the likeliest first."""
    every = torch.arange(len(look.loud))
    loud = every[look.loud.cpu()]
    count = len(every)

    def gaps(grid: Grid) -> Tensor:
        """All but as many tokens as are too many, from each place on."""
        size, others = math.prod(grid), count - math.prod(grid)
        starts = torch.arange(1, size)[:, None]
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
    """The tokens of a series: all but those at its ends that look somewhere else."""
    line = look.positions[0]
    numbers = torch.arange(len(line)).to(line)
    keep = look.loud
    for _ in range(3):
        x, y = numbers[keep], line[keep]
        slope = (x - x.mean()) @ (y - y.mean()) / (x - x.mean()).square().sum().clamp(1e-9)
        away = (line - y.mean() - slope * (numbers - x.mean())).abs()
        keep = look.loud & (away <= 0.25 * slope.abs() * len(line))
        if keep.sum() < 2:
            break
    first, last = (int(keep.nonzero()[end, 0]) if keep.any() else 0 for end in (0, -1))
    return torch.arange(first, last + 1)


def _coverage(claim: Claim) -> tuple[int, int, bool]:
    """How many places that change a claim shows, and how few that do not."""
    return int(claim.loud.sum()), -claim.silent, claim.usual


def _laid(look: Looks, measured: Measured, runs: Tensor, grid: Grid) -> Iterator[Claim]:
    """For each order of the axes, the claim of that of `runs` ``(S, patches)`` that agrees best."""
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
    """The correlations of each axis of the input with each of the grid, ``(A, A, S)``.

    Over the places that change; 1 for an axis of the grid with one place.
    """
    runs = runs.to(look.positions.device)
    loud = look.loud[runs].to(look.positions)
    count = loud.sum(1).clamp(min=1)
    measured = look.positions[:, runs]
    measured = (measured - ((measured * loud).sum(2) / count)[..., None]) * loud
    found = []
    for claimed in torch.unravel_index(torch.arange(math.prod(grid)).to(runs), grid):
        line = claimed.to(loud).expand_as(loud)
        line = (line - ((line * loud).sum(1) / count)[:, None]) * loud
        size = line.norm(dim=1) * measured.norm(dim=2)
        found.append((line * measured).sum(2) / size.clamp(min=1e-12))
    single = torch.tensor([n == 1 for n in grid], device=runs.device)
    return torch.stack(found, 1).masked_fill(single[:, None], 1.0)


def _tokens(numbers: Tensor, measured: Measured, look: Looks) -> Layout:
    """The layout in which the tokens `numbers` lie on the grid, -1 for none."""
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
    """The claim that each token is at the cell it looks at, if these are cells of one grid."""
    loud = look.loud
    if (look.strength[~loud] > 1e-3 * look.strength[loud].median()).any():
        return  # whether such a token is a patch cannot be told
    low, high = torch.tensor(window).to(look.positions).unbind(1)
    places = (look.positions[:, loud] - low[:, None]) / (high - low)[:, None]
    numbers = torch.arange(len(loud))[loud.cpu()]
    lattice = tuple(_cells(line) for line in places)
    for grid in dict.fromkeys([*grids, lattice]):
        if len(grid) != len(places) or len(numbers) > math.prod(grid) or math.prod(grid) < 2:
            continue
        sizes = torch.tensor(grid).to(places)[:, None]
        cells = (places * sizes).floor().clamp(min=0).minimum(sizes - 1).long()
        away = (places * sizes - 0.5 - cells).abs()
        flat = torch.zeros_like(cells[0])
        for line, length in zip(cells, grid, strict=True):
            flat = flat * length + line
        if (away < 0.3).all() and len(set(flat.tolist())) == len(flat):
            laid = torch.full((math.prod(grid),), -1)
            laid[flat.cpu()] = numbers
            claim = Claim.of(_tokens(laid.reshape(grid), measured, look), look)
            if claim is not None and claim.clear:
                if (claim.spread.flatten(1) * sizes <= 0.75).all():
                    yield claim
                return


def _cells(places: Tensor, most: int = 64) -> int:
    """The least number of cells of which all `places` ``(T,)`` in [0, 1] are centres; else 1."""
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
