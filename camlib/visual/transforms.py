"""Call any transform on a picture, and find the picture in its result.

Transforms of torchvision take a picture and return a tensor. Image processors of Hugging Face take
``images=`` and return a mapping of batches. Transforms of albumentations take ``image=`` and return
a mapping of arrays. Everything else is called with the picture alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from camlib.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

Transform = Callable[..., Any]
"""A function from a picture to the model's input."""

_NAMES = ("pixel_values", "image", "images")
"""The names of pictures in a mapping, the likeliest first."""

_FEW = (1, 3, 4)
"""The possible numbers of colour channels, which identify their axis."""


def applied(transform: Transform, picture: Any) -> Any:
    """The unchanged result of `transform` for `picture`."""
    if is_processor(transform):
        return getattr(transform, "image_processor", transform)(picture, return_tensors="pt")
    if _is_of("albumentations", transform):
        return transform(image=np.asarray(picture))
    if isinstance(picture, np.ndarray) and _is_of("torchvision.transforms.v2", transform):
        # Version 2 passes arrays through unchanged until a step turns them into images.
        picture = as_pil(picture)
    return transform(picture)


def as_pil(array: NDArray[Any]) -> Image:
    """`array` ``(H, W)`` or ``(H, W, C)``, uint8 or floating point in [0, 1], as a PIL image."""
    from PIL.Image import fromarray

    if array.dtype.kind == "f":
        array = (array * 255).round().astype(np.uint8)
    return fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def is_processor(transform: Any) -> bool:
    """Whether `transform` is an image processor of Hugging Face, or contains one."""
    processor = getattr(transform, "image_processor", transform)
    return hasattr(processor, "model_input_names") and hasattr(processor, "preprocess")


def picture_in(result: Any, transform: Transform) -> Tensor:
    """The picture ``(C, h, w)`` in the `result` of `transform`, in its dtype.

    Raises:
        InputError: there is no picture, or more than one.
    """
    values = _values_in(result)
    if isinstance(values, list | tuple) and len(values) == 1:
        [values] = values
    if _is_pil(values):
        values = np.asarray(values)
    if isinstance(values, np.ndarray) and values.ndim == 3 and values.shape[-1] in _FEW:
        values = values.transpose(2, 0, 1)
    if isinstance(values, np.ndarray):
        values = torch.from_numpy(np.array(values))
    if not isinstance(values, Tensor):
        several = isinstance(values, list | tuple)
        what = f"{len(values)} pictures" if several else f"{type(values).__name__!r}"
        raise _misfit(transform, what)
    if values.ndim == 4 and len(values) == 1:
        values = values[0]
    if values.ndim == 2:
        values = values[None]
    if values.ndim == 3 and values.shape[0] not in _FEW and values.shape[-1] in _FEW:
        values = values.movedim(-1, 0)
    if values.ndim != 3 or not values.numel():
        raise _misfit(transform, f"shape {tuple(values.shape)}")
    return values.detach().cpu()


def called(transform: Any) -> str:
    """The name of `transform`, for a message."""
    return str(getattr(transform, "__name__", type(transform).__name__))


def _values_in(result: Any) -> Any:
    if not isinstance(result, Mapping):
        return result
    names = [name for name in _NAMES if name in result] or list(result)
    return result[names[0]] if names else result


def _misfit(transform: Transform, what: str) -> InputError:
    return InputError(
        f"transform {called(transform)} returns {what}; expected one picture (C, H, W), or a "
        "mapping with one; leave out steps that cut a picture into several"
    )


def _is_of(library: str, transform: Any) -> bool:
    return any(f"{kind.__module__}.".startswith(f"{library}.") for kind in type(transform).__mro__)


def _is_pil(image: Any) -> bool:
    pil = sys.modules.get("PIL.Image")
    return pil is not None and isinstance(image, pil.Image)
