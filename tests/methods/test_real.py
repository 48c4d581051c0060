"""A trained network on a photograph: a dog above, a cat below, and what is said about each.

The boxes were drawn by eye on the 224 x 224 view the network gets. Small networks with random
weights can show that a formula is right; only this shows that the map lies on the animal.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from camlib import (
    CAM,
    CAMERAS,
    Augmented,
    Deconvnet,
    ElementWiseGradCAM,
    GradCAM,
    GuidedBackprop,
    GuidedGradCAM,
    HiResCAM,
    IntegratedGradCAM,
    LayerCAM,
    Saliency,
    ScoreCAM,
    Smooth,
    XGradCAM,
    targets,
)

DATA = Path(__file__).parents[3] / "shared" / "data"
DOG, CAT = 243, 281
BOTH = [[DOG, CAT]]
BOXES = {
    DOG: (slice(0, 153), slice(73, 173)),
    CAT: (slice(120, 224), slice(36, 200)),
}

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(
        not DATA.is_dir(), reason="the real networks and images of ../shared/data are not here"
    ),
]


def imported(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DATA / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def real() -> ModuleType:
    return imported("mobilenet_v2_imagenet")


@pytest.fixture(scope="module")
def model(real) -> nn.Module:
    return real.load()


def photo(real: ModuleType, name: str) -> Tensor:
    from PIL import Image

    return real.preprocess(Image.open(DATA / "photos" / name))


@pytest.fixture(scope="module")
def image(real) -> Tensor:
    return photo(real, "dog_and_cat.png")


def on(heatmap: Tensor, animal: int) -> float:
    """The share of `heatmap` ``(224, 224)`` in the animal's box."""
    return float(heatmap[BOXES[animal]].sum() / heatmap.sum())


def hottest(heatmap: Tensor) -> tuple[int, int]:
    """Row and column of the largest value."""
    return divmod(int(heatmap.argmax()), heatmap.shape[1])


def within(point: tuple[int, int], animal: int) -> bool:
    return all(i in range(b.start, b.stop) for i, b in zip(point, BOXES[animal], strict=True))


def energy(attribution: Tensor) -> Tensor:
    """The absolute values of ``(3, H, W)``, summed over colours."""
    return attribution.abs().sum(0)


def correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


def test_the_network_sees_the_dog_first_and_the_cat_as_well(model, image):
    probability = model(image).softmax(1)[0].detach()
    assert int(probability.argmax()) == DOG
    assert probability[DOG] > 0.5
    assert 0.005 < probability[CAT] < 0.01
    assert GradCAM(model, "features.18").explain(image).target.tolist() == [DOG]


def test_grad_cam_lies_on_the_animal_asked_for(model, image):
    [[dog, cat]] = GradCAM(model, "features.18")(image, BOTH)
    assert within(hottest(dog), DOG)
    assert within(hottest(cat), CAT)
    assert on(dog, DOG) > 0.5 > 0.2 > on(dog, CAT)
    assert on(cat, CAT) > 0.7 > 0.2 > on(cat, DOG)
    assert dog[:112].sum() > 0.8 * dog.sum()
    assert cat[112:].sum() > 0.8 * cat.sum()


def test_the_layer_chosen_by_default_shows_the_same(model, image):
    cam = GradCAM(model)
    torch.testing.assert_close(cam(image, DOG), GradCAM(model, "features.18")(image, DOG))
    assert cam.layers == ("features",)  # the same output, seen from outside


def test_grad_cam_tells_left_from_right(real, model):
    pets = photo(real, "pets.jpg")
    [[greyhound, bull]] = GradCAM(model, "features.18")(pets, [[171, 195]])
    row, column = hottest(greyhound)
    assert row < 112 > column
    row, column = hottest(bull)
    assert row > 112 < column


LAST = "features.18"
ENSEMBLES = {
    "noise": lambda model: Smooth(GradCAM(model, LAST), samples=8, sigma=0.05),
    "views": lambda model: Augmented(GradCAM(model, LAST), scales=(1, 1.3)),
    "sizes": lambda model: CAMERAS(model, LAST, scales=(1, 1.5)),
    "path": lambda model: IntegratedGradCAM(model, LAST, steps=8),
    "layers": lambda model: HiResCAM(model, ["features.13", LAST], fuse="max"),
}


@pytest.mark.slow
@pytest.mark.parametrize("build", ENSEMBLES.values(), ids=ENSEMBLES)
def test_averages_and_fusions_lie_on_the_animal_asked_for(model, image, build):
    [[dog, cat]] = build(model)(image, BOTH)
    assert within(hottest(dog), DOG)
    assert within(hottest(cat), CAT)
    assert on(dog, DOG) > 0.5 > 0.2 > on(dog, CAT)
    assert on(cat, CAT) > 0.65 > 0.2 > on(cat, DOG)


def test_views_of_several_sizes_gather_on_the_animal(model, image):
    [[dog, cat]] = GradCAM(model, LAST)(image, BOTH)
    [[finer_dog, finer_cat]] = Augmented(GradCAM(model, LAST), scales=(1, 1.3))(image, BOTH)
    assert on(finer_dog, DOG) > on(dog, DOG) + 0.02
    assert on(finer_cat, CAT) > on(cat, CAT) + 0.02


def test_flipped_views_are_flipped_back(real, model):
    pets = photo(real, "pets.jpg")
    classes = [[171, 195]]
    found, expected = (
        wrap(GradCAM(model, LAST))(pets, classes)[0] for wrap in (Augmented, lambda cam: cam)
    )
    for one, other in zip(found, expected, strict=True):
        assert correlation(one, other) > 0.9 > 0.5 > correlation(one.flip(1), other)


