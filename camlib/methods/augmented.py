"""Averages over views of the image: test-time augmentation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from camlib import maps
from camlib.augmentation import Augmentation
from camlib.errors import InputError
from camlib.forward import Pass
from camlib.inputs import Inputs
from camlib.methods.base import Averageable, MapMethod
from camlib.methods.ensemble import Ensemble
from camlib.methods.views import Scales, View
from camlib.options import checked
from camlib.targets import Target


class Augmented(Ensemble):
    """Test-time augmentation: maps averaged over flips and scales of the image, mapped back.

    Each signed map is flipped back and resized to the input, where the average is taken and a ReLU
    follows; all views weigh the same. The cells of the layer's grid fall on other pixels in every
    view, so the average is finer than a map. What lies at places in the image moves along: a
    baseline, the mask or box of a target, other inputs of the image's size. Weak where left and
    right matter (text, clocks), and where a network knows objects of one size only.

    Args:
        method: see `Ensemble`; one of maps.
        flips: whether to see the image mirrored, left and right, as well.
        scales: factors of the image's last two axes; the model must take images of such sizes.

    Raises:
        InputError: `method` is one of attributions.
        TargetError: in a call, the target asks about places in a way that cannot move along.
    """

    cost = "the method's, for each of 2 views and once more"

    @checked
    def __init__(self, method: Averageable, *, flips: bool = True, scales: Scales = (1.0,)) -> None:
        super().__init__(method)
        inner = method
        while isinstance(inner, Ensemble):
            inner = inner.method
        if not isinstance(inner, MapMethod):
            raise InputError(
                f"Augmented averages maps, and {type(inner).__name__} returns attributions; use "
                "Smooth, or a method of maps"
            )
        self.flips = flips
        self.scales = tuple(scales)

    def _views(self, run: Pass) -> Iterable[View]:
        samples = torch.arange(len(run.inputs), device=run.inputs.image.device)
        count = len(self.scales) * (1 + self.flips)
        for scale in self.scales:
            for flip in (False, True)[: 1 + self.flips]:
                view = Augmentation(scale, flip)

                def back(values: Tensor, view: Augmentation = view) -> Tensor:
                    return view.mirrored(values) / count

                yield View(samples, run.inputs.image, back, view)

    def _clean(self, model: nn.Module, given: Inputs, target: Any) -> Pass:
        run = super()._clean(model, given, target)
        run.seen.windows = {}  # the maps have the input's size already
        return run

    def _again(self, run: Pass, inputs: Inputs, target: Target) -> tuple[Pass, list[Tensor]]:
        again, values = super()._again(run, inputs, target)
        again.seen.windows = {}
        return again, values

    def _seen_from(self, run: Pass, again: Pass, values: list[Tensor]) -> list[Tensor]:
        return [
            maps.place(each, run.inputs.size, window)
            for each, window in zip(values, again.windows(len(values)), strict=True)
        ]
