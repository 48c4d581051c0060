"""The page of a report: what is in its file, and what it does in a real browser."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import pytest
import torch
from browser import DESKTOP, PHONE, faults, needs_browser, opened

from camlib import InputError, zoo
from camlib.visual import Explained, Placement, report
from camlib.visual.averages import Averages

MARKUP = "</script><img src=x onerror=alert(1)><!--"
"""A name that would run if it were not kept as text."""

CLASSES = "cat", "dog", MARKUP


def pictures(count=9):
    """Pictures of classes in turn, of which every fourth is wrong, most sure at the end."""
    draws = torch.Generator().manual_seed(1)
    for i in range(count):
        yield Explained(
            name=f"folder/{i}{MARKUP if i == 2 else ''}.png",
            photo=zoo.scene(i, size=64).image,
            heatmap=torch.rand(4, 4, generator=draws),
            predicted=CLASSES[i % 3],
            truth=CLASSES[(i + (i % 4 == 3)) % 3],
            numbers={"probability": (i + 1) / 100, "score": -float(i)},
        )


def data(file):
    """What the page shows."""
    [found] = re.findall(
        r'<script type="application/json" id="data">(.*)</script>', file.read_text()
    )
    return json.loads(found)


def test_one_file_holds_everything(tmp_path):
    done = report(pictures(), tmp_path / "r.html", title=MARKUP, note=MARKUP)
    assert (done.pictures, done.folder) == (9, None)
    assert [each.name for each in tmp_path.iterdir()] == ["r.html"]
    shown = data(done.file)
    assert shown["classes"] == list(CLASSES)
    assert shown["numbers"] == ["probability", "score", "area", "elsewhere"]
    name, predicted, truth, numbers, photo, heat = shown["pictures"][3]
    assert (name, predicted, truth, numbers[:2]) == ("folder/3.png", 0, 1, [0.04, -3.0])
    assert photo.startswith("data:image/webp;base64,")
    assert heat.startswith("data:image/webp;base64,")
    assert len(shown["averages"]) == 3


def test_markup_stays_text(tmp_path):
    page = report(pictures(), tmp_path / "r.html", title=MARKUP, note=MARKUP).file.read_text()
    assert MARKUP not in page
    assert page.count("</script>") == 2
    assert "<img" not in page
    assert data(tmp_path / "r.html")["title"] == MARKUP
    assert "default-src 'none'" in page
    assert not re.search("https?://", page)


def test_many_pictures_lie_beside_the_page_and_older_ones_go(tmp_path):
    file = tmp_path / "a #1%.html"
    first = report(pictures(), file, embedded=2000)
    second = report(pictures(), file, embedded=2000)
    assert first.folder != second.folder
    assert sorted(tmp_path.iterdir()) == sorted([file, second.folder])
    assert data(file)["folder"].startswith("a%20%231%25-files-")
    assert [row[4:] for row in data(file)["pictures"]] == [[2 * i, 2 * i + 1] for i in range(9)]
    assert len(list(second.folder.iterdir())) == 9 * 2 + 3 * 2
    assert report(pictures(), file).folder is None
    assert list(tmp_path.iterdir()) == [file]


def test_files_of_others_stay(tmp_path):
    own = report(pictures(), tmp_path / "r.html", embedded=2000).folder
    (own / "notes.txt").write_text("mine")
    report(pictures(), tmp_path / "r.html")
    assert [each.name for each in own.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_interrupted_work_leaves_the_older_page(tmp_path, error):
    def broken():
        yield from pictures()
        raise error

    done = report(pictures(), tmp_path / "r.html", embedded=2000)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(error):
        report(broken(), tmp_path / "r.html", embedded=2000)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert sorted(tmp_path.iterdir()) == sorted([done.file, done.folder])


ONE = next(pictures())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "there is no picture"),
        ([replace(ONE, heatmap=torch.rand(2, 4, 4))], r"a map of shape \(2, 4, 4\)"),
        ([replace(ONE, heatmap=torch.full((4, 4), 2.0))], "heatmap has values from 2 to 2"),
        (
            [replace(ONE, placement=Placement((10, 10), (8, 8), ((0.0, 1.0), (0.0, 1.0))))],
            r"for a photo of 10 x 10 .*, but this one has 64 x 64",
        ),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, wrong, message):
    with pytest.raises(InputError, match=message):
        report(wrong, tmp_path / "r.html")
    assert not list(tmp_path.iterdir())


def test_file_must_be_a_page(tmp_path):
    with pytest.raises(InputError, match=r"ends in \.html"):
        report(pictures(), tmp_path / "r.pdf")
    with pytest.raises(InputError, match="create it first"):
        report(pictures(), tmp_path / "none" / "r.html")


def test_map_that_lies_elsewhere_is_far():
    """The distance is 1 less the cosine to the mean of the others, each of length 1."""
    averages = Averages()
    maps = torch.rand(5, 16, 16, generator=torch.Generator().manual_seed(3)).double() * 0.1
    maps[:4, 3:6, 3:6] += 1
    maps[4, 12:15, 12:15] += 1
    for heat in maps:
        averages.add("cat", torch.rand(3, 16, 16), heat.float())
    averages.add("dog", torch.rand(3, 16, 16), maps[0].float())
    *found, alone = averages.elsewhere()
    assert alone is None
    assert found[4] > 2 * max(found[:4])
    for i, value in enumerate(found):
        others = sum(maps[j].float().double() / maps[j].norm() for j in range(5) if j != i)
        cosine = float((maps[i] * others).sum() / maps[i].norm() / others.norm())
        assert math.isclose(value, 1 - cosine, abs_tol=1e-5)


def test_averages_and_areas():
    averages = Averages()
    for value in (0.0, 1.0):
        heat = torch.zeros(8, 8)
        heat[:, :2] = 1
        averages.add("cat", torch.full((3, 8, 8), value), heat)
    [(name, photo, heat)] = averages.means()
    assert name == "cat"
    torch.testing.assert_close(photo, torch.full((3, 96, 96), 0.5))
    assert heat[50, 2] == 1
    assert heat[50, 90] == 0
    assert averages.areas == [0.25, 0.25]


def test_map_lies_where_the_network_looked(tmp_path):
    """The right half of the photo alone was seen: the map is clear on the left."""
    from base64 import b64decode
    from io import BytesIO

    from PIL import Image

    half = Placement((64, 64), (32, 32), ((0.0, 1.0), (0.5, 1.0)))
    file = report([replace(ONE, placement=half)], tmp_path / "r.html").file
    content = data(file)["pictures"][0][5].partition(",")[2]
    clear = Image.open(BytesIO(b64decode(content))).getchannel("A")
    assert clear.getbbox() == (32, 0, 64, 64)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    file = tmp_path_factory.mktemp("report") / "a #1.html"
    return report(pictures(40), file, title=MARKUP).file.as_uri()


class TestInABrowser:
    pytestmark = needs_browser

    @pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_every_view_is_accessible_and_fits(self, page, size, scheme):
        with opened(page, size, scheme) as shown:
            assert shown.title() == MARKUP
            for act in ("#show-classes", "#show-pictures", ".card"):
                shown.locator(act).first.click()
                assert faults(shown) == []
                width = shown.evaluate("document.documentElement.scrollWidth")
                assert width == size[0]
                broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).length"
                assert shown.evaluate(broken) == 0
            back = shown.evaluate("getComputedStyle(document.body).backgroundColor")
            assert back == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 23, 27)"}[scheme]

    def test_filters_search_and_sort(self, page):
        def names():
            return shown.evaluate("found.map((each) => each.number)")

        def count():
            return shown.text_content("#count")

        with opened(page) as shown:
            assert names() == list(range(40))
            assert count() == "40 of 40 pictures, 75.0 % right"
            shown.select_option("#answer", "wrong")
            assert names() == [i for i in range(40) if i % 4 == 3]
            shown.select_option("#predicted", label="dog")
            assert names() == [i for i in range(40) if i % 4 == 3 and i % 3 == 1]
            shown.select_option("#truth", label="cat")
            assert count() == "0 of 40 pictures"
            shown.click("#reset")
            shown.fill("#low", "11")
            shown.fill("#high", "13")
            assert names() == [10, 11, 12]
            shown.click("#reset")
            shown.fill("#search", "ONERROR")
            assert names() == [i for i in range(40) if 2 in (i % 3, (i + (i % 4 == 3)) % 3)]
            shown.fill("#search", "")
            shown.select_option("#sort", label="score")
            assert names() == list(range(39, -1, -1))
            shown.click("#order")
            assert names() == list(range(40))
            shown.select_option("#sort", label="elsewhere")
            far = shown.evaluate("found.map((each) => each.numbers[3])")
            assert far == sorted(far, reverse=True)
            assert shown.locator(".card").first.get_attribute("title") in shown.evaluate(
                "found[0].name"
            )

    def test_keys(self, page):
        with opened(page) as shown:
            shown.locator(".card").first.focus()
            shown.keyboard.press("ArrowRight")
            shown.keyboard.press("ArrowDown")
            columns = shown.evaluate("columns")
            focused = "Number(document.activeElement.closest('[data-place]').dataset.place)"
            assert shown.evaluate(focused) == columns + 1
            shown.keyboard.press("End")
            assert shown.evaluate(focused) == 39
            shown.keyboard.press("Enter")
            assert shown.text_content("#large-name") == "folder/39.png"
            shown.keyboard.press("ArrowLeft")
            assert shown.text_content("#large-name") == "folder/38.png"
            shown.keyboard.press("Escape")
            assert not shown.is_visible("#large")
            mixed = "getComputedStyle(document.querySelector('.map')).opacity"
            assert shown.evaluate(mixed) == "0.5"
            shown.keyboard.press("m")
            assert shown.evaluate(mixed) == "0"
            shown.keyboard.press("t")
            assert shown.evaluate("document.documentElement.dataset.theme") == "dark"
            shown.keyboard.press("/")
            assert shown.evaluate("document.activeElement.id") == "search"

    def test_ten_thousand_pictures_have_few_elements(self, tmp_path):
        few = list(pictures(20))
        many = (replace(few[i % 20], name=f"{i}.png") for i in range(10_000))
        file = report(many, tmp_path / "r.html", embedded=100_000).file
        with opened(file.as_uri()) as shown:
            assert shown.text_content("#count").startswith("10,000 of 10,000 pictures")
            for place in (0, 0.5, 1):
                shown.evaluate(f"scrollTo(0, {place} * document.body.scrollHeight)")
                shown.wait_for_timeout(200)
                shown.wait_for_load_state("networkidle")
                broken = "[...document.images].filter((i) => i.complete && !i.naturalWidth).length"
                assert shown.evaluate(broken) == 0
                assert 10 < shown.locator(".card").count() < 150
            assert shown.locator('[data-place="9999"]').is_visible()
