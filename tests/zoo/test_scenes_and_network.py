"""The built-in network, its scenes and its weights."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from importlib.resources import files

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from camlib import zoo
from camlib.errors import InputError
from camlib.zoo import CLASSES, Scene, SceneNet, batch, load, preprocess, scene
from camlib.zoo.drawing import Box, coverage, enlarged
from camlib.zoo.evaluate import average_precision, class_maps, evaluate
from camlib.zoo.train import main, two_classes


@pytest.fixture(scope="module")
def network() -> SceneNet:
    return load()


def dilated(mask: torch.Tensor, pixels: int) -> torch.Tensor:
    return F.max_pool2d(mask[None].float(), 2 * pixels + 1, 1, pixels)[0] > 0


def test_a_seed_gives_the_same_scene_again():
    first, again, other = scene(5), scene(5), scene(6)
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.masks, again.masks)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.image, other.image)


def test_a_seed_gives_the_same_scene_in_every_process_and_release():
    drawn = scene(2)
    assert drawn.names == ("heart", "ring", "heart")
    assert drawn.masks.sum((1, 2)).tolist() == [1209, 998, 1218]
    assert drawn.image.mean((1, 2)).tolist() == pytest.approx([0.478, 0.568, 0.409], abs=2e-3)


def cubic(grid: np.ndarray, size: int) -> np.ndarray:
    """Keys' cubic interpolation with a = -0.75, a pixel at a time, in float64."""

    def kernel(t: float) -> float:
        t, a = abs(t), -0.75
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0

    cells = len(grid)
    found = np.zeros((size, size, 3))
    for row in range(size):
        for column in range(size):
            y, x = ((n + 0.5) * cells / size - 0.5 for n in (row, column))
            for i in range(math.floor(y) - 1, math.floor(y) + 3):
                for j in range(math.floor(x) - 1, math.floor(x) + 3):
                    value = grid[min(max(i, 0), cells - 1), min(max(j, 0), cells - 1)]
                    found[row, column] += kernel(y - i) * kernel(x - j) * value
    return found


@pytest.mark.parametrize(("cells", "size"), [(3, 20), (5, 33), (8, 16)])
def test_noise_is_enlarged_cubically(cells, size):
    grid = np.random.default_rng(cells).uniform(-1, 1, (cells, cells, 3))
    np.testing.assert_allclose(enlarged(grid, size), cubic(grid, size), atol=2e-6)


@pytest.mark.parametrize("size", [64, 100, 128, 160])
def test_noise_is_enlarged_as_opencv_does_to_the_bit(size):
    """The built-in network was trained on scenes drawn with OpenCV."""
    cv2 = pytest.importorskip("cv2")
    for cells in range(3, 9):
        grid = np.random.default_rng(cells).uniform(-1, 1, (cells, cells, 3))
        expected = cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
        assert (enlarged(grid, size) == expected).all()


def test_global_random_state_is_left_alone():
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    scene(0)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert after == states


@pytest.mark.parametrize("size", [64, 128, 200])
def test_a_scene_has_the_shapes_and_types_it_promises(size):
    drawn = scene(3, size=size, classes=["disc", "disc", "star"])
    assert drawn.image.shape == (3, size, size)
    assert drawn.image.dtype == torch.float32
    assert drawn.masks.shape == (3, size, size)
    assert drawn.masks.dtype == torch.bool
    assert drawn.labels.dtype == torch.int64
    assert 0 <= drawn.image.min() < drawn.image.max() <= 1


def test_an_image_survives_eight_bits():
    image = scene(4).image
    assert torch.equal((image * 255).round().byte().float() / 255, image)


def test_scenes_hold_one_to_four_objects_of_every_class():
    scenes = [scene(seed) for seed in range(60)]
    assert {len(drawn.labels) for drawn in scenes} == {1, 2, 3, 4}
    assert torch.stack([drawn.presence for drawn in scenes]).any(0).all()
    assert any(len(set(drawn.names)) < len(drawn.names) for drawn in scenes)


