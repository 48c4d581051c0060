"""The page for those who come from another library: complete, and true of what they do."""

from __future__ import annotations

import inspect
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from migrating_page import CASES, NOTHING, measured, rows
from nets import Net, Pooling, convolutional, features, images, spread
from peer import as_grad_cam_scales
from torch import Tensor, nn

import camlib
from camlib import Concepts, targets

PAGE = (Path(__file__).parents[2] / "docs" / "migrating.md").read_text(encoding="utf-8")

MAPS_OF_CAPTUM = [
    "LayerGradCam",
    "GuidedGradCam",
    "GuidedBackprop",
    "Deconvolution",
    "NeuronDeconvolution",
    "Saliency",
    "InputXGradient",
    "IntegratedGradients",
    "GradientShap",
    "NoiseTunnel",
    "Occlusion",
    "FeatureAblation",
    "LayerGradientXActivation",
    "LayerActivation",
]
"""The classes whose options the page names one by one."""


def section(name: str) -> str:
    return PAGE.split(f"\n## {name}\n")[1].split("\n## ")[0]


def named(text: str) -> set[str]:
    """The names in code spans."""
    return {name for span in re.findall(r"`([^`\n]+)`", text) for name in re.findall(r"\w+", span)}


def options(kind: Any, *calls: str) -> set[str]:
    """The parameters of the class `kind` and of its methods `calls`."""
    found: set[str] = set()
    for function in (kind.__init__, *(getattr(kind, call) for call in calls)):
        found |= {
            parameter.name
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        }
    return found - {"self", "_"}


def classes(module: Any) -> dict[str, Any]:
    return {name: found for name, found in vars(module).items() if inspect.isclass(found)}


@pytest.mark.peers
def test_every_class_and_option_of_grad_cam_is_on_the_page(peers):
    known, module = named(section("grad-cam")), peers["grad-cam"]
    kinds = classes(module)
    assert len(kinds) > 20
    assert not set(kinds) - known
    for name, kind in kinds.items():
        if not name.startswith(("AblationLayer", "Activations")):
            assert not options(kind, "__call__") - known, name
    own = {
        name
        for name, kind in classes(peers["targets"]).items()
        if kind.__module__ == peers["targets"].__name__
    }
    assert own
    assert not own - known


@pytest.mark.peers
def test_every_class_and_option_of_torchcam_is_on_the_page(peers):
    known, kinds = named(section("torchcam")), classes(peers["torchcam"])
    assert len(kinds) == 12
    assert not set(kinds) - known
    for name, kind in kinds.items():
        assert not options(kind, "__call__") - known - {"model"}, name


@pytest.mark.peers
def test_every_attribution_of_captum_is_on_the_page(peers):
    known, captum = named(section("captum")), peers["captum"]
    every = {
        name
        for name, kind in classes(captum).items()
        if issubclass(kind, captum.Attribution) and name in captum.__all__ and "LLM" not in name
    }
    assert len(every) > 40
    assert not every - known
    for name in MAPS_OF_CAPTUM:
        assert not options(getattr(captum, name), "attribute") - known, name


@pytest.mark.peers
def test_every_attribution_of_zennit_is_on_the_page(peers):
    known, zennit = named(section("zennit")), peers["zennit"].attribution
    kinds = {
        name: kind
        for name, kind in classes(zennit).items()
        if issubclass(kind, zennit.Attributor) and not inspect.isabstract(kind)
    }
    assert len(kinds) == 4
    assert not set(kinds) - known
    for name, kind in kinds.items():
        assert not options(kind, "__call__") - known, name


NO_KINDS = ("None", "False", "True", "BGR")
"""What else begins with a capital: values, and an order of colours."""


def test_every_class_of_camlib_on_the_page_is_there():
    rows = [line.split("|") for line in PAGE.splitlines() if line.startswith("| `")]
    assert len(rows) > 90
    ours = {name for row in rows for name in named(row[2])}
    kinds = {name for name in ours if name[0].isupper() and name not in NO_KINDS}
    assert len(kinds) > 30
    for name in kinds:
        assert hasattr(camlib, name) or hasattr(targets, name), name
    assert hasattr(Concepts, "figure")


