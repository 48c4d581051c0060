"""Figures, and pictures in files."""

import io

import matplotlib
import numpy as np
import pytest
import torch
from drawn import as_array, assert_apart, explanation, panels, texts
from PIL import Image

from camlib import GradCAM, zoo
from camlib.errors import InputError
from camlib.visual import colorize, figure, overlay, save_picture, to_image, to_png

LONG = "Egyptian cat, sacred to Bastet, and anaconstitutionallylongwordthatcannotbebroken anywhere"


@pytest.fixture
def images():
    return torch.rand(2, 3, 12, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def heatmaps():
    return torch.rand(2, 12, 16, generator=torch.Generator().manual_seed(1))


def read(path):
    return Image.open(io.BytesIO(path.read_bytes()))


def test_classic_comparison_is_one_call(images, heatmaps):
    maps = {"Grad-CAM": heatmaps[:1], "Grad-CAM++": heatmaps[1:], "Score-CAM": heatmaps[0]}
    drawn = figure(images[0], maps, views=("overlay", "emphasized"))
    plain, emphasized = panels(drawn)[:4], panels(drawn)[4:]
    assert texts(drawn) == ["image", "Grad-CAM", "Grad-CAM++", "Score-CAM", "overlay", "emphasized"]
    for row, emphasize in ((plain, False), (emphasized, True)):
        assert np.array_equal(row[0], as_array(images[0]))
        for panel, index in zip(row[1:], (0, 1, 0), strict=True):
            expected = overlay(images[0], heatmaps[index], emphasize=emphasize)
            assert np.array_equal(panel, as_array(expected))


def test_rows_follow_the_images(images, heatmaps):
    drawn = figure(images, {"CAM": heatmaps}, alpha=0.2, colormap="viridis", names=["a", "b"])
    for row in range(2):
        image, panel = panels(drawn)[2 * row : 2 * row + 2]
        assert np.array_equal(image, as_array(images[row]))
        expected = overlay(images[row], heatmaps[row], 0.2, "viridis")
        assert np.array_equal(panel, as_array(expected))
    assert texts(drawn) == ["image", "CAM", "a", "b"]


def test_pictures_of_all_kinds_and_sizes(images, heatmaps):
    kinds = [images[0], images[0].permute(1, 2, 0).numpy(), Image.new("L", (30, 20), 9)]
    drawn = figure(kinds, {"CAM": heatmaps[:1].expand(3, -1, -1).numpy()}, fit="stretch")
    assert np.array_equal(panels(drawn)[1], panels(drawn)[3])
    assert panels(drawn)[4].shape == panels(drawn)[5].shape == (20, 30, 3)
    assert (panels(drawn)[4] == 9).all()


def test_attributions_are_shown_as_pictures(images):
    attribution = torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(2))
    array = attribution.permute(0, 2, 3, 1).numpy()
    for mode in ("centered", "diverging"):
        drawn = figure(images, {"tensor": attribution, "array": array}, mode=mode)
        expected = to_image(attribution, mode).permute(0, 2, 3, 1).numpy()
        for row in range(2):
            assert np.array_equal(panels(drawn)[3 * row + 1], expected[row])
            assert np.array_equal(panels(drawn)[3 * row + 2], expected[row])
    [_, panel] = panels(figure(images[0], {"guided": attribution[0]}, mode=mode))
    assert np.array_equal(panel, expected[0])


def test_cells_are_the_map_of_the_layer_itself(images):
    seen = explanation()
    drawn = figure(images, {"CAM": seen, "grid": seen.map / 10}, views=("cells",), colormap="gray")
    for row in range(2):
        normalized = torch.tensor([[0, 1 / 3], [2 / 3, 1]])
        pair = panels(drawn)[3 * row + 1 : 3 * row + 3]
        for panel, map in zip(pair, (normalized, seen.map[row] / 10), strict=True):
            cells = map.repeat_interleave(6, 0).repeat_interleave(8, 1)
            assert np.array_equal(panel, as_array(colorize(cells, "gray")))


def test_maps_alone(heatmaps):
    drawn = figure(None, {"CAM": heatmaps})
    assert [p.tolist() for p in panels(drawn)] == [as_array(colorize(h)).tolist() for h in heatmaps]
    assert texts(drawn) == ["CAM"]


