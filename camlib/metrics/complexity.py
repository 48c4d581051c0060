"""The complexity of a map: how much of an image it covers."""

from __future__ import annotations

from torch import Tensor

from camlib.errors import InputError
from camlib.metrics.given import Given
from camlib.metrics.measures import Measure, Perturbation
from camlib.targets.classes import Asked


class Complexity(Measure):
    """See `complexity`."""

    higher = False

    def check(self, given: Given) -> None:
        """Refuse maps that are not in [0, 1]."""
        given.check_unit("complexity")

    def needs(self) -> tuple[tuple[Perturbation, Asked], ...]:
        """None."""
        return ()

    def values(self, given: Given) -> Tensor:
        """The mean of the map."""
        return given.by_class(given.values.flatten(1).mean(1))


def complexity(heatmaps: Tensor) -> Tensor:
    """The mean value of each map, ``sum M / (H W)``; less is better.

    Poppi et al., CVPR Workshops 2021, arXiv:2104.10252.

    Args:
        heatmaps: in [0, 1], ``(N, H, W)`` or ``(N, K, H, W)``; ``(N, L)`` for series.

    Returns:
        Means ``(N,)`` or ``(N, K)``.

    Raises:
        InputError: `heatmaps` are not in [0, 1].
    """
    if heatmaps.ndim < 2 or not bool(((heatmaps >= 0) & (heatmaps <= 1)).all()):
        raise InputError(
            f"complexity needs heatmaps (N, H, W) in [0, 1], got {tuple(heatmaps.shape)} from "
            f"{float(heatmaps.min()):.3g} to {float(heatmaps.max()):.3g}"
        )
    return heatmaps.flatten(-2 if heatmaps.ndim > 2 else -1).double().mean(-1).to(heatmaps.dtype)