FIRST = {function: key for key, function in reversed(CASES.items())}
"""The first of the rows that show one case, such as those of a class and of its options."""


@pytest.mark.peers
@pytest.mark.parametrize("key", [k for k in FIRST.values() if k[0] != "authors"], ids=" ".join)
def test_agreement_with_other_libraries_is_as_the_page_says(peers, key):
    check(key, peers)


@pytest.mark.parametrize("key", [k for k in FIRST.values() if k[0] == "authors"], ids=" ".join)
def test_agreement_with_the_authors_is_as_the_page_says(key):
    check(key, None)


def check(key: tuple[str, str], peers: Any) -> None:
    lines = PAGE.splitlines()
    [number] = [number for number, found in rows(PAGE) if found == key]
    stated = float(lines[number].rstrip("| ").split("|")[-1])
    found = measured(key, peers)
    if stated <= 1e-4:
        assert found < 10 * stated
    else:
        assert 0.5 * stated < found < 2 * stated


def test_rows_of_one_case_have_one_number():
    shown = {key: PAGE.splitlines()[number].split("|")[-2] for number, key in rows(PAGE) if key}
    assert len(FIRST) < len(CASES)
    for key, function in CASES.items():
        assert shown[key] == shown[FIRST[function]], key


def test_every_row_says_how_far_it_agrees():
    lines = PAGE.splitlines()
    found = list(rows(PAGE))
    assert len(found) > 100
    for number, key in found:
        cell = lines[number].rstrip("| ").split("|")[-1].strip()
        assert (cell == NOTHING) == (key is None), lines[number]
    assert {key for _, key in found if key} == set(CASES)


def test_a_row_without_a_number_says_why():
    for number, key in rows(PAGE):
        line = PAGE.splitlines()[number]
        cells = line.strip("| ").split("|")
        assert len(cells) == 4, line
        if key is None:
            reason = re.sub(r"`[^`]*`", "", cells[2])
            assert len(reason.split()) > 3, line
        elif float(cells[-1]) > 1e-4:
            assert cells[2].strip(), line


def call(peers: Any, library: str, net: nn.Module, batch: Tensor, target: Any) -> Any:
    """Grad-CAM by `library`, as its users call it."""
    if library == "grad-cam":
        wanted = None if target is None else [peers["target"](target)] * len(batch)
        with peers["grad-cam"].GradCAM(net, [net.features]) as cam:
            return cam(batch, wanted)
    if library == "torchcam":
        with peers["torchcam"].GradCAM(net, "features", input_shape=(3, 8, 8)) as cam:
            return cam(target, net(batch))[0]
    if library == "captum":
        return peers["captum"].LayerGradCam(net, net.features).attribute(batch, target=target)
    return camlib.GradCAM(net, "features")(batch, target)


@pytest.mark.peers
@pytest.mark.parametrize(
    ("library", "kind", "shape", "graph"),
    [
        ("grad-cam", np.ndarray, (2, 8, 8), False),
        ("torchcam", Tensor, (2, 4, 4), False),
        ("captum", Tensor, (2, 1, 4, 4), True),
        ("camlib", Tensor, (2, 8, 8), False),
    ],
)
def test_what_a_call_returns(peers, library, kind, shape, graph):
    found = call(peers, library, convolutional(), images(2), 1)
    assert type(found) is kind
    assert found.shape == shape
    assert getattr(found, "requires_grad", False) == graph


@pytest.mark.peers
@pytest.mark.parametrize(
    ("library", "error"),
    [("grad-cam", None), ("torchcam", ValueError), ("captum", AssertionError), ("camlib", None)],
)
def test_call_without_a_class(peers, library, error):
    def called():
        return call(peers, library, convolutional(), images(2), None)

    if error is None:
        assert torch.as_tensor(called()).isfinite().all()
    else:
        with pytest.raises(error):
            called()


