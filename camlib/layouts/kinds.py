"""The layouts: images with channels first or last, axes in any order, tokens, series, frames.

`camlib.layouts.recognition` finds out which of them a layer has.
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
    """``(N, C, *grid)``, as in convolutional networks."""

    def __call__(self, activation: Tensor) -> Tensor:
        """`activation`, unchanged."""
        return activation

    def grid_of(self, shape: Shape) -> tuple[int, ...]:
        """The grid in an activation of `shape`."""
        return tuple(shape[2:])

    def put_back(self, arranged: Tensor, activation: Tensor) -> Tensor:
        """`arranged`, in the dtype of `activation`."""
        return arranged.to(activation.dtype)


@dataclass(frozen=True)
class ChannelsLast(Layout):
    """``(N, *grid, C)``, as in Swin transformers."""

    def __call__(self, activation: Tensor) -> Tensor:
        """`activation` with its last axis moved after the first."""
        return activation.movedim(-1, 1)

    def grid_of(self, shape: Shape) -> tuple[int, ...]:
        """The grid in an activation of `shape`."""
        return tuple(shape[1:-1])

    def put_back(self, arranged: Tensor, activation: Tensor) -> Tensor:
        """`arranged` with its channels moved to the end, in the dtype of `activation`."""
        return arranged.movedim(1, -1).to(activation.dtype).contiguous()


@dataclass(frozen=True)
class Axes(Layout):
    """Samples, channels and the axes of the grid in any order.

    Attributes:
        order: the activation's axes for samples, channels and each axis of the grid:
            ``(0, 1, 3, 2)`` if columns come before rows.
        flipped: the axes of the grid, counted from 0, along which the activation runs backwards.
    """

    order: tuple[int, ...]
    flipped: tuple[int, ...] = ()

    @property
    def samples_axis(self) -> int:
        """The axis of samples in the activation."""
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
        """`arranged` with its axes in the order of `activation`."""
        turned = arranged.flip([2 + axis for axis in self.flipped])
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        return turned.permute(back).to(activation.dtype).contiguous()


class _Sequence(Layout):
    """Tokens ``(N, T, C)`` or ``(T, N, C)``, some of which are positions of the grid."""

    batch_first: bool

    @property
    def samples_axis(self) -> int:
        """The axis of samples in the activation."""
        return 0 if self.batch_first else 1

    def _rows(self, activation: Tensor) -> Tensor:
        """`activation` as ``(N, C, T)``."""
        tokens = activation if self.batch_first else activation.movedim(1, 0)
        return tokens.movedim(-1, 1)

    def _length(self, shape: Shape) -> int:
        """The number of tokens in an activation of `shape`; -1 if it does not have three axes."""
        return shape[1 if self.batch_first else 0] if len(shape) == 3 else -1

    def _misfit(self, shape: Shape, expected: str) -> LayoutError:
        axes = "(N, T, C)" if self.batch_first else "(T, N, C)"
        return LayoutError(
            f"{self!r} does not fit an activation of shape {tuple(shape)}; expected {axes} with "
            f"{expected}"
        )


@dataclass(frozen=True)
class Tokens(_Sequence):
    """``(N, T, C)``, as in vision transformers: one token for each patch, row by row.

    Attributes:
        prefix: the number of other tokens before the patches: class, distillation, registers.
        grid: the number of patches along each axis, ``(rows, columns)`` or
            ``(frames, rows, columns)``; ``None`` for a square.
        suffix: the number of other tokens after the patches.
        batch_first: ``True`` for ``(N, T, C)``, ``False`` for ``(T, N, C)``.
        patches: the indices of the tokens that are patches, row by row, if other tokens lie
            between them; replaces `prefix` and `suffix`.
    """

    prefix: Natural = 0
    grid: tuple[Count, ...] | None = None
    suffix: Natural = 0
    batch_first: bool = True
    patches: Annotated[tuple[int, ...], Filled()] | None = None

    def __call__(self, activation: Tensor) -> Tensor:
        """The patches of `activation` on their grid, without the other tokens."""
        grid = self.grid_of(activation.shape)
        rows = self._rows(activation)
        if self.patches is None:
            patches = rows[..., self.prefix : rows.shape[2] - self.suffix]
        else:
            patches = rows[..., torch.tensor(self.patches, device=rows.device)]
        return patches.reshape(*rows.shape[:2], *grid)

    def grid_of(self, shape: Shape) -> tuple[int, ...]:
        """The grid in an activation of `shape`.

        Raises:
            LayoutError: `shape` does not hold tokens, or holds another number of them.
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
            raise self._misfit(shape, f"{tokens}, and a grid with one cell for each patch")
        return grid


@dataclass(frozen=True)
class Series(_Sequence):
    """``(N, T, C)`` of a series: each token is a step, and the steps are the grid.

    Attributes:
        prefix: the number of other tokens before the first step.
        batch_first: ``True`` for ``(N, T, C)``, ``False`` for ``(T, N, C)``.
        suffix: the number of other tokens after the last step.
    """

    prefix: Natural = 0
    batch_first: bool = True
    suffix: Natural = 0

    def __call__(self, activation: Tensor) -> Tensor:
        """The steps of `activation`, ``(N, C, steps)``."""
        [steps] = self.grid_of(activation.shape)
        return self._rows(activation)[..., self.prefix : self.prefix + steps]

    def grid_of(self, shape: Shape) -> tuple[int, ...]:
        """The grid in an activation of `shape`: the number of its steps."""
        steps = self._length(shape) - self.prefix - self.suffix
        if steps < 1:
            raise self._misfit(shape, "T = prefix + steps + suffix")
        return (steps,)


@dataclass(frozen=True)
class Placed(_Sequence):
    """``(N, T, C)`` with tokens that are not row by row: shuffled, in windows or partly dropped.

    Attributes:
        tokens: the index of the token in each cell of the grid, row by row; -1 for a cell without
            a token, which reads as zero.
        grid: the number of cells along each axis.
        batch_first: ``True`` for ``(N, T, C)``, ``False`` for ``(T, N, C)``.
    """

    tokens: Annotated[tuple[int, ...], Filled()]
    grid: tuple[int, ...]
    batch_first: bool = True

    def __call__(self, activation: Tensor) -> Tensor:
        """Each token of `activation` in its cell of the grid."""
        grid = self.grid_of(activation.shape)
        rows = self._rows(activation)
        chosen = torch.tensor(self.tokens, device=rows.device)
        cells = rows[..., chosen.clamp(min=0)].where(chosen >= 0, 0)
        return cells.reshape(*rows.shape[:2], *grid)

    def grid_of(self, shape: Shape) -> tuple[int, ...]:
        """The grid in an activation of `shape`."""
        if max(self.tokens) >= self._length(shape) or len(self.tokens) != math.prod(self.grid):
            raise self._misfit(shape, "these tokens, and a grid with one cell for each")
        return tuple(self.grid)


@dataclass(frozen=True)
class Frames(Layout):
    """Frames or views folded into the axis of samples, ``(N * frames, ...)``.

    Attributes:
        frames: the number of frames of a sample, which follow each other; the grid's first axis.
        layout: the layout of a frame.
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
        """`arranged` with its frames folded into the axis of samples."""
        return self.layout.put_back(arranged.movedim(1, 2).flatten(0, 1), activation)
