"""Write a page on which to walk through the maps of many pictures, in any browser, offline.

The page is a template of the standard library's: text of users reaches it as JSON alone, in which
no markup can start, and its script shows it as text. Its policy lets no other script run and
nothing be loaded from a network.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import uuid
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import torch
from torch import Tensor

from camlib import __version__
from camlib.errors import InputError
from camlib.maps import precise, resize
from camlib.options import Count, Share, checked
from camlib.visual.averages import Averages
from camlib.visual.files import write_whole
from camlib.visual.overlay import colorize
from camlib.visual.pictures import check_unit, to_array, unpack
from camlib.visual.placement import Placement, by, may_be_grid

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 192
"""The longer side of a picture on the page, in pixels."""

EMBEDDED = 24_000_000
"""Bytes of pictures up to which a report is one file."""


@dataclass(frozen=True)
class Explained:
    """A picture of a report, and why the network answers what it does.

    Attributes:
        name: such as the path of its file.
        photo: a PIL image, a NumPy array or a tensor, as `overlay` takes it.
        heatmap: ``(h, w)`` in [0, 1].
        predicted: the name of the predicted class, which `heatmap` explains.
        truth: the name of the true class, if it is known.
        numbers: what pictures can be sorted by; ``"probability"`` can be filtered too, in [0, 1].
        placement: where the network's input lies on the photo; ``None`` for the whole of it.
    """

    name: str
    photo: Any
    heatmap: Tensor
    predicted: str
    truth: str | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    placement: Placement | None = None


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        file: the page.
        folder: the pictures beside it; ``None`` if they are in the page.
        pictures: how many were explained.
    """

    file: Path
    folder: Path | None
    pictures: int


@checked
def report(
    explained: Iterable[Explained],
    file: str | os.PathLike[str],
    *,
    title: str = "Where the network looks",
    note: str = "",
    alpha: Share = 0.5,
    colormap: Any = "jet",
    embedded: Count = EMBEDDED,
) -> Report:
    """Write a page of `explained` pictures, and return what was written.

    The page shows the pictures with their maps, to filter, sort and search; and for each predicted
    class the average map beside the average picture, and the pictures whose maps lie elsewhere. The
    page appears when it is complete; until then an older one stays as it is.

    Args:
        explained: the pictures; a generator is read once, and only small copies are kept.
        file: the path of the page, which ends in ``.html``.
        title: stands above the page.
        note: stands under it.
        alpha: the opacity of the maps at first.
        colormap: any matplotlib colour map, or its name.
        embedded: the bytes of pictures up to which they are in the page; more are written to a
            folder beside it, ``NAME-files-...``, which belongs to it.

    Raises:
        InputError: there is no picture, one does not fit, or `file` has no folder or is no page.

    Example:
        >>> seen = GradCAM(model).explain(inputs)
        >>> pictures = (
        ...     Explained(name, image, heatmap, predicted=classes[index])
        ...     for name, image, heatmap, index in zip(names, images, seen.heatmap, seen.target)
        ... )
        >>> report(pictures, "report.html")
    """
    file = Path(file)
    if file.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"cannot write {file.name!r}; expected a name that ends in .html")
    if not file.parent.is_dir():
        raise InputError(f"folder {str(file.parent)!r} does not exist; create it first")
    with _small_pictures(file, embedded) as pictures:
        rows: list[tuple[Explained, int, int]] = []
        averages = Averages()
        for each in explained:
            photo, heat, seen, heat_seen = _small(each)
            averages.add(each.predicted, seen, heat_seen)
            colors = _image(colorize(heat.clamp(0, 1).nan_to_num(0), colormap), heat)
            rows.append(
                (
                    replace(each, photo=None, heatmap=heat[:0]),
                    pictures.add(photo),
                    pictures.add(colors),
                )
            )
        if not rows:
            raise InputError("there is no picture to report; expected at least one")
        data = _data(rows, averages, pictures, colormap)
        data |= {"title": title, "note": note, "alpha": alpha, "version": __version__}
        write_whole(_page(data).encode(), file)
    pictures.remove_older()
    return Report(file, pictures.folder, len(rows))


def _data(
    rows: list[tuple[Explained, int, int]], averages: Averages, pictures: _Pictures, colormap: Any
) -> dict[str, Any]:
    """Everything that the page shows, for its script."""
    far, areas = averages.elsewhere(), averages.areas
    names = list(dict.fromkeys(name for each, _, _ in rows for name in each.numbers))
    listed = [each.predicted for each, _, _ in rows]
    listed += [each.truth for each, _, _ in rows if each.truth is not None]
    classes = {name: number for number, name in enumerate(dict.fromkeys(listed))}
    means = [
        (classes[name], pictures.add(_image(photo)), pictures.add(_image(colorize(heat, colormap))))
        for name, photo, heat in averages.means()
    ]
    source = pictures.source
    return {
        "classes": list(classes),
        "numbers": [*names, "area", "elsewhere"],
        "pictures": [
            (
                each.name,
                classes[each.predicted],
                None if each.truth is None else classes[each.truth],
                [_number(v) for v in [*map(each.numbers.get, names), areas[i], far[i]]],
                source(photo),
                source(heat),
            )
            for i, (each, photo, heat) in enumerate(rows)
        ],
        "averages": [(number, source(photo), source(heat)) for number, photo, heat in means],
        "folder": "" if pictures.folder is None else quote(pictures.folder.name) + "/",
    }


