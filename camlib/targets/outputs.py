"""Find the class scores or the embedding in the output of a model, or raise a helpful error."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from camlib.errors import TargetError
from camlib.targets.parts import EMBEDDINGS, TOKENS, Part, flat, listed, named, parts


def scores_in(output: Any) -> Tensor | None:
    """The class scores in `output`, of any shape; ``None`` if it is not clear which they are.

    A tensor named ``logits`` comes first, then the only candidate. Next to embeddings, hidden
    states and maps, it is the only tensor with a name like an answer, or the first one of a tuple
    without names, if no other fits ``(N, classes)``.
    """
    if isinstance(output, Tensor):
        return output
    held = named(output)
    if isinstance(known := held.get("logits"), Tensor):
        return known
    every = parts(output)
    if len(every) == 1 and not every[0].embeds:
        return every[0].tensor
    candidates = [part for part in every if part.candidate]
    if len(candidates) == 1 and not any(part.embeds for part in every):
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
    """The embedding ``(N, D)`` in `output`; ``None`` if it is not clear which it is.

    If there is nothing better, it is the mean over ``last_hidden_state`` ``(N, T, D)``.
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
    every = [] if isinstance(output, Tensor) else parts(output)
    unknown = any(part.candidate for part in every)
    return bool(every) and not unknown and embedding_in(output) is not None


def class_scores(output: Any, count: int | None = None) -> Tensor:
    """The class scores in the output of a model, ``(N, classes)`` or with more axes.

    Args:
        output: the output.
        count: the number of samples to check for; ``None`` for no check.

    Raises:
        TargetError: `output` has no class scores, or several tensors that could be, or integers, or
            another number of rows.
    """
    scores = scores_in(output)
    if scores is None:
        usable = [p for p in parts(output) if p.tensor.is_floating_point() and p.tensor.ndim]
        best = min(usable, key=_likely, default=None)
        advice = (
            f"pass a function, such as target=lambda out: {example(best.tensor, best.where, count)}"
            if best
            else "let it return floating-point scores"
        )
        raise TargetError(
            f"camlib cannot find the class scores in the model's output ({listed(output)}); "
            f"{advice}"
        )
    if not scores.is_floating_point():
        raise TargetError(
            f"the model returned {scores.dtype} of shape {tuple(scores.shape)}: integers have no "
            "gradient; let it return its scores, before argmax or a threshold"
        )
    if count is not None:
        check_samples(scores, count, place_of(scores, output))
    return scores


def logits(output: Any, count: int | None = None) -> Tensor:
    """The class scores ``(N, classes)`` in the output of a model.

    Args:
        output: the output.
        count: the number of samples to check for; ``None`` for no check.

    Raises:
        TargetError: `output` has no such class scores, or several tensors that could be, or another
            number of rows.
    """
    raw = class_scores(output, count)
    scores = raw.reshape(-1, 1) if raw.ndim < 2 else flat(raw)
    if scores.ndim == 2:
        return scores
    function = f"such as target=lambda out: {example(raw, place_of(raw, output), count)}"
    if "pred_boxes" in named(output):
        advice = f"use camlib.targets.Detection(), or pass a function, {function}"
    elif raw.ndim == 3:
        advice = (
            "for a text (N, positions, vocabulary), use camlib.targets.Token(position); for a "
            f"detector, pass a function that gives each sample a score, {function}"
        )
    else:
        advice = (
            "use camlib.targets.Segment(classes), or pass a function that gives each sample a "
            f"score, {function}"
        )
    raise TargetError(
        f"expected class scores (N, classes), but the model returned {tuple(raw.shape)}; {advice}"
    )


def is_dense(output: Any, size: tuple[int, ...]) -> bool:
    """Whether `output` holds class scores at more than one place of an input of `size`."""
    scores = scores_in(output)
    return scores is not None and scores.ndim == len(size) + 2 and flat(scores).ndim > 2


def check_samples(scores: Tensor, count: int, where: str = "out") -> None:
    """Check that `scores` have a row for each of `count` samples.

    Args:
        scores: a tensor in the output.
        count: the number of samples.
        where: the expression for it.

    Raises:
        TargetError: they do not.
    """
    shape = tuple(scores.shape)
    # A single value for a single sample is unambiguous without an axis of samples.
    if shape[:1] == (count,) or (not shape and count == 1):
        return
    if scores.ndim in (2, 3) and shape[1] == count:
        raise samples_on_axis_1(scores, count, where)
    problem = _returned(shape, count)
    if count == 1 and shape:
        width = shape[-1]
        function = (
            f", or pass target=lambda out: {where}.reshape(-1, {width})[:, {_class(width)}]"
            if scores.ndim == 1
            else ""
        )
        raise TargetError(
            f"{problem}: it drops the axis of samples if there is only one, like squeeze() "
            f"without a dimension; let it use flatten(1) or squeeze(dim){function}"
        )
    raise TargetError(f"{problem}; does the input lack a batch axis?")


def samples_on_axis_1(scores: Tensor, count: int, where: str = "out") -> TargetError:
    """The error for scores with samples on their second axis."""
    return TargetError(
        f"{_returned(tuple(scores.shape), count)}: the samples are on axis 1, as in the steps of a "
        "sequence (T, N, classes); pass a function, such as target=lambda out: "
        f"{example(scores, where, count)}, or let the model return out.transpose(0, 1)"
    )


def _returned(shape: tuple[int, ...], count: int) -> str:
    samples = "1 sample" if count == 1 else f"{count} samples"
    return f"the model returned scores of shape {shape} for {samples}"


def place_of(scores: Tensor, output: Any) -> str:
    """An expression for the tensor `scores` in `output`."""
    return next((part.where for part in parts(output) if part.tensor is scores), "out")


def example(scores: Tensor, where: str, count: int | None) -> str:
    """An expression for a score of each sample in `scores`, which is at `where`."""
    if scores.ndim < 2:
        return where
    first, second, last = scores.shape[0], _class(scores.shape[1]), _class(scores.shape[-1])
    if count is not None and first != count == scores.shape[1]:
        if scores.ndim == 2:
            return f"{where}[{_class(first)}]"
        return f"{where}[{first // 2}, :, {last}]"
    if scores.ndim == 2:
        return f"{where}[:, {second}]"
    if scores.ndim == 3:
        _, one, other = scores.shape
        # A detector has more places than values at each, and the values start with the box.
        value = f":, {min(4, one - 1)}" if one < other else f":, :, {min(4, other - 1)}"
        return f"{where}[{value}].amax(1)"
    return f"{where}[:, {second}].flatten(1).mean(1)"


def _class(available: int) -> int:
    """A class for an example."""
    return min(3, available - 1)


def _likely(part: Part) -> tuple[bool, bool, bool]:
    """A sort key that puts likely class scores first."""
    return not part.answers, not part.candidate, not part.fits
