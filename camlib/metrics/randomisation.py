"""What a map depends on: the weights of the model, and the class that is asked about.

A map that stays as it is when the weights become random shows the image, not the model. Two
cautions. The layers before the one that a class activation map is of stay intact until the cascade
reaches them: look at single layers, ``order="independent"``, as well. And how alike two maps are
depends on noise and on the measure: Binder et al., CVPR 2023, arXiv:2211.12486.
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
from camlib.metrics.stability import Asking, Explainer, check_method, explanations
from camlib.passes.forward import Pass
from camlib.passes.names import unwrap
from camlib.state.undoing import Called
from camlib.targets import logits
from camlib.targets.classes import ClassTarget

Order = Literal["cascading", "independent"]
"""Random weights from the output down to each layer, or in each layer alone."""


@dataclass(frozen=True, eq=False)
class Randomisation:
    """How alike maps stay while weights become random.

    Attributes:
        layers: dotted names, in the order in which they were made random.
        similarity: by name, ``(L, N)``, or ``(L, N, K)`` for several classes a sample: how alike
            the map of the model and that of the randomised one are.
        order: ``"cascading"`` or ``"independent"``.
    """

    layers: tuple[str, ...]
    similarity: dict[str, Tensor]
    order: Order

    def __repr__(self) -> str:
        names = ", ".join(self.similarity)
        return f"Randomisation({self.order}, {len(self.layers)} layers, {names})"


def parameter_randomisation(
    model: nn.Module,
    images: Any,
    heatmaps: Tensor,
    target: Any = None,
    *,
    method: Explainer,
    order: Order = "cascading",
    layers: Sequence[str] | None = None,
    similarity: Sequence[Similarity] = ("spearman", "ssim", "hog"),
    weights: Draw = "permuted",
    seed: int = 0,
    **options: Any,
) -> Randomisation:
    """How alike maps stay when layer after layer of the model gets random weights.

    Adebayo et al., NeurIPS 2018, arXiv:1810.03292, who draw weights anew. Here their values change
    places by default, so that activations keep their scale: a deep network that is drawn anew may
    let nothing through. The model's own weights are not touched: others stand in for them, for the
    length of the call. Other threads that run the model meanwhile see those.

    Args:
        model: any network; it is left as found.
        images: see `camlib.Method.__call__`.
        heatmaps: what `method` finds, ``(N, H, W)`` or attributions; ``(N, K, ...)`` for several
            classes a sample.
        target: see `camlib.Method.__call__`; ``None`` for the class that the model predicts as it
            is, which is asked about throughout.
        method: what made the heatmaps: a method of this model, or a function of images and classes.
        order: ``"cascading"``, from the output down to each layer; or ``"independent"``, each
            layer alone.
        layers: dotted names, in the order they are to be made random; by default all modules with
            weights of their own, from the last on. A container stands for all in it.
        similarity: some of ``"spearman"``, ``"spearman_abs"`` (of absolute values), ``"ssim"`` and
            ``"hog"``.
        weights: ``"permuted"``, or ``"reset"`` by each module's own ``reset_parameters``.
        seed: of the random numbers.
        options: see `camlib.metrics.average_drop`.

    Raises:
        InputError: the heatmaps do not fit, `method` explains another model, or an option has no
            such value.
        LayerError: there is no such layer, or it has no weights.
        CamlibError: the inputs or the target do not fit the model; see the message.
    """
    check_method("parameter_randomisation", method)
    names = [similarity] if isinstance(similarity, str) else list(similarity)
    check_similarity(*names)
    if order not in ("cascading", "independent"):
        raise InputError(f"order={order!r} is not known; use 'cascading' or 'independent'")
    if isinstance(method, Method) and unwrap(method.model) is not unwrap(model):
        raise InputError(
            f"method={type(method).__name__} explains another model than the one whose weights "
            "become random; make it of this model"
        )
    measuring = Measuring(model, **options)
    with Called(), measuring._prepared(images) as (plain, inputs), torch.no_grad():
        given = Given.of(Pass.of(plain, inputs, target, (), "none"), heatmaps, measuring.chunks)
        chosen = weighted(plain, layers)
        found: dict[str, list[Tensor]] = {name: [] for name in names}
        for step in range(len(chosen)):
            some = chosen[: step + 1] if order == "cascading" else chosen[step : step + 1]
            with randomised(plain, some, weights, seed):
                values = _again(given, method)
            for name in names:
                like = alike(name, given.values, values).to(given.values.dtype)
                found[name].append(given.shaped(given.by_class(like)))
        stacked = {name: torch.stack(each) for name, each in found.items()}
    return Randomisation(tuple(chosen), stacked, order)


class RandomLogit(Asking):
    """See `random_logit`."""

    name = "random_logit"
    higher = False

    def __init__(
        self,
        method: Explainer | None = None,
        similarity: Similarity = "ssim",
        seed: int = 0,
    ) -> None:
        super().__init__(method)
        check_similarity(similarity)
        self.similarity = similarity
        self.seed = seed

    def values(self, given: Given) -> Tensor:
        """How alike the map and that of another class are."""
        target = given.run.target
        if not isinstance(target, ClassTarget):
            raise TargetError(
                f"random_logit asks about another class, and {target!r} is no class; pass class "
                "indices"
            )
        available = max(logits(given.run.output).shape[1], 2)
        step = 1 + int(Draws(self.seed).numbers(available - 1))
        other = target.replaced(classes=(target.classes + step) % available)
        values = _again(given, self.method, other)
        return given.by_class(alike(self.similarity, given.values, values).to(given.values.dtype))


def random_logit(
    model: nn.Module,
    images: Any,
    heatmaps: Tensor,
    target: Any = None,
    *,
    method: Explainer,
    similarity: Similarity = "ssim",
    seed: int = 0,
    **options: Any,
) -> Tensor:
    """How alike the map of a class and that of a random other class are; less is better.

    Sixt, Granz and Landgraf, ICML 2020, arXiv:1912.09818. The other class is drawn once: it lies
    as many classes further for all images.

    Args:
        model: see `parameter_randomisation`.
        images: see there.
        heatmaps: see there.
        target: see there; classes.
        method: see there.
        similarity: ``"ssim"``, ``"spearman"``, ``"spearman_abs"`` or ``"hog"``.
        seed: of the other class.
        options: see `camlib.metrics.average_drop`.

    Returns:
        Similarities ``(N,)``, or ``(N, K)`` for several classes a sample.

    Raises:
        TargetError: the target is no class.
        CamlibError: see `parameter_randomisation`.
    """
    measure = RandomLogit(method, similarity, seed)
    return measured(measure, model, images, heatmaps, target, **options)


def _again(given: Given, method: Explainer, target: Any = None) -> Tensor:
    """What `method` finds in the clean images now, by row."""
    rows = torch.arange(len(given.values), device=given.values.device)

    def found(some: Tensor) -> Tensor:
        samples = given.samples(some)
        asked = None if target is None else target[samples]
        return explanations(given, method, some, given.image[samples], asked)

    with warnings.catch_warnings():  # that random weights leave nothing to show is no news
        warnings.simplefilter("ignore", CamlibWarning)
        parts = [part for _, part in given.chunks.run(found, rows, given.run.inputs.image)]
    return torch.cat(parts)
