"""Targets turn the model's output into the scores to explain, one or several for each sample.

A target is resolved once, on the clean output: "the predicted class" becomes a class index for each
sample. Methods that run the model again on changed inputs explain the same class.
"""

from camlib.targets.base import Target
from camlib.targets.classes import (
    Category,
    ClassTarget,
    Counterfactual,
    LogProbability,
    Probability,
    TopK,
)
from camlib.targets.dense import Segment
from camlib.targets.detection import Detection
from camlib.targets.embedding import Similarity
from camlib.targets.outputs import logits
from camlib.targets.regression import Regression
from camlib.targets.resolution import Score, TargetLike, resolve
from camlib.targets.sets import Contrast, MultiLabel
from camlib.targets.text import Token

__all__ = [
    "Category",
    "ClassTarget",
    "Contrast",
    "Counterfactual",
    "Detection",
    "LogProbability",
    "MultiLabel",
    "Probability",
    "Regression",
    "Score",
    "Segment",
    "Similarity",
    "Target",
    "TargetLike",
    "Token",
    "TopK",
    "logits",
    "resolve",
]


def __dir__() -> list[str]:
    """The public names, without helper modules."""
    return __all__
