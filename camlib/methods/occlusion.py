"""Occlusion: what the score loses when a window hides a part of the input."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Unpack

import torch
from torch import Tensor, nn

from camlib import maps
from camlib.errors import InputError
from camlib.methods.masked import MaskedMethod
from camlib.methods.masking import Masks
from camlib.methods.options import MaskedOptions
from camlib.options import Count, Filled, checked
from camlib.passes.inputs import Inputs

__all__ = ["Occlusion"]

Lengths = Count | Annotated[tuple[Count, ...], Filled()]
"""A number of places along each axis, or one for all."""


class Occlusion(MaskedMethod):
    """Occlusion: a pixel is worth what the score loses, on average, when a window hides it.

    Zeiler and Fergus, ECCV 2014, arXiv:1311.2901, section 4.2, who draw the score itself, at the
    centre of the window. It explains any function at all, and checks other maps. Weakness: if
    evidence is spread, no window hides it. The map is sensitive to the size of the window.

    Args:
        window: its length along each axis, or one for all; by default a seventh of the input.
        stride: how far it moves, by default half the window.
        last: what becomes of the last window along an axis, where it would reach beyond the input:
            ``"moved"`` in, so that all windows are whole, or ``"cut"`` at the border.
        overlap: ``"mean"`` over the windows that hide a pixel, or their ``"sum"``.
        value: what stands in the window: 0 is grey for normalised inputs.
    """

    name = "occlusion"
    cost = "1 forward, 1 forward for each window"

    @checked
    def __init__(
        self,
        model: nn.Module,
        *,
        window: Lengths | None = None,
        stride: Lengths | None = None,
        last: Literal["moved", "cut"] = "moved",
        overlap: Literal["mean", "sum"] = "mean",
        value: float = 0.0,
        **options: Unpack[MaskedOptions],
    ) -> None:
        super().__init__(model, **options)
        self.window = window
        self.stride = stride
        self.last = last
        self.overlap = overlap
        self.value = value

    def masks(self, inputs: Inputs) -> Masks:
        """Windows, one at every stride, in which nothing is seen."""
        size, image = inputs.size, inputs.image
        lines = [line.to(image.device) for line in self._lines(size)]
        counts = [len(line) for line in lines]

        def draw(numbers: Tensor) -> Tensor:
            shape = len(numbers), *[1] * len(size)
            covers = torch.ones(shape, dtype=torch.float32, device=numbers.device)
            for axis, place in enumerate(torch.unravel_index(numbers, counts)):
                along = [*shape[: 1 + axis], size[axis], *shape[2 + axis :]]
                covers = covers * lines[axis][place].reshape(along)
            return 1 - covers.to(maps.precise(image).dtype)

        often = lines[0].sum(0)
        for line in lines[1:]:
            often = often[..., None] * line.sum(0)
        return Masks.same_for_all(
            inputs,
            math.prod(counts),
            draw,
            hides=True,
            often=often if self.overlap == "mean" else 1.0,
        )

    def weights(self, scores: Tensor, clean: Tensor) -> Tensor:
        """What the score loses."""
        whole = maps.precise(clean)
        lost = whole - scores
        # A batch of another size is rounded otherwise, which a scale to [0, 1] would show.
        rounding = 8 * torch.finfo(clean.dtype).eps
        return lost.where(lost.abs() > rounding * whole.abs(), 0)

    def background(self, images: Tensor) -> float:
        """The `value` of the window."""
        return self.value

    def _lines(self, size: tuple[int, ...]) -> list[Tensor]:
        """What the windows along each axis of `size` cover, ``(windows, length)``."""
        for name, given in (("window", self.window), ("stride", self.stride)):
            if isinstance(given, tuple) and len(given) != len(size):
                raise InputError(
                    f"{name}={given} is for {len(given)} axes, and the input has {len(size)}; pass "
                    "one number for all"
                )
        windows = [max(length // 7, 1) for length in size]
        if self.window is not None:
            asked = _lengths(self.window, len(size))
            windows = [min(pair) for pair in zip(asked, size, strict=True)]
        strides = [max(window // 2, 1) for window in windows]
        if self.stride is not None:
            strides = _lengths(self.stride, len(size))
        lines = []
        for length, window, stride in zip(size, windows, strides, strict=True):
            if stride > window:
                raise InputError(
                    f"stride={stride} leaves pixels between windows of {window}; use at most that"
                )
            starts = torch.tensor(
                [*range(0, length - window, stride), length - window], device="cpu"
            )
            if self.last == "cut" and len(starts) > 1:
                starts[-1] = starts[-2] + stride
            apart = torch.arange(length, device="cpu") - starts[:, None]
            lines.append(((apart >= 0) & (apart < window)).float())
        return lines


def _lengths(given: int | tuple[int, ...], axes: int) -> list[int]:
    """`given` along each of `axes`."""
    return list(given) if isinstance(given, tuple) else [given] * axes
