"""Finding the tensor that is meant in what a model returned, or saying why it cannot be told."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from camlib.errors import TargetError
from camlib.targets.parts import EMBEDDINGS, TOKENS, Part, flat, listed, named, parts


def scores_in(output: Any) -> Tensor | None:
    """The class scores in `output`, of any shape; ``None`` where they cannot be told.

    They are what is called ``logits``; or the only candidate; or, beside embeddings, hidden states
    and maps, the only one that is named like an answer, or that comes first in a tuple without
    names, if no other fits ``(N, classes)``.
    """
    if isinstance(output, Tensor):
        return output
    held = named(output)
    if isinstance(known := held.get("logits"), Tensor):
        return known
    found = parts(output)
    if len(found) == 1 and not found[0].embeds:
        return found[0].tensor
    candidates = [part for part in found if part.candidate]
    if len(candidates) == 1 and not any(part.embeds for part in found):
        return candidates[0].tensor
    if held:
        answers = [part for part in candidates if part.answers]
    else:
        answers = [part for part in candidates[:1] if part.fits and len(part.names) == 1]
    if len(answers) != 1:
        return None
    [answer] = answers
    rivals = [part for part in candidates if part is not answer and (part.fits or not answer.fits)]
    return None if rivals else answer.tensor


def embedding_in(output: Any) -> Tensor | None:
    """The embedding ``(N, D)`` in `output`; ``None`` where it cannot be told.

    The mean over ``last_hidden_state`` ``(N, T, D)`` where nothing better is there.
    """
    if isinstance(output, Tensor):
        return flat(output) if flat(output).ndim == 2 else None
    held = {str(name).lower(): value for name, value in named(output).items()}
    for name in EMBEDDINGS:
        if isinstance(held.get(name), Tensor) and flat(held[name]).ndim == 2:
            return flat(held[name])
    tokens = held.get(TOKENS)
    if isinstance(tokens, Tensor) and tokens.ndim == 3:
        return tokens.mean(1)
    beside = [*held.values()] if held else output if isinstance(output, tuple | list) else []
    fitting = [part for part in beside if isinstance(part, Tensor) and part.ndim == 2]
    fitting = [part for part in fitting if part.is_floating_point()]
    return fitting[0] if len(fitting) == 1 else None


def only_embeds(output: Any) -> bool:
    """Whether `output` holds an embedding and nothing that could be class scores."""
    found = [] if isinstance(output, Tensor) else parts(output)
    unknown = any(part.candidate for part in found)
    return bool(found) and not unknown and embedding_in(output) is not None


def class_scores(output: Any, count: int | None = None) -> Tensor:
    """The class scores in what a model returned, ``(N, classes)`` or of more axes.

    Args:
        output: what the model returned.
        count: the number of samples, if it is to be checked.

    Raises:
        TargetError: there is no such tensor, more than one, one without a gradient, or not one row
            for each sample.
    """
    found = scores_in(output)
    if found is None:
        usable = [p for p in parts(output) if p.tensor.is_floating_point() and p.tensor.ndim]
        best = min(usable, key=_likely, default=None)
        advice = (
            f"pass a function, such as target=lambda out: {example(best.tensor, best.where, count)}"
            if best
            else "let it return floating-point scores"
        )
        raise TargetError(
            f"cannot tell the class scores in the model's output ({listed(output)}); {advice}"
        )
    if not found.is_floating_point():
        raise TargetError(
            f"the model returned {found.dtype} of shape {tuple(found.shape)}: integers have no "
            "gradient; let it return its scores, before argmax or a threshold"
        )
    if count is not None:
        check_samples(found, count, place_of(found, output))
    return found


def logits(output: Any, count: int | None = None) -> Tensor:
    """The class scores ``(N, classes)`` in what a model returned.

    Args:
        output: what the model returned.
        count: the number of samples, if it is to be checked.

    Raises:
        TargetError: there is no such tensor, more than one, or not one row for each sample.
    """
    found = class_scores(output, count)
    scores = found.reshape(-1, 1) if found.ndim < 2 else flat(found)
    if scores.ndim == 2:
        return scores
    function = f"such as target=lambda out: {example(found, place_of(found, output), count)}"
    if "pred_boxes" in named(output):
        advice = f"use camlib.targets.Detection(), or pass a function, {function}"
    elif found.ndim == 3:
        advice = (
            "for a text, (N, positions, vocabulary), use camlib.targets.Token(position); for the "
            f"predictions of a detector pass a function that gives each sample a score, {function}"
        )
    else:
        advice = (
            "use camlib.targets.Segment(classes), or pass a function that gives each sample a "
            f"score, {function}"
        )
    raise TargetError(
        f"expected class scores (N, classes), the model returned {tuple(found.shape)}; {advice}"
    )


def is_dense(output: Any, size: tuple[int, ...]) -> bool:
    """Whether `output` holds class scores at more than one place of an input of `size`."""
    found = scores_in(output)
    return found is not None and found.ndim == len(size) + 2 and flat(found).ndim > 2


def check_samples(found: Tensor, count: int, where: str = "out") -> None:
    """Nothing, if `found` has a row for each of `count` samples.

    Args:
        found: a tensor in the output.
        count: the number of samples.
        where: how to get at it.

    Raises:
        TargetError: it has not.
    """
    shape = tuple(found.shape)
    # One value for one sample: the axis of samples may be missing, and nothing is in doubt.
    if shape[:1] == (count,) or (not shape and count == 1):
        return
    plural = "s" * (count > 1)
    problem = f"the model returned scores of shape {shape} for {count} sample{plural}"
    if found.ndim in (2, 3) and shape[1] == count:
        raise samples_on_axis_1(found, count, where)
    if count == 1 and shape:
        width = shape[-1]
        function = (
            f", or pass target=lambda out: {where}.reshape(-1, {width})[:, {_class(width)}]"
            if found.ndim == 1
            else ""
        )
        raise TargetError(
            f"{problem}: it drops the axis of samples where there is one alone, as squeeze() "
            f"without a dimension does; let it use flatten(1) or squeeze(dim){function}"
        )
    raise TargetError(f"{problem}; does the input lack a batch axis?")


def samples_on_axis_1(found: Tensor, count: int, where: str = "out") -> TargetError:
    """The error for scores, of which the second axis has the samples."""
    plural = "s" * (count > 1)
    return TargetError(
        f"the model returned scores of shape {tuple(found.shape)} for {count} sample{plural}: the "
        "samples are on axis 1, as in the steps of a sequence (T, N, classes); pass a function, "
        f"such as target=lambda out: {example(found, where, count)}, or let the model return "
        "out.transpose(0, 1)"
    )


def place_of(found: Tensor, output: Any) -> str:
    """How to get at the tensor `found` in `output`."""
    return next((part.where for part in parts(output) if part.tensor is found), "out")


def example(found: Tensor, where: str, count: int | None) -> str:
    """An expression for a score of each sample in `found`, to be had at `where`."""
    if found.ndim < 2:
        return where
    first, second, last = found.shape[0], _class(found.shape[1]), _class(found.shape[-1])
    if count is not None and first != count == found.shape[1]:
        return (
            f"{where}[{_class(first)}]" if found.ndim == 2 else f"{where}[{first // 2}, :, {last}]"
        )
    if found.ndim == 2:
        return f"{where}[:, {second}]"
    if found.ndim == 3:
        _, one, other = found.shape
        # Of a detector: the values for a place are fewer than the places, and its box comes first.
        value = f":, {min(4, one - 1)}" if one < other else f":, :, {min(4, other - 1)}"
        return f"{where}[{value}].amax(1)"
    return f"{where}[:, {second}].flatten(1).mean(1)"


def _class(available: int) -> int:
    """A class to show in an example."""
    return min(3, available - 1)


def _likely(part: Part) -> tuple[bool, bool, bool]:
    """Sorts what is likely to be the class scores before what is not."""
    return not part.answers, not part.candidate, not part.fits
