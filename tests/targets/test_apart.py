"""Functions of the output that mix samples or know their places."""

from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from nets import Net, convolutional, images
from torch import nn
from torch.nn import functional as F

from camlib import (
    AblationCAM,
    Augmented,
    GradCAM,
    IntegratedGradients,
    Occlusion,
    ReciproCAM,
    Saliency,
    ScoreCAM,
    Smooth,
    TargetError,
    targets,
)
from camlib.targets.apart import in_another_batch

pytestmark = pytest.mark.filterwarnings("ignore:a map at layer:camlib.CamlibWarning")

CHANGING = {
    "ScoreCAM": lambda net, size: ScoreCAM(net, "features", batch_size=size),
    "AblationCAM": lambda net, size: AblationCAM(net, "features", batch_size=size),
    "ReciproCAM": lambda net, size: ReciproCAM(net, "features", batch_size=size),
    "Occlusion": lambda net, size: Occlusion(net, batch_size=size),
    "Smooth": lambda net, size: Smooth(GradCAM(net, "features"), samples=3, batch_size=size or 9),
    "Augmented": lambda net, size: Augmented(GradCAM(net, "features")),
    "IntegratedGradients": lambda net, size: IntegratedGradients(net, batch_size=size or 9),
}

LABELS = torch.tensor([1, 0])
ONE_HOT = F.one_hot(LABELS, 4).float()
ROWS = torch.arange(2)

MIXING = {
    "one-hot": lambda out: (out * ONE_HOT).sum(1),
    "labels": lambda out: out[ROWS, LABELS],
    "loss": lambda out: -F.cross_entropy(out, LABELS, reduction="none"),
    "repeated labels": lambda out: out[torch.arange(len(out)), LABELS.repeat(len(out))[: len(out)]],
    "mean": lambda out: out[:, 1] - out[:, 1].mean(),
    "norm": lambda out: F.softmax(out, 0)[:, 1],
    "first": lambda out: out[:, 1] + out[0, 2],
    "order": lambda out: out[:, 1] * torch.linspace(1, 2, len(out)),
}


@pytest.mark.parametrize("function", MIXING)
@pytest.mark.parametrize("size", [None, 2])
@pytest.mark.parametrize("method", CHANGING)
def test_methods_that_change_the_batch_refuse(method, size, function):
    net = convolutional()
    with pytest.raises(TargetError, match=r"does not keep samples apart .* whose per_sample names"):
        CHANGING[method](net, size)(images(), MIXING[function])


@pytest.mark.parametrize("function", ["mean", "norm"])
@pytest.mark.parametrize("method", CHANGING)
def test_single_sample_does_not_hide_that_others_count(method, function):
    with pytest.raises(TargetError, match="does not keep samples apart"):
        CHANGING[method](convolutional(), None)(images(1), MIXING[function])


@pytest.mark.parametrize("function", ["one-hot", "labels"])
def test_methods_that_change_nothing_take_them(function):
    net, batch = convolutional(), images()
    for method in (GradCAM(net, "features"), Saliency(net)):
        found = method(batch, MIXING[function])
        torch.testing.assert_close(found, method(batch, LABELS))
        torch.testing.assert_close(method(batch, MIXING[function]), found)


class Labels(targets.Target):
    """The logarithm of a label's probability, its negative cross entropy."""

    per_sample = ("labels",)

    def __init__(self, labels):
        self.labels = labels

    def __call__(self, output):
        return -F.cross_entropy(output, self.labels, reduction="none")


class Forgetful(Labels):
    per_sample = ()


@pytest.mark.parametrize("method", CHANGING)
def test_target_that_names_what_belongs_to_a_sample_is_the_way_out(method):
    net, batch = convolutional(), images()
    built = CHANGING[method](net, 3)
    expected = built(batch, targets.LogProbability(LABELS))
    torch.testing.assert_close(built(batch, Labels(LABELS)), expected)
    with pytest.raises(TargetError, match="does not keep samples apart"):
        built(batch, Forgetful(LABELS))


