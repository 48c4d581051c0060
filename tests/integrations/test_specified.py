"""Networks by what a user types, and the transform and names that come with them."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import pytest
import torch
from command import done, refused
from PIL import Image
from torch import nn
from torchvision import models

import camlib
from camlib import GradCAM, InputError
from camlib.cli.networks import Spoken
from camlib.integrations import specified
from camlib.integrations.network import Network

PHOTO = Image.new("RGB", (80, 40), (200, 10, 10))
CODE = """
import torch
from torch import nn
from neighbour import WIDTH

class Small(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, WIDTH, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(WIDTH, 2),
        )
        self.classes = ["ant", "bee"]

def build():
    torch.manual_seed(0)
    return Small()

def failing():
    raise RuntimeError("no luck")

def needs(what): ...

def transform(image):
    return torch.full((3, 16, 24), image.size[0] / 100)

def make():
    return transform

model = build()
number = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A folder with the user's own code and a photo."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("mine", "neighbour", "package", "package.nets"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    Path("own").mkdir()
    Path("own/mine.py").write_text(CODE)
    Path("own/neighbour.py").write_text("WIDTH = 4")
    Path("neighbour.py").write_text("WIDTH = 4")
    Path("package").mkdir()
    Path("package/__init__.py").touch()
    Path("package/nets.py").write_text(CODE)
    Path("broken.py").write_text("import nowhere_to_be_found")
    PHOTO.resize((80, 40)).save("photo.png")
    yield tmp_path
    for name in ("mine", "neighbour", "package", "package.nets"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "model", ["own/mine.py:build", "own/mine.py:Small", "own/mine.py:model", "package.nets:build"]
)
def test_own_code_gives_the_network(mine, model):
    network = specified.load(model)
    assert type(network.model).__name__ == "Small"
    assert not network.model.training
    assert network.classes == ["ant", "bee"]
    assert network.transform is None


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("own/mine.py:failing", r"fails \(RuntimeError: no luck\); expected a function or class"),
        ("own/mine.py:needs", r"fails \(TypeError: .*and needs no arguments"),
        ("own/mine.py:number", "fails .TypeError: 'int' object is not callable"),
        ("own/mine.py:make", "gives a function; expected a torch.nn.Module"),
        ("own/mine.py:biuld", "'own/mine.py' has no 'biuld'; did you mean 'build'?"),
        ("own/none.py:build", "file 'own/none.py' does not exist; check the path"),
        ("broken.py:build", r"'broken.py' cannot be imported \(ModuleNotFoundError: No module nam"),
        ("nowhere.to:build", "'nowhere.to' cannot be imported"),
        ("own/mine.py:", "model 'own/mine.py:' is no classification network of torchvision"),
        ("resnet81", "did you mean 'resnet18'?"),
        ("none.pt2", "weights 'none.pt2' do not exist"),
    ],
)
def test_what_gives_no_network_is_refused(mine, model, message):
    with pytest.raises(InputError, match=message):
        specified.load(model)


def test_own_weights_for_own_code(mine):
    state = specified.load("own/mine.py:build").model.state_dict()
    state = {f"module.{name}": value + 1 for name, value in state.items()}
    state["module.4.weight"], state["module.4.bias"] = torch.ones(5, 4), torch.ones(5)
    torch.save({"state_dict": state}, "mine.pth")
    network = specified.load("own/mine.py:build", "mine.pth")
    assert torch.equal(network.model.state_dict()["0.bias"], state["module.0.bias"])
    assert network.classes == [f"class {number}" for number in range(5)]


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (["--size", "32"], (32, 32)),
        (["--size", "16x48", "--mean", "0.5", "--std", "0.5"], (16, 48)),
        (["--transform", "own/mine.py:transform"], None),
        (["--transform", "package.nets:make()"], None),
    ],
)
def test_own_transform(mine, options, size):
    command = ["explain", "photo.png", "--model", "own/mine.py:build", "--plain"]
    if size is None:
        assert "does more than scale and shift" in refused(*command, *options)
        return
    assert done(*command, *options).splitlines()[0].split(":")[0] == "photo.png"
    given = {
        name.removeprefix("--"): value
        for name, value in zip(options[::2], options[1::2], strict=True)
    }
    sizes = tuple(map(int, given["size"].split("x")))
    mean = (0.5,) if "mean" in given else None
    network = Spoken("own/mine.py:build", size=sizes, mean=mean, std=mean).network()
    inputs = camlib.load(PHOTO, network.transform).inputs
    assert inputs.shape[2:] == size
    red = 200 / 255
    expected = (red - 0.5) / 0.5 if mean else (red - 0.485) / 0.229
    torch.testing.assert_close(inputs[0, 0], torch.full(size, expected), rtol=0, atol=0.01)


def test_a_network_without_a_transform_is_refused_with_advice(mine):
    command = ["explain", "photo.png", "--model", "own/mine.py:build"]
    assert refused(*command) == (
        "nothing says how a photo becomes the input of 'own/mine.py:build'; pass --size 224, with "
        "--mean and --std if they are not ImageNet's, or --transform file.py:name"
    )
    both = ["--size", "8", "--transform", "own/mine.py:transform"]
    assert refused(*command, *both) == "--transform says all; leave out --size, --mean and --std"


