"""The baselines that replace removed pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from camlib.errors import InputError
from camlib.metrics.given import Given

Baseline = Literal["zero", "blur"] | float | Tensor | Callable[[Tensor], Tensor]
"""The values that replace removed pixels: 0 (the mean colour of normalised images), the blurred
image of RISE, a number, a tensor that broadcasts to the images, or a function of the images
``(N, C, *size)``."""


def baseline_of(given: Given, baseline: Baseline) -> Tensor:
    """`baseline` for each image, ``(N, C, *size)``.

    Raises:
        InputError: `baseline` does not fit the images.
    """

    def make() -> Tensor:
        image = given.image
        if isinstance(baseline, str):
            return torch.zeros_like(image) if baseline == "zero" else blurred(image)
        made = (
            baseline(image)
            if callable(baseline)
            else torch.as_tensor(baseline, device=image.device)
        )
        try:
            return made.detach().to(image).expand_as(image)
        except (RuntimeError, AttributeError):
            raise InputError(
                f"a baseline of shape {tuple(getattr(made, 'shape', ()))} does not fit images "
                f"{tuple(image.shape)}; expected channels after the samples"
            ) from None

    return given.once(("baseline", baseline), make)


def blurred(images: Tensor, length: int = 11, sigma: float = 5.0) -> Tensor:
    """`images` blurred with the kernel of RISE's authors, with zeros outside the border.

    The kernel is a Gaussian of standard deviation `sigma`, mirrored at the ends of `length` pixels,
    which makes it nearly flat.
    """
    kernel = torch.zeros(length, dtype=torch.float64, device="cpu")
    reach = int(4 * sigma + 0.5)
    steps = torch.arange(-reach, reach + 1, dtype=torch.float64, device="cpu")
    gaussian = torch.exp(-((steps / sigma) ** 2) / 2)
    places = (steps.long() + length // 2) % (2 * length)
    kernel.index_add_(0, torch.minimum(places, 2 * length - 1 - places), gaussian)
    kernel = (kernel / kernel.sum()).to(images)
    for axis in range(2, images.ndim):
        lines = images.movedim(axis, -1)
        smooth = F.conv1d(lines.reshape(-1, 1, lines.shape[-1]), kernel[None, None], padding="same")
        images = smooth.reshape(lines.shape).movedim(-1, axis)
    return images
