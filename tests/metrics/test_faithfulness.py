"""Whether the model heeds what a map shows: against slow references, and what is known exactly."""

from __future__ import annotations

import metrics_reference as reference
import pytest
import torch
from nets import Net, convolutional, dense, features, images, spread
from snapshot import snapshot
from torch import Tensor, nn

import camlib
from camlib import GradCAM, InputError, OptionError, Saliency, metrics
from camlib.metrics import FAITHFULNESS

TARGETS = [1, 3]


def probability(net, target):
    return lambda image: float(net(image[None]).softmax(1)[0, target].detach())


def logit(net, target):
    return lambda image: float(net(image[None])[0, target].detach())


@pytest.fixture
def case():
    """A network in float64, two images, and maps that differ everywhere."""
    net, batch = convolutional(1).double(), images(2, 8, 9).double()
    generator = torch.Generator().manual_seed(4)
    maps = torch.rand(2, 8, 9, generator=generator, dtype=torch.float64)
    return net, batch, maps


class Patch(nn.Module):
    """Two classes whose logits are the mean of a region of ones, and its opposite."""

    def __init__(self, scale: float = 6.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, batch: Tensor) -> Tensor:
        mean = self.scale * batch[:, :, 2:5, 3:7].mean((1, 2, 3))
        return torch.stack([mean, -mean], 1)


REGION = torch.zeros(8, 8)
REGION[2:5, 3:7] = 1


@pytest.mark.parametrize("name", ["average_drop", "increase_in_confidence", "average_gain"])
def test_confidence_equals_the_reference(case, name):
    net, batch, maps = case
    found = getattr(metrics, name)(net, batch, maps, TARGETS, tolerance=0)
    expected = [
        getattr(reference, name)(probability(net, target), batch[n], maps[n])
        for n, target in enumerate(TARGETS)
    ]
    torch.testing.assert_close(found, torch.tensor(expected).double(), check_dtype=False)


@pytest.mark.parametrize("insert", [False, True])
@pytest.mark.parametrize("step", [1, 5, 72, 100])
@pytest.mark.parametrize("ties", [False, True])
def test_curves_equal_the_reference(case, insert, step, ties):
    net, batch, maps = case
    maps = (maps - 0.5).relu() if ties else maps
    call = metrics.insertion if insert else metrics.deletion
    found = call(net, batch, maps, TARGETS, step=step, seed=3, curve=True, batch_size=7)
    areas = call(net, batch, maps, TARGETS, step=step, seed=3)
    for n, target in enumerate(TARGETS):
        image = batch[n]
        start, finish = image, torch.zeros_like(image)
        if insert:
            start, finish = reference.rise_blur(image), image
        score = probability(net, target)
        expected = reference.curve(score, start, finish, maps[n], step, 3)
        torch.testing.assert_close(found[n], torch.tensor(expected, dtype=found.dtype))
        assert float(areas[n]) == pytest.approx(reference.area(expected))


@pytest.mark.parametrize("order", ["most", "least", "combined"])
def test_road_equals_the_reference(case, order):
    net, batch, maps = case
    shares = (0.2, 0.5, 0.9)
    found = metrics.road(net, batch, maps, TARGETS, order=order, shares=shares, noise=0)
    for n, target in enumerate(TARGETS):
        most, least = (
            reference.road(probability(net, target), batch[n], maps[n], shares, 0, most=most)
            for most in (True, False)
        )
        expected = {"most": sum(most) / 3, "least": sum(least) / 3}
        expected["combined"] = (expected["least"] - expected["most"]) / 2
        assert float(found[n]) == pytest.approx(expected[order], abs=1e-6)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kind", ["map", "attribution"])
def test_infidelity_equals_the_reference(case, normalize, kind):
    net, batch, maps = case
    values = maps if kind == "map" else batch.sin()
    changes = torch.randn(5, *batch.shape[1:], generator=torch.Generator().manual_seed(1)).double()
    found = metrics.infidelity(
        net,
        batch,
        values,
        TARGETS,
        change=lambda image, number: changes[number].expand_as(image),
        draws=5,
        normalize=normalize,
        batch_size=3,
    )
    for n, target in enumerate(TARGETS):
        spread_out = values[n].expand_as(batch[n])
        expected = reference.infidelity(
            logit(net, target), batch[n], spread_out, changes, normalize=normalize
        )
        assert float(found[n]) == pytest.approx(expected)


