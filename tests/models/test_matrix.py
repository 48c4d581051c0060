"""`GradCAM(model)(inputs)` of many models: the map follows the evidence, the model stays as found.

A few run each time; ``pytest -m slow`` has most others, ``pytest -m nightly`` the heavy ones.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from dataclasses import replace

import pytest
import torch
from case import Case
from matrix import CASES
from textured_patch import PLACES, complaint, examined, excess, scenes
from torch import nn
from torchvision import models

from camlib import GradCAM

ALWAYS = {
    *("resnet18", "mobilenet_v3_small", "vit_b_32", "lraspp_mobilenet_v3_large"),
}
"""Models that are tried in every run, all of torchvision."""


def parameters() -> list[object]:
    """Each case, with its marks."""
    found = []
    for case in CASES:
        library = case.group.partition(".")[0]
        marks = [pytest.mark.nightly] if case.nightly else [pytest.mark.slow]
        marks = [] if case.name in ALWAYS else marks
        if importlib.util.find_spec(library) is None:
            marks.append(pytest.mark.skip(reason=f"{library}: install the extra `models`"))
        found.append(pytest.param(case, id=str(case), marks=marks))
    return found


@pytest.mark.parametrize("case", parameters())
def test_the_map_follows_the_evidence_and_the_model_is_left_as_found(case: Case) -> None:
    assert examined(case).complaint == ""


def test_every_family_runs_by_day() -> None:
    groups = Counter(case.group for case in CASES if not case.nightly)
    assert set(groups) == {case.group for case in CASES}
    assert {case.name for case in CASES if not case.nightly} > ALWAYS


def test_few_models_are_too_mixed_for_a_place() -> None:
    lost = [str(case) for case in CASES if case.lost]
    assert lost == ["timm-mobilevit_xxs", "timm-tiny_vit_5m_224", "transformers-MobileViT"]


def test_all_models_of_torchvision_are_here() -> None:
    for kind in ("classification", "video", "segmentation", "detection"):
        module = models if kind == "classification" else getattr(models, kind)
        names = [case.name for case in CASES if case.group == f"torchvision.{kind}"]
        assert names == models.list_models(module=module)


def test_the_patch_is_the_only_thing_in_a_scene() -> None:
    images = scenes((9, 12))
    for image, (row, column) in zip(images, PLACES, strict=True):
        rows, columns = (image != 0.5).all(0).nonzero().T
        assert (rows.min(), rows.max()) == ((5, 7) if row else (1, 3))
        assert (columns.min(), columns.max()) == ((7, 10) if column else (1, 4))


def test_the_patch_is_in_every_frame() -> None:
    clip = scenes((5, 9, 12))
    torch.testing.assert_close(clip, scenes((9, 12))[:, :, None].expand_as(clip))


def test_excess_is_warmth_beyond_that_of_the_mean_scene() -> None:
    heat = torch.zeros(4, 2, 2)
    heat[0] = torch.tensor([[0.0, 1.0], [0.5, 0.25]])
    expected = torch.tensor([1.0, 0.5, 0.0, 0.25])  # in the order of PLACES
    torch.testing.assert_close(excess(heat)[0], 0.75 * expected)
    torch.testing.assert_close(excess(heat)[1], -0.25 * expected)


LIGHT = next(case for case in CASES if case.name == "shufflenet_v2_x0_5")
WIDE = replace(LIGHT, size=(128, 256))


def test_the_right_reading_passes() -> None:
    assert examined(WIDE).complaint == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda t: t.mT, id="transposed"),
        pytest.param(lambda t: t.flip(-1), id="mirrored"),
        pytest.param(lambda t: t.flip((-2, -1)), id="turned"),
        pytest.param(
            lambda t: t.roll((-(-t.shape[-2] // 3), -(-t.shape[-1] // 3)), (-2, -1)),
            id="shifted by a third",
        ),
        pytest.param(lambda t: t.mean(0, keepdim=True).expand_as(t), id="the same everywhere"),
        pytest.param(
            lambda t: t.flatten(2).unflatten(2, t.shape[:1:-1]), id="rows of another length"
        ),
        pytest.param(lambda t: t.flatten(2).mT.reshape(t.shape), id="channels as positions"),
    ],
)
def test_a_wrong_reading_is_found_out(wrong) -> None:
    found = examined(WIDE, lambda model: GradCAM(model, layout=wrong))
    assert found.complaint == "the map does not follow the patch"


def test_a_model_that_is_not_left_as_found_is_found_out() -> None:
    def method(model: nn.Module) -> GradCAM:
        model.get_submodule("conv5").register_forward_hook(lambda *_: None)
        return GradCAM(model)

    with pytest.raises(AssertionError, match="shufflenet_v2_x0_5 was changed"):
        examined(WIDE, method)


def test_maps_of_another_kind_are_found_out() -> None:
    case = replace(LIGHT, size=(2, 2))
    heat = torch.zeros(4, 1, 2, 2)
    for image, (row, column) in zip(heat, PLACES, strict=True):
        image[0, row, column] = 1
    good = heat[:, 0]
    assert complaint(case, good, heat) == ""
    assert complaint(case, good[:1], heat) == "the map has shape (1, 2, 2)"
    assert complaint(case, good, heat[..., :1]) == "the map has shape (4, 1, 2, 1)"
    assert complaint(case, good / 0, heat) == "the map is not finite"
    assert complaint(case, good, heat / 0) == "the map is not finite"
    still = good.clone()
    still[2] = 0.5
    assert complaint(case, still, heat) == "the map is constant"
    assert complaint(case, good, heat.flip(0)) == "the map does not follow the patch"
    assert complaint(replace(case, lost="mixed"), good, heat.flip(0)) == ""
