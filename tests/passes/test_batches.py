"""Changed images in batches, as Score-CAM makes them: bounded, once each, in order."""

from __future__ import annotations

import pytest
import torch
from nets import Net, convolutional, flat, images, pooled
from snapshot import snapshot
from torch import nn
from torch.nn import functional as F

from camlib import InputError, ScoreCAM


class Counting(Net):
    """Notes the size of every batch."""

    def forward(self, batch):
        self.sizes = [*getattr(self, "sizes", []), len(batch)]
        return super().forward(batch)


def with_constant_channels():
    """Of six channels, 1 and 4 are constant, and not zero."""
    base = convolutional()
    net = Counting(base.features, base.tail).eval()
    net.features[4] = nn.Tanh()
    net.features[3].weight.data[[1, 4]] = 0
    net.features[3].bias.data[[1, 4]] = torch.tensor([0.7, -1])
    return net


def test_batches_are_bounded_and_constant_channels_skipped():
    net, batch = with_constant_channels(), images(3)
    alive = (net.features(batch).flatten(2).std(2) > 0).sum()
    ScoreCAM(net, "features", batch_size=4)(batch, target=[[0, 1, 2]])
    clean, tried, *masked = net.sizes
    assert (clean, tried) == (3, 2)
    assert sum(masked) == alive == 12
    assert masked == [4, 4, 4]


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_batch_size_does_not_matter(batch_size):
    net, batch = with_constant_channels(), images(3)
    expected = ScoreCAM(net, "features").explain(batch, target=1)
    found = ScoreCAM(net, "features", batch_size=batch_size).explain(batch, target=1)
    torch.testing.assert_close(found.heatmap, expected.heatmap)


def test_channels_of_the_same_mask_run_once():
    base, batch = convolutional().double(), images(3).double()
    base.features[4] = nn.Tanh()
    order = torch.tensor([3, 0, 1, 2, 3, 4, 5, 0])

    class Chosen(nn.Module):
        def forward(self, features):
            factors = torch.tensor([1, 1, 1, 1, 2, 1, 1, 4.0])[:, None, None]
            same_for_all = torch.linspace(0, 1, 16).reshape(4, 4) + 0 * features[:, :1]
            return torch.cat([features[:, order] * factors, same_for_all], 1)

    class Back(nn.Module):
        def forward(self, features):
            return features[:, [1, 2, 3, 0, 5, 6]]

    net = Counting(nn.Sequential(*base.features, Chosen()), nn.Sequential(Back(), *base.tail))
    found = ScoreCAM(net.eval(), "features", batch_size=4).explain(batch, 1, relu=False).map
    # The clean pass, where the layer looks, and whether samples mix.
    assert net.sizes[:3] == [3, 5, 2]
    assert sum(net.sizes[3:]) == 3 * 7
    activation = net.features(batch).detach()
    one = [net(batch * mask).softmax(1)[:, 1] for mask in normalised(activation, 8)]
    by_hand = sum(w[:, None, None] * a for w, a in zip(one, activation.unbind(1), strict=True))
    torch.testing.assert_close(found, by_hand.detach())


def normalised(activation, size):
    """The masks of each channel, ``(N, 1, size, size)``."""
    for channel in activation.split(1, 1):
        mask = F.interpolate(channel, (size, size), mode="bilinear")
        low, high = mask.amin((2, 3), keepdim=True), mask.amax((2, 3), keepdim=True)
        yield (mask - low) / (high - low)


def test_constant_channel_is_recognised_before_resizing():
    """Interpolated with channels last, a constant is constant up to rounding only."""
    net = with_constant_channels().to(memory_format=torch.channels_last)
    batch = images(2, 30, 30).to(memory_format=torch.channels_last)
    ScoreCAM(net, "features", batch_size=1)(batch, target=1)
    assert len(net.sizes) - 2 == (net.features(batch).flatten(2).std(2) > 1e-6).sum()


def test_network_without_a_live_channel_gives_zeros():
    net = pooled()
    net.features[3].weight.data.zero_()
    for options in ({}, {"channel_softmax": True}, {"baseline": "zero"}, {"max_channels": 2}):
        with pytest.warns(UserWarning, match="zero everywhere"):
            assert ScoreCAM(net, "features", **options)(images()).eq(0).all()


