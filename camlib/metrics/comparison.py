"""Methods compared on the same images: means, intervals, and paired differences.

Intervals are of the bootstrap: images are drawn again with replacement, and the mean of the middle
95 % of the draws is kept (Efron, Annals of Statistics 1979, doi:10.1214/aos/1176344552). All
methods share the draws, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from camlib.draws import Draws
from camlib.errors import InputError

Group = Literal["faithfulness", "localisation", "dependence", "cost"]
"""What a column says of a map."""


@dataclass(frozen=True)
class Column:
    """A number that is measured for each image.

    Attributes:
        title: a short name.
        group: what it says of a map.
        higher: whether more is better.
        what: what it is, in a line.
    """

    title: str
    group: Group
    higher: bool
    what: str


COLUMNS: dict[str, Column] = {
    "average_drop": Column(
        "drop %", "faithfulness", False, "share of the probability lost when the map hides the rest"
    ),
    "increase_in_confidence": Column(
        "increase %", "faithfulness", True, "how often the probability grows then"
    ),
    "average_gain": Column("gain %", "faithfulness", True, "share of what it could gain then"),
    "deletion": Column(
        "deletion", "faithfulness", False, "mean probability as the hottest pixels go first"
    ),
    "insertion": Column(
        "insertion", "faithfulness", True, "mean probability as they come back first"
    ),
    "energy_pointing_game": Column(
        "energy", "localisation", True, "share of the map on the object"
    ),
    "on_others": Column(
        "on others", "localisation", False, "share of it on objects of other classes"
    ),
    "pointing_game": Column(
        "pointing %", "localisation", True, "how often the peak is on the object, or near it"
    ),
    "iou": Column(
        "IoU", "localisation", True, "overlap of the object and the map at half its peak"
    ),
    "pixel_average_precision": Column(
        "precision", "localisation", True, "average precision of the map over the object's pixels"
    ),
    "parameter_randomisation": Column(
        "random weights",
        "dependence",
        False,
        "rank correlation with the map after the last layer's weights are permuted, at least 0",
    ),
    "random_logit": Column(
        "other class",
        "dependence",
        False,
        "rank correlation with the map of another class, at least 0",
    ),
    "passes": Column("passes", "cost", False, "forward passes for each image, whole or partial"),
    "milliseconds": Column("ms", "cost", False, "milliseconds for each image"),
}
"""The columns by the names of their functions in `camlib.metrics`."""

JUDGED = tuple(
    name for name, each in COLUMNS.items() if each.group in ("faithfulness", "localisation")
)
"""The columns that say whether a method beats a baseline."""

_FEWEST = 5
"""The smallest number of images with an interval: the draws of fewer are nearly all alike."""


@dataclass(frozen=True)
class Cell:
    """One number of a method, with 95 % intervals; NaN where too few images have a value.

    Attributes:
        mean: the mean over images; the median for costs.
        low: the lower end of its interval.
        high: the upper end.
        difference: the mean of the differences to the reference, image by image.
        difference_low: the lower end of its interval.
        difference_high: the upper end.
        verdict: 1 if the method is better than the reference, -1 if it is worse, and 0 if the
            interval of the difference includes 0 or is not known, and for costs.
    """

    mean: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float
    verdict: int


@dataclass(frozen=True)
class Row:
    """What was found for one method.

    Attributes:
        method: its name.
        baseline: whether it is a baseline.
        cells: by the names of `COLUMNS`.
        unbeaten: the baselines that it does not beat: it is not better than them in more columns
            of faithfulness and localisation than it is worse.
    """

    method: str
    baseline: bool
    cells: Mapping[str, Cell]
    unbeaten: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Comparison:
    """The values of methods on the same images.

    Attributes:
        values: by method and column, the value of each image, ``(N,)``, float64; NaN if it has
            none.
        baselines: the names of the methods that explain nothing.
        failed: the methods that do not fit the model, with the reason.
    """

    values: Mapping[str, Mapping[str, Tensor]]
    baselines: tuple[str, ...]
    failed: Mapping[str, str]

    def rows(self, reference: str = "grad_cam", *, draws: int = 2000, seed: int = 0) -> list[Row]:
        """A row for each method, the baselines last.

        Args:
            reference: the method that the others are compared with.
            draws: how many times images are drawn again.
            seed: the seed of the draws.

        Raises:
            InputError: `reference` was not measured.
        """
        if reference not in self.values:
            raise InputError(
                f"reference {reference!r} was not measured; expected one of "
                f"{', '.join(self.values)}"
            )
        count = len(next(iter(self.values[reference].values())))
        samples = Draws(seed).numbers(count, draws, count)
        return [
            Row(
                name,
                name in self.baselines,
                {column: self._cell(name, reference, column, samples) for column in COLUMNS},
                tuple(
                    other
                    for other in self.baselines
                    if other != name and not self._beats(name, other, samples)
                ),
            )
            for name in self.values
        ]

    def _cell(self, name: str, reference: str, column: str, samples: Tensor) -> Cell:
        own = self.values[name][column]
        difference = own - self.values[reference][column]
        cost = COLUMNS[column].group == "cost"
        middle = own.nanmedian() if cost else own.nanmean()  # a first call takes longer
        low, high = interval(own, samples)
        ends = interval(difference, samples)
        return Cell(
            float(middle),
            *(low, high),
            float(difference.nanmean()),
            *ends,
            0 if cost else self._verdict(column, ends),
        )

    def _beats(self, name: str, other: str, samples: Tensor) -> bool:
        """Whether a method is better than another in more columns than it is worse."""
        verdicts = [
            self._verdict(
                column, interval(self.values[name][column] - self.values[other][column], samples)
            )
            for column in JUDGED
        ]
        return sum(verdicts) > 0

    @staticmethod
    def _verdict(column: str, ends: tuple[float, float]) -> int:
        sign = 1 if COLUMNS[column].higher else -1
        return sign * (int(ends[0] > 0) - int(ends[1] < 0))


def interval(values: Tensor, samples: Tensor) -> tuple[float, float]:
    """The middle 95 % of the means of `values` ``(N,)`` over `samples` ``(draws, N)``.

    NaN values do not count. Fewer than five others are too few, and both ends are NaN.
    """
    if int((~values.isnan()).sum()) < _FEWEST:
        return float("nan"), float("nan")
    means = values[samples].nanmean(1)
    known = means[~means.isnan()]
    low, high = known.quantile(torch.tensor([0.025, 0.975], dtype=known.dtype)).tolist()
    return low, high
