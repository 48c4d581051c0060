"""Who may import whom, and what `import camlib` loads."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import camlib
from camlib.methods.calling import Calling

PACKAGE = Path(camlib.__file__).parent
ROOT = Path(__file__).parents[1]

FLOORS = [
    "errors",
    "compiling",
    "options",
    "draws",
    "maps",
    "nested",
    "augmentation",
    "state",
    "rules",
    "targets",
    "passes",
    "layouts",
    "layers",
    "results",
    "methods",
    "metrics",
    "visual",
    "integrations",
    "zoo",
    "cli",
    "__main__",
]
"""The rooms from the ground up: a module imports from its own room and from those before it."""

UPWARD = {("results", "visual"), ("metrics", "visual")}
"""A result draws itself: it asks for `visual` when it is asked to."""

FREE = {"metrics.accumulators", "visual", "integrations", "zoo", "cli"}
"""Where third parties other than torch may be imported."""


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


def room(name):
    """The room of the module `name`."""
    return name.partition(".")[0]


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


def test_every_room_has_its_floor():
    assert sorted({room(name) for name, _ in modules() if name}) == sorted(FLOORS)


@pytest.mark.parametrize(
    ("name", "path"), [m for m in modules() if m[0]], ids=lambda x: str(x)[-40:]
)
def test_imports_go_down_only(name, path):
    assert [imported for imported, at_top in imports(path) if upward(name, imported, at_top)] == []


def upward(name, imported, at_top):
    """Whether module `name` may not import what is `imported`."""
    first, _, inner = imported.partition(".")
    if first != "camlib":
        return False
    own, below = room(name), room(inner)
    if below not in FLOORS:  # a name that camlib itself exports: only the upper floors may
        return own not in FREE
    if (own, below) in UPWARD:
        return at_top
    return at_top and FLOORS.index(below) > FLOORS.index(own)


@pytest.mark.parametrize("floor", FLOORS)
def test_modules_of_a_room_import_each_other_in_one_direction(floor):
    known = {name: path for name, path in modules() if room(name) == floor}
    uses = {
        name: {
            other
            for imported, at_top in imports(path)
            if at_top and (other := imported.partition(".")[2]) in known and other != floor
        }
        for name, path in known.items()
    }
    while uses:
        settled = {name for name, others in uses.items() if not others & uses.keys()}
        assert settled, f"in a circle: {sorted(uses)}"
        uses = {name: others for name, others in uses.items() if name not in settled}


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda x: str(x)[-40:])
def test_third_parties_stay_upstairs(name, path):
    own = {"torch", "camlib"} | sys.stdlib_module_names
    wrong = [
        imported
        for imported, at_top in imports(path)
        if (first := imported.partition(".")[0]) not in own
        and (at_top or first not in ("IPython", "matplotlib"))
    ]
    assert not wrong or {name, room(name)} & FREE


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


@pytest.mark.parametrize("room", ["layers", "layouts", "metrics", "targets", "visual", "zoo"])
def test_tab_completion_in_a_public_module_shows_its_public_names(room):
    module = getattr(camlib, room)
    assert dir(module) == sorted(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)


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


DEFAULTS = {
    "Calling._accompanied": "what belongs to the samples: nothing",
    "Calling._completed": "what is known of the inputs: measured by the method itself",
    "Method.clean": "the clean pass of its values",
    "Method.parts": "its values",
    "Method.joined": "the parts as they are",
    "Method.__call__": "no options beside the target",
    "Method.explain": "no options beside the target",
    "PixelMethod.parts": "its attribution",
    "LayerMethod.gradients": "the first derivative",
    "LayerMethod.beside": "no other layers",
    "MaskedMethod.background": "zero",
    "AttentionMethod._first": "all blocks need a graph",
    "AttentionMethod._layers": "nothing is changed",
    "Ensemble.taken": "the values as they are",
    "Ensemble.summarised": "the means as they are",
}
"""What a class may replace although it is implemented, and what that does by default."""


def kinds():
    """Every class of camlib that calls a model."""
    known, left = {Calling}, [Calling]
    while left:
        own = [k for k in left.pop().__subclasses__() if k.__module__.startswith("camlib.")]
        known |= {*own}
        left += own
    return sorted(known, key=lambda kind: kind.__name__)


def replaced(kind):
    """What the class `kind` replaces although one of its bases in camlib implements it."""
    for name, value in vars(kind).items():
        if not inspect.isfunction(value) or name in ("__init__", "__repr__", "__init_subclass__"):
            continue
        base = next((b for b in kind.__mro__[1:] if name in vars(b)), object)
        abstract = getattr(vars(base).get(name), "__isabstractmethod__", False)
        if base.__module__.startswith("camlib.") and not abstract:
            yield f"{base.__name__}.{name}"


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_final_classes_are_not_extended_and_nothing_implemented_is_replaced(kind):
    if kind.__name__ in camlib.__all__ and not inspect.isabstract(kind):
        assert [other for other in kinds() if kind in other.__bases__] == []
    assert set(replaced(kind)) <= set(DEFAULTS)


def test_every_default_is_replaced_somewhere():
    assert {name for kind in kinds() for name in replaced(kind)} == set(DEFAULTS)


@pytest.mark.parametrize("folder", ["camlib", "tests", "tools", "benchmarks", "examples"])
def test_every_file_says_what_it_is_for(folder):
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    silent = [
        str(path)
        for path in files
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []
