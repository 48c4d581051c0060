"""Show signed attributions of pixels as pictures.

An attribution has no natural range: its unit is that of the score per unit of input, and a few
pixels are often much larger than all others. Each image has its own scale. A constant one gives a
plain picture, never NaN.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from camlib.errors import InputError
from camlib.options import Range, checked
from camlib.visual.colors import color_table, look_up
from camlib.visual.pictures import is_volume, to_uint8

if TYPE_CHECKING:
    from numpy.typing import NDArray

Mode = Literal["centered", "diverging", "magnitude"]
"""How an attribution is shown; see `to_image`."""

Attribution = TypeVar("Attribution", bound="Tensor | NDArray[Any]")
"""The same kind of attribution in and out."""

_COLORMAPS = {"diverging": "seismic", "magnitude": "gray"}


@checked
def to_image(
    attribution: Attribution,
    mode: Mode = "centered",
    *,
    percentile: Annotated[float, Range(0, 100, above=True)] = 99,
    colormap: Any = None,
) -> Attribution:
    """`attribution` as a picture: uint8, three channels, the same kind, layout and device.

    ``"centered"``: ``0.1 (x - mean) / (std + 1e-5) + 0.5`` per image, clipped to [0, 1], with grey
    for zero. Guided backpropagation is usually shown so. The constant matters for deviations below
    1e-5; the other modes do not depend on the scale.
    ``"diverging"``: the sum over channels; zero is the middle of the colour map (white).
    ``"magnitude"``: the sum of absolute values over channels; zero is its lower end (black).

    Args:
        attribution: values of any scale: a tensor ``(C, H, W)``, ``(N, C, H, W)`` or, for volumes
            and clips, ``(N, C, D, H, W)``; or a NumPy array ``(H, W)`` or ``(H, W, C)``. For
            ``"centered"``, C is 1 or 3.
        mode: how the attribution is shown.
        percentile: the percentile of an image's absolute values that gets the colour map's end.
        colormap: the colour map for ``"diverging"`` and ``"magnitude"``, any of matplotlib's;
            ``"seismic"`` and ``"gray"`` by default.

    Raises:
        InputError: values are not finite, or the shape or mode cannot be shown.
    """
    if is_volume(attribution):
        # One scale for the whole volume, so that an empty slice stays plain.
        slices = to_image(attribution.flatten(2, 3), mode, percentile=percentile, colormap=colormap)
        return slices.reshape(len(slices), 3, *attribution.shape[2:])  # type: ignore[return-value]
    values = _unpack(attribution)
    if mode == "centered":
        picture = _centered(values)
    else:
        values = values.sum(1) if mode == "diverging" else values.abs().sum(1)
        values = values / _peak(values, percentile)
        # An odd number of steps has a middle one, for zero alone.
        table = color_table(colormap or _COLORMAPS[mode], values.device, steps=257)
        picture = look_up(values / 2 + 0.5 if mode == "diverging" else values, table)
    picture = to_uint8(picture)
    if isinstance(attribution, Tensor):
        return picture.reshape(*attribution.shape[:-3], *picture.shape[1:])  # type: ignore[return-value]
    return picture[0].permute(1, 2, 0).contiguous().numpy()  # type: ignore[return-value]


def _centered(values: Tensor) -> Tensor:
    if values.shape[1] not in (1, 3):
        raise InputError(
            f"attribution has {values.shape[1]} channels; expected 1 or 3 for mode='centered'; use "
            "mode='diverging'"
        )
    std, mean = torch.std_mean(values, (1, 2, 3), correction=0, keepdim=True)
    picture = 0.1 * (values - mean) / (std + 1e-5) + 0.5
    return picture.clamp(0, 1).expand(-1, 3, -1, -1)


def _peak(values: Tensor, percentile: float) -> Tensor:
    """The divisor of each image of `values` ``(N, H, W)``: ``(N, 1, 1)``, never zero."""
    size = values.abs().flatten(1)
    # torch.quantile interpolates, and refuses more than 16 million values.
    peak = size.kthvalue(math.ceil(percentile / 100 * size.shape[1]), dim=1).values
    # An attribution of a few pixels is zero up to a high percentile.
    peak = peak.where(peak > 0, size.amax(1))
    return peak.where(peak > 0, 1)[:, None, None]


def _unpack(attribution: Any) -> Tensor:
    """`attribution` as ``(N, C, H, W)`` in float32."""
    if not isinstance(attribution, Tensor | np.ndarray):
        raise InputError(
            f"attribution is of type {type(attribution).__name__!r}; expected a tensor or a NumPy "
            "array"
        )
    shape = tuple(attribution.shape)
    if isinstance(attribution, Tensor):
        fits, channels, other = (3, 4), -3, -1
        expected = "(C, H, W) or (N, C, H, W) for a tensor"
    else:
        fits, channels, other = (2, 3), -1, 0
        expected = "(H, W) or (H, W, C) for a NumPy array"
    if len(shape) not in fits or 0 in shape:
        raise InputError(f"attribution of shape {shape} cannot be shown; expected {expected}")
    if len(shape) > 2 and shape[channels] not in (1, 3) and shape[other] in (1, 3):
        raise InputError(
            f"attribution of shape {shape} has its channels at the wrong end; expected {expected}"
        )
    if isinstance(attribution, Tensor):
        values = attribution.detach().reshape(-1, *shape[-3:])
    else:
        # A copy, as torch warns of read-only arrays and refuses negative strides.
        values = torch.from_numpy(np.array(attribution)).reshape(1, *shape[:2], -1)
        values = values.permute(0, 3, 1, 2)
    values = values.float()
    if not torch.isfinite(values).all():
        raise InputError(
            f"attribution of shape {shape} has values that are not finite; expected finite "
            "numbers; look for a division by zero or an overflow of half precision"
        )
    return values
