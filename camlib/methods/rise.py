"""RISE: the mean of random masks, weighted by what the model answers to each."""

from __future__ import annotations

import math
from typing import Unpack

import torch
from torch import Tensor, nn

from camlib import maps
from camlib.draws import Draws
from camlib.methods.masked import MaskedMethod
from camlib.methods.masking import Masks
from camlib.methods.options import MaskedOptions
from camlib.options import Count, Part, Seed, checked
from camlib.passes.inputs import Inputs

__all__ = ["RISE"]


class RISE(MaskedMethod):
    """RISE: a pixel is worth what the model answers, on average, when that pixel is seen.

    ``M = sum_i p_c(x m_i) m_i / (n p)``. Petsiuk, Das and Saenko, BMVC 2018, arXiv:1806.07421. The
    masks are random grids of few cells, enlarged and shifted; zero input stands for "no image". All
    samples see the same masks, in every call. Beyond the centres of the outermost cells a mask
    stays as it is there, where the authors' code mirrors it. It explains any function at all.
    Weakness: with few masks, the map is noisy.

    Args:
        masks: how many; the paper takes 4000 for VGG-16 and 8000 for ResNet-50.
        cells: of a mask along each axis.
        probability: that a cell is seen.
        seed: of the masks.
    """

    name = "rise"
    cost = "1 forward, 1 forward for each mask"

    @checked
    def __init__(
        self,
        model: nn.Module,
        *,
        masks: Count = 4000,
        cells: Count = 7,
        probability: Part = 0.5,
        seed: Seed = 0,
        **options: Unpack[MaskedOptions],
    ) -> None:
        super().__init__(model, **options)
        self.count = masks
        self.cells = cells
        self.probability = probability
        self.seed = seed

    def masks(self, inputs: Inputs) -> Masks:
        """Random grids, enlarged and shifted."""
        size, image = inputs.size, inputs.image
        # On the CPU, so that the masks are the same on every device.
        draws = Draws(self.seed)
        grid = draws.uniform(self.count, *[self.cells] * len(size))
        steps = [math.ceil(length / self.cells) for length in size]
        starts = [draws.numbers(step, self.count) for step in steps]
        seen = (grid < self.probability).to(image.device, maps.precise(image).dtype)
        offsets = torch.stack(starts, 1).to(image.device)

        def draw(numbers: Tensor) -> Tensor:
            large = [(self.cells + 1) * step for step in steps]
            masks = maps.resize(seen[numbers][:, None], large)[:, 0]
            for axis, length in enumerate(size):
                places = torch.arange(length, device=numbers.device) + offsets[numbers, axis, None]
                shape = [len(numbers), *[1] * len(size)]
                shape[1 + axis] = length
                masks = masks.take_along_dim(places.reshape(shape), 1 + axis)
            return masks

        return Masks.same_for_all(inputs, self.count, draw, often=self.count * self.probability)

    def weights(self, scores: Tensor, clean: Tensor) -> Tensor:
        """The scores."""
        return scores