def test_fewer_channels():
    net, batch = with_constant_channels(), images(1)
    ScoreCAM(net, "features", max_channels=2, batch_size=1)(batch)
    assert len(net.sizes) - 1 == 2
    spread_ = net.features(batch).flatten(2).std(2)[0]
    best = set(spread_.topk(2).indices.tolist())
    used = ScoreCAM(net, "features", max_channels=2)._used(net.features(batch).detach())
    assert set(used[0].nonzero().flatten().tolist()) == best


def test_progress_wraps_the_batches():
    seen = []

    def progress(batches):
        for batch in batches:
            seen.append(len(batch))
            yield batch

    ScoreCAM(with_constant_channels(), "features", batch_size=5, progress=progress)(images(3))
    assert seen == [5, 5, 2]


def test_masked_images_are_not_recorded_for_autograd():
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda t: t):
        ScoreCAM(pooled(), "features")(images())
    assert not saved


def test_baseline_may_turn_weights_negative():
    net, batch = pooled(), images(4)
    every = [[0, 1, 2, 3]]
    plain = ScoreCAM(net).explain(batch, target=every, relu=False).map
    increase = ScoreCAM(net, baseline="zero").explain(batch, target=every, relu=False).map
    assert (plain >= 0).all()
    assert (increase < 0).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score": "softmax"}, "score='softmax' is not known; use 'probability' or 'logit'"),
        ({"baseline": "grey"}, "baseline='grey' is not known; use 'zero', 'blur' or None"),
        ({"batch_size": 0}, "batch_size=0 is out of range; expected an integer of 1 or more"),
        ({"max_channels": -1}, "max_channels=-1 is out of range; expected an integer of 1 or more"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        ScoreCAM(pooled(), "features", **options)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ArithmeticError])
def test_interrupt_in_a_masked_pass_leaves_the_model_as_found(error):
    net = pooled().train()
    before = snapshot(net)

    def interrupted(batches):
        yield batches[0]
        raise error

    with pytest.raises(error):
        ScoreCAM(net, "features", batch_size=1, progress=interrupted)(images())
    assert snapshot(net) == before


def test_other_inputs_follow_their_sample():
    class Shifted(Net):
        def forward(self, batch, *, shift, gain):
            return super().forward(batch) * gain + shift

    base = pooled()
    net = Shifted(base.features, base.tail).eval()
    batch, shift, gain = images(3), torch.randn(3, 4), torch.tensor(2.0)
    together = ScoreCAM(net, batch_size=7)({"batch": batch, "shift": shift, "gain": gain}, target=1)
    for n in range(3):
        one = {"batch": batch[n : n + 1], "shift": shift[n : n + 1], "gain": gain}
        torch.testing.assert_close(ScoreCAM(net)(one, target=1)[0], together[n])


class Formats(Net):
    """Notes which batches have their channels last; makes a view of what the features return."""

    def forward(self, batch):
        self.last = [*getattr(self, "last", []), batch.is_contiguous(memory_format=LAST)]
        found = self.features(batch)
        if getattr(self, "failing", False) and len(self.last) > 1:
            raise RuntimeError("the model's own")
        return self.tail(found.view(len(found), -1) if self.views else found)


LAST = torch.channels_last


@pytest.mark.parametrize("views", [False, True])
def test_changed_images_come_with_channels_last_where_the_model_takes_them(views):
    base = flat()
    tail = nn.Sequential(base.tail[1]) if views else base.tail
    net, batch = Formats(base.features, tail).eval(), images(2)
    net.views = views
    found = ScoreCAM(net, "features", batch_size=2)(batch, 1)
    clean, first, *others = net.last
    assert (clean, first) == (False, True)
    assert len(others) > 2
    assert set(others) == {not views}
    torch.testing.assert_close(found, ScoreCAM(base, "features")(batch, 1))


@pytest.mark.parametrize("given", [images().double(), images(2, 8), images(2, 8, 8, 8)])
def test_other_inputs_come_as_they_are(given):
    strides = []
    net = pooled(axes=given.ndim - 2).to(given.dtype)
    net.features.register_forward_pre_hook(lambda _, args: strides.append(args[0].stride()))
    ScoreCAM(net, "features", batch_size=2)(given, 1)
    assert len(strides) > 3
    assert set(strides[:-1]) == {given.stride()}


def test_errors_of_the_model_in_a_masked_pass_are_its_own():
    base = flat()
    net = Formats(base.features, base.tail).eval()
    net.views, net.failing = False, True
    with pytest.raises(RuntimeError, match="the model's own"):
        ScoreCAM(net, "features")(images())
    assert net.last == [False, True, False]
