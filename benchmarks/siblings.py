"""Networks like the built-in one, trained for what it cannot show itself.

One pools where the built-in network strides, as the networks of the paper on the deconvnet did.
One ends in dense layers, so that places have gradients of their own, as in the paper on Grad-CAM++.
Both start from the weights of the built-in one. One saw a third of the scenes, so it is the weaker
of two. Each takes minutes to train and is kept in a folder.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from camlib import zoo
from camlib.zoo import SceneNet
from camlib.zoo.train import train


class PoolingNet(SceneNet):
    """The built-in network with max-pooling in place of strides."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(*_block(3, 24), nn.MaxPool2d(2)),
            *(*_block(24, 48), nn.MaxPool2d(2)),
            *_block(48, 48),
            *(*_block(48, 96), nn.MaxPool2d(2)),
            *(*_block(96, 96), *_block(96, 96)),
            *_block(96, 128),
        )
        self.load_state_dict(dict(zip(self.state_dict(), _BUILT_IN.values(), strict=True)))


class DenseNet(SceneNet):
    """The built-in network with two dense layers over a grid of 4 x 4 as its end."""

    def __init__(self) -> None:
        super().__init__()
        known = {name: w for name, w in _BUILT_IN.items() if name.startswith("features")}
        self.load_state_dict(known, strict=False)
        self.pool = nn.AdaptiveAvgPool2d(4)
        dense: Any = nn.Sequential(nn.Linear(128 * 16, 128), nn.ReLU(), nn.Linear(128, 8))
        self.classifier = dense


_BUILT_IN = zoo.load().state_dict()


def _block(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    ]


SIBLINGS: dict[str, tuple[Callable[[], SceneNet], int, float]] = {
    "pooling": (PoolingNet, 6_400, 1e-3),
    "dense": (DenseNet, 12_800, 1e-3),
    "weaker": (SceneNet, 20_000, 4e-3),
}
"""What is trained, on how many scenes, and the learning rate."""


def sibling(name: str, folder: Path) -> SceneNet:
    """The network `name` in evaluation mode; it is trained if `folder` does not have it."""
    build, count, rate = SIBLINGS[name]
    file = folder / f"{name}.pt"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(train(count, build=build, learning_rate=rate, workers=0).state_dict(), file)
    network = build().eval()
    network.load_state_dict(torch.load(file, weights_only=True))
    return network
