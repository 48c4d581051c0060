"""Values averaged over changed inputs.

Every sample is changed in the same ways, in the order of the draws, so that what one gets does not
depend on the batch it is in, nor on how many are run at once. The target is settled on the clean
input, whose pass comes first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated

import torch
from torch import Tensor

from camlib import maps
from camlib.chunks import Chunks
from camlib.draws import Draws
from camlib.errors import InputError, TargetError
from camlib.forward import Pass
from camlib.inputs import Inputs
from camlib.options import Filled, Positive
from camlib.targets import Target

Scales = Annotated[Sequence[Positive], Filled()]
"""Factors of the size of an image."""

View = tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]
"""Changed images: of which samples, by number ``(M,)``, the images ``(M, C, *size)``, and what to
make of the values ``(M, K, ...)`` found there before they are summed: a share, or moved back."""

Read = Callable[[Tensor, Inputs, Target], list[Tensor]]
"""From samples, by number ``(M,)``, with what is changed in them and their target: the values."""


def averaged(run: Pass, views: Iterable[View], read: Read) -> list[Tensor]:
    """What `read` finds in all `views` of the inputs of `run`, summed for each sample."""
    totals: list[Tensor] = []
    size: int | None = None
    for samples, image, back in views:
        # A warning if a sample is mixed with others than in the clean pass.
        if samples.tolist() != [*range(len(run.inputs))]:
            run.batching(several=len(samples) > 1)
        image = image.to(run.inputs.image.dtype)

        def found(rows: Tensor, samples: Tensor = samples, image: Tensor = image) -> list[Tensor]:
            some = samples[rows]
            inputs = run.inputs.of_samples(some, image if len(some) == len(image) else image[rows])
            return read(some, inputs, run.target[some])

        rows = torch.arange(len(samples), device=samples.device)
        parts = [*Chunks(size or len(rows)).run(found, rows)]
        if len(parts) > 1:
            size = min(len(some) for some, _ in parts)
        columns = zip(*(values for _, values in parts), strict=True)
        values = [back(maps.precise(torch.cat(v) if len(v) > 1 else v[0])) for v in columns]
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
        yield which, changed, lambda values: values / samples


def on_the_way(
    run: Pass, baseline: Tensor | float, steps: int, batch_size: int
) -> tuple[Tensor, Iterator[View]]:
    """The start ``(N, C, *size)`` of the straight line to the images, and points on it.

    The points and the shares of their values are those of the Gauss-Legendre rule.

    Args:
        run: the clean pass.
        baseline: a number, or a tensor that broadcasts to the images.
        steps: how many points.
        batch_size: how many at once.

    Raises:
        InputError: `baseline` does not fit.
    """
    image = maps.precise(run.inputs.image)
    start = torch.as_tensor(baseline, device=image.device).detach().to(image)
    try:
        start = start.expand_as(image)
    except RuntimeError:
        raise InputError(
            f"baseline of shape {tuple(start.shape)} does not fit images of shape "
            f"{tuple(image.shape)}; pass a number, or a tensor that broadcasts to them"
        ) from None
    places, weights = (each.to(image) for each in _gauss_legendre(steps))

    def points() -> Iterator[View]:
        for draws, which in drawn(run, steps, batch_size):
            way = (image - start)[which]
            yield (
                which,
                start[which] + beside(places[draws], image) * way,
                functools.partial(_times, weights[draws]),
            )

    return start, points()


def rescaled(inputs: Inputs, scale: float) -> Tensor:
    """The images with their last two axes `scale` times as long, interpolated linearly."""
    size = (*inputs.size[:-2], *(max(1, round(n * scale)) for n in inputs.size[-2:]))
    return inputs.at_places(maps.resize(inputs.arranged, size))


def mirrored(inputs: Inputs, image: Tensor) -> Tensor:
    """`image`, with the axes of `inputs`, flipped along the last axis of its grid."""
    return image.flip(image.ndim - 2 if inputs.axis == image.ndim - 1 else image.ndim - 1)


def check_unplaced(target: Target, method: str) -> None:
    """Nothing, if `target` can be asked of images that were moved.

    Raises:
        TargetError: it asks about places.
    """
    if target.placed:
        raise TargetError(
            f"{method} moves the image, and {type(target).__name__} asks about places in it, which "
            "do not move along; pass a class or a function of the output, or use Smooth"
        )


def beside(values: Tensor, other: Tensor) -> Tensor:
    """`values` ``(M,)``, shaped to be multiplied with `other` ``(M, ...)``."""
    return values.reshape(-1, *[1] * (other.ndim - 1))


def _times(shares: Tensor, values: Tensor) -> Tensor:
    return values * beside(shares.to(values.device), values)


def _gauss_legendre(count: int) -> tuple[Tensor, Tensor]:
    """Places in [0, 1] and their weights, from the eigenvalues of the Jacobi matrix."""
    k = torch.arange(1, count, dtype=torch.float64, device="cpu")
    along = k / (4 * k**2 - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(along, 1) + torch.diag(along, -1))
    return (values + 1) / 2, vectors[0] ** 2
