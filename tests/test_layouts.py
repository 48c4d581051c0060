import pytest
import torch
from nets import Net, Pooling, images, pooled, spread
from torch import nn

from camlib import GradCAM, LayoutError, layouts
from camlib.layouts import ChannelsFirst, ChannelsLast, recognize


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((2, 512, 7, 7), (224, 224)),
        ((2, 512, 7, 10), (224, 320)),
        ((2, 2048, 8, 8), (299, 299)),
        ((2, 6, 4, 4), (8, 8)),
        ((2, 64, 32, 32), (32, 32)),
        ((2, 512, 1, 25), (32, 100)),
        ((2, 32, 4, 7, 7), (16, 224, 224)),
    ],
)
def test_channels_first(shape, size):
    assert recognize(shape, size) == ChannelsFirst()


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((2, 7, 7, 768), (224, 224)),
        ((2, 56, 56, 96), (224, 224)),
        ((2, 7, 10, 768), (224, 320)),
        ((2, 8, 7, 7, 768), (16, 224, 224)),
    ],
)
def test_channels_last(shape, size):
    assert recognize(shape, size) == ChannelsLast()


def test_neighbours_decide_where_the_shape_does_not():
    shape, size = (2, 8, 8, 8), (32, 32)
    conv, linear = nn.Conv2d(1, 1, 1), nn.Linear(1, 1)
    relu = nn.ReLU()
    assert recognize(shape, size, relu, lambda: [conv, nn.ReLU()]) == ChannelsFirst()
    assert recognize(shape, size, relu, lambda: [linear, nn.LayerNorm(8)]) == ChannelsLast()
    assert recognize(shape, size, linear, lambda: [conv]) == ChannelsLast()
    assert recognize((2, 16, 50), (100,), nn.Conv1d(1, 1, 1)) == ChannelsFirst()
    for around in ([], [relu], [linear], [linear, conv]):
        with pytest.raises(LayoutError, match=r"can be read as channels first or as channels last"):
            recognize(shape, size, relu, lambda found=around: found)


def test_convolution_has_channels_first_whatever_its_stride():
    assert recognize((1, 16, 64, 64), (64, 256), nn.Conv2d(1, 16, 3)) == ChannelsFirst()


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
    for layer in ("0", "0.1", "1.depth", "2", "4"):
        expected = GradCAM(net, layer, layout=ChannelsFirst())(batch, 1, relu=False)
        try:
            found = GradCAM(net, layer)(batch, 1, relu=False)
        except LayoutError:
            continue  # an error is right, a wrong map is not
        torch.testing.assert_close(found, expected)
        assert layer != "4"  # between a linear layer and a pooling nobody knows
    with pytest.raises(LayoutError, match=r"layer '1': .* can be read as channels first or as"):
        GradCAM(net, "1")(batch, 1)


@pytest.mark.parametrize("shape", [(2, 197, 768), (2, 1000)])
def test_no_grid(shape):
    with pytest.raises(LayoutError, match=r"has no grid for an input of size \(224, 224\); choose"):
        recognize(shape, (224, 224))


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
    class Tokens(nn.Module):
        def forward(self, features):
            return features.flatten(2).mT

    class Grid(nn.Module):
        def forward(self, tokens):
            return tokens.mT.unflatten(2, (4, 4))

    net = pooled()
    tokens = Net(nn.Sequential(net.features, Tokens()), nn.Sequential(Grid(), net.tail)).eval()
    cam = GradCAM(tokens, "features", layout=lambda t: t.mT.unflatten(2, (4, 4)))
    torch.testing.assert_close(cam(images()), GradCAM(net, "features")(images()))
    with pytest.raises(LayoutError, match=r"layer 'features': an activation of shape \(2, 16, 6\)"):
        GradCAM(tokens, "features")(images())
    with pytest.raises(
        LayoutError, match=r"the layout made \(2, 6, 16\) of \(2, 16, 6\); expected"
    ):
        GradCAM(tokens, "features", layout=lambda t: t.mT)(images())


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


def test_names_are_public():
    assert layouts.ChannelsFirst().grid((2, 3, 4, 5)) == (4, 5)
    assert layouts.ChannelsLast().grid((2, 4, 5, 3)) == (4, 5)
