"""Many passes of a model, in chunks of bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from camlib.errors import warn
from camlib.options import Count, check

Found = TypeVar("Found")

Progress = Callable[[Iterable[Any]], Iterable[Any]]
"""Shows how far a loop has come, such as `tqdm.tqdm`."""

_NOTHING: Any = object()

_GROWTH = 32
"""How many times the memory of a sample the layers that see it may take at once."""

_BUDGET = 2**29
"""Bytes for a chunk where free memory says little, as on a CPU."""

_MOST = 256
"""Samples at once; more are no faster."""


@dataclass(frozen=True)
class Chunks:
    """How to go through many changed samples.

    Attributes:
        size: how many at once; ``None`` for what fits into free memory.
        progress: wraps the loop over chunks.

    Raises:
        OptionError: `size` is no count.
    """

    size: int | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        check("batch_size", self.size, Count | None)

    def run(
        self, function: Callable[[Tensor], Found], items: Tensor, *like: Tensor
    ) -> Iterator[tuple[Tensor, Found]]:
        """Some of `items` and what `function` makes of them, one chunk after the other.

        A chunk that does not fit into memory is tried again by halves, with a warning.

        Args:
            function: runs the model.
            items: ``(P, ...)``, what to run it for.
            like: what it sees of an item is of the size of a sample of these, ``(N, ...)``.
        """
        size = fitting(*like) if self.size is None else self.size
        chunks = torch.split(items, size) if len(items) else ()
        for chunk in chunks if self.progress is None else self.progress(chunks):
            while len(chunk):
                part, found = chunk[:size], _NOTHING
                try:
                    found = function(part)
                except (RuntimeError, MemoryError) as error:
                    if not out_of_memory(error) or len(part) == 1:
                        raise
                if found is _NOTHING:  # out here nothing holds on to what the chunk left behind
                    size = len(part) // 2
                    warn(
                        f"out of memory with {len(part)} at once; going on with {size}: pass "
                        f"batch_size={size} to start so"
                    )
                    continue
                yield part, found
                chunk = chunk[len(part) :]


def fitting(*like: Tensor) -> int:
    """How many samples of the size of one of each of `like` ``(N, ...)`` to run at once."""
    each = _GROWTH * sum(tensor[0].nbytes for tensor in like)
    return min(max(free(like[0].device) // max(each, 1), 1), _MOST)


def free(device: torch.device) -> int:
    """The bytes on `device` that a chunk may take."""
    if device.type != "cuda":
        return _BUDGET
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return (torch.cuda.mem_get_info(device)[0] + unused) // 2


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says so, in the words of any device, library or system."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in said for word in _OF_MEMORY)


_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
)
"""What plain errors say on a CPU, on Windows, on MPS, in cuBLAS and in cuDNN."""
