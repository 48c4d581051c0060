"""Each score against its formula in plain Python."""

import math

import numpy as np
import pytest
import torch
from nets import convolutional, images, pooled

from camlib import GradCAM, GuidedGradCAM, InputError, ScoreCAM, TargetError, targets

SCORES = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def resolved(target, output=SCORES, size=(8, 8)):
    count = len(next(iter(output.values())) if isinstance(output, dict) else output)
    return targets.resolve(target, output, count, size)


def test_scores_of_a_class_follow_their_formulas():
    rows = SCORES.tolist()
    for row, scores in enumerate(rows):
        total = sum(math.exp(score) for score in scores)
        found = {
            kind: float(resolved(kind)(SCORES)[row])
            for kind in (
                targets.Category(2),
                targets.Probability(2),
                targets.Probability(2, activation="sigmoid"),
                targets.LogProbability(2),
                targets.Counterfactual(2),
            )
        }
        expected = [
            scores[2],
            math.exp(scores[2]) / total,
            1 / (1 + math.exp(-scores[2])),
            scores[2] - math.log(total),
            -scores[2],
        ]
        assert list(found.values()) == pytest.approx(expected)


def test_probabilities_of_a_single_output_are_those_of_its_sigmoid():
    single = torch.tensor([[0.3], [-2.0]])
    expected = [1 / (1 + math.exp(-0.3)), 1 / (1 + math.exp(2.0))]
    assert resolved(targets.Probability(1), single)(single).tolist() == pytest.approx(expected)
    logs = resolved(targets.LogProbability(1), single)(single).tolist()
    assert logs == pytest.approx([math.log(p) for p in expected])


def test_half_precision_scores_become_probabilities_in_float32():
    half = SCORES.half()
    for kind in (targets.Probability(1), targets.LogProbability(1)):
        torch.testing.assert_close(
            resolved(kind, half)(half), resolved(kind, half.float())(half.float())
        )


def test_predicted_class_stays_the_one_of_the_clean_output():
    target = resolved(targets.LogProbability())
    assert target.classes.tolist() == SCORES.argmax(1).tolist()
    torch.testing.assert_close(
        target(-SCORES), (-SCORES).log_softmax(1)[range(3), SCORES.argmax(1)]
    )


def test_best_classes():
    target = resolved(targets.TopK(2))
    expected = [sorted(range(5), key=lambda c: -row[c])[:2] for row in SCORES.tolist()]
    assert target.classes.tolist() == expected
    assert target(-SCORES).tolist() == [
        [-row[c] for c in best] for row, best in zip(SCORES.tolist(), expected, strict=True)
    ]
    assert targets.TopK(2)(SCORES).tolist() == target(SCORES).tolist()


def test_maps_of_the_best_classes_are_those_of_the_classes():
    net, batch = convolutional(), images()
    best = net(batch).argsort(1, descending=True)[:, :3]
    found = ScoreCAM(net, "features").explain(batch, targets.TopK(3))
    assert torch.equal(found.target, best)
    torch.testing.assert_close(found.heatmap, ScoreCAM(net, "features")(batch, best))


def contrast_by_hand(clean, scores, c, others, strength):
    weights = [math.exp(clean[d]) for d in others]
    shared = sum(w * scores[d] for w, d in zip(weights, others, strict=True)) / sum(weights)
    return scores[c] - strength * shared


def test_contrast_weighs_the_nearest_classes_by_their_probability():
    target = resolved(targets.Contrast([1, 4, 0], nearest=2, strength=0.7))
    changed = SCORES.flip(1)
    for row, c in enumerate([1, 4, 0]):
        clean = SCORES[row].tolist()
        nearest = sorted(set(range(5)) - {c}, key=lambda d: abs(clean[d] - clean[c]))[:2]
        expected = contrast_by_hand(clean, changed[row].tolist(), c, nearest, 0.7)
        assert float(target(changed)[row]) == pytest.approx(expected)


def test_contrast_with_given_classes():
    target = resolved(targets.Contrast([[1, 2]], others=[[0, 4, 3]]))
    assert target.classes.tolist() == [[1, 2]] * 3
    for row, clean in enumerate(SCORES.tolist()):
        expected = [contrast_by_hand(clean, clean, c, [0, 4, 3], 1.0) for c in (1, 2)]
        assert target(SCORES)[row].tolist() == pytest.approx(expected)
    one = resolved(targets.Contrast(1, others=[0, 2, 3]))
    torch.testing.assert_close(one(SCORES), SCORES[:, 1] - SCORES[range(3), [0, 2, 3]])


