"""Where a model looks: at a part of the input, in another order of its axes, or along time.

One place is bright, so the right map is known. A map is right, or the layer is refused.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from one_bright_place import (
    PATCH,
    WIDTH,
    Passing,
    Prompted,
    answer,
    assert_right,
    patches,
    planted,
    text,
)
from torch import Tensor, nn
from torch.nn import functional as F

from camlib import (
    AttentionRollout,
    Augmented,
    GradCAM,
    GradientRollout,
    HiResCAM,
    IntegratedGradCAM,
    LayerError,
    LayoutError,
    ScoreCAM,
    layers,
)

Way = Callable[[Tensor], Tensor]


class Looking(nn.Module):
    """Looks at what `way` leaves of an image, or of what `first` makes of it."""

    def __init__(self, way: Way, layer: nn.Module, first: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.way, self.layer = first, way, layer

    def forward(self, batch: Tensor) -> Tensor:
        given = batch if self.first is None else self.first(batch)
        return answer(self.layer(self.way(given))[:, 0])


def same(channels: int = 3) -> nn.Module:
    """A convolution that returns what it is given."""
    conv = nn.Conv2d(channels, channels, 1, bias=False)
    conv.weight.data = torch.eye(channels)[..., None, None]
    return conv


@pytest.mark.parametrize("first", ["norm", "convolution"])
@pytest.mark.parametrize("layer", ["layer", None])
def test_image_may_be_cut_behind_the_first_layer(first, layer):
    starts = [(24, 48), (16, 72)]
    front = nn.BatchNorm2d(3) if first == "norm" else same()
    net = Looking(lambda found: found[..., 8:40, 40:88], patches(), front).eval()
    batch = planted((64, 96), starts)
    assert_right(HiResCAM(net, layer)(batch, 1), starts)


class Branches(nn.Module):
    """One branch sees the whole image and one a part of it."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.whole, self.part, self.order = patches(), patches(), order

    def forward(self, batch: Tensor) -> Tensor:
        if self.order == "whole first":
            whole = self.whole(batch)
            part = self.part(batch[..., 16:48, 32:80])
        else:
            part = self.part(batch[..., 16:48, 32:80])
            whole = self.whole(batch)
        return answer(part[:, 0]) + answer(whole[:, 0])


@pytest.mark.parametrize(
    ("layer", "order"),
    [("whole", "whole first"), ("part", "whole first"), ("part", "part first")],
)
def test_each_branch_covers_what_it_sees(layer, order):
    starts = [(24, 48), (16, 40)]
    net, batch = Branches(order).eval(), planted((64, 96), starts)
    assert_right(HiResCAM(net, layer)(batch, 1), starts)


def test_features_may_be_padded():
    starts = [(40, 72), (24, 48)]
    layer = patches(channels=WIDTH, size=2)
    net = Looking(lambda found: F.pad(found, (16, 0, 8, 0)), layer, patches(size=4)).eval()
    batch = planted((64, 96), starts)
    assert_right(HiResCAM(net, "layer")(batch, 1), starts)


def test_convolution_may_pad_more_than_a_patch():
    starts = [(8, 8), (40, 72)]
    net = Looking(lambda found: found, nn.ReLU(), patches(padding=2 * PATCH)).eval()
    batch = planted((64, 96), starts)
    assert_right(HiResCAM(net, "layer")(batch, 1), starts)


@pytest.mark.parametrize("augmented", [False, True])
@pytest.mark.parametrize("way", ["cut", "padded"])
def test_integrated_grad_cam_lies_where_the_model_looked(augmented, way):
    starts = [(24, 52), (16, 36)]
    ways: dict[str, Way] = {
        "cut": lambda batch: batch[..., 8:48, 28:92],
        "padded": lambda batch: F.pad(batch, (24, 0, 16, 0)),
    }
    method = IntegratedGradCAM(Looking(ways[way], patches(size=4)).eval(), "layer")
    explain = Augmented(method) if augmented else method
    batch = planted((64, 96), starts)
    assert_right(explain(batch, 1), starts)


