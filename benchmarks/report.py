"""The page and the picture of what was measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import camlib
from benchmarks.cases import LIBRARIES
from benchmarks.experiments import EXPERIMENTS, Row, Table

_PACKAGES = ("torch", "torchvision", "torchcam", "captum", "grad-cam", "quantus")

_HEAD = """# Benchmarks

Written by `python -m benchmarks --write`. Every number is a median over rounds: the time of a call
over that of the baseline just before and after it, with quartiles. Peak memory is what a call adds
to the resident memory, or to what is allocated on a GPU, in a process of its own. Networks have
random weights; MobileNetV2 is a trained one where it was at hand. Each library is called as its own
documentation does it. [Why it is cheap](cost.md) has the picture and the reasons, and
[which costs remain](cost.md#the-costs-that-remain).

"""


def machine(device: str, threads: int) -> str:
    """What it was measured on and with."""
    where = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {threads} threads"
    if device.startswith("cuda"):
        where = torch.cuda.get_device_name(device)
    found = [where, f"Python {platform.python_version()}", f"camlib {camlib.__version__}"]
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    return ", ".join(found)


def markdown(table: Table, level: int = 3) -> str:
    """`table` as text."""
    memory = any(row.memory is not None for row in table.rows)
    heads = ["case", f"time / {table.baseline}", "quartiles", "seconds"]
    heads += ["peak memory", f"/ {table.rows[0].label}"] if memory else []
    lines = [f"{'#' * level} {table.title}", "", _line(heads), _line(["---"] * len(heads))]
    lines += [_line(_cells(row, memory=memory)) for row in table.rows]
    return "\n".join(lines) + "\n"


def page(results: dict[str, dict[str, Any]]) -> str:
    """The page of docs/: `results` by experiment, each with its tables, machine and command."""
    parts = [_HEAD]
    for name, experiment in EXPERIMENTS.items():
        if name not in results:
            continue
        found = results[name]
        parts.append(f"## {(experiment.__doc__ or '').strip().rstrip('.')}\n")
        parts.append(f"`{found['command']}`\n\n{found['machine']}\n")
        if name in ("peers", "growth"):
            parts.append(_side_by_side(found["tables"]))
        else:
            parts += [markdown(table) for table in found["tables"]]
    return "\n".join(parts)


def plot(tables: Iterable[Table], path: Path) -> None:
    """Time and memory of each library beside plain inference, at batch 8."""
    import matplotlib as mpl
    import numpy as np

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    chosen = [table for table in tables if table.title.endswith("batch 8")]
    figure, panels = plt.subplots(2, 1, figsize=(9, 6), sharex=True, layout="constrained")
    places = np.arange(len(chosen))
    for k, library in enumerate(LIBRARIES):
        rows = [_named(table, library) for table in chosen]
        heights = (
            [row.ratio.median if row.ratio else np.nan for row in rows],
            [row.share if row.share is not None else np.nan for row in rows],
        )
        for panel, values in zip(panels, heights, strict=True):
            panel.bar(places + 0.2 * (k - 1.5), values, 0.2, label=library)
    for panel, what in zip(panels, ("time", "peak memory"), strict=True):
        panel.axhline(1, color="black", linewidth=1)
        panel.set_ylabel(f"{what} / plain inference")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    panels[0].set_title("Grad-CAM at the last layer, batch 8; the line is plain inference")
    panels[1].set_xticks(places, [table.title.split(",")[0] for table in chosen], rotation=20)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _side_by_side(tables: list[Table]) -> str:
    """Times and memory of the libraries, a row for each table."""
    memory = any(row.share is not None for table in tables for row in table.rows)
    lines = [_line(["time / plain inference", *LIBRARIES]), _line(["---"] * (1 + len(LIBRARIES)))]
    for table in tables:
        rows = [_named(table, library) for library in LIBRARIES]
        lines.append(_line([table.title, *[_time(row) for row in rows]]))
    if memory:
        heads = ["peak memory / plain inference", *LIBRARIES]
        lines += ["", _line(heads), _line(["---"] * len(heads))]
        for table in tables:
            rows = [_named(table, library) for library in LIBRARIES]
            if any(row.share is not None for row in rows):
                cells = ["" if row.share is None else f"{row.share:.2f}" for row in rows]
                lines.append(_line([table.title, *cells]))
    reasons = sorted(
        {
            f"* {row.label}, {table.title.split(',')[0]}: {row.failed}"
            for table in tables
            for row in table.rows
            if row.failed
        }
    )
    if reasons:
        lines += ["", "Failed, and why:", "", *reasons]
    return "\n".join(lines) + "\n"


def _time(row: Row) -> str:
    if row.ratio is None:
        return "failed"
    return f"{row.ratio.median:.2f} ({row.ratio.low:.2f} to {row.ratio.high:.2f})"


def _named(table: Table, label: str) -> Row:
    return next(row for row in table.rows if row.label == label)


def _cells(row: Row, *, memory: bool) -> list[str]:
    if row.ratio is None:
        return [row.label, f"failed: {row.failed}", *[""] * (4 if memory else 2)]
    ratio = row.ratio
    cells = [row.label, f"{ratio.median:.2f}", f"{ratio.low:.2f} to {ratio.high:.2f}"]
    cells.append(f"{ratio.seconds:.3g}")
    if memory:
        cells.append("" if row.memory is None else f"{row.memory:.0f} MiB")
        cells.append("" if row.share is None else f"{row.share:.2f}")
    return cells


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