def test_function_is_tried_once_in_a_call_and_not_for_grad_cam():
    net, batch, lengths = convolutional(), images(), []

    def function(out):
        lengths.append(len(out))
        return out[:, 1]

    GradCAM(net, "features")(batch, function)
    assert lengths == [2]
    ScoreCAM(net, "features", batch_size=2)(batch, function)
    assert lengths.count(3) == 1
    assert lengths[1:4] == [2, 2, 3]


def test_wrong_function_is_refused_in_every_call():
    cam = ScoreCAM(convolutional(), "features")
    for _ in range(2):
        with pytest.raises(TargetError, match="does not keep samples apart"):
            cam(images(), MIXING["labels"])


Pair = namedtuple("Pair", "scores other")


@dataclass(frozen=True)
class Answer:
    scores: torch.Tensor
    other: torch.Tensor | None = None


class Wrapped(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap

    def forward(self, output):
        return self.wrap(output)


@pytest.mark.parametrize(
    ("wrap", "function"),
    [
        (lambda out: {"deep": [{"scores": out}]}, lambda out: out["deep"][0]["scores"][:, 1]),
        (lambda out: (out, [out * 2]), lambda out: out[0][:, 1] + out[1][0][:, 1]),
        (lambda out: Pair(out, None), lambda out: out.scores[:, 1]),
        (lambda out: Answer(out), lambda out: out.scores[:, 1]),
        (lambda out: SimpleNamespace(scores=out), lambda out: out.scores[:, 1]),
        (lambda out: out[None].repeat(5, 1, 1), lambda out: out[3, :, 1]),
        (
            lambda out: [{"scores": row} for row in out],
            lambda out: torch.stack([each["scores"][1] for each in out]),
        ),
        (lambda out: list(out), lambda out: torch.stack([each[1] for each in out])),
        (
            lambda out: {"scores": out, "scale": torch.tensor(2.0), "anchors": torch.ones(7, 4)},
            lambda out: out["scores"][:, 1] * out["scale"] * out["anchors"][3, 2],
        ),
        (lambda out: {"scores": out, "id": "a"}, lambda out: out["scores"][:, [1, 2]]),
    ],
)
@pytest.mark.parametrize("count", [1, 2])
def test_outputs_of_every_form_are_put_in_another_order(wrap, function, count):
    net, batch = convolutional(), images(count)
    wrapped = Net(net.features, nn.Sequential(*net.tail, Wrapped(wrap))).eval()
    found = ScoreCAM(wrapped, "features", batch_size=3)(batch, function)
    expected = ScoreCAM(net, "features")(batch, lambda out: function(wrap(out)))
    torch.testing.assert_close(found, expected)


def test_clean_output_is_left_as_it_is():
    output = {"scores": torch.rand(2, 3), "boxes": [torch.rand(2, 4)]}
    before = output["scores"].clone(), output["boxes"][0].clone()
    other, numbers = in_another_batch(output, 2)
    assert numbers.tolist() == [1, 0, 1]
    assert torch.equal(other["scores"][:2], before[0].flip(0))
    assert torch.equal(other["scores"][2], before[0][1] / 2)
    assert torch.equal(output["scores"], before[0])
    assert torch.equal(output["boxes"][0], before[1])


def test_output_without_samples_is_refused_with_the_reason():
    class Opaque:
        def __init__(self, scores):
            self.scores = scores

    net, batch = convolutional(), images()
    wrapped = Net(net.features, nn.Sequential(*net.tail, Wrapped(Opaque))).eval()
    with pytest.raises(TargetError, match="nothing in the model's output has 2 entries, one for"):
        ScoreCAM(wrapped, "features")(batch, lambda out: out.scores[:, 1])
    found = GradCAM(wrapped, "features")(batch, lambda out: out.scores[:, 1])
    assert torch.equal(found, GradCAM(net, "features")(batch, 1))


def test_random_numbers_and_modules_of_a_function_are_its_own():
    norm = nn.BatchNorm1d(4)
    with pytest.raises(TargetError, match="does not keep samples apart"):
        ScoreCAM(convolutional(), "features")(images(), lambda out: norm(out)[:, 1])
    norm.eval()
    found = ScoreCAM(convolutional(), "features")(images(), lambda out: norm(out)[:, 1])
    assert found.isfinite().all()