def test_names_must_be_as_many_as_the_answers(mine):
    Path("three.txt").write_text("a\nb\nc")
    Path("none.txt").touch()
    command = ["explain", "photo.png", "--model", "own/mine.py:build", "--size", "32"]
    assert refused(*command, "--classes", "three.txt") == (
        "'three.txt' names 3 classes, but the network has 2; expected a name for each"
    )
    assert refused(*command, "--classes", "none.txt").startswith("classes 'none.txt' names no cla")


@pytest.fixture(scope="module")
def small():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.get_model("shufflenet_v2_x0_5", num_classes=3).eval()


def test_whole_models_in_a_file(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = torch.rand(1, 3, 64, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(small, images).save("script.pt")
    batch = torch.export.Dim("batch", max=64)
    exported = torch.export.export(
        small, (images.repeat(2, 1, 1, 1),), dynamic_shapes=({0: batch},)
    )
    torch.export.save(exported, "model.pt2")
    torch.save(small, "whole.pth")
    torch.save(small.state_dict(), "state.pth")
    PHOTO.save("photo.png")
    command = ["explain", "photo.png", "--size", "64", "--plain", "--model"]
    expected = GradCAM(small, "stage3").explain(images)
    seen = GradCAM(specified.load("model.pt2").model, "stage3").explain(images)
    torch.testing.assert_close(seen.map, expected.map, rtol=1e-4, atol=1e-6)
    assert "layer stage3" in done(*command, "model.pt2", "--layer", "stage3")
    assert "layer none" in done(*command, "script.pt", "--method", "saliency")
    assert "the layers of a scripted model" in refused(*command, "script.pt")
    assert "pass --trust" in refused(*command, "whole.pth")
    assert "class 0" in done(*command, "whole.pth", "--trust", "--target", "0")
    assert refused(*command, "state.pth") == (
        "'state.pth' holds weights alone, not the model they belong to; pass it as --weights "
        "state.pth, and the model as --model, such as resnet18 or mine.py:build"
    )
    assert "leave out --weights x" in refused(*command, "model.pt2", "--weights", "x")
    assert "not found: the classes have no names" in refused(
        *command, "model.pt2", "--target", "cat"
    )
    Path("two.json").write_text(json.dumps(["a", "b"]))
    assert refused(*command, "model.pt2", "--classes", "two.json") == (
        "photo.png: there are names for 2 classes, but the network has 3; expected a name for each"
    )


def test_networks_of_timm(tmp_path, monkeypatch):
    timm = pytest.importorskip("timm")
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("test_vit", num_classes=3).eval()
    torch.save({"model": model.state_dict(), "classes": ["ant", "bee", "cat"]}, "mine.pth")
    network = specified.load("timm:test_vit", "mine.pth")
    assert list(network.classes) == ["ant", "bee", "cat"]
    inputs = camlib.load(PHOTO, network.transform).inputs
    assert inputs.shape == (1, 3, 160, 160)
    torch.testing.assert_close(network.model(inputs), model(inputs))
    with pytest.raises(InputError, match="timm has no network 'test_vi'; did you mean 'test_vit"):
        specified.load("timm:test_vi")
    PHOTO.save("photo.png")
    said = done("explain", "photo.png", "--model", "timm:test_vit", "--weights", "mine.pth")
    assert "layer blocks.5.norm1" in said
    assert "blocks.5 " in done("layers", "timm:test_vit", "--last", "3")


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_a_library_that_is_not_there(library, monkeypatch):
    prefix = {"timm": "timm", "transformers": "hf"}[library]
    module = getattr(specified, library)
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=f"needs one more library: pip install {library}"):
        specified.load(f"{prefix}:some")


def test_classifiers_of_hugging_face(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    names = {0: "ant", 1: "bee", 2: "cat"}
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        image_size=32, patch_size=8, id2label=names, label2id={v: k for k, v in names.items()},
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained("mine")
    with pytest.raises(InputError, match="nothing says how a photo becomes the input"):
        Spoken("hf:mine").network()
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained("mine")
    network = specified.load("hf:mine")
    assert list(network.classes) == ["ant", "bee", "cat"]
    inputs = camlib.load(PHOTO, network.transform).inputs
    torch.testing.assert_close(network.model(**inputs).logits, model(**inputs).logits)
    PHOTO.save("photo.png")
    asked = [
        "explain",
        "photo.png",
        "--model",
        "hf:mine",
        "--target",
        "cat",
        "--method",
        "saliency",
    ]
    assert "class 2, cat: " in done(*asked)
    with pytest.raises(InputError, match="'hf:nothing/here' cannot be loaded as an image classif"):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        specified.load("hf:nothing/here")


def test_probabilities_stay_what_they_are():
    scores = torch.tensor([1.0, 2.0, -1.0])
    network = Network(nn.Identity(), (), None)
    torch.testing.assert_close(network.probabilities(scores), scores.softmax(0))
    torch.testing.assert_close(network.probabilities(scores.softmax(0)), scores.softmax(0))
    several = Network(nn.Identity(), (), None, several=True)
    torch.testing.assert_close(several.probabilities(scores), scores.sigmoid())
    assert network.name_of(2) == "class 2"
