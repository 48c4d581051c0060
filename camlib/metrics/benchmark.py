"""Measure many methods on the same images: faithfulness, localisation, dependence and cost.

Baselines that explain nothing are measured beside the methods. A method is worth its cost if it
beats them, and the differences are paired: every method explains the same class of each image.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from camlib.errors import CamlibError, InputError
from camlib.methods.base import Method
from camlib.methods.class_agnostic import CenterGaussian, LaFAM, RandomCAM
from camlib.metrics.comparison import COLUMNS, Comparison
from camlib.metrics.faithfulness import USUAL, faithfulness
from camlib.metrics.localisation import (
    energy_pointing_game,
    iou,
    pixel_average_precision,
    pointing_game,
)
from camlib.metrics.measures import Measuring
from camlib.metrics.randomisation import parameter_randomisation, random_logit
from camlib.metrics.randomised import weighted
from camlib.metrics.stability import Explainer
from camlib.options import Count, checked
from camlib.passes.chunks import Progress
from camlib.passes.forward import Pass
from camlib.passes.names import unwrap
from camlib.state.hooks import hook_before
from camlib.state.undoing import Called, Undoing
from camlib.targets.classes import Asked, Probability

TOLERANCE = 0.03
"""The tolerance of the pointing game, as a share of the shorter side: 15 of 500 pixels on VOC."""

Values = dict[str, list[float]]
"""The value of each image by the name of the metric; NaN if it has none."""

Kept = MutableMapping[tuple[str, int], Values]
"""What was measured before, by method and number of the batch."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """A batch of images with what is known of them.

    Attributes:
        inputs: what the model gets, see `camlib.Method.__call__`; ``N`` images.
        classes: the class to explain of each, ``(N,)``; ``None`` for the predicted one.
        masks: the objects of the class, bool ``(N, H, W)`` at the size of the input. An empty mask
            means that the place of the object is not known.
        others: the objects of other classes, of the same shape.
    """

    inputs: Any
    classes: Tensor | None = None
    masks: Tensor | None = None
    others: Tensor | None = None


class Batches(Protocol):
    """Batches of images by number, such as a list of them."""

    def __len__(self) -> int:
        """The number of batches."""
        ...

    def __getitem__(self, number: int, /) -> Labelled:
        """One of them."""
        ...


@checked
def evaluate(
    model: nn.Module,
    methods: Mapping[str, Explainer],
    batches: Batches,
    *,
    activation: Literal["softmax", "sigmoid", "none"] = "softmax",
    layer: Any = None,
    batch_size: Count | None = None,
    kept: Kept | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Measure `methods` and the baselines on the same images.

    The columns are described in `camlib.metrics.comparison`. Attributions of pixels count as maps
    of their absolute values, summed over colours and divided by their maximum.

    Args:
        model: any classifier; it is left unchanged.
        methods: by name, methods of `model`, or functions of images and classes.
        batches: the images. A batch is asked for only if something of it is still to be measured.
        activation: how outputs become probabilities: ``"sigmoid"`` if several classes may be
            present at once, ``"none"`` if the model returns probabilities.
        layer: the layer of the baselines that look at one; by default the one that methods choose.
        batch_size: the number of changed images at once; by default, as many as fit into memory.
        kept: what was measured before. It is completed while the call runs, so that an interrupted
            call can be continued.
        progress: wraps the loop over batches and methods, such as `tqdm.tqdm`.

    Returns:
        The values, with the reason for each method that does not fit the model.

    Raises:
        InputError: there are no images, or `activation` is not known.
        CamlibError: a baseline does not fit the model; see the message.

    Example:
        >>> batch = Labelled(images, classes, masks)
        >>> found = evaluate(model, {"grad_cam": GradCAM(model)}, [batch])
        >>> found.rows()[0].cells["insertion"].mean
    """
    if not len(batches):
        raise InputError("batches is empty; expected at least one batch of images")
    kept = {} if kept is None else kept
    plain = baselines(model, layer)
    every = {**{name: each for name, each in methods.items() if name not in plain}, **plain}
    failed: dict[str, str] = {}
    work = [(number, name) for number in range(len(batches)) for name in every]
    seen: _Seen | None = None
    for number, name in work if progress is None else progress(work):
        if name in failed or (name, number) in kept:
            continue
        if seen is None or seen.number != number:
            seen = _Seen.of(model, batches[number], number)
        try:
            kept[name, number] = _measured(model, every[name], seen, activation, batch_size)
        except CamlibError as error:
            if name in plain:
                raise
            failed[name] = str(error)
    values = {
        name: {
            column: torch.tensor(
                [value for number in range(len(batches)) for value in kept[name, number][column]],
                dtype=torch.float64,
                device="cpu",
            )
            for column in COLUMNS
        }
        for name in every
        if name not in failed
    }
    return Comparison(values, tuple(plain), failed)


