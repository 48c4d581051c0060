"""Overlays, colours and attributions as pictures."""

import math
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from camlib.errors import InputError
from camlib.visual import colorize, overlay, to_image


@pytest.fixture
def image():
    return torch.randint(0, 256, (3, 6, 8), dtype=torch.uint8, generator=seeded())


@pytest.fixture
def heatmap():
    return torch.rand(6, 8, generator=seeded())


def seeded():
    return torch.Generator().manual_seed(0)


def jet(heatmap):
    """What matplotlib itself makes of `heatmap`, as (3, H, W)."""
    colors = matplotlib.colormaps["jet"](heatmap.numpy())[..., :3]
    return torch.from_numpy(colors).float().movedim(-1, -3)


def test_blend_is_as_documented(image, heatmap):
    expected = 0.7 * (image / 255) + 0.3 * jet(heatmap)
    torch.testing.assert_close(overlay(image / 255, heatmap, 0.3), expected)


def test_transparent_colours_return_the_image(image, heatmap):
    assert torch.equal(overlay(image, heatmap, 0), image)
    assert torch.equal(overlay(image / 255, heatmap, 0), image / 255)


def test_opaque_colours_are_those_of_matplotlib(image, heatmap):
    torch.testing.assert_close(overlay(image / 255, heatmap, 1), jet(heatmap))
    ends = torch.tensor([[0.0, 1.0]])
    assert colorize(ends).squeeze(1).T.tolist() == [[0, 0, 0.5], [0.5, 0, 0]]


def test_any_colour_map_of_matplotlib(heatmap):
    for name in ("viridis", "tab10", "gist_rainbow"):
        expected = matplotlib.colormaps[name](heatmap.numpy())[..., :3]
        torch.testing.assert_close(
            colorize(heatmap, name), torch.from_numpy(expected).float().movedim(-1, 0)
        )


def test_colours_keep_leading_axes(heatmap):
    batch = heatmap.expand(2, 5, 6, 8)
    assert colorize(batch).shape == (2, 5, 3, 6, 8)
    assert torch.equal(colorize(batch)[1, 4], colorize(heatmap))


def test_dark_image_stays_dark():
    dark = torch.full((3, 4, 4), 0.1)
    assert overlay(dark, torch.zeros(4, 4), 0).max() == dark.max()
    # Half of 0.1 and half of jet's darkest blue, (0, 0, 0.5).
    picture = overlay(dark, torch.zeros(4, 4))
    torch.testing.assert_close(picture[:, 0, 0], torch.tensor([0.05, 0.05, 0.3]))


def test_emphasis_is_the_logistic_function():
    heatmap = torch.tensor([[0.0, 0.45, 0.5, 0.52, 1.0]])
    emphasized = torch.tensor([[1 / (1 + math.exp(-50 * (h - 0.5))) for h in heatmap[0].tolist()]])
    black = torch.zeros(3, 1, 5)
    torch.testing.assert_close(overlay(black, heatmap, 1, emphasize=True), jet(emphasized))


def test_image_shows_through_below_the_threshold(image):
    heatmap = torch.tensor([0.2, 0.5, 0.8]).repeat_interleave(2).expand(6, 6)
    image = image[..., :6]
    picture = overlay(image, heatmap, threshold=0.5)
    assert torch.equal(picture[..., :2], image[..., :2])
    assert torch.equal(picture[..., 2:], overlay(image, heatmap)[..., 2:])
    emphasized = overlay(image, heatmap, threshold=0.9, emphasize=True)
    assert torch.equal(emphasized[..., :4], image[..., :4])
    assert (emphasized[..., 4:] != image[..., 4:]).any()


def test_small_heatmap_is_resized_bilinearly(image):
    # A node is 4 pixels wide, so the pixels of the inner half lie at 1/8, 3/8, 5/8, 7/8 between.
    wide = overlay(image / 255, torch.tensor([[0.0, 1.0]]), 1)
    expected = torch.tensor([0, 0, 1 / 8, 3 / 8, 5 / 8, 7 / 8, 1, 1]).expand(6, 8)
    torch.testing.assert_close(wide, jet(expected))


