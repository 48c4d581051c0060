"""A map on the photo that a transform cut the model's input from, to the pixel."""

from __future__ import annotations

import random
import threading
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms as v1
from torchvision.models import ResNet18_Weights
from torchvision.transforms import v2

import camlib
from camlib import CamlibWarning, GradCAM, InputError, Saliency, overlay
from camlib.visual import Placement, measured

HEIGHT, WIDTH = 320, 640
X, Y = 301.5, 133.5
"""Where the object is, in pixels of the photo; 0 is the left or upper border."""

NORMALIZED = [
    v2.ToImage(),
    v2.ToDtype(torch.float32, scale=True),
    v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
]


def composed(*steps):
    return v2.Compose([*steps, *NORMALIZED])


def albumentations(*steps):
    """A transform of albumentations; `steps` are names and arguments."""
    library = pytest.importorskip("albumentations")
    from albumentations.pytorch import ToTensorV2

    made = [getattr(library, name)(**options) for name, options in steps]
    return library.Compose([*made, library.Normalize(), ToTensorV2()])


def hugging_face(name, **options):
    if find_spec("transformers") is None:
        pytest.skip("transformers is not installed; install the extra `models`")
    import transformers

    return getattr(transformers, name)(**options)


TURN = v2.Lambda(lambda image: image.transpose(Image.Transpose.ROTATE_90))
WHOLE, SQUARE = (0, 0, WIDTH, HEIGHT), (180, 20, 460, 300)  # Resize(256), CenterCrop(224)

TRANSFORMS = {
    "weights.transforms()": (ResNet18_Weights.DEFAULT.transforms, SQUARE),
    "v1": (
        lambda: v1.Compose([v1.Resize(256), v1.CenterCrop(224), v1.ToTensor()]),
        SQUARE,
    ),
    "v2": (lambda: composed(v2.Resize(256), v2.CenterCrop(224)), SQUARE),
    "stretched": (lambda: composed(v2.Resize((224, 224))), WHOLE),
    "nearest": (
        lambda: composed(v2.Resize((224, 224), v2.InterpolationMode.NEAREST)),
        WHOLE,
    ),
    "letterbox": (
        lambda: composed(v2.Pad((0, 160), fill=114), v2.Resize((224, 224))),
        (0, -160, 640, 480),
    ),
    "mirrored padding": (
        lambda: composed(v2.Pad((0, 100), padding_mode="reflect"), v2.Resize((224, 224))),
        (0, -100, 640, 420),
    ),
    "crop at a fraction": (
        lambda: composed(v2.Resize((130, 260)), v2.CenterCrop(128)),
        (66 / 130 * 320, 1 / 130 * 320, 194 / 130 * 320, 129 / 130 * 320),
    ),
    "flipped": (
        lambda: composed(v2.Resize(256), v2.CenterCrop(224), v2.RandomHorizontalFlip(1.0)),
        SQUARE,
    ),
    "upside down": (lambda: composed(v2.RandomVerticalFlip(1.0), v2.Resize(160)), WHOLE),
    "turned": (lambda: composed(TURN, v2.Resize(160)), WHOLE),
    "grey": (lambda: composed(v2.Grayscale(3), v2.Resize((200, 300))), WHOLE),
    "no change": (lambda: composed(), WHOLE),
    "albumentations": (
        lambda: albumentations(
            ("SmallestMaxSize", {"max_size": 256}), ("CenterCrop", {"height": 224, "width": 224})
        ),
        SQUARE,
    ),
    "albumentations letterbox": (
        lambda: albumentations(
            ("LongestMaxSize", {"max_size": 224}),
            ("PadIfNeeded", {"min_height": 224, "min_width": 224}),
        ),
        (0, -160, 640, 480),
    ),
    "Hugging Face ViT": (lambda: hugging_face("ViTImageProcessor"), WHOLE),
    "Hugging Face CLIP": (lambda: hugging_face("CLIPImageProcessor"), (160, 0, 480, 320)),
    "Hugging Face ConvNeXT": (
        lambda: hugging_face("ConvNextImageProcessor", size={"shortest_edge": 224}),
        SQUARE,
    ),
    "a function": (lambda: lambda image: composed(v2.Resize((96, 128)))(image)[None], WHOLE),
}


