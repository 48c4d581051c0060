"""`camlib report`: which pictures are on its page, and how it refuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from command import done, invoke, refused

from camlib import zoo
from camlib.visual import save_picture


def data(file="report.html"):
    page = Path(file).read_text(encoding="utf-8")
    return json.loads(re.findall(r'id="data">(.*)</script>', page)[0])


def numbers(row):
    return [value for value in row[3] if value is not None]


@pytest.fixture
def photos(folder):
    """Scenes in folders of their class, one in a folder that names no class."""
    for number, name in enumerate(["disc", "cross", "holiday"]):
        (folder / "photos" / name).mkdir(parents=True)
        scene = zoo.scene(number, classes=["disc" if name == "holiday" else name])
        save_picture(scene.image, folder / "photos" / name / "a.png")
    return folder


def report(*arguments):
    return "report", *arguments, "--model", "scenenet"


def test_folder_says_the_true_class(photos):
    assert done(*report("photos")) == "wrote report.html with 3 pictures\n"
    shown = data()
    rows = {row[0]: row for row in shown["pictures"]}
    classes = shown["classes"]
    assert set(rows) == {f"photos/{name}/a.png" for name in ("disc", "cross", "holiday")}
    for name, true in (("disc", "disc"), ("cross", "cross"), ("holiday", None)):
        row = rows[f"photos/{name}/a.png"]
        assert (None if row[2] is None else classes[row[2]]) == true
        assert classes[row[1]] == ("disc" if name == "holiday" else name)
    assert shown["numbers"][:3] == ["probability", "score", "probability of the true class"]


def test_broken_picture_costs_no_other(photos):
    (photos / "photos" / "disc" / "b.png").write_bytes(b"no picture")
    result = invoke(*report("photos"))
    assert result.exit_code == 1
    assert "Error: image 'photos/disc/b.png' cannot be read" in result.stderr
    assert len(data()["pictures"]) == 3


def test_batches_change_nothing(photos):
    done(*report("photos", "--batch-size", 1, "-o", "one.html"))
    done(*report("photos", "--batch-size", 3, "-o", "three.html"))
    one, three = (data(f"{name}.html")["pictures"] for name in ("one", "three"))
    for a, b in zip(one, three, strict=True):
        assert a[:3] == b[:3]
        assert numbers(a) == pytest.approx(numbers(b), rel=1e-3)


def test_second_report_leaves_out_pictures_of_the_first(photos):
    small = photos / "photos" / "report-files-00000000"
    small.mkdir()
    shutil.copy("scene.png", small / "000000-camlib.png")
    done(*report("photos", "-o", "photos/report.html"))
    assert len(data("photos/report.html")["pictures"]) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-"], "pass files, patterns or folders"),
        (["scene.png", "-o", "r.pdf"], "ends in .html"),
        (["scene.png", "--method", "saliency"], "marks single pixels"),
    ],
)
def test_what_does_not_fit_is_one_line(folder, arguments, message):
    assert message in refused(*report(*arguments))
