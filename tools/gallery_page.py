"""Writes the pictures of `docs/gallery.md`: ``scripts/pages gallery`` runs the code on the page."""

from __future__ import annotations

import contextlib
import re
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

DOCS = Path(__file__).parents[1] / "docs"
PICTURES = DOCS / "images" / "gallery"


def main() -> None:
    """Run the blocks one after the other in an empty folder, and keep what they drew."""
    text = (DOCS / "gallery.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "gallery"}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            exec(compile(block, "gallery.md", "exec"), names)
        PICTURES.mkdir(parents=True, exist_ok=True)
        for drawn in Path(folder).glob("*.png"):
            with Image.open(drawn) as picture:
                picture.convert("RGB").save(PICTURES / f"{drawn.stem}.webp", quality=85)


if __name__ == "__main__":
    main()
