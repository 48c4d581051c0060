"""The README and the other pages say what is true: their code runs, their tables are current."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image
from torchvision import models

from camlib import METHODS, zoo
from camlib.visual import save_picture

ROOT = Path(__file__).parents[2]
TRANSLATIONS = ["README.zh-CN.md", "README.ja.md"]
DOCS = [f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")]
PAGES = ["README.md", *TRANSLATIONS, "CONTRIBUTING.md", *DOCS]


def blocks(page):
    """The code on `page`, without what needs a library that is not there."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(
        r"^(?:<!-- needs (\w+) -->\n)?```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE
    )
    return [code for needed, code in found if not needed or find_spec(needed)]


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """A folder with a photo in it, where published weights are random and nothing is downloaded."""
    monkeypatch.chdir(tmp_path)
    scene = zoo.scene(3, size=320).image.repeat(1, 1, 2)
    save_picture(scene, "photo.jpg")

    def random(weights, **_):
        name = type(weights).__name__.removesuffix("_Weights").lower()
        return models.get_model(name).state_dict()

    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", random)


@pytest.mark.filterwarnings("ignore:a map at layer:camlib.CamlibWarning")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] * (page == "docs/guide.md"))
        for page in PAGES
        if page not in TRANSLATIONS and blocks(page)
    ],
)
def test_code_runs(page, offline):
    names = {"__name__": "page"}
    torch.manual_seed(0)  # for networks with random weights
    for block in blocks(page):
        exec(compile(block, page, "exec"), names)
        for heatmap in (names.get("heatmap"), names.get("heatmaps")):
            if heatmap is not None:
                assert heatmap.isfinite().all()
                assert heatmap.min() >= 0
                assert heatmap.max() <= 1
    assert names.keys() > {"__name__"}


@pytest.mark.filterwarnings("ignore:a map at layer:camlib.CamlibWarning")
def test_code_gives_what_the_readme_says(offline):
    names = {"__name__": "page"}
    torch.manual_seed(0)  # for networks with random weights
    for block in blocks("README.md"):
        exec(compile(block, "README.md", "exec"), names)
    with Image.open("overlay.png") as drawn:
        assert drawn.size == (640, 320)
    assert names["heatmap"].shape == (1, 128, 128)
    assert names["heatmaps"].shape == (1, 2, 128, 128)
    assert names["guided"].shape == (1, 3, 128, 128)
    assert names["picture"].shape == names["scene"].image.shape


def test_first_snippet_and_the_demo_need_no_opencv(tmp_path):
    """In a slim container OpenCV cannot be imported: there is no libGL."""
    (tmp_path / "first.py").write_text(blocks("README.md")[0], encoding="utf-8")
    save_picture(zoo.scene(3, size=320).image, tmp_path / "photo.jpg")
    code = (
        "import sys, runpy; sys.modules['cv2'] = None; from torchvision import models\n"
        "random = lambda *_, **__: models.get_model('resnet50').state_dict()\n"
        "models.WeightsEnum.get_state_dict = random; runpy.run_path('first.py')\n"
        "from camlib.cli import main\n"
        "main(['demo', '-o', 'demo.png'], prog_name='camlib')"
    )
    paths = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | paths, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "demo.png").stat().st_size > 10_000


@pytest.mark.parametrize("page", TRANSLATIONS)
def test_translations_keep_in_step(page):
    """The code, the numbers and the links are those of README.md."""
    ours, theirs = ((ROOT / each).read_text(encoding="utf-8") for each in ("README.md", page))
    for pattern in (r"^```.*?^```", r"\]\(([^)]+)\)", r"^#+ ", r"\| ([\d.]+) "):
        found, expected = (re.findall(pattern, each, re.M | re.S) for each in (theirs, ours))
        assert found == expected, pattern


def test_numbers_of_the_readme_are_measured():
    readme, measured = (
        (ROOT / each).read_text(encoding="utf-8") for each in ("README.md", "docs/benchmarks.md")
    )
    assert f"{len(METHODS)} methods" in readme
    rows = [line for line in readme.splitlines() if re.match(r"\| .*images \|", line)]
    cases = ("resnet50, batch 32", "resnet50, batch 8", "resnet50, batch 8", "vit_b_16, batch 32")
    for row, name in zip(rows, cases, strict=True):
        figures = re.findall(r"\| ([\d.]+|fails)", row)
        lines = [line for line in measured.splitlines() if line.startswith(f"| {name} |")]
        known = [re.findall(r"\| ([\d.]+|failed)", line) for line in lines]
        assert [each.replace("fails", "failed") for each in figures] in known, row


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


def test_ci_finds_the_test_command_of_the_readme():
    [pattern] = re.findall(r"grep -E '(.*)' README.md", (ROOT / ".ci/run").read_text())
    found = re.findall(pattern, (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(found) == 1
    assert all(
        (ROOT / "scripts" / name).stat().st_mode & 0o100 for name in ("test", "check", "docs")
    )


def test_files_that_scripts_name_exist():
    scripts = [ROOT / ".ci/run", *(ROOT / "scripts").iterdir()]
    named = {name for path in scripts for name in re.findall(r"tests/[\w/]+\.py", path.read_text())}
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_every_module_stands_on_the_plan():
    plan = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    package = ROOT / "camlib"
    for path in package.iterdir():
        if path.suffix == ".py" and path.name != "__init__.py":
            assert f"  {path.name} " in plan, path.name
        elif path.is_dir() and path.name != "__pycache__":
            assert f"  {path.name}/ " in plan or f"  {path.name}/\n" in plan, path.name


@pytest.mark.slow
def test_examples_run_offline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for example in sorted((ROOT / "examples").glob("*.py")):
        monkeypatch.setattr("sys.argv", [str(example)])
        module = ModuleType(example.stem)  # dataclasses look for the module of their class
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(example.read_text(encoding="utf-8"), str(example), "exec"), vars(module))
    for name in ("gallery.png", "segmentation.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
