"""Metrics of how a map changes with the image, for which its method explains changed images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from camlib.draws import Draws
from camlib.errors import InputError
from camlib.methods.base import Method
from camlib.metrics.confidence import Masked
from camlib.metrics.correlation import pearson
from camlib.metrics.given import Given, by_row
from camlib.metrics.measures import Measure, Perturbation, measured
from camlib.options import Count, Positive, Seed, checked
from camlib.passes.inputs import ModelInputs
from camlib.targets.classes import Asked

Explainer = Method | Callable[[Tensor, Any], Tensor]
"""A method, or a function of images and classes ``(M,)`` or ``(M, K)`` that returns maps like a
method. If the target is not a class, the function gets the `camlib.targets.Target`."""


def explained(
    given: Given, method: Explainer, perturbation: Perturbation
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The maps of `method` for the images of `perturbation`, in chunks.

    Yields:
        Rows ``(M,)``, numbers ``(M,)`` and values ``(M, C, *size)``.
    """
    rows = torch.arange(len(given.values), device=given.values.device)
    numbers = torch.arange(perturbation.count(given), device=rows.device)

    def maps(chunk: Tensor) -> Tensor:
        where, which = chunk.unbind(1)
        image = perturbation.images(given, where, which).to(given.image.dtype)
        return explanations(given, method, where, image)

    for chunk, values in given.chunks.run(
        maps, torch.cartesian_prod(rows, numbers), given.run.inputs.image
    ):
        where, which = chunk.unbind(1)
        yield where, which, values


def explanations(
    given: Given, method: Explainer, rows: Tensor, image: Tensor, target: Any = None
) -> Tensor:
    """The maps ``(M, C, *size)`` of `method` for images ``(M, C, *size)`` of `rows`.

    Args:
        given: the clean pass.
        method: the method.
        rows: the row that each image belongs to.
        image: the images, with channels after the samples.
        target: a target that replaces that of the pass.
    """
    samples, inputs = given.samples(rows), given.run.inputs
    changed = inputs.at_places(image)
    asked = given.run.target[samples] if target is None else target
    if isinstance(method, Method):
        maps = method(cast(ModelInputs, inputs.of_samples(samples, changed)), asked)
    else:
        classes = getattr(asked, "classes", asked)
        maps = method(changed, asked if classes is None else classes)
    values, own = by_row(maps, len(rows), given.run)
    if not (own and given.count > 1):
        return values
    values = values.reshape(len(rows), given.count, *values.shape[1:])
    return values[torch.arange(len(rows), device=values.device), rows % given.count]


def check_method(name: str, method: Any) -> None:
    """Check that a method can explain changed images.

    Args:
        name: the name of the metric.
        method: the method.

    Raises:
        InputError: `method` cannot be called.
    """
    if not callable(method):
        raise InputError(
            f"{name} needs maps of changed images, got method={method!r}; pass method=, such as "
            "GradCAM(model), or a function of images and classes"
        )


class Asking(Measure):
    """A metric for which a method explains changed images.

    Args:
        method: see `coherency`.

    Raises:
        InputError: `method` cannot be called.
    """

    name = "coherency"

    def __init__(self, method: Explainer | None = None) -> None:
        super().__init__()
        check_method(self.name, method)
        assert method is not None
        self.method = method

    def needs(self) -> tuple[tuple[Perturbation, Asked], ...]:
        """None: the method runs the model itself."""
        return ()


class Coherency(Asking):
    """See `coherency`."""

    higher = True

    def check(self, given: Given) -> None:
        """Refuse maps that are not in [0, 1]."""
        given.check_unit(self.name)

    def values(self, given: Given) -> Tensor:
        """``(1 + corr(M, M(x * M))) / 2``."""
        coherencies = given.values.new_zeros(len(given.values))
        for rows, _, values in explained(given, self.method, Masked()):
            again, before = values.flatten(1).double(), given.values[rows].flatten(1).double()
            coherencies[rows] = ((1 + pearson(before, again, 1)) / 2).to(coherencies.dtype)
        return given.by_class(coherencies)


