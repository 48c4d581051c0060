"""A map from a few masked images: the channels of a layer, in groups."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Unpack

import torch
from torch import Tensor, nn

from camlib import maps
from camlib.maps import Window
from camlib.methods.layer import LayerMethod
from camlib.methods.options import LayerOptions
from camlib.options import Count, Range, checked
from camlib.passes.chunks import Chunks, Progress
from camlib.passes.forward import Pass, scores_at
from camlib.passes.names import Layers
from camlib.targets import Target
from camlib.targets.classes import Asked, asked_as


class GroupCAM(LayerMethod):
    """Group-CAM: a group of channels weighs what the model gains when it sees that group's region.

    ``M = relu(sum_g (p_c(x * H_g + b * (1 - H_g)) - p_c(b)) H_g)``. Zhang, Rao and Yang, 2021,
    arXiv:2103.13859. ``H_g`` is Grad-CAM of the channels in group ``g``, rectified, de-noised,
    resized to the input and scaled to [0, 1]; ``b`` is the input, blurred. The map has the input's
    size. For the sharpness of Score-CAM at a small part of its cost. Weak in its groups: channels
    stand together by their number, which means nothing to the network; and several classes have
    masks of their own, which are run for each.

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
        self.chunks = Chunks(batch_size, progress)

    def _maps(self, run: Pass) -> list[Tensor]:
        image = run.inputs.image
        target = asked_as(run.target, self.score)
        samples = torch.arange(len(image), device=image.device)
        side = min(run.inputs.size)
        blurred = maps.blur(run.inputs.arranged, side * 50 / 224, max(round(side * 25 / 224), 1))
        background = run.inputs.at_places(blurred)
        before = scores_at(run, samples, background, target).to(image.device)
        activations = self._activations(run)
        gradients = run.seen.gradients(run.scores, create_graph=self.differentiable)
        masks = self._by_class(run, activations, gradients, self._masks)
        found = [
            self._map(run, target, background, before, each.to(image.device), window)
            for each, window in zip(masks, run.seen.windows.values(), strict=True)
        ]
        run.seen.windows = {}  # the maps have the input's size already
        return found

    def _masks(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """The mask of each group on the layer's grid, ``(M, G, *grid)``."""
        size = math.ceil(activation.shape[1] / self.groups)
        weights = gradient.mean(maps.positions(gradient), keepdim=True)
        parts = zip(*(torch.split(each, size, 1) for each in (weights, activation)), strict=True)
        masks = torch.stack([maps.weighted_sum(*part) for part in parts], 1).relu()
        if not self.percentile:
            return masks
        ordered = masks.flatten(2).sort(2).values
        place = (ordered.shape[2] - 1) * self.percentile / 100
        low, high = ordered[..., math.floor(place)], ordered[..., math.ceil(place)]
        level = torch.lerp(low, high, place % 1)
        return masks.where(masks > level.reshape(*level.shape, *[1] * (masks.ndim - 2)), 0)

    def _map(
        self,
        run: Pass,
        target: Target,
        background: Tensor,
        before: Tensor,
        masks: Tensor,
        window: Window,
    ) -> Tensor:
        """The map ``(N, K, *size)`` of `masks` ``(N, K, G, *grid)``.

        Args:
            run: the clean pass.
            target: what is asked.
            background: what stands where a mask is zero, like the image.
            before: the scores of the background, ``(N, K)``.
            masks: of the groups.
            window: which part of the input they cover.
        """
        image, size, classes = run.inputs.image, run.inputs.size, before.shape[1]
        total = masks.new_zeros(before.numel(), *size)

        def add(chunk: Tensor) -> Tensor:
            nonlocal total
            samples, numbers, groups = chunk.unbind(1)
            plain = maps.place(masks[samples, numbers, groups][:, None], size, window)
            mask = maps.normalize(plain)
            places = run.inputs.at_places(mask).to(image.dtype)
            seen = image[samples] * places + background[samples] * (1 - places)
            found = scores_at(run, samples, seen, target).to(before.device)
            gains = (found - before[samples]).gather(1, numbers[:, None])[:, 0]
            areas = mask if self.form == "paper" else plain
            gains = gains if self.form == "paper" else gains.relu()
            rows = torch.arange(len(total), device=chunk.device)[:, None]
            shares = gains.where(rows == samples * classes + numbers, 0).to(total.dtype)
            with torch.autocast(total.device.type, enabled=False):
                total = total + torch.einsum("qm,m...->q...", shares, areas[:, 0])
            return gains

        used = ~maps.flat(masks.flatten(1, 2)).reshape(masks.shape[:3])
        for _ in self.chunks.run(add, used.nonzero(), image):
            pass
        return total.reshape(*before.shape, *size)
