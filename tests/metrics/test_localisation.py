"""Where a map lies: against slow references, and what is known exactly."""

from __future__ import annotations

import localisation_reference as reference
import pytest
import torch
from metrics_reference import order

import camlib
from camlib import InputError, metrics
from camlib.metrics.regions import connected


def maps_and_masks(count=6, height=11, width=13, *, ties=True):
    generator = torch.Generator().manual_seed(7)
    maps = torch.rand(count, height, width, generator=generator, dtype=torch.float64)
    if ties:
        maps = (maps * 6).floor() / 6
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for n in range(count):
        masks[n, n : n + 4, 2 * n : 2 * n + 3] = True
    masks[:, 7, 5] = True
    return maps, masks


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("tolerance", [0, 1, 3, 30])
def test_pointing_game(ties, tolerance):
    maps, masks = maps_and_masks(ties=ties)
    found = metrics.pointing_game(maps, masks, tolerance=tolerance)
    expected = [
        reference.pointing_game(m, mask, tolerance) for m, mask in zip(maps, masks, strict=True)
    ]
    assert found.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("ties", [False, True])
def test_the_others_equal_the_reference(ties):
    maps, masks = maps_and_masks(ties=ties)
    shares = (0.2, 0.5, 1.0)
    overlaps = metrics.iou(maps, masks, shares=shares)
    for n, (heatmap, mask) in enumerate(zip(maps, masks, strict=True)):
        energy = metrics.energy_pointing_game(maps, masks)[n]
        assert float(energy) == pytest.approx(reference.energy(heatmap, mask))
        assert overlaps[n].tolist() == pytest.approx(
            [reference.iou(heatmap, mask, share) for share in shares]
        )
        precision = metrics.pixel_average_precision(maps, masks)[n]
        assert float(precision) == pytest.approx(reference.average_precision(heatmap, mask))
        rank = metrics.relevance_rank_accuracy(maps, masks, seed=3)[n]
        expected = reference.rank_accuracy(heatmap, mask, order(heatmap, 3))
        assert float(rank) == pytest.approx(expected)


@pytest.mark.parametrize("version", [1, 2])
def test_max_box_accuracy(version):
    maps, _ = maps_and_masks(8)
    maps = torch.nn.functional.avg_pool2d(maps[:, None], 3, 1, 1)[:, 0]
    boxes = [torch.tensor([[n, 1, n + 6, 9], [2, n, 9, n + 3]])[: 1 + n % 2] for n in range(8)]
    found = metrics.max_box_accuracy(maps, boxes, version=version, thresholds=9)
    expected = reference.max_box_accuracy(
        maps, [b.tolist() for b in boxes], version=version, thresholds=9
    )
    assert float(found) == pytest.approx(expected)
    assert 0 < expected < 1


def test_version_1_looks_at_the_largest_region_alone():
    heatmap = torch.zeros(1, 12, 16)
    heatmap[0, 1:4, 1:4] = 1
    heatmap[0, 6:11, 5:15] = 1
    small, large = torch.tensor([[1, 1, 4, 4]]), torch.tensor([[5, 6, 15, 11]])
    found = [
        float(metrics.max_box_accuracy(heatmap, box, version=version))
        for version in (1, 2)
        for box in (small, large)
    ]
    assert found == [0, 1, 1, 1]


@pytest.mark.parametrize("seed", range(5))
def test_connected_regions_are_those_of_flooding(seed):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(4, 9, 14, generator=generator) < 0.2 + 0.1 * seed
    masks[1] = False
    masks[2] = True
    found = connected(masks)
    for n, mask in enumerate(masks):
        expected = reference.regions(mask)
        own = (found.maps == n).nonzero()[:, 0].tolist()
        labels = found.labels[n]
        assert (labels >= 0).equal(mask)
        sets = [{tuple(p) for p in (labels == k).nonzero().tolist()} for k in own]
        assert sorted(map(sorted, sets)) == sorted(map(sorted, expected))
        for k, places in zip(own, sets, strict=True):
            assert tuple(found.boxes[k].tolist()) == reference.box(places)
            assert int(found.sizes[k]) == len(places)


