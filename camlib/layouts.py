"""Which axis of an activation is what: any activation -> ``(N, C, *grid)``.

Which of these layouts a layer has is recognised from shapes; any function will do instead.
"""

from __future__ import annotations

import math
from collections import abc
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from camlib.errors import LayoutError

Layout = Callable[[Tensor], Tensor]
"""Turns an activation, or its gradient, into ``(N, C, *grid)``."""

Shape = abc.Sequence[int]


@dataclass(frozen=True)
class ChannelsFirst:
    """``(N, C, *grid)``, as convolutions have it."""

    def __call__(self, activation: Tensor) -> Tensor:
        """`activation` as it is."""
        return activation

    def grid_of(self, shape: Shape) -> tuple[int, ...]:
        """The grid in an activation of `shape`."""
        return tuple(shape[2:])


@dataclass(frozen=True)
class ChannelsLast:
    """``(N, *grid, C)``, as Swin transformers have it."""

    def __call__(self, activation: Tensor) -> Tensor:
        """`activation` with its last axis moved behind the first."""
        return activation.movedim(-1, 1)

    def grid_of(self, shape: Shape) -> tuple[int, ...]:
        """The grid in an activation of `shape`."""
        return tuple(shape[1:-1])


@dataclass(frozen=True)
class Tokens:
    """``(N, T, C)``, as vision transformers have it: a token for each patch, row by row.

    Attributes:
        prefix: how many tokens before the patches are none: class, distillation, registers.
        grid: the patches along each axis, ``(rows, columns)`` or ``(frames, rows, columns)``;
            ``None`` for a square.
        suffix: how many tokens after the patches are none.
        batch_first: whether it is ``(N, T, C)`` or ``(T, N, C)``.
    """

    prefix: int = 0
    grid: tuple[int, ...] | None = None
    suffix: int = 0
    batch_first: bool = True

    def __call__(self, activation: Tensor) -> Tensor:
        """The patches of `activation` on their grid; the other tokens are left out."""
        grid = self.grid_of(activation.shape)
        tokens = activation if self.batch_first else activation.movedim(1, 0)
        patches = tokens[:, self.prefix : tokens.shape[1] - self.suffix]
        return patches.movedim(-1, 1).reshape(len(tokens), -1, *grid)

    def grid_of(self, shape: Shape) -> tuple[int, ...]:
        """The grid in an activation of `shape`.

        Raises:
            LayoutError: `shape` is not that of tokens, or of another number of them.
        """
        patches = -1
        if len(shape) == 3:
            patches = shape[1 if self.batch_first else 0] - self.prefix - self.suffix
        side = math.isqrt(max(patches, 0))
        grid = (side, side) if self.grid is None else tuple(self.grid)
        if patches < 1 or math.prod(grid) != patches:
            raise LayoutError(
                f"{self!r} does not fit an activation of shape {tuple(shape)}; expected "
                f"{'(N, T, C)' if self.batch_first else '(T, N, C)'} with T = prefix + patches + "
                "suffix, and a grid of as many patches"
            )
        return grid


@dataclass(frozen=True)
class Sequence:
    """``(N, T, C)`` of a series: the tokens in a row are the grid.

    Attributes:
        prefix: how many tokens before the first step of the series are none.
        batch_first: whether it is ``(N, T, C)`` or ``(T, N, C)``.
    """

    prefix: int = 0
    batch_first: bool = True

    def __call__(self, activation: Tensor) -> Tensor:
        """`activation` as ``(N, C, T - prefix)``."""
        return self._tokens(activation.shape)(activation)

    def grid_of(self, shape: Shape) -> tuple[int, ...]:
        """The grid in an activation of `shape`."""
        return self._tokens(shape).grid_of(shape)

    def _tokens(self, shape: Shape) -> Tokens:
        length = shape[1 if self.batch_first else 0] - self.prefix
        return Tokens(self.prefix, (length,), batch_first=self.batch_first)


Known = ChannelsFirst | ChannelsLast | Tokens | Sequence
"""A layout whose grid is known from the shape."""


def put_back(layout: Layout, arranged: Tensor, activation: Tensor) -> Tensor:
    """`activation` with what `layout` arranged from it changed to `arranged` ``(N, C, *grid)``.

    What the map does not show, such as a class token, stays.

    Raises:
        LayoutError: `layout` makes new values, so there is no way back.
    """
    arranged = arranged.to(activation.dtype)
    if isinstance(layout, ChannelsFirst):
        return arranged
    if isinstance(layout, ChannelsLast):
        return arranged.movedim(1, -1).contiguous()
    flat = activation.flatten()
    numbers = torch.arange(len(flat), device=flat.device, dtype=torch.float64)
    places = layout(numbers.reshape(activation.shape)).long().remainder(len(flat))
    if not isinstance(layout, Known) and not torch.equal(layout(activation), flat[places]):
        raise LayoutError(
            f"the layout {layout!r} makes new values of an activation; expected one that only "
            "moves them, so that changed ones can be put back"
        )
    return flat.index_copy(0, places.flatten(), arranged.flatten()).reshape(activation.shape)


def samples_axis(layout: Layout) -> int:
    """Where an activation of `layout` has its samples."""
    return 0 if getattr(layout, "batch_first", True) else 1


_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm)


def said_by(module: nn.Module | None) -> ChannelsFirst | ChannelsLast | None:
    """The layout that `module` is known to have."""
    if isinstance(module, _CHANNELS_FIRST):
        return ChannelsFirst()
    # Not of subclasses: those of LayerNorm are often made for channels first.
    return ChannelsLast() if type(module) in _CHANNELS_LAST else None
