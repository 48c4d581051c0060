"""A class over a region, against loops over places."""

import numpy as np
import pytest
import torch
from nets import convolutional, images
from torch import nn

from camlib import CAM, GradCAM, ScoreCAM, TargetError
from camlib.targets import Segment, resolve

DENSE = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))


def mean_over(mask, sample, label, scores=DENSE):
    """The mean of a class over the places of a mask, by a loop."""
    values = [
        float(scores[sample, label, y, x])
        for y in range(scores.shape[2])
        for x in range(scores.shape[3])
        if mask[y][x]
    ]
    return sum(values) / len(values)


def predicted(sample, label):
    """Where a class is the highest."""
    return [
        [max(range(4), key=lambda c: float(DENSE[sample, c, y, x])) == label for x in range(5)]
        for y in range(3)
    ]


@pytest.fixture
def mask():
    return torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(1)) > 0.6


def test_mean_over_a_mask_for_each_sample(mask):
    for form in (mask, mask.int(), mask.double(), mask.numpy(), mask.tolist(), list(mask)):
        found = Segment([1, 3], form).resolve(DENSE, 2, (6, 10))
        assert found.classes.tolist() == [1, 3]
        expected = [mean_over(mask[0], 0, 1), mean_over(mask[1], 1, 3)]
        assert found(DENSE).tolist() == pytest.approx(expected)


def test_mask_for_all_samples(mask):
    for form in (mask[0], mask[:1], np.uint8(mask[0])):
        found = Segment(2, form).resolve(DENSE, 2, (6, 10))
        assert found(DENSE).tolist() == pytest.approx([mean_over(mask[0], n, 2) for n in (0, 1)])


def test_several_classes_over_a_mask(mask):
    found = Segment([[1, 0, 3]], mask).resolve(DENSE, 2, (6, 10))(DENSE)
    expected = [[mean_over(mask[n], n, c) for c in (1, 0, 3)] for n in (0, 1)]
    assert found.tolist() == [pytest.approx(row) for row in expected]


@pytest.mark.parametrize("size", [(12, 20), (1, 1), (4, 7), (2, 3)])
def test_mask_of_any_size_takes_the_nearest_place(size):
    given = torch.rand(size, generator=torch.Generator().manual_seed(3)) > 0.3
    given[0, 0] = True
    height, width = size
    resized = [
        [bool(given[int((y + 0.5) * height / 3), int((x + 0.5) * width / 5)]) for x in range(5)]
        for y in range(3)
    ]
    found = Segment(1, given).resolve(DENSE, 2, (6, 10))(DENSE)
    assert found.tolist() == pytest.approx([mean_over(resized, n, 1) for n in (0, 1)])


def test_without_a_mask_the_places_are_those_the_model_predicts():
    found = Segment([[1, 2]]).resolve(DENSE, 2, (6, 10))
    places = [[predicted(n, c) for c in (1, 2)] for n in (0, 1)]
    assert found.mask.tolist() == places
    expected = [[mean_over(places[n][k], n, k + 1) for k in (0, 1)] for n in (0, 1)]
    assert found(DENSE).tolist() == [pytest.approx(row) for row in expected]
    changed = DENSE.flip(1)
    expected = [[mean_over(places[n][k], n, k + 1, changed) for k in (0, 1)] for n in (0, 1)]
    assert found(changed).tolist() == [pytest.approx(row) for row in expected]


def painted(labels):
    """An output that predicts `labels`."""
    return nn.functional.one_hot(torch.tensor(labels), 4).movedim(-1, 1).float() * 5


def test_class_at_most_places_is_the_background_only_if_there_is_no_other():
    output = painted(
        [[[0, 0, 0], [0, 3, 2], [2, 0, 0]], [[0] * 3] * 3, [[1, 1, 0], [3] * 3, [1] * 3]]
    )
    assert resolve(None, output, 3, (6, 6)).classes.tolist() == [2, 0, 1]


def test_class_at_most_places_of_a_mask():
    output = painted([[[0, 1, 2], [2, 1, 2], [2, 3, 3]]])
    mask = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 1, 0]])
    assert Segment(mask=mask).resolve(output, 1, (6, 6)).classes.tolist() == [1]
    assert Segment().resolve(output, 1, (6, 6)).classes.tolist() == [2]


def test_single_output_has_two_classes_told_apart_at_zero():
    output = torch.tensor([[[[1.0, -2.0], [3.0, 0.0]]]])
    found = Segment().resolve(output, 1, (4, 4))
    assert found.classes.tolist() == [1]
    assert found.mask.tolist() == [[[True, False], [True, False]]]
    assert found(output).tolist() == [2]
    rest = Segment(0).resolve(output, 1, (4, 4))
    assert rest.mask.tolist() == [[[False, True], [False, True]]]
    assert rest(output).tolist() == [1]
    nothing = Segment().resolve(-output.abs() - 1, 1, (4, 4))
    assert nothing.classes.tolist() == [0]
    assert nothing(-output.abs() - 1).tolist() == [2.5]


def test_single_output_of_probabilities_is_told_apart_at_one_half():
    logits = torch.tensor([[[[1.0, -2.0], [3.0, -0.5]]]], requires_grad=True)
    found = Segment().resolve(logits.sigmoid(), 1, (4, 4))
    assert found.mask.tolist() == [[[True, False], [True, False]]]
    with pytest.raises(TargetError, match="camlib cannot tell which it is; pass target=1"):
        Segment(1).resolve(logits.sigmoid().detach(), 1, (4, 4))