def test_squares_are_taken_whole(case):
    net, batch, maps = case
    seen = []

    class Watching(nn.Module):
        def forward(self, images):
            seen.append(images)
            return net(images)

    metrics.infidelity(Watching(), batch, maps, 1, draws=20, side=3, batch_size=1)
    taken = [each == 0 for each in seen if len(each) == 1 and bool((each == 0).any())]
    assert len(taken) == 40
    assert {int(each[:, 0].sum()) for each in taken} == {9}
    assert all(bool((each == each[:, :1]).all()) for each in taken)


def test_faithfulness_correlation_equals_the_reference(case):
    net, batch, maps = case
    found = metrics.faithfulness_correlation(net, batch, maps, TARGETS, draws=12, size=20, seed=5)
    generator = torch.Generator().manual_seed(5)
    subsets = []
    for _ in range(12):
        subset = torch.zeros(72, dtype=torch.bool)
        subset[torch.randperm(72, generator=generator)[:20]] = True
        subsets.append(subset.reshape(8, 9))
    for n, target in enumerate(TARGETS):
        expected = reference.faithfulness_correlation(
            logit(net, target), batch[n], maps[n], subsets, torch.zeros_like(batch[n])
        )
        assert float(found[n]) == pytest.approx(expected)


def test_metrics_that_ask_again_equal_the_reference(case):
    net, batch, _ = case
    cam = GradCAM(net, "features", relu=False)
    maps = cam(batch, TARGETS)
    draws = (
        2 * torch.rand(3, *batch.shape[1:], generator=torch.Generator().manual_seed(2)) - 1
    ) / 9
    found = metrics.faithfulness(
        net,
        batch,
        maps,
        TARGETS,
        metrics={
            "coherency": {},
            "complexity": {},
            "sensitivity_max": {"radius": 1 / 9, "draws": 3, "seed": 2},
            "adcc": {},
            "arcc": {"shares": (0.3, 0.6), "noise": 0},
        },
        method=cam,
        batch_size=4,
    )
    for n, target in enumerate(TARGETS):

        def explain(image, target=target):
            return cam(image[None], target)[0].double()

        own, score = maps[n].double(), probability(net, target)
        coherency = reference.coherency(explain, batch[n], own)
        complexity = reference.complexity(own)
        assert float(found["coherency"][n]) == pytest.approx(coherency, abs=1e-5)
        assert float(found["complexity"][n]) == pytest.approx(complexity, abs=1e-5)
        assert float(found["sensitivity_max"][n]) == pytest.approx(
            reference.sensitivity_max(explain, batch[n], own, draws.double()), abs=1e-5
        )
        drop = reference.average_drop(score, batch[n], own) / 100
        expected = reference.harmonic(coherency, 1 - complexity, 1 - drop)
        assert float(found["adcc"][n]) == pytest.approx(expected, abs=1e-5)
        most, least = (
            reference.road(score, batch[n], own, (0.3, 0.6), 0, most=most) for most in (True, False)
        )
        road = sum(b - a for a, b in zip(most, least, strict=True)) / 4
        expected = reference.harmonic(coherency, 1 - complexity, min(1, max(0, 2 * road)))
        assert float(found["arcc"][n]) == pytest.approx(expected, abs=1e-5)


# What is known exactly.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_a_map_of_ones_scores_exactly_nothing(dtype, batch_size):
    net, batch = convolutional().to(dtype), images(5).to(dtype)
    ones = torch.ones(5, 8, 8)
    names = ["average_drop", "increase_in_confidence", "average_gain"]
    found = metrics.faithfulness(net, batch, ones, metrics=names, batch_size=batch_size)
    assert all(not bool(values.any()) for values in found.values())


def test_nearly_ones_is_nothing_too_but_for_a_tolerance_of_zero():
    net, batch = convolutional(), images(40)
    nearly = torch.ones(40, 8, 8)
    nearly[:, 0, 0] = 1 - 1e-6
    assert not bool(metrics.increase_in_confidence(net, batch, nearly).any())
    assert bool(metrics.increase_in_confidence(net, batch, nearly, tolerance=0).any())


