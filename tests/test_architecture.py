"""Who may import whom, and what `import camlib` loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import camlib

PACKAGE = Path(camlib.__file__).parent

ORDER = [
    "errors",
    "passes.compiling",
    "options",
    "draws",
    "passes.nested",
    "passes.ambient",
    "passes.undoing",
    "passes.hooks",
    "passes.copies",
    "passes.state",
    "passes.random",
    "passes.norms",
    "modules",
    "chunks",
    "maps",
    "components",
    "augmentation",
    "targets",
    "modes",
    "rules",
    "attention",
    "arguments",
    "readings",
    "paths",
    "inputs",
    "passes.means",
    "gradients",
    "passes.running",
    "passes.batches",
    "passes.operators",
    "passes.courses",
    "visits",
    "layouts",
    "samples",
    "capture",
    "images",
    "wrapping",
    "replay",
    "passes.one_run",
    "forward",
    "channelwise",
    "layers",
    "blocks",
    "methods.described",
    "methods.options",
    "methods.explanation",
    "methods.concepts",
    "methods.calling",
    "methods.base",
    "methods.layer",
    "methods.views",
    "methods.gradient",
    "methods.several_inputs",
    "methods.activation",
    "methods.agnostic",
    "methods.eigen",
    "methods.perturbation",
    "methods.group",
    "methods.varied",
    "methods.ablation",
    "methods.factorization",
    "methods.occlusion",
    "methods.pixel",
    "methods.deconvnet",
    "methods.averaged",
    "methods.fullgrad",
    "methods.attention",
    "methods.le_grad",
    "methods.guided",
    "methods.ensemble",
    "methods.smooth",
    "methods.augmented",
    "methods",
    "metrics",
    "metrics.accumulators",
    "visual",
    "integrations",
    "zoo",
    "cli",
    "__main__",
]
"""From the ground up: a module imports only from those before it, or from its own package."""

UPWARD = {
    ("methods.explanation", "visual"),
    ("methods.concepts", "visual"),
    ("metrics", "visual"),
}
"""A result draws itself: it asks for `visual` when it is asked to."""

FREE = {"metrics.accumulators", "visual", "integrations", "zoo", "cli"}
"""Where third parties other than torch may be imported."""


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


def room(name):
    """The entry of `ORDER` that the module `name` belongs to."""
    return name if name in ORDER else name.split(".")[0]


def imports(path):
    """Module names that a file imports, and whether at its top."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    hidden = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) not in hidden
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            if node.module == "camlib":
                for alias in node.names:
                    yield f"camlib.{alias.name}", id(node) not in hidden
            else:
                yield node.module, id(node) not in hidden


@pytest.mark.parametrize(
    ("name", "path"), [m for m in modules() if m[0]], ids=lambda x: str(x)[-40:]
)
def test_imports_go_down_only(name, path):
    for imported, at_top in imports(path):
        first, _, inner = imported.partition(".")
        if first != "camlib":
            continue
        below = room(inner)
        if below not in ORDER:  # a name that camlib itself exports: only the upper floors may
            assert room(name) in FREE, f"{name} imports {imported} from the top"
            continue
        same = room(name) == below or room(name).split(".")[0] == below
        if (room(name), below) in UPWARD:
            assert not at_top
        else:
            assert same or ORDER.index(below) < ORDER.index(room(name)), f"{name} -> {inner}"


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda x: str(x)[-40:])
def test_third_parties_stay_upstairs(name, path):
    allowed = {"torch", "camlib", "IPython", "matplotlib"} | sys.stdlib_module_names
    for imported, at_top in imports(path):
        first = imported.partition(".")[0]
        if room(name) not in FREE:
            assert first in allowed, f"{name} imports {imported}"
            assert first not in ("IPython", "matplotlib") or not at_top


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_import_loads_torch_and_nothing_heavier():
    code = "import sys, torch; t = set(sys.modules); import camlib; print(*set(sys.modules) - t)"
    loaded = {name.partition(".")[0] for name in run(code)}
    assert not loaded - {"camlib"} - sys.stdlib_module_names - {"torch"}
    assert not loaded & {"cv2", "matplotlib", "torchvision", "PIL", "IPython", "tqdm", "click"}


def test_drawing_is_loaded_when_it_is_asked_for():
    code = (
        "import sys, camlib; print('camlib.visual' in sys.modules); "
        "print(camlib.overlay.__module__, camlib.visual.figure is camlib.figure)"
    )
    assert run(code) == ["False", "camlib.visual.overlay", "True"]
    with pytest.raises(AttributeError, match="module 'camlib' has no attribute 'overly'"):
        camlib.overly  # noqa: B018


def test_tab_completion_shows_the_public_names_and_no_helpers():
    code = (
        "import camlib, sys; print(*dir(camlib)); import camlib.cli, camlib.visual, camlib.zoo; "
        "print(*dir(camlib))"
    )
    shown = run(code)
    names = [*camlib.__all__, "__version__"]
    assert shown == 2 * sorted(names)
    assert {"overlay", "figure", "to_image", "visual", "zoo", "GradCAM"} <= set(names)
    assert not {"capture", "maps", "methods", "import_module"} & set(names)


def test_metrics_need_torch_alone():
    code = (
        "import sys, camlib; print('camlib.metrics' in sys.modules); "
        "camlib.localize; print(*sys.modules)"
    )
    first, *loaded = run(code)
    assert first == "False"
    assert "camlib.metrics.faithfulness" in loaded
    assert not {"torchmetrics", "numpy.testing", "scipy", "camlib.visual"} & set(loaded)


def test_the_test_above_would_see_it():
    code = "import sys; t = set(sys.modules); import matplotlib; print(*set(sys.modules) - t)"
    assert "matplotlib" in run(code)


def test_dynamo_is_not_loaded_by_a_call():
    code = (
        "import sys, torch; from torch import nn; import camlib\n"
        "tail = nn.AdaptiveAvgPool2d(1), nn.Flatten()\n"
        "net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *tail)\n"
        "camlib.LayerCAM(net)(torch.rand(1, 3, 8, 8), target=1)\n"
        "print('torch._dynamo' in sys.modules)"
    )
    assert run(code)[-1] == "False"


def test_package_is_typed_and_exports_what_it_says():
    assert (PACKAGE / "py.typed").exists()
    assert all(hasattr(camlib, name) for name in camlib.__all__)
    assert sorted(camlib.__all__) == sorted(set(camlib.__all__))
    assert {kind.__name__ for kind in camlib.METHODS.values()} <= set(camlib.__all__)
