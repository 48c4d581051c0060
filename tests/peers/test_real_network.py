"""Beside the other libraries on a real network: the same to 1e-4 where they follow the paper.

Where they do not, what they compute is computed here by hand, and so is the paper's.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from peer import (
    MARKS,
    activation_and_gradient,
    as_grad_cam_scales,
    correlation,
    equation_19,
    uncut,
    weighted,
)
from torch import Tensor, nn
from torch.nn import functional as F

import camlib
from camlib import layers, maps, targets

pytestmark = [
    *MARKS,
    pytest.mark.shared,
    pytest.mark.filterwarnings("ignore:Setting forward, backward hooks and attributes on non-lin"),
]

LAST = "features.18"
RECTIFIED = "features.14.conv.0.2"
SIGNED = "features.13"
NARROW = "features.1.conv.0.2"
"""A layer of 32 channels, without negative values, for methods that run each of them."""


@pytest.fixture(scope="module")
def asked(mobilenet) -> tuple[nn.Module, Tensor, Tensor]:
    """The network, the photographs, and the classes predicted."""
    model, batch = mobilenet
    with torch.no_grad():
        return model, batch, model(batch).argmax(1)


def of_grad_cam(peers: Any, name: str, asked: Any, layer: str, **options: Any) -> np.ndarray:
    """What the class `name` of grad-cam makes of the network."""
    model, batch, classes = asked
    with getattr(peers["grad-cam"], name)(model, [model.get_submodule(layer)], **options) as peer:
        found = peer(batch, [peers["target"](int(c)) for c in classes])
    model.zero_grad()
    return found


def assert_near(found: Tensor, expected: Tensor) -> None:
    """Equal to 1e-4 of the largest value."""
    assert expected.abs().max() > 0
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("layer", [LAST, RECTIFIED])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("GradCAM", camlib.GradCAM),
        ("HiResCAM", camlib.HiResCAM),
        ("LayerCAM", camlib.LayerCAM),
        ("XGradCAM", camlib.XGradCAM),
        ("GradCAMElementWise", camlib.ElementWiseGradCAM),
        ("ShapleyCAM", camlib.ShapleyCAM),
    ],
)
def test_maps_equal_those_of_grad_cam(peers, asked, name, kind, layer):
    model, batch, classes = asked
    found = kind(model, layer).explain(batch, classes).map
    theirs = of_grad_cam(peers, name, asked, layer)
    assert np.abs(as_grad_cam_scales(found, 224) - theirs).max() < 1e-4


@pytest.mark.parametrize("layer", [LAST, RECTIFIED])
@pytest.mark.parametrize("name", ["GradCAM", "LayerCAM", "XGradCAM"])
def test_maps_equal_those_of_torchcam(peers, asked, name, layer):
    model, batch, classes = asked
    found = getattr(camlib, name)(model, layer).explain(batch, classes).map
    with getattr(peers["torchcam"], name)(model, layer) as peer:
        [theirs] = peer(classes.tolist(), model(batch), normalized=False)
    assert_near(found, theirs)


def test_cam_equals_that_of_torchcam(peers, asked):
    model, batch, classes = asked
    found = camlib.CAM(model, LAST).explain(batch, classes).map
    with peers["torchcam"].CAM(model, LAST, "classifier.1") as peer, torch.no_grad():
        model(batch)
        [theirs] = peer(classes.tolist(), normalized=False)
    assert found.amin() < 0
    assert_near(found, theirs)


@pytest.mark.parametrize("layer", [LAST, RECTIFIED])
def test_grad_cam_equals_that_of_captum(peers, asked, layer):
    model, batch, classes = asked
    captum = peers["captum"]
    cam = captum.LayerGradCam(model, model.get_submodule(layer))
    signed = cam.attribute(batch, target=classes.tolist()).detach()
    method = camlib.GradCAM(model, layer)
    assert_near(method.explain(batch, classes, relu=False).map, signed[:, 0])
    cut = cam.attribute(batch, target=classes.tolist(), relu_attributions=True).detach()
    large = captum.LayerAttribution.interpolate(cut, (224, 224), "bilinear")
    assert_near(method(batch, classes, normalize=False), large[:, 0])
    coarse = captum.LayerAttribution.interpolate(cut, (224, 224))
    assert (coarse - large).abs().max() > 0.1 * large.abs().max()


def test_hires_cam_and_the_mean_activation_are_layer_attributions_of_captum(peers, asked):
    model, batch, classes = asked
    layer = model.get_submodule(LAST)
    product = peers["captum"].LayerGradientXActivation(model, layer)
    theirs = product.attribute(batch, target=classes.tolist()).detach().sum(1)
    assert_near(camlib.HiResCAM(model, LAST).explain(batch, classes, relu=False).map, theirs)
    theirs = peers["captum"].LayerActivation(model, layer).attribute(batch).detach().mean(1)
    assert_near(camlib.LaFAM(model, LAST).explain(batch).map, theirs)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("EigenCAM", camlib.EigenCAM),
        ("EigenGradCAM", camlib.EigenGradCAM),
        ("SegEigenCAM", camlib.SegEigenCAM),
        ("KPCA_CAM", camlib.KPCACAM),
    ],
)
def test_eigen_methods_are_those_of_grad_cam_but_for_its_centring(peers, asked, name, kind):
    model, batch, classes = asked[0], asked[1][:3], asked[2][:3]
    activation, gradient = activation_and_gradient(model, LAST, batch, classes)
    with getattr(peers["grad-cam"], name)(model, [model.get_submodule(LAST)]) as peer:
        made = uncut(peer)
        peer(batch, [peers["target"](int(c)) for c in classes])
    model.zero_grad()
    theirs = torch.tensor(made[0]).double()
    found = kind(model, LAST).explain(batch, classes, relu=False).map.double()
    if kind is camlib.KPCACAM:  # centred in both
        assert_near(found.abs(), theirs.abs())
        return
    size = {"EigenGradCAM": gradient, "SegEigenCAM": gradient.abs()}.get(name, torch.ones(1))
    rows = (size * activation).flatten(2).mT
    for number, matrix in enumerate(rows):
        for centred, map_ in ((matrix - matrix.mean(0), theirs), (matrix, found)):
            first = torch.linalg.svd(centred, full_matrices=False).Vh[0]
            expected = (centred @ first).reshape(7, 7)
            assert_near(map_[number].abs(), expected.abs())
    assert (found.abs() - theirs.abs()).abs().max() > 0.1 * theirs.abs().max()


def test_eigen_cam_of_grad_cam_shows_the_background_of_some_images(peers, asked):
    model, batch, _ = asked
    with peers["grad-cam"].EigenCAM(model, [model.get_submodule(LAST)]) as peer:
        made = uncut(peer)
        peer(batch, [peers["target"](0)] * len(batch))
    turned = [float(each.min()) < -float(each.max()) for each in made[0]]
    assert any(turned)
    found = camlib.EigenCAM(model, LAST).explain(batch, 0).map
    assert (found.amax((1, 2)) > -found.amin((1, 2))).all()


def test_fem_of_grad_cam_counts_places_where_the_paper_takes_the_mean(peers, asked):
    model, batch, classes = asked
    activation, _ = activation_and_gradient(model, LAST, batch, classes)
    mean = activation.mean((2, 3), keepdim=True)
    strong = activation > mean + 2 * activation.std((2, 3), correction=0, keepdim=True)
    counted = (strong.double().mean((2, 3), keepdim=True) * activation).sum(1)
    theirs = of_grad_cam(peers, "FEM", asked, LAST)
    assert np.abs(as_grad_cam_scales(counted, 224) - theirs).max() < 1e-4
    dead = activation.amax((2, 3), keepdim=True) == activation.amin((2, 3), keepdim=True)
    found = camlib.FEM(model, LAST).explain(batch).map
    assert_near(found.double(), (mean * (strong | dead)).sum(1))
    assert np.abs(as_grad_cam_scales(found, 224) - theirs).max() > 0.1


def test_cube_of_the_gradient_in_torchcam_and_equation_19_here(peers, asked):
    model, batch, classes = asked
    activation, gradient = activation_and_gradient(model, LAST, batch, classes)
    with peers["torchcam"].GradCAMpp(model, LAST) as peer:
        [theirs] = peer(classes.tolist(), model(batch), normalized=False)
    cubes = gradient.clamp(min=0).pow(3).sum((2, 3))
    assert_near(theirs.double(), weighted(cubes, activation))
    found = camlib.GradCAMPlusPlus(model, LAST).explain(batch, classes).map
    assert_near(found.double(), weighted(equation_19(activation, gradient), activation))
    apart = maps.normalize(found[:, None]) - maps.normalize(theirs[:, None])
    assert apart.abs().max() > 0.05


def test_epsilon_of_grad_cam_is_not_small(peers, asked):
    model, batch, classes = asked
    activation, gradient = activation_and_gradient(model, LAST, batch, classes)
    paper = weighted(equation_19(activation, gradient), activation)
    theirs = weighted(equation_19(activation, gradient, 1e-6), activation)
    shown = of_grad_cam(peers, "GradCAMPlusPlus", asked, LAST)
    assert np.abs(shown - as_grad_cam_scales(theirs, 224)).max() < 1e-3
    assert np.abs(shown - as_grad_cam_scales(paper, 224)).max() > 0.02


def test_ablation_cam_equals_that_of_grad_cam_where_nothing_is_negative(peers, asked):
    model, batch, classes = asked[0], asked[1][:2], asked[2][:2]
    assert model(batch)[torch.arange(2), classes].min() > 0  # else theirs is turned around
    found = camlib.AblationCAM(model, NARROW).explain(batch, classes)
    assert found.replayed
    theirs = of_grad_cam(peers, "AblationCAM", (model, batch, classes), NARROW)
    assert np.abs(as_grad_cam_scales(found.map, 224) - theirs).max() < 1e-4


def test_ablation_cam_of_grad_cam_puts_minus_ten_million_into_a_signed_layer(peers, asked):
    model, batch, classes = asked[0], asked[1][:1], asked[2][:1]
    activation, _ = activation_and_gradient(model, SIGNED, batch, classes)
    whole = float(model(batch).detach()[0, classes])

    def lost(value: float) -> Tensor:
        """What the score loses where a channel is `value`, each in turn, as a share of it."""
        changed = activation.float().repeat(activation.shape[1], 1, 1, 1)
        for channel, each in enumerate(changed):
            each[channel] = value
        with replaced(model, SIGNED, changed), torch.no_grad():
            scores = model(batch.expand(len(changed), -1, -1, -1))[:, int(classes)]
        return ((whole - scores) / whole)[None].double()

    theirs = of_grad_cam(peers, "AblationCAM", (model, batch, classes), SIGNED, batch_size=96)
    paper = weighted(lost(0.0), activation)
    found = camlib.AblationCAM(model, SIGNED).explain(batch, classes).map
    assert np.abs(as_grad_cam_scales(found, 224) - as_grad_cam_scales(paper, 224)).max() < 1e-3
    assert np.abs(theirs - as_grad_cam_scales(paper, 224)).max() > 0.3
    least = float(activation.min()) - 1e7
    assert np.abs(theirs - as_grad_cam_scales(weighted(lost(least), activation), 224)).max() < 0.01


class replaced:
    """The layer returns `tensor`, whatever it sees."""

    def __init__(self, model: nn.Module, layer: str, tensor: Tensor) -> None:
        module = model.get_submodule(layer)
        self.handle = module.register_forward_hook(lambda *_: tensor.clone())

    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


def masked_scores(
    model: nn.Module, image: Tensor, activation: Tensor, label: int, *, how: str
) -> Tensor:
    """The logits and the probability of `label` where each channel masks `image`, ``(2, C)``."""
    if how == "scale first":
        low, high = activation.amin((2, 3), keepdim=True), activation.amax((2, 3), keepdim=True)
        scaled = (activation - low) / (high - low + 1e-8)
        masks = F.interpolate(scaled, image.shape[2:], mode="bilinear", align_corners=False)
    else:
        corners = how == "corners"
        masks = F.interpolate(activation, image.shape[2:], mode="bilinear", align_corners=corners)
        low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
        masks = (masks - low) / (high - low + (1e-8 if corners else 0))
    with torch.no_grad():
        scores = model((image * masks[0][:, None]).float())
    return torch.stack([scores[:, label], scores.softmax(1)[:, label]])


def test_score_cam_is_that_of_its_authors_and_in_the_peers_a_softmax_over_channels(peers, asked):
    model, batch, classes = asked[0], asked[1][:1], asked[2][:1]
    label = int(classes)
    activation, _ = activation_and_gradient(model, NARROW, batch, classes)
    assert (activation.amax((2, 3)) > activation.amin((2, 3))).any()

    _, chance = masked_scores(model, batch, activation.float(), label, how="authors")
    varies = activation.amax((2, 3)) > activation.amin((2, 3))
    paper = weighted(chance.double()[None].where(varies, 0), activation)
    found = camlib.ScoreCAM(model, NARROW).explain(batch, classes).map
    assert_near(found.double(), paper)

    logit, chance = masked_scores(model, batch, activation.float(), label, how="corners")
    for kind, scores in {
        "ClassifierOutputTarget": logit,
        "ClassifierOutputSoftmaxTarget": chance,
    }.items():
        expected = weighted(scores.double().softmax(0)[None], activation)
        with peers["grad-cam"].ScoreCAM(model, [model.get_submodule(NARROW)]) as peer:
            theirs = peer(batch, [getattr(peers["targets"], kind)(label)])
        assert np.abs(theirs - as_grad_cam_scales(expected, 224)).max() < 1e-3
    assert float(logit.softmax(0).topk(5).values.sum()) == pytest.approx(0.72, abs=0.01)
    assert chance.softmax(0).max() < np.e * chance.softmax(0).min()  # about the mean over channels

    logit, _ = masked_scores(model, batch, activation.float(), label, how="scale first")
    with peers["torchcam"].ScoreCAM(model, NARROW) as peer, torch.no_grad():
        model(batch)
        [theirs] = peer(label, normalized=False)
    assert_near(theirs.double(), weighted(logit.double().softmax(0)[None], activation))
    option = camlib.ScoreCAM(model, NARROW, score="logit", channel_softmax=True)
    assert correlation(option.explain(batch, classes).map, theirs) > 0.98


def test_random_cam_of_both_weighs_channels_between_minus_one_and_one(peers, asked):
    model, batch, _ = asked
    np.random.seed(0)
    drawn = of_grad_cam(peers, "RandomCAM", asked, LAST)
    again = of_grad_cam(peers, "RandomCAM", asked, LAST)
    assert np.abs(drawn - again).max() > 0.1  # theirs is another in every call
    cam = camlib.RandomCAM(model, LAST)
    assert torch.equal(cam(batch), cam(batch))


def rectified(model: nn.Module) -> nn.Module:
    """A copy with ReLU in place of ReLU6, which the peers' rules do not see."""
    twin = copy.deepcopy(model)
    for module in twin.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU6):
                setattr(module, name, nn.ReLU())
    return twin


