"""Find out how a model takes a batch of changed images, in one small pass, and remember it.

On a CPU, convolutions of many images are faster with channels last, and equal up to rounding. Some
models cannot run so, because they make views of the results. A model may also mix samples, like a
norm with the statistics of the batch. Then a change in one sample affects the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from camlib.errors import warn
from camlib.passes.inputs import Inputs
from camlib.targets.outputs import embedding_in, place_of, samples_on_axis_1, scores_in


@dataclass(frozen=True)
class Batching:
    """How a model takes changed images.

    Attributes:
        format: the memory format of the images.
        mixes: whether a sample gets another answer in another batch.
    """

    format: torch.memory_format = torch.preserve_format
    mixes: bool = False

    def warn_if_mixed(self, model: nn.Module) -> None:
        """Warn if `model` mixes samples."""
        if self.mixes:
            warn(
                f"{type(model).__name__} answers a sample differently in another batch (batch "
                "statistics, or random numbers), so a map from batches of changed inputs shows "
                "that too; explain one image at a time, with batch_size=1, to keep them apart"
            )


def batching(
    model: nn.Module,
    given: Inputs,
    clean: Any,
    run: Callable[[Tensor, Tensor], Any],
    *,
    several: bool,
) -> Batching:
    """How `model` takes changed images; remembered for the life of the model.

    Args:
        model: the model, without wrappers.
        given: the arguments of the clean pass.
        clean: the output of the clean pass.
        run: runs the model on images ``(M, C, *size)`` of samples ``(M,)``.
        several: whether more than one image runs at once.
    """
    image = given.image
    known = _known.setdefault(model, {})
    key = (image.shape[1:], image.dtype, image.device, len(given) > 1, several)
    if key not in known:
        # One sample alone, or after another one that is not a copy of it. The number of samples
        # differs from that of the clean pass.
        others = 2 if len(given) == 2 else 1
        pair = torch.cat([*[image[:1] / 2] * others, image[:1]]) if several else image[:1]
        samples = torch.zeros(len(pair), dtype=torch.long, device=image.device)
        known[key] = Batching()
        for format in _formats(image) if several or len(given) > 1 else ():
            try:
                with torch.no_grad():
                    output = run(samples, pair.clone(memory_format=format))
                known[key] = Batching(format, mixed(output, clean, samples[-1:]))
                break
            except Exception as error:  # the method's own pass will raise it
                if not any(word in str(error) for word in _OF_FORMAT):
                    break
    how: Batching = known[key]
    return how


def warn_of_mixed(
    model: nn.Module, given: Inputs, clean: Any, run: Callable[[Tensor, Tensor], Any]
) -> None:
    """A warning if the gradients of all scores of `model` are not those of each sample.

    Found out once for a model, with one sample alone.

    Args:
        model: without wrappers.
        given: the arguments of the clean pass, of several samples.
        clean: what it returned.
        run: what the model returns for images ``(M, C, *size)`` of samples ``(M,)``.
    """
    known = _known.setdefault(model, {})
    if "mixed" not in known:
        known["mixed"] = batching(model, given, clean, run, several=False).mixes
        if known["mixed"]:  # unless random numbers make each answer another
            one = torch.zeros(1, dtype=torch.long, device=given.image.device)
            with torch.no_grad():
                first, second = (run(one, given.image[:1].clone()) for _ in range(2))
            known["mixed"] = not mixed(first, second, one)
    if known["mixed"]:
        warn(
            f"{type(model).__name__} answers a sample differently in another batch (batch "
            "statistics); before that, the gradient at one sample is also that of the answers to "
            "the others; explain one image at a time to keep them apart"
        )


def check_order(model: nn.Module, given: Inputs, clean: Any, run: Callable[..., Any]) -> None:
    """Check that samples come first in scores whose first two axes have the same length.

    Scores ``(T, N, classes)`` with as many steps as samples look like ``(N, T, classes)``. A pass
    with one sample less tells them apart, once for a model and a shape.

    Args:
        model: the model, without wrappers.
        given: the arguments of the clean pass.
        clean: the output of the clean pass.
        run: runs the model on images ``(M, C, *size)`` of samples ``(M,)``.

    Raises:
        TargetError: samples are on the second axis.
    """
    scores, count = scores_in(clean), len(given)
    if scores is None or scores.ndim < 3 or scores.shape[:2] != (count, count) or count < 2:
        return
    known = _known.setdefault(model, {})
    key = "order", given.image.shape[1:], scores.shape
    if key not in known:
        samples = torch.arange(count - 1, device=given.image.device)
        with torch.no_grad():
            fewer = scores_in(run(samples, given.image[: count - 1].clone()))
        known[key] = fewer is not None and fewer.shape[:2] == (count, count - 1)
    if known[key]:
        raise samples_on_axis_1(scores, count, place_of(scores, clean))


def mixed(output: Any, clean: Any, samples: Tensor) -> bool:
    """Whether the last rows of `output` differ from those of `samples` in the `clean` output.

    It compares scores, or embeddings; the answer is no for a model that returns neither.
    """
    answers, expected = _answers(output), _answers(clean)
    if answers is None or expected is None or answers.shape[1:] != expected.shape[1:]:
        return False
    rows = expected[samples.to(expected.device)]
    return not agree(answers[-len(samples) :], rows, expected, 1 / 3)


def agree(answers: Tensor, expected: Tensor, clean: Tensor, power: float) -> bool:
    """Whether `answers` equal `expected` up to ``eps ** power`` of the range of `clean`."""
    expected = expected.to(answers)
    error = (answers - expected).abs().where(answers != expected, 0).max()
    rounding = float(torch.finfo(clean.dtype).eps) ** power
    scale = clean.abs().where(clean.isfinite(), 0).max()
    return bool(error <= rounding * scale.to(error))


def _answers(output: Any) -> Tensor | None:
    for answers in (scores_in(output), embedding_in(output)):
        if answers is not None and answers.ndim and answers.is_floating_point():
            return answers.detach()
    return None


def _formats(image: Tensor) -> tuple[torch.memory_format, ...]:
    # CPU kernels for channels last exist for images only, and not in float64.
    if image.ndim != 4 or image.device.type != "cpu" or image.dtype == torch.float64:
        return (torch.preserve_format,)
    return torch.channels_last, torch.preserve_format


_OF_FORMAT = "view", "contiguous", "stride", "memory format"
"""Words in the errors of models that cannot take images with channels last."""

_known: WeakKeyDictionary[nn.Module, dict[Any, Any]] = WeakKeyDictionary()
