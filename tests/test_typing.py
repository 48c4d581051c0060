"""What type checkers tell a user: mistakes are caught where they are written, good calls pass."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

GOOD = """
import torch
from PIL import Image
from torch import Tensor, nn

import camlib
from camlib import (
    Augmented,
    DeepFeatureFactorization,
    Deconvnet,
    GradCAM,
    GuidedGradCAM,
    LayerCAM,
    LeGrad,
    Occlusion,
    RISE,
    SSCAM,
    Saliency,
    ScoreCAM,
    Smooth,
    SmoothGrad,
    overlay,
    zoo,
)
from camlib.targets import Probability, TopK


def chosen(output: Tensor) -> Tensor:
    return output[:, 3]


model: nn.Module = zoo.load()
images: Tensor = zoo.preprocess(zoo.scene(3).image)[None]
photo = Image.new("RGB", (8, 8))
cam = GradCAM(model, "features", fuse="max", relu=False, resize=True, normalize="max", eval=True)
heatmap: Tensor = cam(images)
heatmap = cam(images, 4, relu=True, normalize=False)
heatmap = cam(images, [4])
heatmap = cam(images, [[0, 4]])
heatmap = cam(images, torch.tensor([4]))
heatmap = cam(images, chosen)
heatmap = cam(images, lambda out: out[:, 0] - out[:, 4])
heatmap = cam(images, TopK(2))
heatmap = cam(images, target=Probability(4, "sigmoid"))
heatmap = cam({"images": images})
heatmap = cam((images, None))
heatmap = cam([images[0]])
heatmap = LayerCAM(model, ["features.3", "features"], fuse=None)(images)
heatmap = ScoreCAM(model, score="logit", batch_size=4, max_channels=8, layout=lambda a: a)(images)
heatmap = SSCAM(model, samples=2, score="logit", image_layout="NCHW")(images)
heatmap = Smooth(cam, samples=4)(images, normalize="max")
heatmap = Augmented(cam, scales=(1, 1.5))(images)
heatmap = RISE(model, masks=8, probability=0.5, seed=1)(images)
heatmap = Occlusion(model, window=(8, 8), stride=4, value=0)(images)
pixels: Tensor = Saliency(model, reduce="max")(images)
pixels = SmoothGrad(model, samples=2, eval=False)(images)
pixels = Deconvnet(model, "features")(images, unit=(2, 1, 1))
pixels = GuidedGradCAM(model, "features", cam=ScoreCAM, batch_size=4)(images)
seen = cam.explain(images, target=4, resize=False)
score: Tensor = seen.score
picture = overlay(images[0], heatmap[0])
method: camlib.Method = cam
"""

BAD = {
    "GradCAM(model, fus='max')": "fus",
    "GradCAM(model, fuse='median')": "median",
    "GradCAM(model, relu='no')": "relu",
    "GradCAM(model, normalize='l2')": "normalize",
    "GradCAM(model, target_layers=['features'])": "target_layers",
    "GradCAM(model)(images, normalise=True)": "normalise",
    "GradCAM(model)(images, 'cat')": "Target",
    "GradCAM(model)(images, ['cat'])": "str",
    "GradCAM(model)(photo)": "Image",
    "GradCAM(model)([photo])": "Image",
    "GradCAM(model).explain(images, 'cat')": "Target",
    "GradCAM(model).explain(photo)": "Image",
    "GradCAM(model).explain(images, resise=False)": "resise",
    "LayerCAM(model, layot=None)": "layot",
    "ScoreCAM(model, batchsize=4)": "batchsize",
    "SSCAM(model, score='softmax')": "softmax",
    "SSCAM(model, max_chanels=4)": "max_chanels",
    "Smooth(GradCAM(model), sampels=4)": "sampels",
    "Smooth(GradCAM(model))(photo)": "Image",
    "Smooth(GradCAM(model))(images, rele=True)": "rele",
    "SmoothGrad(model, reduce='mean')": "mean",
    "Saliency(model, relu=True)": "relu",
    "Saliency(model)(images, relu=True)": "relu",
    "Saliency(model)(images, 'cat')": "Target",
    "RISE(model, mask=3)": "mask",
    "Occlusion(model, window='a')": "window",
    "Deconvnet(model, 'features')(images, chanel=2)": "chanel",
    "LeGrad(model, tokens='all')": "all",
    "DeepFeatureFactorization(model, concept=3)": "concept",
    "DeepFeatureFactorization(model)(photo)": "Image",
    "Probability(3, 'tanh')": "tanh",
}
"""Mistakes, and what the message about each names."""

CHECKERS = {
    "mypy": (["mypy", "--strict"], r"^script\.py:(\d+): error: (.*)"),
    "pyright": (["pyright"], r"script\.py:(\d+):\d+ - error: ((?:.*\n {4,})*.*)"),
}
"""How to call a type checker, and the line and the message in what it says."""


def told(checker: str, script: str, folder: Path) -> dict[int, str]:
    """What `checker` says of a `script`, by line."""
    arguments, pattern = CHECKERS[checker]
    (folder / "script.py").write_text(script, encoding="utf-8")
    settings = {"typeCheckingMode": "strict", "extraPaths": [str(ROOT)]}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", *arguments, "script.py"],
        cwd=folder,
        env=os.environ | {"MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert "script.py" in done.stdout, done.stdout + done.stderr
    found: dict[int, str] = {}
    for line, message in re.findall(pattern, done.stdout, re.MULTILINE):
        found[int(line)] = found.get(int(line), "") + message
    return found


def _starts(checker: str) -> bool:
    """Whether `checker` runs at all: pyright fetches a program when it is first called."""
    try:
        asked = [sys.executable, "-m", checker, "--version"]
        return subprocess.run(asked, capture_output=True, timeout=180).returncode == 0
    except subprocess.TimeoutExpired:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("checker", CHECKERS)
def test_mistakes_are_caught_and_good_calls_pass(checker: str, tmp_path: Path) -> None:
    if find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed; install the extra `lint`")
    if checker == "pyright" and not _starts("pyright"):
        pytest.skip("pyright cannot fetch the program that it wraps; it needs npm and its registry")
    lines = GOOD.splitlines()
    found = told(checker, "\n".join([*lines, *BAD]) + "\n", tmp_path)
    assert {line: found[line] for line in found if line <= len(lines)} == {}
    caught = {call: found.get(line, "") for line, call in enumerate(BAD, len(lines) + 1)}
    assert [call for call in BAD if BAD[call] not in caught[call]] == []
