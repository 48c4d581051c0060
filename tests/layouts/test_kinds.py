"""The kinds of layouts: each arranges, names its grid, and puts a grid back where it was."""

from __future__ import annotations

import pytest
import torch
from nets import Net, Pooling, images, pooled, spread
from torch import nn

from camlib import GradCAM, LayoutError
from camlib.layouts import ChannelsFirst, ChannelsLast, Sequence, Tokens


class LayerNorm2d(nn.LayerNorm):
    """As in ConvNeXt: for channels first, whatever its name says."""

    def forward(self, features):
        return super().forward(features.movedim(1, -1)).movedim(-1, 1)


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.depth = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.wide = nn.Linear(channels, channels)

    def forward(self, features):
        return features + self.wide(self.norm(self.depth(features).movedim(1, -1))).movedim(-1, 1)


def test_as_many_channels_as_rows_and_columns():
    stem = nn.Sequential(nn.Conv2d(3, 8, 2, stride=2), LayerNorm2d(8))
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)]
    net = spread(nn.Sequential(stem, Block(8), nn.Conv2d(8, 8, 1), Block(8), nn.ReLU(), *tail))
    batch = images(2, 16, 16)
    for layer in ("0", "0.1", "1.depth", "1", "2", "4"):
        expected = GradCAM(net, layer, layout=ChannelsFirst())(batch, 1, relu=False)
        torch.testing.assert_close(GradCAM(net, layer)(batch, 1, relu=False), expected)


class ToLast(nn.Module):
    def forward(self, features):
        return features.movedim(1, -1)


class ToFirst(nn.Module):
    def forward(self, features):
        return features.movedim(-1, 1)


@pytest.mark.parametrize("size", [(8, 8), (8, 16), (20, 12)])
def test_channels_last_network_gives_the_same_map(size):
    net = pooled()
    last = Net(nn.Sequential(net.features, ToLast()), nn.Sequential(ToFirst(), net.tail)).eval()
    batch = images(2, *size)
    expected = GradCAM(net, "features")(batch, target=[[0, 2]], relu=False)
    found = GradCAM(last, "features", layout=ChannelsLast())(batch, target=[[0, 2]], relu=False)
    torch.testing.assert_close(found, expected)


def test_any_function_is_a_layout():
    class Reversed(nn.Module):
        def forward(self, features):
            return features.flatten(2).mT.flip(1)

    class Back(nn.Module):
        def forward(self, tokens):
            return tokens.flip(1).mT.unflatten(2, (4, 4))

    net = pooled()
    odd = Net(nn.Sequential(net.features, Reversed()), nn.Sequential(Back(), net.tail)).eval()
    cam = GradCAM(odd, "features", layout=lambda t: t.flip(1).mT.unflatten(2, (4, 4)))
    torch.testing.assert_close(
        cam(images(), 1, relu=False), GradCAM(net, "features")(images(), 1, relu=False)
    )
    several = cam(images(), [[0, 3]], relu=False)
    torch.testing.assert_close(several, GradCAM(net, "features")(images(), [[0, 3]], relu=False))
    with pytest.raises(
        LayoutError, match=r"the layout made \(2, 6, 16\) of \(2, 16, 6\); expected"
    ):
        GradCAM(odd, "features", layout=lambda t: t.mT)(images(), 1, relu=False)


def test_grid_is_never_transposed():
    """A network that answers with the brightness of one place: the map is hot there alone."""
    net = Net(nn.Sequential(nn.AvgPool2d(4)), nn.Sequential(Pooling(), nn.Linear(3, 2)))
    net.tail[1].weight.data.fill_(1)
    for row, column in [(0, 0), (0, 3), (1, 2), (2, 0)]:
        batch = torch.zeros(1, 3, 12, 16)
        batch[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 1
        found = GradCAM(net, "features").explain(batch, target=0).map
        assert found[0, row, column] == found.max() > 0
        assert (found != 0).sum() == 1


def places(*grid):
    """A map ``(1, 1, *grid)`` whose value at a place is its number, row by row."""
    return torch.arange(float(torch.Size(grid).numel())).reshape(1, 1, *grid)


@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (2, 3, 5), (7,)])
@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("suffix", [0, 2])
@pytest.mark.parametrize("batch_first", [True, False])
def test_tokens_return_to_their_places(grid, prefix, suffix, batch_first):
    channels = torch.cat([places(*grid), -places(*grid)], 1).expand(3, -1, *grid)
    tokens = channels.flatten(2).mT
    others = torch.full((3, prefix, 2), 99.0), torch.full((3, suffix, 2), 99.0)
    row = torch.cat([others[0], tokens, others[1]], 1)
    layout = Tokens(prefix, grid, suffix, batch_first)
    given = row if batch_first else row.movedim(1, 0)
    assert torch.equal(layout(given), channels)
    assert layout.grid_of(given.shape) == grid


def test_square_grid_is_the_default():
    assert Tokens(prefix=1).grid_of((2, 17, 8)) == (4, 4)
    assert torch.equal(Tokens()(places(4, 4).flatten(2).mT), places(4, 4))


@pytest.mark.parametrize("batch_first", [True, False])
def test_series_keep_their_steps(batch_first):
    row = torch.cat([torch.full((1, 2, 1), 99.0), places(7).mT], 1)
    given = row if batch_first else row.movedim(1, 0)
    assert torch.equal(Sequence(2, batch_first)(given), places(7))
    assert Sequence(2, batch_first).grid_of(given.shape) == (7,)


@pytest.mark.parametrize("layout", [ChannelsFirst(), ChannelsLast()])
def test_grids_keep_their_places(layout):
    given = places(3, 5) if layout == ChannelsFirst() else places(3, 5).movedim(1, -1)
    assert torch.equal(layout(given), places(3, 5))
    assert layout.grid_of(given.shape) == (3, 5)


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        (Tokens(prefix=1), (2, 18, 8)),
        (Tokens(grid=(3, 5)), (2, 16, 8)),
        (Tokens(), (2, 8, 4, 4)),
        (Tokens(prefix=9), (2, 4, 8)),
    ],
)
def test_tokens_of_another_number(layout, shape):
    with pytest.raises(LayoutError, match=r"Tokens\(.*does not fit an activation .* \(N, T, C\)"):
        layout.grid_of(shape)
    with pytest.raises(LayoutError, match=r"expected \(T, N, C\) with T = prefix \+ patches"):
        Tokens(grid=(3, 5), batch_first=False).grid_of(shape)
