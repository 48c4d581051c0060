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
from camlib.passes.inputs import Inputs, ModelInputs
from camlib.passes.names import Layers
from camlib.results import Explanation
from camlib.rules.relu import Rectifying, without_recomputation
from camlib.state.undoing import Called
from camlib.targets import TargetLike


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

    cost = "1 forward, 1 backward, 1 backward of what follows the layer"

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

    @checked
    def explain(self, inputs: ModelInputs, target: TargetLike = None) -> Explanation:
        """Everything one call knows; `map` is that of the CAM at the layer's grid.

        Args:
            inputs: see `Method.__call__`.
            target: see `Method.__call__`.

        Returns:
            The attribution ``(N, C, H, W)``, or ``(N, K, C, H, W)``, as of a `PixelMethod`, and
            what else there is.

        Raises:
            CamlibError: the inputs, the target or the layer do not fit the model; see the message.
        """
        rule = Rectifying("guided", generalize=self.generalize, masks=self._masks)
        with Called(), self.cam._prepared(inputs) as (model, given), torch.no_grad():
            run, signed, pixels = rule.tried(lambda: self._halves(model, given, target, rule))
            self._masks = rule.masks
            seen = self.cam._explanation(run, signed)
            if not pixels.isfinite().all():
                raise InputError(NOT_FINITE.format("the attribution"))
            pixels = pixels.reshape(*seen.score.shape, *pixels.shape[2:])
            factor = seen.heatmap.to(pixels.dtype)
            if given.axis is not None:
                factor = factor.unsqueeze(seen.score.ndim - 1 + given.axis)
            attribution = pixels * factor
        rule.warn_if_unmet(type(self).__name__, type(model).__name__)
        name = type(self).__name__
        return replace(seen, heatmap=attribution, method=name, attribution=True)

    def _halves(
        self, model: nn.Module, given: Inputs, target: Any, rule: Rectifying
    ) -> tuple[Pass, list[Tensor], Tensor]:
        """A pass, its signed maps, and the signal at the pixels by `rule`, ``(N, K, C, *size)``."""
        with torch.enable_grad():  # where images are a list, each is a part of `image`
            image = given.image.detach().clone().requires_grad_()
            given = given.with_image(image)
        with without_recomputation():
            with rule.lifted():
                run, signed = self.cam._explained(model, given, target, rule)
            return run, signed, maps.precise(image_gradients(run, image))

    def __repr__(self) -> str:
        return repr(self.cam).replace(type(self.cam).__name__, type(self).__name__, 1)
