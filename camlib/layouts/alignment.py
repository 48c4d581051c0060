"""Check that each token of a row looks at its cell: a token too many or too few moves the rest.

A correlation over all tokens hardly changes if a few of them are one cell off. Here each token is
compared with its own cell, and with the next one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ASTRAY = 0.75
"""A token that looks further away from its cell than this, in cells, looks at another one."""

JUST = 0.05
"""Positions are exact if half of the tokens look closer to their cells than this, in cells."""

CLEAR = 0.3
"""Positions are clear if half of the tokens look closer to their cells than this, in cells."""

FEW = 0.03
"""The share of tokens that may look at another cell, by chance or at a border."""

GAIN = 0.5
"""A shift by one cell explains more if it lowers the sum of the costs of its tokens by this."""

LOSS = 0.2
"""A shift by one cell is excluded for a token if it raises its cost by this."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """Tokens in their order, the cells that a layout claims for them, and where they look.

    Attributes:
        cells: the claimed cells, ``(A, T)``.
        places: the measured positions, in cells of the grid, ``(A, T)``; NaN for a token that does
            not change with the input.
    """

    cells: Tensor
    places: Tensor

    @property
    def away(self) -> Tensor:
        """How far from its cell each token looks, along each axis, ``(A, T)``."""
        return (self.places - self.cells).abs()

    @property
    def clear(self) -> bool:
        """Whether most tokens look near their cells."""
        away = self.away
        return bool(away[away.isfinite()].median() <= CLEAR)

    @property
    def astray(self) -> bool:
        """Whether more than a few tokens look at another cell, if most look exactly at theirs."""
        away = self.away
        away = away[:, away.isfinite().all(0)]
        long = (self.cells != self.cells[:, :1]).any(1)
        if not away.numel() or not long.any():
            return False
        many = (away > ASTRAY).double().mean(1) > FEW
        return bool((many & (away.median(1).values < JUST) & long).any())

    @property
    def shifted(self) -> bool:
        """Whether the tokens next to one that is not a patch look at the neighbour of their cell.

        This happens between a token that the layout takes for a patch and a patch that it misses.
        Next to a token that does not change with the input, each must look at its own cell clearly.
        """
        odd = (~(self.away <= ASTRAY)).any(0)
        silent = self.places.isnan().any(0)
        if not self.clear:
            return bool(silent.any())
        for towards in (1, -1):  # the next token, or the one before
            beside = self.cells.roll(-towards, 1)
            gain = _cost(self.places - self.cells) - _cost(self.places - beside)
            gain[-max(towards, 0)] = -1  # this token has no neighbour
            if (gain[silent.roll(-towards)] > -LOSS).any():
                return True
            gain = gain.nan_to_num(0.0)
            gains, ends = (gain, odd) if towards > 0 else (gain.flip(0), odd.flip(0))
            total = torch.cat([gains.new_zeros(1), gains.cumsum(0)])[:-1]
            runs = total - total.cummin(0).values  # the best run that ends before each token
            if (runs[ends] > GAIN).any():
                return True
        return False

    def goes_on(self, before: Tensor, behind: Tensor, line: int) -> bool:
        """Whether the tokens before or after the grid continue it.

        Args:
            before: where the tokens before the grid look, in cells, ``(A, B)``.
            behind: where the tokens after it look.
            line: the number of tokens in a line of the grid.
        """
        if self.cells.shape[1] <= line or not self.clear:
            return False
        step = (self.cells[:, line] - self.cells[:, 0])[:, None]
        before, behind = before[:, -line:], behind[:, :line]
        first = (self.cells[:, :line] - step)[:, line - before.shape[1] :]
        last = (self.cells[:, -line:] + step)[:, : behind.shape[1]]
        return any(
            bool(((places - cells).abs() < ASTRAY).all(0).double().mean() > 0.5)
            for places, cells in ((before, first), (behind, last))
        )


def _cost(away: Tensor) -> Tensor:
    """The squared distance of each token from a cell, ``(T,)``; at most 1, as that of any other."""
    return away.square().sum(0).clamp(max=1)


def line_through(claimed: Tensor, measured: Tensor) -> tuple[Tensor, Tensor]:
    """The position of cell 0 and the distance between cells, by medians over places ``(T,)``.

    The distance is infinite if there is only one cell.
    """
    numbers = torch.unique(claimed)
    if len(numbers) < 2:
        return measured.median(), measured.new_tensor(torch.inf)
    middles = torch.stack([measured[claimed == number].median() for number in numbers])
    runs = numbers[:, None] - numbers
    slope = ((middles[:, None] - middles) / runs)[runs > 0].median()
    return (measured - slope * claimed).median(), slope