def test_a_mask_is_where_the_object_changed_the_picture():
    for seed in range(20):
        drawn = scene(seed, classes=[seed % 8])
        changed = (drawn.image != scene(seed, classes=[]).image).any(0)
        [mask] = drawn.masks
        # Pixels less than half covered change too: the rim, and some more at a sharp tip.
        assert not (changed & ~dilated(mask, 3)).any()
        # A textured pixel may hit the colour behind it by chance.
        assert changed[mask].float().mean() > 0.98


def test_coverage_is_the_share_of_each_pixel():
    box = Box(slice(0, 8), slice(0, 8))
    rectangle = np.array([[2, 2], [6.5, 2], [6.5, 6], [2, 6]])
    expected = np.zeros((8, 8))
    expected[2:6, 2:6] = 1
    expected[2:6, 6] = 0.5
    np.testing.assert_allclose(coverage([rectangle], box), expected)
    half = np.array([[0.0, 0], [8, 0], [0, 8]])
    np.testing.assert_allclose(coverage([half], box), np.tri(8)[::-1] - np.eye(8)[::-1] / 2)
    frame = coverage([np.array([[0.0, 0], [8, 0], [8, 8], [0, 8]]), rectangle], box)
    np.testing.assert_allclose(frame, 1 - expected)


def test_objects_are_disjoint_and_none_is_hidden():
    for seed in range(60):
        masks = scene(seed).masks
        assert masks.sum(0).max() <= 1
        # The leanest shape, the crescent, at the least radius, less an overlap.
        assert masks.sum((1, 2)).min() > 150


def test_objects_differ_from_what_is_behind_them():
    for seed in range(40):
        drawn = scene(seed, classes=[seed % 8])
        [mask] = drawn.masks
        behind = scene(seed, classes=[]).image[:, mask].mean(1)
        distance = (drawn.image[:, mask] - behind[:, None]).square().sum(0).sqrt()
        assert distance.median() > 0.35


def test_areas_are_those_of_the_shapes():
    areas = {name: scene(9, size=512, classes=[name]).masks.sum().item() for name in CLASSES}
    square = areas["square"] / 2
    expected = {
        "disc": math.pi * 0.9**2,
        "ring": math.pi * (1 - 0.55**2),
        "triangle": 3 * math.sqrt(3) / 4,
        "star": 10 * 0.5 * 0.42 * math.sin(math.pi / 5),
        "cross": 4 * 0.64 * 0.95 - 0.64**2,
    }
    for name, area in expected.items():
        assert areas[name] / square == pytest.approx(area, rel=0.02)


def test_classes_change_the_outline_and_nothing_else():
    for seed in range(8):
        disc, star = scene(seed, classes=["disc"]), scene(seed, classes=["star"])
        in_both = ~dilated(~disc.masks[0], 1) & ~dilated(~star.masks[0], 1)
        in_none = ~dilated(disc.masks[0], 3) & ~dilated(star.masks[0], 3)
        for region in (in_both, in_none):
            assert region.sum() > 50
            assert torch.equal(disc.image[:, region], star.image[:, region])


def test_classes_are_drawn_as_asked_for():
    drawn = scene(11, classes=["star", 1, "star", "heart"])
    assert drawn.names == ("star", "ring", "star", "heart")
    assert drawn.presence.tolist() == [0, 1, 0, 0, 1, 0, 1, 0]
    assert torch.equal(drawn.mask("star"), drawn.masks[0] | drawn.masks[2])
    assert torch.equal(drawn.mask(6), drawn.masks[3])
    assert not drawn.mask("disc").any()


def test_no_classes_give_clutter_alone():
    empty = scene(11, classes=[])
    assert empty.masks.shape == (0, 128, 128)
    assert empty.presence.sum() == 0
    assert empty.image.std() > 0.02


def test_nine_objects_find_room():
    for seed in range(10):
        assert scene(seed, size=64, classes=["cross"] * 9).masks.any(2).any(1).all()


