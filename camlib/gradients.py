"""The gradients of scores: many classes from one backward pass, and no ``.grad`` touched."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from camlib.errors import GraphError

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
) -> Iterator[list[Tensor]]:
    """The gradient of every score at each of `tensors`, in chunks of classes.

    Samples do not mix in evaluation mode, so one backward pass serves the whole batch. Several
    classes share one batched backward pass, or take one each where an operator cannot be batched.
    No ``.grad`` is touched.

    Args:
        scores: ``(N, K)``.
        tensors: what to differentiate by, each ``(N, ...)``.
        names: what each of them is, for errors.
        create_graph: whether the gradients can be differentiated again.
        retain_graph: whether others can be taken from the same pass.
        allow_unused: whether a tensor that the scores do not depend on has gradient zero, if they
            depend on another.

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
    means = [_mean_of(tensor, scores) if classes > 1 else None for tensor in tensors]
    ends = [
        get_gradient_edge(tensor) if mean is None else GradientEdge(mean, 0)
        for tensor, mean in zip(tensors, means, strict=True)
    ]
    pooled = all(means) and not create_graph
    root, cotangents = (_before_linear(scores) if pooled else None) or (scores, _one_hot(scores))
    for start in range(0, classes, step):
        chunk = slice(start, min(start + step, classes))
        keep = create_graph or retain_graph or chunk.stop < classes
        with torch.set_grad_enabled(create_graph or torch.is_grad_enabled()):
            found = _chunk_gradients(
                root, ends, cotangents(chunk), keep=keep, create_graph=create_graph
            )
        unused = allow_unused and any(gradient is not None for gradient in found)
        reached = []
        for name, tensor, mean, gradient in zip(names, tensors, means, found, strict=True):
            if gradient is None and not unused:
                raise GraphError(_UNREACHED.format(name))
            if gradient is None:
                gradient = tensor.new_zeros(chunk.stop - chunk.start, *tensor.shape)
            elif mean is not None:
                gradient = _through(mean, gradient)
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
    cotangent = 1 / torch.arange(1, scores.shape[1] + 1).to(scores).expand_as(scores)
    return torch.autograd.grad(
        scores, tensors, cotangent, retain_graph=retain_graph, allow_unused=True
    )


def _chunk_gradients(
    root: Tensor | GradientEdge,
    ends: Sequence[GradientEdge],
    cotangents: Tensor,
    *,
    keep: bool,
    create_graph: bool,
) -> Sequence[Tensor | None]:
    """The gradients ``(k, ...)`` at `ends`, of `cotangents` ``(k, ...)`` at `root`."""

    def backward(cotangent: Tensor, *, keep: bool, batched: bool) -> Sequence[Tensor | None]:
        return torch.autograd.grad(
            root,
            ends,
            cotangent,
            retain_graph=keep,
            create_graph=create_graph,
            allow_unused=True,
            is_grads_batched=batched,
        )

    if len(cotangents) == 1:
        found = backward(cotangents[0], keep=keep, batched=False)
        return [None if gradient is None else gradient[None] for gradient in found]
    try:
        return backward(cotangents, keep=True, batched=True)
    except RuntimeError:  # an operator without a batching rule
        rows = [backward(cotangent, keep=True, batched=False) for cotangent in cotangents]
        return [
            None if parts[0] is None else torch.stack([part for part in parts if part is not None])
            for parts in zip(*rows, strict=True)
        ]


def _one_hot(scores: Tensor) -> Callable[[slice], Tensor]:
    """The cotangents ``(k, N, K)`` of some classes of `scores` ``(N, K)``."""

    def cotangents(chunk: slice) -> Tensor:
        found = scores.new_zeros(chunk.stop - chunk.start, *scores.shape)
        for row, column in enumerate(range(chunk.start, chunk.stop)):
            found[row, :, column] = 1
        return found

    return cotangents


def _before_linear(scores: Tensor) -> tuple[GradientEdge, Callable[[slice], Tensor]] | None:
    """The input of the linear layer of which `scores` are outputs picked by class; else ``None``.

    With it the cotangents there of some classes, ``(k, N, features)``: rows of the layer's weight.
    A backward pass would multiply it with one-hot vectors, for a thousand classes of a ResNet-50
    half as much work as a forward pass.
    """
    node = scores.grad_fn
    while node is not None and node.name() == "ViewBackward0":
        [(node, _)] = node.next_functions
    # A negative dimension is kept as unsigned.
    if node is None or node.name() != "GatherBackward0" or node._saved_dim % 2 == 0:  # type: ignore[attr-defined]
        return None
    index: Tensor = node._saved_index  # type: ignore[attr-defined]
    [(linear, _)] = node.next_functions
    if linear is None or linear.name() not in ("AddmmBackward0", "MmBackward0"):
        return None
    *bias, (before, number), factor = linear.next_functions
    plain = all(map(_fixed, [*bias, factor])) and getattr(linear, "_saved_alpha", 1) == 1
    if before is None or index.shape != scores.shape or not plain:
        return None
    weight: Tensor = linear._saved_mat2.detach().t()  # type: ignore[attr-defined]
    return GradientEdge(before, number), lambda chunk: weight[index[:, chunk].t()]


def _fixed(edge: tuple[Any, int]) -> bool:
    """Whether a parameter alone comes in here, or nothing with a gradient."""
    node, _ = edge
    if node is not None and node.name() == "TBackward0":
        [(node, _)] = node.next_functions
    return node is None or node.name() == "torch::autograd::AccumulateGrad"


def _mean_of(tensor: Tensor, scores: Tensor) -> Any:
    """The node of a mean, if `scores` depend on `tensor` through it alone; else ``None``.

    A mean has the same gradient at everything it was taken of, as global pooling has. A backward
    pass that stops there spares a tensor of the size of `tensor` for every class.
    """
    node = get_gradient_edge(tensor).node
    users: dict[Any, list[Any]] = {node: []}
    waiting = [scores.grad_fn]
    seen = {node}
    while waiting:
        user = waiting.pop()
        if user is not None and user not in seen:
            seen.add(user)
            for used, _ in user.next_functions:
                users.setdefault(used, []).append(user)
                waiting.append(used)
    while len(users[node]) == 1:
        [node] = users[node]
        if node.name() == "MeanBackward1":
            return node
        if node.name() != "CloneBackward0":
            break
    return None


def _through(mean: Any, gradient: Tensor) -> Tensor:
    """The gradients ``(k, *sizes)`` before the node `mean`, of those behind it; without a copy."""
    sizes = mean._saved_self_sym_sizes
    # A negative dimension is kept as unsigned.
    dims = {(dim - 2**64 if dim >= 2**63 else dim) % len(sizes) for dim in mean._saved_dim}
    ones = [1 if dim in dims else size for dim, size in enumerate(sizes)]
    count = math.prod(sizes[dim] for dim in dims)
    share: Tensor = gradient.reshape(-1, *ones) / count
    return share.expand(-1, *sizes)
