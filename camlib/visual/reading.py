"""Pictures in files, of any format and depth, as what a transform takes: upright, in RGB.

Nothing is guessed in silence: what has no known range is refused, and what is left out, such as
further frames, is said.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from camlib.errors import InputError, warn

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

HEIF = (".heic", ".heif", ".hif")
"""What pictures of HEIC are called."""

_CAMERAS = ("MPO",)
"""Formats whose further frames are other views of the first."""


def read(file: str | Path) -> Image:
    """The picture in `file`, upright, in RGB of 8 bits.

    Of several frames the first. Transparent parts are white. Values of 16 bits that never exceed
    12 are read as 12 bits. AVIF and HEIC are read where Pillow can, or `pillow-heif` is installed.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    file = Path(file)
    if not file.exists():
        raise InputError(f"image {str(file)!r} does not exist; check the path")
    if file.is_dir():
        raise InputError(f"image {str(file)!r} is a folder; pass the files in it")
    if file.suffix.lower() in HEIF:
        _register_heif(file)
    return decoded(file, str(file))


def decoded(source: Path | IO[bytes], name: str) -> Image:
    """The picture in `source`, as `read` returns it.

    Args:
        source: a file, or a stream that can be rewound.
        name: what it is called in messages.

    Raises:
        InputError: it cannot be read.
    """
    from PIL import Image, ImageOps

    try:
        # Pillow warns of what it copes with: large pictures, palettes, damaged metadata.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(source) as opened:
                frames, kind = getattr(opened, "n_frames", 1), opened.format
                image = ImageOps.exif_transpose(opened)
    except Image.DecompressionBombError:
        raise InputError(
            f"image {name!r} has more pixels than Pillow reads; if you trust the file, set "
            "PIL.Image.MAX_IMAGE_PIXELS = None, or shrink it first"
        ) from None
    # A broken file makes its decoder raise whatever comes.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"image {name!r} cannot be read ({reason}); expected a picture such as PNG or JPEG"
        ) from None
    if frames > 1 and kind not in _CAMERAS:
        warn(f"image {name!r} has {frames} frames; the first is taken")
    try:
        return rgb(image)
    except InputError as error:
        raise InputError(f"image {name!r} cannot be read: {error}") from None


def rgb(image: Image) -> Image:
    """`image` of any mode in RGB: deep ones in 8 bits, transparent ones on white.

    Raises:
        InputError: its values have no known range.
    """
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        grey = np.asarray(in_unit(np.asarray(image)) * 255).round().astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def in_unit(values: NDArray[Any]) -> NDArray[np.float32]:
    """`values` of a picture of integers or floating point, in [0, 1].

    Integers are of 8, 12 or 16 bits, the fewest that hold them all. Floating point is in [0, 1]
    or, where it is above, up to 255.

    Raises:
        InputError: they lie beyond these ranges, or are not finite.
    """
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    floats = values.dtype.kind == "f"
    for most in (1, 255) if floats else (65535,):
        if low >= 0 and high <= most:
            break
    else:
        kind = "floating point" if floats else "integers"
        known = "[0, 1] or [0, 255]" if floats else "[0, 65535]"
        raise InputError(
            f"image holds {kind} from {low:.6g} to {high:.6g}; expected values in {known}; scale "
            "them to 255, and save them with 8 bits"
        )
    if not floats and high <= 4095 and (values.itemsize > 2 or high > 255):
        most = 4095 if high > 255 else 255
        bits = 12 if high > 255 else 8
        warn(
            f"image holds integers of {8 * values.itemsize} bits that end at {high:.0f}, and is "
            f"read as {bits} bits; scale them to 255 and save them with 8 bits to say otherwise"
        )
    return np.asarray(values, np.float32) / np.float32(most)


def _register_heif(file: Path) -> None:
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise InputError(
            f"image {str(file)!r} is HEIC, which needs one more library; pip install pillow-heif, "
            "or save it as JPEG"
        ) from None
    register_heif_opener()
