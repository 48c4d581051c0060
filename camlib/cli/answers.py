"""What a network answers for a picture, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from camlib import ISCAM, SSCAM, Method, PixelMethod, SmoothFullGrad, SmoothGrad
from camlib.cli.terminal import bar
from camlib.integrations.torchvision import Network
from camlib.targets import Probability, logits
from camlib.targets.binary import both
from camlib.visual import Placement, overlay, to_image

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Maps:
    """What one method finds for ``K`` classes, on the CPU.

    Attributes:
        heatmaps: ``(K, H, W)`` in [0, 1], or attributions ``(K, C, H, W)``.
        raw: ``(K, h, w)`` at the layer's grid, in units of the score, or the attributions.
        layers: dotted names.
    """

    heatmaps: Tensor
    raw: Tensor
    layers: tuple[str, ...]

    def over(self, picture: Tensor) -> Tensor:
        """Each heatmap over `picture`, or each attribution made visible: ``(K, 3, H, W)``."""
        if self.heatmaps.ndim == 4:
            return to_image(self.heatmaps)
        return overlay(picture.expand(len(self.heatmaps), -1, -1, -1), self.heatmaps)

    def on(self, photo: Image, placement: Placement) -> Any:
        """The first heatmap over `photo`, or the attribution of what the network saw."""
        if self.heatmaps.ndim == 4:
            return to_image(self.heatmaps[0])
        return overlay(photo, self.heatmaps[0], transform=placement)


def built(
    kind: type[Method], network: Network, layers: Sequence[str], *, quick: bool = False
) -> Method:
    """A method for `network`, at `layers` if it has any; if `quick`, with few masks and noise."""
    construct: Any = kind
    options: dict[str, Any] = {}
    known = _options(kind)
    # Deconvnet is one of pixels: at a layer it would start from a unit, not from a class.
    if "layer" in known and not issubclass(kind, PixelMethod):
        options["layer"] = list(layers) or None
    if "progress" in known:
        options["progress"] = bar(kind.__name__, stays=False)
    if "masks" in known and quick:
        options["masks"] = 300
    if issubclass(kind, SSCAM | ISCAM) and quick:
        options["samples"] = 4
    if issubclass(kind, SmoothGrad | SmoothFullGrad) and quick:
        options["sigma"] = 0.05  # more leads a small network astray
    method: Method = construct(network.model, **options)
    return method


def scores_of(network: Network, picture: Tensor) -> Tensor:
    """The scores of all classes, ``(classes,)``; two of a single output."""
    with torch.inference_mode():
        return both(logits(network.model(_inputs(network, picture)), 1))[0].float().cpu()


def maps_of(network: Network, method: Method, picture: Tensor, classes: Sequence[int]) -> Maps:
    """What `method` finds for `classes` in `picture` ``(3, H, W)``.

    Raises:
        CamlibError: the method does not fit the network.
    """
    target: Any = [list(classes)]
    if network.several and hasattr(method, "score"):
        # It weighs with probabilities, which are not those of a softmax here.
        target = Probability(target, activation="sigmoid")
    seen = method.explain(_inputs(network, picture), target)
    return Maps(seen.heatmap[0].cpu(), seen.map[0].cpu(), seen.layers)


def _options(kind: type[Method]) -> set[str]:
    """The names of what `kind` and the families above it take."""
    families = [each for each in kind.__mro__ if issubclass(each, Method)]
    return {name for each in families for name in signature(each).parameters}


def _inputs(network: Network, picture: Tensor) -> Tensor:
    where = next(network.model.parameters()).device
    return network.normalize(picture)[None].to(where)
