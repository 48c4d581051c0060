"""Files of weights, as people save them: each gives the network that was saved."""

from __future__ import annotations

import argparse
import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import models

from camlib import InputError
from camlib.integrations.checkpoints import read_checkpoint
from camlib.integrations.torchvision import load

NAME = "shufflenet_v2_x0_5"
CLASSES = ("ant", "bee", "cat")
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def network(change=None):
    """A small network of torchvision with three classes, or another head."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = models.get_model(NAME)
        model.fc = nn.Linear(1024, 3)
        if change is not None:
            change(model)
    return model.eval()


def prefixed(state, *prefixes):
    for prefix in prefixes:
        state = {prefix + name: value for name, value in state.items()}
    return state


def torch_saved(wrap):
    return lambda path, model: torch.save(wrap(model.state_dict()), path)


def lightning(state):
    return {
        "epoch": 3,
        "global_step": 100,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {**prefixed(state, "model."), "criterion.weight": torch.ones(3)},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint{}": {"best_model_path": "x.ckpt", "score": torch.ones(1)}},
        "optimizer_states": [{"state": {0: {"step": torch.ones(1)}}, "param_groups": []}],
        "hyper_parameters": {"lr": 0.1},
    }


def script_of_training(state):
    """What the reference scripts of torchvision write."""
    options = argparse.Namespace(lr=0.1, output_dir=Path("runs"))
    optimizer = {"state": {}, "param_groups": [{"lr": 0.1}]}
    best = np.float64(0.9)
    return {"model": state, "optimizer": optimizer, "epoch": 3, "args": options, "best": best}


def safetensors(path, model):
    pytest.importorskip("safetensors.torch").save_file(dict(model.state_dict()), path)


def sharded(path, model):
    path.mkdir()
    state = list(model.state_dict().items())
    where = {}
    for number, part in enumerate((state[:100], state[100:])):
        name = f"pytorch_model-{number}.bin"
        torch.save(dict(part), path / name)
        where |= {key: name for key, _ in part}
    (path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))


def content(model):
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.getvalue()


def zipped(path, model):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("run/readme.txt", "the best run")
        archive.writestr("run/model.pth", content(model))


def tarred(path, model):
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("model.pth")
        member.size = len(content(model))
        archive.addfile(member, io.BytesIO(content(model)))


def scripted(path, model):
    torch.jit.trace(model, IMAGES).save(path)


def exported(path, model):
    torch.export.save(torch.export.export(model, (IMAGES,)), path)


WAYS = {
    "bare": ("x.pth", torch_saved(lambda state: state)),
    "state_dict": ("x.pth.tar", torch_saved(lambda state: {"epoch": 3, "state_dict": state})),
    "script of training": ("x.pth", torch_saved(script_of_training)),
    "model_state_dict": (
        "x.pt",
        torch_saved(lambda state: {"epoch": 3, "model_state_dict": state, "loss": torch.ones(1)}),
    ),
    "net": ("x.pth", torch_saved(lambda state: {"net": state, "acc": 0.9, "epoch": 3})),
    "ema alone": ("x.pt", torch_saved(lambda state: {"ema": state, "updates": 9})),
    "ema beside": (
        "x.pt",
        torch_saved(lambda state: {"ema": {k: v * 0 for k, v in state.items()}, "model": state}),
    ),
    "Lightning": ("x.ckpt", torch_saved(lightning)),
    "DataParallel": ("x.pth", torch_saved(lambda state: prefixed(state, "module."))),
    "compiled": ("x.pth", torch_saved(lambda state: prefixed(state, "_orig_mod."))),
    "all prefixes": (
        "x.pth",
        torch_saved(lambda state: {"model": prefixed(state, "backbone.", "_orig_mod.", "module.")}),
    ),
    "parts of another network beside": (
        "x.pth",
        torch_saved(
            lambda state: {**prefixed(state, "model."), "a.fc.weight": torch.ones(3, 9)},
        ),
    ),
    "another order": ("x.pth", torch_saved(lambda state: dict(sorted(state.items())))),
    "half precision": (
        "x.pth",
        torch_saved(
            lambda state: {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
        ),
    ),
    "without counters": (
        "x.pth",
        torch_saved(lambda state: {k: v for k, v in state.items() if "num_batches" not in k}),
    ),
    "old format": (
        "x.pth",
        lambda path, model: torch.save(
            model.state_dict(), path, _use_new_zipfile_serialization=False
        ),
    ),
    "safetensors": ("x.safetensors", safetensors),
    "shards": ("folder", sharded),
    "zip": ("x.zip", zipped),
    "gz": ("x.pth.gz", lambda path, model: path.write_bytes(gzip.compress(content(model)))),
    "tar": ("x.tar", tarred),
    "TorchScript": ("x.pt", scripted),
    "torch.export": ("x.pt2", exported),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
@pytest.mark.parametrize("way", WAYS)
def test_network_is_the_one_that_was_saved(way, tmp_path):
    name, save = WAYS[way]
    model = network()
    save(tmp_path / name, model)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    found = load(NAME, str(tmp_path / name))
    tolerance = 1e-2 if way == "half precision" else 1e-5
    torch.testing.assert_close(found.model(IMAGES), model(IMAGES), rtol=0, atol=tolerance)
    assert list(found.classes) == ["class 0", "class 1", "class 2"]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


class Whole(nn.Module):
    """Stands for a class of a user's own."""


