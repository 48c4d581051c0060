"""The gradient of many scores behind a mean, without a copy for each place.

A mean has one gradient for everything it was taken of, as global pooling has. A backward pass that
stops there spares a tensor of the activation's size for every class. What the graph looks like does
not prove that this holds, so what is spread out is compared with an ordinary backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

Users = dict[Node, list[Node]]
"""Which nodes of a graph use the result of each."""


def users_of(scores: Tensor, tensors: Sequence[Tensor]) -> Users:
    """What uses each node of the graph of `scores`, from the nodes of `tensors` on."""
    seen = {get_gradient_edge(tensor).node for tensor in tensors}
    users: Users = {node: [] for node in seen}
    waiting = [get_gradient_edge(scores).node]
    users.setdefault(waiting[0], [])
    while waiting:
        user = waiting.pop()
        if user not in seen:
            seen.add(user)
            for used, _ in user.next_functions:
                if used is not None:
                    users.setdefault(used, []).append(user)
                    waiting.append(used)
    return users


def mean_of(end: GradientEdge, users: Users) -> GradientEdge | None:
    """Where the gradient of a mean arrives, if scores seem to depend on `end` through it alone.

    Args:
        end: what may go into a mean.
        users: see `users_of`.
    """
    node = end.node
    while len(users.get(node, ())) == 1:
        [node] = users[node]
        if node.name() == "MeanBackward1":
            return GradientEdge(node, 0)
        if node.name() != "CloneBackward0":
            break
    return None


def spread_out(gradients: Tensor, expected: Tensor) -> Tensor | None:
    """`gradients` ``(k, *reduced)`` of a mean at what it was taken of, ``(k, *sizes)``.

    Args:
        gradients: of ``k`` scores, at the mean.
        expected: the gradient of the first of them, ``sizes``.

    Returns:
        A view without a copy, or ``None`` if its first is not `expected`.
    """
    axes = range(expected.ndim)
    same = [axis for axis in axes if expected.eq(expected.narrow(axis, 0, 1)).all()]
    ones = [1 if axis in same else size for axis, size in enumerate(expected.shape)]
    if gradients[0].numel() != math.prod(ones):
        return None
    share = gradients.reshape(-1, *ones) / (expected.numel() // math.prod(ones))
    error = (share[0] - expected).abs().max()
    rounding = torch.finfo(expected.dtype).eps ** (2 / 3)
    if not error <= rounding * expected.abs().max():
        return None
    return share.expand(-1, *expected.shape)
