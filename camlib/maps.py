"""Arithmetic on maps: resize, normalise, fuse.

A map is a tensor ``(N, K, *grid)``: sample, class, position. Maps are resized before they are
normalised: bilinear interpolation does not reach the extreme values of its nodes, so a map that is
normalised first does not fill [0, 1]. Maps of several layers are brought to one scale before both,
at their own grids, as the authors of such methods do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Normalize = bool | Literal["minmax", "max", "centered"]
"""How a map is scaled: ``True`` or ``"minmax"`` to [0, 1]; ``"max"`` by its peak; ``"centered"`` to
[0, 1] with 0.5 for "no evidence"; ``False`` leaves it unscaled."""

Fuse = (
    Literal["mean", "max", "product", "geometric", "log_exp", "exp_mean", "scaled_max", "sum"]
    | None
)
"""How the maps of several layers become one; ``None`` keeps them separate."""

Window = tuple[tuple[float, float], ...]
"""The part of the input that a grid covers: its start and end along each axis, as shares of the
input. They lie below 0 or above 1 where the input is padded. Empty for the whole input."""

_MANY = 4
"""Whole rows are interpolated at once for at least this many maps, enlarged this many times."""

_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}


def positions(tensor: Tensor) -> tuple[int, ...]:
    """The dimensions after sample and channel: those of the grid."""
    return tuple(range(2, tensor.ndim))


def precise(tensor: Tensor) -> Tensor:
    """`tensor` in float32 or better: half precision is too coarse for sums over a layer."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def weighted_sum(weights: Tensor, activation: Tensor) -> Tensor:
    """``sum_k w_k A_k``, ``(N, *grid)``, of weights that broadcast to ``(N, C, *grid)``."""
    if weights.shape == (*activation.shape[:2], *[1] * (activation.ndim - 2)):
        if len(activation) > 1 and activation.stride(0) == 0:  # one, shared by many classes
            return torch.einsum("nc,c...->n...", weights.flatten(1), activation[0])
        return torch.einsum("nc,nc...->n...", weights.flatten(1), activation)
    return (weights * activation).sum(1)


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """`maps` ``(N, K, *grid)`` interpolated linearly to ``(N, K, *size)``, corners not aligned."""
    size = tuple(size)
    return maps if maps.shape[2:] == size else _interpolated(maps, size)


def place(maps: Tensor, size: Sequence[int], window: Window) -> Tensor:
    """`maps` ``(N, K, *grid)``, interpolated to the part of the input that their grid covers.

    The result is ``(N, K, *size)``, interpolated linearly like `resize`, and zero outside the grid.

    Args:
        maps: maps on a grid.
        size: the size of the input.
        window: the part of the input that the grid covers; empty for the whole input.
    """
    if is_whole(window):
        return resize(maps, size)
    for axis, length, (start, end) in zip(positions(maps), size, window, strict=True):
        cells = maps.shape[axis]
        pixels = (torch.arange(length, device=maps.device, dtype=torch.float64) + 0.5) / length
        places = (pixels - start) / (end - start) * cells - 0.5
        covered = (places >= -0.5) & (places <= cells - 0.5)
        places = places.clamp(0, cells - 1)
        below = places.floor().long()
        shape = [-1 if each == axis else 1 for each in range(maps.ndim)]
        share = (places - below).to(maps).reshape(shape)
        above = (below + 1).clamp(max=cells - 1)
        maps = torch.lerp(maps.index_select(axis, below), maps.index_select(axis, above), share)
        maps = maps.where(covered.reshape(shape), 0)
    return maps


def is_whole(window: Window) -> bool:
    """Whether `window` is the whole input."""
    return all(ends == (0, 1) for ends in window)