def _number(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.5g}")


def _small(each: Explained) -> tuple[Image, Tensor, Tensor, Tensor]:
    """The small photo and its map with NaN where nothing was seen; and the same of what was seen.

    Raises:
        InputError: the picture or its map does not fit.
    """
    from PIL.Image import Resampling

    values, _ = unpack(each.photo)
    heat = precise(each.heatmap.detach().cpu())
    if len(values) != 1 or heat.ndim != 2:
        raise InputError(
            f"{each.name!r} has {len(values)} pictures and a map of shape {tuple(heat.shape)}; "
            "expected one picture and a map (h, w)"
        )
    check_unit(heatmap=heat)
    check_unit(image=values)
    photo = _image(values[0].clamp(0, 1))
    place = each.placement
    if place is not None and place.photo != (photo.height, photo.width):
        raise InputError(
            f"the placement of {each.name!r} is for a photo of {by(place.photo)}, but this one has "
            f"{by((photo.height, photo.width))}; pass the one of this photo"
        )
    if place is not None and not may_be_grid(heat.shape, place.seen):
        raise InputError(
            f"the map of {each.name!r} has {by(heat.shape)} values, which does not fit an input of "
            f"{by(place.seen)}; pass the placement of this input"
        )
    photo.thumbnail((SIDE, SIDE), Resampling.LANCZOS)
    size = photo.height, photo.width
    pixels = unpack(photo)[0][0]
    if place is None:
        whole = resize(heat[None, None], size)[0, 0]
        return photo, whole, pixels, whole
    place = replace(place, photo=size)
    rows, columns = place.region
    whole = torch.full(size, math.nan)
    part = place.on_region(heat[None, None])[0, 0]
    if not part.numel():
        raise InputError(f"the network saw nothing of {each.name!r}; pass its own placement")
    whole[rows, columns] = part
    return photo, whole, pixels[:, rows, columns], part


def _image(values: Tensor, seen: Tensor | None = None) -> Image:
    """Values ``(3, H, W)`` in [0, 1] as an image, clear where `seen` is NaN."""
    from PIL.Image import fromarray

    image = fromarray(to_array(values))
    if seen is not None and seen.isnan().any():
        image.putalpha(fromarray(((~seen.isnan()) * 255).to(torch.uint8).numpy()))
    return image


def _page(data: Mapping[str, Any]) -> str:
    """The page of `data`."""
    here = Path(__file__)
    template, css, script = (
        here.with_suffix(suffix).read_text(encoding="utf-8") for suffix in (".html", ".css", ".js")
    )
    # Neither a tag nor a comment can start in what has no such sign.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    policy = (
        f"default-src 'none'; img-src 'self' file: data:; style-src {_hash(css)}; "
        f"script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    parts = {"policy": policy, "css": css, "script": script, "data": text}
    return re.sub(r"\{(policy|css|script|data)\}", lambda found: parts[found[1]], template)


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


class _Pictures:
    """Pictures in WebP: in memory up to a limit, then all in a folder.

    Args:
        file: the page they belong to.
        limit: in bytes.
    """

    def __init__(self, file: Path, limit: int) -> None:
        self.file = file
        self.limit = limit
        self.folder: Path | None = None
        self._kept: list[bytes] = []
        self._size = 0
        self._count = 0

    def add(self, image: Image) -> int:
        """The number of a picture that is now kept."""
        buffer = BytesIO()
        image.save(buffer, "WEBP", quality=80)
        content = buffer.getvalue()
        self._size += len(content)
        number = self._count
        self._count += 1
        if self.folder is None:
            self._kept.append(content)
            if self._size > self.limit:
                self._spill()
        else:
            (self.folder / _name(number)).write_bytes(content)
        return number

    def source(self, number: int) -> str | int:
        """Picture `number` for the page: itself, or its number in the folder."""
        if self.folder is not None:
            return number
        return f"data:image/webp;base64,{b64encode(self._kept[number]).decode()}"

    def remove_older(self) -> None:
        """Remove the pictures of older pages of this name."""
        pattern = re.compile(re.escape(f"{self.file.stem}-files-") + "[0-9a-f]{8}")
        for each in self.file.parent.iterdir():
            if each != self.folder and pattern.fullmatch(each.name) and each.is_dir():
                for old in each.glob(_name(0).replace("0", "[0-9]")):
                    old.unlink()
                # What someone else put there stays.
                if not any(each.iterdir()):
                    each.rmdir()

    def remove(self) -> None:
        """Remove the folder, if there is one."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _spill(self) -> None:
        self.folder = self.file.with_name(f"{self.file.stem}-files-{uuid.uuid4().hex[:8]}")
        self.folder.mkdir()
        for number, content in enumerate(self._kept):
            (self.folder / _name(number)).write_bytes(content)
        self._kept = []


def _name(number: int) -> str:
    # The command reads no pictures whose names end so.
    return f"{number:06}-camlib.webp"


@contextmanager
def _small_pictures(file: Path, limit: int) -> Iterator[_Pictures]:
    """Pictures that are removed again if the block fails or is interrupted."""
    pictures = _Pictures(file, limit)
    try:
        yield pictures
    except BaseException:
        pictures.remove()
        raise
