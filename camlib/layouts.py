"""Which axis of an activation is what: any activation -> ``(N, C, *grid)``.

The grid of a layer is a coarser copy of the input's: about the same stride along every axis. That
tells channels first from channels last without asking, in all but odd cases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from camlib.errors import LayoutError

Layout = Callable[[Tensor], Tensor]
"""Turns an activation, or its gradient, into ``(N, C, *grid)``."""


@dataclass(frozen=True)
class ChannelsFirst:
    """``(N, C, *grid)``, as convolutions have it."""

    def __call__(self, activation: Tensor) -> Tensor:
        """`activation` as it is."""
        return activation

    def grid(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The grid in `shape`."""
        return tuple(shape[2:])


@dataclass(frozen=True)
class ChannelsLast:
    """``(N, *grid, C)``, as Swin transformers have it."""

    def __call__(self, activation: Tensor) -> Tensor:
        """`activation` with its last axis moved behind the first."""
        return activation.movedim(-1, 1)

    def grid(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The grid in `shape`."""
        return tuple(shape[1:-1])


_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm)


def recognize(
    shape: Sequence[int], size: Sequence[int], modules: Iterable[nn.Module] = ()
) -> ChannelsFirst | ChannelsLast:
    """The layout of an activation of `shape` for an input of spatial `size`.

    Args:
        shape: of the activation.
        size: of the input, without samples and channels.
        modules: those of the model up to the layer, asked from the last where the shape alone fits
            both: a convolution or a batch norm says channels first, a linear layer or a layer norm
            channels last.

    Raises:
        LayoutError: no reading fits, or two.
    """
    readings: list[ChannelsFirst | ChannelsLast]
    readings = [ChannelsFirst(), ChannelsLast()] if len(shape) == len(size) + 2 else []
    for fits in (_proportional, _even, _within):
        fitting = [reading for reading in readings if fits(reading.grid(shape), size)]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            break
    if len(readings) == 2:
        for module in reversed(list(modules)):
            if isinstance(module, _CHANNELS_FIRST):
                return ChannelsFirst()
            if isinstance(module, _CHANNELS_LAST):
                return ChannelsLast()
        raise LayoutError(
            f"an activation of shape {tuple(shape)} for an input of size {tuple(size)} can be read "
            "as channels first or as channels last; pass layout=camlib.layouts.ChannelsFirst() or "
            "layout=camlib.layouts.ChannelsLast()"
        )
    raise LayoutError(
        f"an activation of shape {tuple(shape)} has no grid for an input of size {tuple(size)}; "
        "choose a layer before pooling or flattening, or pass layout=, a function from the "
        "activation to (N, C, *grid)"
    )


def _proportional(grid: Sequence[int], size: Sequence[int]) -> bool:
    return all(g * size[0] == s * grid[0] for g, s in zip(grid, size, strict=True))


def _even(grid: Sequence[int], size: Sequence[int]) -> bool:
    """Whether one stride explains `grid` along every axis, give or take a border."""
    border = 1.5
    least = max(s / (g + border) for s, g in zip(size, grid, strict=True))
    most = min(s / max(g - border, 1e-9) for s, g in zip(size, grid, strict=True))
    return least <= most


def _within(grid: Sequence[int], size: Sequence[int]) -> bool:
    return all(g <= s for s, g in zip(size, grid, strict=True))
