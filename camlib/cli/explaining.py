"""What `camlib explain` does: for each photo an answer, a picture, and a line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camlib import Method, load
from camlib.cli.answers import Answer, answered, built
from camlib.cli.arguments import class_index, device_named, method_named, name_of
from camlib.cli.asked import Question
from camlib.cli.files import save_array, writing
from camlib.cli.networks import Spoken
from camlib.cli.places import Source, destinations, sources
from camlib.cli.records import record, write_csv, write_json
from camlib.cli.terminal import bar, reason, say, say_failed, warnings_in_a_line
from camlib.errors import InputError
from camlib.integrations.network import Network
from camlib.methods.recommended import Recommended
from camlib.visual import figure, save_picture
from camlib.visual.colors import color_table
from camlib.visual.reading import decoded, read

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

_LARGE = 4.5
"""The width in inches of the two pictures that show a single map."""


@dataclass(frozen=True)
class Looks:
    """How maps are drawn; see the options of `camlib explain`."""

    views: Sequence[str]
    alpha: float
    colormap: str
    threshold: float | None
    plain: bool
    raw: bool


def explain_all(
    *,
    images: Sequence[str],
    spoken: Spoken,
    methods: Sequence[str],
    layers: Sequence[str],
    targets: Sequence[str],
    top: int | None,
    expected: str | None,
    device: str,
    views: Sequence[str],
    alpha: float,
    colormap: str,
    threshold: float | None,
    plain: bool,
    raw: bool,
    manifest: Path | None,
    rows: Path | None,
    output: Path | None,
) -> bool:
    """Whether each of `images` could be explained; see the options of `camlib explain`.

    Raises:
        CamlibError: an option does not fit; nothing has been written.
    """
    if sum((bool(targets), top is not None, expected is not None)) > 1:
        raise InputError("--target, --top and --expected choose the classes; pass one of them")
    kinds: dict[str, type[Method]] = {name_of(kind): kind for kind in map(method_named, methods)}
    color_table(colormap, _cpu())
    found, left_out = sources(images, output=output)
    places = destinations(found, output, plain=plain)
    where = device_named(device)
    network = spoken.network(where)
    asked = dict.fromkeys(class_index(target, network.classes) for target in targets)
    known = None if expected is None else class_index(expected, network.classes)
    question = Question(tuple(asked), top or 1, known)
    kinds = kinds or {"": Recommended}
    chosen = {name: built(kind, network, layers) for name, kind in kinds.items()}
    looks = Looks(views, alpha, colormap, threshold, plain, raw)
    quiet = "-" in (str(manifest), str(rows))
    records: list[dict[str, Any]] = []
    loop = list(zip(found, places, strict=True))
    for source, place in bar("images")(loop) if len(loop) > 1 else loop:
        try:
            with warnings_in_a_line(source.name):
                photo = load(_opened(source), network.transform)  # type: ignore[arg-type]
                answer = answered(network, chosen, photo.to(where).inputs, question)
                files = _written(photo, answer, network, place, looks)
        # One image may be broken in any way, and must not cost the others.
        except Exception as error:
            why = reason(error)
            records.append({"image": source.name, "error": why})
            say_failed(source.name, why)
        else:
            records.append(record(source.name, answer, network, files))
            for line in _said(source.name, answer, network, files):
                say(line, error=quiet)
    if left_out:
        pictures = "1 picture" if left_out == 1 else f"{left_out} pictures"
        say(f"left out {pictures} that camlib wrote", error=quiet)
    if manifest is not None:
        write_json(manifest, spoken, records)
    if rows is not None:
        write_csv(rows, records)
    return not any("error" in each for each in records)


def _cpu() -> torch.device:
    import torch

    return torch.device("cpu")


def _opened(source: Source) -> Image:
    if source.file is not None:
        return read(source.file)
    return decoded(BytesIO(sys.stdin.buffer.read()), "standard input")


def _written(
    photo: Any,
    answer: Answer,
    network: Network,
    place: Path,
    looks: Looks,
) -> list[Path]:
    """The files that now show `answer` on `photo`, the first of them at `place`."""
    drawing: Any
    if looks.plain:
        first = next(iter(answer.maps.values()))
        drawing = first.on(
            photo, alpha=looks.alpha, colormap=looks.colormap, threshold=looks.threshold
        )
    else:
        drawing = _figure(photo, answer, network, looks)
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        written = [save_picture(drawing, place)]
        for name, maps in answer.maps.items() if looks.raw else ():
            file = place.with_name(f"{place.stem}{f'-{name}' * (len(answer.maps) > 1)}.npy")
            written.append(save_array(maps.raw.squeeze(0), file))
    return written


def _figure(photo: Any, answer: Answer, network: Network, looks: Looks) -> Any:
    """The photo beside the map of each method, a row for each class and view."""
    columns = {
        f"{maps.method}\n{', '.join(maps.layers)}": maps.heatmaps for maps in answer.maps.values()
    }
    [picture], [placement] = photo.pictures, photo.placements
    return figure(
        [picture] * len(answer.classes),
        columns,
        names=_names(answer, network),
        views=looks.views,  # type: ignore[arg-type]
        alpha=looks.alpha,
        colormap=looks.colormap,
        threshold=looks.threshold,
        transform=placement,
        colorbar=True,
        panel=_LARGE if len(columns) * len(answer.classes) * len(looks.views) == 1 else None,
    )


def _names(answer: Answer, network: Network) -> list[str]:
    """What stands under the photo in each row."""
    named = [
        "" if index is None else f"{network.name_of(index)}\n{answer.chances[index]:.1%}"
        for index in answer.classes
    ]
    if answer.classes[-1] is None:
        predicted, expected = (network.name_of(i) for i in answer.classes if i is not None)
        return [f"predicted: {named[0]}", f"expected: {named[1]}", f"{predicted}\nnot {expected}"]
    return named


def _said(name: str, answer: Answer, network: Network, files: Sequence[Path]) -> list[str]:
    """What was found, in lines."""
    used = dict.fromkeys(layer for maps in answer.maps.values() for layer in maps.layers)
    lines = [f"{name}: {network.name_of(answer.best)}, {answer.chances[answer.best]:.1%}"]
    for index in answer.classes:
        if index is None:
            continue
        lines.append(
            f"  class {index}, {network.name_of(index)}: {answer.chances[index]:.1%}, "
            f"score {float(answer.scores[index]):.4g}, layer {', '.join(used) or 'none'}"
        )
    lines += [f"  by {maps.method}: {maps.reason}" for maps in answer.maps.values() if maps.reason]
    return [*lines, f"  wrote {', '.join(map(str, files))}"]
