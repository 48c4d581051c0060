"""Nonsense for every option and argument of what camlib exports: it is refused by name.

A value that an annotation allows, or that is a class or a function of the user's, may be taken. All
else gets a `CamlibError`, and nothing that PyTorch, NumPy or Python would say instead.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from nets import fitting, images, pooled

import camlib
from camlib import METHODS, CamlibError, GradCAM, layouts, targets
from camlib.options import _declared, fits

pytestmark = pytest.mark.filterwarnings("ignore::camlib.CamlibWarning")

NONSENSE: list[Any] = [
    "no",
    "",
    b"no",
    2.5,
    -1,
    0,
    10**30,
    10**400,
    math.nan,
    math.inf,
    1j,
    True,
    None,
    (),
    (math.inf,),
    [1, 2],
    ["a"],
    {},
    {"a": object()},
    {1},
    object(),
    int,
    len,
    torch.zeros(0),
    torch.tensor(math.nan),
    np.zeros(3, dtype=complex),
]
CALLED = "target", "progress", "function", "channel"
"""What may be a function, whose errors are its own."""


class Tries:
    """Tries nonsense, and counts it."""

    def __init__(self) -> None:
        self.refused = self.taken = 0

    def __call__(self, what: str, name: str, call: Callable[[Any], Any], kind: Any) -> None:
        """Each piece as the argument `name` in `call`; `kind` is what its annotation allows."""
        for value in NONSENSE:
            if name in CALLED and callable(value):
                continue
            told = f"{what}: {name}={type(value).__name__} {value!r}"[:99]
            try:
                call(value)
            except CamlibError as error:
                assert str(error), told
                self.refused += 1
            except Exception as error:
                raise AssertionError(told) from error
            else:
                assert fits(value, type(None) if kind is None else kind), f"{told} is taken"
                self.taken += 1


def kinds_of(function: Callable[..., Any]) -> dict[str, Any]:
    """What each option of `function` may be; of a constructor, also those that it hands on."""
    if not isinstance(function, type):
        return _declared(inspect.unwrap(function)).kinds
    found: dict[str, Any] = {}
    for base in reversed(function.__mro__):
        if base is not object and "__init__" in vars(base):
            found |= kinds_of(vars(base)["__init__"])
    return found


@pytest.mark.parametrize("kind", METHODS.values(), ids=METHODS)
def test_methods(kind, count):
    net, batch, tries = fitting(kind), images(), Tries()
    known, method = kinds_of(kind), kind(net)
    tries(kind.__name__, "model", lambda value: kind(value)(batch), None)
    for name in [*inspect.signature(kind).parameters][1:]:
        if name != "options":

            def build(value, name=name):
                kind(net, **{name: value})(batch)

            tries(kind.__name__, name, build, known[name])
    tries(kind.__name__, "inputs", method, None)
    known = kinds_of(kind.__call__)
    for name in [*inspect.signature(kind.__call__).parameters][2:]:

        def call(value, name=name):
            method(batch, **{name: value})

        tries(kind.__name__, name, call, CLASSES if name == "target" else known[name])
    assert tries.refused > 60
    count("pieces of nonsense", tries.refused + tries.taken)


CLASSES = int | None | list
"""What a target may be here: no class, one for all, or one for each image."""

NEEDED = {
    camlib.Smooth: {"method": GradCAM(pooled())},
    camlib.Augmented: {"method": GradCAM(pooled())},
    camlib.DeepFeatureFactorization: {"model": pooled()},
    targets.TopK: {"k": 2},
    targets.Token: {"position": 0},
    layouts.Frames: {"frames": 2},
    layouts.Placed: {"tokens": (0, 1, 2, 3), "grid": (2, 2)},
    layouts.Custom: {"function": lambda activation: activation},
    layouts.Axes: {"order": (0, 1, 2, 3)},
    camlib.overlay: {"image": images()[0], "heatmap": torch.ones(8, 8)},
    camlib.to_image: {"attribution": images()},
    camlib.figure: {"images": images(), "maps": {"a": torch.ones(2, 8, 8)}},
    camlib.localize: {"heatmap": torch.ones(2, 8, 8)},
    camlib.layers.candidates: {"model": pooled(), "inputs": images()},
    camlib.layers.find: {"model": pooled(), "layer": "features"},
}
"""What stands for the arguments that have no default."""

TAKEN = {
    "classes": CLASSES,
    "category": CLASSES,
    "others": CLASSES,
    "target": CLASSES,
    "index": CLASSES,
    "labels": list | set | None,
    "images": None,
}
"""What of the nonsense makes sense where the annotation is wider."""


def used(owner: Callable[..., Any], built: Any) -> None:
    """What is done with what `owner` returned."""
    if owner.__module__.startswith("camlib.targets"):
        GradCAM(pooled())(images(), built)
    elif owner.__module__.startswith("camlib.layouts"):
        GradCAM(pooled(), layout=built)(images(), 1)
    elif callable(built):
        built(images())


EVERY = [
    *NEEDED,
    *(
        each
        for room in (targets, layouts)
        for each in (getattr(room, name) for name in room.__all__)
        if inspect.isclass(each) and not inspect.isabstract(each)
        if inspect.signature(each).parameters and each not in NEEDED
    ),
]


@pytest.mark.parametrize("owner", EVERY, ids=lambda owner: owner.__name__)
def test_wrappers_targets_layouts_and_drawings(owner, count):
    tries, known = Tries(), kinds_of(owner)
    for name in inspect.signature(owner).parameters:

        def call(value, name=name):
            used(owner, owner(**{**NEEDED.get(owner, {}), name: value}))

        tries(owner.__name__, name, call, TAKEN.get(name, known.get(name)))
    assert tries.refused > 10
    count("pieces of nonsense", tries.refused + tries.taken)
