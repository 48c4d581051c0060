"""The `camlib` command: what it writes, what it says, and how it refuses."""

import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from command import SCENE, built_in, done, files, invoke, network, read, refused
from PIL import Image
from torchvision import models

import camlib
from camlib import (
    CAM,
    METHODS,
    AttentionMethod,
    ElementWiseGradCAM,
    GradCAM,
    ScoreCAM,
    overlay,
    zoo,
)
from camlib.cli import demo, explaining, main
from camlib.cli.arguments import class_index, method_named
from camlib.integrations import torchvision as networks
from camlib.visual import save_picture

TRANSFORMING = [k.__name__ for k in METHODS.values() if issubclass(k, AttentionMethod)]


@pytest.fixture
def fewer_methods(monkeypatch):
    monkeypatch.setattr(demo, "METHODS", {"cam": CAM})
    monkeypatch.setattr(demo, "SHOWN", ["cam"])


@pytest.fixture
def drawn(monkeypatch):
    """What is written as a picture, in order."""
    seen = []
    for module in (demo, explaining):
        monkeypatch.setattr(
            module, "save_picture", lambda what, path: seen.append(what) or save_picture(what, path)
        )
    return seen


def as_array(picture):
    return (picture * 255).round().byte().permute(1, 2, 0).numpy()