def spiral(side=21):
    """One line that turns inwards: what is passed from neighbour to neighbour takes long."""
    mask = torch.zeros(side, side, dtype=torch.bool)
    i = j = 0
    down, across = 0, 1
    mask[0, 0] = True
    for _ in range(side * side):
        a, b = i + 2 * down, j + 2 * across
        outside = not (0 <= a < side and 0 <= b < side)
        if outside or mask[a, b]:
            i, j = (i + down, j + across) if outside and 0 <= i + down < side else (i, j)
            down, across = across, -down
            if mask[min(max(i + down, 0), side - 1), min(max(j + across, 0), side - 1)]:
                break
            continue
        i, j = i + down, j + across
        mask[i, j] = True
    return mask


def test_a_spiral_is_one_region():
    mask = spiral()
    assert len(connected(mask[None]).maps) == len(reference.regions(mask)) == 1
    assert int(mask.sum()) > 60


# What is known exactly.


def object_and_maps():
    mask = torch.zeros(20, 30, dtype=torch.bool)
    mask[5:10, 6:18] = True
    single = torch.zeros(20, 30)
    single[7, 7] = 1
    maps = {
        "perfect": mask.float(),
        "inverted": 1 - mask.float(),
        "uniform": torch.ones(20, 30),
        "single": single,
        "nothing": torch.zeros(20, 30),
    }
    return mask, torch.stack([*maps.values()])


def test_simple_maps_by_hand():
    mask, maps = object_and_maps()
    masks = mask.expand(5, -1, -1)
    share = 60 / 600
    approx = pytest.approx
    assert metrics.energy_pointing_game(maps, masks).tolist() == approx([1, 0, share, 1, 0])
    assert metrics.iou(maps, masks).tolist() == approx([1, 0, share, 1 / 60, 0])
    precision = metrics.pixel_average_precision(maps, masks).tolist()
    assert precision == approx([1, share, share, 1 / 60 + 59 / 60 * share, share])
    assert metrics.pointing_game(maps, masks, tolerance=0).tolist() == approx(
        [1, 0, share, 1, share]
    )
    rank = metrics.relevance_rank_accuracy(maps, masks).tolist()
    assert rank[:2] == [1, 0]
    assert rank[2] == approx(share, abs=0.1)  # a random order of 60 of 600
    # Of those that point at it, the boxes of the perfect map alone are right.
    hits = metrics.box_accuracy(maps, masks)
    assert hits.shape == (5, 100, 3)
    assert hits.mean((1, 2)).tolist() == [1, 0, 0, 0, 0]
    assert float(metrics.max_box_accuracy(maps, masks)) == approx(1 / 5)


def test_boxes_and_masks_say_the_same():
    mask, maps = object_and_maps()
    masks, boxes = mask.expand(5, -1, -1), torch.tensor([[6, 5, 18, 10]]).expand(5, 4)
    for truth in (boxes, list(boxes[:, None])):
        for call in (
            metrics.pointing_game,
            metrics.energy_pointing_game,
            metrics.iou,
            metrics.pixel_average_precision,
            metrics.relevance_rank_accuracy,
            metrics.max_box_accuracy,
        ):
            torch.testing.assert_close(call(maps, truth), call(maps, masks))


def test_several_classes_a_sample():
    maps, masks = maps_and_masks()
    for call in (
        metrics.pointing_game,
        metrics.energy_pointing_game,
        metrics.iou,
        metrics.pixel_average_precision,
        metrics.relevance_rank_accuracy,
    ):
        found = call(maps.reshape(3, 2, 11, 13), masks.reshape(3, 2, 11, 13))
        assert found.shape == (3, 2)
        torch.testing.assert_close(found.flatten(), call(maps, masks))


def test_monotone_changes_do_not_matter_where_order_alone_counts():
    maps, masks = maps_and_masks()
    for call in (
        metrics.pointing_game,
        metrics.pixel_average_precision,
        metrics.relevance_rank_accuracy,
    ):
        torch.testing.assert_close(call(maps.exp() - 9, masks), call(maps, masks))


def test_no_object_does_not_count():
    maps, masks = maps_and_masks()
    masks = masks.clone()
    masks[1] = False
    for call in (
        metrics.pointing_game,
        metrics.energy_pointing_game,
        metrics.iou,
        metrics.pixel_average_precision,
        metrics.relevance_rank_accuracy,
    ):
        assert call(maps, masks).isnan().tolist() == [n == 1 for n in range(6)]
    rest = [0, 2, 3, 4, 5]
    torch.testing.assert_close(
        metrics.max_box_accuracy(maps, masks), metrics.max_box_accuracy(maps[rest], masks[rest])
    )
    large = metrics.energy_pointing_game(maps, masks, largest=0.01)
    assert large.isnan().all()


