"""How a model takes changed images, many at once: found out in one small pass, and remembered.

On a CPU, convolutions of many images are faster with channels last, and the same to rounding. A
model that makes views of what they return may not take them so. And a model may mix samples, as
norms with the statistics of the batch do: then what is changed in one is seen in the others.
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
        format: of memory, in which they come.
        mixes: whether a sample is answered differently in another batch.
        random: whether it is answered differently in the same batch too.
    """

    format: torch.memory_format = torch.preserve_format
    mixes: bool = False
    random: bool = False

    def warn_if_mixed(self, model: nn.Module) -> None:
        """A warning if `model` mixes samples."""
        if self.mixes:
            warn(
                f"{type(model).__name__} answers a sample differently in another batch (statistics "
                "of the batch, or random numbers), so a map from batches of changed inputs shows "
                "that too; explain one image a call, with batch_size=1, to keep them apart"
            )

    def warn_of_gradients(self, model: nn.Module) -> None:
        """A warning if the answers of `model` to other samples depend on a sample."""
        if self.mixes and not self.random:
            warn(
                f"{type(model).__name__} answers a sample differently in another batch (statistics "
                "of the batch): before that, the gradient at a sample is also that of the answers "
                "to the others; explain one image a call to keep them apart"
            )


def batching(
    model: nn.Module,
    given: Inputs,
    clean: Any,
    run: Callable[[Tensor, Tensor], Any],
    *,
    several: bool,
) -> Batching:
    """How `model` takes changed images; remembered for it as long as it lives.

    Args:
        model: without wrappers.
        given: the arguments of the clean pass.
        clean: what it returned.
        run: what the model returns for images ``(M, C, *size)`` of samples ``(M,)``.
        several: whether more than one runs at once.
    """
    image = given.image
    known = _known.setdefault(model, {})
    key = (image.shape[1:], image.dtype, image.device, len(given) > 1, several)
    if key not in known:
        # One sample alone, or behind another that is no copy of it.
        others = 2 if len(given) == 2 else 1  # another number than in the clean pass
        pair = torch.cat([*[image[:1] / 2] * others, image[:1]]) if several else image[:1]
        samples = torch.zeros(len(pair), dtype=torch.long, device=image.device)
        known[key] = Batching()
        for format in _formats(image) if several or len(given) > 1 else ():
            try:
                with torch.no_grad():
                    output = run(samples, pair.clone(memory_format=format))
                mixes = mixed(output, clean, samples[-1:])
                random = False
                if mixes:
                    with torch.no_grad():
                        again = run(samples, pair.clone(memory_format=format))
                    random = mixed(again, output, torch.arange(len(samples)))
                known[key] = Batching(format, mixes, random)
                break
            except Exception as error:  # a pass to come tells of it
                if not any(word in str(error) for word in _OF_FORMAT):
                    break
    found: Batching = known[key]
    return found


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
        known["mixed"] = batching(model, given, clean, run, several=False)
    known["mixed"].warn_of_gradients(model)


def check_order(model: nn.Module, given: Inputs, clean: Any, run: Callable[..., Any]) -> None:
    """Check that the samples come first in scores that have as many of something else.

    Sequences ``(T, N, classes)`` of as many steps as samples look as ``(N, T, classes)`` do, until
    there is a sample less; found out once for a model and a shape.

    Args:
        model: without wrappers.
        given: the arguments of the clean pass.
        clean: what it returned.
        run: what the model returns for images ``(M, C, *size)`` of samples ``(M,)``.

    Raises:
        TargetError: another axis has the samples.
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
    """Whether the last rows of `output` are others than those of `samples` in the `clean` one.

    Of the scores, or the embedding; where a model returns neither, nothing is known.
    """
    found, expected = _answers(output), _answers(clean)
    if found is None or expected is None or found.shape[1:] != expected.shape[1:]:
        return False
    rows = expected[samples.to(expected.device)]
    return not agree(found[-len(samples) :], rows, expected, 1 / 3)


def agree(found: Tensor, expected: Tensor, clean: Tensor, power: float) -> bool:
    """Whether `found` is `expected` up to rounding to a `power`, in the range of `clean`."""
    expected = expected.to(found)
    error = (found - expected).abs().where(found != expected, 0).max()
    rounding = float(torch.finfo(clean.dtype).eps) ** power
    scale = clean.abs().where(clean.isfinite(), 0).max()
    return bool(error <= rounding * scale.to(error))


def _answers(output: Any) -> Tensor | None:
    for found in (scores_in(output), embedding_in(output)):
        if found is not None and found.ndim and found.is_floating_point():
            return found.detach()
    return None


def _formats(image: Tensor) -> tuple[torch.memory_format, ...]:
    # The kernels of a CPU have it for images, and not in float64.
    if image.ndim != 4 or image.device.type != "cpu" or image.dtype == torch.float64:
        return (torch.preserve_format,)
    return torch.channels_last, torch.preserve_format


_OF_FORMAT = "view", "contiguous", "stride", "memory format"
"""What errors speak of where a model does not take images with channels last."""

_known: WeakKeyDictionary[nn.Module, dict[Any, Any]] = WeakKeyDictionary()