@pytest.fixture(params=TRANSFORMS)
def transform(request):
    return TRANSFORMS[request.param][0]()


@pytest.fixture(scope="module")
def photo():
    """Grey clutter with one bright object, soft at its border."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    clutter = np.random.default_rng(0).uniform(0.2, 0.3, (HEIGHT, WIDTH, 3))
    away = np.hypot(columns - X, rows - Y)
    bright = np.clip((14 - away) / 4, 0, 1)[..., None]
    values = clutter * (1 - bright) + bright
    return Image.fromarray((values * 255).round().astype(np.uint8))


class Bright(nn.Module):
    """Sees what is bright, at the resolution of its input."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 1, 1)
        self.head = nn.Linear(1, 2)
        nn.init.constant_(self.layer.weight, 1.0)
        nn.init.constant_(self.layer.bias, -1.5)
        nn.init.constant_(self.head.weight, 1.0)

    def forward(self, pixel_values):
        return self.head(self.layer(pixel_values).relu().mean((2, 3)))


def hot_spot(picture):
    """The middle of what is hot in an overlay of grey, opaque colours: x and y."""
    values = np.asarray(picture, dtype=float)[..., 0]
    rows, columns = np.nonzero(values > 0.6 * values.max())
    weight = values[rows, columns]
    return np.average(columns + 0.5, weights=weight), np.average(rows + 0.5, weights=weight)


OPAQUE = {"alpha": 1, "colormap": "gray", "veil": 1}


def test_hot_spot_lies_on_the_object(photo, transform):
    loaded = camlib.load(photo, transform)
    seen = GradCAM(Bright(), "layer").explain(loaded.inputs, 1)
    picture = seen.overlay(loaded, **OPAQUE)
    assert picture.size == photo.size
    assert hot_spot(picture) == pytest.approx((X, Y), abs=1)
    heatmap = seen.heatmap[0]
    for same in (
        seen.overlay(photo, transform=transform, **OPAQUE),
        overlay(photo, seen, transform=transform, **OPAQUE),
        overlay(photo, heatmap, transform=transform, **OPAQUE),
        overlay(photo, heatmap, transform=loaded.placements[0], **OPAQUE),
        overlay([photo], [heatmap], transform=transform, **OPAQUE)[0],
    ):
        assert np.array_equal(same, picture)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_box_is_that_of_the_arithmetic(photo, name):
    make, box = TRANSFORMS[name]
    found = measured(make(), photo)
    assert found.box == pytest.approx(box, abs=0.3)
    assert found.photo == (HEIGHT, WIDTH)


def test_large_photos_are_measured_to_a_fraction_of_an_input_pixel():
    found = measured(ResNet18_Weights.DEFAULT.transforms(), Image.new("RGB", (4000, 3000)))
    # Resize(256) makes 341 columns, of which CenterCrop(224) takes those from 58 on.
    left, right = 58 / 341 * 4000, 282 / 341 * 4000
    assert found.box == pytest.approx((left, 187.5, right, 2812.5), abs=0.5)


@pytest.mark.parametrize("kind", ["uint8", "float32", "array", "grey", "batch", "RGBA", "L", "P"])
def test_photos_of_any_kind_are_measured(photo, kind):
    array = np.array(photo)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    image = {
        "uint8": tensor,
        "float32": tensor / 255,
        "array": array,
        "grey": array[..., 0],
        "batch": torch.stack([tensor, tensor]),
    }.get(kind)
    image = photo.convert(kind) if image is None else image
    transform = composed(v2.Lambda(as_rgb), v2.Resize(256), v2.CenterCrop(224))
    assert measured(transform, image).box == pytest.approx(SQUARE, abs=0.3)


def as_rgb(image):
    return image.convert("RGB") if isinstance(image, Image.Image) else image


