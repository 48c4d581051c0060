"""Families of timm, chosen for being different."""

from __future__ import annotations

from collections.abc import Callable

from case import ANY, CLASSES, MIXED, Case
from torch import nn


def of_timm() -> list[Case]:
    """Families of timm that differ in how their layers are laid out, the smallest of each."""
    found = []
    for name, given in TIMM.items():
        size = given if isinstance(given, tuple) else (given, given)
        nightly = "large in its smallest form" if name in LARGE else ""
        lost = MIXED if name.startswith(("mobilevit_", "tiny_vit_")) else ""
        found.append(Case("timm", name, _timm(name, given), size, nightly=nightly, lost=lost))
    return found


def _timm(name: str, size: int | tuple[int, int]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import timm

        # Those that are built for one size take it as an option, and only they do.
        options = {} if isinstance(size, tuple) else {"img_size": size}
        return timm.create_model(name, pretrained=False, num_classes=CLASSES, **options)

    return build


LARGE = {
    *("beit_base_patch16_224", "beitv2_base_patch16_224", "eva_large_patch14_196", "vgg11"),
    *("vit_base_patch16_clip_224", "samvit_base_patch16_224", "naflexvit_base_patch16_gap"),
}

TIMM: dict[str, int | tuple[int, int]] = {
    # transformers with class, distillation and register tokens, or none
    "vit_tiny_patch16_224": 128,
    "deit_tiny_distilled_patch16_224": 128,
    "deit3_small_patch16_224": 128,
    "vit_little_patch16_reg4_gap_256": 128,
    "vit_base_patch16_gap_224": 128,
    "vit_small_patch14_dinov2": 112,
    "vit_small_patch14_reg4_dinov2": 112,
    "vit_small_patch16_dinov3": 128,
    "vit_base_patch32_siglip_256": 128,
    "vit_base_patch16_clip_224": 128,
    "vit_relpos_small_patch16_224": 128,
    "vit_small_patch16_rope_224": 128,
    "vit_tiny_r_s16_p8_224": 128,
    "samvit_base_patch16_224": 128,
    "naflexvit_base_patch16_gap": 128,
    "vitamin_small_224": 128,
    "beit_base_patch16_224": 128,
    "beitv2_base_patch16_224": 128,
    "eva_large_patch14_196": 112,
    "eva02_tiny_patch14_224": 112,
    "cait_xxs24_224": 128,
    "xcit_nano_12_p16_224": 128,
    "volo_d1_224": 128,
    "tnt_s_patch16_224": 128,
    "convit_tiny": 128,
    "pit_ti_224": 128,
    "pit_ti_distilled_224": 128,
    "crossvit_tiny_240": (240, 240),
    # transformers with stages, and windows
    "swin_tiny_patch4_window7_224": 256,
    "swinv2_tiny_window8_256": 128,
    "swinv2_cr_tiny_224": 128,
    "swin_s3_tiny_224": 128,
    "hiera_tiny_224": 128,
    "pvt_v2_b0": ANY,
    "twins_pcpvt_small": 256,
    "twins_svt_small": 128,
    "nest_tiny": 128,
    "davit_tiny": (256, 320),
    "mvitv2_tiny": 128,
    "mvitv2_small_cls": 128,
    "gcvit_xxtiny": 128,
    "coat_tiny": 256,
    "coat_lite_tiny": 128,
    "levit_128s": 128,
    "levit_conv_128s": 128,
    # convolutions and attention
    "maxvit_pico_rw_256": 128,
    "coatnet_nano_rw_224": 128,
    "mobilevit_xxs": ANY,
    "mobilevitv2_050": ANY,
    "mobilenetv4_hybrid_medium": ANY,
    "visformer_tiny": 256,
    "edgenext_xx_small": ANY,
    "fastvit_sa12": ANY,
    "efficientformer_l1": 224,
    "efficientformerv2_s0": 128,
    "efficientvit_b0": ANY,
    "efficientvit_m0": 128,
    "nextvit_small": ANY,
    "tiny_vit_5m_224": ANY,
    "swiftformer_xs": ANY,
    "caformer_s18": ANY,
    "repvit_m0_9": ANY,
    "shvit_s1": ANY,
    "botnet26t_256": 128,
    "lambda_resnet26t": 128,
    # neither convolutions nor attention, or in their own way
    "mixer_s16_224": 128,
    "gmixer_12_224": 128,
    "gmlp_ti16_224": 128,
    "resmlp_12_224": 128,
    "poolformer_s12": ANY,
    "poolformerv2_s12": ANY,
    "convmixer_768_32": ANY,
    "sequencer2d_s": 128,
    "focalnet_tiny_srf": ANY,
    "mambaout_femto": ANY,
    # convolutions
    "convnext_atto": ANY,
    "convnextv2_atto": ANY,
    "inception_next_atto": ANY,
    "rdnet_tiny": ANY,
    "starnet_s050": ANY,
    "fasternet_t0": ANY,
    "mobilenetv3_small_050": ANY,
    "mobilenetv4_conv_small_035": ANY,
    "efficientnet_b0": ANY,
    "efficientnetv2_rw_t": ANY,
    "regnety_002": ANY,
    "nfnet_l0": ANY,
    "resnet10t": ANY,
    "resnetv2_18": ANY,
    "resnest14d": ANY,
    "seresnet18": ANY,
    "skresnet18": ANY,
    "res2net50_26w_4s": ANY,
    "densenet121": ANY,
    "vgg11": ANY,
    "inception_v3": (192, 256),
    "hrnet_w18_small": ANY,
    "ghostnet_050": ANY,
    "repvgg_a0": ANY,
    "dla46_c": ANY,
    "dpn68": ANY,
    "cs3darknet_s": ANY,
    "vovnet39a": ANY,
    "xception41": ANY,
}
