"""Read the samples of a figure and find out whether they are signals, pictures or volumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from camlib.errors import InputError
from camlib.maps import normalize, precise
from camlib.metrics.regions import Regions
from camlib.results import Explanation
from camlib.visual.pictures import check_unit, is_signal, is_volume, unpack

Kind = Literal["signal", "picture", "volume"]
"""The kind of one sample; a clip is a volume of its frames."""

AXES: dict[Kind, int] = {"signal": 1, "picture": 2, "volume": 3}
"""The number of axes of a heatmap of one sample."""


def kind_of(images: Any, maps: Mapping[str, Any], kind: Kind | None) -> Kind:
    """The kind of the samples in `images` and `maps`; `kind` itself if it is given.

    An explanation tells the kind. Otherwise a tensor with five axes holds volumes, one with
    heatmaps ``(N, L)`` holds signals, and everything else is a picture.

    Raises:
        InputError: `kind` is unknown, or the shapes are ambiguous.
    """
    if kind is not None:
        if kind not in get_args(Kind):
            known = ", ".join(map(repr, get_args(Kind)))
            raise InputError(f"kind={kind!r} is not known; use one of {known}, or None")
        return kind
    for value in maps.values():
        if isinstance(value, Explanation):
            [kind] = [kind for kind, axes in AXES.items() if axes == len(value.size)]
            return kind
    if is_volume(images):
        return "volume"
    if any(is_signal(images, value) for value in maps.values()):
        return "signal"
    if isinstance(images, Tensor):
        _check_picture(images, maps)
    return "picture"


def channels_of(images: Any, kind: Kind) -> int | None:
    """The number of channels of each sample of `images`, if it is a tensor."""
    tensor = isinstance(images, Tensor) and images.ndim > AXES[kind]
    return images.shape[-AXES[kind] - 1] if tensor else None


def count_of(maps: Any, kind: Kind) -> int:
    """The number of samples in `maps`, an entry of a figure's maps."""
    axes = AXES[kind]
    maps = maps.heatmap if isinstance(maps, Explanation) else maps
    maps = maps.heatmaps if isinstance(maps, Regions) else maps
    return len(maps) if getattr(maps, "ndim", axes) > axes else 1


def read(images: Any, kind: Kind) -> list[Tensor]:
    """The values of each sample, ready to be drawn.

    Pictures ``(3, H, W)`` and volumes ``(3, D, H, W)`` are in [0, 1]. A tensor with neither 1 nor 3
    channels gives the mean of its channels, from the smallest value of the sample to the largest.
    Signals ``(C, L)`` keep their unit.

    Raises:
        InputError: `images` is not of this kind.
    """
    if kind == "picture":
        given = images if isinstance(images, list | tuple) else [images]
        samples = [picture for image in given for picture in unpack(_visible(image, 2))[0]]
        if not samples:
            raise InputError("images is empty; expected at least one picture")
    else:
        shape = "(N, C, L)" if kind == "signal" else "(N, C, D, H, W)"
        axes = AXES[kind]
        got = type(images).__name__
        if isinstance(images, Tensor):
            images = images[None] if images.ndim == axes + 1 else images
            got = f"a tensor of shape {tuple(images.shape)}"
        if not isinstance(images, Tensor) or images.ndim != axes + 2 or not images.numel():
            raise InputError(f"images is {got}; expected {kind}s {shape} as a tensor")
        if kind == "signal":
            return _signals(images)
        pixels, _ = unpack(_visible(images, 3))
        samples = list(pixels.reshape(len(images), -1, *pixels.shape[1:]).movedim(1, 2))
    for values in samples:
        check_unit(image=values)
    return [values.clamp(0, 1) for values in samples]


def _check_picture(images: Tensor, maps: Mapping[str, Any]) -> None:
    """Check that `images` with maps of these shapes can only be pictures.

    Raises:
        InputError: they may be signals or volumes.
    """
    size = tuple(images.shape)
    for title, value in maps.items():
        shape = tuple(getattr(value, "shape", ()))
        if shape == size and (len(size) == 2 or (len(size) == 3 and size[0] not in (1, 3))):
            raise InputError(
                f"images and maps[{title!r}] of shape {size} may be signals or one picture; pass "
                "kind='signal', or images[None] for a picture"
            )
        if len(size) == 4 and size[1] not in (1, 3) and shape == size[1:]:
            raise InputError(
                f"images of shape {size} with maps[{title!r}] of shape {shape} may be one volume "
                "or a picture of many channels; pass images[None] for a volume, or "
                f"maps[{title!r}][None] for a picture"
            )


def _signals(images: Tensor) -> list[Tensor]:
    values = precise(images.detach())
    if not torch.isfinite(values).all():
        raise InputError(
            f"images of shape {tuple(images.shape)} has values that are not finite; expected "
            "signals without gaps; fill the gaps first"
        )
    return list(values)


def _visible(image: Any, axes: int) -> Any:
    """`image`, in grey if it is a tensor whose channels are not colours."""
    if not isinstance(image, Tensor) or image.ndim not in (axes + 1, axes + 2):
        return image
    channels = image.shape[-axes - 1]
    # `unpack` refuses channels at the wrong end.
    if channels in (1, 3) or image.shape[-1] in (1, 3, 4) or not image.numel():
        return image
    batch = image if image.ndim == axes + 2 else image[None]
    return normalize(precise(batch.detach()).mean(1, keepdim=True))
