"""Reading pictures of every kind, and the input that a transform makes of them."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image
from torch import nn
from torchvision.transforms import v2

import camlib
from camlib import CamlibWarning, GradCAM, InputError
from camlib.visual import colorize, figure, overlay, save_picture, to_image, to_png
from camlib.visual.reading import read

ROOT = Path(camlib.__file__).parents[1]
PLAIN = v2.Compose([v2.Resize((16, 16)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


@pytest.fixture
def ramp():
    """Values 0 to 1, 20 rows of 40."""
    return np.linspace(0, 1, 800).reshape(20, 40)


def pixels(path):
    return np.asarray(read(path)).astype(float)


def written(path, values, **options):
    Image.fromarray(values).save(path, **options)
    return path


def test_sixteen_bits(ramp, tmp_path):
    path = written(tmp_path / "x.png", (ramp * 65535).round().astype(np.uint16))
    assert np.abs(pixels(path) - 255 * ramp[..., None]).max() <= 0.5


def test_twelve_bits_in_sixteen(ramp, tmp_path):
    values = (ramp * 4095).round().astype(np.uint16)
    path = written(tmp_path / "x.png", values)
    with pytest.warns(CamlibWarning, match="16 bits up to 4095, and is read as 12 bits"):
        found = pixels(path)
    assert np.abs(found - values[..., None] / 4095 * 255).max() <= 0.5


@pytest.mark.parametrize("most", [1, 255])
def test_floating_point(ramp, tmp_path, most):
    path = written(tmp_path / "x.tif", (ramp * most).astype(np.float32))
    assert np.abs(pixels(path) - 255 * ramp[..., None]).max() <= 0.51


def test_integers_of_32_bits(ramp, tmp_path):
    path = written(tmp_path / "x.tif", (ramp * 65535).round().astype(np.int32))
    assert np.abs(pixels(path) - 255 * ramp[..., None]).max() <= 0.5
    with pytest.warns(CamlibWarning, match="32 bits up to 255, and is read as 8 bits"):
        found = pixels(written(path, (ramp * 255).round().astype(np.int32)))
    assert np.abs(found - 255 * ramp[..., None]).max() <= 0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[-3, 5]], np.int32), r"has integers from -3 to 5; expected .* \[0, 65535\]"),
        (np.array([[0, 70000]], np.int32), "has integers from 0 to 70000"),
        (np.array([[0.0, 300]], np.float32), r"floating point from 0 to 300; .* or \[0, 255\]"),
        (np.array([[0.0, np.nan]], np.float32), "has floating point from nan to nan"),
    ],
)
def test_values_without_a_known_range_are_refused(values, message, tmp_path):
    path = written(tmp_path / "x.tif", values)
    with pytest.raises(InputError, match=f"x.tif' cannot be read: image .*{message}"):
        read(path)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_transparent_parts_are_white(mode, tmp_path):
    image = Image.new("RGBA", (4, 2), (200, 10, 10, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    path = tmp_path / ("x.tif" if mode == "PA" else "x.png")
    if mode == "P":
        image = Image.new("P", (4, 2), 1)
        image.putpalette([0, 0, 0, 200, 10, 10])
        image.putpixel((0, 0), 0)
        image.save(path, transparency=0)
    elif mode == "PA":
        path = None
        found = np.asarray(camlib.load(image, PLAIN).pictures[0])
    else:
        image.convert(mode).save(path)
    found = np.asarray(read(path)) if path else found
    assert (found[0, 0] == 255).all()
    assert (found[1, 1] == (200, 10, 10)).all() or mode == "LA"


def test_palettes_with_transparency_in_bytes_say_nothing(tmp_path):
    image = Image.new("P", (4, 2), 1)
    image.putpalette([0, 0, 0, 200, 10, 10])
    image.save(tmp_path / "x.png", transparency=bytes([0, 255]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (np.asarray(read(tmp_path / "x.png"))[0, 0] == (200, 10, 10)).all()


@pytest.mark.parametrize("name", ["x.gif", "x.tif", "x.webp", "x.png"])
def test_first_of_several_frames_is_taken_and_said(name, tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    with pytest.warns(CamlibWarning, match=f"{name}' has 3 frames; only the first is used"):
        found = pixels(tmp_path / name)
    assert np.abs(found - (255, 0, 0)).max() < 5


def test_photo_of_a_phone_with_a_second_view_is_one_picture(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=frames[1:])
    assert np.abs(pixels(tmp_path / "x.jpg") - (255, 0, 0)).max() < 5


def test_large_pictures_are_read_without_a_warning_or_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    Image.new("RGB", (40, 20), "red").save(tmp_path / "x.png")
    assert read(tmp_path / "x.png").size == (40, 20)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with pytest.raises(InputError, match=r"x.png' has more pixels than Pillow's limit; .* = None"):
        read(tmp_path / "x.png")


@pytest.mark.parametrize("name", ["x.avif", "x.heic"])
def test_formats_of_phones(name, tmp_path):
    if name == "x.heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    elif ".avif" not in Image.registered_extensions():
        pytest.skip("this Pillow reads no AVIF")
    Image.new("RGB", (32, 16), (200, 10, 10)).save(tmp_path / name)
    assert np.abs(pixels(tmp_path / name) - (200, 10, 10)).max() < 12


def test_heic_without_its_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "x.heic").write_bytes(b"some")
    with pytest.raises(
        InputError, match=r"is HEIC, .* pip install pillow-heif, or save the picture as JP"
    ):
        read(tmp_path / "x.heic")


def test_no_program_is_started_for_postscript_by_any_name(tmp_path, monkeypatch):
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch '{tmp_path / 'started'}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # looked for again
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", "EPS")
    with pytest.raises(InputError, match=r"x.png' cannot be read .*; expected a picture such as"):
        read(tmp_path / "x.png")
    assert not (tmp_path / "started").exists()


def test_files_that_hold_no_picture_are_refused(tmp_path):
    (tmp_path / "x.png").write_text("no picture")
    with pytest.raises(InputError, match=r"x.png' cannot be read .*; expected a picture such as"):
        read(tmp_path / "x.png")
    with pytest.raises(InputError, match=r"y.png' does not exist; check the path"):
        camlib.load(str(tmp_path / "y.png"), PLAIN)
    with pytest.raises(InputError, match="is a folder; pass the files in it"):
        camlib.load(tmp_path, PLAIN)


def test_file_becomes_an_upright_picture_and_an_input(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20), "red").save(tmp_path / "x.jpg", exif=exif)
    photo = camlib.load(tmp_path / "x.jpg", PLAIN)
    [picture], [placement] = photo.pictures, photo.placements
    assert picture.size == (20, 40)
    assert placement.box == (0, 0, 20, 40)
    assert photo.inputs.shape == (1, 3, 16, 16)
    assert torch.equal(photo.inputs[0], PLAIN(picture))
    assert len(photo) == 1
    assert repr(photo) == "Photos(20 x 40; inputs: a float32 tensor of shape (1, 3, 16, 16))"
    assert photo.to("meta").inputs.is_meta


def test_several_photos_are_one_batch(tmp_path):
    sizes = [(40, 20), (30, 30), (40, 20)]
    photos = [Image.new("RGB", size, "red") for size in sizes]
    photos[1].save(tmp_path / "x.png")
    loaded = camlib.load([photos[0], tmp_path / "x.png", np.array(photos[2])], PLAIN)
    assert loaded.inputs.shape == (3, 3, 16, 16)
    heatmaps = torch.rand(3, 16, 16)
    found = overlay(loaded, heatmaps)
    assert [type(each) for each in found] == [Image.Image, Image.Image, np.ndarray]
    for picture, photo, heatmap in zip(found, photos, heatmaps, strict=True):
        assert np.array_equal(picture, overlay(photo, heatmap, fit="stretch"))
    [one] = overlay(camlib.load([photos[0]], PLAIN), heatmaps[:1])
    assert np.array_equal(one, found[0])
    keep = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    with pytest.raises(InputError, match=r"makes inputs of shapes \(3, 20, 40\), \(3, 30, 30\), "):
        camlib.load(photos, keep)
    with pytest.raises(InputError, match="photo is an empty list"):
        camlib.load([], PLAIN)


def test_processors_make_a_batch_of_their_own():
    transformers = pytest.importorskip("transformers")
    processor = transformers.ViTImageProcessor()
    photos = [Image.new("RGB", (40, 20), "red"), Image.new("RGB", (30, 30), "blue")]
    loaded = camlib.load(photos, processor)
    assert loaded.inputs["pixel_values"].shape == (2, 3, 224, 224)
    assert loaded.to("meta").inputs["pixel_values"].is_meta


def test_transform_that_makes_no_tensor_is_refused():
    photo = Image.new("RGB", (40, 20))
    for transform, kind in (
        (v2.Resize(16), "Image"),
        (v2.Compose([v2.Resize(16), v2.ToImage()]), "a uint8 tensor of shape"),
    ):
        with pytest.raises(InputError, match=f"returns {kind}.*; expected the model's input, a fl"):
            camlib.load(photo, transform)


def test_arrays_that_a_transform_returns_have_their_channels_put_first():
    photo = Image.new("RGB", (40, 20), "red")
    loaded = camlib.load(photo, lambda image: np.asarray(image, np.float32) / 255)
    assert loaded.inputs.shape == (1, 3, 20, 40)


# What is no heatmap and no picture, by every way in.

FLAT, NAN = torch.full((8, 8), 2.5), torch.full((8, 8), torch.nan)
PHOTO = Image.new("RGB", (8, 8))
WAYS = {
    "overlay": lambda heat: overlay(PHOTO, heat),
    "figure": lambda heat: figure(PHOTO, {"CAM": heat[None]}),
    "emphasized": lambda heat: figure(PHOTO, {"CAM": heat[None]}, views=("emphasized",)),
    "cells": lambda heat: figure(PHOTO, {"CAM": heat[None]}, views=("cells",)),
    "colorize": colorize,
    "list": lambda heat: overlay([PHOTO], heat[None]),
}


@pytest.mark.parametrize("way", WAYS)
def test_advice_works_by_every_way(way):
    heatmap = torch.linspace(-3, 9, 64).reshape(8, 8)
    for heat, advised, advice in (
        (heatmap, (heatmap - heatmap.min()) / (heatmap.max() - heatmap.min()), "normalise it fir"),
        (FLAT, FLAT.clamp(0, 1), r"it is constant: pass heatmap.clamp\(0, 1\)"),
        (NAN, NAN.nan_to_num(0, 1, 0).clamp(0, 1), r"heatmap.nan_to_num\(0, 1, 0\).clamp\(0, 1\)"),
    ):
        with pytest.raises(InputError, match=f"heatmap has values from .*{advice}"):
            WAYS[way](heat)
        WAYS[way](advised)


def test_maps_with_an_axis_for_their_channel():
    heat = np.linspace(0, 1, 64).reshape(8, 8, 1)
    assert np.array_equal(overlay(PHOTO, heat), overlay(PHOTO, heat[..., 0]))
    assert np.array_equal(overlay(PHOTO, torch.tensor(heat)), overlay(PHOTO, heat[..., 0]))


def test_colour_maps_as_objects():
    heat = torch.linspace(0, 1, 64).reshape(8, 8)
    for name in ("viridis", "tab10"):
        chosen = matplotlib.colormaps[name]
        assert np.array_equal(overlay(PHOTO, heat, 1, chosen), overlay(PHOTO, heat, 1, name))
        assert torch.equal(colorize(heat, chosen), colorize(heat, name))
        signed = torch.randn(3, 8, 8)
        assert torch.equal(
            to_image(signed, "diverging", colormap=chosen),
            to_image(signed, "diverging", colormap=name),
        )
        figure(PHOTO, {"CAM": heat[None]}, colormap=chosen)


def test_lists_of_pictures_need_a_map_each():
    with pytest.raises(InputError, match=r"heatmap is a float32 tensor .*; expected one for each"):
        overlay([PHOTO, PHOTO], torch.rand(3, 8, 8))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(128, 2))
    seen = GradCAM(model, "0").explain(torch.rand(2, 3, 8, 8), 1, relu=False)
    for picture, alone in zip(seen.overlay([PHOTO, PHOTO]), seen.heatmap, strict=True):
        assert np.array_equal(picture, overlay(PHOTO, alone))


SETTINGS = {
    "image.origin": "lower",
    "savefig.dpi": 30,
    "savefig.bbox": "tight",
    "savefig.facecolor": "red",
    "figure.dpi": 40,
    "figure.facecolor": "red",
    "text.usetex": True,
    "text.color": "yellow",
    "font.size": 30,
    "image.interpolation": "bicubic",
    "figure.constrained_layout.use": True,
    "axes.facecolor": "green",
}


def test_settings_of_the_user_change_nothing(tmp_path):
    heat = torch.linspace(0, 1, 64).reshape(8, 8)

    def drawn():
        return figure(PHOTO, {"CAM": heat[None]}, names=["name"])

    expected = to_png(drawn())
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context(SETTINGS):
        assert to_png(drawn()) == expected
        save_picture(drawn(), tmp_path / "x.png")
        drawn().savefig(tmp_path / "y.png")
    assert dict(matplotlib.rcParams) == before
    for name in ("x.png", "y.png"):
        assert (tmp_path / name).read_bytes() == expected


def test_backend_that_is_none(tmp_path):
    code = (
        "import torch, camlib, os; from PIL import Image\n"
        "photo, heat = Image.new('RGB', (8, 8)), torch.rand(1, 8, 8)\n"
        "camlib.overlay(photo, heat)\n"
        "camlib.visual.save_picture(camlib.figure(photo, {'CAM': heat}), 'x.png')\n"
        "print(os.environ['MPLBACKEND'])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "nonsense", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "nonsense\n", "")


def test_letters_that_no_font_has_are_said_in_one_line(monkeypatch):
    from camlib.visual import style

    heat = torch.rand(1, 8, 8)
    figure(PHOTO, {"CAM": heat}, names=["Füße, žába"])
    monkeypatch.setattr(style, "_EASTERN", ())
    with pytest.warns(CamlibWarning, match=r"no font of this system has '犬', .* as boxes") as said:
        drawn = figure(PHOTO, {"CAM": heat}, names=["犬"])
        to_png(drawn)
        to_png(figure(PHOTO, {"CAM": heat}, names=["dog"]))
    assert len(said) == 1


def test_fonts_with_eastern_letters_are_used_where_there_are(monkeypatch):
    from matplotlib.font_manager import fontManager

    from camlib.visual import style

    # Any other font that is there stands in for one of Chinese.
    other = next(font.name for font in fontManager.ttflist if font.name == "STIXGeneral")
    monkeypatch.setattr(style, "_EASTERN", (other, "Noto Sans CJK SC of nowhere"))
    with style.house_style():
        assert matplotlib.rcParams["font.family"] == ["DejaVu Sans", other]
