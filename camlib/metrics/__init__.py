"""How good a map is: whether the model heeds it, where it lies, and what it depends on."""

from camlib.metrics.agreement import faithfulness_correlation, infidelity
from camlib.metrics.combined import adcc, arcc
from camlib.metrics.confidence import average_drop, average_gain, increase_in_confidence
from camlib.metrics.curves import deletion, insertion
from camlib.metrics.faithfulness import FAITHFULNESS, faithfulness
from camlib.metrics.removal import road
from camlib.metrics.stability import coherency, complexity, sensitivity_max

__all__ = [
    "FAITHFULNESS",
    "adcc",
    "arcc",
    "average_drop",
    "average_gain",
    "coherency",
    "complexity",
    "deletion",
    "faithfulness",
    "faithfulness_correlation",
    "increase_in_confidence",
    "infidelity",
    "insertion",
    "road",
    "sensitivity_max",
]
