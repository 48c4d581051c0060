from collections import OrderedDict

import numpy as np
import pytest
import torch
from nets import Net, convolutional, images, pooled
from torch import nn

from camlib import GradCAM, ScoreCAM, TargetError, targets


def test_predicted_class():
    output = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 1.0]])
    target = targets.resolve(None, output, 2, (8, 8))
    assert target.classes.tolist() == [1, 0]
    assert target(output).tolist() == [2, 3]


@pytest.mark.parametrize(
    ("target", "classes"),
    [
        (2, [2, 2]),
        (-1, [2, 2]),
        ([0, -3], [0, 0]),
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
    likely = targets.resolve(targets.Probability(torch.tensor([1, -1])), output, 2, (8, 8))
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
        (-4, r"class -4 is out of range"),
        ([[0, 7], [1, 2]], r"class 7 is out of range"),
        ([1], r"a target of shape \(1,\) does not fit 2 samples; pass one class for all"),
        ([1, 2, 0], r"a target of shape \(3,\) does not fit 2 samples"),
        ([[[1]]], r"a target of shape \(1, 1, 1\) does not fit 2 samples"),
        ([[], []], r"does not fit 2 samples|is neither a class index"),
        ([], r"does not fit 2 samples|is neither a class index"),
        (1.0, r"target=1.0 is neither a class index, nor integers"),
        (True, r"target=True is neither"),
        ("cat", r"target='cat' is neither"),
        ([1, 0.5], r"is neither"),
        ([True, False], r"is neither"),
        ([[1, 2], [1]], r"is neither"),
        (torch.tensor([True, False]), r"is neither"),
    ],
)
def test_what_is_no_target(target, message):
    with pytest.raises(TargetError, match=message):
        targets.resolve(target, torch.zeros(2, 3), 2, (8, 8))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda out: out.argmax(1),
            "expected the target to return a floating-point tensor, got torch.int64",
        ),
        (lambda out: 3.0, "expected the target to return a floating-point tensor, got float"),
        (lambda out: out.sum(), r"or \(2, K\), a score for each sample, got \(\)"),
        (lambda out: out[:1, 0], r"got \(1,\)"),
        (lambda out: out[None], r"got \(1, 2, 4\)"),
    ],
)
def test_what_a_function_must_return(function, message):
    with pytest.raises(TargetError, match=message):
        GradCAM(pooled())(images(), target=function)


def test_function_that_counts_on_the_place_of_a_sample_is_refused_on_masked_images():
    rows, classes = torch.arange(2), torch.tensor([0, 1])
    with pytest.raises(TargetError, match="do not rely on the position of a sample in the batch"):
        ScoreCAM(pooled())(images(), target=lambda out: out[rows, classes])


def test_function_of_several_scores():
    net, batch = convolutional(), images()
    found = GradCAM(net, "features").explain(batch, lambda out: out[:, [0, 2]], relu=False)
    assert found.target is None
    expected = GradCAM(net, "features").explain(batch, target=[[0, 2]], relu=False)
    torch.testing.assert_close(found.heatmap, expected.heatmap)
    torch.testing.assert_close(found.score, expected.score)
    one = GradCAM(net, "features")(batch, lambda out: out[:, [2]], relu=False)
    assert one.shape == (2, 1, 8, 8)


class Wrapped(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap

    def forward(self, output):
        return self.wrap(output)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda out: {"logits": out, "loss": None},
        lambda out: OrderedDict(out=out, aux=out * 0),
        lambda out: {"scores": out},
        lambda out: (out,),
        lambda out: [out],
    ],
)
def test_scores_are_found_in_the_output(wrap):
    net = convolutional()
    wrapped = Net(net.features, nn.Sequential(*net.tail, Wrapped(wrap))).eval()
    seen = GradCAM(wrapped, "features").explain(images(), target=1)
    assert torch.equal(seen.heatmap, GradCAM(net, "features")(images(), target=1))
    assert type(seen.output) is type(wrap(torch.zeros(2, 4)))


@pytest.mark.parametrize("wrap", [lambda out: (out, out), lambda out: {"a": out, "b": out}])
def test_output_that_needs_a_function(wrap):
    net = convolutional()
    wrapped = Net(net.features, nn.Sequential(*net.tail, Wrapped(wrap))).eval()
    with pytest.raises(TargetError, match="cannot tell the class scores in the model's output"):
        GradCAM(wrapped, "features")(images(), target=1)
    first = GradCAM(wrapped, "features")(
        images(),
        target=lambda out: next(iter(out.values() if isinstance(out, dict) else out))[:, 1],
    )
    assert torch.equal(first, GradCAM(net, "features")(images(), target=1))


def test_dense_output_needs_a_function():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 1))
    with pytest.raises(
        TargetError, match=r"expected class scores \(N, classes\), the model returned"
    ):
        GradCAM(net, "1")(images(), target=1)


def test_single_logit():
    net = convolutional()
    single = Net(net.features, nn.Sequential(*net.tail, Wrapped(lambda out: out[:, 1]))).eval()
    found = GradCAM(single, "features").explain(images())
    assert found.target.tolist() == [0, 0]
    assert torch.equal(found.heatmap, GradCAM(net, "features")(images(), target=1))


def test_output_that_lost_its_samples():
    net = convolutional()
    merged = Net(
        net.features, nn.Sequential(*net.tail, Wrapped(lambda out: out.mean(0, True)))
    ).eval()
    with pytest.raises(
        TargetError, match=r"scores of shape \(1, 4\) for 2 samples; does the input"
    ):
        GradCAM(merged, "features")(images())


def test_image_without_a_batch_axis_gets_a_hint():
    with pytest.raises(Exception) as raised:
        GradCAM(pooled(), "features")(images()[0])
    notes = "".join(getattr(raised.value, "__notes__", [])) + str(raised.value)
    assert "image[None]" in notes or "batch axis" in notes
