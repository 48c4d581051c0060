"""Recognise scores that have no gradient because a probability is exactly 0 or 1."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from camlib.targets.base import Target
from camlib.targets.classes import LogProbability, Probability
from camlib.targets.outputs import scores_in


def saturated(output: Any, target: Target) -> str:
    """A message on saturated scores of `target` and what to do; ``""`` if they are not saturated.

    Args:
        output: the output of the model.
        target: a target that is resolved on it.
    """
    with torch.no_grad():
        scores = target(output)
        certain = (scores == 0) if isinstance(target, LogProbability) else (scores == 1)
        if isinstance(target, Probability | LogProbability):
            if not (certain | (scores == 0)).any():
                return ""
            return (
                "a probability is exactly 0 or 1, where softmax and sigmoid have no gradient; "
                "explain the logit, with camlib.targets.Category or the class itself"
            )
        raw = scores_in(output)
        if raw is None or raw.ndim == 0 or not _are_probabilities(raw):
            return ""
        if not ((scores.abs() == 1) | (scores == 0)).any():
            return ""
    return (
        "the model returns a probability that is exactly 0 or 1, where softmax and sigmoid have no "
        "gradient; explain the logit: pass the module before them as the model, or let the model "
        "return its logits"
    )


def _are_probabilities(scores: Tensor) -> bool:
    """Whether `scores` ``(N, classes, ...)`` are in [0, 1] and several classes add up to 1."""
    inside = bool(((scores >= 0) & (scores <= 1)).all())
    if scores.ndim < 2 or scores.shape[1] == 1:
        return inside
    return inside and bool(((scores.float().sum(1) - 1).abs() < 1e-2).all())
