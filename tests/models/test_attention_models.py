"""Maps from attention of the models of torchvision, timm and Hugging Face."""

from __future__ import annotations

import re

import pytest
import torch
from case import CLASSES, Case
from matrix import CASES
from nets import images, spread
from snapshot import snapshot
from textured_patch import examined
from torch import Tensor, nn
from torchvision.models import VisionTransformer, swin_t

from camlib import AttentionRollout, GradientRollout, LeGrad, ModelError, layouts
from camlib.rules.attention import Attending

KINDS = [AttentionRollout, GradientRollout, LeGrad]

NAMES = {
    "class_token": r"cls_token",
    "pos_embedding": r"pos_embed$|position_embeddings",
    "conv_proj": r"patch_embed",
    "ln_1": r"norm1|layernorm_before",
    "in_proj": r"attn\.qkv",
    "out_proj": r"attn\.proj|o_proj|attention\.output",
    "ln_2": r"norm2|layernorm_after",
    "mlp.0": r"fc1|intermediate",
    "mlp.3": r"fc2|\d\.output",
    "encoder.ln": r"^norm|vit\.layernorm",
    "heads": r"^head|classifier",
}
"""A part of torchvision's name of a weight, and what timm or Hugging Face call it."""


def of_torchvision(size: int = 16, **options: int) -> VisionTransformer:
    kept = {"patch_size": 4, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 24}
    return VisionTransformer(size, **{**kept, "num_classes": 5, **options})


def of_timm() -> nn.Module:
    timm = pytest.importorskip("timm")
    kept = {"embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 1.5, "num_classes": 5}
    return timm.models.VisionTransformer(16, 4, **kept)


def of_transformers(**options: object) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=16,
        patch_size=4,
        num_labels=5,
        layer_norm_eps=1e-6,
        **options,
    )
    return transformers.ViTForImageClassification(config)


def with_weights_of(model: nn.Module, other: VisionTransformer) -> nn.Module:
    """`model` in float64 with the weights of torchvision's `other`."""
    known = dict(other.named_parameters())
    for name, parameter in model.named_parameters():
        third = re.search(r"(q|k|v)_proj|(query|key|value)", name)
        [part] = ["in_proj"] if third else [p for p, r in NAMES.items() if re.search(r, name)]
        number = re.search(r"\.(\d)\.", name)
        layer = f"layer_{number[1]}." if number else ""
        kind = name.rpartition(".")[2]
        end = f"_{kind}" if part == "in_proj" else f".{kind}" if kind in ("weight", "bias") else ""
        [found] = [t for n, t in known.items() if part in n and layer in n and n.endswith(end or n)]
        if third:
            found = found.chunk(3)["qkv".index(third[0][0])]
        parameter.data = found.detach().reshape(parameter.shape).clone()
    return model.double().eval()


@pytest.fixture(scope="module")
def model() -> VisionTransformer:
    return spread(of_torchvision()).double()


@pytest.mark.parametrize(
    ("build", "tolerance"),
    [
        pytest.param(of_timm, 1e-9, id="timm"),
        pytest.param(lambda: of_transformers(attn_implementation="sdpa"), 1e-9, id="sdpa"),
        # Its softmax is one of float32, whatever the weights are.
        pytest.param(lambda: of_transformers(attn_implementation="eager"), 1e-4, id="eager"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_network_gives_the_same_map(kind, build, tolerance, model):
    twin = with_weights_of(build(), model)
    batch = images(2, 16, 16).double()
    before = snapshot(twin)
    expected, found = kind(model).explain(batch, [[1, 3]]), kind(twin).explain(batch, [[1, 3]])
    assert snapshot(twin) == before
    for one, other in ((found.score, expected.score), (found.map, expected.map)):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance / 1e3)
    assert expected.map.std() > 1e-3 * expected.map.mean()


def test_attention_written_out_by_timm(model):
    twin = with_weights_of(of_timm(), model)
    batch = images(2, 16, 16).double()
    for block in twin.blocks:
        block.attn.fused_attn = False
    for kind in KINDS:
        found, expected = kind(twin).explain(batch, 1).map, kind(model).explain(batch, 1).map
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("normed", [True, False])
def test_le_grad_at_the_pooling_of_timm(normed):
    """SigLIP's form; the authors' code leaves out the norm, as where there is none."""
    timm = pytest.importorskip("timm")
    kept = {"embed_dim": 16, "depth": 3, "num_heads": 2, "mlp_ratio": 1.5, "num_classes": 5}
    options = {"class_token": False, "global_pool": "map", **kept}
    model = spread(timm.models.VisionTransformer(16, 4, **options)).double()
    if not normed:
        model.norm = nn.Identity()
    batch = images(2, 16, 16).double()
    tokens = model.pos_drop(model._pos_embed(model.patch_embed(batch)))
    total = torch.zeros(2, 16).double()
    for number, block in enumerate(model.blocks):
        tokens = block(tokens).detach()
        if number == 0:
            continue
        with Attending(0) as attending:
            pooled = model.attn_pool(model.norm(tokens))
        [call] = attending.found
        score = model.head(model.fc_norm(pooled))[[0, 1], [3, 1]].sum()
        slope = call.per_head(torch.autograd.grad(score, call.matrix)[0])
        total += slope.clamp(min=0).mean(1)[:, 0]
    layout = layouts.Tokens(grid=(4, 4))
    found = LeGrad(model, blocks=2, layout=layout).explain(batch, [3, 1])
    torch.testing.assert_close(found.map.flatten(1), total, rtol=1e-9, atol=1e-12)
    assert found.layers == ("blocks.1", "blocks.2")


OWN = Case(
    "torchvision.own",
    "VisionTransformer",
    lambda: of_torchvision(
        128, patch_size=16, num_layers=3, num_heads=4, hidden_dim=48, num_classes=CLASSES
    ),
    (128, 128),
)

FOLLOWING = [
    OWN,
    *(
        case
        for case in CASES
        if str(case)
        in (
            "timm-vit_tiny_patch16_224",
            "transformers-ViT",
            "transformers-DeiT",
            "transformers-DeiT, distilled",
            "transformers-DINOv2",
            "transformers-DINOv2, registers",
            "transformers-BEiT",
            "transformers-CLIP, images",
            "transformers-CLIP, images and texts",
            "transformers-SigLIP, images",
        )
    ),
]


@pytest.mark.parametrize(
    "kind", [*KINDS, pytest.param(lambda model: LeGrad(model, tokens="own"), id="own tokens")]
)
@pytest.mark.parametrize("case", FOLLOWING, ids=str)
def test_the_map_follows_the_evidence_and_the_model_is_left_as_found(case, kind):
    pytest.importorskip(case.group.partition(".")[0])
    found = examined(case, kind)
    assert found.complaint == ""
    assert found.grid == (8, 8)


def test_a_map_that_does_not_follow_is_found_out():
    def turned(tokens: Tensor) -> Tensor:
        return tokens[:, 1:].mT.unflatten(2, (8, 8)).mT

    found = examined(OWN, lambda model: GradientRollout(model, layout=turned))
    assert found.complaint == "the map does not follow the patch"


def test_windows_are_refused():
    model = swin_t(num_classes=3).eval()
    with pytest.raises(ModelError, match=r"SwinTransformer has attention of shapes \(64, 3, 49, 4"):
        GradientRollout(model)(images(1, 224, 224))