@pytest.mark.parametrize(
    ("name", "kind"),
    [("GuidedBackprop", camlib.GuidedBackprop), ("Deconvolution", camlib.Deconvnet)],
)
def test_rules_equal_those_of_captum_once_every_relu6_is_a_relu(peers, asked, name, kind):
    model, batch, classes = rectified(asked[0]), asked[1][:2], asked[2][:2]
    theirs = getattr(peers["captum"], name)(model).attribute(batch, target=classes.tolist())
    assert_near(kind(model)(batch, classes), theirs.detach())


def test_guided_backprop_equals_that_of_grad_cam_once_every_relu6_is_a_relu(peers, asked):
    model, batch, label = rectified(asked[0]), asked[1][:1], int(asked[2][0])
    found = camlib.GuidedBackprop(model)(batch, label)
    peer = peers["grad-cam"].GuidedBackpropReLUModel(model, torch.device("cpu"))
    theirs = torch.tensor(peer(batch.clone(), label)).permute(2, 0, 1)[None]
    assert_near(found, theirs)


def test_guided_grad_cam_equals_that_of_captum_in_bilinear_mode_once_it_is_a_relu(peers, asked):
    model, batch, classes = rectified(asked[0]), asked[1][:2], asked[2][:2]
    peer = peers["captum"].GuidedGradCam(model, model.get_submodule(LAST))
    theirs = peer.attribute(batch, target=classes.tolist(), interpolate_mode="bilinear").detach()
    found = camlib.GuidedGradCAM(model, LAST)(batch, classes)
    assert_near(found, theirs)
    nearest = peer.attribute(batch, target=classes.tolist()).detach()
    assert (nearest - theirs).abs().max() > 0.1 * theirs.abs().max()


