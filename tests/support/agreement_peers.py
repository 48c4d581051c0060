"""How far maps of camlib are from those of the libraries that others come from.

Each case computes both on the built-in network and three scenes: what theirs returns, and what the
class beside it in `docs/migrating.md` returns with the options named there, on the same scale.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from case import drawn
from peer import as_grad_cam_scales
from torch import Tensor, nn

import camlib
from camlib import maps, targets, zoo
from camlib.passes.capture import capture

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


def same(section: str, case_of: str, *names: str) -> None:
    """Further `names` of the page that the case of `case_of` has in it, such as its options."""
    for name in names:
        CASES[section, name] = CASES[section, case_of]


same("grad-cam", "GradCAM", "input_tensor", "ClassifierOutputTarget")


@case("grad-cam", "targets")
def mixed_targets(peers: Any) -> Pair:
    """A target for each image."""
    net, labels = model(), [3, 0, 6]
    asked = [peers["target"](label) for label in labels]
    theirs = tensor(peers["grad-cam"].GradCAM(net, [net.get_submodule(LAYER)])(scenes(), asked))
    found = camlib.GradCAM(model(), LAYER).explain(scenes(), labels).map
    return theirs, tensor(as_grad_cam_scales(found, SIZE))


def of_target(peers: Any, theirs: Any, ours: Any, net: nn.Module | None = None) -> Pair:
    """Grad-CAM of a target of theirs for one image, and of one of ours."""
    net = net or model()
    peer = peers["grad-cam"].GradCAM(net, [net.get_submodule(LAYER)])
    found = camlib.GradCAM(net, LAYER).explain(scenes(1), ours).map
    return tensor(peer(scenes(1), [theirs])), tensor(as_grad_cam_scales(found, SIZE))


@case("grad-cam", "ClassifierOutputSoftmaxTarget")
def softmax_target(peers: Any) -> Pair:
    theirs = peers["targets"].ClassifierOutputSoftmaxTarget(int(classes(1)))
    return of_target(peers, theirs, targets.Probability(classes(1)))


@case("grad-cam", "ClassifierOutputReST")
def rest_target(peers: Any) -> Pair:
    label = int(classes(1))
    theirs = peers["targets"].ClassifierOutputReST(label)
    return of_target(peers, theirs, lambda out: out[:, label] + out.log_softmax(1)[:, label])


class OneOutput(nn.Module):
    """The difference of two outputs of the built-in network, as a binary classifier has it."""

    def __init__(self) -> None:
        super().__init__()
        net = model()
        self.features, self.net = net.features, net

    def forward(self, images: Tensor) -> Tensor:
        output = self.net(images)
        return output[:, :1] - output[:, 1:2]


@case("grad-cam", "BinaryClassifierOutputTarget")
def binary_target(peers: Any) -> Pair:
    return of_target(peers, peers["targets"].BinaryClassifierOutputTarget(0), 0, OneOutput().eval())


@case("grad-cam", "RawScoresOutputTarget")
def regression_target(peers: Any) -> Pair:
    net = OneOutput().eval()
    peer = peers["grad-cam"].GradCAM(net, [net.get_submodule(LAYER)])
    theirs = tensor(peer(scenes(), [peers["targets"].RawScoresOutputTarget()] * 3))
    found = camlib.GradCAM(net, LAYER).explain(scenes(), targets.Regression()).map
    return theirs, tensor(as_grad_cam_scales(found.relu(), SIZE))


class Dense(nn.Module):
    """The built-in network, answering at every place of its last grid."""

    def __init__(self) -> None:
        super().__init__()
        net = model()
        self.features, self.classifier = net.features, net.classifier

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).movedim(1, -1)).movedim(-1, 1)


@case("grad-cam", "SemanticSegmentationTarget")
def segment_target(peers: Any) -> Pair:
    net, label = Dense().eval(), int(classes(1))
    mask = np.zeros((SIZE // 8, SIZE // 8), dtype=np.float32)
    mask[3:8, 2:9] = 1
    theirs = peers["targets"].SemanticSegmentationTarget(label, mask)
    return of_target(peers, theirs, targets.Segment(label, torch.from_numpy(mask)), net)


@case("grad-cam", "reshape_transform")
def tokens(peers: Any) -> Pair:
    """On a small vision transformer of torchvision, at the first norm of its last block."""
    net, layer = vision_transformer(), "encoder.layers.encoder_layer_1.ln_1"

    def reshape(found: Tensor) -> Tensor:
        return found[:, 1:].reshape(len(found), 4, 4, -1).permute(0, 3, 1, 2)

    kind = peers["grad-cam"].GradCAM
    peer = kind(net, [net.get_submodule(layer)], reshape_transform=reshape)
    images = scenes()[..., ::3, ::3]
    theirs = tensor(peer(images, [peers["target"](2)] * len(images)))
    found = camlib.GradCAM(net, layer).explain(images, 2).map
    return theirs, tensor(as_grad_cam_scales(found, 32))


def vision_transformer() -> nn.Module:
    from torchvision.models.vision_transformer import VisionTransformer

    net = VisionTransformer(
        image_size=32,
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=32,
        mlp_dim=64,
        num_classes=8,
    )
    return drawn(net)


@case("grad-cam", "batch_size")
def batches(peers: Any) -> Pair:
    net = model()
    peer = peers["grad-cam"].AblationCAM(net, [net.get_submodule(LAYER)], batch_size=5)
    theirs = tensor(peer(scenes(), [peers["target"](int(c)) for c in classes()]))
    return theirs, scaled(camlib.AblationCAM(model(), LAYER, batch_size=5))


@case("grad-cam", "ActivationsAndGradients")
def seen(peers: Any) -> Pair:
    """The activation and its gradient, one after the other."""
    net, labels = model(), classes()
    kept = peers["grad-cam"].ActivationsAndGradients(net, [net.get_submodule(LAYER)], None)
    kept(scenes()).gather(1, labels[:, None]).sum().backward()
    theirs = torch.cat([tensor(kept.activations[0]), tensor(kept.gradients[0])])
    kept.release()
    net = model()
    with capture(net, [LAYER]) as own:
        output = net(scenes())
    [[gradient]] = own.gradients(output.gather(1, labels[:, None]))
    return theirs, torch.cat([tensor(own.activations()[0]), tensor(gradient[0])])


@case("grad-cam", "scale_cam_image")
def scaled_images(peers: Any) -> Pair:
    from pytorch_grad_cam.utils.image import scale_cam_image

    found = camlib.GradCAM(model(), LAYER).explain(scenes(), classes()).map
    return tensor(scale_cam_image(found.numpy())), maps.normalize(found[:, None])[:, 0]


@case("grad-cam", "deprocess_image")
def shown_attribution(peers: Any) -> Pair:
    from pytorch_grad_cam.utils.image import deprocess_image

    [found] = camlib.GuidedBackprop(model())(scenes(1), classes(1))
    theirs = torch.from_numpy(deprocess_image(found.permute(1, 2, 0).numpy()))
    return theirs.permute(2, 0, 1), camlib.to_image(found)


@case("grad-cam", "show_cam_on_image")
def picture(peers: Any) -> Pair:
    """Theirs is divided by its largest value in the end; both from 0 to 1."""
    from pytorch_grad_cam.utils.image import show_cam_on_image

    image, [found] = zoo.scene(seed=3, size=SIZE).image, camlib.GradCAM(model(), LAYER)(scenes(1))
    theirs = show_cam_on_image(image.permute(1, 2, 0).numpy(), found.numpy(), use_rgb=True)
    ours = camlib.overlay(image, found)
    return tensor(theirs).permute(2, 0, 1) / 255, ours / ours.max()


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


same("grad-cam", "FinerCAM", "FinerWeightedTarget", "base_method")


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


@case("torchcam", "SmoothGradCAMpp")
def smooth(peers: Any) -> Pair:
    """Of one image, with the draws of camlib in both."""
    net, image, samples, share = model(), scenes(1), 4, 0.15
    spread_ = float(share * (image.max() - image.min()))
    noise = torch.randn(samples, *image.shape, generator=torch.Generator().manual_seed(0))
    draws = iter(spread_ * noise)
    with peers["torchcam"].SmoothGradCAMpp(
        net, LAYER, samples, spread_, input_shape=(3, SIZE, SIZE)
    ) as peer:
        peer._distrib = SimpleNamespace(sample=lambda _: next(draws))
        theirs = tensor(peer(classes(1).tolist(), net(image), normalized=False)[0])
    method = camlib.SmoothGradCAMPlusPlus(model(), LAYER, samples=samples, sigma=share)
    return peaked(theirs), peaked(method.explain(image, classes(1)).map)


@case("torchcam", "SSCAM")
def noisy_masks(peers: Any) -> Pair:
    """Of one image, with the draws of camlib in both, the same for every channel."""
    net, image, samples = model(), scenes(1), 3
    noise = torch.randn(samples, 1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    draws = iter(2 * noise)
    with peers["torchcam"].SSCAM(
        net, LAYER, num_samples=samples, input_shape=(3, SIZE, SIZE)
    ) as peer:
        peer._distrib = SimpleNamespace(sample=lambda _: next(draws))
        theirs = tensor(peer(classes(1).tolist(), net(image), normalized=False)[0])
    method = camlib.SSCAM(model(), LAYER, samples=samples, score="logit", channel_softmax=True)
    return peaked(theirs), peaked(method.explain(image, classes(1)).map)


@case("torchcam", "ISCAM")
def masks_from_faint_to_full(peers: Any) -> Pair:
    """Of one image."""
    net = model()
    with peers["torchcam"].ISCAM(net, LAYER, input_shape=(3, SIZE, SIZE)) as peer:
        theirs = tensor(peer(classes(1).tolist(), net(scenes(1)), normalized=False)[0])
    method = camlib.ISCAM(model(), LAYER, score="logit", channel_softmax=True, cumulative=True)
    return peaked(theirs), peaked(method.explain(scenes(1), classes(1)).map)


@case("torchcam", "LeGrad")
def le_grad(peers: Any) -> Pair:
    """On a small vision transformer of torchvision, of all its blocks."""
    net, images = vision_transformer(), scenes()[..., ::3, ::3]
    with peers["torchcam"].LeGrad(net, list(net.encoder.layers)) as peer:
        theirs = tensor(peer([2, 0, 5], net(images), normalized=False)[0])
    method = camlib.LeGrad(vision_transformer())
    return peaked(theirs), peaked(method.explain(images, [2, 0, 5]).map)


@case("torchcam", "targets")
def function_of_output(peers: Any) -> Pair:
    net = model()
    with peers["torchcam"].GradCAM(net, LAYER, input_shape=(3, SIZE, SIZE)) as peer:
        theirs = peer(scores=net(scenes()), targets=lambda row: row[2] - row[5], normalized=False)
    found = camlib.GradCAM(model(), LAYER).explain(scenes(), lambda out: out[:, 2] - out[:, 5])
    return tensor(theirs[0]), found.map


@case("torchcam", "normalized")
def normalized(peers: Any) -> Pair:
    net = model()
    with peers["torchcam"].GradCAM(net, LAYER, input_shape=(3, SIZE, SIZE)) as peer:
        theirs = tensor(peer(classes().tolist(), net(scenes()))[0])
    return theirs, camlib.GradCAM(model(), LAYER, resize=False)(scenes(), classes())


same("torchcam", "GradCAM", "target_layer", "class_idx")
same("torchcam", "ScoreCAM", "batch_size")
same("torchcam", "SmoothGradCAMpp", "num_samples")
same("torchcam", "LeGrad", "score_projection")


@case("torchcam", "FinerCAM")
def finer_of_torchcam(peers: Any) -> Pair:
    net = model()
    with peers["torchcam"].FinerCAM(net, LAYER, input_shape=(3, SIZE, SIZE)) as peer:
        theirs = tensor(peer(classes().tolist(), net(scenes()), normalized=False)[0])
    target = targets.Contrast(classes(), strength=0.6)
    return peaked(theirs), peaked(camlib.GradCAM(model(), LAYER).explain(scenes(), target).map)


same("torchcam", "FinerCAM", "base_method", "gamma")


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


same("torchcam", "fuse_cams", "target_shape")
