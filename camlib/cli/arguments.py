"""What the user typed, made into what it stands for, or refused in a line that says what to do."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import nn

from camlib import METHODS, Method
from camlib.cli.terminal import first_line
from camlib.errors import InputError, TargetError
from camlib.integrations.checkpoints import class_names
from camlib.integrations.torchvision import Network, load


def method_named(name: str, known: Mapping[str, type[Method]] = METHODS) -> type[Method]:
    """The method called `name`.

    Raises:
        InputError: there is none.
    """
    if name in known:
        return known[name]
    near = get_close_matches(name.lower(), known, n=1)
    advice = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
    raise InputError(f"method {name!r} not found; {advice}")


def network_named(name: str, weights: str, *, trust: bool = False) -> Network:
    """The network called `name`, with `weights`; a whole pickled model is read with `trust`.

    Raises:
        InputError: there is none, or its weights cannot be had.
    """
    if name.lower() != "scenenet":
        return load(name, weights, trust=trust)
    if weights != "DEFAULT":
        raise InputError(f"scenenet has its weights built in; leave out --weights {weights}")
    return scenenet()


def untrained_named(name: str) -> tuple[nn.Module, int, int]:
    """The network called `name` with random weights, the size and the channels of its input.

    Raises:
        InputError: there is none.
    """
    from camlib.integrations import timm, torchvision

    if name.lower() == "scenenet":
        return scenenet().model, 128, 3
    if timm.knows(name):
        return timm.untrained(name)
    return torchvision.untrained(name)


def scenenet() -> Network:
    """The built-in network, for pictures of any size."""
    from PIL import ImageOps
    from PIL.Image import Image

    from camlib import zoo
    from camlib.visual.pictures import unpack

    def crop(image: Image) -> torch.Tensor:
        return unpack(ImageOps.fit(image, (128, 128)))[0][0]

    return Network(zoo.load(), zoo.CLASSES, crop, zoo.preprocess, several=True)


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
    if len(names) != len(network.classes):
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


def class_index(given: str, classes: Sequence[str]) -> int:
    """The class that is `given` by number, or by name in upper or lower case.

    Raises:
        TargetError: there is none, or more than one.
    """
    last = len(classes) - 1
    if re.fullmatch(r"[+-]?\d+", given):
        if not 0 <= int(given) <= last:
            raise TargetError(
                f"class {given} is out of range: the model has {last + 1} classes, 0 to {last}"
            )
        return int(given)
    lower = [name.lower() for name in classes]
    found = [index for index, name in enumerate(lower) if name == given.lower()]
    if len(found) == 1:
        return found[0]
    if found:
        numbers = " and ".join(map(str, found))
        raise TargetError(f"class {given!r} is the name of {numbers}; pass the number you mean")
    near = [
        *get_close_matches(given.lower(), lower, n=1),
        *(name for name in lower if given.lower() in name),
    ]
    advice = f"pass a number from 0 to {last}"
    if near:
        advice = f"did you mean {classes[lower.index(near[0])]!r}?"
    raise TargetError(f"class {given!r} not found; {advice}")


def device_named(name: str) -> torch.device:
    """The device called `name`; the fastest one for ``"auto"``.

    Raises:
        InputError: this computer has none of that name.
    """
    there = ["cpu"]
    there += ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    if name == "auto":
        return torch.device(there[-1])
    try:
        torch.zeros(1, device=name).item()
    # An unknown name, a build without the device and a missing driver have an error each.
    except Exception:
        raise InputError(
            f"device {name!r} is not there; use auto, or one of: {', '.join(there)}"
        ) from None
    return torch.device(name)


def destinations(images: Sequence[Path], output: Path | None) -> list[Path]:
    """Where the picture of each image goes.

    Raises:
        InputError: there is no such place, or one picture would overwrite another.
    """
    folder = output or Path()
    places = [folder / f"{image.stem}-camlib.png" for image in images]
    if output is not None and not output.is_dir():
        if len(images) > 1:
            raise InputError(
                f"output {str(output)!r} is no folder; {len(images)} images need an existing one"
            )
        places, folder = [output], output.parent
    if not folder.is_dir():
        raise InputError(f"folder {str(folder)!r} does not exist; create it first")
    [(shared, count)] = Counter(places).most_common(1)
    if count > 1:
        both = " and ".join(
            repr(str(image)) for image, place in zip(images, places, strict=True) if place == shared
        )
        raise InputError(f"{both} would both become {shared.name!r}; explain them one at a time")
    if {place.resolve() for place in places} & {image.resolve() for image in images}:
        raise InputError(f"output {str(output)!r} is the image itself; choose another name")
    return places