def test_whole_model_is_read_on_trust_alone(tmp_path):
    model = network()
    torch.save(model, tmp_path / "whole.pth")
    with pytest.raises(
        InputError, match=r"class torchvision.models.shufflenetv2.ShuffleNetV2, not"
    ):
        load(NAME, str(tmp_path / "whole.pth"))
    found = load(NAME, str(tmp_path / "whole.pth"), trust=True)
    torch.testing.assert_close(found.model(IMAGES), model(IMAGES))
    torch.save({"epoch": 1, "ema": model}, tmp_path / "inside.pth")
    found = load(NAME, str(tmp_path / "inside.pth"), trust=True)
    torch.testing.assert_close(found.model(IMAGES), model(IMAGES))


class Harm:
    def __reduce__(self):
        return (Path.touch, (Path("harmed"),))


def test_code_in_a_file_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": network().state_dict(), "more": Harm()}, "x.pth")
    with pytest.raises(InputError, match=r"reading it can run any code; .* pass --trust"):
        read_checkpoint("x.pth")
    assert not Path("harmed").exists()


# Heads: the name of the network, what fine-tuning did to it, what the file then lacks.

HEADS = {
    "Sequential(dropout, linear)": (
        "shufflenet_v2_x0_5",
        lambda m: setattr(m, "fc", nn.Sequential(nn.Dropout(), nn.Linear(1024, 3))),
    ),
    "Sequential(linear, ReLU, dropout, linear)": (
        "shufflenet_v2_x0_5",
        lambda m: setattr(
            m,
            "fc",
            nn.Sequential(nn.Linear(1024, 9), nn.ReLU(), nn.Dropout(), nn.Linear(9, 3)),
        ),
    ),
    "with a norm": (
        "shufflenet_v2_x0_5",
        lambda m: setattr(
            m,
            "fc",
            nn.Sequential(nn.Linear(1024, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 3)),
        ),
    ),
    "without a bias": (
        "shufflenet_v2_x0_5",
        lambda m: setattr(m, "fc", nn.Linear(1024, 3, bias=False)),
    ),
    "the last of a Sequential": (
        "mobilenet_v3_small",
        lambda m: m.classifier.__setitem__(3, nn.Linear(1024, 3)),
    ),
    "all of a Sequential": (
        "mobilenet_v3_small",
        lambda m: setattr(m, "classifier", nn.Linear(576, 3)),
    ),
    "fewer layers": (
        "mobilenet_v3_small",
        lambda m: setattr(m, "classifier", nn.Sequential(nn.Linear(576, 3))),
    ),
    "a Sequential in a Sequential": (
        "mobilenet_v3_small",
        lambda m: m.classifier.__setitem__(3, nn.Sequential(nn.Dropout(), nn.Linear(1024, 3))),
    ),
    "a convolution": (
        "squeezenet1_1",
        lambda m: m.classifier.__setitem__(1, nn.Conv2d(512, 3, 1)),
    ),
    "one output": ("shufflenet_v2_x0_5", lambda m: setattr(m, "fc", nn.Linear(1024, 1))),
}


