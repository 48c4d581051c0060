"""Metrics of maps, by each library that has them, and as many plain passes.

Maps are given, random, and without equal values. What is timed is what a library does with them.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cases import Call, Setting

BATCH = 32
"""How many images the model sees at once."""

DRAWS = 20
"""Of metrics that draw at random."""

NAMES: dict[str, Sequence[str] | Mapping[str, Mapping[str, Any]]] = {
    "confidence": ["average_drop", "increase_in_confidence", "average_gain"],
    "deletion and insertion": ["deletion", "insertion"],
    "road": ["road"],
    "infidelity": {"infidelity": {"draws": DRAWS, "change": "gaussian"}},
    "faithfulness correlation": {"faithfulness_correlation": {"draws": DRAWS}},
}
"""What camlib measures in one call, by title."""

PASSES = {
    "confidence": 2,
    "deletion and insertion": 1 + 28 + 28,
    "road": 1 + 9 + 9,
    "infidelity": 1 + DRAWS,
    "faithfulness correlation": 1 + DRAWS,
}
"""How many passes that takes for each image, with that of the clean one."""


def plain(setting: Setting, count: int) -> Call:
    """The model alone on `count` images, `BATCH` at a time."""
    model, images = setting.network(), setting.images()
    chunk = images[:1].expand(BATCH, -1, -1, -1).contiguous()

    @torch.no_grad()
    def call() -> object:
        return [model(chunk[: min(BATCH, count - start)]) for start in range(0, count, BATCH)]

    return call


def measuring(setting: Setting, title: str, library: str) -> Call:
    """What `library` takes for the metrics of `title`."""
    model, images, targets = setting.network(), setting.images(), setting.targets()
    generator = torch.Generator().manual_seed(2)
    maps = torch.rand(len(images), *images.shape[2:], generator=generator).to(images.device)
    if library == "camlib":
        from camlib import metrics

        return lambda: metrics.faithfulness(
            model, images, maps, targets, metrics=NAMES[title], batch_size=BATCH
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PEERS[title][library](model, images, maps, targets)


class _Given:
    """Maps that are given, in the shape of torchcam's extractors."""

    def __init__(self, model: nn.Module, maps: Tensor) -> None:
        self.model, self.maps = model, maps

    def __call__(self, *_: Any, **__: Any) -> list[Tensor]:
        return [self.maps]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        return cams[0]

    def _hooks_off(self) -> Any:
        return torch.no_grad()


def _torchcam(kind: str, **options: Any) -> Callable[..., Call]:
    def make(model: nn.Module, images: Tensor, maps: Tensor, targets: list[int]) -> Call:
        from torchcam import metrics

        softmax = functools.partial(torch.softmax, dim=-1)
        metric = getattr(metrics, kind)(_Given(model, maps), softmax, **options)
        return torch.no_grad()(lambda: metric.update(images, targets))

    return make


def _grad_cam(module: str, *kinds: str) -> Callable[..., Call]:
    def make(model: nn.Module, images: Tensor, maps: Tensor, targets: list[int]) -> Call:
        import importlib

        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        found = importlib.import_module(f"pytorch_grad_cam.metrics.{module}")
        metrics = [getattr(found, kind)() for kind in kinds]
        asked = [ClassifierOutputTarget(target) for target in targets]
        return lambda: [metric(images, maps.cpu().numpy(), asked, model) for metric in metrics]

    return make


def _captum(model: nn.Module, images: Tensor, maps: Tensor, targets: list[int]) -> Call:
    from captum.metrics import infidelity

    values = maps[:, None].expand_as(images).contiguous()

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        noise = 0.2 * torch.randn_like(inputs)
        return noise, inputs - noise

    return lambda: infidelity(
        model,
        perturb,
        images,
        values,
        target=torch.tensor(targets, device=images.device),
        n_perturb_samples=DRAWS,
        max_examples_per_batch=BATCH,
        normalize=True,
    )


def _quantus(model: nn.Module, images: Tensor, maps: Tensor, targets: list[int]) -> Call:
    import numpy as np
    import quantus

    metric = quantus.FaithfulnessCorrelation(
        nr_runs=DRAWS, subset_size=224, disable_warnings=True, return_aggregate=False
    )
    return lambda: metric(
        model=model,
        x_batch=images.cpu().numpy(),
        y_batch=np.array(targets),
        a_batch=maps[:, None].cpu().numpy(),
        device=str(images.device),
        batch_size=BATCH,
    )


PEERS: dict[str, dict[str, Callable[..., Call]]] = {
    "confidence": {
        "torchcam": _torchcam("ClassificationMetric"),
        "grad-cam": _grad_cam("cam_mult_image", "DropInConfidence", "IncreaseInConfidence"),
    },
    "deletion and insertion": {
        "torchcam": _torchcam("DeletionInsertionMetric", steps=28, batch_size=BATCH)
    },
    "road": {"grad-cam": _grad_cam("road", "ROADCombined")},
    "infidelity": {"captum": _captum},
    "faithfulness correlation": {"quantus": _quantus},
}
"""The other libraries by title; grad-cam's first two take a call each, torchcam has no gain."""
