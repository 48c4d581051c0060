"""Writes how far camlib agrees with others into `docs/migrating.md`.

``scripts/pages migrating`` where the other libraries are installed: it fills the
column "agrees to" of the page, from the cases of `agreement_peers`, `agreement_captum`,
`agreement_zennit` and `agreement_authors`.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import agreement_authors
import agreement_captum
import agreement_zennit
import torch
from agreement_peers import CASES

COMMAND = "scripts/pages migrating"
PAGE = Path(__file__).parents[1] / "docs" / "migrating.md"
COLUMN = "agrees to"
NOTHING = "\u2013"
"""In place of a number, where there is nothing to compare."""

SECTIONS = {"The authors' code": "authors"}
assert agreement_authors
assert agreement_captum
assert agreement_zennit


def measured(key: tuple[str, str], peers: Any) -> float:
    """The largest difference between theirs and ours, as a share of the largest value of theirs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, ours = (torch.as_tensor(each).detach().double() for each in CASES[key](peers))
    assert theirs.shape == ours.shape, key
    return float((theirs - ours).abs().max() / theirs.abs().max())


def shown(difference: float) -> str:
    """`difference` in few letters: the next power of ten of a small one, which is rounding."""
    if difference > 1e-4:
        return f"{difference:.2g}"
    return f"1e-{min(max(math.floor(-math.log10(max(difference, 1e-16))), 0), 7)}"


def rows(text: str) -> Iterator[tuple[int, tuple[str, str] | None]]:
    """The lines of the page that are rows of a table with the column, and the case of each."""
    section, wanted = "", False
    for number, line in enumerate(text.splitlines()):
        if line.startswith("## "):
            section = SECTIONS.get(line[3:], line[3:])
        if not line.startswith("|"):
            wanted = False
        elif line.rstrip("| ").endswith(COLUMN):
            wanted = True
        elif wanted and not line.startswith("|---"):
            names = re.findall(r"`([^`]+)`", line.split("|")[1])
            keys = [(section, name) for name in names if (section, name) in CASES]
            yield number, keys[0] if keys else None


def written(text: str, peers: Any) -> str:
    """The page with its numbers."""
    lines = text.splitlines()
    known: dict[Any, str] = {}
    for number, key in rows(text):
        cells = lines[number].rstrip().removesuffix("|").split("|")
        if key and CASES[key] not in known:
            known[CASES[key]] = shown(measured(key, peers))
        cells[-1] = f" {known[CASES[key]] if key else NOTHING} "
        lines[number] = "|".join(cells) + "|"
    return "\n".join(lines) + "\n"


def libraries() -> dict[str, Any]:
    """The other libraries, as `conftest` has them."""
    import captum.attr
    import pytorch_grad_cam
    import pytorch_grad_cam.utils.model_targets as model_targets
    import torchcam.methods
    import zennit.attribution
    import zennit.composites

    return {
        "grad-cam": pytorch_grad_cam,
        "target": model_targets.ClassifierOutputTarget,
        "targets": model_targets,
        "torchcam": torchcam.methods,
        "captum": captum.attr,
        "zennit": zennit,
    }


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), libraries()), encoding="utf-8")
