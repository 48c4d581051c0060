"""What `docs/extending.md` writes keeps what camlib's own methods, targets and layouts keep.

The methods of the page pass the contract in tests/methods/test_contract.py.
"""

from __future__ import annotations

import inspect
import re

import pytest
import torch
from extending import PAGE, defined, page

import camlib
from camlib import Method, OptionError, layouts, targets
from camlib.methods import (
    GradientWeighted,
    MaskedLayerMethod,
    MaskedMethod,
    PixelMethod,
    ReplayedMethod,
)

SCORES = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "base",
    [
        GradientWeighted,
        MaskedLayerMethod,
        MaskedMethod,
        ReplayedMethod,
        PixelMethod,
        targets.Target,
        layouts.Layout,
    ],
)
def test_page_has_an_example_of_every_kind(base):
    assert defined(base)


def test_page_uses_public_names_alone():
    imported = re.findall(r"^from (camlib[\w.]*) import (.+)$", PAGE.read_text(), re.MULTILINE)
    assert len(imported) > 7
    for module, names in imported:
        assert module in ("camlib", *(f"camlib.{m}" for m in PUBLIC)), module
        assert not any(name.startswith("_") for name in names.split(", "))
    for kind in defined(Method):
        own = {name for name in vars(kind) if name.startswith("_") and not name.startswith("__")}
        assert own <= {"_abc_impl"}, own


PUBLIC = "layouts", "maps", "methods", "options", "targets"


def test_methods_are_not_listed_by_being_written():
    assert not {kind.name for kind in defined(Method)} & set(camlib.METHODS)


def test_option_of_the_page_is_checked_and_shown():
    kind = page().ScaledCAM
    with pytest.raises(OptionError, match="power=-1 is out of range"):
        kind(page().model, power=-1)
    assert "power" in inspect.signature(kind).parameters
    assert "layer: a module" in inspect.getdoc(kind)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (lambda: page().Lead([1, 0, 4]), SCORES[[0, 1, 2], [1, 0, 4]] - SCORES.mean(1)),
        (lambda: page().Loss(torch.tensor([1, 0, 4])), SCORES.log_softmax(1)[[0, 1, 2], [1, 0, 4]]),
    ],
    ids=["Lead", "Loss"],
)
def test_targets_of_the_page_follow_their_samples(target, expected):
    settled = targets.resolve(target(), SCORES, 3, (8, 8))
    torch.testing.assert_close(settled(SCORES), expected)
    samples = torch.tensor([2, 0, 2, 1])
    torch.testing.assert_close(settled[samples](SCORES[samples]), expected[samples])


def test_layout_of_the_page_reads_and_puts_back():
    layout = page().ColumnsFirst()
    images = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    activation = images.permute(0, 3, 2, 1)
    assert torch.equal(layout(activation), images)
    assert layout.grid_of(activation.shape) == (4, 5)
    assert torch.equal(layout.put_back(images + 1, activation), activation + 1)
