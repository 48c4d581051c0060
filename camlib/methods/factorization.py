"""What the activations of a batch have in common: concepts, found without a target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

import torch
from torch import Tensor, nn

from camlib import maps, targets
from camlib.errors import NOT_FINITE, InputError, LayerError, warn
from camlib.layers import default_layer
from camlib.layouts import Layout, adapted
from camlib.layouts.reading import reading_of
from camlib.methods.calling import Calling
from camlib.methods.options import CallingOptions
from camlib.methods.replaying import changed_scores
from camlib.options import Count, Width, checked
from camlib.passes.chunks import Chunks
from camlib.passes.forward import Pass
from camlib.passes.inputs import ModelInputs, detached
from camlib.passes.names import Layers, names, unwrap
from camlib.passes.replay import Needs, Tail
from camlib.results import Concepts
from camlib.state.undoing import Called
from camlib.targets import TargetLike

__all__ = ["DeepFeatureFactorization"]

_SIGNED = 0.1
"""The share of a layer's size in negative values from which on cutting them is worth a warning."""


class DeepFeatureFactorization(Calling):
    """Deep feature factorization: a few patterns of channels that make up a layer, and where.

    Collins, Achanta and Süsstrunk, ECCV 2018, arXiv:1806.10206. The activations of all images,
    position by position, are factored into ``A ~ M V``, neither with negative values, by the
    multiplicative updates of Lee and Seung: ``V`` ``(K, C)`` holds the concepts, and ``M`` how much
    of each is at every position. Images of a kind share their concepts, so that the map of one
    marks the same part in all of them. The start is not drawn but chosen, the positions least like
    each other (successive projection), so that the result depends on nothing but the batch, and not
    on the order in it. Of 1 forward, and 1 of what follows the layer for each concept and image.

    It answers what a layer tells apart, and finds parts without labels. Weakness: the number of
    concepts has to be guessed. Negative values of a layer are cut off, with a warning.

    Args:
        model: any network; wrapped, compiled, frozen or training.
        layer: a module of `model`, its dotted name, or ``None``: the last layer that has a grid
            and a gradient, found in every call.
        concepts: how many.
        layout: turns an activation into ``(N, C, *grid)``; recognised from its shape by default.
        iterations: the most updates to make.
        tolerance: ten updates that lower the error by less than this share of it are the last.
        batch_size: how many changed activations run at once; by default what fits into memory.

    Raises:
        LayerError: the layer is not in `model`, or there are several.
        ModelError: `model` is not a module, or scripted.

    Example:
        >>> seen = DeepFeatureFactorization(model, "layer4", concepts=4)(images)
        >>> seen.heatmaps, seen.scores.topk(3)              # (N, 4, H, W), classes of each concept
        >>> seen.save("concepts.png", images, labels=class_names)
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        concepts: Count = 5,
        layout: Layout | Callable[[Tensor], Tensor] | None = None,
        iterations: Count = 200,
        tolerance: Width = 1e-4,
        batch_size: Count | None = None,
        **options: Unpack[CallingOptions],
    ) -> None:
        super().__init__(model, **options)
        chosen = names(unwrap(model), layer)
        if len(chosen) > 1:
            raise LayerError(f"expected one layer to factor, got {chosen}; call it for each")
        self.layers = chosen
        self.layer = chosen[0] if chosen else None
        self.concepts = concepts
        self.layout = None if layout is None else adapted(layout)
        self.iterations = iterations
        self.tolerance = tolerance
        self.chunks = Chunks(batch_size)

    @checked
    def __call__(self, inputs: ModelInputs, target: TargetLike = None) -> Concepts:
        """The concepts of a batch.

        Args:
            inputs: images ``(N, C, H, W)``, series ``(N, C, L)`` or volumes ``(N, C, D, H, W)``; a
                tuple of positional or a mapping of keyword arguments with one in it.
            target: what a concept may speak for: ``None`` for every class of a classifier, or a
                target of other methods.

        Raises:
            CamlibError: the inputs, the target or the layer do not fit the model; see the message.
        """
        with Called(), self._prepared(inputs) as (model, given), torch.no_grad():
            name = self.layer or default_layer(model, given, target)
            tail = Tail(model, name, Needs())
            asked = targets.logits if target is None else target
            run = Pass.of(model, given, asked, (name,), "none", record=True, tails=[tail])
            run.seen.warn_of_repeats()
            [raw] = run.seen.activations()
            reading = reading_of(model, given, run.order, name, raw.shape, self.layout)
            layout = reading.layout
            activation = _cut_off(maps.precise(layout(raw)), name)
            with torch.autocast(activation.device.type, enabled=False):
                rows = activation.movedim(1, -1)
                amounts, vectors, error = factored(
                    rows.flatten(0, -2), self.concepts, self.iterations, self.tolerance
                )
            where = amounts.reshape(*rows.shape[:-1], -1).movedim(-1, 1)
            scores = self._scores(run, layout, vectors)
            heat = maps.place(where.to(given.image.device), given.size, reading.window)
        return Concepts(
            heatmaps=heat,
            maps=where,
            vectors=vectors,
            scores=scores,
            error=error,
            output=detached(run.output),
            layer=name,
        )

    def _scores(self, run: Pass, layout: Layout, vectors: Tensor) -> Tensor:
        """What each concept adds to the scores ``(K, classes)`` where it is all there is."""
        count, several = len(vectors), len(run.inputs)
        pairs = torch.cartesian_prod(*(torch.arange(n, device="cpu") for n in (several, count + 1)))
        known = torch.cat([vectors, vectors.new_zeros(1, vectors.shape[1])])

        def alone(whole: Tensor, numbers: Tensor) -> Tensor:
            vector = known[numbers]
            return vector.reshape(*vector.shape, *[1] * (whole.ndim - 2)).expand_as(whole)

        scores = changed_scores(run, 0, layout, self.chunks, pairs, alone)
        scores = scores.reshape(several, count + 1, -1)
        return (scores[:, :count] - scores[:, count:]).mean(0)

    def __repr__(self) -> str:
        layer = "None, chosen in every call" if self.layer is None else repr(self.layer)
        return f"{type(self).__name__}({type(unwrap(self.model)).__name__}, layer={layer})"


def factored(
    rows: Tensor, concepts: int, iterations: int, tolerance: float
) -> tuple[Tensor, Tensor, float]:
    """Factors ``(M, K)`` and ``(K, C)`` of `rows` ``(M, C)``, none negative, and the error.

    The largest value of every column of the first is 1, and the pairs are in the order of their
    size, largest first. The error is ``|rows - product| / |rows|``.

    Args:
        rows: no value is negative.
        concepts: ``K``.
        iterations: the most updates to make.
        tolerance: ten updates that lower the error by less than this share of it are the last.
    """
    vectors = _start(rows, concepts)
    weights = rows.new_ones(len(rows), concepts)
    size = max(float(rows.norm()), torch.finfo(rows.dtype).tiny)
    error = float("inf")
    for number in range(1, iterations + 1):
        weights, vectors = updated(rows, weights, vectors)
        if number % 10 == 0 or number == iterations:
            before, error = error, float((rows - weights @ vectors).norm()) / size
            if before - error <= tolerance * error:
                break
    peak = weights.amax(0)
    vectors, weights = vectors * peak[:, None], weights / peak.where(peak > 0, 1)
    order = (weights.norm(dim=0) * vectors.norm(dim=1)).argsort(descending=True, stable=True)
    return weights[:, order], vectors[order], error


def updated(rows: Tensor, weights: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """The factors after one update of each, which never raises the error.

    Args:
        rows: ``(M, C)``.
        weights: ``(M, K)``.
        vectors: ``(K, C)``.
    """
    weights = weights * _ratio(rows @ vectors.mT, weights @ (vectors @ vectors.mT))
    vectors = vectors * _ratio(weights.mT @ rows, (weights.mT @ weights) @ vectors)
    return weights, vectors


def _ratio(wanted: Tensor, there: Tensor) -> Tensor:
    return wanted / there.where(there > 0, 1)


def _start(rows: Tensor, concepts: int) -> Tensor:
    """Rows that are least like each other, ``(K, C)``; zeros where there are no more.

    An update cannot leave zero, so a little is added to all of their channels.
    """
    rest = rows
    rounding = rows.shape[1] * torch.finfo(rows.dtype).eps * rows.norm(dim=1).max()
    chosen = []
    for _ in range(concepts):
        sizes = rest.norm(dim=1)
        best = sizes.argmax()
        there = sizes[best] > rounding
        chosen.append((rows[best] + rows.mean() / 100) * there)
        direction = rest[best] / sizes[best].where(there, 1)
        rest = rest - torch.outer(rest @ direction, direction)
    return torch.stack(chosen)


def _cut_off(activation: Tensor, name: str) -> Tensor:
    """`activation` without its negative values, with a warning if they are much of it."""
    size, negative = activation.abs().sum(), activation.clamp(max=0).sum().neg()
    finite, much, share = torch.stack(
        [size.isfinite(), negative > _SIGNED * size, negative / size.where(size > 0, 1)]
    ).tolist()
    if not finite:
        raise InputError(NOT_FINITE.format(f"the output of layer {name!r}"))
    if much:
        warn(
            f"layer {name!r} has negative values, {share:.0%} of its size, which factors without "
            "negative values cannot show; they are cut off: a layer after a ReLU is seen whole"
        )
    return activation.clamp(min=0)
