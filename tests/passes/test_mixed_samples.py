"""Samples that depend on each other: the gradients of all scores are no longer those of each."""

from __future__ import annotations

import warnings

import pytest
import torch
from nets import convolutional, images
from torch import Tensor, nn

from camlib import CamlibWarning, GradCAM, GuidedBackprop, HiResCAM, Saliency

KINDS = (GradCAM, Saliency, GuidedBackprop)


class Normed(nn.Module):
    """A norm with the statistics of the batch, also in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        base = convolutional()
        self.features, self.tail = base.features, base.tail
        self.norm = nn.BatchNorm2d(6, track_running_stats=False)

    def forward(self, batch: Tensor) -> Tensor:
        return self.tail(self.norm(self.features(batch)))


class Noisy(Normed):
    """Dropout that is always on."""

    def forward(self, batch: Tensor) -> Tensor:
        return self.tail(nn.functional.dropout(self.features(batch), training=True))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_samples_that_are_mixed_are_told_of(kind):
    method, other = kind(Normed().eval()), kind(Normed().eval())
    for _ in range(2):
        with pytest.warns(CamlibWarning, match=r"Normed answers a sample differently .* one image"):
            method(images(3), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other(images(1), 1)


def test_what_is_told_is_so():
    net, batch = Normed().eval(), images(3)
    with pytest.warns(CamlibWarning, match="also that of the answers to the others"):
        found = HiResCAM(net, "features", relu=False).explain(batch, 1).map
    activation = net.features(batch)
    scores = net.tail(net.norm(activation))[:, 1]
    apart = torch.stack(
        [
            (torch.autograd.grad(score, activation, retain_graph=True)[0] * activation)[n].sum(0)
            for n, score in enumerate(scores)
        ]
    )
    assert (found - apart).abs().max() > 0.1 * apart.abs().max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("net", [convolutional, lambda: Noisy().eval()])
def test_samples_that_are_apart_are_nothing_to_tell(kind, net):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        kind(net())(images(3), 1)
    assert told == []


def test_samples_are_compared_once_for_a_model_and_a_shape():
    net, sizes = convolutional(), []
    net.register_forward_hook(lambda _module, given, _output: sizes.append(len(given[0])))
    for method in (GradCAM(net, "features"), GradCAM(net), Saliency(net)):
        for _ in range(2):
            method(images(3), 1)
    assert sizes == [3, 1, 3, 3, 3, 3, 3]