def test_all_kinds_give_the_same_picture(image, heatmap):
    expected = overlay(image, heatmap)
    array = image.permute(1, 2, 0).numpy()
    for kind in (np.asarray, Image.fromarray):
        picture = overlay(kind(array), heatmap.numpy())
        assert np.array_equal(np.asarray(picture), expected.permute(1, 2, 0))
    assert overlay(Image.fromarray(array), heatmap).mode == "RGB"
    for dtype in (np.float16, np.float32, np.float64):
        picture = overlay((array / 255).astype(dtype), heatmap)
        assert picture.dtype == dtype and picture.shape == (6, 8, 3)
        np.testing.assert_allclose(picture, expected.permute(1, 2, 0) / 255, atol=0.003)
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        picture = overlay((image / 255).to(dtype), heatmap.to(dtype))
        assert picture.dtype == dtype and picture.shape == (3, 6, 8)
        difference = (picture.float() - expected / 255).abs()
        # Half a step of 8 bits, and a step of the colour map where the heatmap itself is rounded.
        assert difference.max() < (0.02 if dtype in (torch.bfloat16, torch.float16) else 0.003)


def test_grey_images_become_coloured(image, heatmap):
    grey = image[:1]
    expected = overlay(grey.expand(3, -1, -1), heatmap)
    assert torch.equal(overlay(grey, heatmap), expected)
    array = grey[0].numpy()
    for picture in (array, array[..., None], Image.fromarray(array)):
        assert np.array_equal(np.asarray(overlay(picture, heatmap)), expected.permute(1, 2, 0))


def test_pil_images_of_any_mode_become_rgb(image, heatmap):
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV"):
        converted = picture.convert(mode)
        result = overlay(converted, heatmap, 0)
        assert result.mode == "RGB"
        assert np.array_equal(result, converted.convert("RGB"))


