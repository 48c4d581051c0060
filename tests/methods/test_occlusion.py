"""Methods that hide parts of the input."""

from __future__ import annotations

import pytest
import torch
from nets import Net, convolutional, images, pooled
from reference import occlusion, rise
from torch import nn
from torch.nn import functional as F

from camlib import (
    RISE,
    CamlibWarning,
    GradCAM,
    InputError,
    IntegratedGradients,
    Occlusion,
    ScoreCAM,
    Smooth,
)

BOTH = pytest.mark.parametrize("kind", [RISE, Occlusion])


def few(kind, net, **options):
    return kind(net, **{"masks": 20} if kind is RISE else {"window": 3}, **options)


def masks_of(count, cells, share, size, seed):
    """Random grids, enlarged by their own interpolation, and cut out where they are shifted to."""
    generator = torch.Generator().manual_seed(seed)
    grids = torch.rand(count, cells, cells, generator=generator) < share
    steps = [-(-length // cells) for length in size]
    shifts = [torch.randint(step, (count,), generator=generator) for step in steps]
    for grid, row, column in zip(grids, *shifts, strict=True):
        large = [(cells + 1) * step for step in steps]
        mask = F.interpolate(grid[None, None].double(), large, mode="bilinear")[0, 0]
        yield mask[row : row + size[0], column : column + size[1]]


@pytest.mark.parametrize(("cells", "share", "seed"), [(7, 0.5, 0), (3, 0.2, 5)])
def test_rise(cells, share, seed):
    net, batch = convolutional().double(), images(2, 8, 10).double()
    method = RISE(net, masks=30, cells=cells, probability=share, seed=seed, batch_size=7)
    found = method.explain(batch, [1, 2])
    masks = list(masks_of(30, cells, share, (8, 10), seed))
    expected = [rise(net, batch[n], target, masks, share) for n, target in enumerate([1, 2])]
    torch.testing.assert_close(found.map, torch.stack(expected))
    assert found.layers == ()
    assert found.maps[0].shape == (2, 8, 10)


@pytest.mark.parametrize(
    ("window", "stride", "asked"),
    [
        ((3, 3), (2, 2), {"window": 3, "stride": 2}),
        ((4, 2), (1, 2), {"window": (4, 2), "stride": (1, 2)}),
        ((2, 2), (1, 1), {"window": 2}),
        ((8, 10), (4, 5), {"window": 100}),
        ((1, 1), (1, 1), {}),
    ],
)
def test_occlusion(window, stride, asked):
    net, batch = convolutional().double(), images(2, 8, 10).double()
    found = Occlusion(net, value=0.3, batch_size=7, **asked).explain(batch, [1, 2]).map
    expected = [
        occlusion(net, batch[n], target, window=window, stride=stride, value=0.3)
        for n, target in enumerate([1, 2])
    ]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-12)


@BOTH
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_batch_size_does_not_matter(kind, batch_size):
    net, batch = convolutional().double(), images(3).double()
    expected = few(kind, net).explain(batch, [[1, 2]]).map
    found = few(kind, net, batch_size=batch_size).explain(batch, [[1, 2]]).map
    torch.testing.assert_close(found, expected)


def test_masks_are_those_of_the_seed():
    net, batch = convolutional(), images()
    found = RISE(net, masks=20)(batch, 1)
    torch.manual_seed(3)
    assert torch.equal(RISE(net, masks=20)(batch, 1), found)
    assert not torch.allclose(RISE(net, masks=20, seed=1)(batch, 1), found)


@BOTH
def test_all_classes_from_one_pass(kind):
    class Counting(Net):
        count = 0

        def forward(self, batch):
            self.count += len(batch)
            return super().forward(batch)

    base = convolutional()
    net = Counting(base.features, base.tail).eval()
    few(kind, net)(images(), [[0, 1, 2, 3]])
    assert net.count == 2 + 3 + 2 * (20 if kind is RISE else 36)  # 3 tell whether samples mix


@BOTH
def test_gradient_flows_through_the_map(kind):
    net, batch = convolutional().double(), images(1).double()
    image = batch.clone().requires_grad_()
    found = few(kind, net, differentiable=True).explain(image, 1).map
    [gradient] = torch.autograd.grad(found[0, 1, 1], image)
    step = torch.zeros_like(batch)
    step[0, 1, 3, 3] = 1e-6
    up, down = (few(kind, net).explain(batch + s * step, 1).map[0, 1, 1] for s in (1, -1))
    torch.testing.assert_close(gradient[0, 1, 3, 3], (up - down) / 2e-6, rtol=1e-4, atol=1e-8)
    assert gradient[0, 1, 3, 3] != 0


def test_score_that_depends_on_nothing_warns():
    net = pooled()
    net.features[0].weight.data.zero_()
    with pytest.warns(
        UserWarning, match="a map of Occlusion is zero everywhere: .*; what was hidden may be too"
    ):
        assert Occlusion(net)(images(), 1).eq(0).all()


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (RISE, {"masks": 0}, "masks=0 is out of range; expected an integer of 1 or more"),
        (RISE, {"cells": 0}, "cells=0 is out of range; expected an integer of 1 or more"),
        (
            RISE,
            {"probability": 0},
            "probability=0 is out of range; expected a number above 0 up to 1",
        ),
        (
            RISE,
            {"probability": 1.5},
            "probability=1.5 is out of range; expected a number above 0 up to 1",
        ),
        (RISE, {"score": "softmax"}, "score='softmax' is not known; use 'probability' or 'logit'"),
        (
            Occlusion,
            {"window": (3, 0)},
            r"window=\(3, 0\) is out of range; expected an integer of 1 or more",
        ),
        (Occlusion, {"stride": 0}, "stride=0 is out of range; expected an integer of 1 or more"),
        (
            Occlusion,
            {"batch_size": 0},
            "batch_size=0 is out of range; expected an integer of 1 or more",
        ),
        (Occlusion, {"normalize": "none"}, "normalize='none' is not known"),
    ],
)
def test_bad_options(kind, options, message):
    with pytest.raises(InputError, match=message):
        kind(pooled(), **options)


