"""Whether maps follow the evidence: a grey input with one textured patch, in four places.

The patch lies in one quadrant after the other, so that a map which is transposed, mirrored, shifted
or does not move at all is warm in the wrong one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from case import CLASSES, Case
from snapshot import snapshot
from torch import Tensor, nn

from camlib import CamlibWarning, Explanation, GradCAM, LayerMethod, TargetError
from camlib.layouts.reading import reading_of
from camlib.passes.inputs import Inputs
from camlib.passes.visits import Visits
from camlib.state.modes import explaining

PLACES = ((0, 1), (1, 0), (0, 0), (1, 1))
"""The quadrant of the patch in each scene: its row and its column."""

LEAD = 0.08
"""By how much the warmest quadrant has to lead, in units of a heatmap's range."""

SEEDS = range(4)
"""Weights are drawn from each in turn until the maps follow: not all random networks can tell."""


@dataclass(frozen=True)
class Found:
    """What came of a case.

    Attributes:
        layers: the layers that were chosen.
        grid: the size of the map before it was resized.
        complaint: what is wrong with the map; empty where nothing is.
        agreement: of the reading of the layer with where its places were measured to look; ``None``
            where it was certain.
    """

    layers: tuple[str, ...]
    grid: tuple[int, ...]
    complaint: str = ""
    agreement: float | None = None


def scenes(size: tuple[int, ...]) -> Tensor:
    """Images ``(4, 3, *size)``, 0.5 but for noise in the middle of a quadrant, in all frames."""
    height, width = size[-2] // 3, size[-1] // 3
    generator = torch.Generator().manual_seed(0)
    texture = 0.5 + 2 * torch.randn(3, height, width, generator=generator)
    images = torch.full((len(PLACES), 3, *size), 0.5)
    for image, (row, column) in zip(images, PLACES, strict=True):
        top = (1 + 2 * row) * size[-2] // 4 - height // 2
        left = (1 + 2 * column) * size[-1] // 4 - width // 2
        patch = image[..., top : top + height, left : left + width]
        patch.copy_(texture.reshape(3, *[1] * (len(size) - 2), height, width).expand_as(patch))
    return images


def excess(heat: Tensor) -> Tensor:
    """How much warmer each quadrant is in a scene than in the mean of all scenes.

    What does not move with the patch, such as the warmth of a border, is in the mean.

    Args:
        heat: the maps of the scenes, ``(4, ..., *size)``, frames before height and width.

    Returns:
        ``(4, ..., 4)``: of each scene, its quadrants in the order of `PLACES`.
    """
    height, width = heat.shape[-2] // 2, heat.shape[-1] // 2
    rows, columns = (slice(height), slice(height, None)), (slice(width), slice(width, None))
    quadrants = [heat[..., rows[r], columns[c]].mean((-2, -1)) for r, c in PLACES]
    warmth = torch.stack(quadrants, -1)
    return warmth - warmth.mean(0)


def clearest(heat: Tensor) -> int:
    """The class whose map of the first scene is the warmest at the patch, of ``(4, K, ...)``."""
    first = excess(heat)[0]
    return int((first[:, 0] - first[:, 1:].amax(1)).argmax())


def follows(heat: Tensor) -> bool:
    """Whether in each scene the patch's quadrant leads clearly, of maps ``(4, ..., H, W)``."""
    warmth = excess(heat)
    others = warmth.masked_fill(torch.eye(len(PLACES), dtype=torch.bool), -torch.inf)
    return bool((warmth.diagonal() - others.amax(1) > LEAD).all())


def examined(case: Case, method: Callable[[nn.Module], LayerMethod] = GradCAM) -> Found:
    """What `method` of the model makes of the scenes, told neither layer nor layout.

    Of the classes the one with the clearest map of the first scene is asked for; that its map
    follows the patch into the other three is not chosen.

    Raises:
        CamlibError: the library cannot explain the model.
        AssertionError: the model is not left as found.
    """
    for seed in SEEDS:
        model = case.model(seed)
        given = case.inputs(scenes(case.size))
        with torch.no_grad():  # a first pass, in which some models make what they keep
            model(**given) if isinstance(given, dict) else model(given)
        before = snapshot(model)
        try:
            found = _examined(case, method(model))
        except TargetError as error:  # of a random detector, all boxes may be empty
            found = Found((), (), str(error))
        assert snapshot(model) == before, f"{case} was changed"
        if not found.complaint:
            break
    return found


def _examined(case: Case, cam: LayerMethod) -> Found:
    inputs = case.inputs(scenes(case.size))
    with warnings.catch_warnings():
        # Of so many classes some have nothing that speaks for them, and it is seen in the map.
        warnings.filterwarnings("ignore", "a map at layer .* is zero", CamlibWarning)
        seen = cam.explain(inputs, relu=False)
        heat = cam(inputs, case.scores or [list(range(CLASSES))])
    wrong = complaint(case, seen.heatmap, heat)
    return Found(seen.layers, tuple(seen.map.shape[1:]), wrong, _agreement(cam, inputs, seen))


def _agreement(cam: LayerMethod, inputs: object, seen: Explanation) -> float | None:
    """How well the reading of the layer agrees with where it was measured to look."""
    if len(seen.layers) != 1:
        return None
    given = Inputs.of(inputs, cam.model)
    with explaining(cam.model, given.image.device):
        return reading_of(cam.model, given, Visits(), *seen.layers, seen.map.shape).agreement


def complaint(case: Case, unasked: Tensor, heat: Tensor) -> str:
    """What is wrong with the maps of the scenes, empty where nothing is.

    Args:
        case: what they are maps of.
        unasked: the maps of the target that is explained by default, ``(4, *size)``.
        heat: the maps of the classes, ``(4, K, *size)``.
    """
    for each in (unasked, heat):
        if (each.shape[0], *each.shape[-len(case.size) :]) != (len(PLACES), *case.size):
            return f"the map has shape {tuple(each.shape)}"
        if not each.isfinite().all():
            return "the map is not finite"
    if (unasked.flatten(1).amax(1) == unasked.flatten(1).amin(1)).any():
        return "the map is constant"
    if len(case.size) == 3:
        heat = heat.mean(-3)
    return (
        "" if case.lost or follows(heat[:, clearest(heat)]) else "the map does not follow the patch"
    )
