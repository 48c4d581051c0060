"""A network by what a user types: a name, a folder, a file, or a place in their own code."""

from __future__ import annotations

from pathlib import Path

from camlib.errors import InputError
from camlib.integrations import imported, timm, torchvision, transformers
from camlib.integrations.checkpoints import read_checkpoint
from camlib.integrations.network import Network

_FILES = (".pt", ".pt2", ".pth", ".ts", ".torchscript", ".jit", ".ckpt", ".bin", ".pkl")


def load(model: str, weights: str = "DEFAULT", *, trust: bool = False) -> Network:
    """The network that `model` names.

    Args:
        model: a network of torchvision by name, ``timm:NAME``, ``hf:FOLDER_OR_NAME``,
            ``package.module:factory``, ``file.py:factory``, or a file with a whole model: of
            ``torch.export.save``, TorchScript or, with `trust`, a pickled one.
        weights: the name of published weights, or a file, see `read_checkpoint`.
        trust: whether a whole pickled model is read, which can run any code.

    Raises:
        InputError: there is no such network, or its weights cannot be had or do not fit.

    Example:
        >>> network = load("resnet18", "mine.pth")
        >>> photo = camlib.load("photo.jpg", network.transform)
        >>> seen = GradCAM(network.model).explain(photo.inputs)
    """
    library, _, name = model.partition(":")
    if library == "timm" and name:
        return timm.load(name, weights, trust=trust)
    if library == "hf" and name:
        return transformers.load(name, weights, trust=trust)
    if Path(model).suffix.lower() in _FILES:
        return _whole(model, weights, trust)
    if name:
        return imported.load(model, weights, trust=trust)
    return torchvision.load(model, weights, trust=trust)


def _whole(file: str, weights: str, trust: bool) -> Network:
    """The model that a file holds as a whole."""
    if weights != "DEFAULT":
        raise InputError(f"{file!r} holds its weights; leave out --weights {weights}")
    checkpoint = read_checkpoint(file, trust=trust)
    if checkpoint.model is None:
        raise InputError(
            f"{file!r} holds weights alone, not the model they belong to; pass it as --weights "
            f"{file}, and the model as --model, such as resnet18 or mine.py:build"
        )
    return Network(checkpoint.model.eval(), checkpoint.classes, None)
