"""What is measured: networks, and one call of one method of one library on them.

A case is named ``"library method"``, ``"camlib grad_cam"``; `plain` is the model alone. Each gets a
`Setting` ready and returns what is to be timed. Libraries are imported where they are used; one
that is missing, or cannot do it, is a row that says so.
"""

from __future__ import annotations

import copy
import importlib.util
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Call = Callable[[], object]
"""What is timed."""

SHARED = Path(__file__).parents[2] / "shared" / "data"
"""A real network and real images, where they are."""

LAST = {
    "resnet18": "layer4",
    "resnet50": "layer4",
    "mobilenet_v2": "features.18",
    "efficientnet_b0": "features.8",
    "convnext_tiny": "features.7",
    "swin_t": "norm",
    "vgg16": "features.29",
    "vit_b_16": "encoder.layers.encoder_layer_11.ln_1",
}
"""The networks, and the last layer of each that has a grid and a gradient."""


@dataclass(frozen=True)
class Setting:
    """One network, the layers of it that are explained, and the images it gets."""

    model: str = "resnet50"
    layers: tuple[str, ...] = ()
    batch: int = 8
    size: int = 224
    classes: int = 1
    device: str = "cpu"

    @property
    def where(self) -> list[str]:
        """The layers; the last one if none is given."""
        return list(self.layers) or [LAST[self.model]]

    def network(self) -> nn.Module:
        """The network in evaluation mode: trained where that is here, else random."""
        if self.model == "mobilenet_v2" and SHARED.is_dir():
            return _trained("mobilenet_v2_imagenet").load().eval().to(self.device)
        import torchvision

        torch.manual_seed(0)
        model: nn.Module = torchvision.models.get_model(self.model, weights=None)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.1)
            elif isinstance(module, nn.Linear) and not module.weight.any():
                nn.init.normal_(module.weight, 0, 0.05)  # the heads of transformers start at 0
        return model.eval().to(self.device)

    def images(self) -> Tensor:
        """Random images ``(batch, 3, size, size)``."""
        generator = torch.Generator().manual_seed(1)
        images = torch.randn(self.batch, 3, self.size, self.size, generator=generator)
        return images.to(self.device)

    def targets(self) -> list[Any]:
        """A class for each image, or the same `classes` for all."""
        if self.classes > 1:
            return [list(range(self.classes))]
        return [(7 * n) % 1000 for n in range(self.batch)]


def plain(setting: Setting) -> Call:
    """The model alone, without a graph."""
    model, images = setting.network(), setting.images()
    return torch.no_grad()(lambda: model(images))


def plain_measuring(setting: Setting) -> Call:
    """A plain pass of what the library runs to measure where layers look: two copies an axis."""
    model = setting.network()
    copies = 6 if setting.batch == 5 else 5
    images = setting.images()[:1].expand(copies, -1, -1, -1).contiguous()
    return torch.no_grad()(lambda: model(images))


def plain_masks(setting: Setting, batch_size: int = 32) -> Call:
    """As many plain passes as Score-CAM has masks: one for each channel that is not constant."""
    from camlib import maps
    from camlib.passes.capture import capture

    model, images = setting.network(), setting.images()
    with torch.no_grad(), capture(model, setting.where, graph="none") as seen:
        model(images)
    [activation] = seen.activations()
    masks = int((~maps.flat(activation)).sum())
    chunk = images[:1].expand(batch_size, -1, -1, -1).contiguous()

    @torch.no_grad()
    def call() -> object:
        for start in range(0, masks, batch_size):
            model(chunk[: min(batch_size, masks - start)])
        return model(images)

    return call


FRESH = 16
"""How many first calls a case has: each needs a network that no call has seen."""


def _fresh(setting: Setting, call: Callable[[nn.Module], object]) -> Call:
    """`call` on another copy of the network each time; the copies share their weights."""
    model = setting.network()
    weights = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    copies = [copy.deepcopy(model, dict(weights)) for _ in range(FRESH)]
    return lambda: call(copies.pop())


def _camlib(setting: Setting, method: str) -> Call:
    from camlib import METHODS, GradCAM, LayerMethod
    from camlib.methods import GuidedGradCAM

    if method == "first":
        images = setting.images()
        # Of the predicted class: advice where a map is zero, as of another one, takes passes.
        return _fresh(setting, lambda model: GradCAM(model)(images))
    kind: Any = METHODS[method]
    options: dict[str, Any] = {"batch_size": 32} if method == "score_cam" else {}
    if issubclass(kind, LayerMethod | GuidedGradCAM):
        options["layer"] = setting.where
    explain = kind(setting.network(), **options)
    images, targets = setting.images(), setting.targets()
    return lambda: explain(images, targets)