@dataclass(frozen=True)
class Shaken(Perturbation):
    """Images with uniform noise."""

    radius: float
    draws: int
    seed: int

    def count(self, given: Given) -> int:
        """One for each draw."""
        return self.draws

    def images(self, given: Given, rows: Tensor, numbers: Tensor) -> Tensor:
        """``x + d`` with every value of ``d`` up to the radius."""
        image = given.image[given.samples(rows)]
        return image + self.noise(given).to(image)[numbers]

    def noise(self, given: Given) -> Tensor:
        """``d`` of each draw, ``(draws, C, *size)``, the same for all images."""
        shape = self.draws, *given.image.shape[1:]
        return given.once(self, lambda: (2 * Draws(self.seed).uniform(*shape) - 1) * self.radius)


class SensitivityMax(Asking):
    """See `sensitivity_max`."""

    name = "sensitivity_max"
    higher = False

    @checked
    def __init__(
        self,
        method: Explainer | None = None,
        radius: Positive = 0.02,
        draws: Count = 10,
        seed: Seed = 0,
    ) -> None:
        super().__init__(method)
        self.shaken = Shaken(radius, draws, seed)

    def values(self, given: Given) -> Tensor:
        """``max |M(x + d) - M(x)| / |M(x)|``."""
        apart = given.values.new_zeros(len(given.values), self.shaken.draws)
        for rows, numbers, values in explained(given, self.method, self.shaken):
            apart[rows, numbers] = (values - given.values[rows]).flatten(1).norm(dim=1)
        size = given.values.flatten(1).norm(dim=1)
        return given.by_class(apart.amax(1) / size.where(size > 0, 1))


def coherency(
    model: nn.Module,
    images: Any,
    heatmaps: Tensor,
    target: Any = None,
    *,
    method: Explainer,
    **options: Any,
) -> Tensor:
    """The similarity of a map to that of the image times the map, ``(1 + corr(M, M(x * M))) / 2``.

    Poppi et al., CVPR Workshops 2021, arXiv:2104.10252; more is better. Both maps belong to the
    class explained in the clean image. If one is flat, the correlation counts as 0.

    Args:
        model: see `camlib.metrics.average_drop`.
        images: see there.
        heatmaps: see there.
        target: see there.
        method: the method that made the heatmaps, or a function of images and classes.
        options: see there.

    Returns:
        Values ``(N,)`` in [0, 1], or ``(N, K)`` for several classes per sample.

    Raises:
        InputError: the heatmaps do not fit or are not in [0, 1].
        CamlibError: the inputs or the target do not fit the model; see the message.
    """
    return measured(Coherency(method), model, images, heatmaps, target, **options)


def sensitivity_max(
    model: nn.Module,
    images: Any,
    heatmaps: Tensor,
    target: Any = None,
    *,
    method: Explainer,
    radius: float = 0.02,
    draws: int = 10,
    seed: int = 0,
    **options: Any,
) -> Tensor:
    """The largest change of a map under a little noise, ``max |M(x + d) - M(x)| / |M(x)|``.

    Yeh et al., NeurIPS 2019, arXiv:1901.09392; less is better. Every value of ``d`` is uniform in
    ``[-radius, radius]``.

    Args:
        model: see `camlib.metrics.average_drop`.
        images: see there.
        heatmaps: see `camlib.metrics.deletion`; they must be unchanged results of `method`.
        target: see there.
        method: the method that made the heatmaps, or a function of images and classes.
        radius: the radius of the noise, in units of the model's input.
        draws: the number of draws, the same for all images.
        seed: the seed of the draws.
        options: see `camlib.metrics.average_drop`.

    Returns:
        Values ``(N,)`` of 0 or more, or ``(N, K)`` for several classes per sample.

    Raises:
        InputError: the heatmaps do not fit, or an option has an invalid value.
        CamlibError: the inputs or the target do not fit the model; see the message.
    """
    measure = SensitivityMax(method, radius, draws, seed)
    return measured(measure, model, images, heatmaps, target, **options)
