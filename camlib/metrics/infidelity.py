"""Infidelity: the error with which a map predicts the losses of the score.

The scale of a class activation map is arbitrary, so the best scale is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from camlib.draws import Draws
from camlib.errors import InputError
from camlib.metrics.given import Given
from camlib.metrics.measures import Measure, Perturbation, measured
from camlib.options import Count, Seed, checked
from camlib.targets.classes import Asked

Change = Literal["gaussian", "square"] | Callable[[Tensor, int], Tensor]
"""The change subtracted from an image: noise, all values in a square, or the result of a function
of the images ``(M, C, *size)`` and the number of the draw."""


@dataclass(frozen=True)
class Changed(Perturbation):
    """``x - I``, for draws of ``I``."""

    change: Change
    draws: int
    scale: float
    side: int | None
    seed: int

    def count(self, given: Given) -> int:
        """One for each draw."""
        return self.draws

    def images(self, given: Given, rows: Tensor, numbers: Tensor) -> Tensor:
        """``x - I``."""
        image = given.image[given.samples(rows)]
        return image - self.taken(given, image, numbers)

    def taken(self, given: Given, image: Tensor, numbers: Tensor) -> Tensor:
        """``I`` for images ``(M, C, *size)`` and the draws with these `numbers`."""
        if self.change == "square":
            return image * self._squares(given)[numbers][:, None].to(image.dtype)
        taken = torch.empty_like(image)
        for number in torch.unique(numbers).tolist():
            own = numbers == number
            if callable(self.change):
                taken[own] = self.change(image[own], number).to(image)
            else:
                draws = Draws(self.seed + number)
                draw = draws.normal(*image.shape[1:], dtype=torch.float64)
                taken[own] = (self.scale * draw).to(image)
        return taken

    def _squares(self, given: Given) -> Tensor:
        """The pixels in the square of each draw, bool ``(draws, *size)``."""

        def make() -> Tensor:
            size = given.run.inputs.size
            draws = Draws(self.seed)
            inside = torch.ones(self.draws, *size, dtype=torch.bool, device="cpu")
            for axis, length in enumerate(size):
                side = min(self.side or max(length // 7, 1), length)
                start = draws.numbers(length - side + 1, self.draws, 1)
                apart = torch.arange(length, device="cpu") - start
                line = (apart >= 0) & (apart < side)
                inside &= line.reshape(
                    self.draws, *[-1 if a == axis else 1 for a in range(len(size))]
                )
            return inside.to(given.image.device)

        return given.once(self, make)


class Infidelity(Measure):
    """See `infidelity`."""

    higher = False

    @checked
    def __init__(
        self,
        score: Asked = "logit",
        change: Change = "square",
        draws: Count = 100,
        scale: float = 0.2,
        side: Count | None = None,
        normalize: bool = True,
        seed: Seed = 0,
    ) -> None:
        super().__init__(score)
        if not callable(change) and change not in ("gaussian", "square"):
            raise InputError(
                f"change={change!r} is not known; use 'square', 'gaussian' or a function of the "
                "images and the number of the draw"
            )
        self.changed = Changed(change, draws, scale, side, seed)
        self.normalize = normalize

    def needs(self) -> tuple[tuple[Perturbation, Asked], ...]:
        """The changed images."""
        return ((self.changed, self.score),)

    def values(self, given: Given) -> Tensor:
        """``mean (b I * map - (f(x) - f(x - I)))^2``, with the best ``b`` or 1."""
        lost = given.clean(self.score)[:, None] - given.scores(self.changed, self.score)
        lost = lost.double()
        sums = _each(given, self.changed.draws, self._sums).double()[..., None]
        if self.normalize:
            square = (sums * sums).sum(1, keepdim=True)
            best = (sums * lost).sum(1, keepdim=True) / square.where(square > 0, 1)
            sums = best * sums
        return ((sums - lost) ** 2).mean(1).to(given.values.dtype)

    def _sums(self, given: Given, rows: Tensor, numbers: Tensor) -> Tensor:
        image = given.image[given.samples(rows)]
        taken = self.changed.taken(given, image, numbers)
        return (taken.to(given.values.dtype) * given.values[rows]).flatten(1).sum(1)


def _each(
    given: Given, draws: int, values: Callable[[Given, Tensor, Tensor], Tensor], size: int = 32
) -> Tensor:
    """`values` of all rows and draws, ``(R, draws)``, in chunks of `size`."""
    rows = torch.arange(len(given.values), device=given.values.device)
    pairs = torch.cartesian_prod(rows, torch.arange(draws, device=rows.device))
    chunks = [values(given, *part.unbind(1)) for part in torch.split(pairs, size)]
    return torch.cat(chunks).reshape(len(rows), draws)


def infidelity(
    model: nn.Module,
    images: Any,
    heatmaps: Tensor,
    target: Any = None,
    *,
    score: Asked = "logit",
    change: Change = "square",
    draws: int = 100,
    scale: float = 0.2,
    side: int | None = None,
    normalize: bool = True,
    seed: int = 0,
    **options: Any,
) -> Tensor:
    """The error with which a map predicts the losses of the score under random changes.

    ``mean_I (b I . M - (f(x) - f(x - I)))^2``; less is better. Yeh et al., NeurIPS 2019,
    arXiv:1901.09392. A heatmap applies to every channel of a pixel.

    Args:
        model: see `camlib.metrics.average_drop`.
        images: see there.
        heatmaps: see `camlib.metrics.deletion`; every channel of an attribution counts.
        target: see there.
        score: see there.
        change: the change ``I``: ``"square"``, all values in a square; ``"gaussian"``, noise, for
            attributions that are gradients; or a function of the images ``(M, C, H, W)`` and the
            number of the draw.
        draws: the number of changes, the same for all images.
        scale: the standard deviation of the noise.
        side: the side of the square; a seventh of the image by default.
        normalize: whether ``b`` is the best factor for each map, as in the authors' code. If not,
            it is 1, and the map must be in units of the score.
        seed: the seed of the draws.
        options: see `camlib.metrics.average_drop`.

    Returns:
        Mean squares ``(N,)``, or ``(N, K)`` for several classes per sample.

    Raises:
        InputError: the heatmaps do not fit, or an option has an invalid value.
        CamlibError: the inputs or the target do not fit the model; see the message.
    """
    measure = Infidelity(score, change, draws, scale, side, normalize, seed)
    return measured(measure, model, images, heatmaps, target, **options)
