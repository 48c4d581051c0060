"""The classification networks of torchvision by name, ready for photos.

A network is of use only with the preprocessing and the class names it was trained with, which
torchvision keeps with its weights.
"""

from __future__ import annotations

from contextlib import redirect_stdout
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

from camlib.errors import InputError
from camlib.integrations.checkpoints import read_checkpoint
from camlib.integrations.heads import fill
from camlib.integrations.network import Network, names_of, reason_of, seeded

# Their builders would draw a slow start of their own, and their published weights, like all that
# came of them by fine-tuning, expect inputs scaled as TensorFlow did.
_OPTIONS = {
    name: {"init_weights": False, "transform_input": True} for name in ("googlenet", "inception_v3")
}


def load(name: str, weights: str = "DEFAULT", *, trust: bool = False) -> Network:
    """The network `name` with its preprocessing and class names.

    Args:
        name: of a classification network of torchvision, such as ``"resnet50"``.
        weights: the name of published weights, downloaded on first use, or a file with the weights
            of the network, see `read_checkpoint`. Another number of classes, or another head, is
            taken from the file, and so are the names of the classes where it has them; else they
            are called by their numbers; two where there is a single output.
        trust: whether a file with a whole pickled model is read, which can run any code.

    Raises:
        InputError: no such network, or weights that cannot be had or do not fit.
    """
    from torchvision.models import get_model, get_model_weights

    name = _known(name)
    published = get_model_weights(name).__members__
    if weights in published:
        preset = published[weights]
        return Network(
            _downloaded(name, preset).eval(), preset.meta["categories"], preset.transforms()
        )
    if not Path(weights).exists():
        raise InputError(
            f"weights {weights!r} not found; expected a file with a state dict, or one of "
            + ", ".join(published)
        )
    checkpoint = read_checkpoint(weights, trust=trust)
    model, preset = get_model(name, **_OPTIONS.get(name, {})), published["DEFAULT"]
    outputs = fill(model, checkpoint.state, weights, name)
    classes = names_of(outputs, checkpoint.classes or preset.meta["categories"])
    return Network(model.eval(), classes, preset.transforms(), several=outputs == 1)


def untrained(name: str) -> tuple[nn.Module, int, int]:
    """The network `name` with random weights, always the same, its input's size and channels.

    Raises:
        InputError: there is no such network.
    """
    from torchvision.models import get_model, get_model_weights

    name = _known(name)
    model = seeded(lambda: get_model(name, **_OPTIONS.get(name, {})))
    [size] = get_model_weights(name).DEFAULT.transforms().crop_size
    return model, size, 3


def _known(name: str) -> str:
    """`name` as torchvision spells it."""
    from torchvision import models

    known = models.list_models(module=models)
    if name.lower() in known:
        return name.lower()
    near = get_close_matches(name.lower(), [*known, "scenenet"], n=1)
    advice = f"did you mean {near[0]!r}?" if near else "expected for example 'resnet50'"
    raise InputError(f"model {name!r} is no classification network of torchvision; {advice}")


def _downloaded(name: str, weights: Any) -> nn.Module:
    from torchvision.models import get_model

    try:
        with redirect_stdout(StringIO()):  # the bar that follows says it better
            model: nn.Module = get_model(name, weights=weights)
    # A download can fail in as many ways as there are networks and disks.
    except Exception as error:
        raise InputError(
            f"cannot download the weights of {name!r} ({reason_of(error)}); put "
            f"{weights.url} into {torch.hub.get_dir()}/checkpoints, or pass a file with a state "
            "dict as weights"
        ) from None
    return model
