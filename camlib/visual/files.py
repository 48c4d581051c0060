"""Save pictures and figures, so that a file is either complete or not there at all."""

from __future__ import annotations

import os
import uuid
from io import BytesIO
from pathlib import Path
from typing import Any

from camlib.errors import InputError
from camlib.visual.pictures import check_unit, to_array, unpack

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_FIGURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg")


def to_png(picture: Any) -> bytes:
    """One picture or figure in PNG format."""
    return _encoded(picture, ".png")


def save_picture(picture: Any, path: str | os.PathLike[str]) -> Path:
    """Save `picture` and return the path of the file.

    The file gets its name when it is complete. If saving fails, an older file stays unchanged.

    Args:
        picture: one PIL image, NumPy array or tensor, which becomes RGB, or a matplotlib figure.
        path: the path; its suffix chooses the format.

    Raises:
        InputError: the folder does not exist, the suffix is unknown, or `picture` is not a picture.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    suffixes = _FIGURE_SUFFIXES if hasattr(picture, "savefig") else _IMAGE_SUFFIXES
    if suffix not in suffixes:
        raise InputError(
            f"cannot write {path.name!r}; expected a name with one of the suffixes "
            f"{', '.join(suffixes)}"
        )
    if not path.parent.is_dir():
        raise InputError(f"folder {str(path.parent)!r} does not exist; create it first")
    return write_whole(_encoded(picture, suffix), path)


def write_whole(content: bytes, path: Path) -> Path:
    """Write `content` to `path` and return the path; a failure leaves an older file unchanged."""
    # Not by tempfile, whose files only their owner may read.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _encoded(picture: Any, suffix: str) -> bytes:
    buffer = BytesIO()
    if hasattr(picture, "savefig"):
        picture.savefig(buffer, format=suffix[1:])
        return buffer.getvalue()
    from PIL.Image import fromarray, registered_extensions

    values, _ = unpack(picture)
    check_unit(image=values)
    if len(values) != 1:
        raise InputError(
            f"image of shape {tuple(picture.shape)} holds {len(values)} pictures; expected one; "
            "save them one at a time"
        )
    image = fromarray(to_array(values[0].clamp(0, 1)))
    image.save(buffer, format=registered_extensions()[suffix], quality=95)
    return buffer.getvalue()