@pytest.mark.parametrize("method", [LayerCAM, HiResCAM, ElementWiseGradCAM])
def test_an_earlier_layer_shows_each_animal_on_a_finer_grid(model, image, method):
    seen = method(model, "features.13").explain(image, BOTH)
    [[dog, cat]] = seen.heatmap
    assert seen.map.shape == (1, 2, 14, 14)
    assert within(hottest(dog), DOG)
    assert within(hottest(cat), CAT)
    assert on(dog, DOG) > 1.4 * on(dog, CAT)
    assert on(cat, CAT) > 1.4 * on(cat, DOG)


def test_guided_grad_cam_shows_the_animal_asked_for(model, image):
    [[dog, cat]] = GuidedGradCAM(model, "features.18")(image, BOTH)
    assert within(hottest(energy(dog)), DOG)
    assert within(hottest(energy(cat)), CAT)
    assert on(energy(dog), DOG) > 0.85 > 0.1 > on(energy(dog), CAT)
    assert on(energy(cat), CAT) > 0.85 > 0.2 > on(energy(cat), DOG)


def test_guided_backprop_shows_both_animals_whatever_is_asked_for(model, image):
    [[dog, cat]] = GuidedBackprop(model)(image, BOTH)
    assert correlation(dog, cat) > 0.9
    for found in (energy(dog), energy(cat)):
        assert on(found, DOG) > 0.2
        assert on(found, CAT) > 0.2
    [[dog, cat]] = Saliency(model)(image, BOTH)
    assert correlation(dog, cat) < 0.6


def test_deconvnet_of_a_network_without_pooling_hardly_depends_on_the_class(model, image):
    [[dog, cat]] = Deconvnet(model)(image, BOTH)
    assert correlation(dog, cat) > 0.99


def test_mean_of_cam_and_bias_are_the_output(model, image):
    seen = CAM(model, "features.18").explain(image, BOTH)
    mean = seen.map.mean((2, 3)) + model.classifier[1].bias[[DOG, CAT]].detach()
    torch.testing.assert_close(mean, seen.score, atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.score, model(image)[:, [DOG, CAT]].detach())


@pytest.mark.parametrize("method", [GradCAM, HiResCAM, XGradCAM])
def test_pooling_and_a_linear_layer_make_all_of_them_cam(model, image, method):
    cam = CAM(model, "features.18", relu=True).explain(image, BOTH)
    found = method(model, "features.18").explain(image, BOTH)
    torch.testing.assert_close(found.heatmap, cam.heatmap, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.map * 49, cam.map, atol=1e-3, rtol=1e-4)


class Counting(nn.Module):
    """A network that counts the images it sees, and answers only the first three in earnest.

    These are the clean pass, and those that find out where the layer looks and whether samples mix.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.seen: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        return self.model(images) if len(self.seen) <= 3 else images.new_zeros(len(images), 1000)


def test_score_cam_skips_channels_that_are_constant_and_masks_that_are_the_same(model, image):
    channels = [grid for grid in model.features(image).detach()[0].numpy() if np.ptp(grid) > 0]
    assert 0.1 < 1 - len(channels) / 1280 < 0.5
    masks = {((grid - grid.min()) / np.ptp(grid)).tobytes() for grid in channels}
    assert 0.01 < 1 - len(masks) / len(channels) < 0.2
    counting = Counting(model).eval()
    ScoreCAM(counting, "model.features.18", batch_size=64)(image, BOTH)
    assert counting.seen[:3] == [1, 5, 2]
    assert sum(counting.seen[3:]) == len(masks)
    assert max(counting.seen) == 64


def test_score_cam_of_several_classes_equals_single_calls(model, image):
    cam = ScoreCAM(model, "features.18", max_channels=16)
    together = cam.explain(image, BOTH)
    for k, animal in enumerate((DOG, CAT)):
        alone = cam.explain(image, animal)
        torch.testing.assert_close(together.map[:, k], alone.map)
        torch.testing.assert_close(together.heatmap[:, k], alone.heatmap)
        assert within(hottest(alone.heatmap[0]), animal)
        assert on(alone.heatmap[0], animal) > 0.5


@pytest.fixture(scope="module")
def dense() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DATA))
        return imported("deeplabv3_mnv2_pascal")


@pytest.fixture(scope="module")
def segmenter(dense) -> nn.Module:
    return dense.load()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("dog_segmentation", "dog"),
        ("cat", "cat"),
        ("bird_segmentation", "bird"),
        ("grace_hopper", "person"),
    ],
)
def test_evidence_of_a_segment_lies_on_the_object(dense, segmenter, file, name):
    from PIL import Image

    inputs, (height, width) = dense.preprocess(Image.open(DATA / "photos" / f"{file}.png"))
    label = dense.VOC.index(name)
    with torch.no_grad():
        place = (segmenter(inputs).argmax(1) == label)[:, :height, :width]
    seen = HiResCAM(segmenter).explain(inputs, normalize="max")
    assert seen.target.tolist() == [label]
    assert seen.layers == ("concat_projection",)
    evidence = seen.heatmap[:, :height, :width]
    assert (evidence * place).sum() > 0.95 * evidence.sum()
    if name == "bird":
        mask = np.array(Image.open(DATA / "photos" / "bird_segmentation_mask.png")) > 0
        drawn = HiResCAM(segmenter)(inputs, targets.Segment(label, mask), normalize="max")
        assert (drawn[0] * torch.from_numpy(mask)).sum() > 0.94 * drawn.sum()
