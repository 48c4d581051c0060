"""Values averaged over changed inputs.

Every sample is changed in the same ways, in the order of the draws, so that what one gets does not
depend on the batch it is in, nor on how many are run at once. The target is settled on the clean
input, whose pass comes first. What belongs to a sample follows it: its part of the target, what the
model takes beside its image, and pictures such as its baseline.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from camlib import maps
from camlib.augmentation import Augmentation
from camlib.draws import Draws
from camlib.errors import InputError
from camlib.options import Filled, Positive
from camlib.passes.chunks import Chunks
from camlib.passes.forward import Pass
from camlib.passes.inputs import Inputs
from camlib.targets import Target

Scales = Annotated[Sequence[Positive], Filled()]
"""Factors of the size of an image."""


@dataclass(frozen=True, eq=False)
class View:
    """Changed images.

    Attributes:
        samples: of which samples they are, by number, ``(M,)``.
        image: ``(M, C, *size)``.
        back: what to make of the values ``(M, K, ...)`` found there before they are summed.
        augmentation: what moves the images, and with them whatever lies at places in them.
    """

    samples: Tensor
    image: Tensor
    back: Callable[[Tensor], Tensor]
    augmentation: Augmentation | None = None


Read = Callable[[Tensor, Inputs, Target], list[Tensor]]
"""From samples, by number ``(M,)``, with what is changed in them and their target: the values."""


def averaged(run: Pass, views: Iterable[View], read: Read) -> list[Tensor]:
    """What `read` finds in all `views` of the inputs of `run`, summed for each sample."""
    totals: list[Tensor] = []
    size: int | None = None
    for view in views:
        samples, image = view.samples, view.image.to(run.inputs.image.dtype)
        # A warning if a sample is mixed with others than in the clean pass.
        if samples.tolist() != [*range(len(run.inputs))]:
            run.batching(several=len(samples) > 1)

        def read_rows(rows: Tensor, view: View = view, image: Tensor = image) -> list[Tensor]:
            some = view.samples[rows]
            inputs = run.inputs.of_samples(some, image if len(some) == len(image) else image[rows])
            target = run.target[some]
            if view.augmentation is not None:
                inputs = inputs.augmented(view.augmentation)
                target = target.augmented(view.augmentation)
            return read(some, inputs, target)

        rows = torch.arange(len(samples), device=samples.device)
        parts = [*Chunks(size or len(rows)).run(read_rows, rows)]
        if len(parts) > 1:
            size = min(len(some) for some, _ in parts)
        columns = zip(*(values for _, values in parts), strict=True)
        values = [view.back(maps.precise(torch.cat(v) if len(v) > 1 else v[0])) for v in columns]
        if not totals:
            totals = [v.new_zeros(len(run.inputs), *v.shape[1:]) for v in values]
        for total, value in zip(totals, values, strict=True):
            total.index_add_(0, samples.to(value.device), value)
    return totals


def drawn(run: Pass, draws: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Every draw for every sample, by number, ``(M,)`` and ``(M,)`` at a time."""
    device = run.inputs.image.device
    samples = torch.arange(len(run.inputs), device=device)
    pairs = torch.cartesian_prod(torch.arange(draws, device=device), samples)
    for batch in torch.split(pairs, batch_size):
        yield batch[:, 0], batch[:, 1]


def noisy(run: Pass, samples: int, sigma: float, seed: int, batch_size: int) -> Iterator[View]:
    """The images with `samples` draws of normal noise of `sigma` times the range of each image."""
    image = maps.precise(run.inputs.image)
    low, high = torch.aminmax(image.flatten(1), dim=1)
    spread = sigma * (high - low)
    noise = Draws(seed).normal(samples, *run.inputs.arranged.shape[1:])
    noise = run.inputs.at_places(noise).to(image)  # the same whatever the order of the axes
    for draws, which in drawn(run, samples, batch_size):
        changed = image[which] + beside(spread[which], image) * noise[draws]
        yield View(which, changed, lambda values: values / samples)


Rule = Literal["gauss_legendre", "left", "right", "middle", "trapezoid"]
"""How an integral is taken: by the Gauss-Legendre rule, or over equal steps."""


def on_the_way(run: Pass, steps: int, batch_size: int, rule: Rule) -> tuple[Tensor, Iterator[View]]:
    """The start ``(N, C, *size)`` of the straight line to the images, and points on it.

    Args:
        run: the clean pass, with the start as a companion of its inputs, ``"baseline"``.
        steps: how many points.
        batch_size: how many at once.
        rule: which points, and the shares of their values.
    """
    image, start = maps.precise(run.inputs.image), run.inputs.companions["baseline"]
    places, weights = (each.to(image) for each in _RULES[rule](steps))

    def points() -> Iterator[View]:
        for draws, which in drawn(run, steps, batch_size):
            way = (image - start)[which]
            point = start[which] + beside(places[draws], image) * way
            yield View(which, point, functools.partial(_times, weights[draws]))

    return start, points()


def beside(values: Tensor, other: Tensor) -> Tensor:
    """`values` ``(M,)``, shaped to be multiplied with `other` ``(M, ...)``."""
    return values.reshape(-1, *[1] * (other.ndim - 1))


def _times(shares: Tensor, values: Tensor) -> Tensor:
    return values * beside(shares.to(values.device), values)


def check_rule(rule: Rule, steps: int) -> None:
    """Nothing, if an integral can be taken like this.

    Raises:
        InputError: the rule needs more `steps`.
    """
    if rule == "trapezoid" and steps < 2:
        raise InputError("rule='trapezoid' has its points at both ends; use steps=2 or more")


def _gauss_legendre(count: int) -> tuple[Tensor, Tensor]:
    """Places in [0, 1] and their weights, from the eigenvalues of the Jacobi matrix."""
    k = torch.arange(1, count, dtype=torch.float64, device="cpu")
    along = k / (4 * k**2 - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(along, 1) + torch.diag(along, -1))
    return (values + 1) / 2, vectors[0] ** 2


def _equal_steps(count: int, start: float) -> tuple[Tensor, Tensor]:
    """Places in [0, 1] from `start`, in steps, on, and their weights."""
    places = (torch.arange(count, dtype=torch.float64, device="cpu") + start) / count
    return places, torch.full_like(places, 1 / count)


def _trapezoid(count: int) -> tuple[Tensor, Tensor]:
    weights = torch.full((count,), 1 / (count - 1), dtype=torch.float64, device="cpu")
    weights[[0, -1]] /= 2
    return torch.linspace(0, 1, count, dtype=torch.float64, device="cpu"), weights


_RULES: dict[str, Callable[[int], tuple[Tensor, Tensor]]] = {
    "gauss_legendre": _gauss_legendre,
    "left": functools.partial(_equal_steps, start=0.0),
    "right": functools.partial(_equal_steps, start=1.0),
    "middle": functools.partial(_equal_steps, start=0.5),
    "trapezoid": _trapezoid,
}
