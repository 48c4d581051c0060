"""Files as people have them, in one folder, in one call: each is explained or refused in a line."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from command import SCENE, invoke
from PIL import Image

from camlib.visual.pictures import to_array

ARRAY = to_array(SCENE.image)
PICTURE = Image.fromarray(ARRAY)
GREY = np.asarray(PICTURE.convert("L"))
CROSS = "cross"
"""What the network says of the scene."""


def saved(picture=PICTURE, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(kind="JPEG", exif=exif, quality=95)


def clear():
    layer = PICTURE.copy()
    layer.putalpha(255)
    return layer


def frames(kind):
    return saved(kind=kind, save_all=True, append_images=[Image.new("RGB", (128, 128), "red")])


def claiming(width, height):
    """A PNG that says it is so large, and ends there."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    values = b"IDAT" + zlib.compress(b"")
    chunks = [
        struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each))
        for each in (head, values)
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


DEEP = Image.fromarray(GREY.astype(np.uint16) * 257)
TWELVE = Image.fromarray((GREY.astype(np.uint16) * 16).clip(0, 4095))
FLOATS = Image.fromarray(GREY.astype(np.float32) / 255)
LARGE = Image.fromarray(GREY.astype(np.float32) * 1000)
UNKNOWN = Image.fromarray(np.full((128, 128), np.nan, np.float32))
COUNTS = Image.fromarray(GREY.astype(np.int32))

FILES = {
    "plain.png": (saved(), CROSS),
    "photo.jpg": (saved(kind="JPEG", quality=95), CROSS),
    "CAPITALS.JPG": (saved(kind="JPEG", quality=95), CROSS),
    "progressive.jpeg": (saved(kind="JPEG", quality=95, progressive=True), CROSS),
    "print.jpg": (saved(PICTURE.convert("CMYK"), "JPEG", quality=95), ""),
    "turned.jpg": (turned(6), ""),
    "mirrored.jpg": (turned(2), ""),
    "web.webp": (saved(kind="WEBP", lossless=True), CROSS),
    "bitmap.bmp": (saved(kind="BMP"), CROSS),
    "portable.ppm": (saved(kind="PPM"), CROSS),
    "scan.tif": (saved(kind="TIFF"), CROSS),
    "packed.tiff": (saved(kind="TIFF", compression="tiff_lzw"), CROSS),
    "film.gif": (frames("GIF"), ""),
    "pages.tif": (frames("TIFF"), CROSS),
    "grey.png": (saved(PICTURE.convert("L")), ""),
    "two colours.png": (saved(PICTURE.convert("1")), ""),
    "palette.png": (saved(PICTURE.quantize(256)), ""),
    "clear.png": (saved(clear()), CROSS),
    "grey and clear.png": (saved(clear().convert("LA")), ""),
    "deep.png": (saved(DEEP), ""),
    "twelve.png": (saved(TWELVE), ""),
    "floats.tif": (saved(FLOATS, "TIFF"), ""),
    "counts.tif": (saved(COUNTS, "TIFF"), ""),
    "small.png": (saved(PICTURE.resize((3, 5))), ""),
    "one pixel.png": (saved(Image.new("RGB", (1, 1))), "error: has 1 x 1 (height x width) pix"),
    "wide.png": (saved(PICTURE.resize((700, 20))), ""),
    "wrong ending.png": (saved(kind="JPEG", quality=95), CROSS),
    "name with 犬 and spaces.png": (saved(), CROSS),
    "$100 {x} %s.png": (saved(), CROSS),
    "-dash.png": (saved(), CROSS),
    "raw values.tif": (saved(LARGE, "TIFF"), "error: image has floating point from"),
    "unknown.tif": (saved(UNKNOWN, "TIFF"), "error: image has floating point from nan"),
    "empty.png": (b"", "error: cannot be read"),
    "text.png": (b"no picture", "error: cannot be read"),
    "torn.png": (saved()[:999], "error: cannot be read"),
    "page.jpg": (b"<!DOCTYPE html><html></html>", "error: cannot be read"),
    "pointer.jpg": (b"version https://git-lfs.github.com/spec/v1\n", "error: cannot be read"),
    "huge.png": (claiming(60_000, 60_000), "error: has more pixels than Pillow's limit"),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The record of each file, and what was said on stderr."""
    folder = tmp_path_factory.mktemp("odd")
    for name, (content, _) in FILES.items():
        (folder / "in").mkdir(exist_ok=True)
        (folder / "in" / name).write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        options = ["--model", "scenenet", "--plain", "-o", "out", "--json", "found.json"]
        result = invoke("explain", "in", *options)
    assert result.exit_code == 1
    records = json.loads((folder / "found.json").read_text())["images"]
    return {Path(each["image"]).name: each for each in records}, result.stderr, folder


def test_every_file_has_its_record_and_every_message_its_line(found):
    records, stderr, _ = found
    assert records.keys() == FILES.keys()
    for line in stderr.splitlines():
        assert line.startswith(("Error: ", "Warning: "))
        assert "Traceback" not in line
    errors = [line for line in stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == sum("error" in each for each in records.values())


@pytest.mark.parametrize("name", FILES)
def test_file_is_explained_or_refused(found, name):
    records, stderr, folder = found
    record, (content, expected) = records[name], FILES[name]
    if expected.startswith("error: "):
        assert expected.removeprefix("error: ") in record["error"]
        assert any(name in line and record["error"] in line for line in stderr.splitlines())
        return
    assert "error" not in record, record
    if expected:
        assert record["predicted"]["name"] == expected
    [file] = record["files"]
    with Image.open(folder / file) as drawn, Image.open(io.BytesIO(content)) as opened:
        sizes = [opened.size, opened.size[::-1]] if name == "turned.jpg" else [opened.size]
        assert drawn.size in sizes