@pytest.mark.parametrize("options", [[], pytest.param(["--all"], marks=pytest.mark.slow)])
def test_demo_shows_methods_for_two_classes(folder, drawn, options):
    said = ["wrote camlib-demo.png"]
    if options:
        said += ["left out, as the built-in network is no transformer: " + ", ".join(TRANSFORMING)]
    assert done("demo", *options).splitlines() == said
    methods = METHODS.values() if options else [METHODS[name] for name in demo.SHOWN]
    methods = [kind for kind in methods if kind.__name__ not in TRANSFORMING]
    texts = [text.get_text() for text in drawn[0].texts]
    assert texts[0] == "Where does the network see the disc, and where the cross?"
    assert "scene 236" in texts[1]
    assert f"{len(methods)} methods" in texts[1]
    assert {kind.__name__ for kind in methods} < set(texts)
    assert ("EigenCAM" in texts) == bool(options)
    assert ("The last 6 ask for no class: their red" in texts[1]) == bool(options)
    named = [text for text in texts if text in {kind.__name__ for kind in methods}]
    asking = [getattr(getattr(camlib, name), "asks", True) for name in named]
    assert asking == sorted(asking, reverse=True)
    with torch.no_grad():
        chances = zoo.load()(zoo.preprocess(zoo.scene(236).image)[None]).sigmoid()[0]
    for name in ("disc", "cross"):
        assert f"{name}: {chances[zoo.CLASSES.index(name)]:.1%}" in texts
    blocks = -(-len(methods) // 6)
    assert len(drawn[0].axes) == 2 * (len(methods) + blocks)
    assert read("camlib-demo.png").shape[1] < 1800


def test_demo_adds_a_class_to_a_scene_of_one(folder, fewer_methods):
    seed = next(s for s in range(20) if len(set(zoo.scene(s).names)) == 1)
    image, classes = demo.scene_of_two(seed)
    assert len(set(classes)) == 2
    assert torch.equal(image, zoo.scene(seed, classes=classes).image)
    assert done("demo", "--seed", seed, "-o", "x.png") == "wrote x.png\n"


def test_demo_leaves_scenes_of_several_classes_alone():
    seed = next(s for s in range(20) if len(set(zoo.scene(s).names)) > 2)
    image, classes = demo.scene_of_two(seed)
    assert torch.equal(image, zoo.scene(seed).image)
    assert len(classes) == 2
    assert set(classes) < set(zoo.scene(seed).labels.tolist())


def test_one_map_lies_over_the_image(folder):
    said = done(*built_in("-o", "map.png", "--plain"))
    model, inputs = network()
    seen = GradCAM(model).explain(inputs)
    [chance] = seen.output.sigmoid().max(1).values
    assert said.splitlines() == [
        f"scene.png: cross, {chance:.1%}",
        f"  class 5, cross: {chance:.1%}, score {seen.score.item():.4g}, layer {seen.layers[0]}",
        "  by GradCAM: no other method of one pass is better by every measure",
        "  wrote map.png",
    ]
    assert files(folder) == ["map.png", "scene.png"]
    expected = overlay(as_array(SCENE.image), seen.heatmap[0])
    assert np.array_equal(read("map.png"), expected)


def test_one_map_is_a_figure_with_class_method_layer_and_colours(folder, drawn):
    said = done(*built_in())
    model, inputs = network()
    seen = GradCAM(model).explain(inputs)
    [chance] = seen.output.sigmoid().max(1).values
    texts = [text.get_text() for text in drawn[0].texts]
    assert f"cross\n{chance:.1%}" in texts
    assert f"GradCAM\n{seen.layers[0]}" in texts
    assert {"high", "low", "each map by itself"} <= set(texts)
    photo, heat, _ = (axes.images[0].get_array() for axes in drawn[0].axes)
    assert np.array_equal(photo, as_array(SCENE.image))
    assert abs(heat - as_array(overlay(SCENE.image, seen.heatmap[0])).astype(int)).max() <= 1
    assert said.endswith("  wrote scene-camlib.png\n")


def test_method_that_is_not_asked_for_fits_the_layer(folder):
    said = done(
        *built_in("--raw", "--target", "disc", "--layer", "features.1.0", "--json", "found.json")
    )
    [found] = json.loads(Path("found.json").read_text())["images"][0]["explained"]
    assert f"  by ElementWiseGradCAM: {found['reason']}\n" in said
    assert found["method"] == "element_wise_grad_cam"
    assert "negative values have" in found["reason"]
    model, inputs = network()
    expected = ElementWiseGradCAM(model, "features.1.0").explain(inputs, 0).map[0]
    torch.testing.assert_close(torch.from_numpy(np.load("scene-camlib.npy")), expected)


def test_raw_map_is_the_layers_own(folder):
    said = done(*built_in("--raw", "--target", "disc"))
    assert said.splitlines()[-1] == "  wrote scene-camlib.png, scene-camlib.npy"
    model, inputs = network()
    expected = GradCAM(model).explain(inputs, 0).map[0]
    torch.testing.assert_close(torch.from_numpy(np.load("scene-camlib.npy")), expected)


def test_score_cam_weighs_with_the_probability_of_a_sigmoid(folder):
    done(*built_in("--raw", "--method", "score_cam", "--target", "disc"))
    model, inputs = network()
    expected = ScoreCAM(model).explain(inputs, lambda output: output[:, 0].sigmoid()).map[0]
    torch.testing.assert_close(torch.from_numpy(np.load("scene-camlib.npy")), expected)


def test_several_methods_and_targets_share_a_figure(folder, drawn):
    asked = ("--method", "layer_cam", "--method", "saliency", "--target", "CROSS", "--target", 0)
    said = done(*built_in(*asked, "--raw")).splitlines()
    assert [line.split(":")[0] for line in said[1:3]] == ["  class 5, cross", "  class 0, disc"]
    assert said[3] == (
        "  wrote scene-camlib.png, scene-camlib-layer_cam.npy, scene-camlib-saliency.npy"
    )
    texts = [text.get_text().split("\n")[0] for text in drawn[0].texts]
    assert [text for text in texts if text][:3] == ["image", "LayerCAM", "Saliency"]
    assert {"cross", "disc"} < set(texts)
    assert len(drawn[0].axes) == 7
    assert np.load("scene-camlib-layer_cam.npy").shape == (2, 16, 16)
    assert np.load("scene-camlib-saliency.npy").shape == (2, 3, 128, 128)


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_by_name(method, folder):
    command = built_in("--method", method, "--layer", "features", "--target", "disc")
    if METHODS[method].__name__ in TRANSFORMING:
        assert "SceneNet has no attention; expected" in refused(*command)
        return
    done(*command, "--plain")
    assert read("scene-camlib.png").shape == (128, 128, 3)


def test_layer_is_the_one_asked_for(folder):
    assert "layer features.3\n" in done(*built_in("--layer", "features.3"))


def test_pixel_methods_name_no_layer(folder):
    assert "layer none\n" in done(*built_in("--method", "guided_backprop"))


def test_same_class_twice_is_one_row(folder):
    assert done(*built_in("--target", "disc", "--target", "0")).count("class 0") == 1


def test_large_images_are_shrunk_to_what_the_network_knows(folder):
    save_picture(SCENE.image.repeat_interleave(2, 1).repeat_interleave(2, 2), "large.png")
    said = done("explain", "large.png", "--model", "scenenet", "--plain")
    assert said.startswith("large.png: cross, 99.")
    assert read("large-camlib.png").shape == (256, 256, 3)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16"])
def test_images_of_every_mode(mode, folder):
    with Image.open("scene.png") as opened:
        image = opened.convert("L" if mode == "I;16" else mode)
    expected = np.array(image.convert("RGB"))
    if mode == "I;16":
        image = Image.fromarray(np.array(image, dtype=np.uint16) * 257)
    image.save("mode.png")
    assert np.array_equal(np.array(explaining.read(folder / "mode.png")), expected)


def test_cameras_orientation_is_followed(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((4, 8, 3), np.uint8)).save("turned.jpg", exif=exif)
    assert explaining.read(folder / "turned.jpg").size == (4, 8)


def test_several_images_go_to_a_folder(folder):
    (folder / "maps").mkdir()
    save_picture(zoo.scene(368).image, "other.png")
    said = done("explain", "scene.png", "other.png", "--model", "scenenet", "-o", "maps")
    assert said.count("  wrote maps/") == 2
    assert files(folder / "maps") == ["other-camlib.png", "scene-camlib.png"]


def test_good_images_are_explained_beside_bad_ones(folder):
    (folder / "torn.png").write_bytes((folder / "scene.png").read_bytes()[:999])
    result = invoke("explain", "nix.png", "torn.png", "scene.png", "--model", "scenenet")
    assert result.exit_code == 1
    assert [line.split(" (")[0] for line in result.stderr.splitlines()] == [
        "Error: image 'nix.png' does not exist; check the path",
        "Error: image 'torn.png' cannot be read",
    ]
    assert files(folder) == ["scene-camlib.png", "scene.png", "torn.png"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_terminals_show_bars(folder, monkeypatch):
    save_picture(SCENE.image, "other.png")
    monkeypatch.setattr(sys, "stderr", Terminal())
    options = ["--model", "scenenet", "--method", "score_cam", "--target", "disc"]
    assert not main(["explain", "scene.png", "other.png", *options], standalone_mode=False)
    assert "images: 100%" in sys.stderr.getvalue()
    assert "ScoreCAM: " in sys.stderr.getvalue()


class Nothing(GradCAM):
    def weights(self, activation, gradient):
        return torch.zeros_like(gradient)


def test_warnings_name_the_image_in_a_line(folder, monkeypatch):
    monkeypatch.setitem(METHODS, "nothing", Nothing)
    result = invoke(*built_in("--method", "nothing"))
    [line] = result.stderr.splitlines()
    assert result.exit_code == 0
    assert line.startswith("Warning: scene.png: a map at layer 'features")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file with random weights of SqueezeNet for three classes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = models.squeezenet1_1(num_classes=3)
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pt"
    torch.save(model.state_dict(), path)
    return path


def squeezenet(weights, *arguments):
    return ("explain", "scene.png", "--model", "squeezenet1_1", "--weights", weights, *arguments)


def test_overlay_shows_the_whole_photo(folder, weights):
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8))
    wide.save("scene.png")
    said = done(*squeezenet(weights, "--method", "cam", "--target", 2, "--plain"))
    preset = models.SqueezeNet1_1_Weights.DEFAULT.transforms()
    model = models.squeezenet1_1(num_classes=3).eval()
    model.load_state_dict(torch.load(weights))
    seen = CAM(model).explain(preset(wide)[None], 2)
    expected = np.array(seen.overlay(wide, transform=preset)).astype(int)
    assert abs(read("scene-camlib.png") - expected).max() <= 1
    assert f"class 2: {seen.output.softmax(1)[0, 2]:.1%}, score {seen.score.item():.4g}," in said