def baselines(model: nn.Module, layer: Any = None) -> dict[str, Explainer]:
    """Maps that explain nothing, by name.

    All ones, a Gaussian in the middle, random weights of channels, the mean activation, and the
    edges of the image.
    """
    return {
        "ones": ones,
        "center_gaussian": CenterGaussian(model, layer),
        "random_cam": RandomCAM(model, layer),
        "lafam": LaFAM(model, layer),
        "edges": edges,
    }


def ones(images: Tensor, classes: Any = None) -> Tensor:
    """Maps ``(N, H, W)`` that hide nothing of images ``(N, C, H, W)``."""
    return torch.ones_like(images[:, 0])


def edges(images: Tensor, classes: Any = None) -> Tensor:
    """The strength of edges ``(N, H, W)`` in [0, 1]: the gradient of the mean colour."""
    grey = images.mean(1)
    down, across = torch.gradient(grey, dim=(1, 2))
    return _scaled(torch.hypot(down, across))


def predicted(model: nn.Module, inputs: Any) -> Tensor:
    """The classes ``(N,)`` that `model` predicts for `inputs`, on the CPU."""
    return _Seen.of(model, Labelled(inputs), 0).classes


@dataclass(frozen=True, eq=False)
class _Seen:
    """A batch after a clean pass."""

    batch: Labelled
    number: int
    image: Tensor
    axis: int
    classes: Tensor

    @classmethod
    def of(cls, model: nn.Module, batch: Labelled, number: int) -> _Seen:
        measuring = Measuring(model)
        with Called(), measuring._prepared(batch.inputs) as (plain, inputs), torch.no_grad():
            run = Pass.of(plain, inputs, batch.classes, (), "none")
            classes: Any = run.target
            axis = 1 if inputs.axis is None else inputs.axis
            return cls(batch, number, inputs.arranged, axis, classes.classes.cpu())


def _measured(
    model: nn.Module, method: Explainer, seen: _Seen, activation: str, batch_size: int | None
) -> Values:
    """The values of one method for one batch."""
    inputs, classes = seen.batch.inputs, seen.classes
    probable: Any = Probability(classes, "sigmoid") if activation == "sigmoid" else classes
    # A method that weighs with probabilities makes those of a softmax itself.
    asked = probable if hasattr(method, "score") else classes
    with _counting(model) as passes:
        _wait_for(seen.image.device)
        start = time.perf_counter()
        found = method(inputs, asked) if isinstance(method, Method) else method(seen.image, classes)
        _wait_for(seen.image.device)
        seconds = time.perf_counter() - start
    count = len(found)
    maps = _scaled(found.abs().sum(seen.axis)) if found.ndim == 4 else found
    options: dict[str, Any] = {"batch_size": batch_size}
    score: Asked = "logit" if activation == "none" else "probability"
    settings = {name: {"score": score} for name in USUAL}
    values = faithfulness(model, inputs, maps, probable, metrics=settings, **options)
    values |= _placed(maps, seen.batch)
    last = weighted(unwrap(model), None)[:1]
    options["method"] = method
    random = parameter_randomisation(
        model, inputs, found, asked, layers=last, similarity=["spearman_abs"], **options
    )
    other = random_logit(model, inputs, found, asked, similarity="spearman_abs", **options)
    # Less than unlike is not better.
    values["parameter_randomisation"] = random.similarity["spearman_abs"][0].clamp(min=0)
    values["random_logit"] = other.clamp(min=0)
    each = torch.ones(count, dtype=torch.float64)
    values |= {"passes": each * passes[0] / count, "milliseconds": each * 1000 * seconds / count}
    return {name: values[name].double().tolist() for name in COLUMNS}


def _wait_for(device: torch.device) -> None:
    """Wait for work that was handed to an accelerator."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _placed(maps: Tensor, batch: Labelled) -> dict[str, Tensor]:
    """The values of localisation; NaN where the place of the object is not known."""
    nothing = torch.zeros_like(maps, dtype=torch.bool)
    masks = nothing if batch.masks is None else batch.masks.to(maps.device)
    others = nothing if batch.others is None else batch.others.to(maps.device)
    return {
        "energy_pointing_game": energy_pointing_game(maps, masks),
        "on_others": energy_pointing_game(maps, others & ~masks),
        "pointing_game": 100
        * pointing_game(maps, masks, tolerance=round(TOLERANCE * min(maps.shape[1:]))),
        "iou": iou(maps, masks),
        "pixel_average_precision": pixel_average_precision(maps, masks),
    }


def _scaled(maps: Tensor) -> Tensor:
    """`maps` ``(N, H, W)`` of 0 or more, each divided by its maximum."""
    peak = maps.amax((1, 2), keepdim=True)
    return maps / peak.where(peak > 0, 1)


@contextmanager
def _counting(model: nn.Module) -> Iterator[list[int]]:
    """The number of samples that `model` runs in the block, in a list of one number."""
    passes = [0]

    def count(_module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        tensors = [each for each in (*given, *named.values()) if isinstance(each, Tensor)]
        passes[0] += len(tensors[0]) if tensors else 1

    with Undoing() as undo:
        hook_before(undo, unwrap(model), count, with_kwargs=True)
        yield passes