def _torchcam(setting: Setting, method: str) -> Call:
    from torchcam import methods

    if method == "first":
        images, targets, shape = setting.images(), setting.targets(), (3, *[setting.size] * 2)

        def call(model: nn.Module) -> object:
            return methods.GradCAM(model, input_shape=shape)(targets, model(images))

        return _fresh(setting, call)
    kind = getattr(methods, {"grad_cam": "GradCAM", "score_cam": "ScoreCAM"}[method])
    model, images, targets = setting.network(), setting.images(), setting.targets()
    cam = kind(model, setting.where[0], input_shape=(3, setting.size, setting.size))
    return lambda: cam(targets, model(images))


def _captum(setting: Setting, method: str) -> Call:
    from captum import attr

    model, images, targets = setting.network(), setting.images(), setting.targets()
    if method != "grad_cam":
        name = {"guided_backprop": "GuidedBackprop", "deconvnet": "Deconvolution"}[method]
        pixels = getattr(attr, name)(model)
        return lambda: pixels.attribute(images.clone(), target=targets)
    cam = attr.LayerGradCam(model, model.get_submodule(setting.where[0]))

    def call() -> object:
        found = cam.attribute(images, target=targets, relu_attributions=True)
        return attr.LayerAttribution.interpolate(found, (setting.size, setting.size), "bilinear")

    return call


def _grad_cam(setting: Setting, method: str) -> Call:
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    kind = getattr(
        pytorch_grad_cam,
        {"grad_cam": "GradCAM", "ablation_cam": "AblationCAM", "score_cam": "ScoreCAM"}[method],
    )
    model, images = setting.network(), setting.images()
    layers = [model.get_submodule(name) for name in setting.where]
    # What a user of these networks has to write for that library.
    reshape = {"vit_b_16": _patches, "swin_t": lambda found: found.permute(0, 3, 1, 2)}
    cam = kind(model, layers, reshape_transform=reshape.get(setting.model))
    targets = [ClassifierOutputTarget(index) for index in setting.targets()]
    return lambda: cam(images, targets)


def _patches(tokens: Tensor) -> Tensor:
    side = math.isqrt(tokens.shape[1] - 1)
    return tokens[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)


LIBRARIES: dict[str, Callable[[Setting, str], Call]] = {
    "camlib": _camlib,
    "torchcam": _torchcam,
    "captum": _captum,
    "grad-cam": _grad_cam,
}
"""How each library is called; what each returns it returns as a user gets it."""

PLAIN = {
    "plain inference": plain,
    "plain masked passes": plain_masks,
    "the measuring passes": plain_measuring,
}


def prepared(case: str, setting: Setting) -> Call:
    """What is timed for `case`; the warnings of other libraries are not ours to show."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if case in PLAIN:
            call = PLAIN[case](setting)
        else:
            library, method = case.split()
            call = LIBRARIES[library](setting, method)
    if not setting.device.startswith("cuda"):
        return call

    def synchronized() -> object:
        result = call()
        torch.cuda.synchronize()
        return result

    return synchronized


def checked(result: object, setting: Setting) -> None:
    """An error, if what a library returned cannot be a map for each image."""
    found = result[0] if isinstance(result, list) else result
    shape = tuple(getattr(found, "shape", ()))
    if not shape or shape[0] != setting.batch or len(shape) < 3 or min(shape[-2:]) < 2:
        raise ValueError(f"returned {shape}, which is no map for each of {setting.batch} images")


def _trained(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, SHARED / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def overlays(library: str, dtype: torch.dtype, count: int = 64, size: int = 224) -> Call:
    """`count` images under their heatmaps, tensors of `dtype` in and out."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, size, size, generator=generator)
    eight_bits = dtype == torch.uint8
    images = (images * 255).to(dtype) if eight_bits else images
    heatmaps = torch.rand(count, 7, 7, generator=generator)
    if library == "camlib":
        from camlib import overlay

        return lambda: overlay(images, heatmaps)
    if library == "grad-cam":
        import cv2
        from pytorch_grad_cam.utils.image import show_cam_on_image

        cv2.setNumThreads(torch.get_num_threads())

        def shown(image: Tensor, heatmap: Tensor) -> Tensor:
            pixels = (image / 255 if eight_bits else image).permute(1, 2, 0).numpy()
            array = show_cam_on_image(pixels, cv2.resize(heatmap.numpy(), (size, size)))
            found = torch.from_numpy(array).permute(2, 0, 1)
            return found if eight_bits else found / 255

        return lambda: torch.stack([shown(*each) for each in zip(images, heatmaps, strict=True)])
    from torchcam.utils import overlay_mask
    from torchvision.transforms.functional import pil_to_tensor, to_pil_image, to_tensor

    back = pil_to_tensor if eight_bits else to_tensor

    return lambda: torch.stack(
        [
            back(overlay_mask(to_pil_image(image), to_pil_image(heatmap, mode="F"), alpha=0.5))
            for image, heatmap in zip(images, heatmaps, strict=True)
        ]
    )