@pytest.mark.parametrize("bias", [-2.0, 2.0])
def test_network_of_one_output_tells_two_classes(folder, bias):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = models.resnet18(num_classes=1).eval()
    model.fc.bias.data.fill_(bias)
    torch.save(model.state_dict(), "one.pt")
    preset = models.ResNet18_Weights.DEFAULT.transforms()
    with Image.open("scene.png") as image:
        inputs = preset(image.convert("RGB"))[None]
    logit = model(inputs).item()
    asked = ("--target", "0", "--target", "class 1", "--method", "cam", "--raw")
    said = done("explain", "scene.png", "--model", "resnet18", "--weights", "one.pt", *asked)
    chance = 1 / (1 + math.exp(-logit))
    best, belief = ("class 1", chance) if logit > 0 else ("class 0", 1 - chance)
    assert f"scene.png: {best}, {belief:.1%}\n" in said
    assert f"class 0, class 0: {1 - chance:.1%}, score {-logit:.4g}," in said
    assert f"class 1, class 1: {chance:.1%}, score {logit:.4g}," in said
    expected = CAM(model, "layer4").explain(inputs, [[0, 1]]).map[0]
    torch.testing.assert_close(torch.from_numpy(np.load("scene-camlib.npy")), expected)
    torch.testing.assert_close(expected[0], -expected[1])
    done("explain", "scene.png", "--model", "resnet18", "--weights", "one.pt", *asked[4:])
    found = torch.from_numpy(np.load("scene-camlib.npy"))
    torch.testing.assert_close(found, expected[int(logit > 0)])