def test_captions_tell_layer_class_and_score(images):
    score, target = torch.tensor([12.345, 0.5]), torch.tensor([1, 0])
    cases = [
        ({"score": score}, "CAM\nfeatures", ["score 12.3", "score 0.5"]),
        ({"target": target, "layers": ()}, "CAM", ["dog\nscore 0", "cat\nscore 0"]),
        (
            {"score": score, "target": target, "layers": ("layer3", "layer4")},
            "CAM\nlayer3, layer4",
            ["dog\nscore 12.3", "cat\nscore 0.5"],
        ),
    ]
    for known, title, captions in cases:
        for labels in (["cat", "dog"], {0: "cat", 1: "dog"}):
            drawn = figure(images, {"CAM": explanation(**known)}, labels=labels)
            assert texts(drawn) == ["image", title, *captions]
    drawn = figure(images, {"CAM": explanation(target=target)})
    assert texts(drawn)[2:] == ["class 1\nscore 0", "class 0\nscore 0"]


def test_several_classes_and_layers_have_columns_of_their_own(images, heatmaps):
    several = torch.stack([heatmaps, 1 - heatmaps, heatmaps / 2], 1)
    score, target = torch.arange(6.0).reshape(2, 3), torch.arange(6).reshape(2, 3)
    classes = explanation(heatmap=several, map=several, score=score, target=target)
    layers = explanation(heatmap=several, map=several, maps=(heatmaps,) * 3, layers=("a", "b", "c"))
    for seen in (classes, layers):
        drawn = figure(images, {"CAM": seen})
        for row in range(2):
            for k in range(3):
                expected = overlay(images[row], several[row, k])
                assert np.array_equal(panels(drawn)[4 * row + k + 1], as_array(expected))
    assert texts(drawn)[:4] == ["image", "CAM\na", "CAM\nb", "CAM\nc"]
    captions = texts(figure(images, {"CAM": classes}))[4:]
    assert captions == [f"class {k}\nscore {k}" for k in range(6)]
    signed = several - 0.5
    for known in ({"map": heatmaps}, {"map": signed}, {"map": signed, "layers": ("a", "b", "c")}):
        attribution = explanation(heatmap=signed, attribution=True, **known)
        assert np.array_equal(
            panels(figure(images, {"guided": attribution}))[1],
            to_image(signed[0]).permute(1, 2, 0),
        )
    one = explanation(heatmap=signed[:, :1], map=signed[:, :1], attribution=True)
    assert np.array_equal(
        panels(figure(images, {"deconvnet": one}))[3], to_image(signed[1, :1]).permute(1, 2, 0)
    )


@pytest.mark.parametrize(
    ("rows", "columns", "size"),
    [(1, 1, (64, 8)), (1, 12, (16, 16)), (4, 1, (8, 64)), (4, 3, (24, 16))],
)
def test_texts_neither_overlap_nor_leave_the_page(rows, columns, size):
    seen = explanation(
        heatmap=torch.zeros(rows, *size),
        map=torch.zeros(rows, 2, 2),
        score=torch.full((rows,), -1.234e-5),
        target=torch.arange(rows),
        layers=("module.backbone.stages.3.blocks.11.attention.norm1",),
        size=size,
    )
    names = ["W" * 60, LONG, "_.-/" * 30, "$\\frac{1}$ ^ %"]
    drawn = figure(
        torch.zeros(rows, 3, *size),
        {f"{LONG} {k}": seen for k in range(columns)},
        labels=names,
        names=names[:rows],
        views=("overlay", "emphasized", "cells"),
    )
    assert_apart(drawn)


def test_long_names_are_broken_and_then_cut(images):
    drawn = figure(images[0], {"CAM": torch.zeros(2, 2)}, names=LONG)
    [caption] = texts(drawn)[2:]
    first, second = caption.split("\n")
    assert LONG.startswith(first) and second.endswith("…")
    assert LONG[len(first) :].strip().startswith(second[:-1])


