"""Photos with the input that a transform makes of them, and where it lies on them."""

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
    """One photo or several, ready to be explained.

    Attributes:
        pictures: the photos: upright PIL images in RGB where they came from files or were PIL
            images, else as they were given.
        inputs: what the model is called with: a tensor ``(N, C, h, w)`` or, of a processor of
            Hugging Face, the mapping that it returned.
        placements: where the input lies on each photo.
        single: whether one photo was given, not a list: an overlay is then no list either.
    """

    pictures: tuple[Any, ...]
    inputs: Any
    placements: tuple[Placement, ...]
    single: bool

    def __len__(self) -> int:
        return len(self.pictures)

    def to(self, device: Any) -> Photos:
        """The same photos with their inputs on `device`."""
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
    """`photo` with the input that `transform` makes of it, and where that lies on it.

    Args:
        photo: a file, a PIL image, a NumPy array or a tensor ``(C, H, W)``; or a list of these,
            which become one batch.
        transform: what the model was trained with: a torchvision transform such as
            ``weights.transforms()``, an image processor of Hugging Face, a transform of
            albumentations, or any function from a picture to a tensor.

    Raises:
        InputError: a file that cannot be read, or a transform that makes no input, draws at random
            or does more than to resize, crop, pad, flip and turn by quarters.

    Example:
        >>> photo = camlib.load("photo.jpg", weights.transforms())
        >>> seen = GradCAM(model).explain(photo.inputs)
        >>> seen.overlay(photo).save("overlay.png")
    """
    single = not isinstance(photo, list | tuple)
    given = [photo] if single else list(photo)
    if not given:
        raise InputError("photo is an empty list; expected a file, a picture or several")
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
    """What a model is called with for all of `pictures`."""
    if is_processor(transform):
        return applied(transform, list(pictures))
    inputs = [_tensor(_applied(transform, picture), transform) for picture in pictures]
    shapes = list(dict.fromkeys(tuple(each.shape) for each in inputs))
    if len(shapes) > 1:
        raise InputError(
            f"transform {called(transform)} makes inputs of shapes {', '.join(map(str, shapes))}, "
            "which are no batch; load the photos one by one"
        )
    return torch.stack(inputs)


def _applied(transform: Transform, picture: Any) -> Any:
    """What `transform` makes of `picture`, as a PIL image where it takes no other kind."""
    try:
        return applied(transform, picture)
    except Exception:
        if not isinstance(picture, np.ndarray):
            raise
    return applied(transform, as_pil(picture))


def _tensor(result: Any, transform: Transform) -> Tensor:
    """The input ``(C, h, w)`` in what `transform` returned."""
    if isinstance(result, Mapping):
        result = result.get("pixel_values", result.get("image"))
    if isinstance(result, np.ndarray) and result.ndim == 3:
        result = torch.from_numpy(result)
        result = result.movedim(-1, 0) if result.shape[-1] in (1, 3) else result
    if isinstance(result, Tensor) and result.ndim == 4 and len(result) == 1:
        result = result[0]
    if not isinstance(result, Tensor) or result.ndim != 3 or not result.is_floating_point():
        raise InputError(
            f"transform {called(transform)} returns {described(result)}; expected a floating-point "
            "tensor (C, h, w), as the model takes it; end it with ToTensor, or v2.ToImage and "
            "v2.ToDtype(torch.float32, scale=True), and Normalize"
        )
    return result
