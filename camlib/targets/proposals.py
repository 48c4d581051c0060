"""The boxes, labels and scores that a detector proposes, in one form for all detectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from camlib.errors import TargetError
from camlib.maps import precise
from camlib.targets.outputs import check_samples, class_scores
from camlib.targets.parts import listed, named


@dataclass(frozen=True)
class Proposals:
    """The ``Q`` proposals of each sample; empty ones fill up samples with fewer.

    Attributes:
        boxes: ``(N, Q, 4)``, ``x1 y1 x2 y2`` in pixels of the input, detached.
        labels: the best label of each proposal, ``(N, Q)``; -1 for an empty one.
        scores: the score of that label, ``(N, Q)``.
        every: the score of every label, ``(N, Q, labels)``, if the model returns it.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    every: Tensor | None = None

    def scores_of(self, labels: Tensor) -> Tensor:
        """The score of each proposal for each of `labels` ``(N, K)``: ``(N, K, Q)``."""
        if self.every is None:
            return self.scores[:, None].where(self.labels[:, None] == labels[..., None], 0)
        queries = self.every.shape[1]
        return self.every.transpose(1, 2).gather(1, labels[..., None].expand(-1, -1, queries))


def detects(output: Any) -> bool:
    """Whether `output` comes from a detector."""
    return "pred_boxes" in named(output) or _listed(output)


def proposals(output: Any, count: int, size: tuple[int, ...], activation: str) -> Proposals:
    """The proposals in `output` for `count` images of `size`.

    Args:
        output: a list of mappings with ``boxes``, ``labels`` and ``scores``, one for each sample
            (torchvision), or class scores ``(N, Q, labels)`` with ``pred_boxes`` ``(N, Q, 4)`` as
            centre, width and height in [0, 1] (DETR).
        count: the number of samples.
        size: the height and width of the input.
        activation: the activation of class scores: ``"softmax"``, with the last class for "no
            object", or ``"sigmoid"``.

    Raises:
        TargetError: `output` has another form.
    """
    if not detects(output):
        raise TargetError(
            "Detection expects a list of mappings with boxes, labels and scores, or logits with "
            f"pred_boxes, but the model returned {listed(output)}"
        )
    if "pred_boxes" in named(output):
        return _queried(output, count, size, activation)
    if len(output) != count:
        raise TargetError(
            f"the model returned detections of {len(output)} images; expected one entry for each "
            f"of the {count} images"
        )
    boxes, labels, scores = ([one[name] for one in output] for name in _LISTED)
    if not all(score.is_floating_point() for score in scores):
        raise TargetError(
            f"expected floating-point scores of detections, but the model returned "
            f"{scores[0].dtype}"
        )
    # A box without an area shows no object and does not even overlap with itself.
    labels = [
        label.where((box[:, 2:] > box[:, :2]).all(1), -1)
        for label, box in zip(labels, boxes, strict=True)
    ]
    # One more empty proposal, so that there is always one to take the maximum of.
    return Proposals(
        pad(pad_sequence([precise(b.detach()) for b in boxes], batch_first=True), (0, 0, 0, 1)),
        pad(pad_sequence(labels, batch_first=True, padding_value=-1), (0, 1), value=-1),
        pad(pad_sequence([precise(score) for score in scores], batch_first=True), (0, 1)),
    )


def overlap(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union ``(N, K, Q)`` of `boxes` ``(N, K, 4)`` and `others` ``(N, Q, 4)``."""
    one, other = boxes[:, :, None], others[:, None]
    low = torch.maximum(one[..., :2], other[..., :2])
    high = torch.minimum(one[..., 2:], other[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1) for box in (one, other)]
    return shared / (sum(areas) - shared).clamp(min=torch.finfo(shared.dtype).tiny)


_LISTED = ("boxes", "labels", "scores")


def _listed(output: Any) -> bool:
    if not isinstance(output, tuple | list) or not output:
        return False
    return all(isinstance(one, Mapping) and {*_LISTED} <= one.keys() for one in output)


def _queried(output: Any, count: int, size: tuple[int, ...], activation: str) -> Proposals:
    held = named(output)
    scores = precise(class_scores(held.get("pred_logits", output)))
    boxes = precise(held["pred_boxes"].detach())
    if scores.ndim != 3 or boxes.shape != (*scores.shape[:2], 4) or len(size) != 2:
        raise TargetError(
            f"expected class scores (N, queries, labels) and boxes (N, queries, 4) of 2-D images, "
            f"but the model returned {tuple(scores.shape)} and {tuple(boxes.shape)}"
        )
    check_samples(scores, count)
    centre, extent = boxes[..., :2], boxes[..., 2:]
    pixels = boxes.new_tensor([*reversed(size), *reversed(size)])
    boxes = torch.cat([centre - extent / 2, centre + extent / 2], -1) * pixels
    if activation == "sigmoid":
        every = scores.sigmoid()
        best, labels = every.max(2)
        return Proposals(boxes, labels, best, every)
    probabilities = scores.softmax(2)
    every, no_object = probabilities[..., :-1], probabilities[..., -1]
    best, labels = every.max(2)
    return Proposals(boxes, labels.where(best > no_object, -1), best, every)