def test_panels_keep_the_proportions_of_the_image():
    for size, expected in (((20, 40), 0.5), ((40, 20), 1.5)):
        drawn = figure(torch.zeros(3, *size), {"CAM": torch.zeros(2, 2)})
        box = drawn.axes[0].get_position(original=True)
        width, height = drawn.get_size_inches()
        assert box.height * height / (box.width * width) == pytest.approx(expected)
        assert drawn.axes[0].get_aspect() == 1


def test_pyplot_knows_nothing_of_a_figure(images, heatmaps):
    from matplotlib import pyplot

    before = matplotlib.get_backend(auto_select=False)
    assert to_png(figure(images, {"CAM": heatmaps}))
    assert pyplot.get_fignums() == []
    assert matplotlib.get_backend(auto_select=False) == before


def test_constrained_layout_as_the_default_moves_nothing(images, heatmaps):
    expected = to_png(figure(images, {"CAM": heatmaps}))
    with matplotlib.rc_context({"figure.constrained_layout.use": True}):
        assert to_png(figure(images, {"CAM": heatmaps})) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"maps": torch.zeros(2, 4, 4)}, "maps of type Tensor is not a mapping, or is empty"),
        ({"maps": {}}, "maps of type dict is not a mapping, or is empty; expected .* {'Grad-CAM'"),
        ({"maps": {"a": [1]}}, r"maps\['a'\] is of type 'list'; expected heatmaps, attributions"),
        ({"maps": {"a": torch.zeros(2, 5, 4, 4)}}, r"\['a'\] of shape \(2, 5, 4, 4\) does not fit"),
        ({"maps": {"a": torch.zeros(3, 4, 4)}}, r"\(3, 4, 4\) does not fit 2 image\(s\); expected"),
        ({"maps": {"a": torch.zeros(4)}}, r"\(4,\) does not fit 2 image\(s\); .* pass each class"),
        ({"images": torch.zeros(3, 3, 4, 4), "maps": {"a": explanation()}}, r"explains 2 image\(s"),
        ({"images": []}, "images is empty; expected at least one picture"),
        ({"images": torch.ones(2, 3, 4, 4) * 3}, "image has values from 3 to 3; expected finite"),
        ({"names": ["a"]}, "names has 1 entries; expected one for each of 2 images"),
        ({"views": ("raw",)}, r"views=\('raw',\) is not known; use a sequence of 'overlay', "),
        ({"views": ()}, r"views=\(\) is not known"),
        (
            {"maps": {"a": explanation(target=torch.tensor([0, 7]))}, "labels": ["cat"]},
            "labels has no entry 7; expected the names of all classes explained",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused(images, heatmaps, arguments, message):
    with pytest.raises(InputError, match=message):
        figure(**{"images": images, "maps": {"CAM": heatmaps}, **arguments})


def test_saved_pictures_read_back(tmp_path, images):
    picture = (images[0] * 255).round().byte()
    array = picture.permute(1, 2, 0).numpy()
    kinds = [
        picture,
        picture / 255,
        array,
        (array / 255).astype(np.float32),
        Image.fromarray(array),
    ]
    for kind in kinds:
        for suffix in (".png", ".BMP", ".tif", ".tiff"):
            path = save_picture(kind, tmp_path / f"picture{suffix}")
            assert np.array_equal(read(path), array)
    for suffix in (".jpg", ".jpeg", ".webp"):
        assert read(save_picture(picture, str(tmp_path / f"picture{suffix}"))).size == (16, 12)
    assert np.array_equal(Image.open(io.BytesIO(to_png(picture))), array)


def test_saved_figures_read_back(tmp_path, images):
    drawn = figure(images, {"CAM": torch.zeros(2, 2, 2)})
    size = tuple(round(150 * inches) for inches in drawn.get_size_inches())
    for suffix in (".png", ".jpg", ".jpeg", ".webp"):
        found = read(save_picture(drawn, tmp_path / f"figure{suffix}")).size
        assert abs(found[0] - size[0]) <= 1 and abs(found[1] - size[1]) <= 1
    assert save_picture(drawn, tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")
    assert b"<svg" in save_picture(drawn, tmp_path / "figure.svg").read_bytes()


def test_text_of_vector_figures_is_text(tmp_path, images):
    drawn = figure(images, {"Title of it": torch.zeros(2, 2, 2)})
    assert ">Title of it</text>" in save_picture(drawn, tmp_path / "figure.svg").read_text()
    assert b"/CIDFontType2" in save_picture(drawn, tmp_path / "f.pdf").read_bytes()
    assert b"/Subtype /Type3" not in (tmp_path / "f.pdf").read_bytes()


def test_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, images, monkeypatch):
    path = tmp_path / "picture.png"
    save_picture(images[0], path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    for broken in ("os.replace", "pathlib.Path.write_bytes"):
        with monkeypatch.context() as patch:
            patch.setattr(broken, fail)
            with pytest.raises(OSError, match="disk full"):
                save_picture(images[1], path)
    with pytest.raises(InputError):
        save_picture(images[1] * 3, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_saved_file_is_as_readable_as_any_other(tmp_path, images):
    (tmp_path / "other").write_bytes(b"")
    path = save_picture(images[0], tmp_path / "picture.png")
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize(
    ("name", "picture", "message"),
    [
        ("a.gif", torch.zeros(3, 4, 4), r"cannot write 'a.gif'; expected a name with one"),
        ("a", torch.zeros(3, 4, 4), r"cannot write 'a'; .* the suffixes .png, .jpg"),
        ("a.pdf", torch.zeros(3, 4, 4), "cannot write 'a.pdf'"),
        ("no/a.png", torch.zeros(3, 4, 4), "folder '.*no' does not exist; create it first"),
        ("a.png", torch.zeros(2, 3, 4, 4), r"\(2, 3, 4, 4\) holds 2 pictures; expected one; save"),
        ("a.png", "picture", "image is of type 'str'"),
    ],
)
def test_what_cannot_be_saved_is_refused(tmp_path, name, picture, message):
    with pytest.raises(InputError, match=message):
        save_picture(picture, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_images_side_by_side():
    photos = [torch.rand(3, 8, 8), torch.rand(3, 8, 16), torch.rand(3, 8, 8), torch.rand(3, 8, 8)]
    photos.append(photos[0])
    maps = torch.rand(5, 4, 4)
    options = {"names": list("abcde"), "fit": "stretch", "views": ("overlay", "cells")}
    drawn = figure(photos, {"CAM": maps}, columns=3, **options)
    alone = figure(photos, {"CAM": maps}, **options)
    shown, expected = (
        [axes.images[0].get_array() for axes in each.axes] for each in (drawn, alone)
    )
    # Rows of image and map: overlays of a, b, c, their cells, overlays of d, e and nothing, ...
    order = [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (3, 0), (4, 0), None, (3, 1), (4, 1)]
    for place, sample in enumerate(order):
        for k in range(2):
            found = shown[2 * place + k]
            if sample is None:
                assert (found == 255).all()
            else:
                i, view = sample
                assert np.array_equal(found, expected[2 * (2 * i + view) + k])
    wide, tall = drawn.get_size_inches(), alone.get_size_inches()
    assert wide[0] > 2.5 * tall[0]
    assert wide[1] < tall[1] / 2
    texts = [text.get_text() for text in drawn.texts]
    assert texts.count("image") == texts.count("CAM") == 3
    extents = [axes.images[0].get_extent() for axes in drawn.axes[:6]]
    assert [extent[1] / extent[2] for extent in extents] == [1, 1, 2, 2, 1, 1]
    with pytest.raises(InputError, match="columns=0 is out of range"):
        figure(photos, {"CAM": maps}, columns=0)


@pytest.mark.parametrize("scale", ["each", "image", "all"])
def test_heatmaps_with_a_scale_in_common_can_be_compared(images, heatmaps, scale):
    strong, weak = 3 * heatmaps + 1, heatmaps - 0.2
    weak[1] *= 0.5
    maps = {"strong": strong, "weak": weak}
    if scale == "each":
        with pytest.raises(InputError, match=r"\[0, 1\]"):
            figure(images, maps, scale=scale)
        return
    drawn = panels(figure(images, maps, scale=scale))
    for i, row in enumerate((drawn[:3], drawn[3:])):
        peak = (strong[i] if scale == "image" else strong).max()
        for panel, values in zip(row[1:], (strong[i], weak[i]), strict=True):
            expected = overlay(images[i], (values / peak).clamp(0, 1))
            assert np.abs(panel.astype(int) - as_array(expected)).max() <= 1


def test_classes_of_an_explanation_on_one_scale():
    scene = zoo.scene(seed=3)
    seen = GradCAM(zoo.load(), "features").explain(
        zoo.preprocess(scene.image)[None], [[4, 2]], normalize=False
    )
    views = ("overlay", "cells")
    drawn = figure(scene.image, {"CAM": seen}, scale="image", colorbar=True, views=views)
    assert {"high", "0", "each image by itself"} <= set(texts(drawn))
    strong, weak = seen.heatmap[0]
    assert strong.max() > 2 * weak.max()
    expected = as_array(overlay(scene.image, (weak / strong.max()).clamp(0, 1)))
    assert np.abs(panels(drawn)[2].astype(int) - expected).max() <= 1
    cells = seen.map[0, 1] / strong.max()
    expected = as_array(overlay(scene.image, cells.clamp(0, 1), fit="stretch"))
    assert panels(drawn)[5].shape == expected.shape


def test_heatmaps_that_are_scaled_already_have_no_scale_in_common(images, heatmaps):
    scaled = heatmaps / heatmaps.amax((1, 2), keepdim=True)
    for other in (scaled, 3 * heatmaps, torch.zeros_like(scaled)):
        with pytest.raises(InputError, match="normalize=False"):
            figure(images, {"one": scaled, "other": other}, scale="image")
    figure(images, {"one": 2 * heatmaps, "other": 3 * heatmaps}, scale="image")


LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]])


@pytest.mark.parametrize(
    ("output", "score", "caption"),
    [
        (LOGITS, LOGITS[:, 1], "class 1\nlogit -1"),
        (LOGITS.softmax(1), LOGITS.softmax(1)[:, 1], "class 1\nprobability 0.0391"),
        (LOGITS, LOGITS.softmax(1)[:, 1], "class 1\nscore 0.0391"),  # the target's own doing
        (LOGITS[:, :1], LOGITS[:, 0], "class 1\nscore 2"),
        ([LOGITS], LOGITS[:, 1], "class 1\nscore -1"),
        (None, LOGITS[:, 1], "class 1\nscore -1"),
    ],
)
def test_captions_say_what_the_score_is(images, output, score, caption):
    seen = explanation(output=output, score=score, target=torch.ones(2, dtype=torch.long))
    assert texts(figure(images, {"CAM": seen}))[2] == caption


@pytest.mark.parametrize("method", ["EigenCAM", "LaFAM", "CenterGaussian", "GradCAM", "MyOwn"])
def test_method_that_asks_for_no_class_has_none_in_its_caption(images, method):
    target = torch.ones(2, dtype=torch.long)
    seen = explanation(output=LOGITS, score=LOGITS[:, 1], target=target, method=method)
    captions = texts(figure(images, {"CAM": seen}))[2:]
    asks = method in ("GradCAM", "MyOwn")
    assert captions == (["class 1\nlogit -1", "class 1\nlogit 3"] if asks else [])


def test_score_of_no_class_is_a_score(images):
    seen = explanation(output=LOGITS, score=LOGITS[:, 1])
    assert texts(figure(images, {"CAM": seen}))[2] == "score -1"


def test_bar_tells_the_colours():
    image, heat = torch.rand(3, 8, 8), torch.rand(1, 8, 8)
    drawn = figure(image, {"CAM": heat}, colorbar=True, colormap="viridis")
    bar = drawn.axes[-1].images[0].get_array()
    assert bar.shape == (256, 1, 3)
    ends = [matplotlib.colormaps["viridis"](end, bytes=True)[:3] for end in (1.0, 0.0)]
    assert np.abs(bar[[0, -1], 0].astype(int) - ends).max() <= 1
    assert {"high", "low", "each map by itself"} <= {text.get_text() for text in drawn.texts}
    signed = figure(image, {"S": torch.rand(1, 3, 8, 8)}, colorbar=True)
    assert len(signed.axes) == 2  # an attribution has no such scale
    flat = figure(torch.rand(3, 8, 32), {"CAM": torch.rand(1, 8, 32)}, colorbar=True)
    assert "each map by itself" not in {text.get_text() for text in flat.texts}
