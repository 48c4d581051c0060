"""What `camlib evaluate` does: measure, print tables, and draw a plot."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from camlib import METHODS, Method, __version__
from camlib.cli.answers import built
from camlib.cli.arguments import device_named, method_named, name_of
from camlib.cli.files import writing
from camlib.cli.keeping import Measured
from camlib.cli.labelled import Folder, Scenes, folder_of
from camlib.cli.networks import Spoken
from camlib.cli.places import FIGURES
from camlib.cli.terminal import bar, say, table
from camlib.errors import CamlibWarning, InputError
from camlib.integrations.network import Network
from camlib.metrics.benchmark import evaluate
from camlib.metrics.comparison import COLUMNS, Cell, Row
from camlib.visual import save_picture
from camlib.visual.comparison import plot

REFERENCE = "grad_cam"
"""The method that the others are compared with."""

USUAL = (
    *(REFERENCE, "grad_cam_plus_plus", "layer_cam", "element_wise_grad_cam", "lift_cam"),
    "two_stage_grad_cam",
    *("ablation_cam", "recipro_cam", "group_cam", "eigen_cam", "full_grad", "saliency"),
    *("guided_backprop", "guided_grad_cam"),
)
"""The methods of a call without `--methods`: those of few passes."""


def evaluate_all(
    *,
    data: str,
    count: int,
    methods: Sequence[str],
    spoken: Spoken,
    layers: Sequence[str],
    device: str,
    batch_size: int | None,
    file: Path | None,
    output: Path | None,
) -> None:
    """Measure `methods` on `data`; see the options of `camlib evaluate`.

    Raises:
        CamlibError: an option does not fit, or a file cannot be written.
    """
    kinds = chosen(methods)
    if output is not None and output.suffix.lower() not in FIGURES:
        raise InputError(
            f"cannot write {str(output)!r}; expected a name that ends in one of "
            f"{', '.join(FIGURES)}"
        )
    where = device_named(device)
    network = spoken.network(where)
    images = _images(data, count, spoken.model, network, where)
    settings = {
        "camlib": __version__,
        **{"data": data, "images": images.names, "layers": list(layers)},
        **{name: value for name, value in asdict(spoken).items() if name != "trust"},
        **{"classes": spoken.classes and str(spoken.classes), "several": network.several},
    }
    kept = Measured(file, settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CamlibWarning)  # an empty map has its numbers too
        try:
            found = evaluate(
                network.model,
                {name: built(kind, network, layers) for name, kind in kinds.items()},
                images,
                activation=_activation(network, images),
                layer=list(layers) or None,
                batch_size=batch_size,
                kept=kept,
                progress=bar("methods x batches"),
            )
        finally:
            kept.write()
    if REFERENCE not in found.values:
        raise InputError(f"Grad-CAM does not fit this network: {found.failed[REFERENCE]}")
    kept.rows, kept.failed = found.rows(REFERENCE), dict(found.failed)
    kept.write()
    explained = "the class of its sub-folder"
    if isinstance(images, Folder) and images.labels is None:
        explained = "the predicted class"
    elif isinstance(images, Scenes):
        explained = "the class with one or two objects"
    say(f"{len(images.names)} images, {explained} of each")
    for group in dict.fromkeys(each.group for each in COLUMNS.values()):
        _print(kept.rows, group)
    say("")
    for row in kept.rows:
        if row.unbeaten and not row.baseline:
            say(f"! {row.method} does not beat {', '.join(row.unbeaten)}")
    for name, reason in found.failed.items():
        say(f"left out {name}: {reason}")
    if output is not None:
        with writing(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            save_picture(plot(kept.rows, REFERENCE), output)
    for written in (file, output):
        if written is not None:
            say(f"wrote {written}")


def chosen(methods: Sequence[str]) -> dict[str, type[Method]]:
    """The methods that the user names, with the reference first.

    Raises:
        InputError: a method does not exist.
    """
    names = [part for each in methods for part in each.split(",") if part.strip()] or list(USUAL)
    if "all" in names:
        names = list(METHODS)
    kinds = [method_named(name.strip()) for name in (REFERENCE, *names)]
    return {name_of(kind): kind for kind in kinds}


def _images(
    data: str, count: int, model: str, network: Network, device: torch.device
) -> Scenes | Folder:
    if data != "scenes":
        return folder_of(Path(data), count, network, device)
    if model.lower() != "scenenet":
        raise InputError(
            f"the scenes belong to the built-in network, not to {model!r}; pass --data with a "
            "folder of photos"
        )
    return Scenes(count, device)


def _activation(network: Network, images: Scenes | Folder) -> Any:
    """How the outputs of the network become probabilities."""
    if network.several:
        return "sigmoid"
    from camlib.targets import logits

    with torch.no_grad():
        scores = logits(network.model(images[0].inputs)).float()
    total = scores.sum(1)
    sums_to_one = (scores >= 0).all() and torch.allclose(total, torch.ones_like(total), atol=1e-4)
    return "none" if sums_to_one else "softmax"


def _print(rows: Sequence[Row], group: str) -> None:
    """Print the columns of a group, if any image has values."""
    names = [
        name
        for name, column in COLUMNS.items()
        if column.group == group and any(not math.isnan(row.cells[name].mean) for row in rows)
    ]
    if not names:
        return
    say("")
    arrows = [f"{COLUMNS[name].title} {'↑' if COLUMNS[name].higher else '↓'}" for name in names]
    lines = [[_title(row), *(_cell(row.cells[name], name) for name in names)] for row in rows]
    table([group, *arrows], lines)


def _title(row: Row) -> str:
    """A baseline in parentheses, and a mark behind a method that does not beat one."""
    if row.baseline:
        return f"({row.method})"
    return f"{row.method} !" if row.unbeaten else row.method


def _cell(cell: Cell, name: str) -> str:
    if math.isnan(cell.mean):
        return ""
    if COLUMNS[name].group == "cost":
        return f"{cell.mean:.3g}"
    half = (cell.high - cell.low) / 2
    digits = 1 if COLUMNS[name].title.endswith("%") else 3
    if math.isnan(half):
        return f"{cell.mean:.{digits}f}"
    sign = {1: " +", -1: " -", 0: ""}[cell.verdict]
    return f"{cell.mean:.{digits}f} ±{half:.{digits}f}{sign}"
