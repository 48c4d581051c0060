"""One logit for two classes: no and yes."""

import math

import pytest
import torch
from nets import Net, images, pooled
from torch import nn

from camlib import (
    CAM,
    AblationCAM,
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
from camlib.targets.binary import predicted

LOGITS = torch.tensor([[1.5], [-2.0], [0.25]])


class Health(nn.Module):
    """Red says sick, green says healthy: one logit, above 0 for sick."""

    def __init__(self, ending=lambda logit: logit):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 2, 2, bias=False)
        self.conv.weight.data = torch.eye(3)[:2, :, None, None].expand(2, 3, 2, 2).clone()
        self.fc = nn.Linear(2, 1)
        self.fc.weight.data = torch.tensor([[1.0, -3.0]])
        self.fc.bias.data.zero_()
        self.ending = ending

    def forward(self, batch):
        return self.ending(self.fc(self.conv(batch).relu().mean((2, 3))))


def patients():
    """One who is healthy and one who is sick, both with something red and something green."""
    batch = torch.zeros(2, 3, 8, 8)
    batch[:, 0, :2, :2] = 1
    batch[:, 1, 4:6, 4:6] = torch.tensor([1.0, 0.2])[:, None, None]
    return batch


RED, GREEN = [0, 0], [2, 2]

ENDINGS = {
    "logit": lambda logit: logit,
    "flat logit": lambda logit: logit[:, 0],
    "probability": torch.sigmoid,
    "flat probability": lambda logit: logit.sigmoid().squeeze(1),
    "mean of probabilities": lambda logit: torch.stack([logit, logit * 2]).sigmoid().mean(0),
    "softmax": lambda logit: torch.cat([-logit, logit], 1).softmax(1)[:, 1],
}


