"""Methods compared on the same images: what is measured, intervals, and baselines."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import nn

from camlib import GradCAM, InputError, LaFAM, LeGrad, Saliency, metrics
from camlib.metrics.benchmark import Labelled, edges, evaluate, ones
from camlib.metrics.comparison import COLUMNS, Comparison, interval
from camlib.targets import Probability

BASELINES = ("ones", "center_gaussian", "random_cam", "lafam", "edges")


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4, 3)).eval()


def batches():
    generator = torch.Generator().manual_seed(1)
    made = []
    for count in (2, 1):
        masks = torch.zeros(count, 12, 12, dtype=torch.bool)
        masks[:, 2:7, 3:8] = True
        others = torch.zeros_like(masks)
        others[:, 8:, 8:] = True
        images = torch.randn(count, 3, 12, 12, generator=generator)
        made.append(Labelled(images, torch.arange(count), masks, others))
    return made


class Asked(list):
    """Batches that note which of them are asked for."""

    def __init__(self, *given):
        super().__init__(*given)
        self.numbers = []

    def __getitem__(self, number):
        self.numbers.append(number)
        return super().__getitem__(number)


def test_values_are_those_of_the_functions():
    model, given = network(), batches()
    cam = GradCAM(model, "0")
    found = evaluate(model, {"grad_cam": cam, "saliency": Saliency(model)}, given, layer="0")
    assert found.baselines == BASELINES
    assert list(found.values) == ["grad_cam", "saliency", *BASELINES]
    pixels = Saliency(model)(given[0].inputs, [0, 1]).abs().sum(1)
    for name, maps in {
        "grad_cam": cam(given[0].inputs, [0, 1]),
        "saliency": pixels / pixels.amax((1, 2), keepdim=True),
    }.items():
        expected = metrics.faithfulness(model, given[0].inputs, maps, [0, 1])
        expected |= {
            "energy_pointing_game": metrics.energy_pointing_game(maps, given[0].masks),
            "on_others": metrics.energy_pointing_game(maps, given[0].others),
            "iou": metrics.iou(maps, given[0].masks),
            "pixel_average_precision": metrics.pixel_average_precision(maps, given[0].masks),
        }
        for column, values in expected.items():
            torch.testing.assert_close(found.values[name][column][:2], values.double())
    assert found.values["grad_cam"]["passes"].tolist()[2:] == [1]
    assert found.values["ones"]["average_drop"].tolist() == [0, 0, 0]
    # The edges of an image do not depend on the model.
    assert found.values["edges"]["random_logit"].tolist() == pytest.approx([1, 1, 1])


def test_sigmoid_and_probabilities_are_the_scores_of_the_network():
    model, given = network(), batches()[:1]
    maps = GradCAM(model, "0")(given[0].inputs, [0, 1])
    found = evaluate(model, {"cam": GradCAM(model, "0")}, given, layer="0", activation="sigmoid")
    target = Probability(torch.tensor([0, 1]), "sigmoid")
    expected = metrics.insertion(model, given[0].inputs, maps, target)
    torch.testing.assert_close(found.values["cam"]["insertion"], expected.double())
    sure = nn.Sequential(model, nn.Softmax(1))
    maps = GradCAM(sure, "0.0")(given[0].inputs, [0, 1])
    found = evaluate(sure, {"cam": GradCAM(sure, "0.0")}, given, layer="0.0", activation="none")
    expected = metrics.insertion(sure, given[0].inputs, maps, [0, 1], score="logit")
    torch.testing.assert_close(found.values["cam"]["insertion"], expected.double())


def test_what_is_not_known_is_not_measured():
    model = network()
    [one, _] = batches()
    found = evaluate(model, {}, [Labelled(one.inputs)], layer="0")
    for column, about in COLUMNS.items():
        assert bool(found.values["lafam"][column].isnan().all()) == (about.group == "localisation")


def test_method_that_does_not_fit_is_left_out_with_the_reason():
    model = network()
    found = evaluate(model, {"le_grad": LeGrad(model)}, batches(), layer="0")
    assert "no attention" in found.failed["le_grad"]
    assert list(found.values) == list(BASELINES)


def test_interrupted_call_goes_on():
    model, kept = network(), {}
    methods = {"grad_cam": GradCAM(model, "0")}

    def stopping(work):
        for done, each in enumerate(work):
            if done == 8:  # the first batch has six methods
                raise KeyboardInterrupt
            yield each

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, methods, batches(), layer="0", kept=kept, progress=stopping)
    assert len(kept) == 8
    again = Asked(batches())
    continued = evaluate(model, methods, again, layer="0", kept=kept)
    assert again.numbers == [1]
    whole = evaluate(model, methods, batches(), layer="0")
    for name, columns in whole.values.items():
        for column, values in columns.items():
            if column not in ("milliseconds", "passes"):
                torch.testing.assert_close(continued.values[name][column], values, equal_nan=True)


def test_method_like_a_baseline_does_not_beat_it():
    model = network()
    found = evaluate(model, {"mine": LaFAM(model, "0")}, batches(), layer="0")
    rows = {row.method: row for row in found.rows("mine")}
    assert "lafam" in rows["mine"].unbeaten
    assert rows["lafam"].baseline
    assert rows["lafam"].cells["insertion"].difference == 0
    assert rows["lafam"].cells["insertion"].verdict == 0


def test_intervals_are_those_of_means_drawn_again():
    draws = random.Random(0)
    values = [draws.gauss(3, 1) for _ in range(20)] + [math.nan]
    samples = torch.randint(21, (400, 21), generator=torch.Generator().manual_seed(2))
    means = []
    for row in samples.tolist():
        known = [values[place] for place in row if not math.isnan(values[place])]
        means.append(sum(known) / len(known))
    low, high = interval(torch.tensor(values, dtype=torch.float64), samples)
    assert sum(mean < low for mean in means) == pytest.approx(10, abs=1)
    assert sum(mean > high for mean in means) == pytest.approx(10, abs=1)
    few = torch.tensor([1.0] * 4 + [math.nan] * 17, dtype=torch.float64)
    assert all(math.isnan(end) for end in interval(few, samples))
    few[4] = 1
    assert interval(few, samples) == (1, 1)


def test_verdicts_follow_the_direction_of_a_column():
    nothing = torch.zeros(10, dtype=torch.float64)
    steps = torch.arange(10, dtype=torch.float64)
    values = {
        "grad_cam": dict.fromkeys(COLUMNS, steps),
        "higher": dict.fromkeys(COLUMNS, steps + 1),
        "same": {name: steps + (-1) ** steps for name in COLUMNS},
        "plain": dict.fromkeys(COLUMNS, nothing),
    }
    rows = {row.method: row for row in Comparison(values, ("plain",), {}).rows()}
    for column, about in COLUMNS.items():
        better = 1 if about.higher else -1
        assert rows["higher"].cells[column].verdict == (0 if about.group == "cost" else better)
        assert rows["higher"].cells[column].difference == 1
        assert rows["same"].cells[column].verdict == 0
        assert rows["grad_cam"].cells[column].verdict == 0
    # More columns are better if they are higher.
    assert rows["higher"].unbeaten == ()


def test_baselines_without_a_model():
    images = torch.zeros(1, 3, 6, 6)
    images[..., 3:] = 1
    assert ones(images).tolist() == torch.ones(1, 6, 6).tolist()
    assert edges(images)[0].tolist() == [[0, 0, 1, 1, 0, 0]] * 6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: evaluate(network(), {}, []), "batches is empty"),
        (
            lambda: evaluate(network(), {}, batches(), activation="tanh"),
            "activation='tanh' is not known; use 'softmax', 'sigmoid' or 'none'",
        ),
        (
            lambda: evaluate(network(), {}, batches(), layer="0").rows(),
            "reference 'grad_cam' was not measured; expected one of ones",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()