def test_transform_that_turns_a_photo_upright():
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.new("RGB", (WIDTH, HEIGHT))
    turned.info["exif"] = exif.tobytes()
    found = measured(composed(v2.Lambda(ImageOps.exif_transpose)), turned)
    assert found.seen == (WIDTH, HEIGHT)
    assert found.transposed
    assert measured(composed(), turned).seen == (HEIGHT, WIDTH)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    "window", [((0.1, 0.83), (-0.3, 1.1)), ((0.9, 0.2), (0.0, 1.0)), ((-0.4, 1.2), (0.8, 0.4))]
)
def test_map_on_the_photo_is_that_of_a_loop(window, transposed):
    placement = Placement((20, 30), (4, 5), window, transposed)
    heat = torch.rand(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    region = placement.region
    covered = torch.zeros(20, 30, dtype=torch.bool)
    covered[region] = True
    found = torch.zeros(20, 30, dtype=heat.dtype)
    found[region] = placement.on_region(heat[None, None])[0, 0]
    grid = heat.T if transposed else heat
    rows, columns = grid.shape
    for i in range(20):
        for j in range(30):
            (top, bottom), (left, right) = window
            y = ((i + 0.5) / 20 - top) / (bottom - top) * rows
            x = ((j + 0.5) / 30 - left) / (right - left) * columns
            inside = 0 <= y <= rows and 0 <= x <= columns
            assert covered[i, j] == inside
            y, x = (min(max(p - 0.5, 0), n - 1) for p, n in ((y, rows), (x, columns)))
            a, b = int(y), int(x)
            c, d = min(a + 1, rows - 1), min(b + 1, columns - 1)
            upper = grid[a, b] * (1 - x + b) + grid[a, d] * (x - b)
            lower = grid[c, b] * (1 - x + b) + grid[c, d] * (x - b)
            expected = upper * (1 - y + a) + lower * (y - a) if inside else 0
            assert found[i, j] == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    "window", [((0.1, 0.83), (-0.3, 1.1)), ((0.9, 0.2), (0.0, 1.0)), ((-0.4, 1.2), (0.8, 0.4))]
)
def test_mask_at_the_input_is_that_of_a_loop(window, transposed):
    placement = Placement((20, 30), (7, 5), window, transposed)
    masks = torch.rand(2, 20, 30, generator=torch.Generator().manual_seed(0)) > 0.5
    found = placement.seen_part(masks)
    assert found.shape == (2, 7, 5)
    for i in range(7):
        for j in range(5):
            down, across = ((j + 0.5) / 5, (i + 0.5) / 7)[:: 1 if transposed else -1]
            (top, bottom), (left, right) = window
            y, x = (top + down * (bottom - top)) * 20, (left + across * (right - left)) * 30
            inside = 0 <= y < 20 and 0 <= x < 30
            expected = masks[:, int(y), int(x)] if inside else torch.zeros(2, dtype=torch.bool)
            assert found[:, i, j].tolist() == expected.tolist()


def test_photo_beside_all_that_the_model_saw():
    placement = Placement((20, 30), (4, 5), ((1.5, 2.0), (0.0, 1.0)))
    image = torch.rand(3, 20, 30)
    assert torch.equal(overlay(image, torch.rand(4, 5), transform=placement), image)


def test_what_the_model_did_not_see_is_left_as_it_is_or_veiled(photo):
    placement = measured(ResNet18_Weights.DEFAULT.transforms(), photo)
    heatmap = torch.ones(224, 224)
    image = torch.from_numpy(np.array(photo)).permute(2, 0, 1)
    picture = overlay(image, heatmap, transform=placement)
    inside = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    inside[20:300, 180:460] = True
    assert torch.equal(picture[:, ~inside], image[:, ~inside])
    expected = overlay(image, torch.ones(HEIGHT, WIDTH))
    assert torch.equal(picture[:, inside], expected[:, inside])
    veiled = overlay(image, heatmap, transform=placement, veil=0.5)
    assert (veiled[:, ~inside].float() - image[:, ~inside] / 2).abs().max() <= 0.5
    assert torch.equal(veiled[:, inside], expected[:, inside])


