"""Small data for the accumulators of metrics."""

from __future__ import annotations

import torch
from nets import images
from torch import Tensor

NAMES = ["average_drop", "deletion", "complexity"]


def data(count: int = 9) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, maps, masks of objects, and targets."""
    batch = images(count)
    maps = torch.rand(count, 8, 8, generator=torch.Generator().manual_seed(2))
    masks = torch.zeros(count, 8, 8, dtype=torch.bool)
    for n in range(count):
        masks[n, n % 5 : n % 5 + 3, 2:6] = True
    # Two of three are hot on the object.
    maps = torch.where(
        masks & (torch.arange(count) % 3 > 0)[:, None, None], maps / 4 + 0.75, maps / 2
    )
    return batch, maps, masks, torch.arange(count) % 3
