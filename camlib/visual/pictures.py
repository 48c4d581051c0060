"""Convert pictures between tensors, NumPy arrays and PIL images.

Each library has its own layout and range, and they are easy to confuse. Here every picture becomes
values ``(N, 3, H, W)`` in [0, 1] on its device. A volume or clip becomes one picture for each slice
or frame. A value that does not fit is refused, because a guess would show a wrong picture, and
nobody would notice.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

import numpy as np
import torch
from torch import Tensor

from camlib.errors import InputError
from camlib.visual.reading import in_unit, rgb

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

Picture = TypeVar("Picture", bound="Tensor | NDArray[Any] | Image")
"""The same kind of picture in and out."""

_TOLERANCE = 1e-3


def unpack(image: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """The values ``(N, 3, H, W)`` of `image` in float32 or better, and the way back to its kind.

    Floating-point values stay as given, see `check_unit`; those of 8 bits are divided by 255. The
    slices of N volumes ``(N, C, D, H, W)`` follow each other, ``(N * D, 3, H, W)``.

    Raises:
        InputError: `image` is not a picture, or has another layout or dtype.
    """
    stored, restore = unpack_stored(image)
    values = stored.to(torch.promote_types(stored.dtype, torch.float32))
    return values / 255 if stored.dtype == torch.uint8 else values, restore


def unpack_stored(image: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """Like `unpack`, but in the dtype of `image`: uint8 up to 255, or floating point.

    Raises:
        InputError: `image` is not a picture, or has another layout or dtype.
    """
    if isinstance(image, Tensor):
        return _from_tensor(image.detach()), lambda values: _to_tensor(values, image)
    if isinstance(image, np.ndarray):
        values = _from_array(image)
        if image.dtype == np.uint8:
            return values, lambda values: to_array(values[0])
        return values, lambda values: _to_floats(values, image.dtype)
    if _is_pil(image):
        from PIL.Image import fromarray

        return _from_pil(image), lambda values: fromarray(to_array(values[0]))
    raise InputError(
        f"image is of type {type(image).__name__!r}; expected a tensor, a NumPy array or "
        "a PIL image; convert it first"
    )


def check_unit(**named: Tensor) -> None:
    """Check that all values lie in [0, 1] up to rounding, with one device synchronisation.

    Args:
        named: tensors with one device and dtype, by the names that the user knows.

    Raises:
        InputError: a value is out of range or not finite.
    """
    extremes = [extreme for values in named.values() for extreme in torch.aminmax(values)]
    ends = torch.stack(extremes).tolist()
    for name, low, high in zip(named, ends[::2], ends[1::2], strict=True):
        if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):
            raise InputError(
                f"{name} has values from {low:.4g} to {high:.4g}; expected finite values in "
                f"[0, 1]; {_advice(name, low, high)}"
            )


def _advice(name: str, low: float, high: float) -> str:
    """What to do about values from `low` to `high`."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"find out where they come from, or pass {name}.nan_to_num(0, 1, 0).clamp(0, 1)"
    if name == "image":
        return (
            "undo the normalisation of the model's input (image * std + mean), or divide values up "
            "to 255 by 255"
        )
    if low == high:
        return f"it is constant: pass {name}.clamp(0, 1)"
    return f"normalise it first: ({name} - {name}.min()) / ({name}.max() - {name}.min())"


def is_volume(image: Any) -> TypeGuard[Tensor]:
    """Whether `image` is a batch of volumes or clips: a tensor ``(N, C, D, H, W)``."""
    return isinstance(image, Tensor) and image.ndim == 5


def is_signal(image: Any, heatmap: Any) -> TypeGuard[Tensor]:
    """Whether `image` is a batch of signals ``(N, C, L)`` or one ``(C, L)``, given its `heatmap`.

    Only the heatmap distinguishes them from a picture ``(C, H, W)``: for signals it is ``(N, L)``,
    without a height.
    """
    shape = tuple(getattr(heatmap, "shape", ()))
    if not isinstance(image, Tensor):
        return False
    if image.ndim == 2:
        return shape in ((image.shape[-1],), (1, image.shape[-1]))
    return image.ndim == 3 and shape == (image.shape[0], image.shape[2])


def to_uint8(values: Tensor) -> Tensor:
    """Values in [0, 1] as uint8 from 0 to 255, rounded to the nearest; uint8 stays unchanged."""
    return values if values.dtype == torch.uint8 else (values * 255).round().to(torch.uint8)