def test_a_model_that_answers_the_mean_of_a_region():
    net, batch = Patch().double(), torch.ones(1, 3, 8, 8).double()
    p = float(torch.tensor(12.0).double().sigmoid())
    perfect, inverted, nothing = REGION[None], 1 - REGION[None], torch.zeros(1, 8, 8)
    for heatmap, left in [(perfect, p), (inverted, 0.5), (nothing, 0.5)]:
        drop = metrics.average_drop(net, batch, heatmap, 0)
        assert float(drop) == pytest.approx(100 * (p - left) / p, abs=1e-4)
    # Half of the region alone: a mean of a half.
    half = REGION[None].clone()
    half[:, :, 5:] = 0
    left = float(torch.tensor(6.0).double().sigmoid())
    assert float(metrics.average_drop(net, batch, half, 0)) == pytest.approx(100 * (p - left) / p)
    # The other class gains by what hides the region.
    assert float(metrics.increase_in_confidence(net, batch, inverted, 1)) == 100
    gain = metrics.average_gain(net, batch, inverted, 1)
    assert float(gain) == pytest.approx(100 * (0.5 - (1 - p)) / p)


@pytest.mark.parametrize(("metric", "better"), [("deletion", min), ("insertion", max)])
def test_perfect_beats_uniform_beats_inverted(metric, better):
    net, batch = Patch().double(), torch.ones(1, 3, 8, 8).double()
    maps = {"perfect": REGION, "uniform": torch.ones(8, 8), "inverted": 1 - REGION}
    call = getattr(metrics, metric)
    found = {
        name: float(call(net, batch, heatmap[None], 0, step=1, baseline="zero"))
        for name, heatmap in maps.items()
    }
    assert better(found.values()) == found["perfect"]
    assert sorted(found.values()).index(found["uniform"]) == 1


def test_curves_of_a_linear_score_by_hand():
    net, batch = Patch(2.0).double(), torch.ones(1, 3, 8, 8).double()
    found = metrics.deletion(net, batch, REGION[None], 0, step=1, score="logit", curve=True)
    expected = [max(0.0, 2 - 2 * n / 12) for n in range(65)]
    torch.testing.assert_close(found[0], torch.tensor(expected).double())
    single = torch.zeros(1, 8, 8)
    single[0, 2, 3] = 1
    found = metrics.insertion(
        net, batch, single, 0, step=1, score="logit", curve=True, baseline="zero"
    )
    assert float(found[0, 1]) == pytest.approx(2 / 12)


def test_the_area_of_a_constant_model_is_its_constant():
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    nn.init.zeros_(net[1].weight)
    for call in (metrics.deletion, metrics.insertion):
        found = call(net, images(2), torch.rand(2, 8, 8), 2, score="logit")
        torch.testing.assert_close(found, net[1].bias[2].detach().expand(2))


def test_insertion_backwards_is_deletion_of_the_negative(case):
    net, batch, maps = case
    options = {"step": 5, "baseline": "blur", "curve": True}
    # Without ties, and with pixels that fill the steps.
    batch, maps = batch[..., :5], maps[..., :5]
    inserted = metrics.insertion(net, batch, maps, 1, **options)
    deleted = metrics.deletion(net, batch, -maps, 1, **options)
    torch.testing.assert_close(inserted.flip(1), deleted)


def test_road_prefers_the_map_that_is_right():
    net, batch = Patch().double(), torch.zeros(1, 3, 8, 8).double()
    batch[..., 2:5, 3:7] = 1
    right = metrics.road(net, batch, REGION[None], 0)
    wrong = metrics.road(net, batch, 1 - REGION[None], 0)
    assert float(right) > 0 > float(wrong)
    torch.testing.assert_close(right, -wrong, atol=0.02, rtol=0)


def test_infidelity_of_the_gradient_of_a_linear_score_is_zero():
    net, batch = Patch(2.0).double(), images(2).double()
    gradient = Saliency(net)(batch, 0)
    for change in ("square", "gaussian"):
        found = metrics.infidelity(net, batch, gradient, 0, change=change, normalize=False)
        assert float(found.abs().max()) < 1e-10
        scaled = metrics.infidelity(net, batch, 7 * gradient, 0, change=change)
        assert float(scaled.abs().max()) < 1e-10
    twice = metrics.infidelity(net, batch, 7 * gradient, 0, normalize=False)
    assert bool((twice > 1e-3).all())


