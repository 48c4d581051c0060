"""The classification networks of torchvision by name, ready for pictures.

A network is of use only with the preprocessing and the class names it was trained with, which
torchvision keeps with its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from camlib.errors import InputError
from camlib.integrations.checkpoints import read_checkpoint
from camlib.integrations.heads import fill

# Their builders would draw a slow start of their own, and their published weights, like all that
# came of them by fine-tuning, expect inputs scaled as TensorFlow did.
_OPTIONS = {
    name: {"init_weights": False, "transform_input": True} for name in ("googlenet", "inception_v3")
}


@dataclass(frozen=True)
class Network:
    """A classifier and what it takes to use it on pictures.

    Attributes:
        model: in evaluation mode, on the CPU.
        classes: the names of the classes by index.
        crop: what the network sees of a PIL image: ``(3, H, W)`` in [0, 1].
        normalize: what the network expects of such a crop.
        several: whether a probability is the sigmoid of a score, not the softmax: several classes
            may be present at once, or one output tells two apart.
    """

    model: nn.Module
    classes: Sequence[str]
    crop: Callable[[Any], Tensor]
    normalize: Callable[[Tensor], Tensor]
    several: bool = False

    def probabilities(self, scores: Tensor) -> Tensor:
        """The probabilities ``(..., classes)`` that `scores` of that shape stand for."""
        return scores.sigmoid() if self.several else scores.softmax(-1)


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
        model, preset = _downloaded(name, published[weights]), published[weights]
        classes, single = preset.meta["categories"], False
    elif Path(weights).exists():
        checkpoint = read_checkpoint(weights, trust=trust)
        model, preset = get_model(name, **_OPTIONS.get(name, {})), published["DEFAULT"]
        outputs = fill(model, checkpoint.state, weights, name)
        single = outputs == 1
        classes = names_of(outputs, checkpoint.classes or preset.meta["categories"])
    else:
        raise InputError(
            f"weights {weights!r} not found; expected a file with a state dict, or one of "
            + ", ".join(published)
        )
    transform = preset.transforms()
    mean, std = (torch.tensor(values)[:, None, None] for values in (transform.mean, transform.std))
    # Without its last step the preset shows what the network sees.
    transform.mean, transform.std = [0.0] * 3, [1.0] * 3
    return Network(model.eval(), classes, transform, lambda crop: (crop - mean) / std, single)


def names_of(outputs: int, names: Sequence[str]) -> Sequence[str]:
    """`names` of the classes of a model, or their numbers where these are not as many.

    A single output has two classes.
    """
    count = 2 if outputs == 1 else outputs
    return names if len(names) == count else [f"class {index}" for index in range(count)]


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


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """What `build` makes, always with the same random weights, in evaluation mode."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = build().eval()
        # Some networks start with a last layer of zeros, behind which nothing has a gradient.
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    return model


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
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise InputError(
            f"cannot download the weights of {name!r} ({reason or type(error).__name__}); put "
            f"{weights.url} into {torch.hub.get_dir()}/checkpoints, or pass a file with a state "
            "dict as weights"
        ) from None
    return model
