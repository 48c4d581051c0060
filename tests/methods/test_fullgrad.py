"""FullGrad: which terms its map shows, and where they miss the score."""

from __future__ import annotations

import pytest
import torch
from nets import Net, Pooling, images, pooled, spread
from torch import nn

from camlib import CamlibWarning, FullGrad
from camlib.targets import Probability

MESSAGE = r"FullGrad does not account for \d+% of the score: the network has layers, or the target"


def test_network_that_is_not_linear_or_relu_is_warned_of():
    tail = nn.Sequential(nn.Tanh(), Pooling(), nn.Linear(6, 4))
    net, batch = spread(Net(nn.Conv2d(3, 6, 3), tail)).double(), images().double()
    with pytest.warns(CamlibWarning, match=MESSAGE) as caught:
        FullGrad(net)(batch, 1)
    [warning] = caught
    total = sum(term.sum() for term in FullGrad(net).terms(batch, 1))
    share = 1 - float(total / net(batch)[:, 1].sum().detach())
    assert f"for {abs(share):.0%} of" in str(warning.message)


def test_target_that_is_not_linear_is_warned_of():
    FullGrad(pooled())(images(), lambda out: 2 * out[:, 1] - out[:, 0])
    with pytest.warns(CamlibWarning, match=MESSAGE):
        FullGrad(pooled())(images(), Probability(1))


def test_bias_added_by_hand_is_warned_of():
    class Shifted(nn.Module):
        def forward(self, features):
            return features + 3

    net = spread(Net(nn.Conv2d(3, 6, 1), nn.Sequential(Shifted(), Pooling(), nn.Linear(6, 4))))
    with pytest.warns(CamlibWarning, match=MESSAGE):
        FullGrad(net)(images(), 1)


@pytest.mark.filterwarnings("ignore:Net answers a sample differently:camlib.CamlibWarning")
def test_statistics_of_the_batch_are_no_bias():
    body = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6, track_running_stats=False))
    net = spread(Net(body, nn.Sequential(Pooling(), nn.Linear(6, 4))))
    with pytest.warns(CamlibWarning, match=MESSAGE):
        FullGrad(net)(images(), 1)
    assert len(FullGrad(net).terms(images(), 1)) == 3


def test_layers_that_the_score_does_not_depend_on_add_nothing():
    class Beside(Net):
        def forward(self, batch):
            self.spare(batch)
            return super().forward(batch)

    base = pooled()
    net = Beside(base.features, base.tail)
    net.spare = nn.Conv2d(3, 2, 1)
    net.eval()
    torch.testing.assert_close(FullGrad(net)(images(), 1), FullGrad(base)(images(), 1))
    first, spare, *_ = FullGrad(net).terms(images(), 1)
    assert first.any()
    assert not spare.any()


def test_layers_of_frames_have_no_place_in_the_map_but_in_the_sum():
    """Frames and samples share an axis, as in networks of images that are run on clips."""

    class ByFrame(Net):
        def forward(self, clip):
            found = super().forward(clip.flatten(0, 1))
            return found.unflatten(0, clip.shape[:2]).mean(1)

    base = pooled()
    net = ByFrame(base.features, base.tail).eval()
    clip = images(2 * 6).reshape(2, 6, 3, 8, 8)
    method = FullGrad(net, image_layout="NTCHW")
    assert method(clip, 1).shape == (2, 6, 8, 8)
    terms = method.terms(clip, 1)
    total = sum(term.sum() for term in terms)
    torch.testing.assert_close(total, net(clip)[:, 1].sum().detach())


def test_samples_beside_their_mirror_images_have_no_place_in_the_map_either():
    class Both(Net):
        def forward(self, batch):
            return super().forward(torch.cat([batch, batch.flip(3)])).unflatten(0, (2, -1)).sum(0)

    base = pooled()
    net = Both(base.features, base.tail).eval()
    found = FullGrad(net).explain(images(), 1).map
    first = FullGrad(net).terms(images(), 1)[0].abs()
    low, high = first.amin((1, 2, 3), keepdim=True), first.amax((1, 2, 3), keepdim=True)
    torch.testing.assert_close(found, ((first - low) / (high - low)).sum(1))


def test_linear_layers_have_no_place_in_the_map_wherever_they_run():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.mixing = nn.Linear(3, 3)

        def forward(self, features):
            return self.mixing(features.movedim(1, -1)).movedim(-1, 1)

    net = spread(Net(Last(), nn.Sequential(nn.ReLU(), Pooling(), nn.Linear(3, 4))))
    found = FullGrad(net).explain(images(), 1).map
    first, mixing, _ = FullGrad(net).terms(images(), 1)
    assert mixing.shape == (2, 8, 8, 3)
    first = first.abs()
    low, high = first.amin((1, 2, 3), keepdim=True), first.amax((1, 2, 3), keepdim=True)
    torch.testing.assert_close(found, ((first - low) / (high - low)).sum(1))
