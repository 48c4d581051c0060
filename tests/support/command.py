"""The `camlib` command, called as from a terminal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from click.testing import CliRunner, Result
from PIL import Image
from torch import Tensor, nn

from camlib import zoo
from camlib.cli import main

SCENE = zoo.scene(236, classes=["disc", "cross"])


def files(folder: Path) -> list[str]:
    """The files in `folder` and below, without the byte code that Python leaves beside sources."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(str(p.relative_to(folder)) for p in paths if p.parent.name != "__pycache__")


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def done(*arguments: object) -> str:
    """What the command prints when it succeeds."""
    result = invoke(*arguments)
    if (result.exit_code, result.stderr) != (0, ""):
        raise AssertionError(result.output) from result.exception
    return result.stdout


def refused(*arguments: object) -> str:
    """The one line that says why the command failed."""
    result = invoke(*arguments)
    assert result.exit_code == 1, (result.output, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    # Older versions of torch say on stderr what they are about to download.
    said = [line for line in result.stderr.splitlines() if not line.startswith("Downloading: ")]
    [line] = said
    assert line.startswith("Error: ")
    return line.removeprefix("Error: ")


def built_in(*arguments: object) -> tuple[object, ...]:
    return ("explain", "scene.png", "--model", "scenenet", *arguments)


def read(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def network() -> tuple[nn.Module, Tensor]:
    """The built-in network, and the scene as its input."""
    return zoo.load(), zoo.preprocess(SCENE.image)[None]
