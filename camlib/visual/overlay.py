"""Blend a heatmap onto its image, in colour.

The image keeps its brightness, so a dark photo stays dark. Tensors stay on their device. The check
that values are in range is the only synchronisation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from camlib.errors import InputError
from camlib.maps import precise, resize
from camlib.options import Share, checked
from camlib.passes.arguments import described
from camlib.results import Explanation
from camlib.visual.colors import color_table, look_up
from camlib.visual.coordinates import size_of
from camlib.visual.photos import Photos
from camlib.visual.pictures import (
    Picture,
    check_unit,
    is_signal,
    is_volume,
    unpack_stored,
)
from camlib.visual.placement import Placement, by, check_shape, may_be_grid, measured
from camlib.visual.transforms import Transform

if TYPE_CHECKING:
    from numpy.typing import NDArray


Fit = Literal["stretch"]
"""How a map is laid on a photo whose size is not that of the model's input."""

Channels = Literal["RGB", "BGR"]
"""The order of the colours of an image."""

_CACHED = 2**18
"""The number of pixels that are blended at once on a CPU."""


@checked
def overlay(
    image: Picture,
    heatmap: Tensor | NDArray[Any] | Explanation,
    alpha: Share = 0.5,
    colormap: Any = "jet",
    emphasize: bool = False,
    threshold: Share | None = None,
    *,
    transform: Transform | Placement | None = None,
    fit: Fit | None = None,
    channels: Channels = "RGB",
    veil: Share = 0,
) -> Picture:
    """Blend `heatmap` onto `image`: ``(1 - alpha) * image + alpha * colour``.

    The result has the image's kind, dtype and device, and three channels.

    Args:
        image: a PIL image of any mode; a NumPy array ``(H, W)`` or ``(H, W, C)``; a tensor
            ``(C, H, W)``, ``(N, C, H, W)`` or, for volumes and clips, ``(N, C, D, H, W)``, of
            which each slice or frame is blended. 1 or 3 channels, uint8 or floating point in
            [0, 1]. A list of these, or the result of `camlib.load`, gives a list.
        heatmap: values in [0, 1]: ``(H, W)`` or ``(1, H, W)`` for one image, ``(N, H, W)`` for N,
            ``(N, D, H, W)`` for volumes; another size is resized linearly. Or the result of
            ``cam.explain(...)``.
        alpha: the opacity of the colours, from 0 to 1.
        colormap: any matplotlib colour map, or its name.
        emphasize: whether to push values apart, ``h = 1 / (1 + exp(-50 (h - 0.5)))``, so that the
            higher half stands out.
        threshold: leave the image unchanged where the (emphasized) heatmap is lower.
        transform: the transform that made the model's input from `image`: of torchvision or
            albumentations, an image processor of Hugging Face, or any function from a picture to a
            tensor. It places the map where the model looked; see `camlib.visual.measured`.
        fit: ``"stretch"`` if the whole image was resized to the model's input; it stops the warning
            about different shapes.
        channels: ``"BGR"`` for arrays and tensors as OpenCV reads them; the result has the same
            order.
        veil: how much to darken the part that the model did not see: 0 not at all, 1 to black.

    Raises:
        InputError: an argument does not fit; the message says what to do.
    """
    if isinstance(image, list | tuple | Photos):
        options = {
            "alpha": alpha,
            "colormap": colormap,
            "emphasize": emphasize,
            "threshold": threshold,
            "fit": fit,
            "channels": channels,
            "veil": veil,
        }
        return _each(image, heatmap, transform, options)
    seen: tuple[int, ...] | None = None
    if isinstance(heatmap, Explanation):
        image, seen, heatmap = heatmap.channels_first(image), heatmap.size, _heatmap(heatmap)
    if is_signal(image, heatmap):
        raise InputError(
            f"image of shape {tuple(image.shape)} with heatmap of shape {tuple(heatmap.shape)} is "
            "a signal, which has no pixels; draw it as a line: camlib.visual.figure(image, "
            "{'heatmap': heatmap})"
        )
    pixels, restore = unpack_stored(image)
    count, size = len(pixels), pixels.shape[2:]
    if is_volume(image):
        count, size = len(image), image.shape[2:]
    heat = precise(_heat(heatmap, count, len(size)).to(pixels.device))
    stored = pixels.dtype == torch.uint8
    check_unit(heatmap=heat, **({} if stored else {"image": pixels}))
    placement = _placement(transform, image, heat.shape[1:], seen)
    photo, region = pixels, (slice(None), slice(None))
    if placement is not None:
        region = placement.region
        pixels = photo[..., region[0], region[1]]
        size = pixels.shape[2:]
    elif fit is None and len(size) == 2:
        check_shape(seen or heat.shape[1:], size, exact=seen is not None)
    white = 255 if stored else 1
    colors = color_table(colormap, pixels.device) * (alpha * white)
    if channels == "BGR":
        colors = colors.flip(1)
    deep = len(pixels) // count
    blended = pixels.new_empty(pixels.shape)
    # Parts small enough for the processor's cache, as memory is slower than arithmetic.
    step = max(1, _CACHED // max(math.prod(size), 1)) if pixels.device.type == "cpu" else count
    planes = colors.new_empty(3, min(step, count) * deep, *size[-2:])
    for start in range(0, count, step):
        part = slice(start * deep, (start + step) * deep)
        here = heat[start : start + step].clamp(0, 1)[:, None]
        here = resize(here, size) if placement is None else placement.on_region(here)
        here = here.flatten(0, -3)
        if emphasize:
            here = emphasized(here)
        mixed = look_up(here, colors, out=planes[:, : len(here)])
        # Bytes are converted through types with faster kernels.
        under = pixels[part].float() if stored else pixels[part]
        mixed = torch.add(mixed, under, alpha=1 - alpha, out=mixed if stored else blended[part])
        if threshold is not None:
            torch.where((here >= threshold)[:, None], mixed, under, out=mixed)
        mixed.clamp_(0, white)
        if stored:
            blended[part] = mixed.round_().to(torch.int16)
    if placement is not None:
        whole = photo.clone() if veil == 0 else _darker(photo, veil)
        whole[..., region[0], region[1]] = blended
        blended = whole
    return restore(blended)  # type: ignore[no-any-return]


def _darker(pixels: Tensor, veil: float) -> Tensor:
    dark = pixels * (1 - veil)
    return dark.round().to(pixels.dtype) if pixels.dtype == torch.uint8 else dark


def emphasized(heat: Tensor) -> Tensor:
    """`heat` pushed apart, ``1 / (1 + exp(-50 (h - 0.5)))``."""
    return torch.sigmoid(50 * (heat - 0.5))


def colorize(heatmap: Tensor, colormap: Any = "jet") -> Tensor:
    """The colours ``(..., 3, H, W)`` in [0, 1] of `heatmap` ``(..., H, W)``, on its device.

    Values are rounded down to 256 steps, as in matplotlib.

    Raises:
        InputError: matplotlib has no such colour map, or values are outside [0, 1].
    """
    if not isinstance(heatmap, Tensor) or not heatmap.is_floating_point() or not heatmap.numel():
        heatmap = _heat(heatmap, 1, 2)[0]
    check_unit(heatmap=heatmap)
    return look_up(heatmap, color_table(colormap, heatmap.device)).contiguous()


def _each(images: Any, heatmaps: Any, transform: Any, options: dict[str, Any]) -> Any:
    """The overlay of each of several images; a single one for a photo that was loaded alone."""
    pictures = images.pictures if isinstance(images, Photos) else images
    seen = heatmaps.size if isinstance(heatmaps, Explanation) else None
    maps = _heatmap(heatmaps) if isinstance(heatmaps, Explanation) else heatmaps
    if isinstance(maps, Tensor | np.ndarray) and maps.ndim == 2:
        maps = maps[None]
    if not isinstance(maps, Tensor | np.ndarray | list | tuple) or len(maps) != len(pictures):
        raise InputError(
            f"heatmap is {described(maps)}; expected one for each of {len(pictures)} images"
        )
    places = [transform] * len(pictures)
    if isinstance(images, Photos) and transform is None:
        places = list(images.placements)
    if seen is not None and transform is None and not isinstance(images, Photos):
        for picture in pictures if options["fit"] is None else ():
            check_shape(seen, size_of(picture), exact=True)
        options["fit"] = "stretch"
    overlays = [
        overlay(picture, heat, transform=place, **options)
        for picture, heat, place in zip(pictures, maps, places, strict=True)
    ]
    return overlays[0] if isinstance(images, Photos) and images.single else overlays


def _heatmap(explanation: Explanation) -> Tensor:
    if explanation.attribution:
        raise InputError(
            f"{explanation.method} returns signed values of pixels, not a heatmap; show them with "
            "seen.figure(images), or as a picture with camlib.to_image(seen.heatmap)"
        )
    return explanation.heatmap


def _placement(
    transform: Any, image: Any, grid: Sequence[int], seen: Sequence[int] | None
) -> Placement | None:
    """Where the map lies on `image`, if there is a `transform`."""
    if transform is None:
        return None
    placement = measured(transform, image)
    if not (placement.seen == tuple(seen) if seen else may_be_grid(grid, placement.seen)):
        raise InputError(
            f"transform makes an input of {by(placement.seen)} from this photo, but the heatmap "
            f"belongs to one of {by(seen or grid)}; pass the transform that made the input"
        )
    return placement


def _heat(heatmap: Any, count: int, axes: int) -> Tensor:
    """`heatmap` as ``(N, H, W)``, or ``(N, D, H, W)`` for three `axes`; one for each image."""
    if not isinstance(heatmap, Tensor | np.ndarray):
        raise InputError(
            f"heatmap is of type {type(heatmap).__name__!r}; expected a tensor or a NumPy "
            "array; convert it first"
        )
    # A copy, as torch warns of read-only arrays and refuses negative strides.
    heat = torch.from_numpy(np.array(heatmap)) if isinstance(heatmap, np.ndarray) else heatmap
    shape = tuple(heat.shape)
    if not heat.is_floating_point():
        raise InputError(
            f"heatmap has dtype {str(heatmap.dtype)!r}; expected floating point in [0, 1]; "
            "convert it, and divide values up to 255 by 255"
        )
    batched = axes + 1
    if len(shape) == batched and shape[-1] == 1 and shape[0] > 1 and count == 1:
        heat, shape = heat[..., 0], shape[:-1]  # (H, W, 1), as in some libraries
    if len(shape) == batched + 1 or (len(shape) == batched and count == 1 and shape[0] > 1):
        several = "heatmap[:, k]" if len(shape) > batched else "heatmap[k]"
        raise InputError(
            f"heatmap of shape {shape} holds several maps for each image; expected one; loop over "
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
