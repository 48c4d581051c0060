"""Arrays written, and what the disk may refuse."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from torch import Tensor

from camlib.cli.terminal import first_line
from camlib.errors import InputError
from camlib.visual.files import write_whole


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