def to_array(values: Tensor) -> NDArray[Any]:
    """Values ``(3, H, W)`` as an array ``(H, W, 3)`` of uint8 for PIL and matplotlib."""
    return to_uint8(values).permute(1, 2, 0).contiguous().cpu().numpy()


def _is_pil(image: Any) -> bool:
    # A user with a PIL image has imported PIL.
    pil = sys.modules.get("PIL.Image")
    return pil is not None and isinstance(image, pil.Image)


def _from_tensor(image: Tensor) -> Tensor:
    shape = tuple(image.shape)
    channels = -3 if len(shape) < 5 else 1
    if len(shape) not in (3, 4, 5) or shape[channels] not in (1, 3):
        raise InputError(
            f"image is a tensor of shape {shape}; expected (C, H, W), (N, C, H, W) or "
            f"(N, C, D, H, W) with 1 or 3 channels; {_tensor_advice(shape)}"
        )
    if len(shape) == 5:
        image = image.movedim(2, 1).flatten(0, 1)
    return _checked(image if len(shape) > 3 else image[None]).expand(-1, 3, -1, -1)


def _tensor_advice(shape: tuple[int, ...]) -> str:
    if len(shape) == 2:
        return "pass image[None]"
    if len(shape) not in (3, 4, 5):
        return "pass a batch of one of these"
    last = {3: "(2, 0, 1)", 4: "(0, 3, 1, 2)", 5: "(0, 4, 1, 2, 3)"}[len(shape)]
    if shape[-1] in (1, 3, 4):
        return f"its channels are last: pass image.permute{last}"
    before = ":, " if len(shape) > 3 else ""
    some = [3, 2, 1] if shape[1 if before else 0] > 3 else [0]
    advice = f"select the channels to show: image[{before}{some}]"
    one_volume = len(shape) == 4 and shape[0] in (1, 3)
    return f"{advice}; for one volume or clip pass image[None]" if one_volume else advice


def _from_array(image: NDArray[Any]) -> Tensor:
    shape = image.shape
    if not (len(shape) == 2 or (len(shape) == 3 and shape[-1] in (1, 3))):
        advice = "select the channels to show: image[..., [3, 2, 1]]"
        if len(shape) == 4:
            advice = "pass the images one at a time"
        elif len(shape) == 3 and shape[-1] == 4:
            advice = "drop the alpha channel: pass image[..., :3]"
        elif len(shape) == 3 and shape[0] in (1, 3):
            advice = "its channels are first: pass image.transpose(1, 2, 0)"
        raise InputError(
            f"image is an array of shape {shape}; expected (H, W) or (H, W, C) with 1 or 3 "
            f"channels; {advice}"
        )
    if image.dtype != np.uint8 and image.dtype.kind != "f":
        raise _wrong_dtype(image.dtype)
    # A copy, as torch warns of read-only arrays and refuses negative strides.
    values = torch.from_numpy(np.array(image if len(shape) == 3 else image[..., None]))
    return _checked(values.permute(2, 0, 1)[None]).expand(-1, 3, -1, -1)


def _from_pil(image: Image) -> Tensor:
    if image.mode.startswith("I") or image.mode == "F":
        # PIL clips 16 bits to 255, which makes nearly every scan white.
        return _from_array(in_unit(np.asarray(image)))
    return _from_array(np.array(rgb(image)))


def _checked(image: Tensor) -> Tensor:
    """`image`, if it has pixels in 8 bits or floating point."""
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise _wrong_dtype(image.dtype)
    if image.numel() == 0:
        raise InputError(f"image of shape {tuple(image.shape)} is empty; expected pixels to show")
    return image


def _wrong_dtype(dtype: Any) -> InputError:
    return InputError(
        f"image has dtype {str(dtype)!r}; expected uint8, or floating point in [0, 1]; convert it, "
        "and divide values up to 255 by 255"
    )


def _to_tensor(values: Tensor, image: Tensor) -> Tensor:
    values = to_uint8(values) if image.dtype == torch.uint8 else values.to(image.dtype)
    if is_volume(image):
        return values.reshape(len(image), -1, *values.shape[1:]).movedim(1, 2)
    return values if image.ndim == 4 else values[0]


def _to_floats(values: Tensor, dtype: np.dtype[Any]) -> NDArray[Any]:
    return values[0].permute(1, 2, 0).contiguous().numpy().astype(dtype, copy=False)
