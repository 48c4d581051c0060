"""A heatmap laid over its image, in colour.

The image keeps its own brightness: a dark photograph stays dark under the map. Tensors stay on
their device; the only wait for it is the check that the values are in range.
"""

from __future__ import annotations

import math
from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from camlib.errors import InputError
from camlib.maps import precise, resize
from camlib.options import Share, checked
from camlib.visual.pictures import Picture, check_unit, is_signal, is_volume, unpack_stored

if TYPE_CHECKING:
    from numpy.typing import NDArray


_CACHED = 2**18
"""How many pixels are blended at once on a CPU."""


@checked
def overlay(
    image: Picture,
    heatmap: Tensor | NDArray[Any],
    alpha: Share = 0.5,
    colormap: str = "jet",
    emphasize: bool = False,
    threshold: Share | None = None,
) -> Picture:
    """`image` under the colours of `heatmap`: ``(1 - alpha) * image + alpha * colour``.

    The result is of the image's kind, dtype and device, and has three channels.

    Args:
        image: a PIL image of any mode; a NumPy array ``(H, W)`` or ``(H, W, C)``; a tensor
            ``(C, H, W)``, ``(N, C, H, W)`` or, for volumes and clips, ``(N, C, D, H, W)``, of
            which each slice or frame is blended. 1 or 3 channels, uint8 or floating point in
            [0, 1].
        heatmap: values in [0, 1]; ``(H, W)`` or ``(1, H, W)`` for one image, ``(N, H, W)`` for N;
            ``(N, D, H, W)`` for volumes. One of another size is resized, linearly.
        alpha: how much of the colour is seen: 0 none, 1 nothing else.
        colormap: any matplotlib colour map.
        emphasize: push the values apart, ``h = 1 / (1 + exp(-50 (h - 0.5)))``, so that the better
            half stands out.
        threshold: where the (emphasized) heatmap is below, the image is left as it is.

    Raises:
        InputError: an argument that does not fit; the message says what to do.
    """
    if is_signal(image, heatmap):
        raise InputError(
            f"image of shape {tuple(image.shape)} with heatmap of shape {tuple(heatmap.shape)} is "
            "a signal, which has no pixels to colour; draw it as a line: camlib.visual.figure(image"
            ", {'heatmap': heatmap})"
        )
    pixels, restore = unpack_stored(image)
    count, size = len(pixels), pixels.shape[2:]
    if is_volume(image):
        count, size = len(image), image.shape[2:]
    heat = precise(_heat(heatmap, count, len(size)).to(pixels.device))
    stored = pixels.dtype == torch.uint8
    check_unit(heatmap=heat, **({} if stored else {"image": pixels}))
    white = 255 if stored else 1
    colors = color_table(colormap, pixels.device) * (alpha * white)
    deep = len(pixels) // count
    blended = pixels.new_empty(pixels.shape)
    # Parts that stay in the processor's cache: memory takes longer than arithmetic.
    step = max(1, _CACHED // math.prod(size)) if pixels.device.type == "cpu" else count
    planes = colors.new_empty(3, min(step, count) * deep, *size[-2:])
    for start in range(0, count, step):
        part = slice(start * deep, (start + step) * deep)
        here = resize(heat[start : start + step].clamp(0, 1)[:, None], size)
        here = here.reshape(-1, *size[-2:])
        if emphasize:
            here = emphasized(here)
        mixed = look_up(here, colors, out=planes[:, : len(here)])
        # Bytes by way of other types, for which there are faster kernels.
        under = pixels[part].float() if stored else pixels[part]
        mixed = torch.add(mixed, under, alpha=1 - alpha, out=mixed if stored else blended[part])
        if threshold is not None:
            torch.where((here >= threshold)[:, None], mixed, under, out=mixed)
        mixed.clamp_(0, white)
        if stored:
            blended[part] = mixed.round_().to(torch.int16)
    return restore(blended)  # type: ignore[no-any-return]


def emphasized(heat: Tensor) -> Tensor:
    """`heat` pushed apart, ``1 / (1 + exp(-50 (h - 0.5)))``."""
    return torch.sigmoid(50 * (heat - 0.5))


def colorize(heatmap: Tensor, colormap: str = "jet") -> Tensor:
    """The colours ``(..., 3, H, W)`` of `heatmap` ``(..., H, W)``, in [0, 1], on its device.

    Values are cut into 256 steps as matplotlib does; those outside [0, 1] get the colour at the
    end.

    Raises:
        InputError: matplotlib has no such colour map.
    """
    return look_up(heatmap, color_table(colormap, heatmap.device)).contiguous()


def look_up(heatmap: Tensor, table: Tensor, out: Tensor | None = None) -> Tensor:
    """The rows of `table` ``(steps, 3)`` that `heatmap` ``(..., H, W)`` in [0, 1] points at.

    Args:
        heatmap: where in the table; what is outside [0, 1] gets the colour at the end.
        table: colours.
        out: memory for the result ``(..., 3, H, W)``, a view of it: ``(3, ..., H, W)``.
    """
    step = (heatmap.detach().float() * len(table)).clamp_(0, len(table) - 1).int().flatten()
    planes = table.new_empty(table.shape[1], *heatmap.shape) if out is None else out
    # One colour at a time: rows of the table would have to be taken apart again.
    for values, plane in zip(table.t().contiguous(), planes, strict=True):
        torch.index_select(values, 0, step, out=plane.view(-1))
    return planes.movedim(0, -3)


@lru_cache(maxsize=64)
def color_table(colormap: str, device: torch.device, steps: int = 256) -> Tensor:
    """The colours ``(steps, 3)`` of a matplotlib colour map, on `device`.

    Raises:
        InputError: matplotlib has no such colour map.
    """
    import matplotlib

    if colormap not in matplotlib.colormaps:
        near = get_close_matches(str(colormap), matplotlib.colormaps, n=1)
        advice = f"did you mean {near[0]!r}?" if near else "use a name in matplotlib.colormaps"
        raise InputError(f"colormap {colormap!r} not found; {advice}")
    colors = matplotlib.colormaps[colormap].resampled(steps)((np.arange(steps) + 0.5) / steps)
    return torch.tensor(colors[:, :3], dtype=torch.float32, device=device)


def _heat(heatmap: Any, count: int, axes: int) -> Tensor:
    """`heatmap` as ``(N, H, W)``, or ``(N, D, H, W)`` of three `axes`; one for each image."""
    if not isinstance(heatmap, Tensor | np.ndarray):
        raise InputError(
            f"heatmap is of type {type(heatmap).__name__!r}; expected a tensor or a NumPy "
            "array; convert it first"
        )
    # A copy, because torch warns of read-only arrays and refuses negative strides.
    heat = torch.from_numpy(np.array(heatmap)) if isinstance(heatmap, np.ndarray) else heatmap
    shape = tuple(heat.shape)
    if not heat.is_floating_point():
        raise InputError(
            f"heatmap has dtype {str(heatmap.dtype)!r}; expected floating point in [0, 1]; "
            "convert it, and divide values up to 255 by 255"
        )
    batched = axes + 1
    if len(shape) == batched + 1 or (len(shape) == batched and count == 1 and shape[0] > 1):
        several = "heatmap[:, k]" if len(shape) > batched else "heatmap[k]"
        raise InputError(
            f"heatmap of shape {shape} holds several maps for an image; expected one; loop over "
            f"them: [overlay(image, {several}) for k in range({shape[-batched]})]"
        )
    if len(shape) == axes:
        heat = heat[None]
    if heat.ndim != batched or len(heat) != count or heat.numel() == 0:
        size = "H, W" if axes == 2 else "D, H, W"
        raise InputError(
            f"heatmap of shape {shape} does not fit {count} image(s); expected ({count}, {size})"
        )
    return heat
