"""Writes the lists of all methods: `docs/methods.md`, and that in `docs/reference.md`.

``scripts/pages methods`` makes all of it from `METHODS` and the docstrings, with a picture of each;
``--text`` the lists alone, with the pictures that there are.
"""

from __future__ import annotations

import argparse
import inspect
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camlib import (
    METHODS,
    Augmented,
    DeepFeatureFactorization,
    LayerMethod,
    MapMethod,
    ModelError,
    Smooth,
    zoo,
)
from camlib.cli.answers import built, maps_of
from camlib.cli.networks import scenenet
from camlib.visual import save_picture

COMMAND = "scripts/pages methods"
DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "methods.md"
REFERENCE = DOCS / "reference.md"
PICTURES = DOCS / "images" / "methods"

SCENE, LABEL = 236, "disc"
"""What the pictures show: the evidence for this class in this scene."""

ABSENT = "needs a transformer"
"""What stands for a picture where the built-in network cannot be explained so."""

START, END = "<!-- methods -->\n", "<!-- /methods -->"
"""Marks of what is written in the reference."""

TEXT = f"""# Methods

Every method, what it computes, what it costs and where it comes from; `camlib methods` lists them
on the command line. `A` is the activation of the layer, `G` the gradient of the score at it; `k`
runs over channels and `i` over positions. This page is written by `{COMMAND}`.

The pictures show where the built-in network sees the {LABEL} in this scene:

![The scene](images/methods/scene.webp)
"""

AROUND = """## Around any method

| method | what it is |
|---|---|
"""

CONCEPTS = """## Concepts of a batch

`DeepFeatureFactorization` explains no answer but a layer: what it tells apart in a batch, where
each of these concepts is, and which classes it speaks for. {text}

![The concepts of four scenes](images/methods/concepts.webp)

*Source:* {paper}.
"""

_GROUPS = {
    "Maps of a layer": lambda kind: issubclass(kind, LayerMethod),
    "Maps without a layer": lambda kind: issubclass(kind, MapMethod),
    "Attribution of pixels": lambda kind: True,
}


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", action="store_true", help="leave the pictures as they are")
    if not parser.parse_args().text:
        torch.set_num_threads(1)
        PICTURES.mkdir(parents=True, exist_ok=True)
        for old in PICTURES.glob("*.webp"):
            old.unlink()
        draw()
    PAGE.write_text(page(), encoding="utf-8")
    REFERENCE.write_text(reference(), encoding="utf-8")


def reference() -> str:
    """The reference with all methods between its marks."""
    kinds = ", ".join(kind.__name__ for kind in METHODS.values())
    before, rest = REFERENCE.read_text(encoding="utf-8").split(START)
    listed = f"::: camlib.methods\n    options:\n      members: [{kinds}]\n"
    return before + START + listed + END + rest.split(END)[1]


def page() -> str:
    """The page of all methods, each in the first group that it belongs to."""
    parts, left = [TEXT], dict(METHODS)
    for title, belongs in _GROUPS.items():
        group = {name: kind for name, kind in left.items() if belongs(kind)}
        left = {name: kind for name, kind in left.items() if name not in group}
        rows = [line(name, kind) for name, kind in group.items()]
        head = ["| | method | what it is |", "|---|---|---|"]
        parts.append("\n".join([f"## {title}\n", *head, *rows]) + "\n")
    around = [
        f"| {about(kind)} | {described(kind, kind.paper())} |" for kind in (Smooth, Augmented)
    ]
    parts.append(AROUND + "\n".join(around) + "\n")
    factorization = DeepFeatureFactorization
    source = re.search(r"Collins.*?10206", str(factorization.__doc__))
    assert source is not None
    parts.append(CONCEPTS.format(text=described(factorization, source[0]), paper=source[0]))
    return "\n".join(parts)


def line(name: str, kind: type[Any]) -> str:
    """The row of a method."""
    picture = PICTURES / f"{name}.webp"
    shown = f"![{kind.__name__}](images/methods/{name}.webp)" if picture.exists() else ABSENT
    return f"| {shown} | {about(kind, name)} | {described(kind, kind.paper())} |"


def about(kind: type[Any], *names: str) -> str:
    """Class, names on the command line, cost and source of a method."""
    called = [f"`{name}`" for name in (kind.__name__, *names)]
    return "<br>".join([*called, kind.cost, f"*{kind.paper()}*"])


def described(kind: type[Any], source: str) -> str:
    """The docstring of a method up to its arguments, in one line, but for its source."""
    text = re.split(r"\n(?:Args|Raises|Example):", inspect.getdoc(kind) or "")[0]
    text = " ".join(text.split()).replace("|", "\\|").replace("``", "`")
    return text.replace(f"{source}. ", "").replace(f" {source}.", "")


def draw() -> None:
    """The scene, what each method makes of it, and its concepts, as files."""
    scene, network = zoo.scene(SCENE), scenenet()
    store(scene.image, "scene")
    for name, kind in METHODS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                method = built(kind, network, ["features"], quick=True)
                inputs = zoo.preprocess(scene.image)[None]
                found, _ = maps_of(network, method, inputs, [zoo.CLASSES.index(LABEL)])
            except ModelError:
                continue
        store(found.over(scene.image)[0], name)
    pictures = torch.stack([zoo.scene(seed).image for seed in (SCENE, 3, 7, 11)])
    seen = DeepFeatureFactorization(zoo.load(), concepts=9)(zoo.preprocess(pictures))
    drawn = seen.figure(pictures, labels=zoo.CLASSES)
    drawn.set_dpi(75)
    save_picture(drawn, PICTURES / "concepts.webp")


def store(picture: Tensor, name: str) -> None:
    """`picture` as a small file."""
    from PIL import Image

    from camlib.visual.pictures import to_array

    Image.fromarray(to_array(picture)).save(PICTURES / f"{name}.webp", quality=70, method=6)


if __name__ == "__main__":
    main()
