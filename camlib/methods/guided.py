"""Guided Grad-CAM: what a class is seen by, at the resolution of the input."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from camlib.errors import InputError
from camlib.inputs import Inputs
from camlib.layouts import Layout
from camlib.maps import Fuse
from camlib.methods.base import Method
from camlib.methods.explanation import Explanation
from camlib.methods.gradient import GradCAM
from camlib.methods.pixel import GuidedBackprop
from camlib.modules import Layers


class GuidedGradCAM(Method):
    """Guided Grad-CAM: guided backpropagation times Grad-CAM, for the same class.

    Selvaraju et al., ICCV 2017, arXiv:1610.02391. Grad-CAM follows the ordinary gradient; its
    heatmap in [0, 1] is resized bilinearly and multiplies every colour. It inherits the weakness of
    guided backpropagation: what is sharp in it hardly depends on the class.

    Args:
        model: see `GradCAM`.
        layer: see `GradCAM`.
        fuse: see `GradCAM`; the maps of several layers must become one.
        layout: see `GradCAM`.
        generalize: see `GuidedBackprop`.

    Raises:
        InputError: `fuse` is ``None``.
    """

    cost = "2 forward, 1 backward, 1 backward of what follows the layer"

    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        fuse: Fuse = "mean",
        layout: Layout | None = None,
        generalize: bool = False,
    ) -> None:
        if fuse is None:
            raise InputError("fuse=None leaves several maps to multiply with; choose a fusion")
        # A factor: what speaks for the target, also where its sign says as much.
        self.cam = GradCAM(model, layer, fuse=fuse, layout=layout, relu=True, normalize=True)
        self.guided = GuidedBackprop(model, generalize=generalize)
        self.model = model

    def explain(self, inputs: Any, target: Any = None) -> Explanation:
        """Everything one call knows: signed attributions ``(N, C, H, W)`` or ``(N, K, C, H, W)``.

        `map` is Grad-CAM's at the layer's grid.
        """
        given = Inputs.of(inputs)
        seen = self.cam.explain(given, target)
        pixels = self.guided(given, seen.target if target is None else target)
        channels = seen.score.ndim - 1 + given.axis
        heatmap = pixels * seen.heatmap.unsqueeze(channels).to(pixels.dtype)
        return replace(seen, heatmap=heatmap, method=type(self).__name__)

    def __repr__(self) -> str:
        return repr(self.cam).replace("GradCAM", "GuidedGradCAM", 1)
