"""The list of methods in the docs is that of `METHODS`, with a small picture of each."""

from __future__ import annotations

import re

from methods_page import ABSENT, COMMAND, DOCS, PAGE, PICTURES, REFERENCE, page, reference

import camlib
from camlib import METHODS


def test_page_is_current():
    text = PAGE.read_text(encoding="utf-8")
    assert text == page(), f"METHODS and docs/methods.md disagree; run `{COMMAND}`"


def test_reference_lists_every_method():
    text = REFERENCE.read_text(encoding="utf-8")
    assert text == reference(), f"METHODS and docs/reference.md disagree; run `{COMMAND}`"
    assert all(kind.__name__ in text for kind in METHODS.values())


def test_every_method_has_its_row_with_name_class_cost_and_source():
    rows = [line for line in page().splitlines() if line.startswith(("| ![", f"| {ABSENT}"))]
    assert len(rows) == len(METHODS)
    for name, kind in METHODS.items():
        [row] = [row for row in rows if f"<br>`{name}`<br>" in row]
        assert f"`{kind.__name__}`<br>" in row
        assert kind.cost in row
        assert f"*{kind.paper()}*" in row
        assert ABSENT in row or f"images/methods/{name}.webp" in row
        assert "``" not in row
        assert "Args:" not in row
        assert len(re.findall(r"(?<!\\)\|", row)) == 4


def test_pictures_are_those_of_methods_and_small():
    pictures = {path.stem: path.stat().st_size for path in PICTURES.glob("*")}
    assert not set(pictures) - set(METHODS) - {"scene", "concepts"}
    assert {"grad_cam", "saliency", "scene", "concepts"} <= set(pictures)
    assert sum(pictures.values()) < 400_000


def test_methods_to_choose_from_exist_and_links_within_the_page_lead_somewhere():
    text = (DOCS / "choosing.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([A-Z]\w+)(?:\([^`]*)?`", text))
    assert len(named) > 25
    assert not [name for name in named if not hasattr(camlib, name)]
    anchors = {
        re.sub(r"\W+", "-", title.lower()) for title in re.findall(r"^## (.+)$", text, re.MULTILINE)
    }
    assert not set(re.findall(r"\]\(#([\w-]+)\)", text)) - anchors
