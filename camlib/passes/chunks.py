"""Run a model on many samples, in chunks that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from camlib.errors import warn
from camlib.options import Count, check

Result = TypeVar("Result")

Progress = Callable[[Iterable[Any]], Iterable[Any]]
"""Wraps a loop to show its progress, such as `tqdm.tqdm`."""

_NOTHING: Any = object()

_GROWTH = 32
"""The memory that layers may take for a sample, as a multiple of the sample's own."""

_BUDGET = 2**29
"""The bytes of a chunk on devices that do not tell their free memory, such as a CPU."""

_MOST = 256
"""The most samples at once; more are no faster."""


@dataclass(frozen=True)
class Chunks:
    """How to run many changed samples.

    Attributes:
        size: the number at once; ``None`` for as many as fit into free memory.
        progress: wraps the loop over chunks.

    Raises:
        OptionError: `size` is not a count.
    """

    size: int | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        check("batch_size", self.size, Count | None)

    def run(
        self, function: Callable[[Tensor], Result], items: Tensor, *like: Tensor
    ) -> Iterator[tuple[Tensor, Result]]:
        """Each chunk of `items`, and the result of `function` for it.

        A chunk that does not fit into memory runs again in halves, with a warning.

        Args:
            function: runs the model on a chunk.
            items: what to run it on, ``(P, ...)``.
            like: tensors ``(N, ...)``; an item takes as much memory as a sample of all of them.
        """
        size = fitting(*like) if self.size is None else self.size
        chunks = torch.split(items, size) if len(items) else ()
        for chunk in chunks if self.progress is None else self.progress(chunks):
            while len(chunk):
                part, result = chunk[:size], _NOTHING
                try:
                    result = function(part)
                except (RuntimeError, MemoryError) as error:
                    if not out_of_memory(error) or len(part) == 1:
                        raise
                if result is _NOTHING:  # outside of `except`, where nothing keeps the failed chunk
                    size = len(part) // 2
                    warn(
                        f"out of memory with {len(part)} samples at once; continuing with {size}; "
                        f"pass batch_size={size} to start with that"
                    )
                    continue
                yield part, result
                chunk = chunk[len(part) :]


def fitting(*like: Tensor) -> int:
    """The number of samples to run at once, each as large as one of every `like` ``(N, ...)``."""
    each = _GROWTH * sum(tensor[0].nbytes for tensor in like)
    return min(max(free(like[0].device) // max(each, 1), 1), _MOST)


def free(device: torch.device) -> int:
    """The bytes on `device` that a chunk may take."""
    if device.type != "cuda":
        return _BUDGET
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return (torch.cuda.mem_get_info(device)[0] + unused) // 2


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` reports a lack of memory, in the words of any device, library or system."""
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
"""Words in errors on a CPU, on Windows, on MPS, in cuBLAS and in cuDNN."""
