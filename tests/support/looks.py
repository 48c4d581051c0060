"""Outputs of a layer in a measurement, built from where its places look."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from camlib.maps import Window


def centres(*grid: int, window: Window = ()) -> Tensor:
    """The middle of each cell of a `grid` on a part of the input, ``(A, *grid)``."""
    lines = [
        start + (torch.arange(n, dtype=torch.float64) + 0.5) / n * (end - start)
        for n, (start, end) in zip(grid, window or [(0.0, 1.0)] * len(grid), strict=True)
    ]
    return torch.stack(torch.meshgrid(*lines, indexing="ij"))


def looking(positions: Tensor, spread: float = 0.0, strength: float | Tensor = 1.0) -> Tensor:
    """What a layer returns whose places look at `positions`, ``(1 + 2 A, C, *places)``.

    First for a sample as it is, then, for each axis, for growing and for falling noise.

    Args:
        positions: ``(A, *places)``.
        spread: each place looks as much at what lies so far before its position as behind.
        strength: by how much it changes; one for all, or ``(*places)``.
    """
    points = torch.stack([positions - spread, positions + spread], 1)
    changes = torch.stack([points, 1 - points], 1).flatten(0, 1) * strength
    # Three channels, at right angles to each other for the two points, so that none sees one alone.
    mixed = torch.tensor([[1.0, -1.0], [1.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    mixed = mixed / mixed.square().sum(0).sqrt()
    changes = torch.einsum("cp,np...->nc...", mixed, changes)
    return 1 + torch.cat([torch.zeros_like(changes[:1]), changes])


def nothing(count: int, strength: float = 0.03) -> Tensor:
    """Tokens that look at the whole of a picture and change a little, ``(5, C, count)``."""
    middle = torch.full((2, count), 0.5, dtype=torch.float64)
    return looking(middle, spread=math.sqrt(1 / 12), strength=strength)
