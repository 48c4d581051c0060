"""What the rows of a figure show: signals, pictures or volumes, told apart and read."""

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
"""What one sample is; a clip is a volume of its frames."""

AXES: dict[Kind, int] = {"signal": 1, "picture": 2, "volume": 3}
"""How many axes a heatmap of one sample has."""


def kind_of(images: Any, maps: Mapping[str, Any], kind: Kind | None) -> Kind:
    """What `images` and `maps` are of; `kind` settles it if given.

    An explanation knows. Otherwise a tensor of five axes holds volumes, one whose heatmaps are
    ``(N, L)`` signals, and everything else is a picture.

    Raises:
        InputError: `kind` is none of the three, or a picture is not the only thing that fits.
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
    """How many channels each sample of `images` has, if it is a tensor."""
    tensor = isinstance(images, Tensor) and images.ndim > AXES[kind]
    return images.shape[-AXES[kind] - 1] if tensor else None


def count_of(maps: Any, kind: Kind) -> int:
    """How many samples `maps`, an entry of a figure's maps, belongs to as far as it can tell."""
    axes = AXES[kind]
    maps = maps.heatmap if isinstance(maps, Explanation) else maps
    maps = maps.heatmaps if isinstance(maps, Regions) else maps
    return len(maps) if getattr(maps, "ndim", axes) > axes else 1


def read(images: Any, kind: Kind) -> list[Tensor]:
    """The values of each sample, as they are drawn.

    Pictures ``(3, H, W)`` and volumes ``(3, D, H, W)`` are in [0, 1]; those of a tensor with
    neither 1 nor 3 channels are the mean of the channels, from the smallest value of the sample to
    the largest. Signals ``(C, L)`` keep their unit.

    Raises:
        InputError: `images` is nothing of this kind.
    """
    if kind == "picture":
        given = images if isinstance(images, list | tuple) else [images]
        found = [picture for image in given for picture in unpack(_visible(image, 2))[0]]
        if not found:
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
        found = list(pixels.reshape(len(images), -1, *pixels.shape[1:]).movedim(1, 2))
    for values in found:
        check_unit(image=values)
    return [values.clamp(0, 1) for values in found]


def _check_picture(images: Tensor, maps: Mapping[str, Any]) -> None:
    """Nothing, if `images` with heatmaps or attributions of these shapes can only be pictures."""
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
            f"images of shape {tuple(images.shape)} holds values that are not finite; expected "
            "signals without gaps; fill them first"
        )
    return list(values)


def _visible(image: Any, axes: int) -> Any:
    """`image`, in grey if it is a tensor whose channels are no colours."""
    if not isinstance(image, Tensor) or image.ndim not in (axes + 1, axes + 2):
        return image
    channels = image.shape[-axes - 1]
    # Channels at the wrong end are left to `unpack`, which says so.
    if channels in (1, 3) or image.shape[-1] in (1, 3, 4) or not image.numel():
        return image
    batch = image if image.ndim == axes + 2 else image[None]
    return normalize(precise(batch.detach()).mean(1, keepdim=True))
