"""How far attributions of camlib are from those of captum; see `agreement_peers`."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
from agreement_peers import CASES, LAYER, SIZE, Pair, case, classes, model, scenes, tensor
from torch import Tensor

import camlib

CAPTUM = {
    "GuidedBackprop": camlib.GuidedBackprop,
    "Deconvolution": camlib.Deconvnet,
    "InputXGradient": camlib.InputXGradient,
    "IntegratedGradients": camlib.IntegratedGradients,
}

for _name, _kind in CAPTUM.items():
    CASES["captum", _name] = lambda peers, name=_name, kind=_kind: (
        of_captum(peers, name),
        kind(model())(scenes(), classes()),
    )


def of_captum(peers: Any, name: str, *layers: str, **options: Any) -> Tensor:
    net = model()
    made = getattr(peers["captum"], name)(net, *(net.get_submodule(layer) for layer in layers))
    return tensor(made.attribute(scenes(), target=classes().tolist(), **options))


@case("captum", "LayerGradCam")
def layer_grad_cam(peers: Any) -> Pair:
    found = camlib.GradCAM(model(), LAYER).explain(scenes(), classes(), relu=False).map
    return of_captum(peers, "LayerGradCam", LAYER)[:, 0], found


@case("captum", "relu_attributions")
def rectified(peers: Any) -> Pair:
    found = camlib.GradCAM(model(), LAYER).explain(scenes(), classes(), relu=True).map
    return of_captum(peers, "LayerGradCam", LAYER, relu_attributions=True)[:, 0], found


@case("captum", "GuidedGradCam")
def guided_grad_cam(peers: Any) -> Pair:
    found = camlib.GuidedGradCAM(model(), LAYER)(scenes(), classes())
    return of_captum(peers, "GuidedGradCam", LAYER, interpolate_mode="bilinear"), found


@case("captum", "Saliency")
def saliency(peers: Any) -> Pair:
    return of_captum(peers, "Saliency", abs=False), camlib.Saliency(model())(scenes(), classes())


@case("captum", "LayerGradientXActivation")
def gradient_times_activation(peers: Any) -> Pair:
    found = camlib.HiResCAM(model(), LAYER).explain(scenes(), classes(), relu=False).map
    return of_captum(peers, "LayerGradientXActivation", LAYER).sum(1), found


@case("captum", "LayerActivation")
def activation(peers: Any) -> Pair:
    net = model()
    made = peers["captum"].LayerActivation(net, net.get_submodule(LAYER))
    theirs = tensor(made.attribute(scenes())).mean(1)
    return theirs, camlib.LaFAM(model(), LAYER).explain(scenes()).map


@case("captum", "Occlusion")
def occlusion(peers: Any) -> Pair:
    window, stride = 32, 24
    given = {"sliding_window_shapes": (3, window, window), "strides": (3, stride, stride)}
    theirs = of_captum(peers, "Occlusion", **given)[:, 0]
    method = camlib.Occlusion(model(), window=window, stride=stride, last="cut", score="logit")
    return theirs, method.explain(scenes(), classes()).map


@case("captum", "FeatureAblation")
def feature_ablation(peers: Any) -> Pair:
    side = 24
    squares = torch.arange((SIZE // side) ** 2).reshape(SIZE // side, SIZE // side)
    squares = squares.repeat_interleave(side, 0).repeat_interleave(side, 1)[None, None]
    theirs = of_captum(peers, "FeatureAblation", feature_mask=squares)[:, 0]
    method = camlib.Occlusion(model(), window=side, stride=side, score="logit")
    return theirs, method.explain(scenes(), classes()).map


RULES = {
    "gausslegendre": "gauss_legendre",
    "riemann_left": "left",
    "riemann_right": "right",
    "riemann_middle": "middle",
}

for _theirs, _ours in RULES.items():
    CASES["captum", _theirs] = lambda peers, theirs=_theirs, ours=_ours: (
        of_captum(peers, "IntegratedGradients", method=theirs, n_steps=20),
        camlib.IntegratedGradients(model(), rule=ours, steps=20)(scenes(), classes()),
    )


@case("captum", "riemann_trapezoid")
def trapezoid(peers: Any) -> Pair:
    """Their weights sum to 19 / 20."""
    theirs = of_captum(peers, "IntegratedGradients", method="riemann_trapezoid", n_steps=20)
    method = camlib.IntegratedGradients(model(), rule="trapezoid", steps=20)
    return theirs, method(scenes(), classes()) * 19 / 20


@case("captum", "baselines")
def baselines(peers: Any) -> Pair:
    starts = scenes().flip(0) / 2
    theirs = of_captum(peers, "IntegratedGradients", baselines=starts)
    return theirs, camlib.IntegratedGradients(model(), baseline=starts)(scenes(), classes())


@case("captum", "multiply_by_inputs")
def without_inputs(peers: Any) -> Pair:
    net = model()
    made = peers["captum"].IntegratedGradients(net, multiply_by_inputs=False)
    theirs = tensor(made.attribute(scenes(), target=classes().tolist()))
    method = camlib.IntegratedGradients(model(), multiply=False)
    return theirs, method(scenes(), classes())


def tunnel(peers: Any, kind: str, statistic: str) -> Pair:
    """With the draws of camlib in both, of one image."""
    samples, share = 6, 0.15
    image, label = scenes(1), classes(1)
    spread = float(share * (image.max() - image.min()))
    noise = torch.randn(samples, *image.shape[1:], generator=torch.Generator().manual_seed(0))
    captum = peers["captum"]
    with mock.patch("torch.normal", lambda *_: noise * spread):
        made = captum.NoiseTunnel(captum.Saliency(model()))
        theirs = made.attribute(
            image, nt_type=kind, nt_samples=samples, stdevs=spread, target=label.tolist(), abs=False
        )
    method = camlib.SmoothGrad(model(), samples=samples, sigma=share, statistic=statistic)
    return tensor(theirs), method(image, label)


for _kind, _statistic in {
    "smoothgrad": "mean",
    "smoothgrad_sq": "square",
    "vargrad": "variance",
}.items():
    CASES["captum", _kind] = lambda peers, kind=_kind, statistic=_statistic: tunnel(
        peers, kind, statistic
    )
CASES["captum", "NoiseTunnel"] = CASES["captum", "smoothgrad"]
