"""The target for models that detect objects: Detection."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from camlib.augmentation import Augmentation
from camlib.errors import TargetError
from camlib.maps import precise
from camlib.options import Natural, checked
from camlib.targets.base import Target
from camlib.targets.forms import Classes, check_positive, indices, numbers, within
from camlib.targets.proposals import Proposals, overlap, proposals


class Detection(Target):
    """An object in a box: the largest ``IoU * score`` among the model's proposals of its label.

    This is the similarity of D-RISE (Petsiuk et al., CVPR 2021, arXiv:2006.03204), with the score
    of the label instead of the cosine between class vectors. The gradient flows through the score;
    the overlap is a constant. The score is 0 if no proposal overlaps.

    Args:
        box: ``(4,)`` for all samples or ``(N, 4)``, ``x1 y1 x2 y2`` in pixels of the input.
            ``None`` takes the model's own detection on the clean output, the one at `rank`.
        label: as for `Category`, with the model's numbers. ``None`` takes the label of the chosen
            detection, or of the one that fits `box` best.
        rank: 0 for the detection with the highest score (of `label`, if given), 1 for the next.
        activation: the activation of DETR-like class scores: ``"softmax"``, with the last class for
            "no object", or ``"sigmoid"`` (Deformable DETR).

    Attributes:
        boxes: the boxes explained, ``(N, 4)``, or ``(N, K, 4)`` for several labels per sample.
    """

    per_sample = ("boxes", "classes")
    placed = True

    @checked
    def __init__(
        self,
        box: Any = None,
        label: Classes = None,
        rank: Natural = 0,
        activation: Literal["softmax", "sigmoid"] = "softmax",
    ) -> None:
        self.boxes: Tensor = box
        self.classes: Tensor = label
        self.rank = rank
        self.activation = activation
        self.size: tuple[int, ...] = ()

    def resolve(self, output: Any, count: int, size: tuple[int, ...]) -> Detection:
        """The target with boxes and labels."""
        proposed = proposals(output, count, size, self.activation)
        labels = None if self.classes is None else _labels(self.classes, proposed)
        if self.boxes is None:
            boxes, labels = _ranked(proposed, labels, self.rank)
        else:
            boxes = _boxes(self.boxes, proposed)
            labels = _fitting(proposed, boxes) if labels is None else labels
            if labels.ndim == 2:
                boxes = boxes[:, None].expand(-1, labels.shape[1], -1)
        return self.replaced(boxes=boxes, classes=labels, size=size)

    def augmented(self, augmentation: Augmentation) -> Detection:
        """The target with the boxes in the changed images."""
        size = augmentation.size(self.size)
        factors = [new / old for new, old in zip(size[::-1], self.size[::-1], strict=True)]
        boxes = self.boxes * self.boxes.new_tensor(factors * 2)
        if augmentation.flip:
            left, top, right, bottom = boxes.unbind(-1)
            boxes = torch.stack([size[-1] - right, top, size[-1] - left, bottom], -1)
        return self.replaced(boxes=boxes, size=size)

    def __call__(self, output: Any) -> Tensor:
        """The scores, shaped like `classes`."""
        count = len(self.classes)
        proposed = proposals(output, count, self.size, self.activation)
        device = proposed.boxes.device
        overlaps = overlap(self.boxes.reshape(count, -1, 4).to(device), proposed.boxes)
        scores = proposed.scores_of(self.classes.reshape(count, -1).to(device))
        return (overlaps * scores).amax(2).reshape(self.classes.shape)


def _labels(given: Classes, proposed: Proposals) -> Tensor:
    """The labels `given`, ``(N,)`` or ``(N, K)``."""
    count, device = len(proposed.boxes), proposed.boxes.device
    labels = indices(given, count, device, name="label", noun="label")
    if proposed.every is not None:
        return within(labels, proposed.every.shape[2], "label")
    check_positive(labels, "label")
    return labels


def _boxes(given: Any, proposed: Proposals) -> Tensor:
    """The boxes `given`, ``(N, 4)``."""
    count = len(proposed.boxes)
    boxes = precise(numbers(given, "box", proposed.boxes.device).to(proposed.boxes.dtype))
    if boxes.ndim == 1:
        boxes = boxes[None]
    if boxes.ndim != 2 or len(boxes) not in (1, count) or boxes.shape[1] != 4:
        raise TargetError(
            f"a box of shape {tuple(boxes.shape)} does not fit {count} samples; pass x1 y1 x2 y2 "
            f"for all samples, or ({count}, 4)"
        )
    bad = (~(boxes[:, 2:] > boxes[:, :2]).all(1)).nonzero().flatten().tolist()
    if bad:
        raise TargetError(
            f"box {boxes[bad[0]].tolist()} is empty; expected x1 y1 x2 y2 in pixels of the input, "
            "with x1 < x2 and y1 < y2"
        )
    return boxes.expand(count, 4)


def _ranked(proposed: Proposals, labels: Tensor | None, rank: int) -> tuple[Tensor, Tensor]:
    """Box and label of the detection at `rank`, for each of `labels` if given."""
    several = None if labels is None else labels.reshape(len(labels), -1, 1)
    own = proposed.labels[:, None]
    wanted = own >= 0 if several is None else own == several  # (N, K, Q)
    short = (wanted.sum(2) <= rank).nonzero().tolist()
    if short:
        sample, place = short[0]
        kind = "" if several is None else f" of label {int(several[sample, place])}"
        there = int(wanted[sample, place].sum())
        number = f"only {there} objects" if there else "nothing"
        raise TargetError(
            f"the model detects {number}{kind} in sample {sample}, so there is none with "
            f"rank={rank}; pass box= and label=, or another sample"
        )
    scores = proposed.scores.detach()[:, None].where(wanted, -torch.inf)
    chosen = scores.argsort(dim=2, descending=True, stable=True)[..., rank]  # (N, K)
    boxes = proposed.boxes.gather(1, chosen[..., None].expand(-1, -1, 4))
    shape = chosen.shape[:1] if labels is None else labels.shape
    return boxes.reshape(*shape, 4), proposed.labels.gather(1, chosen).reshape(shape)


def _fitting(proposed: Proposals, boxes: Tensor) -> Tensor:
    """The label of the detection that fits each of `boxes` ``(N, 4)`` best."""
    scores = proposed.scores.detach().where(proposed.labels >= 0, 0)
    best, place = (overlap(boxes[:, None], proposed.boxes)[:, 0] * scores).max(1)
    alone = (best <= 0).nonzero().flatten().tolist()
    if alone:
        raise TargetError(
            f"nothing that the model detects overlaps box {boxes[alone[0]].tolist()} in sample "
            f"{alone[0]}; pass label="
        )
    return proposed.labels.gather(1, place[:, None])[:, 0]