def test_captum_and_grad_cam_return_the_plain_gradient_of_a_network_of_relu6(peers, asked):
    model, batch = asked[0], asked[1][:1]
    gradient = camlib.Saliency(model)(batch, 0)
    theirs = peers["captum"].GuidedBackprop(model).attribute(batch, target=0)
    torch.testing.assert_close(theirs, gradient)
    theirs = peers["captum"].Deconvolution(model).attribute(batch, target=0)
    torch.testing.assert_close(theirs, gradient)
    other = peers["grad-cam"].GuidedBackpropReLUModel(model, torch.device("cpu"))(batch, 0)
    torch.testing.assert_close(torch.tensor(other).permute(2, 0, 1)[None], gradient)
    model.zero_grad()
    assert correlation(camlib.GuidedBackprop(model)(batch, 0), gradient) < 0.5


def test_saliency_and_input_times_gradient_equal_those_of_captum(peers, asked):
    model, batch, classes = asked
    captum, label = peers["captum"], classes.tolist()
    theirs = captum.Saliency(model).attribute(batch, target=label)
    assert_near(camlib.Saliency(model)(batch, classes).abs(), theirs)
    theirs = captum.Saliency(model).attribute(batch, target=label, abs=False)
    assert_near(camlib.Saliency(model)(batch, classes), theirs)
    theirs = captum.InputXGradient(model).attribute(batch, target=label).detach()
    assert_near(camlib.InputXGradient(model)(batch, classes), theirs)