def test_weights_of_a_contrast_have_no_gradient():
    scores = SCORES.clone().requires_grad_()
    target = resolved(targets.Contrast(1, others=[[0, 2]], strength=0.5), scores)
    [gradient] = torch.autograd.grad(target(scores).sum(), scores)
    weights = SCORES[:, [0, 2]].softmax(1)
    expected = torch.zeros_like(SCORES)
    expected[:, 1], expected[:, [0, 2]] = 1, -0.5 * weights
    torch.testing.assert_close(gradient, expected)


def test_contrast_takes_all_others_where_there_are_few():
    two = SCORES[:, :2]
    target = resolved(targets.Contrast(0), two)
    torch.testing.assert_close(target(two), two[:, 0] - two[:, 1])


@pytest.mark.parametrize(
    ("labels", "sets"),
    [
        ({1, 3}, [[1, 3]] * 3),
        ([1, 3, 1], [[1, 3]] * 3),
        (torch.tensor([1, 3]), [[1, 3]] * 3),
        (np.array([[0, 1], [1, 2], [3, 4]]), [[0, 1], [1, 2], [3, 4]]),
        ([{0}, [1, 2, 4], torch.tensor([3, 1])], [[0], [1, 2, 4], [1, 3]]),
    ],
)
def test_labels_are_summed_as_a_set(labels, sets):
    target = resolved(targets.MultiLabel(labels))
    expected = [sum(row[c] for c in own) for row, own in zip(SCORES.tolist(), sets, strict=True)]
    assert target(SCORES).tolist() == pytest.approx(expected)
    assert target.classes is None


def test_labels_are_those_above_the_threshold_on_the_clean_output():
    scores = torch.tensor([[2.0, 0.5, -1.0], [0.1, -3.0, 4.0]])
    assert resolved(targets.MultiLabel(), scores)(scores * 10).tolist() == [25, 41]
    assert resolved(targets.MultiLabel(threshold=0.8), scores)(scores * 10).tolist() == [20, 40]


def test_value_of_a_regression():
    assert resolved(targets.Regression(-1))(SCORES).tolist() == SCORES[:, 4].tolist()
    assert resolved(targets.Regression([0, 1, 2]))(SCORES).tolist() == SCORES.diag().tolist()
    assert resolved(targets.Regression([[0, 3]]))(SCORES).tolist() == SCORES[:, [0, 3]].tolist()
    for values in (SCORES[:, 1], SCORES[:, 1:2]):
        target = resolved(targets.Regression(), values)
        assert target(values).tolist() == SCORES[:, 1].tolist()
        assert target.signed
        assert target.classes is None


def test_map_of_a_regression_keeps_its_sign_unless_told_otherwise():
    net, batch = convolutional(1), images()
    cam, target = GradCAM(net, "features"), targets.Regression(3)
    signed = cam.explain(batch, 3, relu=False, normalize=False)
    assert (signed.map < 0).any()
    found = cam.explain(batch, target)
    assert torch.equal(found.map, signed.map)
    peaks = signed.heatmap.abs().amax((1, 2), keepdim=True)
    torch.testing.assert_close(found.heatmap, 0.5 + signed.heatmap / peaks / 2)
    scaled = cam(batch, 3, relu=False, normalize="max")
    assert torch.equal(cam(batch, target, normalize="max"), scaled)
    positive = cam(batch, 3)
    assert torch.equal(cam(batch, target, relu=True), positive)
    assert torch.equal(GradCAM(net, "features", relu=True)(batch, target), positive)
    plain = GradCAM(net, "features", normalize=True)(batch, target)
    assert torch.equal(plain, cam(batch, 3, relu=False, normalize=True))
    assert torch.equal(GradCAM(net, "features", relu=False)(batch, target), found.heatmap)


def test_guided_grad_cam_multiplies_by_what_speaks_for_a_value():
    net, batch = pooled(), images()
    found = GuidedGradCAM(net, "features")(batch, targets.Regression(1))
    torch.testing.assert_close(found, GuidedGradCAM(net, "features")(batch, 1))


