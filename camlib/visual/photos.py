"""Load photos: the pictures, the model's input, and where that input lies on each picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor

from camlib.errors import InputError
from camlib.passes.arguments import described
from camlib.visual.coordinates import size_of
from camlib.visual.placement import Placement, measured
from camlib.visual.reading import read, rgb
from camlib.visual.transforms import Transform, applied, as_pil, called, is_processor


@dataclass(frozen=True, eq=False)
class Photos:
    """One or more photos, ready to be explained.

    Attributes:
        pictures: the photos. Files and PIL images become upright PIL images in RGB; arrays and
            tensors stay as given.
        inputs: the model's input: a tensor ``(N, C, h, w)``, or the mapping that a processor of
            Hugging Face returned.
        placements: where the input lies on each photo.
        single: whether one photo was given instead of a list. Then an overlay is not a list.
    """

    pictures: tuple[Any, ...]
    inputs: Any
    placements: tuple[Placement, ...]
    single: bool

    def __len__(self) -> int:
        return len(self.pictures)

    def to(self, device: Any) -> Photos:
        """The photos with their inputs on `device`."""
        moved = (
            {name: value.to(device) for name, value in self.inputs.items()}
            if isinstance(self.inputs, Mapping)
            else self.inputs.to(device)
        )
        return Photos(self.pictures, moved, self.placements, self.single)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{w} x {h}" for h, w in (each.photo for each in self.placements))
        return f"Photos({sizes}; inputs: {described(self.inputs)})"


def load(photo: Any, transform: Transform) -> Photos:
    """Load `photo`, make the model's input with `transform`, and measure where it lies.

    Args:
        photo: a file, a PIL image, a NumPy array or a tensor ``(C, H, W)``; or a list of these,
            which becomes one batch.
        transform: the model's transform: one of torchvision such as ``weights.transforms()``, an
            image processor of Hugging Face, a transform of albumentations, or any function from a
            picture to a tensor.

    Raises:
        InputError: a file cannot be read; or the transform returns no input, is random, or does
            more than resize, crop, pad, flip and rotate by 90 degrees.

    Example:
        >>> photo = camlib.load("photo.jpg", weights.transforms())
        >>> seen = GradCAM(model).explain(photo.inputs)
        >>> seen.overlay(photo).save("overlay.png")
    """
    single = not isinstance(photo, list | tuple)
    given = [photo] if single else list(photo)
    if not given:
        raise InputError("photo is an empty list; expected a file, a picture or a list of these")
    pictures = tuple(_picture(each) for each in given)
    known: dict[Any, Placement] = {}
    for picture in pictures:
        kind = type(picture), size_of(picture)
        if kind not in known:
            known[kind] = measured(transform, picture)
    placements = tuple(known[type(each), size_of(each)] for each in pictures)
    return Photos(pictures, _inputs(pictures, transform), placements, single)


def _picture(photo: Any) -> Any:
    if isinstance(photo, str | PathLike):
        return read(photo)  # type: ignore[arg-type]
    size_of(photo)
    return photo if isinstance(photo, np.ndarray | Tensor) else rgb(photo)


def _inputs(pictures: Sequence[Any], transform: Transform) -> Any:
    """The model's input for all of `pictures`."""
    if is_processor(transform):
        return applied(transform, list(pictures))
    inputs = [_tensor(_applied(transform, picture), transform) for picture in pictures]
    shapes = list(dict.fromkeys(tuple(each.shape) for each in inputs))
    if len(shapes) > 1:
        raise InputError(
            f"transform {called(transform)} makes inputs of shapes {', '.join(map(str, shapes))}, "
            "which do not form a batch; load the photos one at a time"
        )
    return torch.stack(inputs)


def _applied(transform: Transform, picture: Any) -> Any:
    """The result of `transform` for `picture`; for an array that it refuses, for a PIL image."""
    try:
        return applied(transform, picture)
    except Exception:  # a transform may refuse an array in any way
        if not isinstance(picture, np.ndarray):
            raise
    return applied(transform, as_pil(picture))


def _tensor(result: Any, transform: Transform) -> Tensor:
    """The model's input ``(C, h, w)`` in the result of `transform`."""
    if isinstance(result, Mapping):
        result = result.get("pixel_values", result.get("image"))
    if isinstance(result, np.ndarray) and result.ndim == 3:
        result = torch.from_numpy(result)
        result = result.movedim(-1, 0) if result.shape[-1] in (1, 3) else result
    if isinstance(result, Tensor) and result.ndim == 4 and len(result) == 1:
        result = result[0]
    if not isinstance(result, Tensor) or result.ndim != 3 or not result.is_floating_point():
        raise InputError(
            f"transform {called(transform)} returns {described(result)}; expected the model's "
            "input, a floating-point tensor (C, h, w); end the transform with ToTensor, or "
            "v2.ToImage and v2.ToDtype(torch.float32, scale=True), and Normalize"
        )
    return result