@pytest.mark.filterwarnings("ignore:integrated gradients with:camlib.CamlibWarning")
def test_integrated_gradients_equal_those_of_captum(peers, asked):
    model, batch, classes = asked[0], asked[1][:2], asked[2][:2]
    theirs = (
        peers["captum"]
        .IntegratedGradients(model)
        .attribute(batch, target=classes.tolist(), n_steps=16, method="gausslegendre")
    )
    assert_near(
        camlib.IntegratedGradients(model, steps=16)(batch, classes), theirs.detach().float()
    )


def test_smooth_grad_without_noise_is_the_gradient_in_both(peers, asked):
    model, batch, classes = asked[0], asked[1][:1], asked[2][:1]
    tunnel = peers["captum"].NoiseTunnel(peers["captum"].Saliency(model))
    theirs = tunnel.attribute(batch, stdevs=0.0, nt_samples=2, target=classes.tolist(), abs=False)
    found = camlib.SmoothGrad(model, samples=2, sigma=0.0)(batch, classes)
    assert_near(found, theirs.detach())


def test_occlusion_and_ablation_of_features_equal_those_of_captum(peers, asked):
    model, batch, classes = asked[0], asked[1][:1], asked[2][:1]
    captum, label = peers["captum"], classes.tolist()
    peer = captum.Occlusion(model)
    theirs = peer.attribute(
        batch, (3, 56, 56), (3, 28, 28), target=label, perturbations_per_eval=16
    )
    cam = camlib.Occlusion(model, window=56, stride=28, score="logit")
    found = cam(batch, classes, normalize=False)
    assert_near(found[:, None].expand_as(theirs), theirs)
    cells = torch.arange(16).reshape(4, 4).repeat_interleave(56, 0).repeat_interleave(56, 1)
    theirs = captum.FeatureAblation(model).attribute(
        batch, target=label, feature_mask=cells[None, None]
    )
    cam = camlib.Occlusion(model, window=56, stride=56, score="logit")
    assert_near(cam(batch, classes, normalize=False)[:, None].expand_as(theirs), theirs)