def _interpolated(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    height = maps.shape[-2]
    many = len(size) == 2 and maps.shape[:2].numel() >= _MANY and size[0] >= _MANY * height
    if not many or maps.requires_grad or maps.device.type != "cpu":
        return F.interpolate(maps, size, mode=_INTERPOLATION[len(size)], align_corners=False)
    # First along the short rows of the grid, then whole rows at a time, at the speed of memory.
    rows = F.interpolate(maps, (height, size[1]), mode="bilinear", align_corners=False)
    resized = maps.new_empty(*maps.shape[:2], *size)
    for row, (start, shares) in enumerate(_between(height, size[0])):
        below = rows[:, :, min(row + 1, height - 1), None]
        part = resized.narrow(2, start, len(shares))
        torch.lerp(rows[:, :, row, None], below, shares.to(maps), out=part)
    return resized


@lru_cache(maxsize=64)
def _between(height: int, size: int) -> tuple[tuple[int, Tensor], ...]:
    """For each row of the grid: the first of the `size` rows up to the next one, and their weights.

    The weights are a column ``(rows, 1)``: how far each row is on the way to the next grid row.
    """
    numbers = torch.arange(height, dtype=torch.float64, device="cpu")[None, None]
    places = F.interpolate(numbers, size, mode="linear", align_corners=False).flatten()
    floors = places.floor()
    starts = torch.searchsorted(floors, numbers.flatten()).tolist()
    return tuple(
        (start, places[start:end, None] - row)
        for row, (start, end) in enumerate(pairwise([*starts, size]))
    )


def flat(maps: Tensor) -> Tensor:
    """Which of `maps` ``(N, K, *grid)`` are constant up to rounding: bool ``(N, K, 1...)``.

    A constant is not exactly constant after interpolation, for example with channels-last memory.
    Stretching it to [0, 1] would show rounding noise.
    """
    return _flat(*_extremes(maps), maps.dtype)


def normalize(maps: Tensor, how: Normalize = True) -> Tensor:
    """Each map of `maps` ``(N, K, *grid)`` on a common scale.

    Args:
        maps: maps in any unit.
        how: ``True`` or ``"minmax"``: from its minimum and maximum to [0, 1], a flat map to zeros;
            ``"max"``: divided by its largest absolute value, so that 0 stays "no evidence" and a
            uniform map stays visible; ``"centered"``: ``0.5 + M / (2 max|M|)``, so that 0.5 is "no
            evidence" in a map that keeps its sign; ``False``: left in its unit.
    """
    if how is False:
        return maps
    low, high = _extremes(maps)
    if how in ("max", "centered"):
        return maps / _divisor(low, high, how) + _shift(how)
    return (maps - low) / _divisor(low, high, how)


def normalize_(maps: Tensor, how: Normalize = True) -> Tensor:
    """`normalize` in place, which saves memory, for `maps` that autograd does not record."""
    if how is False:
        return maps
    low, high = _extremes(maps)
    if how in ("max", "centered"):
        return maps.div_(_divisor(low, high, how)).add_(_shift(how))
    return maps.sub_(low).div_(_divisor(low, high, how))


def _divisor(low: Tensor, high: Tensor, how: Normalize) -> Tensor:
    """The number that `normalize` divides each map by; infinity for a map that becomes flat."""
    if how in ("max", "centered"):
        peak = torch.maximum(high, -low)
        peak = peak.where(peak > 0, math.inf)
        return 2 * peak if how == "centered" else peak
    return (high - low).where(~_flat(low, high, low.dtype), math.inf)


def _shift(how: Normalize) -> float:
    return 0.5 if how == "centered" else 0.0


def alike(maps: Sequence[Tensor], how: Fuse) -> list[Tensor]:
    """The maps of several layers on one scale, each at its own grid, before resizing and fusing.

    Each map is divided by its largest absolute value. A single map, and all maps for ``"sum"`` and
    ``None``, stay unchanged.

    Args:
        maps: one ``(N, K, *grid)`` for each layer.
        how: see `fuse`.
    """
    if len(maps) == 1 or how in (None, "sum"):
        return list(maps)
    scaled = [normalize(m, "max") for m in maps]
    return [torch.tanh(2 * m) for m in scaled] if how == "scaled_max" else scaled


def fuse(maps: Sequence[Tensor], how: Fuse) -> Tensor:
    """One map ``(N, K, *size)`` from those of several layers, or ``(N, K, L, *size)`` for ``None``.

    Layers have different scales. `alike` brings their maps to one scale before they are resized, as
    the authors of Layer-CAM, Zoom-CAM and RefineCAM do. A single map is returned unchanged.

    Args:
        maps: one ``(N, K, *size)`` for each layer, all of the same size.
        how: ``"mean"``; ``"max"``; ``"product"``, high where all layers agree;
            ``"scaled_max"``: the maximum of ``tanh(2 M / max M)`` (Layer-CAM), which raises the
            weaker parts of a map; or one of RefineCAM's softer products of ``L`` maps (Domeniconi
            et al., 2026, arXiv:2605.14641): ``"geometric"``, their geometric mean;
            ``"log_exp"``, ``(1 + log L) / log sum exp(1 / M)``; ``"exp_mean"``,
            ``1 / log mean exp(1 / M)``. These three are zero where a map is not positive.
            ``"sum"``: the sum of the unscaled maps, for layers of one kind (LeGrad).
    """
    if how is None:
        return torch.stack(list(maps), 2)
    if len(maps) == 1:
        return maps[0]
    return _FUSIONS[how](torch.stack(list(maps)))


_FUSIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda maps: maps.mean(0),
    "max": lambda maps: maps.amax(0),
    "product": lambda maps: maps.prod(0),
    "geometric": lambda maps: _agreed(maps, lambda m: m.log().mean(0).exp()),
    "log_exp": lambda maps: _agreed(
        maps, lambda m: (1 + math.log(len(m))) / m.reciprocal().logsumexp(0)
    ),
    "exp_mean": lambda maps: _agreed(
        maps, lambda m: 1 / (m.reciprocal().logsumexp(0) - math.log(len(m)))
    ),
    "scaled_max": lambda maps: maps.amax(0),
    "sum": lambda maps: maps.sum(0),
}