@pytest.mark.parametrize("kind", [GradCAM, AblationCAM, ScoreCAM, Smooth, Saliency, Occlusion])
@pytest.mark.parametrize("ending", ENDINGS)
def test_decision_that_was_taken_is_explained(kind, ending):
    net, batch = Health(ENDINGS[ending]).eval(), patients()
    if kind is Smooth:
        method = Smooth(GradCAM(net, "conv"), samples=4, sigma=0.01)
    elif kind in (Saliency, Occlusion):
        method = kind(net)
    else:
        method = kind(net, "conv")
    seen = method.explain(batch)
    assert seen.target.tolist() == [0, 1]
    for classes in ([0, 1], [1, 0]):
        given = method.explain(batch, classes)
        assert given.target.tolist() == classes
        if classes == [0, 1]:
            torch.testing.assert_close(given.heatmap, seen.heatmap)
    for sample in (0, 1):
        alone = method.explain(batch[sample : sample + 1])
        torch.testing.assert_close(alone.heatmap[0], seen.heatmap[sample], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", [GradCAM, AblationCAM])
def test_evidence_for_a_class_is_where_it_was_planted(kind, ending):
    net, batch = Health(ENDINGS[ending]).eval(), patients()
    cam = kind(net, "conv")
    for target, places in {None: [GREEN, RED], 0: [GREEN] * 2, 1: [RED] * 2}.items():
        for found, place in zip(cam.explain(batch, target).map, places, strict=True):
            assert found.nonzero().tolist() == [place]


@pytest.mark.parametrize(
    "make",
    [
        targets.Category,
        targets.Probability,
        lambda classes: targets.Probability(classes, activation="sigmoid"),
        targets.LogProbability,
        targets.Contrast,
    ],
)
def test_every_target_of_a_class_asks_for_both(make):
    cam, batch = GradCAM(Health().eval(), "conv"), patients()
    for classes, places in {None: [GREEN, RED], 0: [GREEN] * 2, 1: [RED] * 2}.items():
        for found, place in zip(cam.explain(batch, make(classes)).map, places, strict=True):
            assert found.nonzero().tolist() == [place]
    against = cam.explain(batch, targets.Counterfactual())
    assert [found.nonzero().tolist() for found in against.map] == [[RED], [GREEN]]


def test_scores_of_both_classes_follow_their_formulas():
    for row, logit in enumerate(LOGITS[:, 0].tolist()):
        for c, own in ((0, -logit), (1, logit)):
            found = {
                kind: float(targets.resolve(kind, LOGITS, 3, (8, 8))(LOGITS)[row])
                for kind in (
                    targets.Category(c),
                    targets.Probability(c),
                    targets.LogProbability(c),
                    targets.Counterfactual(c),
                    targets.Contrast(c),
                    targets.Contrast(c, others=1 - c, strength=0.5),
                )
            }
            chance = 1 / (1 + math.exp(-own))
            expected = [own, chance, math.log(chance), -own, 2 * own, 1.5 * own]
            assert list(found.values()) == pytest.approx(expected)


def test_both_classes_from_one_pass():
    found = targets.resolve([[0, 1]], LOGITS, 3, (8, 8))(LOGITS)
    assert found.tolist() == [[-1.5, 1.5], [2, -2], [-0.25, 0.25]]
    best = targets.resolve(targets.TopK(2), LOGITS, 3, (8, 8))
    assert best.classes.tolist() == [[1, 0], [0, 1], [1, 0]]
    assert best(LOGITS).tolist() == [[1.5, -1.5], [2, -2], [0.25, -0.25]]
    assert targets.TopK(2)(LOGITS).tolist() == best(LOGITS).tolist()


def test_class_beyond_both_is_refused():
    with pytest.raises(TargetError, match="class 2 is out of range: the model has 2 classes"):
        targets.resolve(2, LOGITS, 3, (8, 8))


def test_value_and_labels_of_a_single_output_stay_what_they_were():
    value = targets.resolve(targets.Regression(), LOGITS, 3, (8, 8))
    assert value(LOGITS).tolist() == [1.5, -2, 0.25]
    label = targets.resolve(targets.MultiLabel({0}), LOGITS, 3, (8, 8))
    assert label(LOGITS).tolist() == [1.5, -2, 0.25]


def test_maps_are_those_of_a_network_with_an_output_for_each_class():
    net, batch = pooled(), images(4)
    one = Net(net.features, nn.Sequential(net.tail[0], nn.Linear(6, 1))).eval()
    two = Net(net.features, nn.Sequential(net.tail[0], nn.Linear(6, 2))).eval()
    for single, both in zip(one.tail[1].parameters(), two.tail[1].parameters(), strict=True):
        single.data = net.tail[1].weight.data[:1] if single.ndim == 2 else torch.tensor([4.6])
        both.data = torch.cat([-single.data, single.data])
    assert len(set(predicted(one(batch)).tolist())) == 2
    for target in (None, 0, 1, [[0, 1]]):
        for kind in (CAM, AblationCAM, GradCAM, ReciproCAM):
            found, expected = (
                kind(each, "features").explain(batch, target, relu=False, normalize=False)
                for each in (one, two)
            )
            assert torch.equal(found.target, expected.target)
            torch.testing.assert_close(found.score, expected.score)
            if kind is not ReciproCAM:  # of probabilities
                torch.testing.assert_close(found.map, expected.map)


def test_attribution_of_no_is_that_of_yes_with_its_sign_changed():
    net = Health().eval()
    no, yes = (IntegratedGradients(net)(patients(), target) for target in (0, 1))
    torch.testing.assert_close(no, -yes)


@pytest.mark.parametrize(
    ("output", "decided"),
    [
        ([[-1.0], [0.3]], [0, 1]),
        ([[1.2], [0.3]], [1, 1]),
        ([[0.0], [0.5], [0.7], [1.0]], [0, 1, 1, 1]),
        ([[0.0]], [0]),
    ],
)
def test_values_alone_tell_what_they_can(output, decided):
    assert predicted(torch.tensor(output)).tolist() == decided


@pytest.mark.parametrize("value", [0.3, 0.49, 1e-6])
def test_what_is_neither_seen_to_be_a_logit_nor_a_probability_is_refused(value):
    message = "the single output is .* yes as a logit .above 0. and no as a probability"
    with pytest.raises(TargetError, match=message):
        targets.resolve(None, torch.tensor([[value], [0.9]]), 2, (8, 8))
    bent = torch.tensor([[value], [0.9]], requires_grad=True).abs()
    with pytest.raises(TargetError, match="pass target=1 for yes, or target=0 for no"):
        targets.resolve(None, bent, 2, (8, 8))
    assert targets.resolve(1, bent, 2, (8, 8))(bent).tolist() == bent[:, 0].tolist()


@pytest.mark.parametrize("kind", [ScoreCAM, Occlusion])
def test_model_that_hides_what_it_returns_is_asked_for_a_class(kind):
    net = Health(lambda logit: logit.detach().sigmoid()).eval()
    method = kind(net, "conv") if kind is ScoreCAM else kind(net)
    with pytest.raises(TargetError, match="pass target=1 for yes, or target=0 for no"):
        method(patients()[:1])
    assert method.explain(patients()[:1], 0).target.tolist() == [0]


def test_graph_is_asked_for_only_where_it_is_needed():
    net, batch = Health().eval(), patients()
    passes = []
    net.conv.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    Occlusion(net, batch_size=256).explain(batch[:1] * 4)
    assert not any(passes)
    passes.clear()
    Occlusion(net, batch_size=256).explain(batch[1:], 1)
    assert not any(passes)
    Occlusion(net, batch_size=256).explain(batch[1:])
    assert sum(passes) == 1


def test_output_in_half_precision():
    net = Health().eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert GradCAM(net, "conv").explain(patients()).target.tolist() == [0, 1]
