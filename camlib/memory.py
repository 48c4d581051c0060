"""Memory for large results."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

_LARGE = 2**25
"""Bytes above which memory that was freed is not used again, but asked of the system anew."""


def empty(shape: Sequence[int], like: Tensor) -> Tensor:
    """A tensor of `shape`, of the dtype and on the device of `like`, its values not set.

    Fresh memory is cleared page by page when it is first written, and with pages of 4 KiB that
    takes longer than to compute what is written. Large results ask Linux for pages of 2 MiB.
    """
    found = torch.Size(shape)
    size = found.numel() * like.element_size()
    plain = type(like) is Tensor and like.device.type == "cpu"
    if plain and size > _LARGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them, or no memory, of which PyTorch will tell
            pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            pages.madvise(mmap.MADV_HUGEPAGE)
            return torch.frombuffer(pages, dtype=like.dtype).view(found)
    return like.new_empty(found)
