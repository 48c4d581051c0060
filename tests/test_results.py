"""An explanation: what it knows, drawn, saved and shown in a notebook."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import matplotlib.figure
import numpy as np
import pytest
import torch
from nets import images, pooled

from camlib import (
    Explanation,
    GradCAM,
    GuidedGradCAM,
    InputError,
    Saliency,
    overlay,
)

pytestmark = pytest.mark.filterwarnings("ignore:a map at layer:camlib.CamlibWarning")


def test_explanation_is_seen():
    net, batch = pooled(), images()
    seen = GradCAM(net).explain(batch, target=[0, 1])
    pixels = batch.sigmoid()
    assert torch.equal(seen.overlay(pixels, alpha=0.3), overlay(pixels, seen.heatmap, alpha=0.3))
    one = GradCAM(net).explain(batch[:1], target=1)
    picture = one.overlay(np.full((8, 8, 3), 255, np.uint8))
    assert picture.shape == (8, 8, 3)
    assert torch.equal(one.overlay(pixels[0]), overlay(pixels[0], one.heatmap[0]))
    assert isinstance(seen.figure(pixels), matplotlib.figure.Figure)
    assert seen._repr_png_().startswith(b"\x89PNG")
    assert repr(seen) == (
        "Explanation(GradCAM, heatmap=(2, 8, 8), target=[0, 1], layers=('features',))"
    )


@pytest.mark.parametrize("kind", [GradCAM, Saliency, GuidedGradCAM])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_explanations_of_every_kind_of_input_are_seen(kind, axes):
    net, batch = pooled(axes=axes), images(2, *[8] * axes)
    seen = kind(net).explain(batch, target=[[0, 1], [1, 0]])
    assert seen.size == (8,) * axes
    assert seen._repr_png_().startswith(b"\x89PNG")
    drawn = seen.figure(batch.sigmoid())
    rows = {1: 2, 2: 2, 3: 2 * 5}[axes]
    assert len(drawn.axes) == rows * 3


def test_explanation_of_volumes_is_laid_over_them():
    net, batch = pooled(axes=3), images(2, 8, 8, 8)
    seen = GradCAM(net).explain(batch)
    pixels = batch.sigmoid()
    assert torch.equal(seen.overlay(pixels), overlay(pixels, seen.heatmap))


def test_explanation_in_units_of_the_score_is_no_picture():
    seen = GradCAM(pooled()).explain(images() * 100, normalize=False)
    assert seen._repr_png_() is None
    with pytest.raises(InputError, match=r"heatmap has values from .* normalise it first"):
        seen.figure()


def test_explanation_is_saved(tmp_path):
    seen = GradCAM(pooled()).explain(images(), target=[0, 1])
    seen.save(tmp_path / "maps.png")
    assert (tmp_path / "maps.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["maps.png"]


def test_notebook_shows_a_few_of_many_samples(monkeypatch):
    from camlib import visual

    drawn = []
    real = visual.figure
    monkeypatch.setattr(visual, "figure", lambda *args, **how: drawn.append(real(*args, **how)))
    monkeypatch.setattr(visual, "to_png", lambda figure: b"")
    many = torch.cat([images()] * 10)
    GradCAM(pooled()).explain(many, target=0, relu=False)._repr_png_()
    assert len(drawn[0].axes) == 16 < len(many)


def notebook(monkeypatch, running=True):
    """What is displayed in a notebook that takes the place of IPython's."""
    shown = []
    display = SimpleNamespace(display=shown.append)
    kernel = object() if running else None
    found = SimpleNamespace(get_ipython=lambda: kernel, display=display, version_info=(9, 0))
    monkeypatch.setitem(sys.modules, "IPython", found)
    return shown


def test_explanation_is_shown(monkeypatch):
    shown = notebook(monkeypatch)
    GradCAM(pooled()).explain(images(), target=1).show(images().sigmoid())
    assert isinstance(shown[0], matplotlib.figure.Figure)
    assert shown[0]._repr_png_().startswith(b"\x89PNG")  # without %matplotlib inline


@pytest.mark.parametrize("installed", [True, False])
def test_explanation_is_not_shown_outside_of_a_notebook(monkeypatch, installed):
    notebook(monkeypatch, running=False)
    if not installed:
        monkeypatch.delitem(sys.modules, "IPython")
    with pytest.raises(
        InputError, match=r"needs a notebook, and none is running; .* save\('figure"
    ):
        GradCAM(pooled()).explain(images(), target=1).show()


def test_explanation_is_frozen():
    seen = GradCAM(pooled()).explain(images())
    assert isinstance(seen, Explanation)
    with pytest.raises(AttributeError):
        seen.heatmap = None