def test_16_bit_image_keeps_its_range(heatmap):
    values = np.arange(48, dtype=np.uint16).reshape(6, 8) * 257
    result = overlay(Image.fromarray(values), heatmap, 0)
    assert np.array_equal(np.asarray(result)[..., 0], values // 257)


def test_batch_equals_each_image_alone(image, heatmap):
    images = torch.stack([image, image.flip(1)])
    heatmaps = torch.stack([heatmap, 1 - heatmap])
    together = overlay(images, heatmaps)
    assert torch.equal(together[0], overlay(image, heatmap))
    assert torch.equal(together[1], overlay(image.flip(1), (1 - heatmap)[None]))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_volume_is_the_overlay_of_each_slice(dtype):
    volumes = torch.randint(0, 256, (2, 3, 5, 6, 8), dtype=torch.uint8, generator=seeded())
    volumes = volumes if dtype == torch.uint8 else volumes / 255
    heatmaps = torch.rand(2, 5, 6, 8, generator=seeded())
    for channels in (1, 3):
        for options in ({}, {"alpha": 0.2, "emphasize": True}, {"threshold": 0.5}):
            found = overlay(volumes[:, :channels], heatmaps, **options)
            assert found.shape == (2, 3, 5, 6, 8) and found.dtype == dtype
            for i in range(2):
                for d in range(5):
                    slice = volumes[i, :channels, d]
                    assert torch.equal(found[i, :, d], overlay(slice, heatmaps[i, d], **options))
    one = overlay(volumes[:1], heatmaps[0])
    assert torch.equal(one, overlay(volumes[:1], heatmaps[:1]))


def test_small_heatmap_of_a_volume_is_resized_in_depth():
    heat = torch.tensor([0.0, 1.0])[None, :, None, None]
    deep = overlay(torch.zeros(1, 3, 8, 2, 2), heat, 1)
    expected = torch.tensor([0, 0, 1 / 8, 3 / 8, 5 / 8, 7 / 8, 1, 1])[None, :, None, None]
    torch.testing.assert_close(deep, jet(expected.expand(1, 8, 2, 2)).movedim(2, 1))


@pytest.mark.parametrize(
    ("shape", "size"), [((2, 1, 9), (2, 9)), ((1, 4, 9), (1, 9)), ((4, 9), (9,)), ((4, 9), (1, 9))]
)
def test_signal_is_referred_to_the_figure(shape, size):
    with pytest.raises(InputError, match=r"is a signal, .* line: camlib.visual.figure\(image, {'h"):
        overlay(torch.zeros(shape), torch.zeros(size))


def test_arguments_stay_untouched_and_the_result_has_no_graph(image, heatmap):
    pixels = (image / 255).requires_grad_()
    heat = heatmap.clone().requires_grad_()
    before = pixels.detach().clone()
    assert not overlay(pixels, heat, threshold=0.3, emphasize=True).requires_grad
    assert torch.equal(pixels, before) and torch.equal(heat, heatmap)


def test_arrays_that_torch_cannot_share(image, heatmap):
    array = image.permute(1, 2, 0).numpy().copy()
    array.flags.writeable = False
    flipped = heatmap.numpy()[::-1]
    expected = overlay(image, heatmap.flip(0)).permute(1, 2, 0)
    assert np.array_equal(overlay(array, flipped), expected)


def test_rounding_beyond_the_range_is_clipped(image, heatmap):
    beyond = heatmap.clamp(0.1, 0.9)
    beyond[0, 0], beyond[0, 1] = -5e-4, 1 + 5e-4
    clipped = overlay(image, beyond.clamp(0, 1))
    assert torch.equal(overlay(image, beyond), clipped)
    assert torch.equal(overlay(image, beyond, threshold=0), clipped)
    ends = torch.tensor([-5e-4, 1 + 5e-4]).expand(3, 1, 2)
    assert torch.equal(overlay(ends, torch.zeros(1, 2), 0), ends.clamp(0, 1))


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        ("photo.jpg", "image is of type 'str'; expected a tensor, a NumPy array or a PIL image"),
        (torch.ones(4, 4), r"tensor of shape \(4, 4\); expected .*; pass image\[None\]"),
        (torch.ones(4, 5, 3), r"\(4, 5, 3\); .* channels are last: pass image.permute\(2, 0, 1\)"),
        (torch.ones(2, 4, 5, 3), r"channels are last: pass image.permute\(0, 3, 1, 2\)"),
        (torch.ones(7, 4, 5), r"\(7, 4, 5\); .* to show: image\[\[3, 2, 1\]\]$"),
        (torch.ones(2, 13, 4, 5), r"to show: image\[:, \[3, 2, 1\]\]$"),
        (torch.ones(2, 2, 4, 5), r"select the channels to show: image\[:, \[0\]\]$"),
        (torch.ones(1, 9, 4, 5), r"\]\]; for one volume or clip pass image\[None\]"),
        (torch.ones(2, 4, 9, 4, 5), r"\(N, C, D, H, W\) with .*: image\[:, \[3, 2, 1\]\]$"),
        (torch.ones(2, 9, 4, 5, 3), r"channels are last: pass image.permute\(0, 4, 1, 2, 3\)"),
        (torch.ones(5), r"of shape \(5,\); .* with 1 or 3 channels; pass a batch of one of"),
        (torch.ones(3, 0, 5), r"image of shape \(1, 3, 0, 5\) is empty; expected pixels"),
        (torch.ones(3, 4, 4, dtype=torch.bool), "dtype 'torch.bool'; expected uint8, or floating"),
        (torch.ones(3, 4, 4, dtype=torch.int64), "dtype 'torch.int64'; .*; convert it, and divide"),
        (np.ones((4, 4), bool), "dtype 'bool'; expected uint8, or floating point"),
        (np.ones((3, 4, 5)), r"channels are first: pass image.transpose\(1, 2, 0\)"),
        (np.ones((4, 5, 4)), r"\(4, 5, 4\); .* alpha channel: pass image\[..., :3\]"),
        (np.ones((2, 4, 5, 3)), r"array of shape \(2, 4, 5, 3\); .* one at a time"),
        (
            np.ones((4, 5, 7)),
            r"\(4, 5, 7\); expected \(H, W\) .* to show: image\[..., \[3, 2, 1\]\]",
        ),
        (torch.ones(3, 4, 4) * 2.5, r"image has values from 2.5 to 2.5; .* undo the normalis"),
        (torch.ones(3, 4, 4) * 255, "from 255 to 255; .* divide values up to 255 by 255"),
        (torch.full((3, 4, 4), torch.nan), "image has values from nan to nan; expected finite"),
        (
            Image.new("F", (4, 4), 300.0),
            r"floating point from 300 to 300; expected values in \[0, 1\] or \[0, 255\]; scale",
        ),
    ],
)
def test_what_is_no_picture_is_refused(picture, message):
    with pytest.raises(InputError, match=message):
        overlay(picture, torch.zeros(4, 4))


