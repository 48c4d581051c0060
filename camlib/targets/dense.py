"""The target for models with an answer at every place, such as segmentation: Segment."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from camlib.augmentation import Augmentation
from camlib.errors import TargetError
from camlib.maps import precise
from camlib.targets.base import Target
from camlib.targets.binary import both, predicted
from camlib.targets.forms import Classes, classes_in, numbers
from camlib.targets.outputs import check_samples, class_scores, is_dense


class Segment(Target):
    """A class over a region: the mean of its output, before softmax, over a mask.

    Seg-Grad-CAM (Vinogradova et al., AAAI 2020, arXiv:2002.11434) takes the sum. The mean does not
    depend on the size of the mask; Grad-CAM in [0, 1] is the same for both. A single output has two
    classes, as in `ClassTarget`: 1 where it means yes, 0 elsewhere.

    Args:
        classes: as for `Category`. ``None`` takes the class predicted at most places (of `mask`, if
            given); it takes class 0, by convention the background, only if there is no other.
        mask: ``(H, W)`` for all samples or ``(N, H, W)``, bool or 0 and 1, of any size; it is
            resized to the output's grid by nearest neighbours. ``None`` takes the places where the
            model predicts the class on the clean output.
    """

    per_sample = ("classes", "mask")
    placed = True

    def __init__(self, classes: Classes = None, mask: Any = None) -> None:
        self.classes: Tensor = classes
        self.mask: Tensor = mask

    def resolve(self, output: Any, count: int, size: tuple[int, ...]) -> Segment:
        """The target with classes and a mask ``(N, *grid)``, or ``(N, K, *grid)`` by class."""
        raw = class_scores(output)
        if not is_dense(output, size):
            raise TargetError(
                f"Segment expects class scores at places, (N, classes, *grid) with {len(size)} "
                f"axes in the grid, but the model returned {tuple(raw.shape)}; use Category"
            )
        check_samples(raw, count)
        scores = both(raw.detach())
        mask = None if self.mask is None else _fitted(self.mask, scores)
        if self.classes is None:
            classes = _commonest(predicted(raw), mask, scores.shape[1])
        else:
            classes = classes_in(scores, self.classes)
        if mask is None:
            mask = _where(predicted(raw), classes)
        elif classes.ndim == 2:
            mask = mask[:, None]
        return self.replaced(classes=classes, mask=mask)

    def augmented(self, augmentation: Augmentation) -> Segment:
        """The target with the mask mirrored like the images; `__call__` fits it to their size."""
        return self.replaced(mask=augmentation.mirrored(self.mask))

    def __call__(self, output: Any) -> Tensor:
        """The means, shaped like `classes`."""
        scores = both(class_scores(output, len(self.classes)))
        several = self.classes.reshape(len(self.classes), -1).to(scores.device)
        places = several.reshape(*several.shape, *[1] * (scores.ndim - 2))
        grid = scores.shape[2:]
        chosen = precise(scores.gather(1, places.expand(-1, -1, *grid))).flatten(2)
        mask = self.mask.to(scores.device).reshape(len(scores), -1, *self.mask.shape[-len(grid) :])
        mask = _resized(mask, grid).flatten(2)
        return (chosen.where(mask, 0).sum(2) / mask.sum(2)).reshape(self.classes.shape)


def _fitted(given: Any, scores: Tensor) -> Tensor:
    """The mask `given` at the grid of `scores` ``(N, C, *grid)``, bool ``(N, *grid)``."""
    count, grid = len(scores), scores.shape[2:]
    mask = numbers(given, "mask", scores.device)
    if mask.ndim == len(grid):
        mask = mask[None]
    if mask.ndim != len(grid) + 1 or len(mask) not in (1, count) or not mask.numel():
        raise TargetError(
            f"a mask of shape {tuple(mask.shape)} does not fit {count} samples and an output of "
            f"{len(grid)} axes; pass (H, W) for all samples or (N, H, W)"
        )
    if not ((mask == 0) | (mask == 1)).all():
        raise TargetError(
            f"expected a mask of bool, or of 0 and 1, got values from {mask.min():g} to "
            f"{mask.max():g}; compare first, such as mask=labels == 3"
        )
    fitted = F.interpolate(mask[:, None].float(), grid, mode="nearest-exact")[:, 0] > 0
    for held, where in ((mask, ""), (fitted, f" at the output's grid {tuple(grid)}")):
        empty = (~held.bool().flatten(1).any(1)).nonzero().flatten().tolist()
        if empty:
            raise TargetError(f"the mask of sample {empty[0]} is empty{where}; mark more places")
    return fitted.expand(count, *grid)


def _resized(mask: Tensor, grid: torch.Size) -> Tensor:
    """`mask` ``(N, K, *size)`` at another `grid`; a place is marked if any part of it was."""
    if mask.shape[2:] == grid:
        return mask
    size = [max(pair) for pair in zip(mask.shape[2:], grid, strict=True)]
    larger = F.interpolate(mask.float(), size, mode="nearest-exact")
    pools = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)
    return pools[len(grid) - 1](larger, grid) > 0


def _commonest(labels: Tensor, mask: Tensor | None, classes: int) -> Tensor:
    """The most frequent class in `labels` ``(N, *grid)``; 0 only if there is no other."""
    counted = torch.ones_like(labels) if mask is None else mask
    counts = torch.zeros(
        len(labels), classes, dtype=torch.float32, device=labels.device
    ).scatter_add(1, labels.flatten(1), counted.flatten(1).float())
    counts[:, 0] = 0
    return counts.argmax(1)


def _where(labels: Tensor, classes: Tensor) -> Tensor:
    """The places of each of `classes` in `labels` ``(N, *grid)``, bool ``(*classes, *grid)``."""
    count, *grid = labels.shape
    ones = [1] * len(grid)
    places = labels.reshape(count, *[1] * (classes.ndim - 1), *grid)
    mask = places == classes.reshape(*classes.shape, *ones)
    empty = (~mask.flatten(classes.ndim).any(-1)).nonzero().tolist()
    if empty:
        raise TargetError(
            f"the model predicts class {int(classes[tuple(empty[0])])} nowhere in sample "
            f"{empty[0][0]}; pass mask=, or a class that it predicts"
        )
    return mask
