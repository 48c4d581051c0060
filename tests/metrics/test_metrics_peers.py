"""Beside the other libraries: equal to 1e-5 where they are right, and where not, whose it is."""

from __future__ import annotations

import functools
import importlib
import warnings

import metrics_reference as reference
import numpy as np
import pytest
import torch
from nets import convolutional, images, spread
from peer import MARKS
from torch import nn

from camlib import GradCAM, Saliency, metrics
from camlib.metrics.similarity import histograms, spearman, ssim

pytestmark = [
    *MARKS,
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

TARGETS = [1, 0, 3]


@pytest.fixture(scope="module")
def quantus():
    """Quantus; what it warns of while it is imported is its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("quantus", reason="install the extra `peers`")


@pytest.fixture
def case():
    """A network, images of 100 pixels, and maps that differ everywhere."""
    net, batch = convolutional(1), images(3, 10, 10)
    maps = torch.rand(3, 10, 10, generator=torch.Generator().manual_seed(4))
    return net, batch, maps


def called(metric, net, batch, maps, *, softmax=False, **options):
    """A metric of Quantus."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return metric(
            model=net,
            x_batch=batch.numpy(),
            y_batch=np.array(TARGETS),
            a_batch=None if maps is None else maps.numpy(),
            softmax=softmax,
            device="cpu",
            channel_first=True,
            **options,
        )


PLAIN = {"disable_warnings": True, "abs": False, "normalise": False, "return_aggregate": False}


# torchcam


class Extractor:
    """Maps that are given, in the shape of torchcam's extractors."""

    def __init__(self, model: nn.Module, maps: torch.Tensor) -> None:
        self.model, self.maps = model, maps

    def __call__(self, *_, **__):
        return [self.maps]

    def fuse_cams(self, cams):
        return cams[0]

    def _hooks_off(self):
        return torch.no_grad()


def test_average_drop_and_increase_equal_torchcam_with_softmax(peers, case):
    theirs = importlib.import_module("torchcam.metrics")
    net, batch, maps = case
    metric = theirs.ClassificationMetric(
        Extractor(net, maps), functools.partial(torch.softmax, dim=-1)
    )
    metric.update(batch, TARGETS)
    found = metric.summary()
    drop = metrics.average_drop(net, batch, maps, TARGETS, tolerance=0).mean() / 100
    increase = metrics.increase_in_confidence(net, batch, maps, TARGETS).mean() / 100
    assert float(drop) == pytest.approx(found["avg_drop"], abs=1e-5)
    assert float(increase) == pytest.approx(found["conf_increase"], abs=1e-5)


def test_torchcam_takes_shares_of_logits_by_default(peers, case):
    theirs = importlib.import_module("torchcam.metrics")
    _, batch, maps = case
    negative = spread(nn.Sequential(nn.Flatten(), nn.Linear(300, 4)))
    negative[1].bias.data -= 100
    metric = theirs.ClassificationMetric(Extractor(negative, maps))
    metric.update(batch, TARGETS)
    # A drop is a share of at least nothing; of negative logits it comes out below.
    assert metric.summary()["avg_drop"] < 0
    found = metrics.average_drop(negative, batch, maps, TARGETS)
    assert bool(((found >= 0) & (found <= 100)).all())


