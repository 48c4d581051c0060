"""Scores without a gradient, because a probability is exactly 0 or 1."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from camlib.targets.base import Target
from camlib.targets.classes import LogProbability, Probability
from camlib.targets.outputs import scores_in


def saturated(output: Any, target: Target) -> str:
    """Why the scores of `target` have no gradient and what to do; ``""`` if it is not for this.

    Args:
        output: what the model returned.
        target: settled on it.
    """
    with torch.no_grad():
        scores = target(output)
        certain = (scores == 0) if isinstance(target, LogProbability) else (scores == 1)
        if isinstance(target, Probability | LogProbability):
            if not (certain | (scores == 0)).any():
                return ""
            return (
                "a probability is exactly 0 or 1, where softmax and sigmoid have no gradient left; "
                "explain the logit, with camlib.targets.Category or the class itself"
            )
        found = scores_in(output)
        if found is None or found.ndim == 0 or not _are_probabilities(found):
            return ""
        if not ((scores.abs() == 1) | (scores == 0)).any():
            return ""
    return (
        "the model returns a probability that is exactly 0 or 1, where softmax and sigmoid have no "
        "gradient left; explain the logit: pass the module that comes before them as the model, or "
        "let the model return its logits"
    )


def _are_probabilities(found: Tensor) -> bool:
    """Whether `found` ``(N, classes, ...)`` are in [0, 1], and of several classes add up to 1."""
    inside = bool(((found >= 0) & (found <= 1)).all())
    if found.ndim < 2 or found.shape[1] == 1:
        return inside
    return inside and bool(((found.float().sum(1) - 1).abs() < 1e-2).all())
