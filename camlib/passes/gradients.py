"""The gradients of scores: many classes from one backward pass, and no ``.grad`` touched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from camlib.errors import GraphError
from camlib.passes.inputs import plain
from camlib.passes.means import mean_of, spread_out, users_of

_CHUNK_BYTES = 2**27

_UNREACHED = (
    "no gradient flows from the score to {!r}: another part of the model gives the answer, or what "
    "lies between is detached, runs under torch.no_grad() or inference_mode(), or the target is "
    "not differentiable; choose another layer or target"
)


def gradients(
    scores: Tensor,
    tensors: Sequence[Tensor],
    names: Sequence[str],
    *,
    create_graph: bool = False,
    retain_graph: bool = False,
    allow_unused: bool = False,
    alone: bool = False,
) -> Iterator[list[Tensor]]:
    """The gradient of every score at each of `tensors`, in chunks of classes.

    Samples do not mix in evaluation mode, so one backward pass serves the whole batch. Several
    classes share one batched backward pass, or take one each where an operator cannot be batched
    or is written in Python. No ``.grad`` is touched.

    Args:
        scores: ``(N, K)``.
        tensors: what to differentiate by, each ``(N, ...)``.
        names: what each of them is, for errors.
        create_graph: whether the gradients can be differentiated again.
        retain_graph: whether others can be taken from the same pass.
        allow_unused: whether a tensor that the scores do not depend on has gradient zero, if they
            depend on another.
        alone: whether each class takes a backward pass of its own, as where somebody's hooks see
            the gradients on their way.

    Yields:
        For each of `tensors`, ``(k, N, ...)``: the next ``k`` classes. Chunks bound the memory.

    Raises:
        GraphError: the scores do not depend on one of `tensors`, or on nothing at all.
    """
    for name, tensor in zip(names, tensors, strict=True):
        if not (scores.requires_grad and tensor.requires_grad):
            raise GraphError(_UNREACHED.format(name))
    classes = scores.shape[1]
    bytes_per_class = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    step = max(1, _CHUNK_BYTES // max(1, bytes_per_class))
    users = users_of(scores, tensors) if classes > 1 else {}
    alone = alone or not all(map(_batches, users))
    ends = [get_gradient_edge(tensor) for tensor in tensors]
    means = [None if alone or create_graph else mean_of(end, users) for end in ends]
    backward = _Backward(scores, create_graph, alone)
    for start in range(0, classes, step):
        chunk = slice(start, min(start + step, classes))
        keep = create_graph or retain_graph or chunk.stop < classes
        cotangents = _one_hot(scores, chunk)
        found = (any(means) and _behind_means(backward, ends, means, cotangents)) or backward(
            ends, cotangents, keep=keep
        )
        unused = allow_unused and any(gradient is not None for gradient in found)
        reached = []
        for name, tensor, gradient in zip(names, tensors, found, strict=True):
            if gradient is None and not unused:
                raise GraphError(_UNREACHED.format(name))
            if gradient is None:
                gradient = tensor.new_zeros(chunk.stop - chunk.start, *tensor.shape)
            reached.append(gradient)
        yield reached


def reached(
    scores: Tensor, tensors: Sequence[Tensor], names: Sequence[str], *, retain_graph: bool = False
) -> Sequence[Tensor | None]:
    """The gradient of each sample's scores at each of `tensors`, ``None`` where none arrives.

    The scores count 1, 1/2, 1/3 and so on: probabilities of all classes would cancel.

    Args:
        scores: ``(N, K)``.
        tensors: what to differentiate by.
        names: what each of them is, for errors.
        retain_graph: whether others can be taken from the same pass.

    Raises:
        GraphError: the scores depend on nothing at all.
    """
    if not scores.requires_grad:
        raise GraphError(_UNREACHED.format(names[0]))
    numbers = torch.arange(1, scores.shape[1] + 1, device=scores.device)
    cotangent = 1 / numbers.to(scores).expand_as(scores)
    with _overwriting():
        return torch.autograd.grad(
            scores, tensors, cotangent, retain_graph=retain_graph, allow_unused=True
        )


@dataclass(frozen=True)
class _Backward:
    """Backward passes from `scores` ``(N, K)``.

    Attributes:
        scores: where they begin.
        create_graph: whether they can be differentiated again.
        alone: whether each class takes one of its own.
    """

    scores: Tensor
    create_graph: bool
    alone: bool

    def __call__(
        self, ends: Sequence[GradientEdge], cotangents: Tensor, *, keep: bool
    ) -> Sequence[Tensor | None]:
        """The gradients ``(k, ...)`` at `ends`, of `cotangents` ``(k, N, K)`` at the scores."""
        several = len(cotangents) > 1
        with _overwriting(), torch.set_grad_enabled(self.create_graph or torch.is_grad_enabled()):
            if several and not self.alone:
                with suppress(RuntimeError):  # an operator without a batching rule
                    return self._pass(ends, cotangents, keep=True, batched=True)
            rows = [
                self._pass(ends, cotangent, keep=keep or several, batched=False)
                for cotangent in cotangents
            ]
            if not several:  # without a copy
                return [None if part is None else part[None] for part in rows[0]]
            return [
                None if parts[0] is None else torch.stack([p for p in parts if p is not None])
                for parts in zip(*rows, strict=True)
            ]

    def _pass(
        self, ends: Sequence[GradientEdge], cotangent: Tensor, *, keep: bool, batched: bool
    ) -> Sequence[Tensor | None]:
        found = torch.autograd.grad(
            self.scores,
            ends,
            cotangent,
            retain_graph=keep,
            create_graph=self.create_graph,
            allow_unused=True,
            is_grads_batched=batched,
        )
        return [None if gradient is None else plain(gradient) for gradient in found]


_KNOWN = {
    "Inference tensors cannot be saved for backward": (
        "the model, or a part of it, was made under torch.inference_mode(), so that no gradient "
        "can be taken: make it outside of that block, or use ScoreCAM, which takes none"
    ),
    "not compatible with .grad()": (
        "the model runs a checkpoint of its own kind that is reentrant, through which no gradient "
        "can be taken at a layer: turn checkpointing off, or use use_reentrant=False"
    ),
}
"""What PyTorch says, and what helps."""


@contextmanager
def _overwriting() -> Iterator[None]:
    """A backward pass in the block; an error that helps, if the model overwrote what it needs."""
    try:
        yield
    except RuntimeError as error:
        for said, advice in _KNOWN.items():
            if said in str(error):
                raise GraphError(f"{advice}; PyTorch says: {error}") from error
        if "modified by an inplace operation" not in str(error):
            raise
        raise GraphError(
            "the model changes in place what its own backward pass needs, so that no gradient can "
            "be taken, by plain autograd neither (detectors that decode boxes behind a sigmoid, "
            "y[..., :2] = ..., do so): add .clone() in the model before it writes, or use "
            f"ScoreCAM, which takes no gradient; PyTorch says: {error}"
        ) from error


def _behind_means(
    backward: _Backward,
    ends: Sequence[GradientEdge],
    means: Sequence[GradientEdge | None],
    cotangents: Tensor,
) -> list[Tensor | None]:
    """The gradients at `ends` by way of `means`; nothing if they are others without them."""
    expected = backward(ends, cotangents[:1], keep=True)
    stops = [mean or end for mean, end in zip(means, ends, strict=True)]
    found: list[Tensor | None] = []
    for mean, gradient, one in zip(
        means, backward(stops, cotangents, keep=True), expected, strict=True
    ):
        if mean is not None and gradient is not None and one is not None:
            gradient = spread_out(gradient, one[0])
            if gradient is None:
                return []
        found.append(gradient)
    return found


def _batches(node: Node) -> bool:
    """Whether the backward pass of `node` is known to take many gradients at once.

    One that is written in Python may not: ``grad.data`` of a batched gradient ends the process.
    """
    return not isinstance(node, BackwardCFunction) or getattr(node, "batches", False)


def _one_hot(scores: Tensor, chunk: slice) -> Tensor:
    """The cotangents ``(k, N, K)`` of some classes of `scores` ``(N, K)``."""
    found = scores.new_zeros(chunk.stop - chunk.start, *scores.shape)
    for row, column in enumerate(range(chunk.start, chunk.stop)):
        found[row, :, column] = 1
    return found
