"""Signals as coloured lines."""

import math
from itertools import combinations

import matplotlib
import numpy as np
import pytest
import torch

from camlib.errors import InputError
from camlib.visual import figure, to_png


@pytest.fixture
def signals():
    return torch.randn(2, 3, 40, generator=torch.Generator().manual_seed(0)).cumsum(-1)


@pytest.fixture
def heatmaps():
    return torch.rand(2, 40, generator=torch.Generator().manual_seed(1))


def parts(axes):
    """The axes of the line and of the strip."""
    return axes.child_axes


def lines(axes):
    """The coloured pieces of each channel, ``(L, 3, 2)``, and their colours ``(L, 3)``."""
    upper, _ = parts(axes)
    return [
        (np.array(found.get_segments()), found.get_colors()[:, :3]) for found in upper.collections
    ]


def strip(axes):
    [picture] = parts(axes)[1].images
    return picture.get_array()


def colours(heat, name="jet"):
    return matplotlib.colormaps[name](np.asarray(heat))[..., :3]


def texts(drawn):
    return [text.get_text() for text in drawn.texts if text.get_text()]


def test_pieces_have_the_colour_of_the_heat_at_their_place(signals, heatmaps):
    drawn = figure(signals, {"CAM": heatmaps, "other": heatmaps.flip(0)}, colormap="viridis")
    assert len(drawn.axes) == 6
    for row in range(2):
        for column, index in ((1, row), (2, 1 - row)):
            found = lines(drawn.axes[3 * row + column])
            assert len(found) == 3
            expected = colours(heatmaps[index], "viridis")
            for pieces, shown in found:
                np.testing.assert_allclose(shown, expected, atol=1e-6)
                assert pieces[:, 1, 0].tolist() == list(range(40))
            np.testing.assert_allclose(strip(drawn.axes[3 * row + column])[0], expected, atol=1e-6)
    assert texts(drawn) == ["signal", "CAM", "other"]


def test_line_of_one_channel_has_the_values_of_the_signal(signals, heatmaps):
    drawn = figure(signals[:1, :1], {"CAM": heatmaps[:1]})
    plain, coloured = drawn.axes
    assert not lines(plain) and not parts(plain)[1].images
    values = signals[0, 0].double().numpy()
    assert np.array_equal(parts(plain)[0].lines[0].get_ydata(), values)
    [(pieces, _)] = lines(coloured)
    assert np.array_equal(pieces[:, 1, 1], values)
    # No gap: each piece begins where the one before ends, and the ends are those of the signal.
    assert np.array_equal(pieces[1:, 0], pieces[:-1, 2])
    np.testing.assert_allclose(pieces[1:, 0], (pieces[1:, 1] + pieces[:-1, 1]) / 2)
    assert pieces[0, 0].tolist() == [0, values[0]] and pieces[-1, 2].tolist() == [39, values[-1]]


def test_channels_have_lanes_of_their_own_whatever_their_unit(heatmaps):
    wave = torch.sin(torch.arange(40.0))
    signal = torch.stack([wave, 1000 * wave - 7, torch.full((40,), 5.0)])[None]
    drawn = figure(signal, {"CAM": heatmaps[:1]})
    ys = [pieces[:, 1, 1] for pieces, _ in lines(drawn.axes[1])]
    np.testing.assert_allclose(ys[0] - ys[1], 1, atol=1e-4)
    assert ys[0].min() > ys[1].max() and ys[1].min() > ys[2].max()
    assert np.ptp(ys[2]) == 0
    labels = [text.get_text() for text in parts(drawn.axes[1])[0].get_yticklabels()]
    assert labels == ["0", "1", "2"]


def test_attributions_are_diverging_on_one_scale_for_a_signal():
    attribution = torch.tensor([[[-2.0, 0, 2, -9], [9, 0, 4.5, 0]]])
    drawn = figure(torch.zeros(1, 2, 4), {"saliency": attribution}, kind="signal")
    steps = attribution[0].double() / 9 / 2 + 0.5
    table = matplotlib.colormaps["seismic"].resampled(257)
    for c, (_, shown) in enumerate(lines(drawn.axes[1])):
        expected = table(np.minimum((steps[c].numpy() * 257).astype(int), 256))[:, :3]
        np.testing.assert_allclose(shown, expected, atol=0.5 / 255 + 1e-6)
        np.testing.assert_allclose(strip(drawn.axes[1])[c], shown)
    assert np.array_equal(lines(drawn.axes[1])[0][1][1], [1, 1, 1])
    dark = figure(torch.zeros(1, 2, 4), {"saliency": attribution}, kind="signal", mode="magnitude")
    assert lines(dark.axes[1])[0][1].tolist()[1] == [0, 0, 0]


