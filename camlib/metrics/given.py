"""The data of a metric: a clean pass, heatmaps, and the scores of perturbed images.

A row is one heatmap, and all scores are kept by row. Several classes of a sample have a heatmap
each, or share one. In the first case, a row has only the scores of its own class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from camlib.errors import InputError
from camlib.maps import precise
from camlib.passes.chunks import Chunks
from camlib.passes.forward import Pass
from camlib.targets.classes import Asked, asked_as

if TYPE_CHECKING:
    from camlib.metrics.measures import Perturbation

Made = TypeVar("Made")


@dataclass(frozen=True, eq=False)
class Given:
    """A clean pass and the heatmaps of its images.

    Attributes:
        run: the clean pass.
        chunks: how to run perturbed images.
        image: the images with their channels after the samples, ``(N, C, *size)``.
        values: the attributions by row, ``(R, C, *size)``; ``(R, 1, *size)`` for heatmaps.
        count: the number of heatmaps of a sample.
        own: whether each heatmap of a sample belongs to its own class.
    """

    run: Pass
    chunks: Chunks
    image: Tensor
    values: Tensor
    count: int
    own: bool
    _scores: dict[tuple[Perturbation, Asked], Tensor] = field(default_factory=dict)
    _made: dict[Any, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Pass, heatmaps: Tensor, chunks: Chunks) -> Given:
        """`run` with the `heatmaps` of its images, and `chunks` to run perturbed ones.

        Raises:
            InputError: `heatmaps` do not fit the images, or are not finite.
        """
        values, own = by_row(heatmaps, len(run.inputs), run)
        if not values.isfinite().all():
            raise InputError("heatmaps contain NaN or infinity; look for them with torch.isfinite")
        each = len(values) // len(run.inputs)
        return cls(run, chunks, run.inputs.arranged, values, each, own and each > 1)

    @property
    def maps(self) -> Tensor:
        """The heatmaps by row, ``(R, *size)``: attributions are summed over channels."""
        return self.values.sum(1)

    def samples(self, rows: Tensor) -> Tensor:
        """The sample that each of `rows` ``(M,)`` belongs to."""
        return rows // self.count

    def clean(self, score: Asked) -> Tensor:
        """The scores of the clean images by row, ``(R, K)``."""

        def make() -> Tensor:
            scores = precise(asked_as(self.run.target, score)(self.run.output)).detach()
            scores = scores.reshape(len(self.run.inputs), -1)
            rows = torch.arange(len(self.values), device=scores.device)
            return self.picked(rows, scores[self.samples(rows)])

        return self.once(("clean", score), make)

    def picked(self, rows: Tensor, scores: Tensor) -> Tensor:
        """The `scores` ``(M, K)`` of `rows` that count: ``(M, 1)`` if each class has a map."""
        if not self.own:
            return scores
        return scores.gather(1, (rows % self.count)[:, None].to(scores.device))

    def scores(self, perturbation: Perturbation, score: Asked) -> Tensor:
        """The scores of the images that `perturbation` makes, ``(R, count, K)``."""
        return self._scores[perturbation, score]

    def once(self, key: Any, make: Callable[[], Made]) -> Made:
        """The result of `make`, which is called once for each `key`."""
        if key not in self._made:
            self._made[key] = make()
        made: Made = self._made[key]
        return made

    def by_class(self, values: Tensor) -> Tensor:
        """`values` of maps ``(R,)`` for each class of a map, ``(R, K)``."""
        count = 1 if self.own or not self.run.shape else self.run.shape[0]
        return values[:, None].expand(-1, count)

    def shaped(self, values: Tensor) -> Tensor:
        """`values` ``(R, K, ...)`` by sample: ``(N, ...)``, or ``(N, K, ...)`` for more classes."""
        return values.reshape(len(self.run.inputs), *self.run.shape, *values.shape[2:])

    def check_unit(self, name: str) -> None:
        """Check that heatmaps are in [0, 1].

        Args:
            name: the name of the metric.

        Raises:
            InputError: a heatmap is not.
        """
        self.check_single(name)
        low, high = float(self.values.min()), float(self.values.max())
        if low < 0 or high > 1:
            raise InputError(
                f"{name} needs heatmaps in [0, 1], got values from {low:.3g} to {high:.3g}; use "
                "the maps that a method returns by default, or "
                "camlib.maps.normalize(heatmaps[:, None])"
            )

    def check_single(self, name: str) -> None:
        """Check that there is one value for each pixel.

        Args:
            name: the name of the metric.

        Raises:
            InputError: there is one value for each channel.
        """
        if self.values.shape[1] > 1:
            raise InputError(
                f"{name} needs heatmaps {(len(self.run.inputs), *self.run.inputs.size)}, got "
                "attributions of channels; reduce them first, for example by "
                "attribution.abs().amax(1), and scale them to [0, 1]"
            )


def by_row(heatmaps: Tensor, count: int, run: Pass) -> tuple[Tensor, bool]:
    """Heatmaps or attributions of `count` images by row, ``(R, C, *size)`` or ``(R, 1, *size)``.

    Returns:
        The values, and whether each class of a sample has its own.

    Raises:
        InputError: they do not fit the images and classes of `run`.
    """
    if not isinstance(heatmaps, Tensor):
        raise InputError(
            f"expected heatmaps as a tensor, got {type(heatmaps).__name__}; pass the result of a "
            "method's call, such as GradCAM(model)(images)"
        )
    inputs, classes = run.inputs, run.shape
    values = precise(heatmaps.detach()).to(inputs.image.device)
    shape, size, pixels = tuple(values.shape), inputs.size, tuple(inputs.image.shape[1:])
    if shape == (count, *size):
        return values[:, None], False
    if classes and shape == (count, *classes, *size):
        return values.flatten(0, 1)[:, None], True
    if shape == (count, *pixels):
        return _channels_first(values, inputs.axis), False
    if classes and shape == (count, *classes, *pixels):
        return _channels_first(values.flatten(0, 1), inputs.axis), True
    raise InputError(_misfit(shape, count, run, pixels))


def _channels_first(values: Tensor, axis: int | None) -> Tensor:
    return values.unsqueeze(1) if axis is None else values.movedim(axis, 1)


def _misfit(shape: tuple[int, ...], count: int, run: Pass, pixels: tuple[int, ...]) -> str:
    size = run.inputs.size
    ways = [(count, *size), (count, *pixels)]
    if run.shape:
        ways += [(count, *run.shape, *size), (count, *run.shape, *pixels)]
    known = " or ".join(map(str, dict.fromkeys(ways)))
    return (
        f"heatmaps of shape {shape} do not fit images of shape {tuple(run.inputs.image.shape)}; "
        f"expected {known}; resize maps on a layer's grid to the image first, and pass target= "
        "with several classes per sample if each has a map"
    )