def _agreed(maps: Tensor, mean: Callable[[Tensor], Tensor]) -> Tensor:
    """The `mean` of `maps` ``(L, ...)`` where all are positive, zero elsewhere."""
    # The floor keeps gradients finite; smaller values do not matter.
    floor = torch.finfo(maps.dtype).eps
    return mean(maps.clamp(min=floor)).where((maps > 0).all(0), 0)


def level(values: Tensor, share: float) -> Tensor:
    """The level ``(...)`` below which a `share` of `values` ``(..., P)`` lies, interpolated."""
    ordered = values.sort(-1).values
    place = (ordered.shape[-1] - 1) * share
    low, high = ordered[..., math.floor(place)], ordered[..., math.ceil(place)]
    return torch.lerp(low, high, place % 1)


def blur(images: Tensor, sigma: float | None = None, radius: int | None = None) -> Tensor:
    """`images` ``(N, C, *size)`` blurred by a Gaussian.

    Args:
        images: the images; their borders are mirrored.
        sigma: the width in pixels; a tenth of the shorter side by default.
        radius: the radius of the kernel in pixels; three times `sigma` by default.
    """
    side = min(images.shape[2:])
    sigma = side / 10 if sigma is None else sigma
    radius = min(math.ceil(3 * sigma) if radius is None else radius, side - 1)
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-((offsets / sigma) ** 2) / 2)
    kernel = kernel / kernel.sum()
    for axis in positions(images):
        lines = images.movedim(axis, -1)
        padded = F.pad(lines.flatten(0, -2)[:, None], (radius, radius), mode="reflect")
        smooth = F.conv1d(padded, kernel[None, None])
        images = smooth[:, 0].reshape(lines.shape).movedim(-1, axis)
    return images


def _extremes(maps: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest and the highest value of each map, ``(N, K, 1...)``."""
    axes = positions(maps)  # two passes: torch.aminmax takes many times as long
    return maps.amin(axes, keepdim=True), maps.amax(axes, keepdim=True)


def _flat(low: Tensor, high: Tensor, dtype: torch.dtype) -> Tensor:
    rounding = 8 * torch.finfo(dtype).eps * torch.maximum(high.abs(), low.abs())
    return high - low <= rounding