def test_published_class_names(folder, tmp_path):
    torch.save(networks.untrained("squeezenet1_1")[0].state_dict(), "imagenet.pt")
    assert "class 281, tabby: " in done(*squeezenet("imagenet.pt", "--target", "Tabby"))


def test_weights_that_cannot_be_downloaded(folder, monkeypatch):
    def offline(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    for options in ([], ["--weights", "IMAGENET1K_V1"]):
        line = refused("explain", "scene.png", "--model", "resnet18", *options)
        assert line == (
            "cannot download the weights of 'resnet18' (no route to host); put "
            "https://download.pytorch.org/models/resnet18-f37072fd.pth into "
            f"{folder / 'hub' / 'hub'}/checkpoints, or pass a file with a state dict as weights"
        )
    assert files(folder) == ["scene.png"]


@pytest.mark.slow
def test_networks_that_start_with_zeros_have_a_default_layer():
    assert done("layers", "vit_b_16").count("default") == 1


def test_untrained_networks_are_always_the_same():
    before = torch.get_rng_state()
    one, two = (networks.untrained("squeezenet1_1")[0] for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_layers_are_listed_with_shape_and_stride():
    lines = done("layers", "scenenet", "--size", "64").splitlines()
    rows = [re.split(" {2,}", line) for line in lines]
    assert rows[0] == ["layer", "kind", "output", "grid", "stride", "gradient on it"]
    assert rows[1] == ["features.0.0", "Conv2d", "24 x 32 x 32", "32 x 32", "2", "100%"]
    last = ["features", "Sequential", "128 x 8 x 8", "8 x 8", "8", "100%", "default"]
    assert rows[-1] == last
    assert sum(line.endswith("default") for line in lines) == 1


def test_layers_of_a_network_of_timm():
    pytest.importorskip("timm", reason="timm is not installed")
    lines = done("layers", "test_vit", "--size", "160").splitlines()
    [default] = [re.split(" {2,}", line) for line in lines if line.endswith("default")]
    assert default[:2] == ["blocks.5.norm1", "LayerNorm"]
    assert default[3] == "10 x 10"


def test_methods_are_listed_with_paper_and_cost():
    header, *lines = done("methods").splitlines()
    assert header.split() == ["name", "paper", "passes", "of", "the", "network"]
    assert max(map(len, lines)) <= 100
    starts = [header.index(word) for word in ("name", "paper", "passes")]
    rows = []
    for line in lines[: lines.index("")]:
        cells = [line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]
        if cells[0]:
            rows.append(cells)
        else:
            rows[-1] = [f"{a} {b}".strip() for a, b in zip(rows[-1], cells, strict=True)]
    assert [row[0] for row in rows] == list(METHODS)
    for name, paper, cost in rows:
        assert cost == METHODS[name].cost
        assert paper in METHODS[name].paper()
    assert rows[list(METHODS).index("grad_cam")][1] == "Selvaraju et al., ICCV 2017"


@pytest.mark.parametrize("name", ["layer_cam", "LayerCAM", "layer-cam"])
def test_a_method_in_full(name):
    lines = done("methods", name).splitlines()
    assert lines[:2] == [
        "layer_cam, in Python camlib.LayerCAM",
        f"passes of the network: {METHODS['layer_cam'].cost}",
    ]
    assert "doi:10.1109/TIP.2021.3089943" in "\n".join(lines)
    assert "Args:" not in lines


def test_command_runs_as_a_module():
    command = [sys.executable, "-W", "error", "-m", "camlib", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == (f"camlib {camlib.__version__}\n", "")


def test_import_loads_nothing_heavier_than_click():
    code = (
        "import sys; before = set(sys.modules); import camlib.cli; "
        "print(*set(sys.modules) - before)"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in result.stdout.split()}
    assert {"camlib", "click"} <= loaded
    assert not loaded & {"torchvision", "matplotlib", "PIL", "tqdm", "cv2", "torch"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", "x.pt"], "scenenet has its weights built in; leave out --weights x.pt"),
        (["--method", "grad_cm"], "method 'grad_cm' not found; did you mean 'grad_cam'?"),
        (["--layer", "feature"], "layer 'feature' not found in SceneNet; did you mean 'features'?"),
        (["--target", "hart"], "class 'hart' not found; did you mean 'heart'?"),
        (["--target", "8"], "class 8 is out of range: the model has 8 classes, 0 to 7"),
        (["--target", "-1"], "class -1 is out of range: the model has 8 classes, 0 to 7"),
        (["--device", "gpu"], "device 'gpu' is not there; use auto, or one of: cpu"),
        (["--device", "meta"], "device 'meta' is not there; use auto, or one of: cpu"),
        (["-o", "scene.png"], "output 'scene.png' is the image itself; choose another name"),
        (["-o", "x.gif"], "cannot write 'x.gif'; expected a name that ends in one of .png, .jpg,"),
        (["-o", "x.pdf", "--plain"], "cannot write 'x.pdf'; expected a name that ends in one of"),
        (["--colormap", "jett"], "colormap 'jett' not found; did you mean 'jet'?"),
        (["--top", "2", "--target", "disc"], "--target, --top and --expected choose the classes"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusals_are_one_line(options, message, folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert refused(*built_in(*options)).startswith(message)
    assert files(folder) == ["scene.png"]


@pytest.mark.parametrize(
    ("model", "advice"),
    [
        ("resnet81", "did you mean 'resnet18'?"),
        ("scene_net", "did you mean 'scenenet'?"),
        ("?", "expected for example 'resnet50'"),
    ],
)
def test_unknown_networks_are_refused(model, advice, folder):
    message = f"model {model!r} is no classification network of torchvision; {advice}"
    assert refused("explain", "scene.png", "--model", model) == message
    assert refused("layers", model) == message
    assert files(folder) == ["scene.png"]


def test_bad_images_are_named(folder):
    (folder / "notes.txt").write_text("no picture")
    (folder / "photos").mkdir()
    assert refused("explain", "photos", "--model", "scenenet") == (
        "folder 'photos' has no pictures; check the path"
    )
    line = refused("explain", "notes.txt", "--model", "scenenet")
    assert line.startswith("image 'notes.txt' cannot be read (cannot identify")
    assert line.endswith("); expected a picture such as PNG or JPEG")
    assert files(folder) == ["notes.txt", "scene.png"]


def test_several_images_need_a_folder(folder):
    save_picture(SCENE.image, "other.png")
    line = refused("explain", "scene.png", "other.png", "--model", "scenenet", "-o", "x.png")
    assert line == "output 'x.png' is one picture; 2 images need a folder"
    assert files(folder) == ["other.png", "scene.png"]


def test_disk_that_refuses(folder, fewer_methods, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    line = refused(*built_in())
    assert line == (
        "scene.png: cannot write 'scene-camlib.png': No space left on device; choose another output"
    )
    assert refused("demo", "-o", "x.png").startswith("cannot write 'x.png': No space left")
    assert files(folder) == ["scene.png"]


def test_raw_map_is_whole_or_not_there(folder, monkeypatch):
    def full(file, _):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    assert "No space left" in refused(*built_in("--raw"))
    assert files(folder) == ["scene-camlib.png", "scene.png"]


def test_demo_refuses_what_it_cannot_do(folder, fewer_methods):
    assert refused("demo", "--seed", -1) == (
        "seed=-1 is out of range; expected an integer of 0 or more"
    )
    assert refused("demo", "-o", "x.gif").startswith("cannot write 'x.gif'; expected a name")
    assert refused("demo", "-o", "no/x.png") == "folder 'no' does not exist; create it first"
    assert files(folder) == ["scene.png"]


def test_weights_that_are_none(folder, weights):
    torch.save([1, 2], "list.pt")
    assert refused(*squeezenet("list.pt")) == (
        "'list.pt' holds no weights: it holds a list; expected a state dict, bare or under a name "
        "such as 'state_dict' or 'model': save model.state_dict() to a new file"
    )
    assert refused(*squeezenet("no.pt")) == (
        "weights 'no.pt' not found; expected a file with a state dict, or one of IMAGENET1K_V1, "
        "DEFAULT"
    )


def test_weights_of_another_network(folder, weights):
    state = torch.load(weights)
    torch.save({**state, "features.0.weight": torch.zeros(1)}, "shape.pt")
    assert refused(*squeezenet("shape.pt")) == (
        "'shape.pt' does not fit 'squeezenet1_1': shapes differ at features.0.weight (1,) for "
        "(64, 3, 3, 3); choose the network that it was saved from"
    )


def test_layers_refuses_what_the_network_cannot_take():
    line = refused("layers", "vit_b_16", "--size", 32)
    assert line == (
        "'vit_b_16' cannot take pictures of 32 x 32 (Wrong image height! Expected 224 but got "
        "32!); its own size is 224: --size 224"
    )
    assert refused("layers", "squeezenet1").endswith("did you mean 'squeezenet1_1'?")


def test_class_names_are_found_or_suggested():
    classes = ["crane", "golden retriever", "Crane"]
    assert class_index("Golden Retriever", classes) == 1
    for given, message in {
        "crane": "class 'crane' is the name of 0 and 2; pass the number you mean",
        "retriever": "class 'retriever' not found; did you mean 'golden retriever'?",
        "xyz": "class 'xyz' not found; pass a number from 0 to 2",
    }.items():
        with pytest.raises(camlib.TargetError) as error:
            class_index(given, classes)
        assert str(error.value) == message


def test_names_with_the_whole_word_are_offered_first():
    names = models.ResNet50_Weights.DEFAULT.meta["categories"]
    for given, offered in {
        "cat": " or ".join(
            f"'{each} cat'" for each in ("tiger", "Persian", "Siamese", "Egyptian", "Madagascar")
        ),
        "retriever golden": "'golden retriever'",
        "tabbi": "'tabby'",
    }.items():
        with pytest.raises(camlib.TargetError, match=rf"did you mean {offered}\?"):
            class_index(given, names)


def test_methods_are_found_however_they_are_spelled():
    for given in (
        "grad_cam_plus_plus",
        "GradCAMPlusPlus",
        "gradcam++",
        "Grad-CAM++",
        "Grad CAM ++",
    ):
        assert method_named(given) is camlib.GradCAMPlusPlus


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("zzz", "see camlib methods for those there are"),
        ("sscore_cam", "did you mean 'score_cam'?"),
        ("es_cam", "see camlib methods for those there are"),  # SS-CAM and IS-CAM are as near
    ],
)
def test_no_method_is_offered_in_place_of_another(given, advice):
    with pytest.raises(camlib.InputError) as error:
        method_named(given)
    assert str(error.value) == f"method {given!r} not found; {advice}"
