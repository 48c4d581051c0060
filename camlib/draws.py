"""Random numbers that a seed fixes, whatever PyTorch has as its default dtype and device."""

from __future__ import annotations

import torch
from torch import Tensor


class Draws:
    """Numbers in float32 from a generator of their own, on the CPU: the same on every device."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator("cpu").manual_seed(seed)

    def uniform(self, *shape: int) -> Tensor:
        """In [0, 1), of `shape`."""
        return torch.rand(shape, generator=self._generator, dtype=torch.float32, device="cpu")

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Of mean 0 and variance 1, of `shape`."""
        return torch.randn(shape, generator=self._generator, dtype=dtype, device="cpu")

    def order(self, count: int) -> Tensor:
        """The integers from 0 up to `count`, in a random order."""
        return torch.randperm(count, generator=self._generator, dtype=torch.int64, device="cpu")

    def numbers(self, stop: int, *shape: int) -> Tensor:
        """Integers from 0 up to `stop`, of `shape`."""
        return torch.randint(
            stop, shape, generator=self._generator, dtype=torch.int64, device="cpu"
        )