def test_windows_that_do_not_fit_the_input():
    with pytest.raises(
        InputError, match="stride=5 leaves pixels between windows of 3; use at most"
    ):
        Occlusion(pooled(), window=3, stride=5)(images())
    with pytest.raises(InputError, match=r"window=\(3, 3, 3\) is for 3 axes, and the input has 2"):
        Occlusion(pooled(), window=(3, 3, 3))(images())


class Normed(nn.Module):
    """A norm with the statistics of the batch, also in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        base = convolutional()
        self.features = nn.Sequential(*base.features, nn.BatchNorm2d(6, track_running_stats=False))
        self.tail, self.runs = base.tail, []

    def forward(self, batch):
        self.runs.append(len(batch))
        return self.tail(self.features(batch))


MIXED = {
    "Occlusion": lambda net: Occlusion(net, window=4),
    "RISE": lambda net: RISE(net, masks=8),
    "ScoreCAM": lambda net: ScoreCAM(net, "features"),
    "IntegratedGradients": lambda net: IntegratedGradients(net, steps=8),
    "Smooth": lambda net: Smooth(GradCAM(net, "features"), samples=4),
}


@pytest.mark.filterwarnings("ignore:integrated gradients with steps:camlib.CamlibWarning")
@pytest.mark.parametrize("make", MIXED.values(), ids=MIXED)
@pytest.mark.parametrize("count", [1, 2])
def test_model_that_mixes_samples_is_told_of_once_a_call(make, count):
    net = Normed().eval()
    runs = []
    for _ in range(2):
        net.runs.clear()
        with pytest.warns(CamlibWarning, match="Normed answers a sample differently in") as told:
            make(net)(images(count), 1)
        assert len([w for w in told if "differently" in str(w.message)]) == 1
        runs.append(len(net.runs))
    assert runs[1] == runs[0] - 1  # found out once


def test_models_that_mix_nothing_or_run_alone_are_not_told_of():
    for make in MIXED.values():
        make(convolutional())(images(), 1)
    found = Occlusion(Normed().eval(), window=4, batch_size=1)(images(1), 1)
    assert found.any()
