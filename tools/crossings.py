"""How many functions and files of camlib a call crosses, and what the house measures.

``python tools/crossings.py`` counts the first and a later call of some methods on a small network
(comprehensions are not counted), and prints what `docs/design.md` says of the rooms: modules at the
root, imports between rooms, long files, depth of inheritance, and lines. ``--functions GradCAM``
lists what a later call of a method crosses.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType

import torch
from torch import nn

import camlib
from camlib.methods.calling import Calling

PACKAGE = Path(camlib.__file__).parent
INNER = ("<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>")
METHODS = "GradCAM", "ScoreCAM", "GuidedGradCAM"
LONG = 250


def crossed(call: Callable[[], object]) -> set[tuple[str, str]]:
    """The files and functions of camlib that run in `call`."""
    functions = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        own = event == "call" and code.co_filename.startswith(str(PACKAGE))
        if own and code.co_name not in INNER:
            file = str(Path(code.co_filename).relative_to(PACKAGE))
            functions.add((file, code.co_qualname))

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return functions


def network() -> nn.Module:
    """A classifier of five classes with two convolutions."""
    torch.manual_seed(0)
    convolutions = (
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
    )
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


def imports() -> Counter[tuple[str, str]]:
    """How often a module of one room imports from another, at its top."""
    counted: Counter[tuple[str, str]] = Counter()
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).with_suffix("").parts[0]
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("camlib"):
                names = [alias.name for alias in node.names]
                rooms = names if node.module == "camlib" else [str(node.module).split(".")[1]]
                counted.update((own, room) for room in rooms if room != own and own != "__init__")
    return counted


def depth() -> tuple[int, str]:
    """How many classes of camlib the deepest method is made of, and its name."""
    kinds, deepest = [Calling], (0, "")
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        own = sum(base.__module__.startswith("camlib") for base in kind.__mro__)
        deepest = max(deepest, (own, kind.__name__))
    return deepest


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--functions", metavar="METHOD", help="list what a later call crosses")
    chosen = parser.parse_args().functions
    images = torch.randn(2, 3, 16, 16)
    for name in (chosen,) if chosen else METHODS:
        method = getattr(camlib, name)(network())
        for time in ("first", "later"):
            functions = crossed(partial(method, images))
            files = {file for file, _ in functions}
            print(f"{name}, {time} call: {len(functions)} functions in {len(files)} files")
        if chosen:
            print(*(f"  {file}: {function}" for file, function in sorted(functions)), sep="\n")
    paths = [*PACKAGE.rglob("*.py")]
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    between = imports()
    print(f"modules at the root: {sum(path.parent == PACKAGE for path in paths)}")
    print(f"imports between rooms: {len(between)} pairs, {between.total()} in all")
    print(f"files over {LONG} lines: {sum(count > LONG for count in lines.values())}")
    print("classes of camlib that the deepest method is made of: {} ({})".format(*depth()))
    print(f"lines: {sum(lines.values())} in {len(lines)} files")


if __name__ == "__main__":
    main()
