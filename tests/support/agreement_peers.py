"""How far maps of camlib are from those of the libraries that others come from.

Each case computes both on the built-in network and three scenes: what theirs returns, and what the
class beside it in `docs/migrating.md` returns with the options named there, on the same scale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from peer import as_grad_cam_scales
from torch import Tensor, nn

import camlib
from camlib import maps, targets, zoo

Pair = tuple[Tensor, Tensor]
"""What theirs returns, and what camlib returns."""

CASES: dict[tuple[str, str], Callable[[Any], Pair]] = {}
"""By section of the page and name there."""

SIZE = 96
LAYER, EARLY = "features.4", "features.2"


def model() -> nn.Module:
    return zoo.load()


def scenes(count: int = 3) -> Tensor:
    pictures = [zoo.scene(seed=seed, size=SIZE).image for seed in (3, 7, 11)]
    return zoo.preprocess(torch.stack(pictures[:count]))


def classes(count: int = 3) -> Tensor:
    with torch.no_grad():
        return model()(scenes(count)).argmax(1)


def case(section: str, name: str) -> Callable[[Callable[[Any], Pair]], Callable[[Any], Pair]]:
    def noted(function: Callable[[Any], Pair]) -> Callable[[Any], Pair]:
        CASES[section, name] = function
        return function

    return noted


def tensor(found: Any) -> Tensor:
    return torch.as_tensor(np.asarray(found.detach() if isinstance(found, Tensor) else found))


def of_grad_cam(peers: Any, name: str, *, layers: Any = (LAYER,), **given: Any) -> Tensor:
    net, asked = model(), [peers["target"](int(c)) for c in classes()]
    modules = [net.get_submodule(layer) for layer in layers]
    kind = getattr(peers["grad-cam"], name)
    return tensor(kind(net, modules)(scenes(), asked, **given))


def scaled(method: Any) -> Tensor:
    """The map of `method`, with the scales of grad-cam."""
    return tensor(as_grad_cam_scales(method.explain(scenes(), classes()).map, SIZE))


GRAD_CAM = {
    "GradCAM": camlib.GradCAM,
    "HiResCAM": camlib.HiResCAM,
    "GradCAMElementWise": camlib.ElementWiseGradCAM,
    "GradCAMPlusPlus": camlib.GradCAMPlusPlus,
    "XGradCAM": camlib.XGradCAM,
    "LayerCAM": camlib.LayerCAM,
    "EigenCAM": camlib.EigenCAM,
    "EigenGradCAM": camlib.EigenGradCAM,
    "SegEigenCAM": camlib.SegEigenCAM,
    "KPCA_CAM": camlib.KPCACAM,
    "FEM": camlib.FEM,
    "AblationCAM": camlib.AblationCAM,
    "ShapleyCAM": lambda net, layer: camlib.ShapleyCAM(net, layer, element_wise=False),
    "ScoreCAM": lambda net, layer: camlib.ScoreCAM(net, layer, score="logit", channel_softmax=True),
}

for _name, _kind in GRAD_CAM.items():
    CASES["grad-cam", _name] = lambda peers, name=_name, kind=_kind: (
        of_grad_cam(peers, name),
        scaled(kind(model(), LAYER)),
    )


@case("grad-cam", "FullGrad")
def full_grad(peers: Any) -> Pair:
    theirs = of_grad_cam(peers, "FullGrad", layers=())
    return theirs, camlib.FullGrad(model())(scenes(), classes())


@case("grad-cam", "GuidedBackpropReLUModel")
def guided(peers: Any) -> Pair:
    peer = peers["grad-cam"].GuidedBackpropReLUModel(model(), torch.device("cpu"))
    theirs = tensor(peer(scenes(1), int(classes(1)))).permute(2, 0, 1)[None]
    return theirs, camlib.GuidedBackprop(model())(scenes(1), classes(1))


@case("grad-cam", "FinerCAM")
def finer(peers: Any) -> Pair:
    net = model()
    theirs = tensor(peers["grad-cam"].FinerCAM(net, [net.get_submodule(LAYER)])(scenes()))
    found = camlib.GradCAM(model(), LAYER).explain(scenes(), targets.Contrast()).map
    return theirs, tensor(as_grad_cam_scales(found, SIZE))


@case("grad-cam", "RefineCAM")
def refine(peers: Any) -> Pair:
    """Of Grad-CAM in both."""
    net, library = model(), peers["grad-cam"]
    modules = [net.get_submodule(layer) for layer in (EARLY, LAYER)]
    peer = library.RefineCAM(net, modules, base_method=library.GradCAM)
    theirs = tensor(peer(scenes(), [peers["target"](int(c)) for c in classes()]))
    method = camlib.GradCAM(model(), [EARLY, LAYER], fuse="product")
    return theirs, method(scenes(), classes())


@case("grad-cam", "target_layers")
def several_layers(peers: Any) -> Pair:
    theirs = of_grad_cam(peers, "GradCAM", layers=(EARLY, LAYER))
    found = camlib.GradCAM(model(), [EARLY, LAYER], fuse="mean")(scenes(), classes())
    return theirs, found


@case("grad-cam", "eigen_smooth")
def eigen_smooth(peers: Any) -> Pair:
    """Up to the sign, which is arbitrary there: the nearer of the two for each image."""
    theirs = of_grad_cam(peers, "GradCAM", eigen_smooth=True)
    method = camlib.GradCAM(model(), LAYER, eigen_smooth=True)
    signed = method.explain(scenes(), classes(), relu=False).map
    both = [tensor(as_grad_cam_scales((s * signed).relu(), SIZE)) for s in (1, -1)]
    away = torch.stack([(each - theirs).flatten(1).abs().amax(1) for each in both])
    chosen = torch.stack(both)[away.argmin(0), torch.arange(len(theirs))]
    return theirs, chosen


@case("grad-cam", "aug_smooth")
def aug_smooth(peers: Any) -> Pair:
    theirs = of_grad_cam(peers, "GradCAM", aug_smooth=True)
    return theirs, camlib.Augmented(camlib.GradCAM(model(), LAYER))(scenes(), classes())


def of_torchcam(peers: Any, name: str, layer: Any = LAYER, **options: Any) -> Tensor:
    net = model()
    with getattr(peers["torchcam"], name)(
        net, layer, input_shape=(3, SIZE, SIZE), **options
    ) as cam:
        return tensor(cam(classes().tolist(), net(scenes()), normalized=False)[0])


TORCHCAM = {
    "GradCAM": camlib.GradCAM,
    "GradCAMpp": camlib.GradCAMPlusPlus,
    "XGradCAM": camlib.XGradCAM,
    "LayerCAM": camlib.LayerCAM,
    "ScoreCAM": lambda net, layer: camlib.ScoreCAM(net, layer, score="logit", channel_softmax=True),
    "ISCAM": lambda net, layer: camlib.ISCAM(
        net, layer, score="logit", channel_softmax=True, cumulative=True
    ),
}

for _name, _kind in TORCHCAM.items():
    CASES["torchcam", _name] = lambda peers, name=_name, kind=_kind: (
        peaked(of_torchcam(peers, name)),
        peaked(kind(model(), LAYER).explain(scenes(), classes()).map),
    )


def peaked(found: Tensor) -> Tensor:
    """Each map from its minimum to its maximum, as torchcam scales them."""
    return maps.normalize(found[:, None])[:, 0]


@case("torchcam", "CAM")
def cam(peers: Any) -> Pair:
    net = model()
    with peers["torchcam"].CAM(net, "features", "classifier") as peer, torch.no_grad():
        net(scenes())
        theirs = tensor(peer(classes().tolist(), normalized=False)[0])
    return theirs, camlib.CAM(model(), "features").explain(scenes(), classes()).map


@case("torchcam", "FinerCAM")
def finer_of_torchcam(peers: Any) -> Pair:
    net = model()
    with peers["torchcam"].FinerCAM(net, LAYER, input_shape=(3, SIZE, SIZE)) as peer:
        theirs = tensor(peer(classes().tolist(), net(scenes()), normalized=False)[0])
    target = targets.Contrast(classes(), strength=0.6)
    return peaked(theirs), peaked(camlib.GradCAM(model(), LAYER).explain(scenes(), target).map)


@case("torchcam", "fuse_cams")
def fused(peers: Any) -> Pair:
    net, layers = model(), [EARLY, LAYER]
    with peers["torchcam"].LayerCAM(net, layers, input_shape=(3, SIZE, SIZE)) as peer:
        found = peer(classes().tolist(), net(scenes()))
        theirs = tensor(peer.fuse_cams(found, (SIZE, SIZE)))
    method = camlib.LayerCAM(model(), layers, normalize=False)
    return theirs, method(scenes(), classes())


@case("torchcam", "RefineCAM")
def refine_of_torchcam(peers: Any) -> Pair:
    """Of Grad-CAM in both."""
    net, layers, library = model(), [EARLY, LAYER], peers["torchcam"]
    kind = library.RefineCAM
    with kind(net, layers, (3, SIZE, SIZE), base_method=library.GradCAM) as peer:
        theirs = tensor(peer(classes().tolist(), net(scenes()), normalized=False)[0])
    method = camlib.GradCAM(model(), layers, fuse="product", resize=False)
    return peaked(theirs), method(scenes(), classes())
