"""Volumes and clips as slices, and pictures of many channels."""

import numpy as np
import pytest
import torch
from drawn import as_array, assert_apart, explanation, panels, texts

from camlib.errors import InputError
from camlib.visual import figure, overlay, to_image
from camlib.visual.volumes import chosen


@pytest.fixture
def volumes():
    return torch.rand(2, 3, 16, 6, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def heatmaps():
    """Hottest in the slices 11 and 2."""
    heat = torch.rand(2, 16, 6, 8, generator=torch.Generator().manual_seed(1)) * 0.9
    heat[0, 11, 2, 3] = heat[1, 2, 5, 0] = 1
    return heat


def test_slices_are_evenly_spaced_and_the_hottest_is_among_them():
    for depth in (1, 2, 7, 16):
        for count in (1, 3, 5, 20):
            for peak in range(depth):
                heat = torch.zeros(depth, 2, 2)
                heat[peak, 1, 0] = 0.1
                found = chosen([heat], count)
                assert peak in found and found == sorted(set(found))
                assert len(found) == min(count, depth)
    heat = torch.zeros(16, 2, 2)
    heat[8] = 1
    assert chosen([heat], 5) == [1, 4, 8, 11, 14]
    heat[9] = 2
    assert chosen([heat], 5) == [1, 4, 9, 11, 14]


def test_the_hottest_of_every_map_is_among_them():
    heats = [torch.zeros(16, 2, 2) for _ in range(4)]
    for heat, peak in zip(heats, (3, 5, 5, 15), strict=True):
        heat[peak, 0, 1] = 1
    assert chosen(heats, 5) == [3, 5, 8, 11, 15]
    assert chosen(heats, 1) == [3, 5, 15]
    attribution = torch.zeros(3, 16, 2, 2)
    attribution[1, 6] = -2
    attribution[2, 9] = 1
    assert chosen([attribution], 1) == [6]


def test_each_slice_is_a_row_with_the_overlay_of_that_slice(volumes, heatmaps):
    drawn = figure(volumes, {"CAM": heatmaps}, names=["a", "b"])
    shown = [(0, d) for d in (1, 4, 8, 11, 14)] + [(1, d) for d in (2, 4, 8, 11, 14)]
    assert len(panels(drawn)) == 2 * len(shown)
    for row, (i, d) in enumerate(shown):
        image, panel = panels(drawn)[2 * row : 2 * row + 2]
        assert np.array_equal(image, as_array(volumes[i, :, d]))
        assert np.array_equal(panel, as_array(overlay(volumes[i, :, d], heatmaps[i, d])))
    labels = [f"slice {d + 1} of 16" for _, d in shown]
    assert texts(drawn) == ["image", "CAM", *labels[:5], "a", *labels[5:], "b"]


def test_views_and_captions_of_slices(volumes, heatmaps):
    map = torch.rand(2, 4, 3, 2, generator=torch.Generator().manual_seed(2))
    seen = explanation(heatmap=heatmaps, map=map, size=(16, 6, 8))
    drawn = figure(volumes, {"CAM": seen}, slices=1, views=("emphasized", "cells"))
    for row, (i, d) in enumerate(((0, 11), (1, 2))):
        emphasized = overlay(volumes[i, :, d], heatmaps[i, d], emphasize=True)
        assert np.array_equal(panels(drawn)[4 * row + 1], as_array(emphasized))
        cells = (map[i] - map[i].min()) / (map[i].max() - map[i].min())
        cells = cells[d // 4].repeat_interleave(2, 0).repeat_interleave(4, 1)
        expected = overlay(volumes[i, :, d], cells, 1)
        assert np.array_equal(panels(drawn)[4 * row + 3], as_array(expected))
    assert texts(drawn)[2:5] == ["slice 12 of 16\nemphasized", "slice 12 of 16\ncells", "score 0"]


def test_labels_of_flat_slices_have_room():
    volume, heat = torch.zeros(1, 3, 16, 2, 40), torch.zeros(1, 16, 2, 40)
    drawn = figure(volume, {"CAM": heat}, views=("emphasized", "cells"))
    assert_apart(drawn)
    left = min(text.get_window_extent().x0 for text in drawn.texts)
    assert left > 0.05 * drawn.dpi


def test_coarse_maps_are_resized_in_three_dimensions(volumes):
    coarse = torch.tensor([0.0, 1.0])[None, :, None, None].expand(1, 2, 3, 4)
    drawn = figure(volumes[:1], {"CAM": coarse}, slices=16)
    for d in range(16):
        # A node is 8 slices deep, so between the nodes the heat grows by an eighth a slice.
        heat = torch.full((6, 8), min(max((d - 3.5) / 8, 0.0), 1.0))
        expected = as_array(overlay(volumes[0, :, d], heat))
        assert np.array_equal(panels(drawn)[2 * d + 1], expected)


@pytest.mark.slow
def test_attributions_of_a_volume_are_on_one_scale(volumes):
    attribution = torch.randn(2, 3, 16, 6, 8, generator=torch.Generator().manual_seed(3))
    attribution[:, :, 4] *= 1e-3
    for mode in ("centered", "diverging", "magnitude"):
        drawn = figure(volumes, {"saliency": attribution}, slices=16, mode=mode)
        sheet = to_image(attribution[1].reshape(3, 16 * 6, 8), mode).reshape(3, 16, 6, 8)
        for d in range(16):
            assert np.array_equal(panels(drawn)[32 + 2 * d + 1], sheet[:, d].permute(1, 2, 0))
        plain = panels(drawn)[32 + 2 * 4 + 1].astype(int)
        assert np.ptp(plain, axis=(0, 1)).max() <= 1


def test_volumes_alone_and_without_their_batch(volumes, heatmaps):
    drawn = figure(None, {"CAM": heatmaps}, kind="volume", slices=1)
    expected = overlay(torch.zeros(3, 6, 8), heatmaps[0, 11], 1)
    assert np.array_equal(panels(drawn)[0], as_array(expected))
    drawn = figure(volumes[0], {"CAM": heatmaps[0]}, kind="volume", slices=1)
    assert np.array_equal(panels(drawn)[0], as_array(volumes[0, :, 11]))


def grey(image):
    """The mean over the channels of ``(C, ...)``, from 0 to 1."""
    mean = image.mean(0)
    return (mean - mean.min()) / (mean.max() - mean.min())


def test_many_channels_are_seen_in_grey():
    images = torch.randn(2, 13, 6, 8, generator=torch.Generator().manual_seed(0)) * 50
    heat = torch.rand(2, 6, 8, generator=torch.Generator().manual_seed(1))
    attribution = torch.randn(2, 13, 6, 8, generator=torch.Generator().manual_seed(2))
    drawn = figure(images, {"CAM": heat, "guided": attribution})
    for row in range(2):
        image, over, signed = panels(drawn)[3 * row : 3 * row + 3]
        expected = grey(images[row]).expand(3, -1, -1)
        assert np.abs(image.astype(int) - as_array(expected)).max() <= 1
        assert np.abs(over.astype(int) - as_array(overlay(expected, heat[row]))).max() <= 1
        magnitude = to_image(attribution[row].abs().sum(0)[None], "magnitude")
        assert np.abs(signed.astype(int) - magnitude.permute(1, 2, 0).numpy()).max() <= 1
    diverging = figure(images, {"guided": attribution}, mode="diverging")
    expected = to_image(attribution[0], "diverging").permute(1, 2, 0)
    assert np.array_equal(panels(diverging)[1], expected)
    flat = panels(figure(torch.ones(4, 6, 8), {"CAM": heat[0]}))[0]
    assert (flat == 0).all()


def test_volumes_of_many_channels_are_seen_in_grey(heatmaps):
    volumes = torch.randn(2, 4, 16, 6, 8, generator=torch.Generator().manual_seed(0))
    drawn = figure(volumes, {"CAM": heatmaps}, slices=1)
    expected = as_array(grey(volumes[0])[11].expand(3, -1, -1))
    assert np.abs(panels(drawn)[0].astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("images", "maps", "options", "message"),
    [
        (torch.zeros(1, 1, 9, 4, 4), torch.zeros(1, 9, 4, 4), {"slices": 0}, "slices=0 is out of"),
        (torch.zeros(1, 9, 4, 4), torch.zeros(9, 4, 4), {}, r"pass images\[None\] for a volume"),
        (torch.zeros(2, 1, 9, 4, 4), torch.zeros(9, 4, 4), {}, r"expected heatmaps \(N, D, H, W\)"),
        (torch.zeros(1, 3, 4, 4), torch.zeros(1, 9, 4, 4), {}, "are not pictures, pass kind="),
        (
            torch.zeros(4, 4),
            torch.zeros(4, 4, 4),
            {"kind": "volume"},
            r"\(4, 4\); expected volumes",
        ),
        (
            torch.zeros(1, 1, 9, 4, 4),
            torch.zeros(1, 1, 3, 4, 4),
            {},
            r"attributions of shape \(1, 1, 3, 4, 4\) do not fit volumes of size \(9, 4, 4\)",
        ),
        (torch.ones(1, 1, 2, 4, 4) * 3, torch.zeros(1, 2, 4, 4), {}, "image has values from 3"),
        (
            torch.zeros(2, 1, 9, 4, 4),
            explanation(),
            {"kind": "volume"},
            r"'a'\] explains inputs of size \(12, 16\); expected an explanation of volumes",
        ),
    ],
)
def test_volumes_that_do_not_fit_are_refused(images, maps, options, message):
    with pytest.raises(InputError, match=message):
        figure(images, {"a": maps}, **options)
