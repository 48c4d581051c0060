"""Which pictures `camlib explain` reads, where it writes, what it says and what it costs."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from command import SCENE, built_in, done, files, invoke, network, read, refused
from PIL import Image

import camlib
from camlib import GradCAM, zoo
from camlib.cli import explaining, main, terminal
from camlib.visual import save_picture

ROOT = Path(camlib.__file__).parents[1]
COMMANDS = ("demo", "explain", "layers", "methods")


@pytest.fixture
def passes(monkeypatch):
    """How many samples the built-in network has run on."""
    counted = SimpleNamespace(count=0)
    forward = zoo.SceneNet.forward

    def counting(self, images):
        counted.count += len(images)
        return forward(self, images)

    monkeypatch.setattr(zoo.SceneNet, "forward", counting)
    return counted


def pictures(folder, *names):
    """Scenes under these names."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        save_picture(zoo.scene(number).image, folder / name)


def scenenet(*arguments):
    return done("explain", *arguments, "--model", "scenenet", "--plain")


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        check=True,
    ).stdout.decode()


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS)], ids=str)
def test_help_needs_no_torch_and_shows_an_example(arguments):
    code = (
        "import sys; from camlib.cli import main\n"
        f"main([*{arguments}, '--help'], standalone_mode=False)\n"
        "print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    )
    text = python(code)
    assert text.splitlines()[-1] == "False False"
    assert f"  camlib {(arguments or ['explain'])[0]} " in text.partition("Example")[2]


def test_shell_completion_needs_no_torch():
    code = (
        "import sys; sys.argv = ['camlib']\n"
        "from camlib.cli import main\n"
        "try: main(prog_name='camlib')\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    asked = {"COMP_WORDS": "camlib explain --met", "COMP_CWORD": "2"}
    said = python(code, _CAMLIB_COMPLETE="bash_complete", **asked).split()
    assert said == ["plain,--method", "False"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], 1),
        (["--top", "3"], 1),
        (["--target", "disc", "--target", "heart"], 1),
        (["--expected", "heart"], 1),
        (["--method", "grad_cam", "--method", "layer_cam"], 2),
        (["--method", "saliency"], 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_model_runs_once_for_each_image_and_method(folder, passes, options, expected):
    pictures(folder, "a.png", "b.png", "c.png")
    layer = ["--layer", "features"]  # without it a method seeks its layer, once
    done("explain", "a.png", "--model", "scenenet", *layer, *options)
    first = passes.count
    done("explain", "a.png", "b.png", "c.png", "--model", "scenenet", *layer, *options)
    assert (passes.count - first) - first == 2 * expected
    assert first == expected


def test_top_classes_come_best_first(folder):
    said = done(*built_in("--top", "3")).splitlines()
    model, inputs = network()
    best = model(inputs)[0].topk(3).indices.tolist()
    assert [line.split(":")[0] for line in said[1:4]] == [
        f"  class {index}, {zoo.CLASSES[index]}" for index in best
    ]
    assert invoke(*built_in("--top", "99")).stdout.count("  class ") == len(zoo.CLASSES)


def test_expected_class_is_told_from_the_predicted_one(folder, monkeypatch):
    drawn = []

    def keep(drawing, path):
        drawn.append(drawing)
        return save_picture(drawing, path)

    monkeypatch.setattr(explaining, "save_picture", keep)
    done(*built_in("--expected", "disc", "--raw", "--json", "found.json"))
    model, inputs = network()
    seen = GradCAM(model).explain(inputs, lambda out: out[:, [5, 0]])
    contrast = GradCAM(model).explain(inputs, lambda out: out[:, 5] - out[:, 0])
    raw = torch.from_numpy(np.load("scene-camlib.npy"))
    torch.testing.assert_close(raw[:2], seen.map[0])
    torch.testing.assert_close(raw[2], contrast.map[0])
    texts = " ".join(text.get_text() for text in drawn[0].texts)
    assert all(each in texts for each in ("predicted: cross", "expected: disc", "cross\nnot disc"))
    [image] = json.loads(Path("found.json").read_text())["images"]
    last = image["explained"][-1]
    assert (last["target"], last["class"]) == ("contrast", [5, 0])
    assert last["score"] == pytest.approx(contrast.score.item(), rel=1e-5)
    assert done(*built_in("--expected", "cross")).count("  class ") == 1
    assert "class 9 is out of range" in refused(*built_in("--expected", "9"))


def test_manifest_and_table_say_what_was_found(folder):
    pictures(folder, "b.png")
    (folder / "torn.png").write_bytes(b"no picture")
    asked = ["--target", "disc", "--target", "5", "--method", "LayerCAM", "--method", "fem"]
    where = ["--json", "out/found.json", "--csv", "out/found.csv", "--raw"]
    images = ["scene.png", "torn.png", "b.png"]
    result = invoke("explain", *images, "--model", "scenenet", *asked, *where)
    assert result.exit_code == 1
    found = json.loads(Path("out/found.json").read_text())
    assert found["model"] == "scenenet"
    assert found["versions"] == {"camlib": camlib.__version__, "torch": torch.__version__}
    scene, torn, _ = found["images"]
    model, inputs = network()
    chances = model(inputs).sigmoid()[0]
    assert scene["predicted"]["name"] == "cross"
    assert scene["predicted"]["probability"] == pytest.approx(chances[5].item(), rel=1e-5)
    ends = (".png", "-layer_cam.npy", "-fem.npy")
    assert scene["files"] == [f"scene-camlib{end}" for end in ends]
    assert [(each["method"], each["class"]) for each in scene["explained"]] == [
        (method, index) for method in ("layer_cam", "fem") for index in (0, 5)
    ]
    assert scene["explained"][0]["layers"] == ["features"]
    assert torn["image"] == "torn.png"
    assert "cannot be read" in torn["error"]
    rows = list(csv.DictReader(io.StringIO(Path("out/found.csv").read_text())))
    assert [row["image"] for row in rows] == 4 * ["scene.png"] + ["torn.png"] + 4 * ["b.png"]
    assert (rows[1]["name"], rows[1]["method"], rows[1]["file"]) == (
        *("cross", "layer_cam", "scene-camlib.png"),
    )
    assert "cannot be read" in rows[4]["error"]


def test_manifest_on_the_standard_output_is_alone_there(folder):
    result = invoke(*built_in("--json", "-"))
    assert json.loads(result.stdout)["images"][0]["predicted"]["name"] == "cross"
    assert "scene.png: cross" in result.stderr


def test_looks_are_those_asked_for(folder):
    scenenet("scene.png", "--alpha", "0.7", "--colormap", "viridis", "--threshold", "0.4")
    model, inputs = network()
    picture = (SCENE.image * 255).round().byte().permute(1, 2, 0).numpy()
    heat = GradCAM(model)(inputs)[0]
    expected = camlib.overlay(picture, heat, 0.7, "viridis", threshold=0.4)
    assert np.array_equal(read("scene-camlib.png"), expected)
    done(*built_in("--view", "overlay", "--view", "cells", "--threshold", "0.4"))


def test_pictures_of_a_folder_are_mirrored(folder):
    pictures(folder, "photos/a.png", "photos/x/b.jpg", "photos/.hidden/c.png", "photos/x/y/a.png")
    (folder / "photos/notes.txt").write_text("no picture")
    expected = ["a-camlib.png", "x/b-camlib.png", "x/y/a-camlib.png"]
    scenenet("photos", "-o", "new/maps")
    assert files(folder / "new/maps") == expected
    scenenet("photos")
    assert files(folder / "photos-camlib") == expected


def test_what_was_written_is_not_read_again(folder):
    pictures(folder, "b.png")
    scenenet("b.png", "scene.png")
    before = files(folder)
    said = scenenet("*.png")
    assert said.count("  wrote") == 2
    assert said.endswith("left out 2 pictures that camlib wrote\n")
    assert files(folder) == before
    assert refused("explain", "b-camlib.png", "--model", "scenenet") == (
        "there is nothing to explain: camlib itself wrote 'b-camlib.png'; to explain a picture "
        "whose name ends in -camlib, rename it"
    )


def test_pictures_of_one_name_do_not_collide(folder):
    pictures(folder, "a/x.png", "b/x.png", "x.png", "x.jpg", "a/only.png")
    names = ["a/x.png", "b/x.png", "x.png", "x.jpg", "x.png", "a/only.png"]
    scenenet(*names, "-o", "maps")
    assert files(folder / "maps") == [
        "a/x-camlib.png",
        "b/x-camlib.png",
        "only-camlib.png",
        "x.jpg-camlib.png",
        "x.png-camlib.png",
    ]


def test_patterns_are_followed_where_the_shell_does_not(folder):
    pictures(folder, "a/x.png", "b/c/y.png", "odd[1].png")
    assert scenenet("**/[xy].png").count("wrote") == 2
    assert scenenet("odd[1].png").count("wrote") == 1
    assert refused("explain", "*.nix", "--model", "scenenet") == (
        "no file matches '*.nix'; check the pattern"
    )


def test_standard_input_is_a_picture(folder):
    options = ["explain", "-", "--model", "scenenet", "--plain"]
    result = CliRunner().invoke(main, options, input=(folder / "scene.png").read_bytes())
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("-: cross, 99.")
    assert read("stdin-camlib.png").shape == (128, 128, 3)
    result = CliRunner().invoke(main, options, input=b"no picture")
    assert result.stderr.startswith("Error: -: image 'standard input' cannot be read")


def test_folder_of_the_output_is_made(folder):
    scenenet("scene.png", "-o", "new/place/map.jpg")
    scenenet("scene.png", "-o", "new/run.1")
    assert files(folder / "new") == ["place/map.jpg", "run.1/scene-camlib.png"]


def test_nothing_about_one_image_keeps_the_others(folder, monkeypatch):
    pictures(folder, "a.png", "b.png", "c.png")
    usual = explaining.answered

    def failing(network, methods, inputs, question, count=[0]):  # noqa: B006
        count[0] += 1
        if count[0] == 2:
            raise RuntimeError("out of luck\nand more")
        return usual(network, methods, inputs, question)

    monkeypatch.setattr(explaining, "answered", failing)
    result = invoke("explain", "a.png", "b.png", "c.png", "--model", "scenenet", "--plain")
    assert result.exit_code == 1
    assert result.stderr == "Error: b.png: RuntimeError: out of luck\n"
    assert {"a-camlib.png", "c-camlib.png"} < set(files(folder))


def test_names_that_a_terminal_cannot_print_are_escaped(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    terminal.say("犬.png and \udcff.png")
    stream.flush()
    assert stream.buffer.getvalue() == b"\\u72ac.png and \\udcff.png\n"


def test_files_of_any_name_are_explained(folder):
    name = os.fsdecode(b"odd \xff name.png")
    try:
        shutil.copy("scene.png", name)
    except OSError:
        pytest.skip("this file system has no such names")
    asked = ["explain", name, "--model", "scenenet", "--json", "x"]
    command = [sys.executable, "-m", "camlib", *asked]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(Path("x").read_text())["images"][0]["image"] == name


def test_the_last_layers_alone():
    every = done("layers", "scenenet", "--size", "64").splitlines()
    last = done("layers", "scenenet", "--size", "64", "--last", "2").splitlines()
    assert [line.split()[0] for line in last[1:]] == [line.split()[0] for line in every[-2:]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "1x2x3"], "'1x2x3' is not 1 or 2 numbers such as 224 or 224x320"),
        (["--mean", "a"], "'a' is not 1 or 3 numbers such as 0.485,0.456,0.406"),
    ],
)
def test_options_that_are_none(folder, options, message):
    result = invoke(*built_in(*options))
    assert result.exit_code == 2
    assert message in result.stderr


def test_several_modes_of_a_picture(folder):
    with Image.open("scene.png") as opened:
        opened.convert("RGBA").save("clear.webp")
    assert scenenet("clear.webp").startswith("clear.webp: cross")