@pytest.mark.filterwarnings("ignore:the head has layers without weights:camlib.CamlibWarning")
@pytest.mark.parametrize("head", HEADS)
def test_head_is_built_from_the_file(head, tmp_path):
    name, change = HEADS[head]
    torch.manual_seed(0)
    model = models.get_model(name)
    change(model)
    model.eval()
    torch.save(dict(sorted(model.state_dict().items())), tmp_path / "x.pth")
    found = load(name, str(tmp_path / "x.pth"))
    torch.testing.assert_close(found.model(IMAGES), model(IMAGES))
    assert len(found.classes) == (2 if head == "one output" else 3)
    assert found.several == (head == "one output")


def test_head_with_layers_that_have_no_weights_is_said(tmp_path):
    model = network(HEADS["Sequential(linear, ReLU, dropout, linear)"][1])
    torch.save(model.state_dict(), tmp_path / "x.pth")
    with pytest.warns(UserWarning, match="they are taken for ReLU and dropout"):
        load(NAME, str(tmp_path / "x.pth"))


def test_head_beside_the_body(tmp_path):
    model = network()
    state = model.state_dict()
    moved = {f"backbone.{k}": v for k, v in state.items() if not k.startswith("fc.")}
    moved |= {f"head.{k[3:]}": v for k, v in state.items() if k.startswith("fc.")}
    torch.save(moved, tmp_path / "x.pth")
    torch.testing.assert_close(load(NAME, str(tmp_path / "x.pth")).model(IMAGES), model(IMAGES))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_auxiliary_heads_may_be_missing_or_of_any_size(name, tmp_path):
    torch.manual_seed(0)
    model = models.get_model(name, init_weights=False, transform_input=True).eval()
    model.fc = nn.Linear(model.fc.in_features, 3)
    images = torch.rand(1, 3, 96, 96)
    state = model.state_dict()
    for changed in (
        {k: v for k, v in state.items() if not k.startswith(("AuxLogits", "aux"))},
        {
            k: v[:5] if k.startswith(("AuxLogits.fc", "aux")) else v
            for k, v in state.items()
            if v.ndim
        },
    ):
        torch.save(changed, tmp_path / "x.pth")
        torch.testing.assert_close(load(name, str(tmp_path / "x.pth")).model(images), model(images))


@pytest.mark.parametrize(
    "beside",
    [
        {"classes": list(CLASSES)},
        {"class_names": CLASSES},
        {"class_to_idx": {"bee": 1, "ant": 0, "cat": 2}},
        {"idx_to_class": {"0": "ant", "1": "bee", "2": "cat"}},
        {"id2label": {0: "ant", 1: "bee", 2: "cat"}},
    ],
)
def test_names_of_classes_beside_the_weights(beside, tmp_path):
    torch.save({"model": network().state_dict(), **beside}, tmp_path / "x.pth")
    assert tuple(load(NAME, str(tmp_path / "x.pth")).classes) == CLASSES


def test_a_torn_file_of_safetensors_is_refused(tmp_path):
    pytest.importorskip("safetensors", reason="install the extra `models`")
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    with pytest.raises(InputError, match=r"torn.safetensors' is damaged or incomplete"):
        load(NAME, str(torn))


