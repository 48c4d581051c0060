"""Take the gradients of many scores in one backward pass, without touching any ``.grad``."""

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
    "no gradient flows from the score to {!r}: another part of the model gives the answer, or the "
    "part between them is detached or runs under torch.no_grad() or inference_mode(), or the "
    "target is not differentiable; choose another layer or target"
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
    classes share one batched backward pass. They take one each if an operator cannot be batched or
    is written in Python. No ``.grad`` is touched.

    Args:
        scores: the scores ``(N, K)``.
        tensors: the tensors to differentiate by, each ``(N, ...)``.
        names: what each of them is, for errors.
        create_graph: whether the gradients can be differentiated again.
        retain_graph: whether other gradients can be taken from the same pass.
        allow_unused: whether a tensor that the scores do not depend on has gradient zero, if they
            depend on another one.
        alone: whether each class takes its own backward pass, as where hooks of the model or its
            user see gradients.

    Yields:
        For each of `tensors`, ``(k, N, ...)``: the next ``k`` classes. Chunks limit the memory.

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
        arrived: Sequence[Tensor | None] = []
        if any(means):
            arrived = _through_means(backward, ends, means, cotangents)
        arrived = arrived or backward(ends, cotangents, keep=keep)
        unused = allow_unused and any(gradient is not None for gradient in arrived)
        complete = []
        for name, tensor, gradient in zip(names, tensors, arrived, strict=True):
            if gradient is None and not unused:
                raise GraphError(_UNREACHED.format(name))
            if gradient is None:
                gradient = tensor.new_zeros(chunk.stop - chunk.start, *tensor.shape)
            complete.append(gradient)
        yield complete


def reached(
    scores: Tensor, tensors: Sequence[Tensor], names: Sequence[str], *, retain_graph: bool = False
) -> Sequence[Tensor | None]:
    """The gradient of each sample's scores at each of `tensors`; ``None`` if none arrives.

    The scores are weighted 1, 1/2, 1/3 and so on, because the gradients of the probabilities of all
    classes add up to zero.

    Args:
        scores: the scores ``(N, K)``.
        tensors: the tensors to differentiate by.
        names: what each of them is, for errors.
        retain_graph: whether other gradients can be taken from the same pass.

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
        scores: the scores.
        create_graph: whether the gradients can be differentiated again.
        alone: whether each class takes its own pass.
    """

    scores: Tensor
    create_graph: bool
    alone: bool

    def __call__(
        self, ends: Sequence[GradientEdge], cotangents: Tensor, *, keep: bool
    ) -> Sequence[Tensor | None]:
        """The gradients ``(k, ...)`` at `ends` for `cotangents` ``(k, N, K)`` at the scores."""
        several = len(cotangents) > 1
        with _overwriting(), torch.set_grad_enabled(self.create_graph or torch.is_grad_enabled()):
            if several and not self.alone:
                with suppress(RuntimeError):  # an operator without a batching rule
                    return self._pass(ends, cotangents, keep=True, batched=True)
            rows = [
                self._pass(ends, cotangent, keep=keep or several, batched=False)
                for cotangent in cotangents
            ]
            if not several:  # a view instead of a copy
                return [None if part is None else part[None] for part in rows[0]]
            return [
                None if parts[0] is None else torch.stack([p for p in parts if p is not None])
                for parts in zip(*rows, strict=True)
            ]

    def _pass(
        self, ends: Sequence[GradientEdge], cotangent: Tensor, *, keep: bool, batched: bool
    ) -> Sequence[Tensor | None]:
        arrived = torch.autograd.grad(
            self.scores,
            ends,
            cotangent,
            retain_graph=keep,
            create_graph=self.create_graph,
            allow_unused=True,
            is_grads_batched=batched,
        )
        return [None if gradient is None else plain(gradient) for gradient in arrived]


_KNOWN = {
    "Inference tensors cannot be saved for backward": (
        "the model, or a part of it, was created under torch.inference_mode(), so it has no "
        "gradient; create it outside that block, or use ScoreCAM, which needs no gradient"
    ),
    "not compatible with .grad()": (
        "the model uses reentrant checkpointing, which gives no gradient at a layer; turn "
        "checkpointing off, or pass use_reentrant=False"
    ),
}
"""Parts of PyTorch's errors, and advice for each."""


@contextmanager
def _overwriting() -> Iterator[None]:
    """Add advice to the known errors of a backward pass in the block.

    Raises:
        GraphError: the model overwrote what the pass needs, or gives no gradient.
    """
    try:
        yield
    except RuntimeError as error:
        for said, advice in _KNOWN.items():
            if said in str(error):
                raise GraphError(f"{advice}; PyTorch says: {error}") from error
        if "modified by an inplace operation" not in str(error):
            raise
        raise GraphError(
            "the model changes in place what its own backward pass needs, so even plain autograd "
            "takes no gradient (as in detectors that decode boxes after a sigmoid, y[..., :2] = "
            "...); add .clone() in the model before it writes, or use ScoreCAM, which needs no "
            f"gradient; PyTorch says: {error}"
        ) from error


def _through_means(
    backward: _Backward,
    ends: Sequence[GradientEdge],
    means: Sequence[GradientEdge | None],
    cotangents: Tensor,
) -> list[Tensor | None]:
    """The gradients at `ends`, spread out from `means`; empty if plain passes give others."""
    expected = backward(ends, cotangents[:1], keep=True)
    stops = [mean or end for mean, end in zip(means, ends, strict=True)]
    arrived: list[Tensor | None] = []
    for mean, gradient, one in zip(
        means, backward(stops, cotangents, keep=True), expected, strict=True
    ):
        if mean is not None and gradient is not None and one is not None:
            gradient = spread_out(gradient, one[0])
            if gradient is None:
                return []
        arrived.append(gradient)
    return arrived


def _batches(node: Node) -> bool:
    """Whether the backward pass of `node` certainly takes many gradients at once.

    A pass that is written in Python may not: ``grad.data`` of a batched gradient ends the process.
    """
    return not isinstance(node, BackwardCFunction) or getattr(node, "batches", False)


def _one_hot(scores: Tensor, chunk: slice) -> Tensor:
    """The cotangents ``(k, N, K)`` of some classes of `scores` ``(N, K)``."""
    cotangents = scores.new_zeros(chunk.stop - chunk.start, *scores.shape)
    for row, column in enumerate(range(chunk.start, chunk.stop)):
        cotangents[row, :, column] = 1
    return cotangents
