"""The images that `camlib evaluate` measures on, in batches: built-in scenes, or a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from camlib import load, zoo
from camlib.cli.arguments import class_index
from camlib.cli.places import sources
from camlib.cli.truths import Truths, is_truth
from camlib.errors import InputError, TargetError
from camlib.integrations.network import Network
from camlib.metrics.benchmark import Labelled, predicted

BATCH = 8
"""The number of images in a batch."""


@dataclass(frozen=True)
class Scenes:
    """Built-in scenes: one or two objects of the class, and one of another class.

    Attributes:
        count: the number of scenes.
        device: where the images are.
    """

    count: int
    device: torch.device

    def __len__(self) -> int:
        return -(-self.count // BATCH)

    @property
    def names(self) -> list[str]:
        """The name of each scene."""
        return [f"scene {seed}" for seed in range(self.count)]

    def __getitem__(self, number: int) -> Labelled:
        seeds = range(number * BATCH, min((number + 1) * BATCH, self.count))
        wanted = [wanted_class(seed) for seed in seeds]
        drawn = [zoo.scene(seed, classes=composition(seed)) for seed in seeds]
        return Labelled(
            zoo.preprocess(torch.stack([each.image for each in drawn])).to(self.device),
            torch.tensor(wanted),
            torch.stack([s.mask(label) for s, label in zip(drawn, wanted, strict=True)]),
            torch.stack(
                [s.masks[s.labels != label].any(0) for s, label in zip(drawn, wanted, strict=True)]
            ),
        )


def wanted_class(seed: int) -> int:
    """The class that is explained in the scene of a seed."""
    return seed % len(zoo.CLASSES)


def composition(seed: int) -> list[int]:
    """The objects of the scene of a seed: the class, another, and in half of them the class again.

    Seeds go through all pairs of classes.
    """
    count = len(zoo.CLASSES)
    wanted, turn = wanted_class(seed), seed // count
    other = (wanted + 1 + turn % (count - 1)) % count
    return [wanted, other, *[wanted] * (turn % 2)]


@dataclass(frozen=True, eq=False)
class Folder:
    """The photos of a folder, with their classes and with the places of objects if known.

    Attributes:
        folder: where they are.
        files: the photos.
        labels: the class of each; ``None`` to take what the model predicts.
        network: the network, whose transform makes the inputs.
        device: where the inputs are.
    """

    folder: Path
    files: Sequence[Path]
    labels: Sequence[int] | None
    network: Network
    device: torch.device

    def __len__(self) -> int:
        return -(-len(self.files) // BATCH)

    @cached_property
    def _truths(self) -> Truths:
        return Truths(self.folder)

    @property
    def names(self) -> list[str]:
        """The path of each photo in the folder."""
        return [file.relative_to(self.folder).as_posix() for file in self.files]

    def __getitem__(self, number: int) -> Labelled:
        part = slice(number * BATCH, (number + 1) * BATCH)
        files = self.files[part]
        photos = load(list(files), self.network.transform)  # type: ignore[arg-type]
        inputs = photos.to(self.device).inputs
        if self.labels is None:
            classes = predicted(self.network.model, inputs)
        else:
            classes = torch.tensor(self.labels[part])
        own, others = [], []
        for file, place, label in zip(files, photos.placements, classes.tolist(), strict=True):
            truth = self._truths.of(file, place.photo)
            if truth is None:
                masks = torch.zeros(2, *place.seen, dtype=torch.bool)
            else:
                name = self.network.name_of(label)
                masks = place.seen_part(torch.stack(truth.split(name, self.network.classes)))
            own.append(masks[0])
            others.append(masks[1])
        return Labelled(inputs, classes, torch.stack(own), torch.stack(others))


def folder_of(folder: Path, count: int, network: Network, device: torch.device) -> Folder:
    """`count` photos of `folder`, evenly spread over it.

    If its sub-folders have names or numbers of classes, these are the classes of the photos.

    Raises:
        InputError: there is no such folder or no photo in it, or only some sub-folders are classes.
    """
    if not folder.is_dir():
        raise InputError(
            f"folder {str(folder)!r} does not exist; pass a folder of photos, or scenes"
        )
    found, _ = sources([str(folder)], output=folder)
    files = [each.file for each in found if each.file and not is_truth(each.file, folder)]
    if not files:
        raise InputError(f"folder {str(folder)!r} has no photos; check the path")
    count = min(count, len(files))
    chosen = [files[number * len(files) // count] for number in range(count)]
    return Folder(folder, chosen, _labels(chosen, folder, network), network, device)


def _labels(files: Sequence[Path], folder: Path, network: Network) -> list[int] | None:
    """The class that the sub-folder of each file names; ``None`` if none names a class."""
    found: list[int] = []
    unknown: dict[str, str] = {}
    for file in files:
        name = file.relative_to(folder).parts[0]
        if file.parent == folder:
            unknown["."] = "photos without a sub-folder have no class"
            continue
        try:
            found.append(class_index(name, network.classes))
        except TargetError as error:
            unknown[name] = str(error)
    if found and unknown:
        name, reason = next(iter(unknown.items()))
        raise InputError(
            f"some sub-folders of {str(folder)!r} are classes, but {name!r} is none: {reason}; "
            "rename it, or pass --classes with the names of the classes"
        )
    return found or None
