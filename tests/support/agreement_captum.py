"""How far attributions of camlib are from those of captum; see `agreement_peers`."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch
from agreement_peers import CASES, LAYER, SIZE, Pair, case, classes, model, same, scenes, tensor
from torch import Tensor, nn

import camlib
from camlib import maps

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


same("captum", "LayerGradCam", "layer", "target", "inputs")


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


class Early(nn.Module):
    """The built-in network up to a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = model().features[:5]

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images)


UNIT = (0, 1, 1)


def at_unit(output: Tensor) -> Tensor:
    channel, row, column = UNIT
    return output[:, channel, row, column]


for _name, _kind in {
    "NeuronDeconvolution": camlib.Deconvnet,
    "NeuronGuidedBackprop": camlib.GuidedBackprop,
    "NeuronGradient": camlib.Saliency,
}.items():
    CASES["captum", _name] = lambda peers, name=_name, kind=_kind: (
        of_neuron(peers, name),
        kind(Early().eval())(scenes(), at_unit),
    )
same("captum", "NeuronGradient", "neuron_selector")


def of_neuron(peers: Any, name: str) -> Tensor:
    net = model()
    made = getattr(peers["captum"], name)(net, net.get_submodule(LAYER))
    return tensor(made.attribute(scenes(), neuron_selector=UNIT))


@case("captum", "attribute_to_layer_input")
def at_the_layer_before(peers: Any) -> Pair:
    theirs = of_captum(peers, "LayerGradCam", LAYER, attribute_to_layer_input=True)[:, 0]
    found = camlib.GradCAM(model(), "features.3").explain(scenes(), classes(), relu=False)
    return theirs, found.map


@case("captum", "abs")
def absolute(peers: Any) -> Pair:
    theirs = of_captum(peers, "Saliency", abs=True).amax(1)
    return theirs, camlib.Saliency(model(), reduce="max")(scenes(), classes())


@case("captum", "LayerAttribution")
def interpolated(peers: Any) -> Pair:
    found = camlib.GradCAM(model(), LAYER).explain(scenes(), classes(), relu=False).map[:, None]
    enlarge = peers["captum"].LayerAttribution.interpolate
    return enlarge(found, (SIZE, SIZE), "bilinear"), maps.resize(found, (SIZE, SIZE))


class Dimmed(nn.Module):
    """The built-in network of images that are dimmed by a factor of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = model()

    def forward(self, images: Tensor, factors: Tensor) -> Tensor:
        return self.net(images * factors[:, None, None, None])


@case("captum", "additional_forward_args")
def other_inputs(peers: Any) -> Pair:
    net, factors = Dimmed().eval(), torch.tensor([0.5, 0.8, 1.2])
    made = peers["captum"].InputXGradient(net)
    theirs = made.attribute(scenes(), target=1, additional_forward_args=factors)
    return tensor(theirs), camlib.InputXGradient(net, image=0)((scenes(), factors), 1)


@case("captum", "GradientShap")
def gradient_shap(peers: Any) -> Pair:
    """Of one image, without noise, with the draws of camlib in both."""
    samples, image = 10, scenes(1)
    generator = torch.Generator().manual_seed(0)
    torch.randint(1, (samples,), generator=generator)
    places = torch.rand(samples, generator=generator).double().numpy()
    blank = torch.zeros_like(image)
    with mock.patch("numpy.random.uniform", lambda *_: places):
        made = peers["captum"].GradientShap(model())
        theirs = made.attribute(image, blank, n_samples=samples, target=classes(1).tolist())
    method = camlib.ExpectedGradients(model(), baselines=blank, samples=samples)
    return tensor(theirs), method(image, classes(1))


@case("captum", "internal_batch_size")
def in_batches(peers: Any) -> Pair:
    theirs = of_captum(peers, "IntegratedGradients", internal_batch_size=7)
    return theirs, camlib.IntegratedGradients(model(), batch_size=7)(scenes(), classes())


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
same("captum", "GuidedGradCam", "interpolate_mode")
same("captum", "Occlusion", "sliding_window_shapes")
same("captum", "IntegratedGradients", "n_steps")
same("captum", "NoiseTunnel", "nt_samples")
same("captum", "GradientShap", "n_samples")