def test_faithfulness_correlation_of_what_a_score_sums_is_one():
    net, batch = Patch(2.0).double(), images(2).double()
    shares = Saliency(net)(batch, 0).double() * batch
    found = metrics.faithfulness_correlation(net, batch, shares, 0)
    torch.testing.assert_close(found, torch.ones(2, dtype=found.dtype))
    constant = metrics.faithfulness_correlation(net, batch, torch.ones(2, 8, 8), 0)
    assert constant.tolist() == [0, 0]


def test_complexity_and_coherency_of_simple_maps():
    net, batch = convolutional(), images(1)
    single = torch.zeros(1, 8, 8)
    single[0, 3, 3] = 1
    assert float(metrics.complexity(torch.ones(1, 8, 8))) == 1
    assert float(metrics.complexity(single)) == pytest.approx(1 / 64)
    same = metrics.coherency(net, batch, single, method=lambda _, __: single)
    opposite = metrics.coherency(net, batch, single, method=lambda _, __: 1 - single)
    flat = metrics.coherency(net, batch, torch.ones(1, 8, 8), method=lambda _, __: single)
    assert [float(same), float(opposite), float(flat)] == pytest.approx([1, 0, 0.5])
    # A map of ones is as complex as can be: no drop helps it.
    assert float(metrics.adcc(net, batch, torch.ones(1, 8, 8), method=lambda _, __: single)) == 0


def test_a_map_that_does_not_change_is_not_sensitive():
    net, batch = convolutional(), images(2)
    fixed = torch.rand(2, 8, 8)
    found = metrics.sensitivity_max(
        net,
        batch,
        fixed[:1].expand(2, -1, -1),
        method=lambda x, _: fixed[:1].expand(len(x), -1, -1),
    )
    assert found.tolist() == [0, 0]


# Of one call.


EVERY = {
    name: {"draws": 4}
    if name in ("infidelity", "faithfulness_correlation", "sensitivity_max")
    else {}
    for name in FAITHFULNESS
}


@pytest.mark.parametrize("batch_size", [1, 5])
def test_batch_size_does_not_matter(case, batch_size):
    net, batch, _ = case
    cam = GradCAM(net, "features", relu=False)
    maps = cam(batch, 1)
    one, other = (
        metrics.faithfulness(net, batch, maps, 1, metrics=EVERY, method=cam, batch_size=size)
        for size in (batch_size, None)
    )
    for name in EVERY:
        torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-6)


def test_a_batch_equals_each_image_alone(case):
    net, batch, _ = case
    cam = GradCAM(net, "features", relu=False)
    maps = cam(batch, TARGETS)
    found = metrics.faithfulness(net, batch, maps, TARGETS, metrics=EVERY, method=cam)
    for n, target in enumerate(TARGETS):
        alone = metrics.faithfulness(
            net, batch[n : n + 1], maps[n : n + 1], target, metrics=EVERY, method=cam
        )
        for name in EVERY:
            torch.testing.assert_close(alone[name][0], found[name][n], rtol=1e-5, atol=1e-6)


def test_several_classes_with_a_map_each_equal_each_alone(case):
    net, batch, _ = case
    cam = GradCAM(net, "features", relu=False)
    classes = [[0, 2, 3], [1, 0, 2]]
    maps = cam(batch, classes)
    found = metrics.faithfulness(net, batch, maps, classes, metrics=EVERY, method=cam, batch_size=7)
    for k in range(3):
        target = [row[k] for row in classes]
        alone = metrics.faithfulness(net, batch, maps[:, k], target, metrics=EVERY, method=cam)
        for name in EVERY:
            assert found[name].shape == (2, 3)
            torch.testing.assert_close(found[name][:, k], alone[name], rtol=1e-5, atol=1e-6)


def test_metrics_by_name_are_those_of_the_functions(case):
    net, batch, _ = case
    cam = GradCAM(net, "features", relu=False)
    maps = cam(batch, 1)
    found = metrics.faithfulness(net, batch, maps, 1, metrics=list(FAITHFULNESS), method=cam)
    for name in FAITHFULNESS:
        call = getattr(metrics, name)
        asking = name in ("coherency", "sensitivity_max", "adcc", "arcc")
        options = {"method": cam} if asking else {}
        own = call(maps) if name == "complexity" else call(net, batch, maps, 1, **options)
        torch.testing.assert_close(found[name], own, rtol=1e-5, atol=1e-6, check_dtype=False)