TEXT = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("position", "index", "places"),
    [
        (1, 2, [(1, 2), (1, 2)]),
        (-1, [0, 5], [(3, 0), (3, 5)]),
        ([0, 2], 3, [(0, 3), (2, 3)]),
        ([[0, 2]], 3, [[(0, 3), (2, 3)]] * 2),
        (1, [[4, 5]], [[(1, 4), (1, 5)]] * 2),
        ([[0, 1], [2, 3]], [[4, 5]], [[(0, 4), (1, 5)], [(2, 4), (3, 5)]]),
    ],
)
def test_token_of_a_text(position, index, places):
    target = resolved(targets.Token(position, index), {"logits": TEXT})
    expected = [
        [float(TEXT[row, t, v]) for t, v in own]
        if isinstance(own, list)
        else float(TEXT[row, own[0], own[1]])
        for row, own in enumerate(places)
    ]
    assert target({"logits": TEXT}).tolist() == expected


def test_predicted_token():
    target = resolved(targets.Token([0, 3]), TEXT)
    assert target.classes.tolist() == [int(TEXT[0, 0].argmax()), int(TEXT[1, 3].argmax())]
    assert target(TEXT).tolist() == [float(TEXT[0, 0].max()), float(TEXT[1, 3].max())]
    assert target(-TEXT).tolist() == [-float(TEXT[0, 0].max()), -float(TEXT[1, 3].max())]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: targets.TopK(0), "k=0 is out of range; expected"),
        (lambda: targets.Probability(1, activation="relu"), "activation='relu' is not known"),
        (lambda: targets.TopK(1.5), "k=1.5 is of type float; expected an integer of 1 or more"),
        (lambda: targets.TopK("3"), "k='3' is of type str; expected an integer"),
        (lambda: targets.Contrast(nearest=0), "nearest=0 is out of range; expected"),
        (lambda: targets.Contrast(nearest=1.5), "nearest=1.5 is of type float; expected"),
        (lambda: targets.Contrast(nearest="a"), "nearest='a' is of type str; expected"),
        (lambda: targets.Contrast(nearest=True), "nearest=True is of type bool; expected"),
        (lambda: targets.Contrast(strength="a"), "strength='a' is of type str; expected a number"),
        (lambda: targets.Contrast(strength=float("nan")), "strength=nan is not finite; expected"),
        (lambda: targets.Contrast(strength=torch.ones(2)), r"strength=tensor\(.* of type Tensor"),
        (lambda: targets.MultiLabel(threshold="a"), "threshold='a' is of type str; expected"),
        (lambda: targets.Detection(rank=0.5), "rank=0.5 is of type float; expected an integer"),
        (lambda: targets.MultiLabel(threshold=1), "threshold=1 is out of range; expected"),
        (lambda: targets.Similarity(metric="l2"), "metric='l2' is not known; use 'cosine'"),
        (lambda: targets.Detection(rank=-1), "rank=-1 is out of range; expected an integer"),
        (lambda: targets.Detection(activation="tanh"), "activation='tanh' is not known"),
    ],
)
def test_options_that_do_not_exist(build, message):
    with pytest.raises(InputError, match=message):
        build()


