"""The notebooks in examples/ run, show pictures, and are kept with what they show."""

from __future__ import annotations

import io

import pytest
from notebooks import EXAMPLES, executed, pictures
from PIL import Image

NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
SHOWN = {"methods": 3, "photo": 3, "training": 1}
"""How many pictures each has at least."""


def check(notebook, name):
    sizes = [Image.open(io.BytesIO(each)).size for each in pictures(notebook)]
    assert len(sizes) >= SHOWN[name], sizes
    assert all(min(size) > 100 for size in sizes), sizes
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.text


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_are_kept_with_their_pictures(file):
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(file, as_version=4)
    check(notebook, file.stem)
    assert file.stat().st_size < 700_000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the kernel's own libraries
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_run(file):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    check(executed(file), file.stem)
