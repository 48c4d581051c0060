"""Evaluate the built-in network: how well it recognises shapes, and where its evidence lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from camlib.zoo.network import SceneNet, preprocess
from camlib.zoo.scenes import Scene
from camlib.zoo.shapes import CLASSES

# The cells of the last feature map are 8 pixels wide, so half a cell is its precision.
_TOLERANCE = 4


@dataclass(frozen=True)
class Evaluation:
    """Numbers in [0, 1]; those on evidence are means over the classes present in each scene.

    Attributes:
        mean_average_precision: the mean of `average_precision` over classes.
        average_precision: the average precision of each class.
        energy: the share of positive evidence in the mask of the class, widened by 4 pixels.
        elsewhere: the share of it in the masks of other classes, outside that mask.
        pointing: the share of maps whose largest value lies in the widened mask.
    """

    mean_average_precision: float
    average_precision: dict[str, float]
    energy: float
    elsewhere: float
    pointing: float


def average_precision(scores: Tensor, present: Tensor) -> Tensor:
    """The average precision ``(K,)`` of each class from scores and presence, ``(N, K)`` both.

    It is the mean, over the samples with the class, of the share of such samples among those with
    at least the same score. It is NaN for a class that no sample has.
    """
    ranked = present.gather(0, scores.argsort(0, descending=True)).double()
    ranks = torch.arange(1, len(ranked) + 1, device=ranked.device, dtype=ranked.dtype)
    precision = ranked.cumsum(0) / ranks[:, None]
    return (precision * ranked).sum(0) / ranked.sum(0)


@torch.no_grad()
def class_maps(network: SceneNet, images: Tensor) -> tuple[Tensor, Tensor]:
    """Scores ``(N, 8)`` and each class's map ``(N, 8, H, W)``, at the size of the images.

    The map is CAM before its ReLU. For this network it equals Grad-CAM times the number of cells.
    """
    activation = network.features(preprocess(images))
    scores = network.classifier(network.pool(activation).flatten(1))
    maps = torch.einsum("kc,nchw->nkhw", network.classifier.weight, activation)
    return scores, F.interpolate(maps, images.shape[2:], mode="bilinear", align_corners=False)


def evaluate(network: SceneNet, scenes: Sequence[Scene], *, batch_size: int = 100) -> Evaluation:
    """Evaluate `network`, which is in evaluation mode, on the scenes."""
    scores, placed = [], []
    for start in range(0, len(scenes), batch_size):
        part = scenes[start : start + batch_size]
        logits, maps = class_maps(network, torch.stack([scene.image for scene in part]))
        scores.append(logits)
        for scene, evidence in zip(part, maps.clamp(min=0), strict=True):
            for label in sorted(set(scene.labels.tolist())):
                placed.append(_placement(scene, label, evidence[label]))
    present = torch.stack([scene.presence for scene in scenes])
    precision = average_precision(torch.cat(scores), present)
    energy, elsewhere, pointing = torch.stack(placed).mean(0).tolist()
    return Evaluation(
        mean_average_precision=precision.mean().item(),
        average_precision=dict(zip(CLASSES, precision.tolist(), strict=True)),
        energy=energy,
        elsewhere=elsewhere,
        pointing=pointing,
    )


def _placement(scene: Scene, label: int, evidence: Tensor) -> Tensor:
    """Energy in the class, energy in other classes, and whether the peak is in the class."""
    width = 2 * _TOLERANCE + 1
    visible = scene.mask(label)[None].float()
    own = F.max_pool2d(visible, width, stride=1, padding=_TOLERANCE)[0] > 0
    others = scene.masks[scene.labels != label].any(0) & ~own
    total = evidence.sum().clamp(min=torch.finfo(evidence.dtype).tiny)
    peak = own.flatten()[evidence.argmax()]
    return torch.stack([evidence[own].sum() / total, evidence[others].sum() / total, peak])