def psi(term: Tensor, *, jointly: bool) -> Tensor:
    """A term of FullGrad ``(1, C, h, w)`` as a picture ``(1, 224, 224)``."""
    size = term.abs()
    axes = (1, 2, 3) if jointly else (2, 3)
    size = size - size.amin(axes, keepdim=True)
    peak = size.amax(axes, keepdim=True)
    size = size / (peak + 1e-7)
    return F.interpolate(size, (224, 224), mode="bilinear", align_corners=False).sum(1)


# ReLU6 cuts at 6, which is no bias: the terms do not sum to the score, whoever takes them.
@pytest.mark.filterwarnings("ignore:FullGrad does not account for:camlib.CamlibWarning")
def test_full_grad_scales_each_term_here_and_in_grad_cam_each_channel(peers, asked):
    model, batch, classes = asked[0], asked[1][:1], asked[2][:1]
    terms = camlib.FullGrad(model).terms(batch, classes)
    drawn = [term for term in terms if term.ndim == 4]
    found = camlib.FullGrad(model)(batch, classes)
    paper = maps.normalize(sum(psi(term, jointly=True) for term in drawn)[:, None])[:, 0]
    assert (found - paper).abs().max() < 1e-3
    with peers["grad-cam"].FullGrad(model, []) as peer:
        theirs = peer(batch, [peers["target"](int(classes))])
    model.zero_grad()
    # Those of a subclass of nn.Conv2d it leaves out.
    plain = [type(m) is nn.Conv2d for m in model.modules() if isinstance(m, nn.Conv2d)]
    seen = [term for term, kept in zip(drawn, [True, *plain], strict=True) if kept]
    assert len(seen) < len(drawn)
    shown = maps.normalize(sum(psi(term, jointly=False) for term in seen)[:, None])[:, 0]
    assert np.abs(theirs - shown.numpy()).max() < 1e-3
    assert np.abs(theirs - paper.numpy()).max() > 0.05


