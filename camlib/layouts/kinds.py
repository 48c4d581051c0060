"""How an activation is read: which of its axes is what, and which places make the grid.

`recognition` finds the layout of a layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from camlib.errors import LayoutError
from camlib.layouts.base import Layout, Shape
from camlib.options import Count, Filled, Natural


@dataclass(frozen=True)
class ChannelsFirst(Layout):
    """``(N, C, *grid)``, as convolutions have it."""

    def __call__(self, activation: Tensor) -> Tensor:
        """`activation` as it is."""
        return activation

    def grid_of(self, shape: Shape) -> tuple[int, ...]:
        """The grid in an activation of `shape`."""
        return tuple(shape[2:])

    def put_back(self, arranged: Tensor, activation: Tensor) -> Tensor:
        """`arranged`, in the dtype of `activation`."""
        return arranged.to(activation.dtype)


@dataclass(frozen=True)
class ChannelsLast(Layout):
    """``(N, *grid, C)``, as Swin transformers have it."""

    def __call__(self, activation: Tensor) -> Tensor:
        """`activation` with its last axis moved behind the first."""
        return activation.movedim(-1, 1)

    def grid_of(self, shape: Shape) -> tuple[int, ...]:
        """The grid in an activation of `shape`."""
        return tuple(shape[1:-1])

    def put_back(self, arranged: Tensor, activation: Tensor) -> Tensor:
        """`arranged` with its channels moved to the end, in the dtype of `activation`."""
        return arranged.movedim(1, -1).to(activation.dtype).contiguous()


@dataclass(frozen=True)
class Axes(Layout):
    """An axis for the samples, one for the channels and one for each axis of the input's grid.

    Attributes:
        order: the axes of the activation that hold samples, channels and the axes of the grid:
            ``(0, 1, 3, 2)`` where columns come before rows.
        flipped: the axes of the grid, counted from 0, along which the activation runs backwards.
    """

    order: tuple[int, ...]
    flipped: tuple[int, ...] = ()

    @property
    def samples_axis(self) -> int:
        """Which axis of the activation has the samples."""
        return self.order[0]

    def __call__(self, activation: Tensor) -> Tensor:
        """`activation` with its axes in order."""
        self.grid_of(activation.shape)
        return activation.permute(self.order).flip([2 + axis for axis in self.flipped])

    def grid_of(self, shape: Shape) -> tuple[int, ...]:
        """The grid in an activation of `shape`."""
        if len(shape) != len(self.order):
            raise LayoutError(
                f"{self!r} does not fit an activation of shape {tuple(shape)}; expected "
                f"{len(self.order)} axes"
            )
        return tuple(shape[axis] for axis in self.order[2:])

    def put_back(self, arranged: Tensor, activation: Tensor) -> Tensor:
        """`arranged` with its axes where `activation` has them."""
        turned = arranged.flip([2 + axis for axis in self.flipped])
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        return turned.permute(back).to(activation.dtype).contiguous()


class _Sequence(Layout):
    """Tokens ``(N, T, C)``, or ``(T, N, C)``; some of them are the places of the grid."""

    batch_first: bool

    @property
    def samples_axis(self) -> int:
        """Which axis of the activation has the samples."""
        return 0 if self.batch_first else 1

    def _rows(self, activation: Tensor) -> Tensor:
        """`activation` as ``(N, C, T)``."""
        tokens = activation if self.batch_first else activation.movedim(1, 0)
        return tokens.movedim(-1, 1)

    def _length(self, shape: Shape) -> int:
        """How many tokens an activation of `shape` has; -1 where it is none of tokens."""
        return shape[1 if self.batch_first else 0] if len(shape) == 3 else -1

    def _misfit(self, shape: Shape, expected: str) -> LayoutError:
        axes = "(N, T, C)" if self.batch_first else "(T, N, C)"
        return LayoutError(
            f"{self!r} does not fit an activation of shape {tuple(shape)}; expected {axes} with "
            f"{expected}"
        )


@dataclass(frozen=True)
class Tokens(_Sequence):
    """``(N, T, C)``, as vision transformers have it: a token for each patch, row by row.

    Attributes:
        prefix: how many tokens before the patches are none: class, distillation, registers.
        grid: the patches along each axis, ``(rows, columns)`` or ``(frames, rows, columns)``;
            ``None`` for a square.
        suffix: how many tokens after the patches are none.
        batch_first: whether it is ``(N, T, C)`` or ``(T, N, C)``.
        patches: the numbers of the tokens that are patches, row by row, where others stand between
            them; `prefix` and `suffix` do not count then.
    """

    prefix: Natural = 0
    grid: tuple[Count, ...] | None = None
    suffix: Natural = 0
    batch_first: bool = True
    patches: Annotated[tuple[int, ...], Filled()] | None = None

    def __call__(self, activation: Tensor) -> Tensor:
        """The patches of `activation` on their grid; the other tokens are left out."""
        grid = self.grid_of(activation.shape)
        rows = self._rows(activation)
        if self.patches is None:
            found = rows[..., self.prefix : rows.shape[2] - self.suffix]
        else:
            found = rows[..., torch.tensor(self.patches, device=rows.device)]
        return found.reshape(*rows.shape[:2], *grid)

    def grid_of(self, shape: Shape) -> tuple[int, ...]:
        """The grid in an activation of `shape`.

        Raises:
            LayoutError: `shape` is not that of tokens, or of another number of them.
        """
        length = self._length(shape)
        if self.patches is None:
            count = length - self.prefix - self.suffix
        else:
            count = len(self.patches) if max(self.patches) < length else -1
        side = math.isqrt(max(count, 0))
        grid = (side, side) if self.grid is None else tuple(self.grid)
        if count < 1 or math.prod(grid) != count:
            tokens = "T = prefix + patches + suffix" if self.patches is None else "these patches"
            raise self._misfit(shape, f"{tokens}, and a grid of as many patches")
        return grid


@dataclass(frozen=True)
class Series(_Sequence):
    """``(N, T, C)`` of a series: the tokens in a row are the grid.

    Attributes:
        prefix: how many tokens before the first step of the series are none.
        batch_first: whether it is ``(N, T, C)`` or ``(T, N, C)``.
        suffix: how many tokens after the last step are none.
    """

    prefix: Natural = 0
    batch_first: bool = True
    suffix: Natural = 0

    def __call__(self, activation: Tensor) -> Tensor:
        """The steps of `activation`, ``(N, C, steps)``."""
        [steps] = self.grid_of(activation.shape)
        return self._rows(activation)[..., self.prefix : self.prefix + steps]

    def grid_of(self, shape: Shape) -> tuple[int, ...]:
        """The grid in an activation of `shape`: its number of steps."""
        steps = self._length(shape) - self.prefix - self.suffix
        if steps < 1:
            raise self._misfit(shape, "T = prefix + steps + suffix")
        return (steps,)


@dataclass(frozen=True)
class Placed(_Sequence):
    """``(N, T, C)`` whose tokens lie in no order of rows: shuffled, in windows, some dropped.

    Attributes:
        tokens: the number of the token at each cell of the grid, row by row; -1 where there is
            none, which reads as zero.
        grid: the cells along each axis.
        batch_first: whether it is ``(N, T, C)`` or ``(T, N, C)``.
    """

    tokens: Annotated[tuple[int, ...], Filled()]
    grid: tuple[int, ...]
    batch_first: bool = True

    def __call__(self, activation: Tensor) -> Tensor:
        """Each token of `activation` at its cell of the grid."""
        grid = self.grid_of(activation.shape)
        rows = self._rows(activation)
        chosen = torch.tensor(self.tokens, device=rows.device)
        found = rows[..., chosen.clamp(min=0)].where(chosen >= 0, 0)
        return found.reshape(*rows.shape[:2], *grid)

    def grid_of(self, shape: Shape) -> tuple[int, ...]:
        """The grid in an activation of `shape`."""
        if max(self.tokens) >= self._length(shape) or len(self.tokens) != math.prod(self.grid):
            raise self._misfit(shape, "these tokens, and a grid of as many cells")
        return tuple(self.grid)


@dataclass(frozen=True)
class Frames(Layout):
    """Frames or views that stand in the axis of the samples, ``(N * frames, ...)``.

    Attributes:
        frames: how many of a sample stand side by side; the first axis of the grid.
        layout: of each of them.
    """

    frames: Count
    layout: Layout = ChannelsFirst()

    def __call__(self, activation: Tensor) -> Tensor:
        """`activation` as ``(N, C, frames, *grid)``."""
        self.grid_of(activation.shape)
        frames = self.layout(activation)
        return frames.reshape(-1, self.frames, *frames.shape[1:]).movedim(2, 1)

    def grid_of(self, shape: Shape) -> tuple[int, ...]:
        """The grid in an activation of `shape`."""
        if shape[self.layout.samples_axis] % self.frames:
            raise LayoutError(
                f"{self!r} does not fit an activation of shape {tuple(shape)}; expected a multiple "
                f"of {self.frames} frames"
            )
        return (self.frames, *self.layout.grid_of(shape))

    def put_back(self, arranged: Tensor, activation: Tensor) -> Tensor:
        """`arranged` with its frames in the axis of the samples."""
        return self.layout.put_back(arranged.movedim(1, 2).flatten(0, 1), activation)
