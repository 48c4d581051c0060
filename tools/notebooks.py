"""Run the notebooks of examples/ and keep what they show: `PYTHONPATH=. python tools/notebooks.py`.

Pictures are kept in 256 colours, a quarter of their size.
"""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[1] / "examples"


def executed(file: Path) -> Any:
    """The notebook in `file` with the outputs of all its cells, none of them kept before."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(file, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    return notebook


def pictures(notebook: Any) -> list[bytes]:
    """The pictures in the outputs of `notebook`, PNG."""
    found = [
        output.get("data", {}).get("image/png")
        for cell in notebook.cells
        for output in cell.get("outputs", ())
    ]
    return [base64.b64decode(each) for each in found if each]


def main() -> None:
    """Run all notebooks and write them."""
    import nbformat

    for file in sorted(EXAMPLES.glob("*.ipynb")):
        notebook = executed(file)
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)
            for output in cell.get("outputs", ()):
                data = output.get("data", {})
                if "image/png" in data:
                    data["image/png"] = _smaller(data["image/png"])
        notebook.metadata["language_info"] = {"name": "python"}
        nbformat.write(notebook, file)


def _smaller(picture: str) -> str:
    from PIL import Image

    buffer = BytesIO()
    opened = Image.open(BytesIO(base64.b64decode(picture))).convert("RGB")
    width = min(opened.width, 1000)
    opened.thumbnail((width, 10_000))
    opened.quantize(256).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode() + "\n"


if __name__ == "__main__":
    main()
