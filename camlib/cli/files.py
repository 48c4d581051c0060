"""Images read, arrays written, and what may go wrong with either."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from camlib.cli.terminal import first_line
from camlib.errors import InputError
from camlib.visual.files import write_whole

if TYPE_CHECKING:
    from PIL.Image import Image


def read(file: Path) -> Image:
    """The image in `file`, upright, in three colours of 8 bits.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    from PIL import Image, ImageOps

    from camlib.visual.pictures import to_array, unpack

    if not file.exists():
        raise InputError(f"image {str(file)!r} does not exist; check the path")
    if file.is_dir():
        raise InputError(f"image {str(file)!r} is a folder; pass the files in it")
    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened)
    # A broken file makes its decoder raise whatever comes.
    except Exception as error:
        raise InputError(
            f"image {str(file)!r} cannot be read ({first_line(error)}); expected a picture such as "
            "PNG or JPEG"
        ) from None
    return Image.fromarray(to_array(unpack(image)[0][0]))


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """What the disk refuses in the block, as an error of camlib's.

    Raises:
        InputError: `file` cannot be written.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise InputError(f"cannot write {str(file)!r}: {reason}; choose another output") from None


def save_array(values: Tensor, file: Path) -> Path:
    """The path of the file that now holds `values` for NumPy, whole or not at all."""
    import numpy as np

    buffer = BytesIO()
    np.save(buffer, values.numpy())
    return write_whole(buffer.getvalue(), file)
