"""Metrics over whole datasets, as `torchmetrics.Metric` objects that processes can share.

They need the extra ``metrics``; the rest of `camlib.metrics` needs torch only. They keep sums in
float64, so the order of batches, and their distribution over processes, changes only the last bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from camlib.errors import InputError
from camlib.methods.base import Method
from camlib.metrics.detection import OVERLAPS, Version, box_accuracy
from camlib.metrics.faithfulness import USUAL, measures_of
from camlib.metrics.localisation import (
    energy_pointing_game,
    iou,
    pixel_average_precision,
    pointing_game,
    relevance_rank_accuracy,
)
from camlib.metrics.measures import Measuring
from camlib.metrics.stability import Explainer
from camlib.metrics.truth import Truth

try:
    from torchmetrics import Metric
except ImportError as error:
    raise ImportError(
        "the accumulators need torchmetrics: pip install 'torch-camlib[metrics]'; the functions of "
        "camlib.metrics need torch alone"
    ) from error

LOCALISATION = {
    "pointing_game": pointing_game,
    "energy_pointing_game": energy_pointing_game,
    "iou": iou,
    "pixel_average_precision": pixel_average_precision,
    "relevance_rank_accuracy": relevance_rank_accuracy,
}
"""The metrics with one value for each map, by name."""


class Faithfulness(Metric):
    """The means of metrics of faithfulness over a dataset.

    Args:
        model: any network; it is left unchanged, and is not part of the metric's state.
        metrics: see `camlib.metrics.faithfulness`.
        method: the method that makes heatmaps if `update` gets none, and for the metrics that
            explain changed images.
        options: options of `camlib.metrics.faithfulness`, such as `batch_size`, and of
            `torchmetrics`.

    Raises:
        InputError: a metric does not exist.

    Example:
        >>> meter = Faithfulness(model, ["deletion", "insertion"], method=GradCAM(model))
        >>> for images, labels in loader:
        ...     meter.update(images, target=labels)
        >>> meter.compute()
    """

    full_state_update = False
    sums: Tensor
    counts: Tensor

    def __init__(
        self,
        model: nn.Module,
        metrics: Sequence[str] | Mapping[str, Mapping[str, Any]] = USUAL,
        *,
        method: Explainer | None = None,
        **options: Any,
    ) -> None:
        shared = {name: options.pop(name) for name in [*options] if name in _SHARED}
        super().__init__(**shared)
        self._measures = measures_of(metrics, method)
        # A tuple, so that the model is not part of this module.
        self._asked = Measuring(model, **options), method
        zeros = torch.zeros(len(self._measures), dtype=torch.float64)
        self.add_state("sums", zeros.clone(), dist_reduce_fx="sum")
        self.add_state("counts", zeros.clone(), dist_reduce_fx="sum")

    def update(self, images: Any, heatmaps: Tensor | None = None, target: Any = None) -> None:
        """Add a batch.

        Args:
            images: see `camlib.metrics.faithfulness`.
            heatmaps: see there; by default, the maps of the method.
            target: see there.

        Raises:
            InputError: there are neither heatmaps nor a method.
            CamlibError: see `camlib.metrics.faithfulness`.
        """
        measuring, method = self._asked
        if heatmaps is None:
            if not isinstance(method, Method):
                raise InputError(
                    "heatmaps is missing; pass heatmaps=, or method= to the constructor, such as "
                    "GradCAM(model)"
                )
            seen = method.explain(images, target)
            heatmaps = seen.heatmap
            target = seen.target if target is None else target
        measured = measuring.measured(images, heatmaps, target, self._measures)
        for place, values in enumerate(measured.values()):
            _add(self.sums, self.counts, place, values)

    def compute(self) -> dict[str, Tensor]:
        """The mean of each metric, by name; NaN before the first update."""
        return dict(zip(self._measures, self.sums / self.counts, strict=True))


class Localisation(Metric):
    """The means of metrics of localisation over a dataset, and over its classes.

    Args:
        metrics: names in `LOCALISATION`, or a mapping from names to options, with one number for
            each map.
        classes: the number of classes, for the mean over classes of each class's mean, as in the
            pointing game's paper. Then `update` needs the classes.
        options: options of `torchmetrics`.

    Raises:
        InputError: a metric does not exist.
    """

    full_state_update = False
    sums: Tensor
    counts: Tensor

    def __init__(
        self,
        metrics: Sequence[str] | Mapping[str, Mapping[str, Any]] = tuple(LOCALISATION),
        *,
        classes: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        named = [metrics] if isinstance(metrics, str) else metrics
        for name in named:
            if name not in LOCALISATION:
                known = ", ".join(map(repr, LOCALISATION))
                raise InputError(f"metric {name!r} does not exist; use some of {known}")
        self._options = {
            name: dict(metrics[name]) if isinstance(metrics, Mapping) else {} for name in named
        }
        self._classes = classes
        zeros = torch.zeros(len(self._options), classes or 1, dtype=torch.float64)
        self.add_state("sums", zeros.clone(), dist_reduce_fx="sum")
        self.add_state("counts", zeros.clone(), dist_reduce_fx="sum")

    def update(self, heatmaps: Tensor, truth: Truth, classes: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            heatmaps: ``(N, H, W)`` or ``(N, K, H, W)``.
            truth: masks or boxes, see `camlib.metrics.pointing_game`.
            classes: the classes of the maps, ``(N,)`` or ``(N, K)``, for the mean over classes.

        Raises:
            InputError: `truth` does not fit `heatmaps`, or `classes` are missing or out of range.
        """
        where = None
        if self._classes is not None:
            if classes is None or classes.shape != heatmaps.shape[:-2]:
                raise InputError(
                    "this metric has classes=, so update needs the class of each map, of shape "
                    f"{tuple(heatmaps.shape[:-2])}; pass classes="
                )
            if not bool(((classes >= 0) & (classes < self._classes)).all()):
                raise InputError(f"a class is out of range; expected 0 to {self._classes - 1}")
            where = classes
        for place, (name, options) in enumerate(self._options.items()):
            values = LOCALISATION[name](heatmaps, truth, **options)
            if values.shape != heatmaps.shape[:-2]:
                raise InputError(f"{name} gives several numbers for each map; pass a single share")
            _add(self.sums, self.counts, place, values, where)

    def compute(self) -> dict[str, Tensor]:
        """The mean of each metric, by name, over the classes seen; NaN before the first update."""
        means = (self.sums / self.counts).nanmean(1)
        return dict(zip(self._options, means, strict=True))