@pytest.mark.parametrize(
    ("target", "output", "message"),
    [
        (targets.TopK(6), SCORES, "k=6 is too large: the model has 5 classes"),
        (targets.Probability(5), SCORES, "class 5 is out of range: the model has 5 classes"),
        (targets.Contrast(5), SCORES, "class 5 is out of range"),
        (targets.Contrast(1, others=[[9]]), SCORES, "class 9 is out of range"),
        (
            targets.Contrast([0, 1, 2], others=[[3, 1]]),
            SCORES,
            "class 1 of sample 1 is contrasted with itself; leave it out of others=",
        ),
        (targets.Category(-1), SCORES, "class -1 is negative: classes count from 0, and counting"),
        (targets.Contrast(1, others=[[-2]]), SCORES, "class -2 is negative"),
        (targets.MultiLabel({-1}), SCORES, "label -1 is negative: labels count from 0"),
        (targets.Token(0, -100), TEXT, "token -100 is negative: tokens count from 0"),
        (targets.Token(-5), TEXT, "position -5 is out of range"),
        (targets.TopK(3), SCORES[:, :1], "k=3 is too large: the model has 2"),
        (targets.MultiLabel({5}), SCORES, "label 5 is out of range: the model has 5 labels"),
        (
            targets.MultiLabel(3),
            SCORES,
            "labels=3 is neither a set of labels for all samples, nor a list",
        ),
        (targets.MultiLabel([[1], [2]]), SCORES, "nor a list of 3 sets, one for each sample"),
        (targets.MultiLabel([1, [2], 3]), SCORES, "nor a list of 3 sets, one for each sample"),
        (targets.MultiLabel("cat"), SCORES, "labels='cat' is neither a set"),
        (targets.MultiLabel({0.5}), SCORES, "labels={0.5} are not label indices"),
        (targets.MultiLabel([]), SCORES, "the set of labels of sample 0 is empty; pass labels="),
        (targets.MultiLabel([[1], [], [2]]), SCORES, "the set of labels of sample 1 is empty"),
        (
            targets.MultiLabel(),
            torch.tensor([[1.0], [-1.0]]),
            "no label more than threshold=0.5 in sample 1; pass labels=",
        ),
        (targets.Regression(5), SCORES, "value 5 is out of range: the model has 5 values, 0 to 4"),
        (
            targets.Regression(0.5),
            SCORES,
            r"index=0.5 is neither a value index, .*; indices are int",
        ),
        (targets.Token(4), TEXT, "position 4 is out of range: the model has 4 positions, 0 to 3"),
        (targets.Token(0, 6), TEXT, "token 6 is out of range: the model has 6 tokens, 0 to 5"),
        (targets.Token("first"), TEXT, "position='first' is neither a position index"),
        (targets.Token(0, [1, 2, 3]), TEXT, r"an index of shape \(3,\) does not fit 2 samples"),
        (
            targets.Token([[0, 1]], [[1, 2, 3]]),
            TEXT,
            r"positions \(2, 2\) and vocabulary entries \(2, 3\) do not match",
        ),
        (
            targets.Token(0),
            SCORES,
            r"Token expects scores \(N, positions, vocabulary\), .*\(3, 5\)",
        ),
    ],
)
def test_what_does_not_fit_the_output(target, output, message):
    with pytest.raises(TargetError, match=message):
        resolved(target, output)


@pytest.mark.parametrize(
    "target",
    [
        targets.Category(),
        targets.TopK(2),
        targets.Probability(),
        targets.LogProbability(),
        targets.Contrast(),
        targets.Counterfactual(),
        targets.MultiLabel(),
        targets.Regression(),
    ],
    ids=lambda target: type(target).__name__,
)
def test_scores_of_fewer_samples_than_given_are_refused(target):
    with pytest.raises(TargetError, match=r"scores of shape \(3, 5\) for 2 samples"):
        targets.resolve(target, SCORES, 2, (8, 8))


@pytest.mark.parametrize(
    ("target", "function"),
    [
        (targets.TopK(1), lambda out: out.topk(1, 1).values),
        (targets.Probability(2), lambda out: out.softmax(1)[:, 2]),
        (targets.LogProbability(2), lambda out: out.log_softmax(1)[:, 2]),
        (targets.Contrast(2, [[0, 1]]), None),
        (targets.Counterfactual(2), lambda out: -out[:, 2]),
        (targets.MultiLabel({0, 3}), lambda out: out[:, 0] + out[:, 3]),
        (targets.Regression(1), lambda out: out[:, 1]),
        (targets.Similarity([1.0, 2.0, -1.0, 0.5]), None),
        (
            targets.Similarity([1.0, 2.0, -1.0, 0.5], "dot"),
            lambda out: out @ out.new_tensor([1.0, 2.0, -1.0, 0.5]),
        ),
    ],
    ids=lambda part: type(part).__name__,
)
def test_map_of_a_target_is_that_of_its_function(target, function):
    net, batch = convolutional(), images()
    if isinstance(target, targets.Contrast):
        weights = net(batch).detach()[:, :2].softmax(1)

        def function(out):
            return out[:, 2] - (weights * out[:, :2]).sum(1)

    elif function is None:
        embedding = torch.tensor([1.0, 2.0, -1.0, 0.5])

        def function(out):
            return torch.cosine_similarity(out, embedding[None])

    cam = GradCAM(net, "features", relu=False, normalize=False)
    torch.testing.assert_close(cam(batch, target), cam(batch, function))
