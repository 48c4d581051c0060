"""Metrics of maps: faithfulness to the model, localisation, and dependence on the weights."""

from camlib.metrics.benchmark import Labelled, evaluate
from camlib.metrics.combined import adcc, arcc
from camlib.metrics.comparison import Comparison
from camlib.metrics.complexity import complexity
from camlib.metrics.confidence import average_drop, average_gain, increase_in_confidence
from camlib.metrics.correlation import faithfulness_correlation
from camlib.metrics.curves import deletion, insertion
from camlib.metrics.detection import box_accuracy, max_box_accuracy
from camlib.metrics.faithfulness import FAITHFULNESS, faithfulness
from camlib.metrics.infidelity import infidelity
from camlib.metrics.localisation import (
    energy_pointing_game,
    iou,
    mean_by_class,
    pixel_average_precision,
    pointing_game,
    relevance_rank_accuracy,
)
from camlib.metrics.randomisation import (
    Randomisation,
    parameter_randomisation,
    random_logit,
)
from camlib.metrics.regions import Regions, localize
from camlib.metrics.removal import road
from camlib.metrics.stability import coherency, sensitivity_max

__all__ = [
    "FAITHFULNESS",
    "Comparison",
    "Labelled",
    "Randomisation",
    "Regions",
    "adcc",
    "arcc",
    "average_drop",
    "average_gain",
    "box_accuracy",
    "coherency",
    "complexity",
    "deletion",
    "energy_pointing_game",
    "evaluate",
    "faithfulness",
    "faithfulness_correlation",
    "increase_in_confidence",
    "infidelity",
    "insertion",
    "iou",
    "localize",
    "max_box_accuracy",
    "mean_by_class",
    "parameter_randomisation",
    "pixel_average_precision",
    "pointing_game",
    "random_logit",
    "relevance_rank_accuracy",
    "road",
    "sensitivity_max",
]


def __dir__() -> list[str]:
    """The public names, without helper modules."""
    return __all__
