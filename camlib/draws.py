"""Random numbers that depend on a seed alone, not on PyTorch's default dtype and device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode


class Draws:
    """Random numbers from one generator on the CPU, so that every device gets the same."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator("cpu").manual_seed(seed)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), of `shape`."""
        return torch.rand(shape, generator=self._generator, dtype=torch.float32, device="cpu")

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Normal numbers of mean 0 and variance 1, of `shape`."""
        return torch.randn(shape, generator=self._generator, dtype=dtype, device="cpu")

    def order(self, count: int) -> Tensor:
        """The integers from 0 up to `count`, in a random order."""
        return torch.randperm(count, generator=self._generator, dtype=torch.int64, device="cpu")

    def numbers(self, stop: int, *shape: int) -> Tensor:
        """Integers from 0 up to `stop`, of `shape`."""
        return torch.randint(
            stop, shape, generator=self._generator, dtype=torch.int64, device="cpu"
        )


class Seeded(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """What is drawn in the block follows from a seed; the generators of PyTorch do not move.

    The numbers are those that follow from `torch.manual_seed`, which would move the generator that
    all threads share.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # where it is skipped, it is imported first, which takes a second

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """What `func` returns, which draws from a generator of the block's own."""
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags and not kwargs.get("generator"):
            if not any(each.name == "generator" for each in func._schema.arguments):
                func = getattr(func.overloadpacket, "generator", func)
            if any(each.name == "generator" for each in func._schema.arguments):
                device = next((each.device for each in args if isinstance(each, Tensor)), None)
                kwargs = kwargs | {"generator": self._on(device or kwargs.get("device") or "cpu")}
        return func(*args, **kwargs)

    def _on(self, device: torch.device | str) -> torch.Generator:
        device = torch.device(device)
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]
