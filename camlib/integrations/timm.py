"""The networks of timm by name, where it is installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from torch import nn

from camlib.errors import InputError
from camlib.integrations.checkpoints import read_checkpoint
from camlib.integrations.heads import fill
from camlib.integrations.network import Network, imagenet, names_of, reason_of, seeded


def knows(name: str) -> bool:
    """Whether timm is installed, has a network `name`, and torchvision has none of that name."""
    if find_spec("timm") is None:
        return False
    from timm import is_model
    from torchvision import models

    return is_model(name) and name.lower() not in models.list_models(module=models)


def load(name: str, weights: str = "DEFAULT", *, trust: bool = False) -> Network:
    """The network `name` with its preprocessing and class names.

    Args:
        name: as timm has it, such as ``"resnet50.a1_in1k"``.
        weights: ``"DEFAULT"`` for the published ones, downloaded on first use, or a file, see
            `camlib.integrations.torchvision.load`.
        trust: whether a file with a whole pickled model is read, which can run any code.

    Raises:
        InputError: timm is not installed or has no such network, or weights that cannot be had or
            do not fit.
    """
    _check(name)
    from timm import create_model
    from timm.data import create_transform, resolve_model_data_config

    names: Any = ()
    if weights == "DEFAULT":
        try:
            model: Any = create_model(name, pretrained=True)
        # A download can fail in as many ways as there are networks and disks.
        except Exception as error:
            raise InputError(
                f"cannot download the weights of 'timm:{name}' ({reason_of(error)}); pass a file "
                "with a state dict as weights"
            ) from None
        outputs = model.num_classes
    else:
        checkpoint = read_checkpoint(weights, trust=trust)
        model = create_model(name, pretrained=False)
        outputs, names = fill(model, checkpoint.state, weights, f"timm:{name}"), checkpoint.classes
    names = names or model.pretrained_cfg.get("label_names") or imagenet()
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    return Network(model.eval(), names_of(outputs, names), transform, several=outputs == 1)


def untrained(name: str) -> tuple[nn.Module, int, int]:
    """The network `name` with random weights, always the same, its input's size and channels.

    Raises:
        InputError: timm is not installed or has no such network.
    """
    _check(name)
    from timm import create_model

    model: Any = seeded(lambda: create_model(name, pretrained=False))
    channels, size, _ = model.pretrained_cfg["input_size"]
    return model, size, channels


def _check(name: str) -> None:
    if find_spec("timm") is None:
        raise InputError(f"'timm:{name}' needs one more library: pip install timm")
    from timm import is_model, list_models

    if not is_model(name):
        near = list_models(f"*{name.partition('.')[0]}*")[:3]
        advice = f"did you mean {', '.join(map(repr, near))}?" if near else "see timm.list_models()"
        raise InputError(f"timm has no network {name!r}; {advice}")
