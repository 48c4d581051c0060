"""`camlib evaluate`: on scenes and folders, with truths, continued, and refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command import done, files, read, refused
from PIL import Image

from camlib import METHODS, zoo
from camlib.cli import evaluating
from camlib.cli.arguments import method_named
from camlib.cli.evaluating import USUAL, chosen
from camlib.cli.labelled import Scenes
from camlib.cli.truths import Truths
from camlib.errors import InputError
from camlib.metrics.benchmark import evaluate

NETWORK = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4, 2))
"""

XML = """<annotation>{}</annotation>"""
OBJECT = (
    "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>"
    "</bndbox></object>"
)


@pytest.fixture
def photos(folder):
    """Two classes of photos, and a network that takes them."""
    Path("net.py").write_text(NETWORK)
    Path("classes.txt").write_text("cat\ndog\n")
    for number, name in enumerate(("cat/one", "cat/two", "dog/three")):
        path = Path("photos", f"{name}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(number)
        pixels = torch.randint(256, (16, 32, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(path)
    return Path("photos")


def asked(*options):
    given = ("evaluate", "--data", "photos", "--model", "net.py:build", "--size", 12)
    return (*given, "--classes", "classes.txt", "--methods", "saliency", "--layer", "0", *options)


def mask(path, box, size=(16, 32)):
    values = torch.zeros(size, dtype=torch.uint8)
    left, top, right, bottom = box
    values[top:bottom, left:right] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.numpy()).save(path)


def test_folder_is_measured_and_written(photos):
    mask(photos / "cat" / "one_mask.png", (8, 0, 16, 16))
    said = done(*asked("--json", "found.json", "-o", "plots/methods.png"))
    assert said.startswith("3 images, the class of its sub-folder of each\n")
    assert "(center_gaussian)" in said
    assert "±" not in said  # three images are too few
    assert said.endswith("wrote found.json\nwrote plots/methods.png\n")
    found = json.loads(Path("found.json").read_text())
    assert found["complete"]
    assert found["settings"]["images"] == ["cat/one.png", "cat/two.png", "dog/three.png"]
    rows = {row["method"]: row for row in found["rows"]}
    assert list(rows)[:2] == ["grad_cam", "saliency"]
    # The middle square of the photo, 16 x 16 at 8 to 24, is the input: the object is its left half.
    assert rows["ones"]["cells"]["energy_pointing_game"]["mean"] == 0.5
    assert rows["ones"]["cells"]["on_others"]["mean"] is None
    assert read("plots/methods.png").shape[1] > 1000


def test_interrupted_run_goes_on_from_the_file(photos, monkeypatch):
    def stopped(*given, progress, **options):
        def some(work):
            for done_, each in enumerate(work):
                if done_ == 4:
                    raise KeyboardInterrupt
                yield each

        return evaluate(*given, progress=some, **options)

    with monkeypatch.context() as patch:
        patch.setattr(evaluating, "evaluate", stopped)
        with pytest.raises(AssertionError):
            done(*asked("--json", "found.json"))
    before = json.loads(Path("found.json").read_text())
    assert not before["complete"]
    assert len(before["measured"]) == 4
    done(*asked("--json", "found.json"))
    after = json.loads(Path("found.json").read_text())
    assert after["complete"]
    assert before["measured"].items() <= after["measured"].items()
    assert files(Path.cwd())[:2] == ["classes.txt", "found.json"]  # nothing is left beside it


def test_file_of_other_settings_is_refused(photos):
    done(*asked("--json", "found.json"))
    assert refused(*asked("--json", "found.json", "--count", 2)) == (
        '\'found.json\' was measured with images ["cat/one.png", "cat/two.png", "dog/three.png"], '
        'not ["cat/one.png", "cat/two.png"]; choose another --json, or delete it'
    )
    Path("found.json").write_text("{}")
    assert refused(*asked("--json", "found.json")) == (
        "'found.json' was not written by camlib evaluate; choose another --json"
    )


def test_predicted_classes_are_explained_without_folders_of_classes(photos):
    (photos / "cat").rename(photos / "some")
    (photos / "dog").rename(photos / "more")
    assert done(*asked()).startswith("3 images, the predicted class of each\n")


def test_scenes_have_one_class_to_explain_and_others():
    scenes = Scenes(20, torch.device("cpu"))
    assert len(scenes) == 3
    assert len(scenes.names) == 20
    last = scenes[2]
    assert last.inputs.shape == (4, 3, 128, 128)
    assert last.classes.tolist() == [0, 1, 2, 3]
    assert last.masks.flatten(1).any(1).all()
    assert last.others.flatten(1).any(1).all()
    assert not (last.masks & last.others).any()
    assert zoo.CLASSES[last.classes[0]] == "disc"


@pytest.mark.slow
def test_scenes_are_measured(folder):
    said = done("evaluate", "--count", 2, "--methods", "saliency, GuidedBackprop")
    assert said.startswith("2 images, the class with one or two objects of each\n")
    for name in ("grad_cam", "saliency", "guided_backprop", "(edges)"):
        assert said.count(f"\n{name}") >= 4  # in each table


def test_methods_are_chosen_by_name_in_any_form():
    assert list(chosen(["layer_cam,GradCAM++", "saliency"])) == [
        *("grad_cam", "layer_cam", "grad_cam_plus_plus", "saliency")
    ]
    assert list(chosen([])) == list(USUAL)
    assert set(chosen(["all"])) == set(METHODS)
    assert [method_named(name).name for name in USUAL] == list(USUAL)


def test_boxes_of_voc_and_coco_are_pixels_of_the_photo(tmp_path):
    photo = tmp_path / "a" / "one.jpg"
    (tmp_path / "Annotations").mkdir()
    boxes = [("cat", 1, 1, 4, 2), ("dog", 5, 1, 8, 8)]
    text = XML.format("".join(OBJECT.format(*box) for box in boxes))
    (tmp_path / "Annotations" / "one.xml").write_text(text)
    content = {
        "images": [{"id": 7, "file_name": "one.jpg"}, {"id": 8, "file_name": "two.jpg"}],
        "annotations": [
            {"image_id": 8, "category_id": 1, "bbox": [0, 0, 4, 2]},
            {"image_id": 8, "category_id": 2, "bbox": [4, 0, 4, 8]},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    for file in (photo, photo.with_name("two.jpg")):
        truth = Truths(tmp_path).of(file, (8, 8))
        own, others = truth.split("cat", ["cat", "dog"])
        assert own.sum() == 8
        assert own[:2, :4].all()
        assert others.sum() == 32
        assert others[:, 4:].all()
        # Names that are no classes of the network do not tell objects apart.
        own, others = truth.split("tabby", ["tabby", "husky"])
        assert (own.sum(), others.sum()) == (40, 0)
    assert Truths(tmp_path).of(photo.with_name("three.jpg"), (8, 8)) is None


def test_masks_lie_beside_photos_or_in_a_folder(tmp_path):
    mask(tmp_path / "a" / "one_mask.png", (0, 0, 4, 8), (8, 8))
    mask(tmp_path / "masks" / "a" / "two.png", (4, 0, 8, 8), (8, 8))
    for name, columns in (("one", slice(0, 4)), ("two", slice(4, 8))):
        own, others = Truths(tmp_path).of(tmp_path / "a" / f"{name}.jpg", (8, 8)).split("x", ["x"])
        assert own[:, columns].all()
        assert (own.sum(), others.sum()) == (32, 0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xml", "<annotation>", "is no XML of Pascal VOC"),
        ("a.xml", XML.format("<object><name>cat</name></object>"), "an object has no bndbox/xmin"),
        ("b.json", '{"images": [{}], "annotations": []}', "is no COCO file .KeyError: 'id'."),
    ],
)
def test_broken_truths_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        Truths(tmp_path).of(tmp_path / "a.jpg", (8, 8))


def test_mask_of_another_size_is_refused(tmp_path):
    mask(tmp_path / "a_mask.png", (0, 0, 1, 1), (4, 8))
    with pytest.raises(InputError, match=r"has \(4, 8\) pixels, but its photo \(8, 8\)"):
        Truths(tmp_path).of(tmp_path / "a.jpg", (8, 8))


def test_refusals(photos):
    (photos / "dog").rename(photos / "bird")
    assert refused(*asked()) == (
        "some sub-folders of 'photos' are classes, but 'bird' is none: class 'bird' not found; "
        "pass a number from 0 to 1; rename it, or pass --classes with the names of the classes"
    )
    assert refused("evaluate", "--model", "net.py:build", "--size", 12) == (
        "the scenes belong to the built-in network, not to 'net.py:build'; pass --data with a "
        "folder of photos"
    )
    assert refused("evaluate", "--data", "nowhere") == (
        "folder 'nowhere' does not exist; pass a folder of photos, or scenes"
    )
    assert refused("evaluate", "-o", "plot.gif") == (
        "cannot write 'plot.gif'; expected a name that ends in one of "
        ".png, .jpg, .jpeg, .webp, .pdf, .svg"
    )
    assert refused("evaluate", "--methods", "nothing") == (
        "method 'nothing' not found; see camlib methods for those there are"
    )