RANDOM = "is random: the same picture gave different results, .* for evaluation"
BENT = "does more than scale and shift a photo: .*; pass only its steps that resize"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: composed(v2.RandomResizedCrop(224)), RANDOM),
        (lambda: composed(v2.RandomHorizontalFlip()), RANDOM),
        (lambda: composed(v2.RandomCrop(300, padding=4)), RANDOM),
        (lambda: composed(v2.ColorJitter(0.4)), RANDOM),
        (lambda: albumentations(("HorizontalFlip", {})), RANDOM),
        (lambda: composed(v2.RandomRotation((10, 10))), BENT),
        (lambda: composed(v2.RandomRotation((1, 1))), BENT),
        (lambda: composed(v2.CenterCrop(200), v2.RandomEqualize(1.0)), BENT),
        (lambda: composed(v2.CenterCrop(200), v2.RandomAutocontrast(1.0)), BENT),
        (lambda: composed(v2.Lambda(lambda im: v2.functional.adjust_gamma(im, 2.2))), BENT),
        (
            lambda: v2.Compose([*NORMALIZED, v2.Lambda(lambda x: (x - x.mean()) / x.std())]),
            BENT,
        ),
        (lambda: lambda _: torch.rand(3, 8, 8).round() * 0, "does not depend on the brightness"),
        (lambda: v2.Compose([v2.FiveCrop(200)]), "returns 5 pictures; expected one picture"),
        (lambda: lambda _: "text", "returns 'str'; expected one picture"),
        (lambda: lambda _: torch.zeros(2, 3, 8, 8), r"returns shape \(2, 3, 8, 8\); expected one"),
        (
            lambda: lambda image: NORMALIZED[0](image)[:, : 100 + int(np.asarray(image).max())],
            r"returns 100 x 640 .* and 320 x 640 .* for photos of one size",
        ),
        (
            lambda: lambda image: image.no_such_method(),
            r"fails on a photo of 320 x 640 \(height x width\) \(AttributeError: .*no_such_method",
        ),
        (
            lambda: "resize",
            "transform is of type 'str'; expected a function that makes .*the model's input",
        ),
        (
            lambda: Placement((10, 10), (5, 5), ((0, 1), (0, 1))),
            r"the placement is for a photo of 10 x 10 .*, but this one has 320 x 640",
        ),
    ],
)
def test_transform_that_cannot_be_followed_is_refused(photo, make, message):
    torch.manual_seed(0)
    with pytest.raises(InputError, match=message):
        measured(make(), photo)


def test_random_numbers_go_on_as_if_nothing_had_been_drawn(photo, monkeypatch):
    monkeypatch.setattr(threading, "active_count", lambda: 1)  # whatever other tests have left
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    before = torch.rand(1).item(), random.random(), np.random.rand()
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    with pytest.raises(InputError):
        measured(
            lambda im: (random.random(), np.random.rand(), composed(v2.RandomCrop(9))(im))[2], photo
        )
    assert (torch.rand(1).item(), random.random(), np.random.rand()) == before


def test_heatmap_of_another_input_is_refused(photo):
    transform = composed(v2.Resize((224, 224)))
    with pytest.raises(
        InputError, match=r"makes an input of 224 x 224 .* belongs to one of 160 x 100"
    ):
        overlay(photo, torch.rand(160, 100), transform=transform)
    seen = GradCAM(Bright(), "layer").explain(torch.rand(1, 3, 112, 112), 1)
    with pytest.raises(
        InputError, match=r"makes an input of 224 x 224 .* belongs to one of 112 x 112"
    ):
        seen.overlay(photo, transform=transform)
    assert overlay(photo, torch.rand(7, 7), transform=transform).size == photo.size


STRETCHED = (
    r"the photo has 320 x 640 .*, but {} 224 x 224 .*; the map is stretched over the whole photo, "
    r".*; pass transform= .* or fit='stretch' if the photo was only resized"
)


