"""The networks of timm by name, where it is installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from torch import nn

from camlib.integrations.torchvision import seeded


def knows(name: str) -> bool:
    """Whether timm is installed, has a network `name`, and torchvision has none of that name."""
    if find_spec("timm") is None:
        return False
    from timm import is_model
    from torchvision import models

    return is_model(name) and name.lower() not in models.list_models(module=models)


def untrained(name: str) -> tuple[nn.Module, int, int]:
    """The network `name` with random weights, always the same, its input's size and channels."""
    from timm import create_model

    model: Any = seeded(lambda: create_model(name, pretrained=False))
    channels, size, _ = model.pretrained_cfg["input_size"]
    return model, size, channels