class Embedding(nn.Module):
    """Embeds each place of an input with channels last, of which `way` may leave a part."""

    def __init__(self, channels: int, way: Way = lambda given: given) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embed, self.layer, self.way = nn.Linear(channels, WIDTH), Passing(), way
        self.embed.weight.data = torch.randn(WIDTH, channels, generator=generator) / 50
        self.embed.weight.data[0] = 1 / channels
        nn.init.zeros_(self.embed.bias)

    def forward(self, given: Tensor) -> Tensor:
        return answer(self.layer(self.embed(self.way(given)))[..., 0])


SERIES_CUTS: dict[str, Way] = {
    "its end": lambda series: series[:, -64:],
    "without its start": lambda series: series[:, 8:],
    "its middle": lambda series: torch.split(series, [12, 60, 24], 1)[1],
}


@pytest.mark.parametrize("cut", SERIES_CUTS)
def test_series_with_channels_last_may_be_cut(cut):
    starts = [(56,), (40,)]
    net, series = Embedding(3, SERIES_CUTS[cut]).eval(), planted((96,), starts).mT.contiguous()
    assert_right(HiResCAM(net, "embed")(series, 1), starts, tolerance=3)


IMAGE_CUTS: dict[str, Way] = {
    "without its top": lambda batch: batch[:, 8:],
    "without its left": lambda batch: batch[:, :, 16:],
    "its middle": lambda batch: batch[:, 8:40, 16:72],
}


@pytest.mark.parametrize("cut", IMAGE_CUTS)
@pytest.mark.parametrize("options", [{}, {"image_layout": "NHWC"}], ids=["found", "told"])
def test_image_with_channels_last_may_be_cut(cut, options):
    starts = [(24, 48), (16, 40)]
    batch = planted((64, 96), starts).permute(0, 2, 3, 1).contiguous()
    net = Embedding(3, IMAGE_CUTS[cut]).eval()
    assert_right(HiResCAM(net, "embed", **options)(batch, 1), starts)


