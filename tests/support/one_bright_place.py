"""Networks and inputs with one bright place, so that the right map is known."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

PATCH, WIDTH = 8, 5

Cells = list[tuple[int, ...]]


def patches(axes: int = 2, channels: int = 3, size: int = PATCH, padding: int = 0) -> nn.Module:
    """A convolution over patches; the first channel is the mean brightness of a patch."""
    kind = [nn.Conv1d, nn.Conv2d, nn.Conv3d][axes - 1]
    conv: Any = kind(channels, WIDTH, size, size, padding)
    generator = torch.Generator().manual_seed(0)
    conv.weight.data = torch.randn(conv.weight.shape, generator=generator) / 50
    conv.weight.data[0] = 1 / conv.weight[0].numel()
    nn.init.zeros_(conv.bias)
    return conv


class Passing(nn.Module):
    """A layer that returns what it is given."""

    def forward(self, given: Tensor) -> Tensor:
        return given * 1


def answer(brightness: Tensor) -> Tensor:
    """Scores ``(N, 2)`` of how bright places ``(N, ...)`` are: class 1 says that they are."""
    bright = brightness.flatten(1).mean(1)
    return torch.stack([-bright, bright], 1)


def dim(*shape: int) -> Tensor:
    """Inputs of `shape` without evidence: a little noise."""
    return 0.05 * torch.rand(shape, generator=torch.Generator().manual_seed(1))


class Prompted(nn.Module):
    """Takes the patches of an image where the words of a text say 3, as language models do."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.layer = patches(), Passing()
        self.words = nn.Embedding(4, WIDTH)

    def forward(self, batch: Tensor, words: Tensor) -> Tensor:
        seen = (words == 3)[..., None].expand(-1, -1, WIDTH)
        tokens = self.words(words).masked_scatter(seen, self.patches(batch).flatten(2).mT)
        return answer(self.layer(tokens)[..., 0] * seen[..., 0])


def text(before: int, behind: int, image: int = 35) -> list[int]:
    """So many words before and behind an image of 35 patches."""
    return [1] * before + [3] * image + [2] * behind


def planted(size: tuple[int, ...], starts: Cells, channels: int = 3) -> Tensor:
    """Inputs ``(N, channels, *size)``, each bright for a patch from one of `starts` on."""
    batch = dim(len(starts), channels, *size)
    for one, start in zip(batch, starts, strict=True):
        one[(slice(None), *(slice(first, first + PATCH) for first in start))] = 1
    return batch


def assert_right(heatmaps: Tensor, starts: Cells, tolerance: float = PATCH / 2) -> None:
    """The heatmaps are hot where the inputs are bright."""
    for heat, start in zip(heatmaps, starts, strict=True):
        middle = (heat > 0.7 * heat.max()).nonzero().double().mean(0)
        expected = torch.tensor(start) + (PATCH - 1) / 2
        assert middle.shape == expected.shape
        assert ((middle - expected).abs() <= tolerance).all(), (middle, expected)
