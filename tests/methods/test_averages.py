"""Averages over noise, steps and baselines: their batches, draws and errors."""

from __future__ import annotations

import warnings

import pytest
import torch
from nets import convolutional, images, pooled, rectifying

from camlib import ExpectedGradients, InputError, IntegratedGradients, SmoothGrad

AVERAGED = [SmoothGrad, IntegratedGradients, ExpectedGradients]

pytestmark = pytest.mark.filterwarnings("ignore:integrated gradients with:camlib.CamlibWarning")


def count(kind):
    return "steps" if kind is IntegratedGradients else "samples"


@pytest.mark.parametrize("kind", AVERAGED)
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_batches_bound_what_the_model_sees_and_change_nothing(kind, batch_size):
    net, batch = convolutional().double(), images(3).double()
    expected = kind(net, **{count(kind): 5})(batch, [[0, 1], [2, 3], [1, 1]])
    sizes = []
    method = kind(net, batch_size=batch_size, **{count(kind): 5})
    method(batch, [[0, 1], [2, 3], [1, 1]])  # finds out once whether samples mix
    net.register_forward_hook(lambda _module, given, _output: sizes.append(len(given[0])))
    torch.testing.assert_close(method(batch, [[0, 1], [2, 3], [1, 1]]), expected)
    points = sizes[1:-1] if kind is IntegratedGradients else sizes[1:]  # between clean passes
    assert max(points) == min(batch_size, 15)
    assert sum(points) == 15


@pytest.mark.parametrize("kind", [SmoothGrad, ExpectedGradients])
def test_draws_are_those_of_the_seed(kind):
    net, batch = convolutional(), images()
    options = {"samples": 4}
    if kind is ExpectedGradients:
        options["baselines"] = images(3, seed=5)
    first = kind(net, seed=7, **options)(batch, 1)
    state = torch.get_rng_state()
    torch.rand(3)
    assert torch.equal(kind(net, seed=7, **options)(batch, 1), first)
    torch.set_rng_state(state)
    kind(net, **options)(batch, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert (kind(net, seed=8, **options)(batch, 1) - first).abs().max() > 0.01 * first.abs().max()


FAR = images(4, seed=5) * 4


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (SmoothGrad, {"sigma": 2.0}),
        (IntegratedGradients, {"baseline": FAR}),
        (ExpectedGradients, {"baselines": FAR}),
    ],
)
def test_class_is_that_of_the_clean_input(kind, options):
    net, batch = rectifying(), images(4)
    classes = net(batch).argmax(1)
    assert (net(FAR).argmax(1) != classes).all()
    torch.testing.assert_close(kind(net, **options)(batch), kind(net, **options)(batch, classes))


def test_noise_follows_the_range_of_each_image():
    seen = []
    net = pooled()
    net.register_forward_hook(lambda _module, given, _output: seen.append(given[0].detach()))
    batch = images(2)
    batch[1] = 10 * batch[0] + 3
    SmoothGrad(net, sigma=0.2, samples=400, batch_size=1000)(batch, 1)
    clean, _, noisy = seen  # between them, whether samples mix is found out
    noise = (noisy.reshape(400, 2, 3, 8, 8) - clean).movedim(1, 0)
    torch.testing.assert_close(noise[1], 10 * noise[0], rtol=1e-3, atol=1e-3)
    width = 0.2 * (clean[0].max() - clean[0].min())
    assert noise[0].std().item() == pytest.approx(width.item(), rel=0.01)
    assert noise[0].mean().abs() < 0.01 * width


def test_missing_score_is_warned_of():
    net, batch = convolutional().double(), images().double()
    gain = (net(batch) - net(0 * batch))[:, 1].detach()
    with pytest.warns(
        UserWarning,
        match=r"integrated gradients with steps=1 miss \d+% of what the score gains from the "
        "baseline; use more steps",
    ) as caught:
        found = IntegratedGradients(net, steps=1)(batch, 1)
    [warning] = caught
    share = ((found.sum((1, 2, 3)) - gain) / gain).abs().max()
    assert f"miss {float(share):.0%} of" in str(warning.message)
    assert share > 0.05


def test_what_is_complete_up_to_rounding_is_not_warned_of():
    net, batch = convolutional(), images()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in (0, 1e-8, 1e-6, 1e-4):  # no gain to speak of
            start = batch + step * images(seed=9)
            IntegratedGradients(net, baseline=start, steps=2)(batch, 1)
        IntegratedGradients(net, steps=400)(batch, 1)
    assert not caught


@pytest.mark.parametrize("kind", AVERAGED)
def test_numbers_that_leave_nothing_to_do(kind):
    for name in (count(kind), "batch_size"):
        with pytest.raises(
            InputError, match=f"{name}=0 is out of range; expected an integer of 1 or more"
        ):
            kind(pooled(), **{name: 0})


def test_noise_below_zero():
    for sigma in (-0.1, float("nan")):
        with pytest.raises(
            InputError,
            match=f"sigma={sigma} is (out of range|not finite); expected a number of 0 or more",
        ):
            SmoothGrad(pooled(), sigma=sigma)


def test_baselines_that_do_not_fit():
    with pytest.raises(
        InputError,
        match=r"baseline of shape \(3, 4, 4\) does not fit images of shape \(2, 3, 8, 8\); pass a "
        "number, or a tensor that broadcasts",
    ):
        IntegratedGradients(pooled(), baseline=torch.zeros(3, 4, 4))(images())
    for shape in ((3, 8, 8), (0, 3, 8, 8), (2, 1, 8, 8)):
        with pytest.raises(
            InputError,
            match=rf"baselines of shape \({', '.join(map(str, shape))}\) do not fit images of "
            r"shape \(2, 3, 8, 8\); pass \(B, 3, 8, 8\)",
        ):
            ExpectedGradients(pooled(), baselines=torch.zeros(shape))(images())
