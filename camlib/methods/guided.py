"""Guided Grad-CAM: what a class is seen by, at the resolution of the input."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from camlib import maps
from camlib.errors import NOT_FINITE, InputError
from camlib.methods.base import Method
from camlib.methods.gradient import GradCAM
from camlib.methods.layer import LayerMethod
from camlib.options import checked
from camlib.passes.forward import Pass, image_gradients
from camlib.passes.inputs import Inputs
from camlib.passes.names import Layers
from camlib.results import Explanation
from camlib.rules.relu import Rectifying, without_recomputation

__all__ = ["GuidedGradCAM"]


class GuidedGradCAM(Method):
    """Guided Grad-CAM: guided backpropagation times Grad-CAM, for the same class.

    Selvaraju et al., ICCV 2017, arXiv:1610.02391. Grad-CAM follows the ordinary gradient; its map,
    rectified and resized bilinearly, multiplies every colour as it is, in units of the score: a
    scale to [0, 1] would take its minimum away. For a picture of what the class was seen by. It
    inherits the weakness of guided backpropagation: what is sharp in it hardly depends on the
    class, only where it is.

    Both halves come from one forward pass. Any other map of a layer can stand for Grad-CAM, such as
    ``cam=LayerCAM`` for early layers; a method that runs the model again, as Score-CAM, still does.

    Args:
        layer: a module of `model`, its dotted name, a list of either, or ``None`` for the default.
        cam: the kind of map to multiply with, a `LayerMethod`.
        generalize: other activation functions pass back ``max(R_out, 0)`` as well.
        options: of `cam`, but for how its maps are shown: they are rectified and not scaled.

    Raises:
        InputError: the maps of `cam` are not fused, with ``fuse=None``, or how they are shown is
            given.
    """

    name = "guided_grad_cam"
    cost = "1 forward, 1 backward, 1 backward of what follows the layer"
    averageable = False
    scaled = False
    linear = False

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        cam: type[LayerMethod] = GradCAM,
        generalize: bool = False,
        **options: Any,
    ) -> None:
        # A factor: what speaks for the target, also where its sign says as much.
        shown: dict[str, Any] = {
            "relu": True,
            "resize": True,
            "normalize": False,
            "differentiable": False,
        }
        if settled := ", ".join(sorted(shown.keys() & options)):
            raise InputError(f"{settled} cannot be chosen: the map is a factor, rectified as it is")
        self.cam = cam(model, layer, **options, **shown)
        if self.cam.fuse is None:
            raise InputError("fuse=None leaves several maps to multiply with; choose a fusion")
        self.generalize = generalize
        super().__init__(
            model, image=self.cam.image, image_layout=self.cam.image_layout, eval=self.cam.eval
        )
        self._masks = False

    def values(self, model: nn.Module, given: Inputs, target: Any) -> tuple[Pass, list[Tensor]]:
        """The clean pass, the signed maps of the CAM, and the signal at the pixels."""
        rule = Rectifying("guided", generalize=self.generalize, masks=self._masks)
        halves = rule.tried(lambda: self._halves(model, given, target, rule))
        self._masks = rule.masks
        rule.warn_if_unmet(type(self).__name__, type(model).__name__)
        return halves

    def present(self, run: Pass, values: list[Tensor], **_: Any) -> Explanation:
        """The product of both: `map` is that of the CAM at the layer's grid.

        The heatmap is the attribution ``(N, C, H, W)``, or ``(N, K, C, H, W)``, as of a
        `PixelMethod`.
        """
        *signed, pixels = values
        seen = self.cam.present(run, signed)
        if not pixels.isfinite().all():
            raise InputError(NOT_FINITE.format("the attribution"))
        pixels = pixels.reshape(*seen.score.shape, *pixels.shape[2:])
        factor = seen.heatmap.to(pixels.dtype)
        if run.inputs.axis is not None:
            factor = factor.unsqueeze(seen.score.ndim - 1 + run.inputs.axis)
        return replace(seen, heatmap=pixels * factor, method=type(self).__name__, attribution=True)

    def _completed(self, model: nn.Module, given: Inputs) -> Inputs:
        return self.cam._completed(model, given)

    def _halves(
        self, model: nn.Module, given: Inputs, target: Any, rule: Rectifying
    ) -> tuple[Pass, list[Tensor]]:
        """A pass, its signed maps, and the signal at the pixels by `rule`, ``(N, K, C, *size)``."""
        with torch.enable_grad():  # where images are a list, each is a part of `image`
            image = given.image.detach().clone().requires_grad_()
            given = given.with_image(image)
        with without_recomputation():
            with rule.lifted():
                run, signed = self.cam.values(model, given, target, rule)
            return run, [*signed, maps.precise(image_gradients(run, image))]

    def __repr__(self) -> str:
        return repr(self.cam).replace(type(self.cam).__name__, type(self).__name__, 1)
