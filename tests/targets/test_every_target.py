"""What holds for every target, and the forms in which classes are given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import convolutional, images, pooled

from camlib import GradCAM, TargetError, targets


def test_predicted_class():
    output = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 1.0]])
    target = targets.resolve(None, output, 2, (8, 8))
    assert target.classes.tolist() == [1, 0]
    assert target(output).tolist() == [2, 3]


@pytest.mark.parametrize(
    ("target", "classes"),
    [
        (2, [2, 2]),
        ([0, 2], [0, 2]),
        (np.array([1, 2]), [1, 2]),
        (torch.tensor([1, 2], dtype=torch.uint8), [1, 2]),
        ([[0, 1], [1, 2]], [[0, 1], [1, 2]]),
        ([[0, 1]], [[0, 1], [0, 1]]),
        (((0, 1), (1, 2)), [[0, 1], [1, 2]]),
    ],
)
def test_classes(target, classes):
    output = torch.arange(6.0).reshape(2, 3)
    found = targets.resolve(target, output, 2, (8, 8))
    assert found.classes.tolist() == classes
    rows = torch.arange(2).reshape(2, *[1] * (found.classes.ndim - 1))
    assert torch.equal(found(output), output[rows, found.classes])


def test_category_is_checked_like_plain_classes():
    output = torch.arange(6.0).reshape(2, 3)
    likely = targets.resolve(targets.Probability(torch.tensor([1, 2])), output, 2, (8, 8))
    assert likely.classes.tolist() == [1, 2]
    torch.testing.assert_close(likely(output), output.softmax(1)[[0, 1], [1, 2]])
    with pytest.raises(TargetError, match=r"a target of shape \(3,\) does not fit 2 samples"):
        targets.resolve(targets.Category(torch.tensor([1, 1, 1])), output, 2, (8, 8))
    with pytest.raises(TargetError, match="class 5 is out of range"):
        targets.resolve(targets.Category(torch.tensor([1, 5])), output, 2, (8, 8))


def test_targets_are_indexed_by_sample():
    output = torch.arange(6.0).reshape(2, 3)
    found = targets.resolve([0, 2], output, 2, (8, 8))[torch.tensor([1, 1, 0])]
    assert found(torch.arange(9.0).reshape(3, 3)).tolist() == [2, 5, 6]
    custom = targets.resolve(lambda out: out[:, 0], output, 2, (8, 8))[torch.tensor([1, 1, 0])]
    assert custom(torch.arange(9.0).reshape(3, 3)).tolist() == [0, 3, 6]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (3, r"class 3 is out of range: the model has 3 classes, 0 to 2"),
        (
            -1,
            r"class -1 is negative: classes count from 0, .* a label for 'ignore'; pass",
        ),
        ([0, -100], r"class -100 is negative"),
        ([[0, 7], [1, 2]], r"class 7 is out of range"),
        ([1], r"a target of shape \(1,\) does not fit 2 samples; pass one class for all"),
        ([1, 2, 0], r"a target of shape \(3,\) does not fit 2 samples"),
        ([[[1]]], r"a target of shape \(1, 1, 1\) does not fit 2 samples"),
        ([[], []], r"does not fit 2 samples|is neither a class index"),
        ([], r"does not fit 2 samples|is neither a class index"),
        (1.0, r"target=1.0 is neither a class index, nor integers.*; indices are integers: pass 1"),
        (True, r"target=True is neither .*; a bool is not an index: pass 1 or 0"),
        ("cat", r"target='cat' is neither .* does not know the names of its classes: pass indices"),
        (["cat", "dog"], r"does not know the names of its classes: pass indices"),
        ([1, 0.5], r"is neither .*; indices are integers"),
        ([True, False], r"is neither .*; a bool is not an index"),
        ([targets.Category(1), targets.Category(2)], r"; one target serves all samples: pass"),
        ([lambda out: out[:, 1]] * 2, r"; one target serves all samples: pass class indices"),
        (torch.ones(2), r"is neither .*; indices are integers"),
        ([[1, 2], [1]], r"is neither"),
        (torch.tensor([True, False]), r"is neither .*; a bool is not an index"),
    ],
)
def test_what_is_no_target(target, message):
    with pytest.raises(TargetError, match=message):
        targets.resolve(target, torch.zeros(2, 3), 2, (8, 8))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda out: out[:, 0] + 0j,
            "expected the target to return a tensor of real numbers, got torch.complex64",
        ),
        (lambda out: 3.0, "expected the target to return a tensor of real numbers, got float"),
        (lambda out: out.sum(), r"or \(2, K\), a score for each sample, got \(\)"),
        (lambda out: out[:1, 0], r"got \(1,\)"),
        (lambda out: out[None], r"got \(1, 2, 4\)"),
    ],
)
def test_what_a_function_must_return(function, message):
    with pytest.raises(TargetError, match=message):
        GradCAM(pooled())(images(), target=function)


def test_function_of_several_scores():
    net, batch = convolutional(), images()
    found = GradCAM(net, "features").explain(batch, lambda out: out[:, [0, 2]], relu=False)
    assert found.target is None
    expected = GradCAM(net, "features").explain(batch, target=[[0, 2]], relu=False)
    torch.testing.assert_close(found.heatmap, expected.heatmap)
    torch.testing.assert_close(found.score, expected.score)
    one = GradCAM(net, "features")(batch, lambda out: out[:, [2]], relu=False)
    assert one.shape == (2, 1, 8, 8)


SCORES = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def resolved(target, output=SCORES, size=(8, 8)):
    count = len(next(iter(output.values())) if isinstance(output, dict) else output)
    return targets.resolve(target, output, count, size)


DENSE = torch.randn(3, 5, 4, 4, generator=torch.Generator().manual_seed(2))
MASK = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(3)) > 0.4
QUERIES = {
    "logits": torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(4)),
    "pred_boxes": 0.3 + 0.2 * torch.rand(3, 6, 4, generator=torch.Generator().manual_seed(5)),
}
ALL = [
    (targets.Category([[0, 3], [1, 2], [4, 0]]), SCORES),
    (targets.TopK(3), SCORES),
    (targets.Probability([1, 2, 0]), SCORES),
    (targets.Probability([1, 2, 0], activation="sigmoid"), SCORES),
    (targets.LogProbability(), SCORES),
    (targets.Contrast(), SCORES),
    (targets.Contrast([[0, 1]], nearest=2), SCORES),
    (targets.Counterfactual([3, 1, 2]), SCORES),
    (targets.MultiLabel([[0], [1, 2], [3, 4, 0]]), SCORES),
    (targets.Regression([2, 0, 1]), SCORES),
    (targets.Similarity(), SCORES),
    (targets.Similarity(SCORES.flip(0)), SCORES),
    (targets.Similarity(torch.stack([SCORES + 1, SCORES * SCORES], 1), metric="dot"), SCORES),
    (targets.Segment([1, 3, 0], MASK), DENSE),
    (targets.Segment([[1, 3], [0, 2], [4, 1]], MASK), DENSE),
    (targets.Segment([[1, 3]]), DENSE),
    (targets.Segment(), DENSE),
    (targets.Token([1, 0, 3], [2, 1, 0]), DENSE[..., 0].mT),
    (targets.Token([[1, 2]]), DENSE[..., 0].mT),
    (targets.Detection(rank=1), QUERIES),
    (targets.Detection([0, 0, 6, 6], [[0, 2], [1, 3], [2, 0]], activation="sigmoid"), QUERIES),
]
"""Every target, with an output that it fits."""


def chosen(output, samples):
    if isinstance(output, dict):
        return {name: part[samples] for name, part in output.items()}
    return output[samples]


@pytest.mark.parametrize(("target", "output"), ALL, ids=lambda t: type(t).__name__)
def test_what_is_settled_stays_as_it_is_on_other_outputs(target, output):
    found = resolved(target, output)
    samples = torch.tensor([2, 0, 2, 1])
    other = chosen(output, samples)
    other = {k: v.flip(1) for k, v in other.items()} if isinstance(other, dict) else -other
    some = found[samples]
    assert resolved(some, other) is some
    assert not target.resolved
    assert found.placed == isinstance(found, targets.Segment | targets.Detection)


@pytest.mark.parametrize(("target", "output"), ALL, ids=lambda t: type(t).__name__)
def test_chosen_samples_have_the_scores_they_had(target, output):
    found = resolved(target, output)
    scores = found(output)
    assert scores.unique().numel() > 1
    for samples in (torch.tensor([2, 0, 2, 1, 1]), torch.tensor([1])):
        some = found[samples]
        assert type(some) is type(found)
        torch.testing.assert_close(some(chosen(output, samples)), scores[samples])
        if found.classes is not None:
            assert torch.equal(some.classes, found.classes[samples])
    torch.testing.assert_close(found(output), scores)
    assert found.signed == isinstance(found, targets.Regression)


@pytest.mark.parametrize(("target", "output"), ALL, ids=lambda t: type(t).__name__)
def test_batch_is_settled_like_each_sample_alone(target, output):
    """What is given one a sample is given to each alone."""
    together = resolved(target, output)(output)
    for sample in range(3):
        one = torch.tensor([sample])
        given = {
            name: value[sample : sample + 1]
            for name, value in vars(target).items()
            if isinstance(value, list | torch.Tensor) and len(value) == 3
        }
        alone = chosen(output, one)
        found = resolved(target.replaced(**given), alone)(alone)
        torch.testing.assert_close(found, together[one])


@pytest.mark.parametrize(("target", "output"), ALL, ids=lambda t: type(t).__name__)
def test_scores_have_a_gradient(target, output):
    grown = chosen(output, torch.arange(3))
    scores = grown["logits"] if isinstance(grown, dict) else grown
    scores.requires_grad_()
    found = resolved(target, grown)(grown)
    [gradient] = torch.autograd.grad(found.sum(), scores)
    assert gradient.flatten(1).any(1).all()
    with torch.no_grad():  # along the gradient the score rises, by as much as it says
        step = 1e-4 * gradient / gradient.norm()
        moved = {**grown, "logits": scores + step} if isinstance(grown, dict) else scores + step
        rise = (resolved(target, grown)(moved) - found).sum()
    torch.testing.assert_close(
        rise.double(), (1e-4 * gradient.norm()).double(), rtol=0.05, atol=3e-6
    )


def test_every_public_target_is_in_the_list_above():
    kinds = {
        name
        for name in targets.__all__
        if isinstance(kind := getattr(targets, name), type) and issubclass(kind, targets.Target)
    }
    assert kinds - {"Target", "ClassTarget"} == {type(target).__name__ for target, _ in ALL}
