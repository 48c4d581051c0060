"""Where objects are on photos, as files beside them say: masks, VOC's XML, or COCO's JSON.

For ``DIR/a/b.jpg``, the first of these that exists counts: the mask ``DIR/a/b_mask.png`` or
``DIR/masks/a/b.png``, the boxes in ``DIR/a/b.xml`` or ``DIR/Annotations/b.xml``, and those in a
JSON file of COCO in ``DIR`` or ``DIR/annotations``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from torch import Tensor

from camlib.cli.terminal import first_line
from camlib.errors import InputError
from camlib.visual.reading import opened_picture

HIDDEN = ("masks", "annotations", "segmentationclass", "segmentationobject")
"""Folders with truths, not with photos."""

MASK = "_mask"
"""The end of the name of a mask beside a photo."""


@dataclass(frozen=True, eq=False)
class Truth:
    """Objects on a photo.

    Attributes:
        masks: ``(objects, H, W)``, bool, in pixels of the photo.
        names: the name of each; ``None`` for the object of the class that is explained.
    """

    masks: Tensor
    names: tuple[str | None, ...]

    def split(self, wanted: str, known: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The objects of the class `wanted` and those of other classes, ``(H, W)`` each.

        If no object has the name of one of the classes `known`, all belong to the wanted one.
        """
        classes = {name.casefold() for name in known}
        named = [None if name is None else name.casefold() for name in self.names]
        if not any(name in classes for name in named):
            own = torch.ones(len(named), dtype=torch.bool)
        else:
            own = torch.tensor([name in (None, wanted.casefold()) for name in named])
        return self.masks[own].any(0), self.masks[~own].any(0)


@dataclass(frozen=True)
class Truths:
    """The truths in a folder."""

    folder: Path

    def of(self, photo: Path, size: tuple[int, int]) -> Truth | None:
        """What is known of the objects on `photo`, of `size` ``(H, W)``.

        Raises:
            InputError: a file cannot be read, or does not fit the photo.
        """
        inside = photo.relative_to(self.folder)
        masks = (
            photo.with_name(f"{photo.stem}{MASK}.png"),
            (self.folder / "masks" / inside).with_suffix(".png"),
        )
        for file in masks:
            if file.is_file():
                return Truth(_mask(file, size)[None], (None,))
        for file in (photo.with_suffix(".xml"), self.folder / "Annotations" / f"{photo.stem}.xml"):
            if file.is_file():
                return _boxes(_voc(file), size)
        found = self._coco.get(inside.as_posix()) or self._coco.get(photo.name)
        return _boxes(found, size) if found else None

    @cached_property
    def _coco(self) -> dict[str, list[tuple[str, tuple[float, ...]]]]:
        """The names and boxes of objects by the name of a photo."""
        found: dict[str, list[tuple[str, tuple[float, ...]]]] = {}
        files = [*self.folder.glob("*.json"), *self.folder.glob("annotations/*.json")]
        for file in sorted(files):
            try:
                content = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
                continue
            try:
                photos = {each["id"]: each["file_name"] for each in content["images"]}
                names = {each["id"]: each["name"] for each in content.get("categories", ())}
                for each in content["annotations"]:
                    left, top, width, height = each["bbox"]
                    box = left, top, left + width, top + height
                    name = names.get(each.get("category_id"), "")
                    found.setdefault(photos[each["image_id"]], []).append((name, box))
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(
                    f"{str(file)!r} is no COCO file ({type(error).__name__}: {error}); expected "
                    "images with id and file_name, and annotations with image_id and bbox"
                ) from None
        return found


def is_truth(file: Path, folder: Path) -> bool:
    """Whether a picture in `folder` is a mask, not a photo."""
    parents = (part.casefold() for part in file.relative_to(folder).parts[:-1])
    if any(part in HIDDEN for part in parents):
        return True
    return file.stem.endswith(MASK)


def _mask(file: Path, size: tuple[int, int]) -> Tensor:
    """The pixels of a mask ``(H, W)`` that are not black."""
    import numpy as np

    try:
        with opened_picture(file) as image:
            values = torch.from_numpy(np.array(image.convert("L"))) > 0
    except Exception as error:  # the decoder of a broken file may raise anything
        raise InputError(
            f"mask {str(file)!r} cannot be read ({first_line(error)}); expected a picture that is "
            "black where the object is not"
        ) from None
    if tuple(values.shape) != size:
        raise InputError(
            f"mask {str(file)!r} has {tuple(values.shape)} pixels, but its photo {size}; expected "
            "the same height and width"
        )
    return values


def _voc(file: Path) -> list[tuple[str, tuple[float, ...]]]:
    """The names and boxes in an XML file of Pascal VOC, which counts pixels from 1."""
    try:
        objects = ElementTree.parse(file).getroot().iter("object")
        return [(_text(each, "name"), _corners(each)) for each in objects]
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(
            f"{str(file)!r} is no XML of Pascal VOC ({error}); expected object with name, and "
            "bndbox with xmin, ymin, xmax and ymax"
        ) from None


def _corners(each: Any) -> tuple[float, ...]:
    left, top, right, bottom = (
        float(_text(each, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")
    )
    return left - 1, top - 1, right, bottom


def _text(each: Any, path: str) -> str:
    found = each.findtext(path)
    if found is None:
        raise ValueError(f"an object has no {path}")
    return str(found).strip()


def _boxes(found: Sequence[tuple[str, tuple[float, ...]]], size: tuple[int, int]) -> Truth | None:
    """The pixels in each box."""
    if not found:
        return None
    rows, columns = torch.arange(size[0])[:, None] + 0.5, torch.arange(size[1]) + 0.5
    masks = [
        (columns >= left) & (columns < right) & (rows >= top) & (rows < bottom)
        for _, (left, top, right, bottom) in found
    ]
    return Truth(torch.stack(masks), tuple(name for name, _ in found))
