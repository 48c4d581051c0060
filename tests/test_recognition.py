"""Recognising layouts from shapes, and from what else a pass tells."""

import pytest
from torch import nn

from camlib import LayoutError
from camlib.layouts import ChannelsFirst, ChannelsLast, Sequence, Tokens
from camlib.recognition import Clues, recognize


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

    def read(module, *around):
        return recognize(shape, size, module, Clues(beside=lambda: around))

    assert read(relu, conv, nn.ReLU()) == ChannelsFirst()
    assert read(relu, linear, nn.LayerNorm(8)) == ChannelsLast()
    assert read(linear, conv) == ChannelsLast()
    assert recognize((2, 16, 50), (100,), nn.Conv1d(1, 1, 1)) == ChannelsFirst()
    for around in ([], [relu], [linear], [linear, conv]):
        with pytest.raises(
            LayoutError,
            match=r"can be read in 2 ways; pass one of layout=camlib.layouts.ChannelsFirst\(\) or "
            r"layout=camlib.layouts.ChannelsLast\(\)",
        ):
            read(relu, *around)


def test_convolution_has_channels_first_whatever_its_stride():
    assert recognize((1, 16, 64, 64), (64, 256), nn.Conv2d(1, 16, 3)) == ChannelsFirst()


@pytest.mark.parametrize(
    ("length", "size", "expected"),
    [
        (196, (224, 224), Tokens(0, (14, 14))),
        (197, (224, 224), Tokens(1, (14, 14))),
        (198, (224, 224), Tokens(2, (14, 14))),
        (261, (224, 224), Tokens(5, (16, 16))),
        (281, (224, 320), Tokens(1, (14, 20))),
        (281, (320, 224), Tokens(1, (20, 14))),
        (65, (32, 32), Tokens(1, (8, 8))),
        (49, (224, 224), Tokens(0, (7, 7))),
        (253, (224, 300), Tokens(1, (14, 18))),
        (125, (10, 10, 10), Tokens(0, (5, 5, 5))),
    ],
)
def test_tokens_of_square_patches(length, size, expected):
    assert recognize((2, length, 24), size) == expected


def test_sequence_comes_before_samples():
    expected = Tokens(1, (14, 14), batch_first=False)
    assert recognize((197, 2, 24), (224, 224), count=2) == expected
    assert recognize((197, 1, 24), (224, 224), count=1) == expected
    clues = Clues(grids=frozenset({(25,)}))
    assert recognize((25, 2, 24), (100,), clues=clues, count=2) == Sequence(0, batch_first=False)


@pytest.mark.parametrize(
    ("length", "size", "grid", "prefix"),
    [
        (512, (64, 64, 64), (8, 8, 8), 0),
        (1569, (16, 224, 224), (8, 14, 14), 1),
        (393, (16, 224, 224), (8, 7, 7), 1),
        (212, (224, 224), (14, 14), 16),
    ],
)
def test_grid_of_a_convolution_decides(length, size, grid, prefix):
    with pytest.raises(LayoutError):
        recognize((2, length, 24), size)
    clues = Clues(grids=frozenset({grid, tuple(2 * g for g in grid)}))
    assert recognize((2, length, 24), size, clues=clues) == Tokens(prefix, grid)


def test_number_of_other_tokens_that_the_model_tells():
    shape, size = (2, 17, 24), (48, 48)
    with pytest.raises(
        LayoutError, match=r"2 ways.*prefix=1, grid=\(4, 4\).*prefix=8, grid=\(3, 3"
    ):
        recognize(shape, size)
    assert recognize(shape, size, clues=Clues(prefixes=frozenset({1}))) == Tokens(1, (4, 4))
    assert recognize(shape, size, clues=Clues(prefixes=frozenset({8}))) == Tokens(8, (3, 3))


def test_merged_tokens():
    clues = Clues(grids=frozenset({(14, 14)}), normed=frozenset({49, 16}))
    assert recognize((2, 49, 24), (224, 224), clues=clues) == Tokens(0, (7, 7))
    assert recognize((2, 16, 24), (224, 224), clues=clues) == Tokens(0, (4, 4))


