"""A map from a few masked images: the channels of a layer, in groups."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Unpack

import torch
from torch import Tensor, nn

from camlib import maps
from camlib.maps import Window
from camlib.methods.layer import LayerMethod
from camlib.methods.masking import Answers, Masking, Masks
from camlib.methods.options import LayerOptions
from camlib.options import Count, Range, checked
from camlib.passes.chunks import Chunks, Progress
from camlib.passes.forward import Pass, scores_at
from camlib.passes.names import Layers
from camlib.targets.classes import Asked, asked_as

__all__ = ["GroupCAM"]


class GroupCAM(LayerMethod):
    """Group-CAM: a group of channels weighs what the model gains when it sees that group's region.

    ``M = relu(sum_g (p_c(x * H_g + b * (1 - H_g)) - p_c(b)) H_g)``. Zhang, Rao and Yang, 2021,
    arXiv:2103.13859. ``H_g`` is Grad-CAM of the channels in group ``g``, rectified, de-noised,
    resized to the input and scaled to [0, 1]; ``b`` is the input, blurred. The map has the input's
    size. It has the sharpness of Score-CAM at a small part of its cost. Weakness: channels stand
    together by their number, which means nothing to the network. Each of several classes has masks
    of its own to run.

    The authors' code was the paper's form until August 2021, and is another since: there is no
    de-noising, and the map is ``sum_g relu(p_c(...) - p_c(b)) G_g`` with ``G_g`` the group's map as
    it was before it was scaled. `form` offers both. In both the Gaussian has a sigma of 50 and a
    radius of 25 pixels in images of 224, here to the scale of the shorter side.

    Args:
        groups: how many; the last one may be smaller.
        form: ``"paper"``, or ``"code"`` for the authors' code of today.
        percentile: of a group's mask, up to which it is set to zero; 0 leaves it as it is. By
            default 70 in the form of the paper, and 0 in that of the code.
        score: ``"probability"`` (softmax) or ``"logit"`` of the class to weigh with. Grad-CAM is
            of the logit. Other targets, such as a function, are taken as they are.
        batch_size: how many masked images the model sees at once; by default what fits into memory.
        progress: wraps the loop over batches, such as `tqdm.tqdm`.
    """

    name = "group_cam"
    cost = "2 forward, 1 backward of what follows the layer, 1 forward for each of 32 groups"

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        groups: Count = 32,
        form: Literal["paper", "code"] = "paper",
        percentile: Annotated[float, Range(0, 100, below=True)] | None = None,
        score: Asked = "probability",
        batch_size: Count | None = None,
        progress: Progress | None = None,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(model, layer, **options)
        if percentile is None:
            percentile = 70 if form == "paper" else 0
        self.form = form
        self.groups = groups
        self.percentile = percentile
        self.score: Asked = score
        self.masking = Masking(score, Chunks(batch_size, progress))

    def signed_maps(self, run: Pass) -> list[Tensor]:
        """The masks of each layer at the input's size, weighted by what the model gains."""
        image = run.inputs.image
        side = min(run.inputs.size)
        blurred = maps.blur(run.inputs.arranged, side * 50 / 224, max(round(side * 25 / 224), 1))
        background = run.inputs.at_places(blurred)
        every = torch.arange(len(image), device=image.device)
        before = scores_at(run, every, background, asked_as(run.target, self.score))
        masks = self.by_class(run, self.activations(run), self._masks)
        weighted = [
            self._map(run, background, before.to(image.device), each.to(image.device), window)
            for each, window in zip(masks, run.seen.windows.values(), strict=True)
        ]
        run.seen.windows = {}  # the maps have the input's size already
        return weighted

    def _masks(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """The mask of each group on the layer's grid, ``(M, G, *grid)``."""
        size = math.ceil(activation.shape[1] / self.groups)
        weights = gradient.mean(maps.positions(gradient), keepdim=True)
        parts = zip(*(torch.split(each, size, 1) for each in (weights, activation)), strict=True)
        masks = torch.stack([maps.weighted_sum(*part) for part in parts], 1).relu()
        if not self.percentile:
            return masks
        level = maps.level(masks.flatten(2), self.percentile / 100)
        return masks.where(masks > level.reshape(*level.shape, *[1] * (masks.ndim - 2)), 0)

    def _map(
        self, run: Pass, background: Tensor, before: Tensor, grids: Tensor, window: Window
    ) -> Tensor:
        """The map ``(N, K, *size)`` of masks on the layer's grid.

        Args:
            run: the clean pass.
            background: what stands where a mask is zero, like the image.
            before: the scores of the background, ``(N, K)``.
            grids: the masks, ``(N, K, G, *grid)``.
            window: which part of the input they cover.
        """
        used = ~maps.flat(grids.flatten(1, 2)).reshape(grids.shape[:3])
        samples, classes, groups = used.nonzero().unbind(1)

        def plain(numbers: Tensor) -> Tensor:
            some = grids[samples[numbers], classes[numbers], groups[numbers]]
            return maps.place(some[:, None], run.inputs.size, window)

        def draw(numbers: Tensor) -> Tensor:
            return maps.normalize(plain(numbers))[:, 0]

        def weigh(answers: Answers) -> tuple[Tensor, Tensor]:
            numbers = answers.numbers
            gains = answers.scores - before[samples[numbers]]
            own = torch.arange(before.shape[1], device=gains.device) == classes[numbers, None]
            gains = gains.where(own, 0)
            if self.form == "paper":
                return gains, answers.masks
            return gains.relu(), plain(numbers)[:, 0]

        return self.masking.total(run, Masks(samples, draw), background, weigh)
