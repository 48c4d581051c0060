"""All classification, video, segmentation and detection models of torchvision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from case import ANY, CLASSES, Case, everywhere
from torch import Tensor, nn
from torchvision import models

LABELS = 11
"""The number of labels of a detector: each costs a pass back through its proposals."""


def of_torchvision() -> list[Case]:
    """All classification, video, segmentation and detection models of torchvision."""
    kinds = {
        "classification": (models, _classifier),
        "video": (models.video, _video),
        "segmentation": (models.segmentation, _segmentation),
        "detection": (models.detection, _detector),
    }
    return [
        replace(make(name), group=f"torchvision.{kind}", nightly=_nightly(name))
        for kind, (module, make) in kinds.items()
        for name in models.list_models(module=module)
    ]


def _nightly(name: str) -> str:
    if name in NIGHTLY:
        return NIGHTLY[name]
    return "" if name in EVERY_RUN else "a larger one of its family"


def _classifier(name: str) -> Case:
    size: tuple[int, ...] = ANY
    options: dict[str, Any] = {}
    if name.startswith("vit_"):
        size = (112, 112) if name.endswith("14") else (128, 128)
        options = {"image_size": size[0]}
    elif name.startswith("swin"):
        size = (256, 320)  # in a single window everything would see everything
    elif name == "maxvit_t":
        size = (224, 224)
        options = {"input_size": size}
    elif name == "googlenet":
        options = {"init_weights": False}
    elif name == "inception_v3":
        size = (192, 256)
        options = {"init_weights": False}
    return Case("", name, _torchvision(name, num_classes=CLASSES, **options), size)


def _video(name: str) -> Case:
    size = (16, 224, 224) if name == "s3d" or name.startswith("mvit") else (8, 128, 128)
    if name == "swin3d_b":
        size = (8, 256, 256)  # so deep, in a single window everything sees everything
    return Case("", name, _torchvision(name, num_classes=CLASSES), size)


def _segmentation(name: str) -> Case:
    build = _torchvision(name, num_classes=CLASSES, weights_backbone=None)
    return Case("", name, build, ANY, scores=everywhere)


def _detector(name: str) -> Case:
    # A network that has learned nothing is sure of nothing, and its boxes are to be seen.
    options: dict[str, Any] = {"score_thresh": 0.0, "detections_per_img": 20}
    if "rcnn" in name:
        options = {f"box_{option}": value for option, value in options.items()}
        options |= {"rpn_pre_nms_top_n_test": 100, "rpn_post_nms_top_n_test": 50}
    if not name.startswith("ssd"):
        options |= {"min_size": ANY[0], "max_size": ANY[1]}
    build = _torchvision(name, num_classes=LABELS, weights_backbone=None, **options)
    return Case("", name, build, ANY, "list", labels)


def _torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: models.get_model(name, weights=None, **options)


EVERY_RUN = {
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s"),
    *("googlenet", "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small"),
    *("regnet_x_400mf", "regnet_y_400mf", "resnet18", "resnet50", "resnext50_32x4d"),
    *("shufflenet_v2_x0_5", "squeezenet1_0", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11"),
    *("vgg11_bn", "vit_b_32", "wide_resnet50_2", "r3d_18", "mc3_18", "r2plus1d_18", "swin3d_t"),
    *("lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large", "fcn_resnet50"),
    *("fasterrcnn_mobilenet_v3_large_320_fpn", "fcos_resnet50_fpn", "retinanet_resnet50_fpn"),
    "ssdlite320_mobilenet_v3_large",
}
"""The models of torchvision that stand for their families."""

NIGHTLY = {
    "mvit_v1_b": "takes no smaller clip than 16 frames of 224 x 224",
    "mvit_v2_s": "takes no smaller clip than 16 frames of 224 x 224",
    "s3d": "takes no smaller clip than 16 frames of 224 x 224",
    "maskrcnn_resnet50_fpn": "draws a mask for every box",
    "maskrcnn_resnet50_fpn_v2": "draws a mask for every box",
    "keypointrcnn_resnet50_fpn": "finds the joints in every box",
}
"""Why a family is not in every run."""


def labels(output: Any) -> Tensor:
    """The sum of the scores of the boxes of each label, ``(N, labels)``."""
    return torch.stack(
        [
            torch.stack([found["scores"][found["labels"] == k].sum() for k in range(1, LABELS)])
            for found in output
        ]
    )
