"""Read pictures from files of any format and depth: upright, in RGB, ready for a transform.

Nothing is guessed silently. Values without a known range give an error, and frames that are left
out give a warning.
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
    from PIL.ImageFile import ImageFile

HEIF = (".heic", ".heif", ".hif")
"""The suffixes of HEIC files."""

FORMATS = (
    *("AVIF", "BMP", "DDS", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM"),
    *("PSD", "QOI", "SGI", "TGA", "TIFF", "WEBP"),
)
"""The formats that are read, whatever a file is called. Pillow has decoders of other formats that
start programs, such as an interpreter of PostScript."""

_CAMERAS = ("MPO",)
"""Formats in which later frames are other views of the first."""


def read(file: str | Path) -> Image:
    """The picture in `file`, upright, in RGB with 8 bits.

    Only the first of several frames is read. Transparent parts become white. Values of 16 bits that
    fit into 12 are read as 12 bits. AVIF needs a Pillow that can read it; HEIC needs `pillow-heif`.

    Raises:
        InputError: the file does not exist, or cannot be read.
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
    """The picture in `source`, in the form of `read`.

    Args:
        source: a file, or a stream that can be rewound.
        name: its name in messages.

    Raises:
        InputError: the picture cannot be read.
    """
    from PIL import Image, ImageOps

    try:
        # Pillow warns of things it can handle: large pictures, palettes, damaged metadata.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with opened_picture(source) as opened:
                frames, kind = getattr(opened, "n_frames", 1), opened.format
                image = ImageOps.exif_transpose(opened)
    except Image.DecompressionBombError:
        raise InputError(
            f"image {name!r} has more pixels than Pillow's limit; if you trust the file, set "
            "PIL.Image.MAX_IMAGE_PIXELS = None, or shrink the picture first"
        ) from None
    except Exception as error:  # the decoder of a broken file may raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"image {name!r} cannot be read ({reason}); expected a picture such as PNG or JPEG"
        ) from None
    if frames > 1 and kind not in _CAMERAS:
        warn(f"image {name!r} has {frames} frames; only the first is used")
    try:
        return rgb(image)
    except InputError as error:
        raise InputError(f"image {name!r} cannot be read: {error}") from None


def opened_picture(source: Path | IO[bytes]) -> ImageFile:
    """The picture in `source` as Pillow opens it, if it has one of `FORMATS`."""
    from PIL import Image

    Image.init()  # plug-ins of other libraries stay
    return Image.open(source, formats=[kind for kind in FORMATS if kind in Image.OPEN])


def rgb(image: Image) -> Image:
    """`image` in RGB: with more bits reduced to 8, and transparent parts on white.

    Raises:
        InputError: the range of its values is unknown.
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
    """`values` of a picture, integers or floating point, scaled to [0, 1].

    Integers are taken to have 8, 12 or 16 bits, the fewest that can hold them all. Floating-point
    values are taken to end at 1, or at 255 if any is larger than 1.

    Raises:
        InputError: values are out of these ranges, or not finite.
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
            f"image has {kind} from {low:.6g} to {high:.6g}; expected values in {known}; scale "
            "them to 255, and save the picture with 8 bits"
        )
    if not floats and high <= 4095 and (values.itemsize > 2 or high > 255):
        most = 4095 if high > 255 else 255
        bits = 12 if high > 255 else 8
        warn(
            f"image has integers of {8 * values.itemsize} bits up to {high:.0f}, and is read as "
            f"{bits} bits; if that is wrong, scale it to 255 and save it with 8 bits"
        )
    return np.asarray(values, np.float32) / np.float32(most)


def _register_heif(file: Path) -> None:
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise InputError(
            f"image {str(file)!r} is HEIC, which needs another library; run pip install "
            "pillow-heif, or save the picture as JPEG"
        ) from None
    register_heif_opener()
