"""Runs every case of the matrix and writes the table `docs/models.md` and a figure of readings.

``scripts/pages models`` runs them all, those of the nightly run too; ``--only GROUP`` a
group, whose rows replace the old ones; ``--resume`` what the last run has left.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from case import Case
from matrix import CASES
from matrix_readings import draw, recorded
from textured_patch import examined

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
FIGURE = Path(__file__).parents[1] / "docs" / "images" / "readings.png"
RESULTS = Path(tempfile.gettempdir()) / "camlib-models.json"

TEXT = """# Models

Tested on {count} models; {passed} pass. Each test runs `GradCAM(model)(inputs)` without a layer and
without a layout. The model has random weights and sees a grey input with one textured patch, in one
quadrant after the other. The map must have the input's size, be warmest at the patch, and leave the
model unchanged. The target is the mean score of a class for a segmentation network, the sum of the
scores of a label for a detector, and an axis of the embedding for an encoder of images. Each of
these is also tested without a target: on the most frequent class, the best box, the whole
embedding.

The tests take {minutes:.0f} minutes of a busy core. Those marked *nightly* run with `pytest -m
nightly`, all others with `pytest -m slow`. `scripts/pages models` writes the table. *Agreement*
is the correlation of the places that the layout claims with those that were measured, along the
axis where it is lowest. It is empty if the layout was certain, or taken from another layer with
the same places.

{others}Hiera keeps its patches window by window until its last stage. A layer before that needs
`layout=`; the default layer does not.
"""


def main() -> None:
    """Run the cases and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", metavar="GROUP", default="", help="groups that begin with this")
    parser.add_argument("--resume", action="store_true", help="keep the results of the last run")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    kept = asked.resume or asked.only
    results = json.loads(RESULTS.read_text()) if kept and RESULTS.exists() else {}
    for case in sorted(CASES, key=lambda case: bool(case.nightly)):
        if not case.group.startswith(asked.only) or (asked.resume and str(case) in results):
            continue
        results[str(case)] = measured(case)
        RESULTS.write_text(json.dumps(results))  # a crash loses nothing
        print(str(case), results[str(case)], flush=True)
    if len(results) == len(CASES):
        PAGE.write_text(page(results), encoding="utf-8")
    draw([p for row in results.values() if row["result"] == "ok" for p in row["pairs"]], FIGURE)


def measured(case: Case) -> dict[str, Any]:
    """What came of `case`, and the seconds it took."""
    start = time.perf_counter()
    row: dict[str, Any] = {"layers": [], "grid": [], "agreement": None, "pairs": []}
    try:
        with warnings.catch_warnings(), recorded() as row["pairs"]:
            warnings.simplefilter("ignore")
            found = examined(case)
        row |= {
            "layers": found.layers,
            "grid": found.grid,
            "agreement": found.agreement,
            "result": found.complaint or _passed(case),
        }
    # Whatever goes wrong is a row of the table.
    except Exception as error:
        row["result"] = " ".join(f"{type(error).__name__}: {error}".split())
    gc.collect()
    return row | {"seconds": time.perf_counter() - start}


def _passed(case: Case) -> str:
    return f"ok, but for the place: {case.lost}" if case.lost else "ok"


def page(results: dict[str, dict[str, Any]]) -> str:
    """The page of all `results`, a table for each group."""
    cases = [case for case in CASES if str(case) in results]
    rows = [results[str(case)] for case in cases]
    others = [case.name for case, row in zip(cases, rows, strict=True) if row["result"] != "ok"]
    named = (
        f"The others are {', '.join(others)}; their rows give the reasons.\n\n" if others else ""
    )
    parts = [
        TEXT.format(
            count=len(rows),
            passed=len(rows) - len(others),
            others=named,
            minutes=sum(row["seconds"] for row in rows) / 60,
        )
    ]
    for group in dict.fromkeys(case.group for case in cases):
        lines = [f"## {group}\n", "| model | layer | grid | agreement | seconds | run | result |"]
        lines.append("|---|---|---|---:|---:|---|---|")
        for case in cases:
            if case.group == group:
                lines.append(line(case, results[str(case)]))
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def line(case: Case, row: dict[str, Any]) -> str:
    """The row of a case."""
    layers = ", ".join(f"`{name}`" for name in row["layers"])
    grid = " x ".join(map(str, row["grid"]))
    agreement = "" if row["agreement"] is None else f"{row['agreement']:.3f}"
    run = f"nightly: {case.nightly}" if case.nightly else "slow"
    result = row["result"].replace("|", "\\|")
    cells = [case.name, layers, grid, agreement, f"{row['seconds']:.1f}", run, result]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
