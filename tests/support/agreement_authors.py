"""How far camlib is from the authors' own code, as formulas written from its definitions.

The code itself is not run: its formulas are the loops of `reference.py`, in float64, on small
networks. Each case is a row of "The authors' code" in `docs/migrating.md`.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from agreement_peers import Pair, case, classes, scenes
from agreement_peers import model as zoo_model
from nets import by_hand, convolutional, images, pooled, transformer
from reference import (
    cam,
    full_grad,
    grad_cam,
    grad_cam_plus_plus,
    gradient_at,
    group_cam,
    lift_cam,
    rise,
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


@case("authors", "SSCAM1")
def of_ss_cam(_: Any) -> Pair:
    """On the built-in network, with the draws of camlib in both; a mask is the resized channel."""
    model, image, [label] = zoo_model(), scenes(1)[..., ::2, ::2], classes(1).tolist()
    noise = torch.randn(3, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    total = torch.zeros(48, 48)
    with torch.no_grad():
        for channel in model.features[:5](image)[0]:
            mask = large(channel, 48)
            if mask.max() == mask.min():
                continue
            deviation = (2 / (mask.max() - mask.min())) ** 2
            answers = model(image * (mask + deviation * noise)).softmax(1)
            total += answers[:, label].mean() * mask
    theirs = total.relu()[None]
    found = camlib.SSCAM(model, "features.4", samples=3, form="code")(image, label)
    return (theirs - theirs.min()) / (theirs.max() - theirs.min()), found


@case("authors", "PengtaoJiang/LayerCAM")
def of_layer_cam(_: Any) -> Pair:
    """Before a GELU, where a ReLU at the end would matter."""
    model = net()

    def theirs(image: Tensor, target: int) -> Tensor:
        activation = model.tail[:4](model.features(image[None])).detach().requires_grad_()
        score = model.tail[4:](activation)[0, target]
        [gradient] = torch.autograd.grad(score, activation)
        total = torch.zeros(2, 2).double()
        for a, g in zip(activation[0].detach(), gradient[0], strict=True):
            total += g.clamp(min=0) * a
        return total

    method = camlib.LayerCAM(model, "tail.3", relu=False)
    return each(theirs), method.explain(batch(), TARGETS).map


@case("authors", "rachellea/hirescam")
def of_hires_cam(_: Any) -> Pair:
    """Theirs has no ReLU."""

    def theirs(image: Tensor, target: int) -> Tensor:
        total = torch.zeros(4, 4).double()
        for a, g in zip(*seen(image, target), strict=True):
            total += g * a
        return total

    return each(theirs), camlib.HiResCAM(net(), LAYER).explain(batch(), TARGETS, relu=False).map


@case("authors", "Fu0511/XGrad-CAM")
def of_xgrad_cam(_: Any) -> Pair:
    def theirs(image: Tensor, target: int) -> Tensor:
        total = torch.zeros(4, 4).double()
        for a, g in zip(*seen(image, target), strict=True):
            total += (g * a).sum() / (a.sum() + 1e-6) * a
        return total.relu()

    return each(theirs), camlib.XGradCAM(net(), LAYER).explain(batch(), TARGETS).map


@case("authors", "Hyungsik-Jung/LIFT-CAM")
def of_lift_cam(_: Any) -> Pair:
    """Before global pooling and one linear layer, where DeepLIFT has a closed form."""
    model = pooled().double()
    theirs = each(lambda x, t: lift_cam(*seen(x, t, model)))
    return theirs, camlib.LIFTCAM(model, LAYER).explain(batch(), TARGETS).map


@case("authors", "Imageomics/Finer-CAM")
def of_finer_cam(_: Any) -> Pair:
    """Grad-CAM of a score whose weights also have a gradient."""
    model, maps = net(), []
    for image in batch():
        activation = model.features(image[None]).detach().requires_grad_()
        scores = model.tail(activation)[0]
        own, *others = (scores - scores.max()).abs().argsort()[:4]
        shares = scores.softmax(0)
        total = sum(shares[other] * (scores[own] - scores[other]) for other in others)
        score = total / (sum(shares[other] for other in others) + 1e-9)
        [gradient] = torch.autograd.grad(score, activation)
        maps.append(grad_cam(activation[0].detach(), gradient[0]))
    found = camlib.GradCAM(model, LAYER).explain(batch(), camlib.targets.Contrast()).map
    return torch.stack(maps), found


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


@case("authors", "eclique/RISE")
def of_rise(_: Any) -> Pair:
    """With the draws of camlib in both; theirs mirrors a mask at its outermost cells."""
    model, count, cells, step = net(), 20, 3, 3
    generator = torch.Generator().manual_seed(0)
    grids = (torch.rand(count, cells, cells, generator=generator) < 0.5).double()
    starts = [torch.randint(step, (count,), generator=generator).tolist() for _ in range(2)]

    def at(grid: Tensor, *places: float) -> Tensor:
        """The value of `grid` between its cells, which are mirrored at the outermost ones."""
        low = [int(place // 1) for place in places]
        total = torch.zeros(()).double()
        for i in (0, 1):
            for j in (0, 1):
                row, column = low[0] + i, low[1] + j
                share = (1 - abs(places[0] - row)) * (1 - abs(places[1] - column))
                mirrored = [min(abs(k), 2 * (cells - 1) - abs(k)) for k in (row, column)]
                total += share * grid[mirrored[0], mirrored[1]]
        return total

    length = (cells + 1) * step
    masks = []
    for grid, down, right in zip(grids, *starts, strict=True):
        mask = torch.zeros(8, 8).double()
        for i in range(8):
            for j in range(8):
                places = [(k + 0.5) * cells / length - 0.5 for k in (i + down, j + right)]
                mask[i, j] = at(grid, *places)
        masks.append(mask)
    theirs = each(lambda x, t: rise(model, x, t, masks, 0.5))
    return theirs, camlib.RISE(model, masks=count, cells=cells).explain(batch(), TARGETS).map


@case("authors", "ankurtaly/Integrated-Gradients")
def of_integrated_gradients(_: Any) -> Pair:
    """Of a probability, by the trapezoidal rule over 50 steps, which have 51 ends."""
    model = nn.Sequential(net(), nn.Softmax(1))

    def theirs(image: Tensor, target: int) -> Tensor:
        slopes = [gradient_at(model, image * i / 50, target) for i in range(51)]
        means = [(a + b) / 2 for a, b in itertools.pairwise(slopes)]
        return image * sum(means) / 50

    method = camlib.IntegratedGradients(net(), rule="trapezoid", steps=51)
    return each(theirs), method(batch(), camlib.targets.Probability(TARGETS))


@case("authors", "PAIR-code/saliency, Occlusion")
def of_occlusion(_: Any) -> Pair:
    """The sum over windows of 3 at every place, of what the logit loses."""
    model = net()

    def theirs(image: Tensor, target: int) -> Tensor:
        total = torch.zeros(8, 8).double()
        with torch.no_grad():
            score = model(image[None])[0, target]
            for i in range(6):
                for j in range(6):
                    hidden = image.clone()
                    hidden[:, i : i + 3, j : j + 3] = 0
                    total[i : i + 3, j : j + 3] += score - model(hidden[None])[0, target]
        return total

    method = camlib.Occlusion(model, window=3, stride=1, overlap="sum", score="logit")
    return each(theirs), method.explain(batch(), TARGETS).map


@case("authors", "PAIR-code/saliency")
def of_smooth_grad(_: Any) -> Pair:
    """The mean of squares, their default; with the draws of camlib in both."""
    model = net()
    noise = torch.randn(25, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()

    def theirs(image: Tensor, target: int) -> Tensor:
        spread = 0.15 * (image.max() - image.min())
        return sum(gradient_at(model, image + spread * draw, target) ** 2 for draw in noise) / 25

    return each(theirs), camlib.SmoothGrad(model, statistic="square")(batch(), TARGETS)
