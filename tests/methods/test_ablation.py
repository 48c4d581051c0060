"""Methods that change activations."""

from __future__ import annotations

import warnings

import pytest
import torch
from nets import (
    Functional,
    Net,
    Pooling,
    assert_slope,
    convolutional,
    features,
    images,
    pooled,
    spread,
    transformer,
)
from reference import token_recipro_cam
from snapshot import snapshot
from torch import nn

from camlib import AblationCAM, CamlibWarning, InputError, LayoutError, ReciproCAM, layouts

pytestmark = pytest.mark.filterwarnings("ignore:a map at layer:camlib.CamlibWarning")

BOTH = pytest.mark.parametrize("kind", [AblationCAM, ReciproCAM])


class Counting(nn.Module):
    """Notes the size of every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = []

    def forward(self, features):
        self.sizes.append(len(features))
        return features


def counting(build=convolutional, **options):
    base = build(**options)
    return Net(
        nn.Sequential(Counting(), *base.features), nn.Sequential(Counting(), *base.tail)
    ).eval()


@pytest.mark.parametrize(("kind", "count"), [(AblationCAM, 6), (ReciproCAM, 16)])
def test_only_what_follows_runs_again_in_bounded_batches(kind, count):
    net, batch = counting(), images(3)
    net.features[5] = nn.Tanh()  # no channel is zero
    method = kind(net, "features", batch_size=5, relu=False)
    seen = method.explain(batch, [[0, 1, 2]])
    assert seen.replayed is True
    assert net.features[0].sizes == [3]
    clean, watched, checked, *sizes = net.tail[0].sizes
    assert (clean, watched, checked) == (3, 3, 3)
    assert sum(sizes) == 3 * count
    assert max(sizes) == 5
    method(batch, 1)
    assert net.features[0].sizes == [3, 3]
    assert len(net.tail[0].sizes) == 2 * len(sizes) + 4  # what a replay takes is known now


def test_pooling_and_one_linear_layer_need_no_second_pass():
    net, batch = counting(pooled), images()
    seen = AblationCAM(net, "features").explain(batch, 2, relu=False)
    assert net.tail[0].sizes == [2]
    assert seen.replayed is None
    again = AblationCAM(net, "features").explain(batch, lambda out: out[:, 2], relu=False)
    assert again.replayed is True
    torch.testing.assert_close(again.map, seen.map)


def test_relu_between_the_layer_and_the_pooling():
    tail = nn.Sequential(Functional("relu"), Pooling(), nn.Linear(6, 4))
    net, batch = spread(Net(features()[:4], tail)), images()  # as DenseNet ends
    seen = AblationCAM(net, "features").explain(batch, 2, relu=False)
    again = AblationCAM(net, "features").explain(batch, lambda out: out[:, 2], relu=False)
    assert (seen.replayed, again.replayed) == (None, True)
    torch.testing.assert_close(again.map, seen.map)


def test_channels_that_are_zero_are_skipped():
    net, batch = counting(), images(1)
    net.features[4].weight.data[[1, 4]] = 0
    net.features[4].bias.data[[1, 4]] = torch.tensor([-1.0, 0.5])  # zero after the ReLU, constant
    AblationCAM(net, "features", relu=False).explain(batch, 2)
    assert sum(net.tail[0].sizes[3:]) == net.features(batch).flatten(2).any(2).sum() < 6


@BOTH
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_batch_size_does_not_matter(kind, batch_size):
    net, batch = convolutional(), images(3)
    expected = kind(net, "features").explain(batch, [[1, 2]]).map
    found = kind(net, "features", batch_size=batch_size).explain(batch, [[1, 2]]).map
    torch.testing.assert_close(found, expected)


def defeating():
    class Stem(nn.Module):
        def forward(self, batch):
            return batch.relu_()

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            base = convolutional()
            self.stem, self.features, self.tail = Stem(), base.features, base.tail

        def forward(self, batch):
            batch = batch * 1
            self.stem(batch)
            return self.tail(self.features(batch)) + batch.mean((1, 2, 3))[:, None]

    return Model().eval()


@BOTH
def test_model_that_defeats_replay_runs_in_full_and_it_is_said(kind):
    net, batch = defeating(), images(3)
    before = snapshot(net)
    method = kind(net, "features", batch_size=4)
    for _ in range(2):
        seen = method.explain(batch, lambda out: out[:, 1], relu=False)
        assert seen.replayed is False
    base = Net(net.features, net.tail)
    plain = kind(base, "features").explain(batch.relu(), lambda out: out[:, 1], relu=False)
    assert plain.replayed is True
    offset = 0 if kind is AblationCAM else batch.relu().mean((1, 2, 3))[:, None, None]
    torch.testing.assert_close(seen.map, plain.map + offset, rtol=1e-4, atol=1e-4)
    assert snapshot(net) == before


class Transformer(nn.Module):
    """Patches, a class token, one block, the class token as answer."""

    def __init__(self, *, batch_first: bool = True) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, 2)
        self.token = nn.Parameter(torch.zeros(8))
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)
        self.head = nn.Linear(8, 4)
        self.batch_first = batch_first

    def embed(self, batch):
        patches = self.patches(batch).flatten(2).mT
        tokens = torch.cat([self.token.expand(len(batch), 1, -1), patches], 1)
        return tokens if self.batch_first else tokens.movedim(1, 0)

    def follow(self, normed):
        mixed, _ = self.attention(normed, normed, normed)
        return self.head(mixed[:, 0] if self.batch_first else mixed[0])

    def forward(self, batch):
        return self.follow(self.norm(self.embed(batch)))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("count", [1, 3])
def test_class_token_stays_as_it_is(batch_first, count):
    net, batch = spread(Transformer(batch_first=batch_first)), images(count)
    layout = layouts.Tokens(prefix=1, batch_first=batch_first)
    with torch.no_grad():
        tokens = net.norm(net.embed(batch))
        tokens = tokens if batch_first else tokens.movedim(1, 0)

        def follow(changed):
            return net.follow(changed if batch_first else changed.movedim(1, 0))

        score = follow(tokens)[:, 2]
        ablated, alone = torch.zeros(count, 4, 4), torch.zeros(count, 16)
        for k in range(8):
            changed = tokens.clone()
            changed[:, 1:, k] = 0
            weight = score - follow(changed)[:, 2]
            ablated += weight[:, None, None] * tokens[:, 1:, k].reshape(count, 4, 4)
        for i in range(16):
            changed = torch.zeros_like(tokens)
            changed[:, [0, 1 + i]] = tokens[:, [0, 1 + i]]
            alone[:, i] = follow(changed).softmax(1)[:, 2]
    options = {"layout": layout, "batch_size": 3, "relu": False}
    found = AblationCAM(net, "norm", **options).explain(batch, 2).map
    torch.testing.assert_close(found, ablated, rtol=1e-4, atol=1e-5)
    found = ReciproCAM(net, "norm", **options).explain(batch, 2).map
    torch.testing.assert_close(found, alone.reshape(count, 4, 4))


@pytest.mark.parametrize("gaussian", [False, True])
@pytest.mark.parametrize(
    ("layout", "first"),
    [(None, True), ("tokens", True), ("tokens", False), ("own", True), ("own", False)],
)
def test_tokens_keep_their_own_features_in_recipro_cam(gaussian, layout, first):
    net, batch = transformer(first=first).double(), images(2, 6, 8).double()
    if layout == "tokens":
        layout = layouts.Tokens(prefix=int(first), grid=(3, 4))
    elif layout == "own":
        layout = lambda a: a[:, int(first) :].mT.unflatten(2, (3, 4))  # noqa: E731
    method = ReciproCAM(net, "features.2", gaussian=gaussian, layout=layout, batch_size=5)
    found = method.explain(batch, [2, 0]).map
    with torch.no_grad():
        rows = net.features[:3](batch)
    expected = [
        token_recipro_cam(
            lambda t: net.tail(net.features[3](t)), row, (3, 4), target, gaussian=gaussian
        )
        for row, target in zip(rows, [2, 0], strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-9, atol=1e-12)
    assert found.std() > 1e-3


def test_layout_that_makes_new_values_is_refused():
    def summed(activation):
        return activation.cumsum(1)

    with pytest.raises(LayoutError, match=r"summed.* computes new values .*that only moves values"):
        AblationCAM(convolutional(), "features", layout=summed)(images(), 1)


@BOTH
def test_layout_of_the_user_and_channels_last_agree_with_channels_first(kind):
    class Last(nn.Module):
        def forward(self, features):
            return features.movedim(1, -1)

    class First(nn.Module):
        def forward(self, features):
            return features.movedim(-1, 1)

    base, batch = convolutional(), images()
    expected = kind(base, "features").explain(batch, 2).map
    net = Net(nn.Sequential(*base.features, Last()), nn.Sequential(First(), *base.tail)).eval()
    for layout in (layouts.ChannelsLast(), lambda a: a.movedim(3, 1)):
        found = kind(net, "features", layout=layout).explain(batch, 2)
        assert found.replayed
        torch.testing.assert_close(found.map, expected)


@BOTH
def test_several_layers(kind):
    net, batch = convolutional(in_place=True), images()
    names = ["features.3", "features", "tail.0"]
    seen = kind(net, names).explain(batch, 1)
    for name, found in zip(names, seen.maps, strict=True):
        torch.testing.assert_close(found, kind(net, name).explain(batch, 1).map)


@BOTH
def test_gradient_flows_through_the_map(kind):
    assert_slope(kind, convolutional().double(), images(1).double(), 0)


def test_bad_options():
    with pytest.raises(InputError, match="score='softmax' is not known; use 'probability' or"):
        ReciproCAM(pooled(), "features", score="softmax")
    with pytest.raises(
        InputError, match="batch_size=0 is out of range; expected an integer of 1 or more"
    ):
        AblationCAM(pooled(), "features", batch_size=0)


def test_dead_network_gives_zeros():
    net = convolutional()
    net.features[3].weight.data.zero_()
    net.features[3].bias.data.fill_(-1)
    with pytest.warns(UserWarning, match="zero everywhere"):
        assert AblationCAM(net, "features")(images(), 1).eq(0).all()


def test_closed_form_is_taken_only_where_it_holds():
    net = spread(
        Net(convolutional().features, nn.Sequential(Pooling(), nn.Linear(6, 4), nn.Tanh()))
    )
    seen = AblationCAM(net, "features").explain(images(), 1)
    assert seen.replayed is True


class Frames(nn.Module):
    """Convolutions for each frame, and a recurrent network over them.

    Args:
        order: which axis of frames and samples is the outer one of the folded batch.
    """

    def __init__(self, order: str) -> None:
        super().__init__()
        self.cnn = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU())
        self.rnn = nn.GRU(5, 6, batch_first=True)
        self.head = nn.Linear(6, 4)
        self.order = order

    def forward(self, clip):
        count, frames = clip.shape[:2]
        if self.order == "samples":
            found = self.cnn(clip.flatten(0, 1)).mean((2, 3)).unflatten(0, (count, frames))
        else:
            found = self.cnn(clip.movedim(1, 0).flatten(0, 1)).mean((2, 3))
            found = found.unflatten(0, (frames, count)).movedim(0, 1)
        return self.head(self.rnn(found)[0][:, -1])


LAYOUTS = {
    "samples": lambda a: a.reshape(-1, 3, *a.shape[1:]).movedim(2, 1),
    "frames": lambda a: a.reshape(3, -1, *a.shape[1:]).movedim(0, 2),
}


@pytest.mark.parametrize("order", LAYOUTS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_frames_folded_into_the_batch(order, count):
    layout, net = LAYOUTS[order], spread(Frames(order))
    clip = torch.randn(count, 3, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    kept = []
    handle = net.cnn.register_forward_hook(lambda _m, _i, output: kept.append(output))
    with torch.no_grad():
        score = net(clip)[:, 1]
        handle.remove()
        arranged = layout(kept[0])

        def answer(seen):
            back = arranged.where(seen, 0).movedim(1, 2)
            raw = back.flatten(0, 1) if order == "samples" else back.movedim(1, 0).flatten(0, 1)
            handle = net.cnn.register_forward_hook(lambda *_: raw)
            found = net(clip)
            handle.remove()
            return found

        others = ~torch.eye(5, dtype=torch.bool)[..., None, None, None]
        weights = torch.stack([score - answer(each)[:, 1] for each in others], 1)
        ablated = torch.einsum("nk,nk...->n...", weights, arranged)
        cells = torch.arange(3 * 36).reshape(3, 6, 6)
        alone = torch.stack([answer(cells == i).softmax(1)[:, 1] for i in range(3 * 36)], 1)
    options = {"layout": layout, "relu": False, "batch_size": 7}
    seen = AblationCAM(net, "cnn", **options).explain(clip, 1)
    torch.testing.assert_close(seen.map, ablated)
    assert seen.replayed
    found = ReciproCAM(net, "cnn", **options).explain(clip, 1).map
    torch.testing.assert_close(found, alone.reshape(-1, 3, 6, 6))


def test_layout_for_one_number_of_samples_alone():
    clip = torch.randn(2, 3, 3, 6, 6)
    with pytest.raises(LayoutError, match=r"reads an activation \(6, 5, 6, 6\) of 2 samp"):
        AblationCAM(Frames("samples").eval(), "cnn", layout=lambda a: a.reshape(2, 5, 3, 6, 6))(
            clip, 1
        )


class Normed(nn.Module):
    """A norm with the statistics of the batch, also in evaluation."""

    def __init__(self, place: str) -> None:
        super().__init__()
        base = convolutional()
        before, behind = (nn.BatchNorm2d(6, track_running_stats=False), nn.Identity())
        if place == "behind":
            before, behind = behind, before
        self.features = nn.Sequential(*base.features, before)
        self.tail = nn.Sequential(behind, *base.tail)

    def forward(self, batch):
        return self.tail(self.features(batch))


@BOTH
@pytest.mark.parametrize("count", [1, 2, 3])
def test_samples_that_are_mixed_behind_the_layer_are_told_of_once(kind, count):
    method = kind(Normed("behind").eval(), "features.4")
    for _ in range(2):
        with pytest.warns(CamlibWarning, match="Normed answers a sample differently in an") as told:
            method(images(count), 1)
        assert len(told) == 1


@BOTH
def test_samples_that_run_alone_or_are_mixed_before_are_nothing_to_tell(kind):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        kind(Normed("before").eval(), "features")(images(), 1)
        kind(Normed("behind").eval(), "features.4", batch_size=1)(images(1), 1)
    assert not told
