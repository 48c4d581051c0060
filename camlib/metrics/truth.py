"""Convert and check the true places of objects: masks, or boxes around them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from camlib.errors import InputError
from camlib.maps import precise

Truth = Tensor | Sequence[Tensor]
"""Masks with the shape of the heatmaps; or boxes ``(left, top, right, bottom)`` in pixels: one for
each heatmap, ``(N, 4)`` or ``(N, K, 4)``, or a list of ``(B, 4)`` with any number for each. A box
covers the pixels whose centres are in it, so right and bottom are exclusive for whole numbers."""


def finite(heatmaps: Tensor, *, positive: str = "") -> Tensor:
    """`heatmaps` in float32 or better, if each value is finite.

    Args:
        heatmaps: ``(N, H, W)``, or ``(N, K, H, W)`` for several classes per sample.
        positive: the name of a metric that refuses negative values.

    Raises:
        InputError: the heatmaps have another shape, or are not finite, or negative.
    """
    if not isinstance(heatmaps, Tensor) or heatmaps.ndim not in (3, 4):
        shape = tuple(getattr(heatmaps, "shape", ()))
        raise InputError(
            "expected heatmaps (N, H, W), or (N, K, H, W) for several classes per sample, got "
            f"{type(heatmaps).__name__} of shape {shape}; pass a single one as heatmap[None]"
        )
    values = precise(heatmaps.detach())
    if not values.isfinite().all():
        raise InputError("heatmaps contain NaN or infinity; look for them with torch.isfinite")
    if positive and (values < 0).any():
        raise InputError(
            f"{positive} needs heatmaps of 0 or more, got {float(values.min()):.3g}; pass the "
            "positive evidence, heatmaps.clamp(min=0), or the magnitude, heatmaps.abs()"
        )
    return values


def masks_of(truth: Truth, heatmaps: Tensor) -> Tensor:
    """`truth` as masks, bool, with the shape of `heatmaps`.

    Raises:
        InputError: `truth` does not fit `heatmaps`.
    """
    if isinstance(truth, Tensor) and truth.shape == heatmaps.shape:
        return truth.to(heatmaps.device) != 0
    height, width = heatmaps.shape[-2:]
    rows = torch.arange(height, device=heatmaps.device)[:, None] + 0.5
    columns = torch.arange(width, device=heatmaps.device) + 0.5
    masks = []
    for boxes in boxes_of(truth, heatmaps):
        left, top, right, bottom = boxes.to(heatmaps.device).T[..., None, None]
        inside = (columns >= left) & (columns < right) & (rows >= top) & (rows < bottom)
        masks.append(inside.any(0))
    return torch.stack(masks).reshape(heatmaps.shape)


def boxes_of(truth: Truth, heatmaps: Tensor) -> list[Tensor]:
    """The boxes ``(B, 4)`` of each of `heatmaps`; for masks, the box around each.

    Raises:
        InputError: `truth` does not fit `heatmaps`.
    """
    lead = heatmaps.shape[:-2]
    count = lead.numel()
    if isinstance(truth, Tensor):
        if truth.shape == heatmaps.shape:
            return [_around(mask) for mask in truth.flatten(0, -3) != 0]
        if truth.shape == (*lead, 4):
            return list(truth.reshape(count, 1, 4).double())
    elif len(truth) == count and all(
        isinstance(each, Tensor) and each.ndim == 2 and each.shape[1] == 4 for each in truth
    ):
        return [each.double() for each in truth]
    shape = tuple(truth.shape) if isinstance(truth, Tensor) else f"a list of {len(truth)}"
    raise InputError(
        f"truth of shape {shape} does not fit heatmaps {tuple(heatmaps.shape)}; expected masks of "
        f"the same shape, boxes {(*lead, 4)}, or a list of {count} tensors of boxes (B, 4)"
    )


def _around(mask: Tensor) -> Tensor:
    """The box around a mask ``(H, W)``, ``(1, 4)``; no box, ``(0, 4)``, for an empty mask."""
    places = mask.nonzero()
    if not len(places):
        return torch.zeros(0, 4, dtype=torch.float64, device=mask.device)
    (top, left), (bottom, right) = places.amin(0), places.amax(0) + 1
    return torch.stack([left, top, right, bottom])[None].double()
