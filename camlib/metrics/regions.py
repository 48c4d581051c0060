"""Find the hot regions of maps: their masks, and boxes around them.

A run is a stretch of hot places in a row. Regions are found by connecting runs, for all maps of a
batch at once: each run gets the runs of the next row that it touches, and the largest number among
connected runs spreads in steps that double.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from camlib.errors import InputError
from camlib.maps import precise
from camlib.options import Part, checked
from camlib.results import Drawn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Parts = Literal["largest", "all"]
"""Which connected regions count: the largest one, or all."""


@dataclass(frozen=True, eq=False)
class Regions(Drawn):
    """The hot regions of maps.

    Attributes:
        heatmaps: the maps, ``(N, H, W)``.
        masks: which pixels are hot, bool ``(N, H, W)``.
        boxes: for each map, boxes ``(B, 4)``: ``(left, top, right, bottom)`` in pixels, right and
            bottom exclusive, the largest region first; none for a map of zeros.
    """

    heatmaps: Tensor
    masks: Tensor
    boxes: list[Tensor]

    def figure(self, images: Any = None, **options: Any) -> Figure:
        """A figure of boxes and heatmaps, on `images` if given, by `camlib.visual.figure`."""
        from camlib.visual import figure

        return figure(images, {"regions": self}, **options)

    def __repr__(self) -> str:
        counts = [len(boxes) for boxes in self.boxes]
        return f"Regions(masks={tuple(self.masks.shape)}, boxes={counts})"


@checked
def localize(
    heatmap: Tensor,
    *,
    share: Part = 0.15,
    parts: Parts = "largest",
) -> Regions:
    """Get masks and boxes from maps: weakly supervised segmentation and detection.

    A place is hot if it has at least `share` of the map's maximum. Zhou et al., CVPR 2016,
    arXiv:1512.04150, use 0.2 for CAM, and the box around the largest connected region; 0.15 is
    usual for Grad-CAM. The best share differs between methods, so compare them with
    `camlib.metrics.max_box_accuracy`, which tries all shares.

    Args:
        heatmap: one map ``(H, W)``, or several ``(N, H, W)``.
        share: the share of the maximum, above 0 and up to 1.
        parts: the ``"largest"`` connected region (diagonals connect), or ``"all"``.

    Returns:
        The masks and boxes; `Regions` can draw itself.

    Raises:
        InputError: `heatmap` is not a map, or an option has an invalid value.
    """
    if not isinstance(heatmap, Tensor) or heatmap.ndim not in (2, 3) or not heatmap.numel():
        raise InputError(
            f"expected a heatmap (H, W) or heatmaps (N, H, W), got {type(heatmap).__name__} of "
            f"shape {tuple(getattr(heatmap, 'shape', ()))}"
        )
    maps = precise(heatmap.detach()).reshape(-1, *heatmap.shape[-2:])
    masks = hot(maps, torch.tensor([share], device=maps.device))[:, 0]
    regions = connected(masks)
    boxes = []
    for n in range(len(maps)):
        own = (regions.maps == n).nonzero()[:, 0]
        order = own[regions.sizes[own].argsort(descending=True, stable=True)]
        if parts == "largest":
            order = order[:1]
        boxes.append(regions.boxes[order])
        if parts == "largest":
            masks[n] = (regions.labels[n] == order[:, None, None]).any(0)
    return Regions(maps, masks, boxes)


def hot(maps: Tensor, shares: Tensor) -> Tensor:
    """Which places of `maps` ``(N, H, W)`` have each share of the maximum, ``(N, T, H, W)``."""
    peak = maps.amax((1, 2))[:, None, None, None]
    return (maps[:, None] >= shares.to(maps)[:, None, None] * peak) & (peak > 0)


@dataclass(frozen=True, eq=False)
class Connected:
    """The connected regions of masks ``(N, H, W)``; diagonals connect.

    Attributes:
        maps: the number of the mask of each region, ``(B,)``, in order.
        sizes: the size of each region in pixels, ``(B,)``.
        boxes: ``(left, top, right, bottom)`` of each, ``(B, 4)``, right and bottom exclusive.
        labels: the number of the region of each place, ``(N, H, W)``; -1 for none.
    """

    maps: Tensor
    sizes: Tensor
    boxes: Tensor
    labels: Tensor


def connected(masks: Tensor) -> Connected:
    """The connected regions of `masks`, bool ``(N, H, W)``."""
    _, height, width = masks.shape
    steps = F.pad(masks.to(torch.int8), (1, 1)).diff(dim=2)
    maps, rows, starts = (steps == 1).nonzero().unbind(1)
    ends = (steps == -1).nonzero()[:, 2]
    # All rows on one line, with an empty row between maps and two empty columns between rows.
    lines = (maps * (height + 1) + rows) * (width + 2)
    below = lines + width + 2
    first = torch.searchsorted(lines + ends, below + starts - 1, right=True)
    last = torch.searchsorted(lines + starts, below + ends, right=True)
    counts = (last - first).clamp(min=0)
    above = torch.arange(len(maps), device=masks.device).repeat_interleave(counts)
    offsets = torch.arange(len(above), device=masks.device) - (
        counts.cumsum(0) - counts
    ).repeat_interleave(counts)
    touched = first.repeat_interleave(counts) + offsets
    _, regions = torch.unique(_joined(len(maps), above, touched), return_inverse=True)
    count = int(regions.max()) + 1 if len(regions) else 0

    def over(values: Tensor, reduce: str) -> Tensor:
        start = values.new_zeros(count)
        return start.scatter_reduce(0, regions, values, reduce, include_self=False)

    sides = over(starts, "amin"), over(rows, "amin"), over(ends, "amax"), over(rows, "amax") + 1
    runs = (steps[..., :-1] == 1).flatten().cumsum(0).reshape(masks.shape) - 1
    inside = regions[runs.clamp(min=0)] if count else runs
    return Connected(
        maps=over(maps, "amin"),
        sizes=over(ends - starts, "sum"),
        boxes=torch.stack(sides, 1),
        labels=inside.where(masks, -1),
    )


def _joined(count: int, one: Tensor, other: Tensor) -> Tensor:
    """For each of `count` numbers, the largest number connected to it by pairs `one`, `other`."""
    labels = torch.arange(count, device=one.device)
    while True:
        most = torch.maximum(labels[one], labels[other])
        larger = labels.scatter_reduce(0, one, most, "amax").scatter_reduce(0, other, most, "amax")
        # A label is itself the number of a connected thing, so both take the larger label.
        larger = larger.scatter_reduce(0, labels, larger, "amax")
        larger = larger[larger[larger]]
        if torch.equal(larger, labels):
            return labels
        labels = larger