class MaxBoxAccuracy(Metric):
    """`camlib.metrics.max_box_accuracy` over a dataset.

    Args:
        version: see there.
        thresholds: see there.
        options: options of `torchmetrics`.
    """

    full_state_update = False
    higher_is_better = True
    hits: Tensor
    counts: Tensor

    def __init__(self, *, version: Version = 2, thresholds: int = 100, **options: Any) -> None:
        super().__init__(**options)
        if version not in OVERLAPS:
            raise InputError(f"version={version!r} is not known; use 1 or 2")
        self._version: Version = version
        self._thresholds = thresholds
        zeros = torch.zeros(thresholds, len(OVERLAPS[version]), dtype=torch.float64)
        self.add_state("hits", zeros, dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, heatmaps: Tensor, truth: Truth) -> None:
        """Add a batch; see `camlib.metrics.max_box_accuracy`."""
        hits = box_accuracy(
            heatmaps, truth, version=self._version, thresholds=self._thresholds
        ).flatten(0, -3)
        known = ~hits.isnan().flatten(1).any(1)
        self.hits += hits[known].double().sum(0).to(self.hits.device)
        self.counts += known.sum().to(self.counts.device)

    def compute(self) -> Tensor:
        """The accuracy, ``()``."""
        return (self.hits / self.counts).amax(0).mean()


def _add(
    sums: Tensor, counts: Tensor, place: int, values: Tensor, where: Tensor | None = None
) -> None:
    """Add `values` except NaN to row `place`, in the columns `where` or in the first one."""
    known = ~values.isnan()
    added = values[known].to(sums)
    if sums.ndim == 1:
        sums[place] += added.sum()
        counts[place] += len(added)
        return
    columns = torch.zeros_like(added).long() if where is None else where.to(sums.device)[known]
    sums[place].index_add_(0, columns, added)
    counts[place].index_add_(0, columns, torch.ones_like(added))


_SHARED = (
    *("compute_on_cpu", "dist_sync_on_step", "process_group", "dist_sync_fn", "sync_on_compute"),
    *("distributed_available_fn", "compute_with_cache"),
)
"""The options of `torchmetrics`."""
