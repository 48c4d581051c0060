"""The network a user names, with the transform and the names of classes they give."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from camlib.cli.terminal import first_line
from camlib.draws import Draws
from camlib.errors import InputError
from camlib.integrations import imported, specified, timm, torchvision
from camlib.integrations.checkpoints import class_names
from camlib.integrations.network import Network, resized
from camlib.visual import load

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Those of ImageNet."""


@dataclass(frozen=True)
class Spoken:
    """What a user says of a network.

    Attributes:
        model: see `camlib.integrations.specified.load`.
        weights: a file, or the name of published ones.
        classes: a file or folder with the names of the classes, see `named`.
        several: whether several classes may be present at once.
        trust: whether a whole pickled model is read.
        transform: where the transform is in the user's code; with parentheses behind the name, it
            is what is returned there.
        size: one length or two of the input, for a transform made of this and the next two.
        mean: one value, or one for each colour.
        std: likewise.
    """

    model: str
    weights: str = "DEFAULT"
    classes: Path | None = None
    several: bool = False
    trust: bool = False
    transform: str | None = None
    size: tuple[int, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def network(self, device: torch.device | None = None) -> Network:
        """The network, ready for photos, on `device`.

        Raises:
            InputError: something of it cannot be had, or does not fit the rest.
        """
        network = named(self._loaded(), self.classes, several=self.several)
        transform = self._transform() or network.transform
        if transform is None:
            raise InputError(
                f"nothing says how a photo becomes the input of {self.model!r}; pass --size 224, "
                "with --mean and --std if they are not ImageNet's, or --transform file.py:name"
            )
        network.model.to(device)
        return replace(network, transform=transform)

    def _loaded(self) -> Network:
        if self.model.lower() != "scenenet":
            return specified.load(self.model, self.weights, trust=self.trust)
        if self.weights != "DEFAULT":
            raise InputError(
                f"scenenet has its weights built in; leave out --weights {self.weights}"
            )
        return scenenet()

    def _transform(self) -> Any:
        """The transform that the user gives, if any."""
        if self.transform is None:
            if not (self.size or self.mean or self.std):
                return None
            return resized(self.size or (224,), _each(self.mean or _MEAN), _each(self.std or _STD))
        if self.size or self.mean or self.std:
            raise InputError("--transform says all; leave out --size, --mean and --std")
        where = self.transform.removesuffix("()")
        found = imported.imported(where)
        return found() if self.transform.endswith("()") else found


def _each(values: tuple[float, ...]) -> tuple[float, ...]:
    """One value for each colour."""
    return 3 * values if len(values) == 1 else values


def scenenet() -> Network:
    """The built-in network, for pictures of any size."""
    from PIL import ImageOps
    from PIL.Image import Image

    from camlib import zoo
    from camlib.visual.pictures import unpack

    def transform(image: Image) -> torch.Tensor:
        return zoo.preprocess(unpack(ImageOps.fit(image, (128, 128)))[0][0])

    return Network(zoo.load(), zoo.CLASSES, transform, several=True)


def inputs_for(model: str, size: int | None) -> tuple[Any, Any, int | None]:
    """A model, an input that it takes, and the size of those it was made for, if that is known.

    Networks of torchvision and timm have random weights, and the input is noise.

    Raises:
        InputError: there is no such model, or nothing says what it takes.
    """
    library, _, name = model.partition(":")
    whole = Path(model).suffix or (name and library != "timm")
    if not whole:
        if model.lower() == "scenenet":
            network, usual, channels = scenenet().model, 128, 3
        elif library == "timm" and name:
            network, usual, channels = timm.untrained(name)
        elif timm.knows(model):
            network, usual, channels = timm.untrained(model)
        else:
            network, usual, channels = torchvision.untrained(model)
        size = size or usual
        return network, Draws(0).normal(1, channels, size, size), usual
    from PIL import Image

    spoken = Spoken(model, trust=False, size=(size,) if size else None)
    found = spoken.network()
    transform: Any = found.transform
    return found.model, load(Image.new("RGB", (512, 512)), transform).inputs, None


def named(network: Network, classes: Path | None, *, several: bool) -> Network:
    """`network` with the names of its classes from a file or folder.

    Args:
        network: as it was loaded.
        classes: a file with a name a line, a JSON file with a list or with names by number, or a
            folder with a folder for each class, as ImageFolder has it; ``None`` keeps the names.
        several: whether several classes may be present at once.

    Raises:
        InputError: the file cannot be read, or does not name as many classes as there are.
    """
    network = replace(network, several=network.several or several)
    if classes is None:
        return network
    names = _names(classes)
    if not names:
        raise InputError(
            f"classes {str(classes)!r} names no class; expected a name a line, JSON with a list or "
            "with names by number, or a folder with a folder for each class"
        )
    if network.classes and len(names) != len(network.classes):
        raise InputError(
            f"{str(classes)!r} names {len(names)} classes, but the network has "
            f"{len(network.classes)}; expected a name for each"
        )
    return replace(network, classes=names)


def _names(classes: Path) -> Sequence[str]:
    if classes.is_dir():
        return sorted(each.name for each in classes.iterdir() if each.is_dir())
    try:
        text = classes.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"classes {str(classes)!r} cannot be read ({first_line(error)}); expected a text file "
            "with a name a line, JSON, or a folder with a folder for each class"
        ) from None
    if classes.suffix.lower() != ".json":
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"classes {str(classes)!r} are no JSON ({error}); correct it") from None
    names = class_names(content)
    if not names and isinstance(content, Mapping):
        names = class_names({number: name for name, number in content.items()})
    return names