def test_queries_of_a_decoder_are_no_patches():
    size = (320, 320)
    assert recognize((1, 100, 24), size) == Tokens(0, (10, 10))
    with pytest.raises(LayoutError, match="has no grid for an input of size"):
        recognize((1, 100, 24), size, clues=Clues(grids=frozenset({(16, 16)})))


def test_channels_that_are_mixed_like_tokens():
    """The token mixing of an MLP-Mixer has its tokens last: 1024 channels are no 32 x 32 grid."""
    clues = Clues(normed=frozenset({196}), lengths=frozenset({196, 1024}))
    with pytest.raises(LayoutError, match="has no grid for an input of size"):
        recognize((2, 1024, 196), (224, 224), clues=clues)
    assert recognize((2, 196, 1024), (224, 224), clues=clues) == Tokens(0, (14, 14))


@pytest.mark.parametrize(
    "shape", [(2, 12, 49, 49), (2, 12, 49, 64), (2, 3, 1, 49), (2, 1, 49, 64), (2, 24, 64, 64)]
)
def test_attention_between_tokens_has_no_grid(shape):
    clues = Clues(lengths=frozenset({49, 64}), grids=frozenset({(7, 7), (8, 8), (64, 64)}))
    with pytest.raises(LayoutError, match="has no grid for an input of size"):
        recognize(shape, (224, 224), clues=clues)


def test_heads_of_an_attention_have_no_grid():
    """(N, heads, T, channels of a head), where both are about half the size of the image."""
    clues = Clues(lengths=frozenset({65}), grids=frozenset({(8, 8)}))
    with pytest.raises(LayoutError, match="has no grid for an input of size"):
        recognize((4, 3, 65, 64), (128, 128), clues=clues)
    assert recognize((4, 3, 65, 64), (128, 128)) == ChannelsFirst()


def test_windows_of_as_many_tokens_as_there_are_images():
    """4 windows of each of 4 images, as MobileViT has them, are no 4 x 4 patches, tokens first."""
    with pytest.raises(LayoutError, match="and 4 samples; choose a layer"):
        recognize((16, 4, 24), (128, 128), count=4)
    clues = Clues(sequence_first=True)
    expected = Tokens(0, (4, 4), batch_first=False)
    assert recognize((16, 4, 24), (128, 128), clues=clues, count=4) == expected
    assert recognize((4, 4, 24), (128, 128), count=4) == Tokens(0, (2, 2))


def test_patches_that_are_kept_window_by_window():
    clues = Clues(normed=frozenset({64, 16}), grids=frozenset({(8, 8)}), windowed=True)
    assert recognize((2, 16, 24), (128, 128), clues=clues) == Tokens(0, (4, 4))
    with pytest.raises(LayoutError, match="has no grid for an input of size"):
        recognize((2, 64, 24), (128, 128), clues=clues)


def test_grid_that_has_as_many_rows_as_there_are_tokens():
    grids, arrays = frozenset({(64, 64), (8, 8)}), frozenset({(24, 64, 64)})
    clues = Clues(lengths=frozenset({64}), grids=grids, arrays=arrays)
    assert recognize((2, 24, 64, 64), (256, 256), clues=clues) == ChannelsFirst()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 24, 50), ChannelsFirst()),
        ((2, 50, 24), ChannelsLast()),
        ((2, 51, 24), Sequence(prefix=1)),
        ((51, 2, 24), Sequence(prefix=1, batch_first=False)),
    ],
)
def test_series_on_the_grid_of_a_convolution(shape, expected):
    clues = Clues(grids=frozenset({(50,), (100,)}), normed=frozenset({51}))
    assert recognize(shape, (100,), clues=clues, count=2) == expected


def test_more_samples_than_images_are_no_reading():
    with pytest.raises(LayoutError, match=r"size \(224, 224\) and 2 samples; choose a layer"):
        recognize((128, 49, 96), (224, 224), count=2)
    with pytest.raises(LayoutError, match=r"size \(32, 32\) and 2 samples"):
        recognize((8, 5, 16, 16), (32, 32), nn.Conv2d(3, 5, 3), count=2)


def test_no_grid():
    with pytest.raises(LayoutError, match=r"has no grid for an input of size \(224, 224\); choose"):
        recognize((2, 1000), (224, 224))
    with pytest.raises(LayoutError, match=r"has no grid for an input of size \(224, 224\); choose"):
        recognize((2, 77, 512), (224, 224))