def test_mean_by_class():
    values = torch.tensor([1.0, 0.0, 1.0, torch.nan, 0.5])
    classes = torch.tensor([7, 7, 3, 3, 9])
    assert float(metrics.mean_by_class(values, classes)) == pytest.approx((0.5 + 1 + 0.5) / 3)
    with pytest.raises(InputError, match="do not fit values"):
        metrics.mean_by_class(values, classes[:2])


def test_localize():
    heatmap = torch.zeros(12, 16)
    heatmap[2:5, 3:9] = 1.0
    heatmap[8:10, 12:14] = 0.9
    heatmap[11, 0] = 0.1
    seen = metrics.localize(heatmap)
    assert seen.boxes[0].tolist() == [[3, 2, 9, 5]]
    assert seen.masks.shape == (1, 12, 16)
    assert int(seen.masks.sum()) == 18
    every = metrics.localize(torch.stack([heatmap, torch.zeros(12, 16)]), share=0.5, parts="all")
    assert [boxes.tolist() for boxes in every.boxes] == [[[3, 2, 9, 5], [12, 8, 14, 10]], []]
    assert every.masks.flatten(1).sum(1).tolist() == [22, 0]
    assert repr(every) == "Regions(masks=(2, 12, 16), boxes=[2, 0])"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, t: metrics.iou(m - 1, t), "iou needs heatmaps of 0 or more"),
        (lambda m, t: metrics.iou(m, t, shares=0), "shares=0 is out of range"),
        (lambda m, t: metrics.iou(m[0], t), r"expected heatmaps \(N, H, W\)"),
        (lambda m, t: metrics.iou(m, t[:2]), "does not fit heatmaps"),
        (lambda m, t: metrics.iou(m / 0, t), "NaN or infinity"),
        (lambda m, t: metrics.pointing_game(m, t, tolerance=-1), "tolerance=-1 is out of range"),
        (lambda m, t: metrics.max_box_accuracy(m, t, version=3), "version=3 is not known"),
        (lambda m, t: metrics.max_box_accuracy(m, t, thresholds=0), "thresholds=0 is out of range"),
        (lambda m, t: metrics.pointing_game(m, t, tolerance="a"), "tolerance='a' is of type str"),
        (lambda m, t: metrics.energy_pointing_game(m, t, largest=2), "largest=2 is out of range"),
        (lambda m, t: metrics.iou(m, t, shares=[]), "shares=.* that is not empty"),
        (lambda m, t: metrics.iou(m, t, share=0.5), "share"),
        (lambda m, t: metrics.relevance_rank_accuracy(m, t, seed=None), "seed=None is"),
        (lambda m, t: metrics.max_box_accuracy(m, t, thresholds=2.5), "thresholds=2.5 is of type"),
        (lambda m, _: metrics.localize(m, share=0), "share=0 is out of range"),
        (lambda m, _: metrics.localize(m, parts="some"), "parts='some' is not known"),
        (lambda m, _: metrics.localize(m[None]), r"expected a heatmap \(H, W\)"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(*maps_and_masks())


def test_figure_draws_the_boxes():
    heatmap = torch.zeros(2, 40, 60)
    heatmap[0, 10:20, 20:50] = 1
    seen = metrics.localize(heatmap)
    picture = torch.zeros(2, 3, 80, 120)
    drawn = camlib.figure(picture, {"Grad-CAM": seen}, views=("overlay", "cells"))
    panels = [axes.images[0].get_array() for axes in drawn.axes if axes.images]
    for panel in (panels[1], panels[3]):
        white = torch.from_numpy(panel == 255).all(2)
        assert panel.shape == (80, 120, 3)
        assert white[20, 40:100].all()
        assert white[20:40, 40].all()
        assert white[39, 40:100].all()
        assert not white[22:38, 42:98].any()
        assert not white[:20].any()
    assert not (panels[5] == 255).all(2).any()
    texts = [text.get_text() for text in drawn.texts]
    assert {"1 region", "0 regions"} <= set(texts)
    assert seen.figure() is not None
    with pytest.raises(InputError, match=r"has the regions of 2 picture\(s\)"):
        camlib.figure(picture[:1], {"Grad-CAM": seen})
