"""How far camlib is from the authors' own code, as formulas written from its definitions.

The code itself is not run: its formulas are the loops of `reference.py`, in float64, on small
networks. Each case is a row of "The authors' code" in `docs/migrating.md`.
"""

from __future__ import annotations

from typing import Any

import torch
from agreement_peers import Pair, case
from nets import by_hand, convolutional, images, pooled, transformer
from reference import (
    cam,
    full_grad,
    grad_cam,
    grad_cam_plus_plus,
    group_cam,
    layer_cam,
    rollout,
    score_cam,
    token_recipro_cam,
)
from reference import recipro_cam as recipro_cam_by_hand
from torch import Tensor, nn
from torch.nn import functional as F

import camlib
from camlib.rules.attention import Attending

LAYER = "features"
TARGETS = [2, 0, 1]


def net() -> nn.Module:
    return convolutional().double()


def batch(count: int = 3) -> Tensor:
    return images(count).double()


def seen(image: Tensor, target: int, model: nn.Module | None = None) -> tuple[Tensor, Tensor]:
    activation, gradient = by_hand(model or net(), image[None], 4, target)
    return activation[0], gradient[0]


def each(function: Any) -> Tensor:
    return torch.stack([function(x, t) for x, t in zip(batch(), TARGETS, strict=True)])


def large(found: Tensor, size: int = 8) -> Tensor:
    return F.interpolate(found[None, None], (size, size), mode="bilinear")[0, 0]


@case("authors", "zhoubolei/CAM")
def of_cam(_: Any) -> Pair:
    model = pooled().double()
    weight = model.tail[1].weight.detach()
    theirs = each(lambda x, t: cam(model.features(x[None])[0].detach(), weight[t]))
    return theirs, camlib.CAM(model, LAYER).explain(batch(), TARGETS).map


@case("authors", "ramprs/grad-cam")
def of_grad_cam(_: Any) -> Pair:
    theirs = each(lambda x, t: grad_cam(*seen(x, t)))
    return theirs, camlib.GradCAM(net(), LAYER).explain(batch(), TARGETS).map


@case("authors", "ramprs/grad-cam, guided")
def of_guided_grad_cam(_: Any) -> Pair:
    signal = camlib.GuidedBackprop(net())(batch(), TARGETS)
    factor = each(lambda x, t: large(grad_cam(*seen(x, t))))
    return signal * factor[:, None], camlib.GuidedGradCAM(net(), LAYER)(batch(), TARGETS)


@case("authors", "adityac94/Grad_CAM_plus_plus")
def of_grad_cam_plus_plus(_: Any) -> Pair:
    theirs = each(lambda x, t: grad_cam_plus_plus(*seen(x, t), official=True))
    method = camlib.GradCAMPlusPlus(net(), LAYER, normalize_alpha=True)
    return theirs, method.explain(batch(), TARGETS).map


@case("authors", "haofanwang/Score-CAM")
def of_score_cam(_: Any) -> Pair:
    """At a signed layer, where it matters that the ReLU comes after resizing."""
    model = net()

    def theirs(image: Tensor, target: int) -> Tensor:
        activation = model.features[:4](image[None])[0].detach()
        return large(score_cam(model, image, activation, target)).relu()

    method = camlib.ScoreCAM(model, "features.3", relu=False, normalize=False)
    return each(theirs), method(batch(), TARGETS).relu()


@case("authors", "PengtaoJiang/LayerCAM")
def of_layer_cam(_: Any) -> Pair:
    theirs = each(lambda x, t: layer_cam(*seen(x, t)))
    return theirs, camlib.LayerCAM(net(), LAYER, relu=False).explain(batch(), TARGETS).map


@case("authors", "X-Shi/Zoom-CAM")
def of_zoom_cam(_: Any) -> Pair:
    """Theirs subtracts each map's minimum, and enlarges the fused map from layer to layer."""
    model, layers = net(), ["features.2", "features"]

    def theirs(image: Tensor, target: int) -> Tensor:
        found = []
        for index in (2, 4):
            a, g = by_hand(model, image[None], index, target)
            map_ = (a * g)[0].sum(0).relu()
            found.append((map_ - map_.min()) / map_.max())
        fine = large(found[1], len(found[0]))
        return large(torch.maximum(fine, found[0]))

    method = camlib.HiResCAM(model, layers, fuse="max", normalize=False)
    return each(theirs), method(batch(), TARGETS)


@case("authors", "wofmanaf/Group-CAM")
def of_group_cam(_: Any) -> Pair:
    model = net()
    theirs = each(lambda x, t: group_cam(model, x, *seen(x, t), t, 3, form="code"))
    method = camlib.GroupCAM(model, LAYER, groups=3, form="code")
    return theirs, method.explain(batch(), TARGETS).map


@case("authors", "VisMIL/CAMERAS")
def of_cameras(_: Any) -> Pair:
    """With a class, and images enlarged bicubically."""
    model = net()

    def theirs(image: Tensor, target: int) -> Tensor:
        sums: list[Any] = [0, 0]
        for side in (8, 12, 16):
            wide = F.interpolate(image[None], (side, side), mode="bicubic")
            found = by_hand(model, image[None] if side == 8 else wide, 4, target)
            for place, values in enumerate(found):
                sums[place] = sums[place] + F.interpolate(values, (8, 8), mode="bilinear")[0] / 3
        return (sums[0] * sums[1]).sum(0).relu()

    method = camlib.CAMERAS(model, LAYER, scales=(1, 1.5, 2), interpolation="cubic")
    return each(theirs), method.explain(batch(), TARGETS).map