@pytest.mark.parametrize(
    ("count", "heatmap", "message"),
    [
        (1, [[0.5]], "heatmap is of type 'list'; expected a tensor or a NumPy array"),
        (1, torch.ones(4, 4).long(), "heatmap has dtype 'torch.int64'; expected floating point"),
        (1, np.ones((4, 4), np.uint8), "heatmap has dtype 'uint8'; .* divide values up to 255"),
        (1, torch.ones(5, 4, 4), r"\[overlay\(image, heatmap\[k\]\) for k in range\(5\)\]"),
        (2, torch.ones(2, 5, 4, 4), r"several maps .* heatmap\[:, k\]\) for k in range\(5\)"),
        (2, torch.ones(4, 4), r"\(4, 4\) does not fit 2 image\(s\); expected \(2, H, W\)"),
        (2, torch.ones(3, 4, 4), r"\(3, 4, 4\) does not fit 2 image\(s\)"),
        (1, torch.ones(4), r"\(4,\) does not fit 1 image"),
        (1, torch.ones(0, 4), r"\(0, 4\) does not fit 1 image"),
        (1, torch.tensor([[-1.0, 3.0]]), "heatmap has values from -1 to 3; .* normalise it"),
        (1, torch.tensor([[0.0, torch.nan]]), "heatmap has values from nan to nan"),
        (1, torch.tensor([[0.0, torch.inf]]), "heatmap has values from 0 to inf"),
    ],
)
def test_heatmap_that_does_not_fit_is_refused(count, heatmap, message):
    with pytest.raises(InputError, match=message):
        overlay(torch.zeros(count, 3, 4, 4), heatmap)


@pytest.mark.parametrize(
    ("heatmap", "message"),
    [
        (torch.ones(2, 3, 4, 4), r"several maps .* heatmap\[k\]\) for k in range\(2\)"),
        (torch.ones(1, 5, 3, 4, 4), r"several maps .* heatmap\[:, k\]\) for k in range\(5\)"),
        (torch.ones(4, 4), r"\(4, 4\) does not fit 1 image\(s\); expected \(1, D, H, W\)"),
    ],
)
def test_heatmap_that_does_not_fit_a_volume_is_refused(heatmap, message):
    with pytest.raises(InputError, match=message):
        overlay(torch.zeros(1, 3, 3, 4, 4), heatmap)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5}, "alpha=1.5 is out of range; expected a number from 0 up to 1"),
        ({"alpha": math.nan}, "alpha=nan is not finite"),
        ({"threshold": -0.1}, "threshold=-0.1 is out of range"),
        ({"colormap": "virdis"}, "colormap 'virdis' not found; did you mean 'viridis'?"),
        ({"colormap": "?"}, r"colormap '\?' not found; use a name in matplotlib.colormaps"),
    ],
)
def test_options_out_of_range_are_refused(image, heatmap, options, message):
    with pytest.raises(InputError, match=message):
        overlay(image, heatmap, **options)


def test_centered_view_is_as_documented():
    attribution = (
        torch.randn(2, 3, 5, 7, generator=seeded())
        * torch.tensor([0.01, 30.0])[:, None, None, None]
    )
    views = to_image(attribution)
    assert views.dtype == torch.uint8 and views.shape == (2, 3, 5, 7)
    for one, view in zip(attribution.double().numpy(), views.numpy(), strict=True):
        expected = (0.1 * (one - one.mean()) / (one.std() + 1e-5) + 0.5).clip(0, 1) * 255
        assert np.abs(view - expected).max() < 0.501


def test_diverging_view_has_white_at_zero_and_the_colours_at_the_ends():
    attribution = torch.tensor([-2.0, 0, 2, -9, 9]).expand(1, 1, 5)
    view = to_image(attribution, "diverging", percentile=50, colormap="bwr")
    blue, white, red = [0, 0, 255], [255, 255, 255], [255, 0, 0]
    assert view[:, 0].T.tolist() == [blue, white, red, blue, red]
    seismic = to_image(attribution, "diverging")[:, 0].T.tolist()
    assert seismic[1] == white and seismic[3:] == [[0, 0, 76], [128, 0, 0]]


def test_diverging_view_sums_over_channels():
    attribution = torch.randn(5, 4, 4, generator=seeded())
    summed = to_image(attribution.sum(0, keepdim=True), "diverging")
    assert torch.equal(to_image(attribution, "diverging"), summed)


def test_magnitude_view_is_black_at_zero_and_white_at_the_end():
    attribution = torch.tensor([[[0.0, -2, 1, 0]], [[0, 2, -1, 0]]])
    view = to_image(attribution, "magnitude", percentile=100)
    assert view[:, 0].T.tolist() == [[0] * 3, [255] * 3, [128] * 3, [0] * 3]


def test_volume_is_scaled_as_one():
    volume = torch.randn(2, 3, 4, 5, 6, generator=seeded())
    for mode in ("centered", "diverging", "magnitude"):
        sheet = to_image(volume.reshape(2, 3, 20, 6), mode).reshape(2, 3, 4, 5, 6)
        assert torch.equal(to_image(volume, mode), sheet)


def test_scale_is_the_percentile_of_each_image():
    attribution = torch.arange(1.0, 101).reshape(1, 1, 10, 10)
    both = torch.cat([attribution, attribution * 1e-20])
    views = to_image(both, "diverging", percentile=50, colormap="bwr")
    assert torch.equal(views[0], views[1])
    # Red without any white from the fiftieth value on.
    assert (views[0, 1].flatten() == 0).sum() == 51