def test_files_that_hold_no_weights_are_refused_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = content(network())
    Path("pointer.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    Path("empty.pth").write_bytes(b"")
    Path("torn.pth").write_bytes(whole[: len(whole) // 2])
    Path("text.pth").write_text("weights")
    Path("torn.pth.gz").write_bytes(gzip.compress(whole)[:1000])
    Path("folder").mkdir()
    with zipfile.ZipFile("two.zip", "w") as archive:
        archive.writestr("a.pth", whole)
        archive.writestr("b.pth", whole)
    torch.save([1, 2], "list.pth")
    torch.save({"epoch": 3, "state_dict": {}}, "nothing.pth")
    for name, reason in {
        "missing.pth": "do not exist; check the path",
        "pointer.pth": "is a pointer of Git LFS, not the weights themselves; .*: git lfs pull",
        "empty.pth": "is empty; copy or download it again",
        "torn.pth": "is damaged or incomplete .*; copy or download it again",
        "torn.pth.gz": "is damaged or incomplete",
        "text.pth": "holds no weights: it is no file of torch.save; .* to a new file",
        "folder": r"holds no weights; expected one of model.safetensors.index.json, ",
        "two.zip": "is an archive with 2 files of weights: a.pth, b.pth; expected one; unpack it",
        "list.pth": "holds no weights: it holds a list; expected a state dict",
        "nothing.pth": "holds no weights: it holds a dict of epoch, state_dict; expected",
    }.items():
        with pytest.raises(InputError, match=f"{name}' {reason}") as error:
            read_checkpoint(name)
        assert "torch.save(" not in str(error.value)  # nobody is told to write over the file


def test_weights_of_another_network_are_refused_with_names_of_both_sides(tmp_path):
    path = str(tmp_path / "x.pth")
    torch.save(models.squeezenet1_1().state_dict(), path)
    with pytest.raises(
        InputError,
        match=r"x.pth' does not fit 'shufflenet_v2_x0_5': it lacks conv1.0.weight, conv1.1.weight, "
        r"(\S+, ){2}\S+ and \d+ more; it has besides features.0.weight, (\S+, ){3}\S+ and \d+ "
        "more; choose the network that it was saved from",
    ):
        load(NAME, path)
    state = network().state_dict()
    torch.save({**state, "conv1.0.weight": torch.zeros(1)}, path)
    shapes = r"shapes differ at conv1.0.weight \(1,\) for \(24, 3, 3, 3\); choose"
    with pytest.raises(InputError, match=shapes):
        load(NAME, path)
    torch.save({**state, "more.weight": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"it has besides more.weight; choose"):
        load(NAME, path)
    torch.save({k: v for k, v in state.items() if not k.startswith("fc.")}, path)
    with pytest.raises(InputError, match=r"it lacks fc.weight, fc.bias; choose"):
        load(NAME, path)


def test_command_takes_a_checkpoint_with_names_of_classes(tmp_path, monkeypatch):
    from click.testing import CliRunner

    from camlib.cli import main

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 48), "teal").save("photo.jpg")
    torch.save(lightning(network().state_dict()), "mine.ckpt")
    Path("classes.txt").write_text("ant\nbee\n\ncat\n", encoding="utf-8")
    Path("classes.json").write_text(json.dumps({"0": "ant", "1": "bee", "2": "cat"}))
    for name in CLASSES:
        (Path("train") / name).mkdir(parents=True)
    arguments = [
        "explain",
        "photo.jpg",
        "--model",
        NAME,
        "--weights",
        "mine.ckpt",
        "--target",
        "bee",
    ]
    said = set()
    for classes in ("classes.txt", "classes.json", "train"):
        done = CliRunner().invoke(main, [*arguments, "--classes", classes])
        assert done.exit_code == 0, done.output
        said.add(done.stdout)
    [line] = said
    assert "class 1, bee: " in line
    assert Path("photo-camlib.png").exists()
    both = CliRunner().invoke(main, [*arguments, "--classes", "classes.txt", "--multi-label"])
    assert both.exit_code == 0
    assert both.stdout != line  # probabilities of sigmoids
    Path("two.txt").write_text("ant\nbee")
    Path("bad.json").write_text("{")
    for classes, message in {
        "two.txt": "'two.txt' names 2 classes, but the network has 3; expected a name for each",
        "bad.json": "classes 'bad.json' are no JSON",
        "none.txt": "classes 'none.txt' cannot be read",
    }.items():
        done = CliRunner().invoke(main, [*arguments, "--classes", classes])
        assert done.exit_code == 1
        assert done.stderr.startswith(f"Error: {message}")