def test_photo_of_another_shape_than_the_model_saw_is_warned_of(photo):
    heatmap = torch.rand(224, 224)
    with pytest.warns(CamlibWarning, match=STRETCHED.format("the heatmap has")):
        warned = overlay(photo, heatmap)
    assert np.array_equal(overlay(photo, heatmap, fit="stretch"), warned)
    seen = GradCAM(Bright(), "layer").explain(torch.rand(1, 3, 224, 224), 1)
    with pytest.warns(CamlibWarning, match=STRETCHED.format("the model saw")):
        seen.overlay(photo)
    with pytest.warns(CamlibWarning, match=STRETCHED.format("the model saw")):
        seen.figure(photo)
    square = Image.new("RGB", (448, 448))
    with pytest.warns(CamlibWarning, match="448 x 448 .*, but the model saw 224 x 224"):
        seen.overlay(square)
    with pytest.warns(CamlibWarning, match="448 x 448 .*, but the model saw 224 x 224"):
        overlay([square], seen)
    seen.figure(photo, fit="stretch")
    with pytest.raises(InputError, match="fit='crop' is not known; use 'stretch'"):
        overlay(photo, heatmap, fit="crop")


@pytest.mark.parametrize(
    "grid", [(10, 20), (5, 10), (11, 21), (80, 160), (9, 19), (320, 640), (1, 1)]
)
def test_maps_at_the_grid_of_a_layer_are_not_warned_of(photo, grid):
    heatmap = torch.rand(grid)  # a warning is an error in the tests
    assert np.array_equal(overlay(photo, heatmap), overlay(photo, heatmap, fit="stretch"))


def panels(drawn):
    return [axes.images[0].get_array() for axes in drawn.axes]


def test_figures_show_the_whole_photo(photo):
    transform = composed(v2.Resize(256), v2.CenterCrop(224), v2.RandomHorizontalFlip(1.0))
    loaded = camlib.load(photo, transform)
    cam = GradCAM(Bright(), "layer").explain(loaded.inputs, 1)
    pixels = Saliency(Bright()).explain(loaded.inputs, 1)
    drawn = camlib.figure(
        loaded, {"CAM": cam, "Saliency": pixels}, colormap="gray", alpha=1, veil=1
    )
    image, heat, attribution = panels(drawn)
    assert np.array_equal(image, photo)
    assert hot_spot(heat) == pytest.approx((X, Y), abs=1)
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[20:300, 180:460] = True
    assert (attribution[~inside] == 128).all()
    assert hot_spot(np.abs(attribution.astype(float) - 128)) == pytest.approx((X, Y), abs=2)
    same = panels(
        camlib.figure(photo, {"CAM": cam}, transform=transform, colormap="gray", alpha=1, veil=1)
    )
    assert np.array_equal(same[1], heat)
    cells = panels(cam.figure(loaded, views=("cells",), colormap="gray", veil=1))
    assert hot_spot(cells[1]) == pytest.approx((X, Y), abs=1.5)
    with pytest.raises(
        InputError, match=r"input of 224 x 224 .* the attribution belongs to one of 64"
    ):
        camlib.figure(photo, {"S": torch.rand(1, 3, 64, 64)}, transform=transform)


def test_saved_figure_has_the_photo(photo, tmp_path):
    transform = composed(v2.Resize(256), v2.CenterCrop(224))
    loaded = camlib.load(photo, transform)
    seen = GradCAM(Bright(), "layer").explain(loaded.inputs, 1)
    seen.save(tmp_path / "one.png", loaded)
    seen.save(tmp_path / "other.png", photo, transform=transform)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()


def test_blue_first_as_opencv_has_it(photo):
    rgb = np.array(photo)
    heatmap = torch.linspace(0, 1, WIDTH).expand(HEIGHT, WIDTH)
    expected = overlay(rgb, heatmap)[..., ::-1]
    assert np.array_equal(overlay(rgb[..., ::-1], heatmap, channels="BGR"), expected)
    drawn = camlib.figure(rgb[..., ::-1], {"CAM": heatmap[None]}, channels="BGR")
    assert np.array_equal(panels(drawn)[0], rgb)
    with pytest.raises(InputError, match="channels='GBR' is not known; use 'RGB' or 'BGR'"):
        overlay(rgb, heatmap, channels="GBR")