@case("authors", "caihuaiguang/pytorch-shapley-cam")
def of_shapley_cam(_: Any) -> Pair:
    model = net()

    def theirs(image: Tensor, target: int) -> Tensor:
        activation = model.features(image[None])[0].detach()
        score = lambda a: model.tail(a[None]).log_softmax(1)[0, target]  # noqa: E731
        gradient = torch.autograd.functional.jacobian(score, activation)
        hessian = torch.autograd.functional.hessian(score, activation)
        second = (hessian * activation).sum((3, 4, 5))
        return ((gradient - second / 2) * activation).relu().sum(0)

    method = camlib.ShapleyCAM(model, LAYER, element_wise=True)
    target = camlib.targets.LogProbability(TARGETS)
    return each(theirs), method.explain(batch(), target).map


@case("authors", "sybyun/ReciproCAM")
def of_recipro_cam(_: Any) -> Pair:
    model = net()
    theirs = each(
        lambda x, t: recipro_cam_by_hand(model.tail, model.features(x[None])[0].detach(), t)
    )
    return theirs, camlib.ReciproCAM(model, LAYER).explain(batch(), TARGETS).map


@case("authors", "openvinotoolkit/openvino_xai")
def of_vit_recipro_cam(_: Any) -> Pair:
    """At the first norm of the last block."""
    model = transformer().double()
    block, maps = model.features[3], []
    for image, target in zip(batch(), TARGETS, strict=True):
        with torch.no_grad():
            tokens = model.features[:3](image[None])

            def follow(normed: Tensor, tokens: Tensor = tokens) -> Tensor:
                behind = tokens + block.attend(normed)
                return model.tail(behind + block.perceptron(block.norms[1](behind)))

            row = block.norms[0](tokens)[0]
        maps.append(token_recipro_cam(follow, row, (4, 4), target, gaussian=True))
    method = camlib.ReciproCAM(model, "features.3.norms.0", gaussian=True)
    return torch.stack(maps), method.explain(batch(), TARGETS).map


def attention_of(model: nn.Module, scored: Any) -> tuple[list[Tensor], list[Tensor]]:
    """The attention ``(N, heads, T, T)`` of each block, and the gradients at it."""
    with Attending(0) as attending:
        score = scored(model(batch()))
    calls = attending.found
    slopes = torch.autograd.grad(score, [call.matrix for call in calls])
    per_head = [call.per_head(call.matrix).detach() for call in calls]
    return per_head, [call.per_head(s) for call, s in zip(calls, slopes, strict=True)]


def chosen(output: Tensor) -> Tensor:
    return output[torch.arange(3), TARGETS].sum()


@case("authors", "hila-chefer/Transformer-MM-Explainability")
def of_the_clip_notebook(_: Any) -> Pair:
    model = transformer(depth=3).double()
    attention, slopes = attention_of(model, chosen)
    last = (attention[-1] * slopes[-1]).clamp(min=0).mean(1)
    theirs = last[:, 0, 1:].reshape(3, 4, 4)
    return theirs, camlib.GradientRollout(model, blocks=1).explain(batch(), TARGETS).map


@case("authors", "WalBouss/LeGrad")
def of_le_grad(_: Any) -> Pair:
    model = transformer(depth=3).double()
    total = torch.zeros(3, 17).double()
    for number in (3, 4):
        with Attending(0) as attending:
            tokens = model.features[: number + 1](batch())
        pooled = model.tail[1:](tokens.mean(1))
        call = attending.found[-1]
        [slope] = torch.autograd.grad(chosen(pooled), call.matrix)
        total += call.per_head(slope).clamp(min=0).mean((1, 2))
    return total[:, 1:].reshape(3, 4, 4), camlib.LeGrad(model, blocks=2).explain(
        batch(), TARGETS
    ).map


@case("authors", "jacobgil/vit-explain")
def of_vit_explain(_: Any) -> Pair:
    """Theirs divides each column by the sum of the row of its number."""
    model = transformer(depth=3).double()
    attention, _slopes = attention_of(model, chosen)
    maps = []
    for n in range(3):
        product = torch.eye(17).double()
        for heads in attention:
            mean = heads[n].mean(0).clone()
            lowest = mean.flatten().topk(int(17 * 17 * 0.5), largest=False).indices
            mean.view(-1)[lowest[lowest != 0]] = 0
            step = (mean + torch.eye(17).double()) / 2
            product = step / step.sum(-1) @ product
        maps.append(product[0, 1:].reshape(4, 4))
    method = camlib.AttentionRollout(model, discard=0.5)
    return torch.stack(maps), method.explain(batch(), TARGETS).map


@case("authors", "samiraabnar/attention_flow")
def of_rollout(_: Any) -> Pair:
    model = transformer().double()
    attention, _slopes = attention_of(model, chosen)
    rows = [rollout([heads[n].tolist() for heads in attention])[0][1:] for n in range(3)]
    theirs = torch.tensor(rows, dtype=torch.float64).reshape(3, 4, 4)
    return theirs, camlib.AttentionRollout(model).explain(batch()).map


@case("authors", "idiap/fullgrad-saliency")
def of_full_grad(_: Any) -> Pair:
    """Theirs aligns corners in resizing."""
    model = net()
    modules = [*model.features, *model.tail]

    def theirs(image: Tensor, target: int) -> Tensor:
        terms, _picture = full_grad(modules, image, target)
        picture = torch.zeros(8, 8).double()
        for term in (each for each in terms if each.ndim == 3):
            size = term.abs()
            scaled = (size - size.min()) / (size.max() - size.min())
            wide = F.interpolate(scaled[None], (8, 8), mode="bilinear", align_corners=True)
            picture += wide[0].sum(0)
        return picture

    return each(theirs), camlib.FullGrad(model).explain(batch(), TARGETS).map
