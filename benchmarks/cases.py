"""What is measured: networks with random weights, and the same map by each library.

A case is a function that gets a `Setting` ready and returns what is to be timed. Libraries are
imported where they are used; one that is missing, or cannot do it, is a row that says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Call = Callable[[], object]
"""What is timed."""


@dataclass(frozen=True)
class Setting:
    """One network, its layer, and the images it gets."""

    model: str
    layer: str
    batch: int
    size: int

    def network(self) -> nn.Module:
        """The network of torchvision of that name, in evaluation mode."""
        import torchvision

        torch.manual_seed(0)
        model: nn.Module = torchvision.models.get_model(self.model, weights=None)
        return model.eval()

    def images(self) -> Tensor:
        """Random images ``(batch, 3, size, size)``."""
        generator = torch.Generator().manual_seed(1)
        return torch.randn(self.batch, 3, self.size, self.size, generator=generator)

    def classes(self) -> list[int]:
        """A class for each image."""
        return [(7 * n) % 1000 for n in range(self.batch)]


def inference(setting: Setting) -> Call:
    model, images = setting.network(), setting.images()

    @torch.no_grad()
    def call() -> object:
        return model(images)

    return call


def camlib_grad_cam(setting: Setting) -> Call:
    from camlib import GradCAM

    cam, images, classes = GradCAM(setting.network(), setting.layer), *_given(setting)
    return lambda: cam(images, classes)


def camlib_classes(setting: Setting, count: int) -> Call:
    """The first `count` classes for every image."""
    from camlib import GradCAM

    cam, images = GradCAM(setting.network(), setting.layer), setting.images()
    return lambda: cam(images, [list(range(count))])


def grad_cam_grad_cam(setting: Setting) -> Call:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model = setting.network()
    cam, images, classes = GradCAM(model, [model.get_submodule(setting.layer)]), *_given(setting)
    targets = [ClassifierOutputTarget(index) for index in classes]
    return lambda: cam(images, targets)


def torchcam_grad_cam(setting: Setting) -> Call:
    from torchcam.methods import GradCAM

    model, (images, classes) = setting.network(), _given(setting)
    cam = GradCAM(model, setting.layer, input_shape=(3, setting.size, setting.size))
    return lambda: cam(classes, model(images))


def captum_grad_cam(setting: Setting) -> Call:
    from captum.attr import LayerAttribution, LayerGradCam

    model, (images, classes) = setting.network(), _given(setting)
    cam = LayerGradCam(model, model.get_submodule(setting.layer))

    def call() -> object:
        found = cam.attribute(images, target=classes, relu_attributions=True)
        return LayerAttribution.interpolate(found, (setting.size, setting.size), "bilinear")

    return call


BASELINE = "plain inference"

CASES: dict[str, Callable[[Setting], Call]] = {
    BASELINE: inference,
    "camlib": camlib_grad_cam,
    "torchcam": torchcam_grad_cam,
    "captum": captum_grad_cam,
    "grad-cam": grad_cam_grad_cam,
}
"""Grad-CAM by each library; what each returns it returns as a user gets it."""


def prepared(case: str, setting: Setting) -> Call:
    """What is timed for `case`; the warnings of other libraries are not ours to show."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CASES[case](setting)


def _given(setting: Setting) -> tuple[Tensor, list[int]]:
    return setting.images(), setting.classes()
