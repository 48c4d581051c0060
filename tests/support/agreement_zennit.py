"""How far attributions of camlib are from those of zennit; see `agreement_peers`."""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest import mock

import torch
from agreement_peers import CASES, SIZE, Pair, case, classes, model, scenes
from torch import Tensor
from torch.nn import functional as F

import camlib


def of_zennit(peers: Any, name: str, composite: str | None = None, **options: Any) -> Tensor:
    zennit = peers["zennit"]
    made = getattr(zennit.composites, composite)() if composite else None
    attributor = getattr(zennit.attribution, name)(model(), made, **options)
    wanted = F.one_hot(classes(), model()(scenes(1)).shape[1])
    return attributor(scenes(), lambda output: wanted.to(output))[1].detach()


for _name, _kind in {
    "DeconvNet": camlib.Deconvnet,
    "GuidedBackprop": camlib.GuidedBackprop,
}.items():
    CASES["zennit", _name] = lambda peers, name=_name, kind=_kind: (
        of_zennit(peers, "Gradient", name),
        kind(model())(scenes(), classes()),
    )


@case("zennit", "Gradient")
def gradient(peers: Any) -> Pair:
    return of_zennit(peers, "Gradient"), camlib.Saliency(model())(scenes(), classes())


@case("zennit", "IntegratedGradients")
def integrated_gradients(peers: Any) -> Pair:
    method = camlib.IntegratedGradients(model(), steps=20, rule="right")
    return of_zennit(peers, "IntegratedGradients", n_iter=20), method(scenes(), classes())


@case("zennit", "baseline_fn")
def integrated_gradients_from_a_baseline(peers: Any) -> Pair:
    start = partial(torch.full_like, fill_value=-0.5)
    theirs = of_zennit(peers, "IntegratedGradients", n_iter=20, baseline_fn=start)
    method = camlib.IntegratedGradients(model(), steps=20, rule="right", baseline=-0.5)
    return theirs, method(scenes(), classes())


@case("zennit", "SmoothGrad")
def smooth_grad(peers: Any) -> Pair:
    """With the draws of camlib in both; their last one is the picture without noise."""
    count, seed = 6, 4
    noise = torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    drawn = iter(noise)
    with mock.patch("torch.randn_like", lambda images: next(drawn).expand_as(images)):
        theirs = of_zennit(peers, "SmoothGrad", noise_level=0.1, n_iter=count + 1)
    method = camlib.SmoothGrad(model(), sigma=0.1, samples=count, seed=seed)
    plain = camlib.Saliency(model())(scenes(), classes())
    return theirs, (count * method(scenes(), classes()) + plain) / (count + 1)


@case("zennit", "Occlusion")
def occlusion(peers: Any) -> Pair:
    """What the logit loses, from the logit that theirs returns for each window."""
    side, zennit = 24, peers["zennit"]
    hide = partial(zennit.attribution.occlude_independent, invert=True)
    wanted = F.one_hot(classes(), model()(scenes(1)).shape[1])
    attributor = zennit.attribution.Occlusion(
        model(), occlusion_fn=hide, window=(side, side), stride=(side, side)
    )
    output, left = attributor(scenes(), lambda output: output * wanted)
    clean = (output * wanted).sum(1)[:, None, None].detach()
    method = camlib.Occlusion(model(), window=side, stride=side, score="logit")
    return clean - left[:, 0], method.explain(scenes(), classes()).map
