"""What was found, for programs: a manifest in JSON and a table in CSV."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import click
import torch

from camlib import __version__
from camlib.cli.answers import Answer
from camlib.cli.files import writing
from camlib.cli.networks import Spoken
from camlib.integrations.network import Network
from camlib.visual.files import write_whole

_COLUMNS = (
    *("image", "predicted", "class", "name", "probability", "score"),
    *("method", "layers", "file", "error"),
)


def record(image: str, answer: Answer, network: Network, files: Sequence[Path]) -> dict[str, Any]:
    """What is written of one photo that was explained."""
    return {
        "image": image,
        "predicted": _class(answer.best, answer, network),
        "explained": [
            {
                "method": name,
                **({"reason": maps.reason} if maps.reason else {}),
                "layers": list(maps.layers),
                **_asked(index, answer, network),
                "score": _number(score),
            }
            for name, maps in answer.maps.items()
            for index, score in zip(answer.classes, maps.scores.tolist(), strict=True)
        ],
        "files": [str(file) for file in files],
    }


def write_json(file: Path, spoken: Spoken, images: Sequence[dict[str, Any]]) -> None:
    """Write the manifest of `images` to `file`, or to the standard output for ``-``.

    Raises:
        InputError: `file` cannot be written.
    """
    versions = {"camlib": __version__, "torch": str(torch.__version__)}
    network = {"model": spoken.model, "weights": spoken.weights}
    content = {**network, "versions": versions, "images": list(images)}
    _write(json.dumps(content, indent=2) + "\n", file)


def write_csv(file: Path, images: Sequence[dict[str, Any]]) -> None:
    """Write a row for each map of `images` to `file`, or to the standard output for ``-``.

    Raises:
        InputError: `file` cannot be written.
    """
    text = StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for image in images:
        for each in image.get("explained", [{}]):
            writer.writerow(
                {
                    **{name: each.get(name, "") for name in _COLUMNS},
                    "image": image["image"],
                    "predicted": image.get("predicted", {}).get("name", ""),
                    "layers": " ".join(each.get("layers", ())),
                    "file": next(iter(image.get("files", ())), ""),
                    "error": image.get("error", ""),
                }
            )
    _write(text.getvalue(), file)


def _class(index: int, answer: Answer, network: Network) -> dict[str, Any]:
    return {
        "class": index,
        "name": network.name_of(index),
        "probability": float(answer.chances[index]),
    }


def _asked(index: int | None, answer: Answer, network: Network) -> dict[str, Any]:
    """The class of a map; of the last of three, what it tells apart."""
    if index is not None:
        return {"target": "class", **_class(index, answer, network)}
    this, other = answer.classes[:2]
    assert this is not None and other is not None
    names = [network.name_of(each) for each in (this, other)]
    return {"target": "contrast", "class": [this, other], "name": " and not ".join(names)}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _write(text: str, file: Path) -> None:
    content = text.encode("utf-8", "backslashreplace")
    if str(file) == "-":
        click.echo(content, nl=False)
        return
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(content, file)