def test_several_classes_may_share_a_map(case):
    net, batch, maps = case
    names = ["average_drop", "deletion", "road", "infidelity", "complexity"]
    found = metrics.faithfulness(net, batch, maps, [[0, 2]], metrics=names)
    for k, target in enumerate([0, 2]):
        alone = metrics.faithfulness(net, batch, maps, target, metrics=names)
        for name in names:
            torch.testing.assert_close(found[name][:, k], alone[name], rtol=1e-5, atol=1e-7)


class Counting(Net):
    """Counts the images that it sees, and the largest batch."""

    count = most = 0

    def __init__(self, net: Net) -> None:
        super().__init__(net.features, net.tail)

    def forward(self, batch):
        type(self).count += len(batch)
        type(self).most = max(type(self).most, len(batch))
        return super().forward(batch)


def test_metrics_of_one_call_share_their_passes():
    net, batch, maps = Counting(convolutional()).eval(), images(4), torch.rand(4, 8, 8)
    names = ["average_drop", "increase_in_confidence", "average_gain", "insertion", "deletion"]
    metrics.faithfulness(net, batch, maps, metrics=["average_drop"])  # finds out how to batch
    Counting.count = Counting.most = 0
    metrics.faithfulness(net, batch, maps, metrics=names, batch_size=6)
    points = 22 - 1  # 64 pixels by 3, without the ends
    assert Counting.count == 4 + 4 * (1 + (1 + points) + (1 + points))
    assert Counting.most == 6
    Counting.count = 0
    same = {"insertion": {"baseline": "zero"}, "deletion": {}}
    metrics.faithfulness(net, batch, maps, metrics=same)
    assert Counting.count == 4 + 4 * (1 + 2 * points)  # one blank image for both


@pytest.mark.parametrize("failing", [False, True])
def test_the_model_is_left_as_found(failing):
    net, batch = spread(Net(features(), convolutional().tail)), images(2)
    net.train()
    before = snapshot(net)
    cam = GradCAM(net, "features", relu=False)
    maps = cam(batch, 1)

    def method(*_):
        raise KeyboardInterrupt

    options = {"metrics": EVERY, "method": method if failing else cam}
    if failing:
        with pytest.raises(KeyboardInterrupt):
            metrics.faithfulness(net, batch, maps, 1, **options)
    else:
        metrics.faithfulness(net, batch, maps, 1, **options)
    assert snapshot(net) == before


def test_other_models_inputs_and_targets():
    series = spread(Net(features(axes=1), convolutional().tail[-2:]))
    series.tail[1] = spread(nn.Linear(6, 4))
    wave = torch.randn(2, 3, 12)
    found = metrics.faithfulness(
        series, wave, torch.rand(2, 12), metrics=["deletion", "average_drop"]
    )
    assert found["deletion"].shape == (2,)
    # A dense output, channels last, and a function of the output.
    batch, maps = images(2), torch.rand(2, 8, 8)
    region = torch.zeros(8, 8, dtype=torch.bool)
    region[:4] = True
    segment = camlib.targets.Segment(1, region)
    assert metrics.deletion(dense(), batch, maps, segment).shape == (2,)
    net = convolutional()

    class Last(nn.Module):
        def forward(self, pictures):
            return net(pictures.movedim(-1, 1))

    expected = metrics.deletion(net, batch, maps, 1)
    found = metrics.deletion(Last(), batch.movedim(1, -1), maps, 1, image_layout="NHWC")
    torch.testing.assert_close(found, expected)
    found = metrics.deletion(net, batch, maps, lambda out: out.softmax(1)[:, 1])
    torch.testing.assert_close(found, expected)


def test_lists_mappings_and_inference_mode():
    net, batch, maps = convolutional(), images(2), torch.rand(2, 8, 8)
    expected = metrics.faithfulness(net, batch, maps, 1, metrics=["deletion", "average_drop"])

    class Listed(nn.Module):
        def forward(self, pictures):
            return {"logits": net(torch.stack(pictures))}

    class Named(nn.Module):
        def forward(self, pixels, scale):
            return net(pixels * scale[:, None, None, None])

    # What stands beside the image goes with its sample.
    scale = torch.tensor([1.0, 0.5])
    named = {"pixels": batch / scale[:, None, None, None], "scale": scale}
    for model, given in ((Listed(), list(batch)), (Named(), named)):
        with torch.inference_mode():
            found = metrics.faithfulness(
                model, given, maps, 1, metrics=["deletion", "average_drop"], batch_size=5
            )
        for name, values in expected.items():
            torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-5)