@pytest.mark.parametrize("channels", [7, pytest.param(16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("layer", ["embed", "layer"])
def test_series_with_channels_last_has_its_steps_first(channels, layer):
    starts = [(40,), (16,)]
    net, series = Embedding(channels).eval(), planted((96,), starts, channels).mT.contiguous()
    assert_right(HiResCAM(net, layer)(series, 1), starts, tolerance=3)


def test_series_of_one_channel_may_be_cut_into_patches():
    starts = [(40,), (16,), (72,)]
    net = Embedding(PATCH, lambda series: series.unflatten(2, (-1, PATCH)).flatten(1, 2)).eval()
    series = planted((96,), starts, channels=1)
    assert_right(HiResCAM(net, "layer")(series, 1), starts)


class OverTime(nn.Module):
    """A linear layer over the whole time of each variable."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(96, 16), nn.Linear(16 * channels, 2)

    def forward(self, series: Tensor) -> Tensor:
        return self.head(self.layer(series).relu().flatten(1))


@pytest.mark.parametrize("channels", [7, 16])
def test_linear_layer_over_time_has_no_time(channels):
    torch.manual_seed(0)
    net, series = OverTime(channels).eval(), planted((96,), [(40,), (16,)], channels)
    seen = GradCAM(net, "layer").explain(series, 1, relu=False)
    assert seen.heatmap.shape == (2, channels, 96)


def test_linear_layer_over_time_is_refused_where_three_variables_are_colours():
    torch.manual_seed(0)
    net, series = OverTime(3).eval(), planted((96,), [(40,), (16,)])
    with pytest.raises(LayoutError, match=r"all places of .* look at the same part of the input"):
        GradCAM(net, "layer")(series, 1)


class Variables(nn.Module):
    """Each variable of a series with channels last is a token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(96, 16)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 2)

    def forward(self, series: Tensor) -> Tensor:
        return self.head(self.norm(self.encoder(self.embed(series.mT))).mean(1))


def test_variables_as_tokens_are_no_time():
    torch.manual_seed(0)
    series = planted((96,), [(40,)], 7).mT.contiguous()
    seen = GradCAM(Variables().eval()).explain(series, 1, relu=False)
    # A value for each variable, whether the input is read with an axis of time beside them or not.
    shapes = tuple(seen.map.shape), tuple(seen.heatmap.shape)
    assert shapes in [((1, 1, 7), (1, 96, 7)), ((1, 7), (1, 7))]


def test_variables_as_tokens_are_refused_where_three_variables_are_colours():
    torch.manual_seed(0)
    series = planted((96,), [(40,)]).mT.contiguous()
    with pytest.raises(LayerError, match="has no layer with a grid and a gradient"):
        GradCAM(Variables().eval())(series, 1)


class Rows(nn.Module):
    """Tokens of the patches of what `way` makes of an image."""

    def __init__(self, way: Way, channels: int = 3) -> None:
        super().__init__()
        self.patches, self.layer, self.way = patches(channels=channels), Passing(), way

    def forward(self, batch: Tensor) -> Tensor:
        return answer(self.layer(self.patches(self.way(batch)).flatten(2).mT)[..., 0])


@pytest.mark.parametrize("size", [(96, 32), (64, 32), (48, 64)])
@pytest.mark.parametrize("layer", ["layer", None])
def test_tokens_of_a_grey_image_are_no_series(size, layer):
    starts = [(16, 8), (8, 16)]
    net = Rows(lambda batch: batch[:, None].mT, channels=1).eval()
    batch = planted(size, starts, channels=1)[:, 0]
    assert_right(HiResCAM(net, layer)(batch, 1), starts)


def test_tokens_of_a_wide_border_are_left_out():
    starts = [(8, 32), (24, 8)]
    net = Rows(lambda batch: F.pad(batch, (64, 64, 64, 64))).eval()
    batch = planted((40, 56), starts)
    assert_right(HiResCAM(net, "layer")(batch, 1), starts)


@pytest.mark.parametrize(
    ("one", "other"), [((0, 8), (8, 0)), ((3, 16), (19, 0)), ((8, 8), (0, 16))]
)
def test_words_that_fill_whole_rows_of_another_sample_are_refused(one, other):
    words = torch.tensor([text(*one, image=64), text(*other, image=64)])
    net, batch = Prompted().eval(), planted((64, 64), [(16, 16), (16, 16)])
    with pytest.raises(LayoutError, match="fits the first sample but not all"):
        HiResCAM(net, "layer")((batch, words), 1)


class Attending(nn.Module):
    """Self-attention, added to what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(tokens).chunk(3, -1)
        return tokens + (query @ key.mT / 3).softmax(-1) @ value


class Reader(nn.Module):
    """Two blocks of attention over words, among which the patches of an image stand."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.words = nn.Conv2d(3, 8, PATCH, PATCH), nn.Embedding(4, 8)
        self.blocks, self.head = nn.Sequential(Attending(), Attending()), nn.Linear(8, 2)

    def forward(self, batch: Tensor, words: Tensor) -> Tensor:
        seen = (words == 3)[..., None].expand(-1, -1, 8)
        tokens = self.words(words).masked_scatter(seen, self.patches(batch).flatten(2).mT)
        return self.head(self.blocks(tokens).mean(1))


@pytest.mark.parametrize("kind", [GradientRollout, AttentionRollout])
def test_attention_method_may_be_called_with_another_text(kind):
    torch.manual_seed(0)
    net, batch = Reader().eval(), torch.rand(1, 3, 64, 64)
    first, second = (torch.tensor([text(*counts, image=64)]) for counts in ((3, 4), (5, 2)))
    method = kind(net)
    method((batch, first), 1)
    torch.testing.assert_close(method((batch, second), 1), kind(net)((batch, second), 1))


def test_candidates_read_the_image_as_methods_do():
    layer = nn.Sequential(patches(channels=1), nn.ReLU())
    net = Looking(lambda batch: batch[:, None], layer).eval()
    batch = planted((32, 64), [(8, 16), (16, 24)], channels=1)[:, 0]
    default = [found.name for found in layers.candidates(net, batch, 1) if found.default]
    assert default == list(HiResCAM(net).explain(batch, 1).layers)


class StepsFirst(nn.Module):
    """Each column of a line is a step: scores ``(steps, N, 2)``."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = patches()

    def forward(self, lines: Tensor) -> Tensor:
        bright = self.patches(lines)[:, 0, 0].T
        return torch.stack([-bright, bright], 2)


def test_samples_on_the_second_axis_are_answered_alike():
    """Without a warning that the model answers a sample differently among others."""
    starts = [(0, 8), (0, 40)]
    net, lines = StepsFirst().eval(), planted((8, 64), starts)
    found = ScoreCAM(net, "patches")(lines, lambda output: output[..., 1].mean(0))
    assert found.shape == (2, 8, 64)
