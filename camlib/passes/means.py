"""Take the gradients of many scores at a mean, without a copy for each place.

All values of a mean, such as global pooling, have the same gradient. A backward pass that stops at
the mean saves a tensor of the activation's size for every class. The graph alone does not prove
that this is right, so the result is compared with an ordinary backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

Users = dict[Node, list[Node]]
"""For each node of a graph, the nodes that use its result."""


def users_of(scores: Tensor, tensors: Sequence[Tensor]) -> Users:
    """The users of each node in the graph of `scores`, down to the nodes of `tensors`."""
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
    """The mean through which scores depend on `end`, if the graph shows no other way.

    Args:
        end: the tensor that may go into a mean.
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
    """Spread `gradients` ``(k, *reduced)`` at a mean over its values, ``(k, *sizes)``.

    Args:
        gradients: the gradients of ``k`` scores at the mean.
        expected: the gradient of the first score at the values, ``sizes``.

    Returns:
        A view without a copy, or ``None`` if its first row does not equal `expected`.
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
