"""Classes of a model with a single output: one logit ``y`` for two classes.

Class 1 ("yes") has the logit ``y`` and class 0 ("no") has ``-y``, so evidence for one is evidence
against the other. A logit means yes above 0. A model that ends in a sigmoid returns a probability
instead, which means yes from 0.5 on. The two differ only between 0 and 0.5, and there only the
graph shows which one it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from camlib.errors import TargetError
from camlib.targets.base import Target
from camlib.targets.outputs import scores_in
from camlib.targets.parts import flat


def both(scores: Tensor, dim: int = 1) -> Tensor:
    """The scores of all classes along `dim`; a single logit ``y`` becomes ``-y, y``: no, yes."""
    return torch.cat([-scores, scores], dim) if scores.shape[dim] == 1 else scores


def predicted(scores: Tensor) -> Tensor:
    """The predicted class of `scores` ``(N, classes, ...)``, ``(N, ...)``.

    Args:
        scores: the scores, with their graph if there is one.

    Raises:
        TargetError: a single output may be a logit or a probability, and they differ.
    """
    if scores.shape[1] > 1:
        return scores.detach().argmax(1)
    values = scores.detach()[:, 0]
    doubtful = _doubtful(values)
    if not doubtful.any():
        return (values > 0).long()
    probability = _is_probability(scores)
    if probability is None:
        raise TargetError(
            f"the single output is {values[doubtful][0]:.3g}, which means yes as a logit (above 0) "
            "and no as a probability (below 0.5), and camlib cannot tell which it is; pass "
            "target=1 for yes, or target=0 for no"
        )
    return (values >= 0.5 if probability else values > 0).long()


def undecided(target: Any, output: Any) -> bool:
    """Whether only a graph can show which class `output` predicts, and `target` may need it."""
    if isinstance(target, Target) and target.resolved:
        return False
    if callable(target) and not isinstance(target, Target):
        return False
    scores = scores_in(output)
    if scores is None or not scores.is_floating_point() or scores.shape[1:2].numel() != 1:
        return False
    named = getattr(target, "classes", target) is not None
    if named and flat(scores).ndim < 3:
        return False
    return scores.grad_fn is None and bool(_doubtful(scores.detach()).any())


def _doubtful(values: Tensor) -> Tensor:
    """Which of `values` mean yes as a logit and no as a probability, bool."""
    possible = ((values >= 0) & (values <= 1)).all()
    return possible & (values > 0) & (values < 0.5)


def _is_probability(scores: Tensor) -> bool | None:
    """Whether `scores` come from a sigmoid or softmax, not a linear layer; ``None`` if unclear."""
    node: Any = scores.grad_fn
    while node is not None:
        name = node.name().partition("Backward")[0]
        if name in _PROBABILITIES or name in _LOGITS:
            return name in _PROBABILITIES
        if name not in _PASSING:
            return None
        node = next((before for before, _ in node.next_functions if before is not None), None)
    return None


_PROBABILITIES = frozenset(["Sigmoid", "Hardsigmoid", "Softmax"])

_LOGITS = frozenset(["Addmm", "Addmv", "Baddbmm", "Bmm", "Convolution", "Linear", "Mm", "Mv"])

_SHAPING = (
    "Add Alias AsStrided Cat Clone Expand Index Mean Permute Reshape ReshapeAlias Select Slice "
    "Split Squeeze Stack T ToCopy Transpose Unbind UnsafeView Unsqueeze View"
)
_PASSING = frozenset(_SHAPING.split())
"""Operations after which a probability is still a probability, and a logit a logit."""
