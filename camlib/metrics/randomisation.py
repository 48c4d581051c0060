"""Sanity checks: does a map depend on the weights of the model, and on the class?

A map that does not change when weights become random shows the image, not the model. Two cautions.
The layers before the explained one stay intact until the cascade reaches them, so look at single
layers too, with ``order="independent"``. And the similarity of two maps depends on noise and on the
measure: Binder et al., CVPR 2023, arXiv:2211.12486.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from camlib.draws import Draws
from camlib.errors import CamlibWarning, InputError, TargetError
from camlib.methods.base import Method
from camlib.metrics.given import Given
from camlib.metrics.measures import Measuring, measured
from camlib.metrics.randomised import Draw, randomised, weighted
from camlib.metrics.similarity import Similarity, alike, check_similarity
from camlib.metrics.stability import Asking, Explainer, explanations
from camlib.options import Seed, checked
from camlib.passes.forward import Pass
from camlib.passes.names import unwrap
from camlib.state.undoing import Called
from camlib.targets import logits
from camlib.targets.classes import ClassTarget

Order = Literal["cascading", "independent"]
"""Whether weights are random from the output down to a layer, or in that layer alone."""


@dataclass(frozen=True, eq=False)
class Randomisation:
    """The similarity of maps before and after weights become random.

    Attributes:
        layers: dotted names, in the order of randomisation.
        similarity: by name, the similarity of the map of the model to that of the randomised one:
            ``(L, N)``, or ``(L, N, K)`` for several classes per sample.
        order: ``"cascading"`` or ``"independent"``.
    """

    layers: tuple[str, ...]
    similarity: dict[str, Tensor]
    order: Order

    def __repr__(self) -> str:
        names = ", ".join(self.similarity)
        return f"Randomisation({self.order}, {len(self.layers)} layers, {names})"


@checked
def parameter_randomisation(
    model: nn.Module,
    images: Any,
    heatmaps: Tensor,
    target: Any = None,
    *,
    method: Explainer,
    order: Order = "cascading",
    layers: Sequence[str] | None = None,
    similarity: Similarity | Sequence[Similarity] = ("spearman", "ssim", "hog"),
    weights: Draw = "permuted",
    seed: Seed = 0,
    **options: Any,
) -> Randomisation:
    """The similarity of maps when layer after layer of the model gets random weights.

    Adebayo et al., NeurIPS 2018, arXiv:1810.03292, draw new weights. Here the values of a weight
    are permuted by default, so that activations keep their scale; a deep network with new weights
    may let nothing through. The model's own weights are not touched. Other tensors replace them
    during the call, and other threads that run the model meanwhile see those.

    Args:
        model: any network; it is left unchanged.
        images: see `camlib.Method.__call__`.
        heatmaps: the maps of `method`, ``(N, H, W)`` or attributions; ``(N, K, ...)`` for several
            classes per sample.
        target: see `camlib.Method.__call__`; ``None`` for the class that the original model
            predicts, which is explained throughout.
        method: the method that made the heatmaps: one of this model, or a function of images and
            classes.
        order: ``"cascading"``, from the output down to each layer; or ``"independent"``, each
            layer alone.
        layers: dotted names, in the order of randomisation; by default all modules with their own
            weights, from the last one. A container includes everything in it.
        similarity: some of ``"spearman"``, ``"spearman_abs"`` (of absolute values), ``"ssim"`` and
            ``"hog"``.
        weights: ``"permuted"``, or ``"reset"`` by each module's ``reset_parameters``.
        seed: the seed of the random numbers.
        options: see `camlib.metrics.average_drop`.

    Raises:
        InputError: the heatmaps do not fit, `method` explains another model, or an option has an
            invalid value.
        LayerError: a layer does not exist, or has no weights.
        CamlibError: the inputs or the target do not fit the model; see the message.
    """
    names = [similarity] if isinstance(similarity, str) else list(similarity)
    if isinstance(method, Method) and unwrap(method.model) is not unwrap(model):
        raise InputError(
            f"method={type(method).__name__} explains another model than the one to be "
            "randomised; create it for this model"
        )
    measuring = Measuring(model, **options)
    with Called(), measuring._prepared(images) as (plain, inputs), torch.no_grad():
        given = Given.of(Pass.of(plain, inputs, target, (), "none"), heatmaps, measuring.chunks)
        chosen = weighted(plain, layers)
        by_name: dict[str, list[Tensor]] = {name: [] for name in names}
        for step in range(len(chosen)):
            some = chosen[: step + 1] if order == "cascading" else chosen[step : step + 1]
            with randomised(plain, some, weights, seed):
                values = _again(given, method)
            for name in names:
                like = alike(name, given.values, values).to(given.values.dtype)
                by_name[name].append(given.shaped(given.by_class(like)))
        stacked = {name: torch.stack(each) for name, each in by_name.items()}
    return Randomisation(tuple(chosen), stacked, order)


class RandomLogit(Asking):
    """See `random_logit`."""

    name = "random_logit"
    higher = False

    def __init__(
        self,
        method: Explainer | None = None,
        similarity: Similarity = "ssim",
        seed: Seed = 0,
    ) -> None:
        super().__init__(method)
        check_similarity(similarity)
        self.similarity = similarity
        self.seed = seed

    def values(self, given: Given) -> Tensor:
        """The similarity of the map to that of another class."""
        target = given.run.target
        if not isinstance(target, ClassTarget):
            raise TargetError(
                f"random_logit compares with another class, but {target!r} is not a class; pass "
                "class indices"
            )
        available = max(logits(given.run.output).shape[1], 2)
        step = 1 + int(Draws(self.seed).numbers(available - 1))
        other = target.replaced(classes=(target.classes + step) % available)
        values = _again(given, self.method, other)
        return given.by_class(alike(self.similarity, given.values, values).to(given.values.dtype))


@checked
def random_logit(
    model: nn.Module,
    images: Any,
    heatmaps: Tensor,
    target: Any = None,
    *,
    method: Explainer,
    similarity: Similarity = "ssim",
    seed: Seed = 0,
    **options: Any,
) -> Tensor:
    """The similarity of the maps of a class and of another, random class; less is better.

    Sixt, Granz and Landgraf, ICML 2020, arXiv:1912.09818. The other class is drawn once: it is the
    same number of classes further for all images.

    Args:
        model: see `parameter_randomisation`.
        images: see there.
        heatmaps: see there.
        target: see there; class indices.
        method: see there.
        similarity: ``"ssim"``, ``"spearman"``, ``"spearman_abs"`` or ``"hog"``.
        seed: the seed of the other class.
        options: see `camlib.metrics.average_drop`.

    Returns:
        Similarities ``(N,)``, or ``(N, K)`` for several classes per sample.

    Raises:
        TargetError: the target is not a class.
        CamlibError: see `parameter_randomisation`.
    """
    measure = RandomLogit(method, similarity, seed)
    return measured(measure, model, images, heatmaps, target, **options)


def _again(given: Given, method: Explainer, target: Any = None) -> Tensor:
    """The maps of `method` for the clean images now, by row."""
    rows = torch.arange(len(given.values), device=given.values.device)

    def explained(some: Tensor) -> Tensor:
        samples = given.samples(some)
        asked = None if target is None else target[samples]
        return explanations(given, method, some, given.image[samples], asked)

    with warnings.catch_warnings():  # empty maps are expected with random weights
        warnings.simplefilter("ignore", CamlibWarning)
        parts = [part for _, part in given.chunks.run(explained, rows, given.run.inputs.image)]
    return torch.cat(parts)
