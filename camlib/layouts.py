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
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
)
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm)


def recognize(
    shape: Sequence[int],
    size: Sequence[int],
    module: nn.Module | None = None,
    neighbours: Callable[[], Iterable[nn.Module]] = tuple,
) -> ChannelsFirst | ChannelsLast:
    """The layout of an activation of `shape` for an input of spatial `size`.

    Args:
        shape: of the activation.
        size: of the input, without samples and channels.
        module: whose output it is. That of a convolution or a batch norm has channels first.
        neighbours: the modules that ran before and after on the same axes, asked where the shape
            fits both: a convolution, norm or pooling over channels says first, a linear layer or a
            layer norm last.

    Raises:
        LayoutError: no reading fits, or two.
    """
    if len(shape) != len(size) + 2:
        raise LayoutError(
            f"an activation of shape {tuple(shape)} has no grid for an input of size "
            f"{tuple(size)}; choose a layer before pooling or flattening, or pass layout=, a "
            "function from the activation to (N, C, *grid)"
        )
    own = said_by(module)
    if own == ChannelsFirst():
        return ChannelsFirst()
    for fits in (_proportional, _even, _within):
        fitting = [layout for layout in _LAYOUTS if fits(layout.grid(shape), size)]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            break
    said = [own] if own else [layout for each in neighbours() if (layout := said_by(each))]
    if said and ChannelsLast() not in said:
        return ChannelsFirst()
    # One linear layer proves little: axes are often moved before and after it, unseen.
    if (own or len(said) > 1) and ChannelsFirst() not in said:
        return ChannelsLast()
    raise LayoutError(
        f"an activation of shape {tuple(shape)} for an input of size {tuple(size)} can be read "
        "as channels first or as channels last; pass layout=camlib.layouts.ChannelsFirst() or "
        "layout=camlib.layouts.ChannelsLast()"
    )


_LAYOUTS: tuple[ChannelsFirst | ChannelsLast, ...] = (ChannelsFirst(), ChannelsLast())


def said_by(module: nn.Module | None) -> ChannelsFirst | ChannelsLast | None:
    """The layout that `module` is known to have."""
    if isinstance(module, _CHANNELS_FIRST):
        return ChannelsFirst()
    # Not of subclasses: those of LayerNorm are often made for channels first.
    return ChannelsLast() if type(module) in _CHANNELS_LAST else None


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