def test_attributions_are_summed_over_channels(case):
    net, batch, _ = case
    signed = Saliency(net)(batch, 1)
    for call in (metrics.deletion, metrics.road, metrics.faithfulness_correlation):
        torch.testing.assert_close(call(net, batch, signed, 1), call(net, batch, signed.sum(1), 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heatmaps": torch.rand(2, 4, 4)}, r"heatmaps of shape \(2, 4, 4\) do not fit images"),
        ({"heatmaps": torch.rand(2, 8, 8) - 1}, r"average_drop needs heatmaps in \[0, 1\]"),
        ({"heatmaps": torch.rand(2, 3, 8, 8)}, "got attributions of channels"),
        ({"heatmaps": torch.full((2, 8, 8), torch.nan)}, "heatmaps contain NaN or infinity"),
        ({"heatmaps": [1]}, "expected heatmaps as a tensor, got list"),
        ({"score": "logit"}, "divides by the score; expected a positive one"),
        ({"score": "odds"}, "score='odds' is not known"),
        ({"tolerance": -1}, "tolerance=-1 is out of range"),
        ({"batch_size": 0}, "batch_size=0 is out of range"),
    ],
)
def test_what_does_not_fit_average_drop_is_refused(change, message):
    given = {"heatmaps": torch.rand(2, 8, 8)} | change
    with pytest.raises(InputError, match=message):
        metrics.average_drop(convolutional(), images(2), target=[0, 0], **given)


def test_what_does_not_fit_is_refused():
    net, batch, maps = convolutional(), images(2), torch.rand(2, 8, 8)
    for call, options, message in [
        (metrics.deletion, {"step": 0}, "step=0 is out of range"),
        (metrics.deletion, {"baseline": "grey"}, "baseline='grey' is not known"),
        (metrics.deletion, {"baseline": torch.rand(5, 5)}, "does not fit images"),
        (metrics.road, {"order": "morf"}, "order='morf' is not known"),
        (metrics.road, {"shares": (0, 0.5)}, "are out of range"),
        (metrics.road, {"noise": -1}, "noise=-1 is out of range"),
        (metrics.infidelity, {"change": "noise"}, "change='noise' is not known"),
        (metrics.infidelity, {"draws": 0}, "draws=0 is out of range"),
        (metrics.coherency, {"method": None}, "pass method="),
        (metrics.sensitivity_max, {"method": GradCAM(net), "radius": 0}, "radius=0 is out of"),
        (metrics.average_gain, {"score": "logit", "target": TARGETS}, "divides by 1 - p"),
        (metrics.faithfulness, {"metrics": ["deletoin"]}, "did you mean 'deletion'"),
    ]:
        with pytest.raises(InputError, match=message):
            call(net, 30 * batch, maps, **options)
    with pytest.raises(OptionError, match="steps= is not an option of deletion"):
        metrics.faithfulness(net, batch, maps, metrics={"deletion": {"steps": 2}})
    with pytest.raises(OptionError, match="batchsize= is not an option"):
        metrics.deletion(net, batch, maps, batchsize=3)
    with pytest.raises(InputError, match="road needs pictures"):
        metrics.road(
            nn.Sequential(nn.Flatten(), nn.Linear(36, 4)), torch.rand(2, 3, 12), torch.rand(2, 12)
        )
    with pytest.raises(InputError, match="complexity needs heatmaps"):
        metrics.complexity(maps - 1)


def test_memory_is_bounded_by_the_batch_size():
    sizes = []

    net, batch = convolutional(), images(3)
    handle = net.register_forward_hook(lambda _m, inputs, _o: sizes.append(len(inputs[0])))
    try:
        metrics.faithfulness(
            net, batch, torch.rand(3, 8, 8), metrics=["deletion", "road"], batch_size=4
        )
    finally:
        handle.remove()
    assert max(sizes) == 4
