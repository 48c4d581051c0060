"""Grad-CAM of the last layer, times a soft map of an earlier stage."""

from __future__ import annotations

import math
from typing import Annotated, Unpack

import torch
from torch import Tensor, nn

from camlib import maps
from camlib.errors import LayerError
from camlib.layers import finer_layer
from camlib.methods.gradient import mean_gradient
from camlib.methods.layer import LayerMethod
from camlib.methods.options import ArrangedOptions
from camlib.options import Range, checked
from camlib.passes.forward import Pass
from camlib.passes.inputs import Inputs
from camlib.passes.names import Layers

__all__ = ["TwoStageGradCAM"]

_TOP = 0.98
"""The share of places below the level at which the fine map is cut."""


class TwoStageGradCAM(LayerMethod):
    """Two-stage Grad-CAM: what the last layer sees, where an earlier stage sees it: ``sqrt(a b)``.

    ``a`` is Grad-CAM at the last layer. ``b`` is element-wise Grad-CAM at the end of an earlier
    stage, ``sum_k relu(G_k A_k)``, divided by its 98th percentile, cut at 1, and smoothed by a
    Gaussian of `width` cells of the last layer's grid. The last layer tells classes
    apart and is coarse; the earlier one is fine and shows edges of everything. The cut keeps a few
    strong edges from taking the whole map, and the smoothing keeps the product from falling apart
    where edges are thin. With no paper of its own; the closest relative is RefineCAM, Domeniconi et
    al., 2026, arXiv:2605.14641, a mean of maps of one rule at several layers: here the two layers
    have different rules, and only the fine map is cut and smoothed.

    Where no layer has a finer grid, as in a vision transformer, ``b`` is of the last layer itself.
    Weakness: what the last layer misses stays missing, and ``b`` may move the peak towards a
    textured part of the object.

    Args:
        layer: the last layer, or the earlier ones and it, in this order: ``["layer2", "layer4"]``.
            Several earlier ones count by their mean. By default both are found in the first call.
        finer: how many times finer the grid of the earlier layer is, at most. By default the square
            root of the last layer's stride, which is halfway to the image in octaves: 28 x 28 for
            a last layer of 7 x 7 in an image of 224 x 224.
        width: the standard deviation of the Gaussian, in cells of the last layer's grid.
        root: whether the square root of the product is taken, which evens out a map to be looked
            at or multiplied with the image; the peak stays as high as it is. ``False`` gives the
            product, which is tighter.

    Raises:
        LayerError: in a call, the last of several layers has not the coarsest grid.
    """

    name = "two_stage_grad_cam"
    cost = "1 forward, 1 backward of what follows the earlier layer"

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        finer: Annotated[float, Range(1, 1000)] | None = None,
        width: Annotated[float, Range(0, 1000)] = 0.7,
        root: bool = True,
        **options: Unpack[ArrangedOptions],
    ) -> None:
        super().__init__(model, layer, **options)
        self.finer = finer
        self.width = width
        self.root = root
        self._earlier: dict[str, tuple[str, ...]] = {}

    def beside(self, model: nn.Module, given: Inputs, layers: tuple[str, ...]) -> tuple[str, ...]:
        """The last layer with an earlier one before it."""
        if len(layers) > 1:
            return layers
        [last] = layers
        if last not in self._earlier:
            self._earlier[last] = finer_layer(model, given, last, self.finer)
        return (*self._earlier[last], last)

    def signed_maps(self, run: Pass) -> list[Tensor]:
        """The product of both maps, on the grid of the finest one."""
        pairs = self.by_class(run, self.activations(run), _both)
        windows = [run.seen.windows[name] for name in run.seen.names]
        coarse, cells = pairs[-1][:, :, 0], pairs[-1].shape[3:]
        for name, pair in zip(run.seen.names, pairs, strict=True):
            if any(n < m for n, m in zip(pair.shape[3:], cells, strict=True)):
                raise LayerError(
                    f"layer {name!r} has a grid of {tuple(pair.shape[3:])}, coarser than that of "
                    f"{run.seen.names[-1]!r}, {tuple(cells)}; list the finer, earlier layers first "
                    "and the last one at the end"
                )
        fine = [pair[:, :, 1] for pair in pairs[:-1]] or [pairs[-1][:, :, 1]]
        soft = [self._soft(each.to(coarse.device), cells) for each in fine]
        if all(map(maps.is_whole, windows)):
            size = max((each.shape[2:] for each in soft), key=math.prod)
        else:
            size = torch.Size(run.inputs.size)
        run.seen.windows = {}  # the map lies on the whole input
        where = [*(windows[:-1] or windows), windows[-1]]
        *soft, coarse = map(maps.place, [*soft, coarse], [size] * len(where), where)
        product = coarse * torch.stack(soft).mean(0)
        return [_rooted(product) if self.root else product]

    def _soft(self, fine: Tensor, cells: torch.Size) -> Tensor:
        """The fine map ``(N, K, *grid)``, in [0, 1], cut and smoothed."""
        places = fine.flatten(2)
        level = maps.level(places, _TOP)[..., None]
        level = level.where(level > 0, places.amax(2, keepdim=True))
        cut = (places / level.where(level > 0, 1)).clamp(max=1).reshape(fine.shape)
        ratio = min(n / m for n, m in zip(fine.shape[2:], cells, strict=True))
        return maps.blur(cut, self.width * ratio) if self.width else cut


def _both(activation: Tensor, gradient: Tensor) -> Tensor:
    """Grad-CAM and element-wise Grad-CAM of a layer, ``(N, 2, *grid)``."""
    coarse = maps.weighted_sum(mean_gradient(activation, gradient), activation)
    return torch.stack([coarse, (activation * gradient).clamp(min=0).sum(1)], 1)


def _rooted(product: Tensor) -> Tensor:
    """The square root of the size of `product`, with its sign and its peak."""
    size = product.abs()
    peak = size.flatten(2).amax(2).reshape(*size.shape[:2], *[1] * (size.ndim - 2))
    # The floor keeps gradients finite.
    root = (size * peak).clamp(min=torch.finfo(size.dtype).tiny).sqrt().where(size > 0, 0)
    return root.copysign(product)
