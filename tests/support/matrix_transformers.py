"""Models of transformers, from small configurations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from case import ANY, CLASSES, MIXED, Case, Scores, everywhere
from torch import Tensor, nn


def of_transformers() -> list[Case]:
    """Models of transformers from small configurations."""
    return [
        Case(
            "transformers",
            name,
            _transformers(head, options),
            size,
            form,
            scores,
            lost=MIXED if name == "MobileViT" else "",
        )
        for name, head, options, size, form, scores in TRANSFORMERS
    ]


def _transformers(head: str, options: dict[str, Any]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        kind = getattr(transformers, head)
        return kind(kind.config_class(**options))

    return build


def queries(output: Any) -> Tensor:
    """The mean score of each label over the queries of DETR, ``(N, labels)``."""
    scores: Tensor = output["logits"]
    return scores[..., :-1].mean(1)


def embedding(output: Any) -> Tensor:
    """The axes of an embedding of images, ``(N, K)``."""
    found: Tensor = output["image_embeds" if "image_embeds" in output else "pooler_output"]
    return found


_SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}
_VIT = {**_SMALL, "image_size": 128, "patch_size": 16, "num_labels": CLASSES}
_TEXT = {**_SMALL, "vocab_size": 99, "max_position_embeddings": 16}
_STAGES = {"depths": [1, 1, 2, 1], "hidden_sizes": [16, 32, 48, 64], "num_labels": CLASSES}

TRANSFORMERS: list[tuple[str, str, dict[str, Any], tuple[int, int], str, Scores | None]] = [
    ("ViT", "ViTForImageClassification", _VIT, (128, 128), "mapping", None),
    ("DeiT", "DeiTForImageClassification", _VIT, (128, 128), "mapping", None),
    ("DeiT, distilled", "DeiTForImageClassificationWithTeacher", _VIT, (128, 128), "mapping", None),
    (
        "Swin",
        "SwinForImageClassification",
        {
            "image_size": 128,
            "embed_dim": 16,
            "depths": [1, 1, 2, 1],
            "num_heads": [1, 2, 2, 4],
            "window_size": 4,
            "num_labels": CLASSES,
        },
        (128, 128),
        "mapping",
        None,
    ),
    ("ConvNeXt", "ConvNextForImageClassification", _STAGES, ANY, "mapping", None),
    ("DINOv2", "Dinov2ForImageClassification", _VIT, (128, 128), "mapping", None),
    (
        "DINOv2, registers",
        "Dinov2WithRegistersForImageClassification",
        {**_VIT, "num_register_tokens": 4},
        (128, 128),
        "mapping",
        None,
    ),
    ("BEiT", "BeitForImageClassification", _VIT, (128, 128), "mapping", None),
    (
        "SegFormer",
        "SegformerForSemanticSegmentation",
        {
            "hidden_sizes": [16, 16, 32, 48],
            "depths": [1, 1, 1, 1],
            "decoder_hidden_size": 32,
            "num_attention_heads": [1, 1, 2, 4],
            "num_labels": CLASSES,
        },
        ANY,
        "mapping",
        everywhere,
    ),
    (
        "PVTv2",
        "PvtV2ForImageClassification",
        {
            "image_size": 128,
            "hidden_sizes": [16, 16, 32, 48],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 1, 2, 4],
            "num_labels": CLASSES,
        },
        ANY,
        "mapping",
        None,
    ),
    (
        "LeViT",
        "LevitForImageClassification",
        {"image_size": 256, "num_labels": CLASSES, "depths": [1, 1, 1]},
        (256, 256),
        "mapping",
        None,
    ),
    (
        "MobileViT",
        "MobileViTForImageClassification",
        {"image_size": 128, "num_labels": CLASSES, "hidden_sizes": [24, 32, 40]},
        (128, 128),
        "mapping",
        None,
    ),
    (
        "ResNet",
        "ResNetForImageClassification",
        {**_STAGES, "embedding_size": 16},
        ANY,
        "mapping",
        None,
    ),
    (
        "CLIP, images",
        "CLIPVisionModelWithProjection",
        {**_SMALL, "image_size": 128, "patch_size": 16, "projection_dim": 24},
        (128, 128),
        "mapping",
        embedding,
    ),
    (
        "CLIP, images and texts",
        "CLIPModel",
        {
            "text_config": {**_TEXT, "eos_token_id": 98, "bos_token_id": 97, "pad_token_id": 1},
            "projection_dim": 24,
            "vision_config": {**_SMALL, "image_size": 128, "patch_size": 16},
        },
        (128, 128),
        "texts",
        None,
    ),
    (
        "SigLIP, images",
        "SiglipVisionModel",
        {**_SMALL, "image_size": 128, "patch_size": 16},
        (128, 128),
        "mapping",
        embedding,
    ),
    (
        "SigLIP, images and texts",
        "SiglipModel",
        {
            "text_config": {
                **_TEXT,
                "projection_size": 48,
                "eos_token_id": 98,
                "bos_token_id": 97,
                "pad_token_id": 1,
            },
            "vision_config": {**_SMALL, "image_size": 128, "patch_size": 16},
        },
        (128, 128),
        "texts",
        None,
    ),
    (
        "DETR",
        "DetrForObjectDetection",
        {
            "use_timm_backbone": False,
            "use_pretrained_backbone": False,
            "backbone": None,
            "backbone_config": {
                "model_type": "resnet",
                "embedding_size": 16,
                "hidden_sizes": [16, 32, 48, 64],
                "depths": [1, 1, 1, 1],
                "out_features": ["stage4"],
            },
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "num_queries": 12,
            "num_labels": CLASSES,
        },
        ANY,
        "mapping",
        queries,
    ),
]