def test_a_batch_stacks_scenes():
    images, presence = batch(range(4, 7), size=96)
    assert images.shape == (3, 3, 96, 96)
    assert torch.equal(images[1], scene(5, size=96).image)
    assert torch.equal(presence[1], scene(5, size=96).presence)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": ["hart"]}, "class 'hart' is not one of the 8 shapes; did you mean 'heart'?"),
        ({"classes": ["??"]}, "class '??' is not one of the 8 shapes; choose one of disc, ring"),
        ({"classes": [8]}, "class 8 is not one of the 8 shapes; pass 0 to 7, or a name: disc"),
        ({"classes": [-1]}, "class -1 is not one of the 8 shapes; pass 0 to 7, or a name: disc"),
        ({"classes": "disc"}, "classes='disc' is not a sequence"),
        (
            {"classes": 3},
            r"classes=3 is not a sequence; expected one entry for each object; pass [3]",
        ),
        ({"classes": [0] * 10}, "classes has 10 objects; expected at most 9"),
        ({"size": 63}, "size=63 is out of range; expected at least 64 pixels"),
        ({"seed": -1}, "seed=-1 is out of range; expected an integer of 0 or more"),
    ],
)
def test_what_cannot_be_drawn_is_explained(arguments, message):
    with pytest.raises(InputError) as caught:
        scene(**({"seed": 0} | arguments))
    assert message in str(caught.value)


def test_a_mask_of_no_class_is_explained():
    with pytest.raises(InputError, match="class 'circle' is not one of the 8 shapes"):
        scene(0).mask("circle")


def test_an_empty_batch_is_explained():
    with pytest.raises(InputError, match="seeds is empty; expected at least one"):
        batch([])


def test_the_network_is_small_and_ends_in_one_linear_layer(network):
    assert sum(parameter.numel() for parameter in network.parameters()) < 750_000
    assert files("camlib.zoo").joinpath("scenenet.pt").stat().st_size < 1_500_000
    assert [name for name, _ in network.named_children()] == ["features", "pool", "classifier"]
    assert sum(isinstance(module, nn.Linear) for module in network.modules()) == 1


@pytest.mark.parametrize(("height", "width"), [(128, 128), (64, 96), (97, 131), (224, 224)])
def test_any_input_size_gives_a_fine_non_negative_grid(network, height, width):
    images = torch.rand(2, 3, height, width)
    with torch.no_grad():
        activation, scores = network.features(images), network(images)
    assert activation.shape[2:] == (math.ceil(height / 8), math.ceil(width / 8))
    assert activation.min() == 0
    assert scores.shape == (2, len(CLASSES))


def test_a_cell_sees_a_window_and_not_the_picture(network):
    pixels = torch.rand(1, 3, 128, 128, requires_grad=True)
    [gradient] = torch.autograd.grad(network.features(pixels)[0, :, 8, 8].sum(), pixels)
    rows = gradient[0].abs().amax((0, 2)).nonzero().flatten()
    assert rows[-1] - rows[0] + 1 == 71


def test_preprocess_centres_a_picture_with_or_without_a_batch():
    image = torch.tensor([0.0, 0.5, 1.0]).expand(3, 4, 3)
    torch.testing.assert_close(preprocess(image)[0, 0], torch.tensor([-2.0, 0.0, 2.0]))
    torch.testing.assert_close(preprocess(image[None])[0], preprocess(image))


def test_loaded_networks_are_ready_and_independent(network):
    other = load()
    assert not any(module.training for module in other.modules())
    assert {tensor.dtype for tensor in other.parameters()} == {torch.float32}
    assert all(tensor.device.type == "cpu" for tensor in other.state_dict().values())
    with torch.no_grad():
        other.classifier.bias += 1
    assert not torch.equal(other.classifier.bias, network.classifier.bias)


def test_loading_leaves_global_random_state_alone():
    state = torch.get_rng_state()
    load()
    assert torch.equal(torch.get_rng_state(), state)