@pytest.mark.peers
@pytest.mark.parametrize("library", ["grad-cam", "torchcam", "captum"])
def test_class_0_of_a_network_with_one_output(peers, library):
    """It is the output there, and what speaks against it here."""
    net = spread(Net(features(), nn.Sequential(Pooling(), nn.Linear(6, 1))))
    batch = images(2)
    theirs = torch.as_tensor(call(peers, library, net, batch, 0)).squeeze().detach()
    method = camlib.GradCAM(net, "features", relu=library != "captum")
    one, zero = (method.explain(batch, label).map for label in (1, 0))
    if library == "grad-cam":
        one, zero = (torch.tensor(as_grad_cam_scales(found, 8)) for found in (one, zero))
    if library == "torchcam":
        one, zero = (camlib.maps.normalize(found[:, None])[:, 0] for found in (one, zero))
    torch.testing.assert_close(theirs, one)
    assert (theirs - zero).abs().max() > 0.1 * one.abs().max()


@pytest.mark.peers
def test_one_class_in_a_list_for_several_images(peers):
    net, batch = convolutional(), images(2)
    with peers["grad-cam"].GradCAM(net, [net.features]) as cam:
        found = cam(batch, [peers["target"](1)])
    assert found[0].any()
    assert not found[1].any()
    with pytest.raises(ValueError, match="batch size"):
        call(peers, "torchcam", net, batch, [1])
    with pytest.raises(AssertionError, match="length"):
        call(peers, "captum", net, batch, [1])
    for_all = call(peers, "captum", net, batch, torch.tensor([1]))
    torch.testing.assert_close(for_all, call(peers, "captum", net, batch, 1))
    with pytest.raises(camlib.TargetError, match="does not fit 2 samples"):
        call(peers, "camlib", net, batch, [1])


@pytest.mark.peers
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize(
    ("library", "error"),
    [("grad-cam", RuntimeError), ("torchcam", RuntimeError), ("captum", None), ("camlib", None)],
)
def test_frozen_network_or_no_grad(peers, library, error, frozen):
    net, batch = convolutional(), images(2)
    expected = call(peers, library, net, batch, 1)
    net.requires_grad_(not frozen)
    context = nullcontext() if frozen else torch.no_grad()
    with context, pytest.raises(error) if error else nullcontext():
        found = call(peers, library, net, batch, 1)
        assert abs(found - expected).max() < 1e-6


@pytest.mark.peers
@pytest.mark.parametrize(
    ("library", "training", "moves", "keeps"),
    [
        ("grad-cam", False, False, False),
        ("torchcam", True, True, True),
        ("captum", True, True, True),
        ("camlib", True, False, True),
    ],
)
def test_network_in_training(peers, library, training, moves, keeps):
    net = convolutional().train()
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = net.features[1].running_mean.clone()
    call(peers, library, net, images(2), 1)
    assert net.training == training
    assert torch.equal(net.features[1].running_mean, before) != moves
    assert all(bool((p.grad == 1).all()) for p in net.parameters()) == keeps


@pytest.mark.peers
def test_order_of_scaling_and_resizing(peers):
    net, batch = convolutional(), images(2)
    raw = camlib.GradCAM(net, "features").explain(batch, 1).map[:, None]
    ours = camlib.maps.normalize(camlib.maps.resize(raw, (8, 8)))[:, 0]
    torch.testing.assert_close(call(peers, "camlib", net, batch, 1), ours)
    scaled = camlib.maps.resize(camlib.maps.normalize(raw), (8, 8))
    theirs = torch.tensor(call(peers, "grad-cam", net, batch, 1))
    assert (theirs - camlib.maps.normalize(scaled)[:, 0]).abs().max() < 1e-5
    assert (scaled[:, 0] - ours).abs().max() > 0.01
    theirs = call(peers, "torchcam", net, batch, 1)
    torch.testing.assert_close(theirs, camlib.maps.normalize(raw)[:, 0])
    torch.testing.assert_close(call(peers, "captum", net, batch, 1).relu().detach(), raw)