def test_contrast_is_finer_cam_whose_weights_grad_cam_leaves_in_the_graph(peers, asked):
    model, batch, classes = asked[0], asked[1][:2], asked[2][:2]
    others = model(batch).topk(4).indices[:, 1:]
    contrast = targets.Contrast(classes, others)
    found = camlib.GradCAM(model, LAST).explain(batch, contrast).map
    for number in range(2):
        label, beside = int(classes[number]), others[number].tolist()

        def finer(output: Tensor, *, attached: bool, label=label, beside=beside) -> Tensor:
            chance = output.softmax(1)[:, beside]
            chance = chance if attached else chance.detach()
            apart = output[:, [label]] - output[:, beside]
            return (chance * apart).sum(1) / (chance.sum(1) + 1e-9)

        image = batch[[number]]
        by_hand = {
            attached: camlib.GradCAM(model, LAST)
            .explain(image, lambda out, a=attached, f=finer: f(out, attached=a))
            .map
            for attached in (False, True)
        }
        assert_near(found[[number]], by_hand[False])
        target = peers["targets"].FinerWeightedTarget(label, beside, 1)
        with peers["grad-cam"].FinerCAM(model, [model.get_submodule(LAST)]) as peer:
            theirs = peer(input_tensor=image, targets=[target])
        model.zero_grad()
        assert np.abs(theirs - as_grad_cam_scales(by_hand[True], 224)).max() < 1e-4
        assert np.abs(theirs - as_grad_cam_scales(by_hand[False], 224)).max() > 0.01