def test_values_outside_the_mask_do_not_matter(mask):
    broken = DENSE.masked_fill(~mask[:, None], torch.nan)
    found = Segment(1, mask).resolve(DENSE, 2, (6, 10))
    assert torch.equal(found(broken), found(DENSE))


def test_half_precision_is_summed_in_float32(mask):
    half = DENSE.half()
    found = Segment(1, mask).resolve(half, 2, (6, 10))(half)
    assert found.dtype == torch.float32
    expected = [mean_over(mask[n], n, 1, half.float()) for n in (0, 1)]
    assert found.tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Segment(4), "class 4 is out of range: the model has 4 classes, 0 to 3"),
        (Segment([1, 2, 3]), r"a target of shape \(3,\) does not fit 2 samples"),
        (Segment(1, torch.ones(2)), r"a mask of shape \(2,\) does not fit 2 samples"),
        (Segment(1, torch.ones(2, 1, 3, 5)), r"a mask of shape \(2, 1, 3, 5\) does not fit"),
        (Segment(1, torch.ones(3, 6, 10)), r"a mask of shape \(3, 6, 10\) does not fit 2 samples"),
        (Segment(1, torch.ones(0, 5)), r"a mask of shape \(1, 0, 5\) does not fit 2 samples"),
        (
            Segment(1, torch.arange(15).reshape(3, 5)),
            "expected a mask of bool, or of 0 and 1, got values",
        ),
        (
            Segment(1, torch.full((3, 5), torch.nan)),
            "expected a mask of bool, or of 0 and 1, got values",
        ),
        (Segment(1, torch.zeros(3, 5)), "the mask of sample 0 is empty; mark more places"),
        (
            Segment(1, torch.stack([torch.ones(3, 5), torch.zeros(3, 5)])),
            "the mask of sample 1 is empty; mark",
        ),
        (
            Segment(1, torch.eye(1).new_zeros(30, 50).index_fill(0, torch.tensor([29]), 1)),
            r"the mask of sample 0 is empty at the output's grid \(3, 5\); mark more places",
        ),
        (Segment(1, "left"), "mask='left' is not an array of numbers; pass a tensor"),
        (Segment(1, [[0, 1], [1]]), r"mask=\[\[0, 1\], \[1\]\] is not an array of numbers"),
    ],
)
def test_what_does_not_fit(target, message):
    with pytest.raises(TargetError, match=message):
        resolve(target, DENSE, 2, (6, 10))


def test_class_that_is_predicted_nowhere_is_named_with_its_sample():
    output = painted([[[0, 1], [1, 1]], [[0, 2], [2, 2]]])
    with pytest.raises(TargetError, match=r"predicts class 1 nowhere in sample 1; pass mask="):
        resolve(1, output, 2, (4, 4))
    with pytest.raises(TargetError, match=r"predicts class 3 nowhere in sample 0; pass mask="):
        resolve([[1, 3], [2, 0]], output, 2, (4, 4))
    with pytest.raises(TargetError, match=r"predicts class 1 nowhere in sample 0; pass mask="):
        resolve(1, torch.zeros(1, 1, 2, 2), 1, (4, 4))


def test_output_that_lost_its_samples():
    with pytest.raises(TargetError, match=r"scores of shape \(2, 4, 3, 5\) for 3 samples"):
        resolve(Segment(), DENSE, 3, (6, 10))


def test_region_of_an_output_without_places():
    message = r"at places, \(N, classes, \*grid\) with 2 axes .* returned \(2, 4\); use Category"
    with pytest.raises(TargetError, match=message):
        resolve(Segment(1), torch.zeros(2, 4), 2, (6, 10))


class Segmenting(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = convolutional().features
        self.head = convolutional().tail[0]

    def forward(self, batch):
        return {"out": self.head(self.features(batch))}


def test_map_of_a_region_is_that_of_the_mean():
    net, batch = Segmenting().eval(), images()
    cam = GradCAM(net, "features", relu=False, normalize=False)
    seen = cam.explain(batch)
    output = net(batch)["out"].detach()
    [_, classes, *_] = output.shape
    best = output.argmax(1)
    commonest = [
        max(range(1, classes), key=lambda c: int((best[n] == c).sum())) for n in range(len(batch))
    ]
    assert seen.target.tolist() == commonest

    def function(out):
        rows = [out["out"][n, c][best[n] == c].mean() for n, c in enumerate(commonest)]
        return torch.stack(rows)

    torch.testing.assert_close(seen.heatmap, cam(batch, function))
    torch.testing.assert_close(seen.score, function(net(batch)).detach())


def test_score_cam_takes_a_region_as_it_is():
    net, batch = Segmenting().eval(), images()
    mask = torch.zeros(8, 8)
    mask[2:6, 2:6] = 1
    method = ScoreCAM(net, "features", relu=False)
    expected = method(batch, lambda out: out["out"][:, 3, 1:3, 1:3].flatten(1).mean(1))
    torch.testing.assert_close(method(batch, Segment(3, mask)), expected)


def test_cam_explains_no_regions():
    with pytest.raises(TargetError, match="CAM explains classes alone"):
        CAM(Segmenting().eval(), "features")(images())
