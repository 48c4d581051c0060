"""Whether each token of a row looks at its cell: one token too many or too few moves the rest.

A correlation over all tokens hardly sees that a few of them are one cell off. Here each token is
compared with its own cell, and with the cell beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ASTRAY = 0.75
"""A token that looks further beside its cell looks at another one."""

JUST = 0.05
"""Positions are exact if half of the tokens look less than so many cells beside theirs."""

CLEAR = 0.3
"""Positions are clear if half of the tokens look less than so many cells beside theirs."""

FEW = 0.03
"""The share of tokens that may look at another cell, by chance or at a border."""

GAIN = 0.5
"""A shift by one cell explains more if the costs of its tokens sum to so much less."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """Tokens in their order, the cells they are claimed to look at, and where they look.

    Attributes:
        cells: that are claimed, ``(A, T)``.
        places: that were measured, in cells of the grid, ``(A, T)``; NaN of a token that does not
            change with the input.
    """

    cells: Tensor
    places: Tensor

    @property
    def away(self) -> Tensor:
        """How many cells beside its own each token looks, along each axis, ``(A, T)``."""
        return (self.places - self.cells).abs()

    @property
    def clear(self) -> bool:
        """Whether most tokens look near to their cells."""
        away = self.away
        return bool(away[away.isfinite()].median() <= CLEAR)

    @property
    def astray(self) -> bool:
        """Whether more than a few tokens look at another cell, where most look just at theirs."""
        away = self.away
        away = away[:, away.isfinite().all(0)]
        long = (self.cells != self.cells[:, :1]).any(1)
        if not away.numel() or not long.any():
            return False
        many = (away > ASTRAY).double().mean(1) > FEW
        return bool((many & (away.median(1).values < JUST) & long).any())

    @property
    def shifted(self) -> bool:
        """Whether the tokens beside one that is no patch look at the cell next to theirs.

        So they do from a token that stands where a patch is claimed to one that is missing.
        """
        if not self.clear:
            return False
        odd = (~(self.away <= ASTRAY)).any(0)
        for towards in (1, -1):  # the next token, or the one before
            beside = self.cells.roll(-towards, 1)
            gain = (_cost(self.places - self.cells) - _cost(self.places - beside)).nan_to_num(0.0)
            gain[-max(towards, 0)] = 0  # has no neighbour
            gains, ends = (gain, odd) if towards > 0 else (gain.flip(0), odd.flip(0))
            total = torch.cat([gains.new_zeros(1), gains.cumsum(0)])[:-1]
            runs = total - total.cummin(0).values  # the best that ends before each token
            if (runs[ends] > GAIN).any():
                return True
        return False

    def goes_on(self, before: Tensor, behind: Tensor, line: int) -> bool:
        """Whether the grid goes on with the tokens that stand before or behind.

        Args:
            before: where the tokens before look, in cells, ``(A, B)``.
            behind: where those behind look.
            line: how many tokens a line of the grid has.
        """
        if self.cells.shape[1] <= line or not self.clear:
            return False
        step = (self.cells[:, line] - self.cells[:, 0])[:, None]
        before, behind = before[:, -line:], behind[:, :line]
        first = (self.cells[:, :line] - step)[:, line - before.shape[1] :]
        last = (self.cells[:, -line:] + step)[:, : behind.shape[1]]
        return any(
            bool(((found - cells).abs() < ASTRAY).all(0).double().mean() > 0.5)
            for found, cells in ((before, first), (behind, last))
        )


def _cost(away: Tensor) -> Tensor:
    """The squared distance of each token from a cell, ``(T,)``; at most 1, as that of any other."""
    return away.square().sum(0).clamp(max=1)


def line_through(claimed: Tensor, measured: Tensor) -> tuple[Tensor, Tensor]:
    """Where cell 0 lies and how far apart cells are, for most of the places ``(T,)``: of medians.

    The distance is infinite where there is one cell.
    """
    numbers = torch.unique(claimed)
    if len(numbers) < 2:
        return measured.median(), measured.new_tensor(torch.inf)
    middles = torch.stack([measured[claimed == number].median() for number in numbers])
    runs = numbers[:, None] - numbers
    slope = ((middles[:, None] - middles) / runs)[runs > 0].median()
    return (measured - slope * claimed).median(), slope