def test_finer_cam_of_torchcam_takes_the_plain_mean_of_the_nearest(peers, asked):
    model, batch, classes = asked[0], asked[1][:2], asked[2][:2]
    with peers["torchcam"].FinerCAM(model, LAST) as peer:
        [theirs] = peer(classes.tolist(), model(batch), normalized=False)
    cam = camlib.GradCAM(model, LAST)
    nearest = targets.Contrast(classes, nearest=3).resolve(model(batch).detach(), 2, (224, 224))
    others = nearest.others[:, 0]

    def plain(output: Tensor) -> Tensor:
        own = output.gather(1, classes[:, None])[:, 0]
        return own - 0.6 * output.gather(1, others).mean(1)

    assert_near(cam.explain(batch, plain).map, theirs)
    weighed = cam.explain(batch, targets.Contrast(classes, nearest=3, strength=0.6)).map
    assert (weighed - theirs).abs().max() > 0.01 * theirs.abs().max()


def test_targets_of_grad_cam_have_their_like(peers, asked):
    model, batch, classes = asked[0], asked[1][:1], asked[2][:1]
    label, kinds = int(classes), peers["targets"]
    pairs = [
        (kinds.ClassifierOutputTarget(label), label),
        (kinds.ClassifierOutputSoftmaxTarget(label), targets.Probability(label)),
        (
            kinds.ClassifierOutputReST(label),
            lambda out: out[:, label] + out.log_softmax(1)[:, label],
        ),
    ]
    for theirs, ours in pairs:
        found = camlib.GradCAM(model, RECTIFIED).explain(batch, ours).map
        with peers["grad-cam"].GradCAM(model, [model.get_submodule(RECTIFIED)]) as peer:
            shown = peer(batch, [theirs])
        model.zero_grad()
        assert np.abs(as_grad_cam_scales(found, 224) - shown).max() < 1e-4


def test_mean_over_layers_divides_each_map_by_its_largest_value_as_grad_cam_does(peers, asked):
    model, batch, classes = asked
    names = [RECTIFIED, LAST]
    with peers["grad-cam"].GradCAM(model, [model.get_submodule(name) for name in names]) as peer:
        theirs = peer(batch, [peers["target"](int(c)) for c in classes])
    model.zero_grad()
    apart = [
        as_grad_cam_scales(camlib.GradCAM(model, name).explain(batch, classes).map, 224)
        for name in names
    ]
    scaled = maps.normalize(torch.tensor(apart[0] + apart[1])[:, None])[:, 0].numpy()
    assert np.abs(theirs - scaled).max() < 0.05
    found = camlib.GradCAM(model, names)(batch, classes)
    assert correlation(found, torch.tensor(theirs)) > 0.99


def test_concepts_of_grad_cam_leave_as_much_and_name_the_same_classes(peers, asked):
    model, batch, _ = asked
    found = camlib.DeepFeatureFactorization(model, LAST, concepts=5)(batch)
    peer = peers["grad-cam"].DeepFeatureFactorization(model, model.get_submodule(LAST))
    concepts, _ = peer(batch, n_components=5)
    activation, _ = activation_and_gradient(model, LAST, batch, asked[2])
    rows = activation.flatten(2).mT.flatten(0, 1)
    theirs = torch.tensor(concepts).double().mT
    best = torch.linalg.lstsq(theirs.mT, rows.mT).solution.clamp(min=0).mT
    left = float((rows - best @ theirs).norm() / rows.norm())
    assert found.error < left + 0.01
    label = model.classifier[1]
    named = label(theirs.float()).argmax(1).tolist()
    assert len(set(named) & set(found.scores.argmax(1).tolist())) >= 3


def test_layers_are_listed_where_torchcam_finds_one(peers, asked):
    model, batch, _ = asked
    with peers["torchcam"].GradCAM(model) as peer:
        [theirs] = peer.target_names
    default = [layer.name for layer in layers.candidates(model, batch[:1]) if layer.default]
    activation, _ = activation_and_gradient(model, theirs, batch[:1], asked[2][:1])
    own, _ = activation_and_gradient(model, default[0], batch[:1], asked[2][:1])
    assert_near(own, activation)