def test_importing_the_zoo_loads_nothing_heavy():
    heavy = ("matplotlib", "torchvision", "PIL", "click")
    code = f"import sys, camlib.zoo; print([name for name in {heavy} if name in sys.modules])"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "[]"
    assert sorted(zoo.__all__) == zoo.__all__


def test_average_precision_is_that_of_the_definition():
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    present = torch.tensor([[1, 0], [0, 0], [1, 0], [0, 1]])
    expected = torch.tensor([(1 / 1 + 2 / 3) / 2, 1], dtype=torch.float64)
    torch.testing.assert_close(average_precision(scores, present), expected)


def test_the_mean_of_a_class_map_is_the_score_less_the_bias(network):
    images, _ = batch(range(4))
    scores, maps = class_maps(network, images)
    with torch.no_grad():
        torch.testing.assert_close(scores, network(preprocess(images)))
        weight = network.classifier.weight[:, :, None, None]
        coarse = F.conv2d(network.features(preprocess(images)), weight)
    torch.testing.assert_close(coarse.mean((2, 3)) + network.classifier.bias, scores)
    # Between the centres of four cells an enlarged map is their mean.
    between = F.avg_pool2d(maps[:, :, 7:, 7:], 2, stride=8)
    torch.testing.assert_close(between, F.avg_pool2d(coarse, 2, stride=1))


@pytest.mark.slow
def test_fresh_scenes_are_recognised(network):
    found = evaluate(network, [scene(seed) for seed in range(10_000, 10_200)])
    assert found.mean_average_precision > 0.97
    assert min(found.average_precision.values()) > 0.95


@pytest.mark.slow
def test_evidence_lies_on_the_class_and_not_on_its_neighbour(network):
    found = evaluate(network, [two_classes(seed) for seed in range(10_000, 10_112)])
    assert found.pointing > 0.9
    assert found.energy > 0.6
    assert found.elsewhere < 0.1


def test_evaluation_tells_evidence_on_the_class_from_evidence_elsewhere(network, monkeypatch):
    masks = torch.zeros(2, 128, 128, dtype=torch.bool)
    masks[0, :32], masks[1, 96:] = True, True
    drawn = Scene(torch.zeros(3, 128, 128), masks, torch.tensor([0, 1]))
    maps = torch.zeros(1, 8, 128, 128)
    maps[0, 0, :16], maps[0, 0, 100:108], maps[0, 0, 40:48] = 1, 2, -5
    maps[0, 1, 0, 0], maps[0, 1, 64, 64] = 1, 3
    monkeypatch.setattr("camlib.zoo.evaluate.class_maps", lambda *_: (torch.zeros(1, 8), maps))
    found = evaluate(network, [drawn])
    assert found.energy == pytest.approx((1 / 2 + 0) / 2)
    assert found.elsewhere == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert found.pointing == 0


def test_the_numbers_beside_the_weights_are_those_of_the_weights(network):
    record = json.loads(files("camlib.zoo").joinpath("scenenet.json").read_text())
    assert record["parameters"] == sum(p.numel() for p in network.parameters())
    assert record["any_classes"]["mean_average_precision"] > 0.97
    assert record["two_classes"]["pointing"] > 0.9


@pytest.mark.slow
def test_training_writes_weights_that_fit_and_numbers(tmp_path):
    sizes = ["--scenes", "128", "--fresh", "8", "--workers", "0"]
    threads = ["--threads", str(torch.get_num_threads())]
    main([*sizes, *threads, "--folder", str(tmp_path)])
    weights = torch.load(tmp_path / "scenenet.pt", weights_only=True)
    SceneNet().load_state_dict(weights)
    assert weights["classifier.weight"].dtype == torch.float16
    record = json.loads((tmp_path / "scenenet.json").read_text())
    assert record["command"] == "python -m camlib.zoo.train --scenes 128"
    assert set(record["two_classes"]["average_precision"]) == set(CLASSES)
