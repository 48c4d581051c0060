"""All metrics of faithfulness by name, and a function that measures several in one call.

They measure whether the model uses what a map shows.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn

from camlib.errors import InputError, OptionError
from camlib.metrics.combined import ADCC, ARCC
from camlib.metrics.complexity import Complexity
from camlib.metrics.confidence import AverageDrop, AverageGain, IncreaseInConfidence
from camlib.metrics.correlation import FaithfulnessCorrelation
from camlib.metrics.curves import Deletion, Insertion
from camlib.metrics.infidelity import Infidelity
from camlib.metrics.measures import Measure, Measuring
from camlib.metrics.removal import Road
from camlib.metrics.stability import Coherency, Explainer, SensitivityMax

FAITHFULNESS: dict[str, type[Measure]] = {
    "average_drop": AverageDrop,
    "increase_in_confidence": IncreaseInConfidence,
    "average_gain": AverageGain,
    "deletion": Deletion,
    "insertion": Insertion,
    "road": Road,
    "infidelity": Infidelity,
    "faithfulness_correlation": FaithfulnessCorrelation,
    "sensitivity_max": SensitivityMax,
    "coherency": Coherency,
    "complexity": Complexity,
    "adcc": ADCC,
    "arcc": ARCC,
}
"""The metrics by name. The attribute ``higher`` of each tells whether more is better."""

USUAL = ("average_drop", "increase_in_confidence", "average_gain", "deletion", "insertion")
"""The metrics that are measured by default."""


def faithfulness(
    model: nn.Module,
    images: Any,
    heatmaps: Tensor,
    target: Any = None,
    *,
    metrics: Sequence[str] | Mapping[str, Mapping[str, Any]] = USUAL,
    method: Explainer | None = None,
    **options: Any,
) -> dict[str, Tensor]:
    """Measure several metrics of the same maps, with shared perturbed passes.

    Args:
        model: any network; it is left unchanged.
        images: see `camlib.Method.__call__`.
        heatmaps: see `camlib.metrics.average_drop`.
        target: see `camlib.Method.__call__`; ``None`` for the class predicted for the clean image.
        metrics: the names of functions in `camlib.metrics`, or a mapping from names to options,
            such as ``{"deletion": {"step": 224}, "average_drop": {}}``.
        method: the method that made the heatmaps, for metrics that explain changed images.
        options: see `camlib.metrics.average_drop`.

    Returns:
        The result of each function, by its name.

    Raises:
        InputError: a metric does not exist, or does not fit the heatmaps.
        OptionError: a metric does not have an option.
        CamlibError: the inputs or the target do not fit the model; see the message.

    Example:
        >>> faithfulness(model, images, GradCAM(model)(images), metrics=["deletion", "insertion"])
    """
    measures = measures_of(metrics, method)
    return Measuring(model, **options).measured(images, heatmaps, target, measures)


def measures_of(
    metrics: Sequence[str] | Mapping[str, Mapping[str, Any]], method: Explainer | None = None
) -> dict[str, Measure]:
    """The metrics with these names, with their options; see `faithfulness`.

    Raises:
        InputError: a metric does not exist.
        OptionError: a metric does not have an option.
    """
    if isinstance(metrics, str):
        metrics = [metrics]
    given = metrics if isinstance(metrics, Mapping) else {name: {} for name in metrics}
    measures = {}
    for name, options in given.items():
        if name not in FAITHFULNESS:
            near = get_close_matches(str(name), FAITHFULNESS, n=1)
            hint = (
                f"did you mean {near[0]!r}?" if near else f"use some of {', '.join(FAITHFULNESS)}"
            )
            raise InputError(f"metric {name!r} does not exist; {hint}")
        kind = FAITHFULNESS[name]
        known = inspect.signature(kind).parameters
        for option in options:
            if option not in known:
                raise OptionError(
                    f"{option}= is not an option of {name}; there are "
                    + ", ".join(f"{each}=" for each in known)
                )
        own = dict(options)
        if "method" in known:
            own.setdefault("method", method)
        measures[name] = kind(**own)
    return measures
