"""How well right and wrong readings agree with what is measured, over the matrix of models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from camlib.layouts.claims import AGREES, SURE, Claim
from camlib.layouts.recognition import Reading, Readings
from camlib.layouts.search import claims

Pair = tuple[float, float | None]
"""The agreement of the reading that was taken, and of the best of all others."""


@contextmanager
def recorded() -> Iterator[list[Pair]]:
    """The agreements of all layers that are read by a measurement in the block."""
    pairs: list[Pair] = []
    own = Readings.measured

    def measured(self: Readings, shape: Any, seen: Any, *given: Any, **options: Any) -> Reading:
        grids, window = dict(self._grids), ((0.0, 1.0),) * self.axes
        reading = own(self, shape, seen, *given, **options)
        if reading.agreement is not None:
            taken = [c for look in seen.looks if (c := Claim.of(reading.layout, look))]
            others = [
                claim.agreement
                for claim in claims(seen, grids, window)
                if all(claim.rivals(each) for each in taken)
            ]
            pairs.append((reading.agreement, max(others, default=None)))
        return reading

    Readings.measured = measured  # type: ignore[method-assign]
    try:
        yield pairs
    finally:
        Readings.measured = own  # type: ignore[method-assign]


def draw(pairs: Sequence[Pair], path: Path) -> None:
    """The distributions of the agreements, and the bounds between them."""
    right = [one for one, _ in pairs]
    wrong = [max(other, 0.0) for _, other in pairs if other is not None]
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    bins = np.linspace(0, 1, 51).tolist()
    axes.hist(right, bins, color="tab:blue", alpha=0.8, label=f"taken, {len(right)} layers")
    axes.hist(wrong, bins, color="tab:orange", alpha=0.8, label=f"best other, {len(wrong)} layers")
    for bound, what in ((AGREES, "axes"), (SURE, "rows of tokens")):
        axes.axvline(bound, color="black", linewidth=1, linestyle="--")
        axes.text(bound - 0.005, 1.02, what, transform=axes.get_xaxis_transform(), ha="right")
    axes.set_yscale("symlog", linthresh=10)
    axes.set_xlim(0, 1)
    axes.set_xlabel("correlation of claimed and measured positions, the lowest of all axes")
    axes.set_ylabel("layers")
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=110)