@pytest.mark.parametrize("steps", [1, 10, 20, 100])
def test_deletion_and_insertion_equal_torchcam_where_steps_are_whole(peers, case, steps):
    theirs = importlib.import_module("torchcam.metrics")
    net, batch, maps = case
    metric = theirs.DeletionInsertionMetric(
        Extractor(net, maps), functools.partial(torch.softmax, dim=-1), steps=steps
    )
    metric.update(batch, TARGETS)
    options = {"step": 100 // steps, "baseline": "zero"}
    for name in ("deletion", "insertion"):
        found = getattr(metrics, name)(net, batch, maps, TARGETS, **options).mean()
        assert float(found) == pytest.approx(getattr(metric, name) / 3, abs=1e-5)


def test_ties_go_by_rows_in_torchcam(peers):
    """A map of two halves: half of the pixels are equal, and a random order is no order by rows."""
    theirs = importlib.import_module("torchcam.metrics")

    class Corner(nn.Module):
        def forward(self, batch):
            return batch[:, 0, 5:8].mean((1, 2))[:, None] * torch.tensor([1.0, -1])

    net, batch, maps = Corner(), torch.ones(1, 3, 10, 10), torch.zeros(1, 10, 10)
    maps[:, :5] = 1
    metric = theirs.DeletionInsertionMetric(Extractor(net, maps), steps=100)
    metric.update(batch, [0])
    by_rows = torch.cat([torch.ones(51), 1 - torch.arange(1, 31) / 30, torch.zeros(20)])
    assert metric.deletion == pytest.approx(reference.area(by_rows.tolist()), abs=1e-5)
    areas = [
        float(metrics.deletion(net, batch, maps, 0, step=1, score="logit", seed=seed))
        for seed in range(20)
    ]
    # On average the rest goes as a straight line: an area of a half and a quarter.
    assert np.mean(areas) == pytest.approx(0.75, abs=0.01)
    assert metric.deletion < 0.7


# grad-cam


def test_road_equals_grad_cam(peers, case):
    theirs = importlib.import_module("pytorch_grad_cam.metrics.road")
    net, batch, maps = case
    targets = [peers["target"](target) for target in TARGETS]
    found = metrics.road(net, batch, maps, TARGETS, score="logit", noise=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs.torch, "randn_like", torch.zeros_like)
        expected = theirs.ROADCombined()(batch, maps.numpy(), targets, net)
    torch.testing.assert_close(found, torch.from_numpy(expected), atol=1e-5, rtol=0)


def test_grad_cam_removes_all_that_is_equal_at_once(peers):
    """Of a map with a plateau, the share that goes is not the one asked for."""
    theirs = importlib.import_module("pytorch_grad_cam.metrics.road")
    seen = []
    maps = torch.zeros(1, 10, 10)
    maps[0, :2] = 1

    def imputer(image, mask):
        seen.append(float((mask == 0).float().mean()))
        return image

    theirs.RemoveMostRelevantFirst(50, imputer)(torch.zeros(3, 10, 10), maps[0])
    assert seen == [1.0]

    batch, changed = torch.rand(1, 3, 10, 10), []

    class Watching(nn.Module):
        def forward(self, images):
            changed.append(int((images[-1] != batch[0]).any(0).sum()))
            return images.mean((2, 3))

    metrics.road(Watching(), batch, maps, 0, order="most", shares=(0.5,), batch_size=1)
    assert changed[0] == 0
    assert changed[-1] == 50


def test_arcc_and_its_parts_equal_grad_cam(peers, case):
    theirs = importlib.import_module("pytorch_grad_cam.metrics.arcc")
    road = importlib.import_module("pytorch_grad_cam.metrics.road")
    net, batch, maps = case
    targets = [peers["target"](target) for target in TARGETS]

    def method(images, classes):
        return (images * torch.tensor([0.3, -1, 0.7])[:, None, None]).sum(1)

    def base(input_tensor, targets):
        return method(input_tensor, None).numpy()

    found = metrics.faithfulness(
        net,
        batch,
        maps,
        TARGETS,
        metrics={
            "coherency": {},
            "complexity": {},
            "arcc": {"score": "logit", "noise": 0, "shares": (0.2, 0.4, 0.6, 0.8)},
        },
        method=method,
    )
    arrays = batch, maps.numpy(), targets, net
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(road.torch, "randn_like", torch.zeros_like)
        expected = theirs.ARCC(base)(*arrays)
    assert found["arcc"].numpy() == pytest.approx(expected, abs=1e-5)
    assert found["coherency"].numpy() == pytest.approx(theirs.Coherency()(*arrays, base), abs=1e-5)
    assert found["complexity"].numpy() == pytest.approx(theirs.Complexity()(maps.numpy()), abs=1e-5)


def test_grad_cam_drops_logits_and_not_shares_of_them(peers, case):
    theirs = importlib.import_module("pytorch_grad_cam.metrics.cam_mult_image")
    net, batch, maps = case
    targets = [peers["target"](target) for target in TARGETS]
    found = theirs.DropInConfidence()(batch, maps.numpy(), targets, net)
    with torch.no_grad():
        clean, masked = net(batch), net(batch * maps[:, None])
    rows = torch.arange(3)
    drop = (clean - masked)[rows, TARGETS].clamp(min=0)
    assert found == pytest.approx(drop.numpy(), abs=1e-5)
    share = (clean.softmax(1) - masked.softmax(1))[rows, TARGETS].clamp(min=0)
    share = 100 * share / clean.softmax(1)[rows, TARGETS]
    own = metrics.average_drop(net, batch, maps, TARGETS, tolerance=0)
    torch.testing.assert_close(own, share, atol=1e-3, rtol=1e-5)


# captum


@pytest.mark.parametrize("normalize", [False, True])
def test_infidelity_equals_captum(peers, case, normalize):
    theirs = importlib.import_module("captum.metrics")
    net, batch, _ = case
    values = Saliency(net)(batch, TARGETS)
    draws = 0.3 * torch.randn(8, 3, 10, 10, generator=torch.Generator().manual_seed(1))

    def perturb(inputs):
        own = draws.repeat(len(inputs) // len(draws), 1, 1, 1)
        return own, inputs - own

    expected = theirs.infidelity(
        net,
        perturb,
        batch,
        values,
        target=torch.tensor(TARGETS),
        n_perturb_samples=8,
        normalize=normalize,
    )
    found = metrics.infidelity(
        net,
        batch,
        values,
        TARGETS,
        change=lambda image, n: draws[n].expand_as(image),
        draws=8,
        normalize=normalize,
    )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_sensitivity_max_equals_captum(peers, case):
    theirs = importlib.import_module("captum.metrics")
    net, batch, _ = case
    method = Saliency(net)
    values = method(batch, TARGETS)
    generator = torch.Generator().manual_seed(0)
    draws = 0.1 * (2 * torch.rand(6, 3, 10, 10, generator=generator) - 1)

    def explain(inputs, target):
        several = isinstance(inputs, tuple)
        found = method(inputs[0] if several else inputs, target)
        return (found,) if several else found

    expected = theirs.sensitivity_max(
        explain,
        batch,
        lambda inputs: inputs + draws.repeat(len(inputs) // len(draws), 1, 1, 1),
        n_perturb_samples=6,
        target=torch.tensor(TARGETS),
    )
    found = metrics.sensitivity_max(net, batch, values, TARGETS, method=method, radius=0.1, draws=6)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


# Quantus


def test_faithfulness_correlation_equals_quantus_on_attributions_of_grey_images(
    quantus, monkeypatch
):
    net = spread(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(256, 4)))
    batch = images(3, 10, 10)[:, :1].contiguous()
    maps = torch.rand(3, 10, 10, generator=torch.Generator().manual_seed(4))
    found = metrics.faithfulness_correlation(net, batch, maps, TARGETS, draws=9, size=30)
    generator = torch.Generator().manual_seed(0)
    subsets = [torch.randperm(100, generator=generator)[:30].numpy() for _ in range(9)]
    order = iter([subset for subset in subsets for _ in range(3)])
    monkeypatch.setattr(np.random, "choice", lambda *_, **__: next(order))
    metric = quantus.FaithfulnessCorrelation(
        nr_runs=9, subset_size=30, perturb_baseline=0.0, **PLAIN
    )
    expected = called(metric, net, batch, maps[:, None])
    assert found.numpy() == pytest.approx(np.array(expected), abs=1e-5)


def test_localisation_equals_quantus(quantus, case):
    net, batch, maps = case
    masks = torch.zeros(3, 10, 10, dtype=torch.bool)
    for n in range(3):
        masks[n, n : n + 5, 2 : 8 - n] = True
    truth = {"s_batch": masks[:, None].numpy()}
    for name, own in [
        ("PointingGame", metrics.pointing_game(maps, masks, tolerance=0)),
        ("RelevanceMassAccuracy", metrics.energy_pointing_game(maps, masks)),
        ("RelevanceRankAccuracy", metrics.relevance_rank_accuracy(maps, masks)),
    ]:
        metric = getattr(quantus, name)(**PLAIN)
        expected = np.array(called(metric, net, batch, maps[:, None], **truth), dtype=float)
        assert own.numpy() == pytest.approx(expected.reshape(3), abs=1e-5), name


def test_any_of_equal_peaks_is_a_hit_for_quantus(quantus, case):
    """A map that is flat but for a place; here it hits as often as a random peak."""
    net, batch, _ = case
    ones = torch.ones(3, 10, 10)
    ones[:, 9, 9] = 0.5
    masks = torch.zeros(3, 10, 10, dtype=torch.bool)
    masks[:, 0, 0] = True
    metric = quantus.PointingGame(**PLAIN)
    theirs = called(metric, net, batch, ones[:, None], s_batch=masks[:, None].numpy())
    assert np.array(theirs).all()
    assert metrics.pointing_game(ones, masks, tolerance=0).tolist() == pytest.approx([1 / 99] * 3)


def test_pixel_average_precision_equals_scikit_learn(quantus, case):
    sklearn = importlib.import_module("sklearn.metrics")
    maps = (case[2] * 9).floor()
    masks = case[1][:, 0] > 0
    expected = [
        sklearn.average_precision_score(mask.flatten().numpy(), values.flatten().numpy())
        for mask, values in zip(masks, maps, strict=True)
    ]
    assert metrics.pixel_average_precision(maps, masks).numpy() == pytest.approx(expected)


def test_similarities_equal_scikit_image_and_scipy(quantus):
    measure = importlib.import_module("skimage.metrics").structural_similarity
    feature = importlib.import_module("skimage.feature").hog
    stats = importlib.import_module("scipy.stats")
    generator = torch.Generator().manual_seed(0)
    one, other = torch.rand(2, 2, 70, 64, generator=generator, dtype=torch.float64)
    one = (one * 7).floor()
    scaled = [
        (m - m.amin((1, 2), True)) / (m.amax((1, 2), True) - m.amin((1, 2), True))
        for m in (one, other)
    ]
    for n in range(2):
        a, b = (m[n].numpy() for m in scaled)
        assert float(ssim(one, other)[n]) == pytest.approx(measure(a, b, data_range=1.0), abs=1e-5)
        expected = stats.spearmanr(a.flatten(), b.flatten())[0]
        assert float(spearman(one, other)[n]) == pytest.approx(expected, abs=1e-5)
        expected = feature(b, pixels_per_cell=(16, 16))
        assert histograms(scaled[1])[n].numpy() == pytest.approx(expected, abs=1e-5)


def test_parameter_randomisation_equals_quantus(quantus, case):
    """The same weights on both sides: those that Quantus draws, layer by layer."""
    net, batch, _ = case
    cam = Saliency(net)
    maps = cam(batch, TARGETS).sum(1)

    def theirs(model, inputs, targets, **_):
        return (
            Saliency(model)(torch.as_tensor(inputs), targets.tolist()).sum(1, keepdim=True).numpy()
        )

    metric = quantus.MPRT(
        layer_order="top_down",
        seed=3,
        similarity_func=quantus.correlation_spearman,
        return_average_correlation=False,
        return_last_correlation=False,
        skip_layers=False,
        **PLAIN,
    )
    expected = called(metric, net, batch, maps[:, None], explain_func=theirs)
    randomised = importlib.import_module("camlib.metrics.randomised")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(randomised, "_seed", lambda name, seed: 4)
        seen = metrics.parameter_randomisation(
            net,
            batch,
            maps,
            TARGETS,
            method=lambda x, c: cam(x, c).sum(1),
            weights="reset",
            similarity="spearman",
        )
    for layer, values in zip(seen.layers, seen.similarity["spearman"], strict=True):
        assert values.numpy() == pytest.approx(np.array(expected[layer]), abs=1e-5), layer


def test_random_logit_equals_quantus(quantus, case):
    net, batch, _ = case
    cam = GradCAM(net, "features", relu=False)
    maps = cam(batch, TARGETS)

    def theirs(model, inputs, targets, **_):
        return cam(torch.as_tensor(inputs), np.asarray(targets).tolist())[:, None].numpy()

    step = int(torch.randint(1, 4, (), generator=torch.Generator().manual_seed(0)))
    places = [(t + step) % 4 - ((t + step) % 4 > t) for t in TARGETS]
    metric = quantus.RandomLogit(
        num_classes=4, similarity_func=quantus.correlation_spearman, seed=1, **PLAIN
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "randint", lambda *_: np.array(places))
        expected = called(metric, net, batch, maps[:, None], explain_func=theirs)
    found = metrics.random_logit(net, batch, maps, TARGETS, method=cam, similarity="spearman")
    assert found.numpy() == pytest.approx(np.array(expected), abs=1e-5)
