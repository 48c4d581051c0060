"""Compare a layout with a measurement of where each place of an activation looks.

A layout claims a position for every place. It agrees with the measurement if the measured positions
grow with the claimed ones along every axis of the input. A layout with the wrong number of tokens
in a row, or with the class token as a patch, disagrees along at least one axis.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from camlib.errors import LayoutError
from camlib.layouts.alignment import ASTRAY, FEW, Alignment, line_through
from camlib.layouts.base import Layout
from camlib.layouts.kinds import Axes, Placed, Series, Tokens
from camlib.layouts.measured import ALIKE, Looks, loud_places

Grid = tuple[int, ...]

AGREES = 0.8
"""A layout agrees with a measurement if the correlation along every axis is at least this."""

SURE = 0.95
"""A layout that agrees this well ends the search."""

APART = 0.05
"""Places whose positions deviate by less may look at the same part of the input."""

SPEAKS = 0.5
"""Places that look apart support a layout with at least this correlation, else contradict it."""

_CLEAR = 0.98
"""With at least this correlation, the positions show where the borders of the grid are."""

_ASLANT = 0.25
"""An axis of the grid with at least this slope lies aslant in the input."""

_ASLANT_AT_ONCE = 0.1
"""The same slope where each place sees little more than its cell, so that positions are exact."""

_SOME = 32
"""Fewer tokens than this fit a wrong grid by chance, if a patch is missing in each of its lines."""

_LITTLE = 0.5
"""A token with no more than this spread, in cells, sees a patch alone."""

ROLLED = 0.9
"""With at least this correlation, a rolled grid is the right one, as where windows are shifted."""


@dataclass(frozen=True, eq=False)
class Claim:
    """A layout, and how well it agrees with a measurement.

    Attributes:
        layout: the layout.
        look: the measurement, for the layout's axis of channels.
        positions: the measured positions, ``(A, *grid)``.
        spread: the spread of what each place looks at, ``(A, *grid)``.
        loud: which places change with the input, ``(*grid)``.
        numbers: the numbers of the places, counted from 1, ``(*grid)``; 0 for an empty cell.
    """

    layout: Layout
    look: Looks
    positions: Tensor
    spread: Tensor
    loud: Tensor
    numbers: Tensor

    @classmethod
    def of(cls, layout: Layout, look: Looks) -> Claim | None:
        """The claim of `layout`; ``None`` if it does not fit the activation."""
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
        """The number of places along each axis."""
        return tuple(self.loud.shape)

    @cached_property
    def correlations(self) -> list[float]:
        """Correlations of claimed and measured positions for each axis; negative if backwards."""
        return [self._correlation(axis) for axis in range(len(self.grid))]

    @cached_property
    def slant(self) -> float:
        """How far positions move along another axis of the input, relative to the claimed axis.

        Movements that chance explains do not count.
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
        """The lowest correlation; 0 if the axes of the grid lie aslant in the input."""
        aslant = self.slant > (_ASLANT_AT_ONCE if self.local else _ASLANT)
        return 0.0 if aslant else min(self.correlations)

    def agrees(self, grids: Collection[Grid]) -> bool:
        """Whether the claim is right, given the `grids` of other layers.

        A row of tokens can be laid out in many ways, and some wrong ones agree roughly. The right
        one agrees well if each token looks at its own small part of the input. A few places agree
        by chance unless they look apart, and a few tokens in any order always do.
        """
        few = self.loud.numel() < 9
        if few and (not self.look.telling or (self.row and not self.usual)):
            return False
        if self.displaced:
            return False
        known = self.grid in grids or not (self.look.telling or isinstance(self.layout, Series))
        if self._strange(grids):
            return False
        plain = self.complete and self.usual
        sure = (self.row and not (plain and known)) or (few and not self.usual)
        return self.agreement >= (SURE if sure else AGREES)

    def _strange(self, grids: Collection[Grid]) -> bool:
        """Whether a few tokens are laid on a grid unlike the known `grids`, also if coarsened."""
        if not self.row or len(self.grid) < 2 or self.loud.numel() >= _SOME:
            return False
        alike = [len(grid) == len(self.grid) and _coarsens(grid, self.grid) for grid in grids]
        return bool(alike) and not any(alike)

    @property
    def row(self) -> bool:
        """Whether the layout reads a row of tokens."""
        return self.loud.ndim > len(self.look.axes) or isinstance(self.layout, Series)

    @property
    def complete(self) -> bool:
        """Whether all places of the grid change, and all places that change are in it."""
        return not self.silent and int(self.loud.sum()) == int(self.look.loud.sum())

    @property
    def silent(self) -> int:
        """The number of places that do not change."""
        return self.loud.numel() - int(self.loud.sum())

    @property
    def turned_over(self) -> bool:
        """Whether the positions agree better if the grid is rolled along an axis."""
        for axis, length in enumerate(self.grid):
            claimed, measured = self._pair(axis)
            rolled = [(claimed + by).remainder(length) for by in range(length)]
            agreements = [_correlated(each, measured) for each in rolled]
            if length > 2 and agreements[0] < ROLLED - 0.1 and max(agreements) > ROLLED:
                return True
        return False

    @property
    def contradicted(self) -> bool:
        """Whether the measurement contradicts the claim: places look apart, and elsewhere."""
        apart = self.positions[:, self.loud].std(1, correction=0) > APART
        against = [c < SPEAKS for c in self.correlations]
        return self.turned_over or any(
            a and b for a, b in zip(apart.tolist(), against, strict=True)
        )

    @property
    def usual(self) -> bool:
        """Whether axes come in order, none runs backwards, and tokens come row by row."""
        tokens = isinstance(self.layout, Tokens) and self.layout.patches is not None
        return not tokens and not isinstance(self.layout, Axes | Placed)

    @cached_property
    def spread_in_cells(self) -> float:
        """The spread of what a place looks at, in cells; 0.29 for exactly one cell, evenly."""
        spread = self.spread[:, self.loud].median(1).values.tolist()
        return max((s * n for s, n in zip(spread, self.grid, strict=True) if n > 1), default=0)

    @property
    def local(self) -> bool:
        """Whether each place sees little more than its cell."""
        return self.spread_in_cells <= 0.75 and self.look.telling

    @property
    def clear(self) -> bool:
        """Whether each place sees little more than its cell, exactly where the layout claims."""
        return self.local and self.agreement >= _CLEAR

    @property
    def sharp(self) -> bool:
        """Whether each place sees its cell alone; an added mean draws all positions inwards."""
        return self.clear and self.spread_in_cells <= 0.4

    @cached_property
    def displaced(self) -> bool:
        """Whether some tokens clearly look at another cell than the layout claims."""
        if not self.row:
            return False
        if self.local and not (self.complete and self.usual) and self._astray():
            return True
        if self._silent_inside:
            return True
        if not self.clear and self.displaced_apart:
            return True
        return self._aligned.astray or self._aligned.shifted

    @cached_property
    def displaced_apart(self) -> bool:
        """Whether the claim is wrong of what tokens see apart from what all of them see."""
        if self.look.apart is None or not self.look.apart.telling:
            return False
        apart = Claim.of(self.layout, self.look.apart)
        if apart is None or apart.agreement < AGREES:
            return True
        elsewhere = apart.spread_in_cells <= _LITTLE and apart._astray()
        return elsewhere or apart._aligned.astray or apart._aligned.shifted

    @property
    def _silent_inside(self) -> bool:
        """Whether a token that hardly changes lies inside the input and does not look at its cell.

        A patch of padding changes as little, but it lies outside.
        """
        inside = ((self._middles > 0) & (self._middles < 1)).all(0)
        silent = ~self.loud & (self.numbers > 0) & inside
        return bool((self._away[:, silent] > ASTRAY).any())

    def _astray(self) -> bool:
        """Whether more than a few tokens look at another cell than theirs, along an axis."""
        return bool(((self._away[:, self.loud] > ASTRAY).double().mean(1) > FEW).any())

    @cached_property
    def _middles(self) -> Tensor:
        """The middle of each cell in the input, ``(A, *grid)``, from a line through positions."""
        lines = [
            low + (torch.arange(n, device=self.positions.device) + 0.5) / n * (high - low)
            for (low, high), n in zip(self.borders(), self.grid, strict=True)
        ]
        return torch.stack(torch.meshgrid(*lines, indexing="ij")).to(self.positions)

    @cached_property
    def _sizes(self) -> Tensor:
        """The size of a cell along each axis of the input, ``(A,)``."""
        pairs = zip(self.borders(), self.grid, strict=True)
        return self.positions.new_tensor([(high - low) / n for (low, high), n in pairs]).abs()

    @cached_property
    def _away(self) -> Tensor:
        """How far from its cell each place looks, in cells, ``(A, *grid)``; 0 along one cell."""
        away = (self.positions - self._middles).abs().flatten(1) / self._sizes[:, None]
        several = [[float(n > 1)] for n in self.grid]
        return (away * away.new_tensor(several)).nan_to_num(0.0).reshape(self.positions.shape)

    @cached_property
    def _aligned(self) -> Alignment:
        """The tokens in order, with their cells and where they look."""
        numbers = self.numbers.flatten()
        order = numbers.argsort()[int((numbers == 0).sum()) :]
        cells = torch.stack(torch.unravel_index(order, self.grid)).to(self.positions)
        positions = self.positions.where(self.loud, torch.nan).flatten(1)[:, order]
        return Alignment(cells, self._in_cells(positions))

    def _in_cells(self, positions: Tensor) -> Tensor:
        """`positions` ``(A, T)`` in the input, in cells of the grid."""
        lines = [line_through(*self._pair(axis)) for axis in range(len(self.grid))]
        start, step = torch.stack([torch.stack(line) for line in lines]).unbind(1)
        return (positions - start[:, None]) / step[:, None]

    def rivals(self, other: Claim) -> bool:
        """Whether `other` puts the places that both show at other distances from each other."""
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
        """Whether a token outside the grid is a patch.

        It is one if it looks at as little of the input as those in the grid, or if it comes next
        and looks at the cell that would come next.
        """
        shown = torch.zeros_like(self.look.loud).flatten()
        numbers = self.numbers[self.numbers > 0].long() - 1
        shown[numbers] = True
        others = self.look.loud.flatten() & ~shown
        if self.local:
            others |= self.look.faint.flatten() & ~shown
            spread = self.look.spread.flatten(1)
            most = 1.5 * spread[:, numbers].median(1, keepdim=True).values
            most = most.maximum(_LITTLE * self._sizes[:, None])
            return bool((others & (spread <= most).all(0)).any())
        cells = self._aligned.cells
        line = self.grid[int((cells[:, 1] - cells[:, 0]).abs().argmax())]
        places = self._in_cells(self.look.positions.flatten(1)).where(others, torch.inf)
        first, last = int(numbers.min()), int(numbers.max())
        return self._aligned.goes_on(places[:, :first], places[:, last + 1 :], line)

    @property
    def extent(self) -> float:
        """The share of the input that the grid covers."""
        return math.prod(abs(end - start) for start, end in self.borders())

    def borders(self) -> list[tuple[float, float]]:
        """Start and end of the grid along each axis of the input, from a line through positions."""
        borders = []
        for axis, length in enumerate(self.grid):
            claimed, measured = self._pair(axis)
            keep = torch.ones_like(measured, dtype=torch.bool)
            for _ in range(3):  # drop places whose view mirrors at a padded border
                x, y = claimed[keep], measured[keep]
                slope = (x - x.mean()) @ (y - y.mean()) / (x - x.mean()).square().sum().clamp(1e-9)
                start = y.mean() - slope * x.mean()
                away = (measured - start - slope * claimed).abs()
                keep = away <= 4 * away[keep].median() + 1e-6
            borders.append((float(start - slope / 2), float(start + slope * (length - 0.5))))
        return borders

    def _pair(self, axis: int) -> tuple[Tensor, Tensor]:
        """Claimed and measured positions along `axis` of the places that change."""
        numbers = torch.arange(self.grid[axis], device=self.positions.device).to(self.positions)
        shape = [-1 if a == axis else 1 for a in range(len(self.grid))]
        return numbers.reshape(shape).expand(self.grid)[self.loud], self.positions[axis][self.loud]

    def _correlation(self, axis: int) -> float:
        claimed, measured = self._pair(axis)
        if self.grid[axis] == 1:  # places spread evenly along the axis would deviate by 0.29
            return 1.0 if measured.std(correction=0) < 0.15 else 0.0
        few = len(measured) < 9 and measured.std(correction=0) < ALIKE  # by chance
        return 0.0 if few else _correlated(claimed, measured)


def _coarsens(fine: Grid, coarse: Grid) -> bool:
    """Whether `coarse` is `fine` divided by one number along all axes, rounded up or down."""
    return any(
        all(n // by <= m <= -(-n // by) for n, m in zip(fine, coarse, strict=True))
        for by in range(1, max(fine) + 1)
    )


def _correlated(one: Tensor, other: Tensor) -> float:
    one, other = one - one.mean(), other - other.mean()
    size = one.norm() * other.norm()
    return float(one @ other / size) if size > 0 else 0.0
