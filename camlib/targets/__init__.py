"""What is explained: the model's output -> a score per sample, or several.

A target is settled once, on the clean output: "the predicted class" becomes a class index per
sample, and methods that run the model again on changed inputs ask about the same class.
"""

from camlib.targets.base import Target
from camlib.targets.classes import (
    Category,
    Counterfactual,
    LogProbability,
    Probability,
    TopK,
)
from camlib.targets.outputs import logits
from camlib.targets.resolution import Score, resolve

__all__ = [
    "Category",
    "Counterfactual",
    "LogProbability",
    "Probability",
    "Score",
    "Target",
    "TopK",
    "logits",
    "resolve",
]