def test_maps_alone_are_the_lines(heatmaps):
    drawn = figure(None, {"CAM": heatmaps}, kind="signal")
    for row in range(2):
        [(pieces, shown)] = lines(drawn.axes[row])
        np.testing.assert_allclose(pieces[:, 1, 1], heatmaps[row])
        np.testing.assert_allclose(shown, colours(heatmaps[row]), atol=1e-6)
    attribution = heatmaps[:, None] - 0.5
    drawn = figure(None, {"saliency": attribution}, kind="signal")
    [(pieces, _)] = lines(drawn.axes[1])
    np.testing.assert_allclose(pieces[:, 1, 1], attribution[1, 0])


def test_views_of_a_signal(signals):
    coarse = torch.tensor([[0.0, 1.0], [0.6, 0.2]])
    views = ("overlay", "emphasized", "cells")
    drawn = figure(signals, {"CAM": coarse}, views=views, kind="signal", names=["a", "b"])
    # A node is 20 points wide, so between the nodes the heat grows by a twentieth a point.
    heat = [min(max((k - 9.5) / 20, 0), 1) for k in range(40)]
    emphasized = [1 / (1 + math.exp(-50 * (h - 0.5))) for h in heat]
    cells = [0.0] * 20 + [1.0] * 20
    for row, expected in enumerate((heat, emphasized, cells)):
        for _, shown in lines(drawn.axes[2 * row + 1]):
            # A step of the colour map where rounding falls on its edge.
            np.testing.assert_allclose(shown, colours(expected), atol=0.02)
    assert texts(drawn) == ["signal", "CAM", *views[:2], views[2], "a", *views[:2], views[2], "b"]


def test_one_signal_may_come_without_its_batch(signals, heatmaps):
    expected = to_png(figure(signals[:1], {"CAM": heatmaps[:1]}))
    for heat in (heatmaps[0], heatmaps[:1]):
        assert to_png(figure(signals[0], {"CAM": heat})) == expected
    attribution = figure(signals[:1], {"a": signals[:1]}, kind="signal")
    assert to_png(figure(signals[0], {"a": signals[0]}, kind="signal")) == to_png(attribution)


def test_nothing_of_a_signal_overlaps_or_leaves_the_page():
    signal = torch.stack([torch.sin(torch.arange(1000.0) / 9) * s for s in (1e-12, -1e5)])
    for values in (signal[:, None], signal[None].expand(1, 2, -1), signal[:1].expand(1, 30, -1)):
        drawn = figure(values, {"CAM": torch.rand(len(values), 1000)}, kind="signal")
        renderer = drawn.canvas.get_renderer()
        drawn.draw(renderer)
        ticks = [
            label.get_window_extent(renderer)
            for axes in drawn.axes
            for part in parts(axes)
            for axis in (part.xaxis, part.yaxis)
            for tick in axis.get_major_ticks()
            for label in [tick.label1]
            if label.get_text()
            and min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
        ]
        assert len(ticks) >= 8
        boxes = ticks + [text.get_window_extent(renderer) for text in drawn.texts]
        for box in boxes:
            assert drawn.bbox.x0 <= box.x0 and box.x1 <= drawn.bbox.x1
            assert drawn.bbox.y0 <= box.y0 and box.y1 <= drawn.bbox.y1
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_maps_in_half_precision_and_with_a_graph_are_drawn(signals, heatmaps):
    expected = figure(signals, {"CAM": heatmaps.bfloat16()}, views=("overlay", "cells"))
    heat = heatmaps.bfloat16().requires_grad_()
    drawn = figure(signals.requires_grad_(), {"CAM": heat}, views=("overlay", "cells"))
    assert to_png(drawn) == to_png(expected)
    assert to_png(figure(None, {"CAM": heat}, views=("overlay", "cells"), kind="signal"))


@pytest.mark.parametrize(
    ("images", "maps", "options", "message"),
    [
        (torch.full((1, 1, 9), torch.nan), torch.zeros(1, 9), {}, "are not finite; expected sig"),
        (torch.zeros(2, 1, 9), torch.full((2, 9), 3.0), {}, "heatmap has values from 3 to 3"),
        (np.zeros((2, 1, 9)), torch.zeros(2, 9), {"kind": "signal"}, r"ndarray; expected signals"),
        (torch.zeros(9), torch.zeros(9), {"kind": "signal"}, r"\(9,\); expected signals \(N, C, L"),
        (torch.zeros(2, 1, 9), torch.zeros(3, 9), {"kind": "signal"}, r"heatmaps \(N, L\) or attr"),
        (
            torch.zeros(2, 1, 9),
            torch.zeros(2, 1, 9),
            {},
            r"may be signals or one picture; pass kin",
        ),
        (torch.zeros(4, 9), torch.zeros(4, 9), {}, r"'a'\] of shape \(4, 9\) may be signals"),
        (
            torch.zeros(2, 1, 9),
            torch.zeros(2, 9),
            {"kind": "line"},
            "kind='line' is not known; use",
        ),
    ],
)
def test_signals_that_do_not_fit_are_refused(images, maps, options, message):
    with pytest.raises(InputError, match=message):
        figure(images, {"a": maps}, **options)