def test_flat_and_sparse_attributions_are_plain():
    for constant in (0, 1e-30, 1000.1, -3e30):
        assert (to_image(torch.full((3, 224, 224), constant)) == 128).all()
    assert (to_image(torch.zeros(3, 4, 4), "diverging") == 255).all()
    assert (to_image(torch.zeros(3, 4, 4), "magnitude") == 0).all()
    sparse = torch.zeros(1, 20, 20)
    sparse[0, 3, 4] = 0.5
    assert to_image(sparse, "magnitude").sum() == 3 * 255


def test_array_attributions_equal_tensors():
    attribution = torch.randn(3, 4, 5, generator=seeded())
    for mode in ("centered", "diverging", "magnitude"):
        array = to_image(attribution.permute(1, 2, 0).numpy(), mode)
        assert array.dtype == np.uint8
        assert np.array_equal(array, to_image(attribution, mode).permute(1, 2, 0))
    grey = to_image(attribution[0].numpy())
    assert np.array_equal(grey, to_image(attribution[:1]).permute(1, 2, 0))


@pytest.mark.parametrize(
    ("attribution", "options", "message"),
    [
        (torch.ones(3, 4, 4), {"mode": "centred"}, "mode='centred' is not known; use 'centered'"),
        (torch.ones(3, 4, 4), {"percentile": 0}, "percentile=0 is out of range; expected"),
        (torch.ones(5, 4, 4), {}, "5 channels; .* use mode='diverging'"),
        ([1.0], {}, "attribution is of type 'list'; expected a tensor or a NumPy array"),
        (torch.ones(4, 4), {}, r"shape \(4, 4\) cannot be shown; expected \(C, H, W\)"),
        (np.ones((2, 3, 4, 4)), {}, r"cannot be shown; expected \(H, W\) or \(H, W, C\)"),
        (torch.ones(3, 0, 4), {}, r"shape \(3, 0, 4\) cannot be shown"),
        (torch.ones(4, 5, 3), {"mode": "diverging"}, "has its channels at the wrong end; expec"),
        (np.ones((3, 4, 5)), {"mode": "diverging"}, "has its channels at the wrong end; expected"),
        (torch.full((3, 4, 4), torch.inf), {}, r"\(3, 4, 4\) has values that are not finite"),
    ],
)
def test_attribution_that_cannot_be_shown_is_refused(attribution, options, message):
    with pytest.raises(InputError, match=message):
        to_image(attribution, **options)


def test_import_loads_nothing_heavy():
    script = (
        "import sys, torch; before = set(sys.modules); import camlib.visual; "
        "print({m.split('.')[0] for m in set(sys.modules) - before} - {'camlib'})"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    for heavy in ("cv2", "matplotlib", "PIL", "torchvision"):
        assert heavy not in run.stdout


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_pictures_stay_there_and_equal_the_cpu(image, heatmap):
    for picture, tolerance in ((image, 1), (image / 255, 0.01)):
        on_device = overlay(picture.cuda(), heatmap.cuda(), emphasize=True, threshold=0.2)
        assert on_device.is_cuda
        expected = overlay(picture, heatmap, emphasize=True, threshold=0.2).float()
        # Rounding may put a value into the next step of the colour map.
        torch.testing.assert_close(on_device.cpu().float(), expected, atol=tolerance, rtol=0)
    assert to_image(image.cuda().float(), "diverging").is_cuda


@pytest.mark.parametrize("options", [{}, {"alpha": 0.3, "threshold": 0.4}])
def test_eight_bits_are_blended_as_their_fractions_and_rounded(options):
    """Also where there are more images than are blended at once."""
    stored = torch.randint(0, 256, (9, 3, 300, 200), dtype=torch.uint8, generator=seeded())
    heatmaps = torch.rand(9, 300, 200, generator=seeded())
    found = overlay(stored, heatmaps, **options)
    assert found.dtype == torch.uint8
    exact = 255 * overlay(stored.double() / 255, heatmaps.double(), **options)
    assert (found - exact).abs().max() <= 0.5 + 1e-4


def test_half_precision_is_blended_in_single_and_rounded_once():
    images = torch.rand(2, 3, 6, 8, generator=seeded()).half()
    heatmaps = torch.rand(2, 6, 8, generator=seeded())
    assert torch.equal(overlay(images, heatmaps), overlay(images.float(), heatmaps).half())
