"""Objects in boxes, against loops over proposals."""

import math

import pytest
import torch
from nets import convolutional, images
from torch import nn

from camlib import GradCAM, ScoreCAM, TargetError
from camlib.targets import Detection, resolve

SIZE = (40, 80)
"""Height and width of the images."""


def listed(*samples):
    """Output like torchvision's, of samples of ``(box, label, score)``."""
    return [
        {
            "boxes": torch.tensor([p[0] for p in sample], dtype=torch.float32).reshape(-1, 4),
            "labels": torch.tensor([p[1] for p in sample], dtype=torch.int64),
            "scores": torch.tensor([p[2] for p in sample], dtype=torch.float32),
        }
        for sample in samples
    ]


FIRST = [([0, 0, 10, 10], 3, 0.5), ([5, 0, 15, 10], 3, 0.9), ([1, 0, 11, 10], 7, 0.7)]
SECOND = [([20, 20, 30, 36], 2, 0.8)]
LISTED = listed(FIRST, SECOND)


def iou(one, other):
    """Intersection over union by counting the pixels of whole-numbered boxes."""

    def pixels(box):
        x1, y1, x2, y2 = box
        return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}

    return len(pixels(one) & pixels(other)) / len(pixels(one) | pixels(other))


def by_hand(sample, box, label):
    return max((iou(box, b) * score for b, own, score in sample if own == label), default=0)


def test_best_detection_of_each_sample():
    target = resolve(None, LISTED, 2, SIZE)
    assert isinstance(target, Detection)
    assert target.classes.tolist() == [3, 2]
    assert target.boxes.tolist() == [[5, 0, 15, 10], [20, 20, 30, 36]]
    assert target(LISTED).tolist() == pytest.approx([0.9, 0.8])


def test_detection_at_a_rank_and_of_a_label():
    first = LISTED[:1]
    ranks = [Detection(rank=rank).resolve(first, 1, SIZE) for rank in range(3)]
    assert [t.boxes[0].tolist() for t in ranks] == [FIRST[1][0], FIRST[2][0], FIRST[0][0]]
    assert [int(t.classes) for t in ranks] == [3, 7, 3]
    assert Detection(label=3, rank=1).resolve(first, 1, SIZE).boxes.tolist() == [[0, 0, 10, 10]]
    assert resolve(7, first, 1, SIZE).boxes.tolist() == [[1, 0, 11, 10]]
    several = resolve([[7, 3]], first, 1, SIZE)
    assert several.boxes.tolist() == [[FIRST[2][0], FIRST[1][0]]]
    assert several(first).tolist() == [pytest.approx([0.7, 0.9])]
    assert resolve([3, 2], LISTED, 2, SIZE).classes.tolist() == [3, 2]


def test_score_is_the_largest_overlap_times_score_among_those_of_the_label():
    box = [2, 1, 12, 12]
    for label in (3, 7, 2):
        found = Detection(box, label).resolve(LISTED, 2, SIZE)
        assert found.boxes.tolist() == [box, box]
        expected = [by_hand(sample, box, label) for sample in (FIRST, SECOND)]
        assert found(LISTED).tolist() == pytest.approx(expected)
    each = Detection([box, [22, 20, 30, 40]], [[3, 7], [2, 1]]).resolve(LISTED, 2, SIZE)
    assert each.boxes.shape == (2, 2, 4)
    expected = [
        [by_hand(FIRST, box, 3), by_hand(FIRST, box, 7)],
        [by_hand(SECOND, [22, 20, 30, 40], 2), 0],
    ]
    assert each(LISTED).tolist() == [pytest.approx(row) for row in expected]


def test_label_of_a_box_is_that_of_the_detection_that_fits_best():
    found = Detection([[1, 0, 11, 10], [21, 20, 30, 30]]).resolve(LISTED, 2, SIZE)
    assert found.classes.tolist() == [7, 2]


def test_gradient_flows_through_the_score_alone():
    for part in LISTED:
        for name in ("boxes", "scores"):
            part[name] = part[name].clone().requires_grad_()
    found = Detection([2, 0, 12, 10], 3).resolve(LISTED, 2, SIZE)(LISTED)
    boxes, scores = torch.autograd.grad(
        found.sum(), [LISTED[0]["boxes"], LISTED[0]["scores"]], allow_unused=True
    )
    assert boxes is None
    assert scores.tolist() == pytest.approx([0, iou([2, 0, 12, 10], [5, 0, 15, 10]), 0], abs=1e-7)


def test_changed_output_is_matched_anew():
    target = resolve(None, LISTED, 2, SIZE)
    changed = listed([([6, 0, 16, 10], 3, 0.4), ([5, 0, 15, 10], 8, 0.9)], [])
    assert target(changed).tolist() == pytest.approx([iou([5, 0, 15, 10], [6, 0, 16, 10]) * 0.4, 0])
    assert target(listed([], [])).tolist() == [0, 0]
    some = target[torch.tensor([1, 0, 1])]
    again = listed(SECOND, FIRST, [])
    assert some(again).tolist() == pytest.approx([0.8, 0.9, 0])


def queries(name="logits", extra=True):
    """Output like DETR's: three queries in each of two samples, two labels and "no object"."""
    scores = torch.tensor(
        [
            [[1.0, 3.0, 0.5], [2.0, 0.0, 1.0], [0.0, 1.0, 4.0]],
            [[0.0, 1.0, 2.0], [0.2, 0.3, 0.1], [2.5, 0.0, 2.0]],
        ]
    )
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.25, 0.5, 0.25, 0.2], [0.75, 0.25, 0.1, 0.3]])
    return {name: scores if extra else scores[..., :2], "pred_boxes": boxes.expand(2, -1, -1)}


PIXELS = [[20, 10, 60, 30], [10, 16, 30, 24], [56, 4, 64, 16]]
"""The same boxes in an image of 40 x 80."""


def softmax(scores):
    total = sum(math.exp(s) for s in scores)
    return [math.exp(s) / total for s in scores]


@pytest.mark.parametrize("name", ["logits", "pred_logits"])
def test_queries_are_read_with_a_class_for_no_object(name):
    output = queries(name)
    target = resolve(None, output, 2, SIZE)
    assert target.classes.tolist() == [1, 0]
    torch.testing.assert_close(target.boxes, torch.tensor([PIXELS[0], PIXELS[2]]).float())
    expected = [softmax([1.0, 3.0, 0.5])[1], softmax([2.5, 0.0, 2.0])[0]]
    assert target(output).tolist() == pytest.approx(expected)
    box = [12, 12, 48, 28]
    of_box = Detection(box, 1).resolve(output, 2, SIZE)(output)
    expected = [
        max(iou(box, PIXELS[q]) * softmax(sample[q].tolist())[1] for q in range(3))
        for sample in output[name]
    ]
    assert of_box.tolist() == pytest.approx(expected)


def test_queries_of_no_object_are_no_detections():
    output = queries()
    assert Detection(rank=1).resolve(output, 2, SIZE).classes.tolist() == [0, 1]
    message = (
        r"detects only 2 objects in sample 0, so there is none with rank=2; pass box= and label="
    )
    with pytest.raises(TargetError, match=message):
        resolve(Detection(rank=2), output, 2, SIZE)


def test_queries_read_with_a_sigmoid_have_no_such_class():
    output = queries(extra=False)
    target = Detection(activation="sigmoid").resolve(output, 2, SIZE)
    assert target.classes.tolist() == [1, 0]
    expected = [1 / (1 + math.exp(-3.0)), 1 / (1 + math.exp(-2.5))]
    assert target(output).tolist() == pytest.approx(expected)
    assert Detection(activation="sigmoid", rank=2).resolve(output, 2, SIZE).classes.tolist() == [
        1,
        1,
    ]


@pytest.mark.parametrize(
    ("target", "output", "message"),
    [
        (
            None,
            listed(FIRST, []),
            "the model detects nothing in sample 1, so there is none with rank=0",
        ),
        (
            7,
            LISTED,
            "the model detects nothing of label 7 in sample 1, so there is none with rank=0; pass",
        ),
        (Detection(label=3, rank=2), listed(FIRST, FIRST), "only 2 objects of label 3 in sample 0"),
        (
            Detection(rank=9),
            LISTED,
            "the model detects only 3 objects in sample 0, so there is none with rank=9",
        ),
        (-1, LISTED, "label -1 is negative: labels count from 0"),
        (2, queries(), "label 2 is out of range: the model has 2 labels, 0 to 1"),
        ("cat", LISTED, "label='cat' is neither a label index, nor integers"),
        ([1, 2, 3], LISTED, r"a label of shape \(3,\) does not fit 2 samples; pass one label for"),
        (Detection([1, 2, 3]), LISTED, r"a box of shape \(1, 3\) does not fit 2 samples; pass x1"),
        (Detection(torch.ones(3, 4)), LISTED, r"a box of shape \(3, 4\) does not fit 2 samples"),
        (Detection([[[1]]]), LISTED, r"a box of shape \(1, 1, 1\) does not fit"),
        (Detection("box"), LISTED, "box='box' is not an array of numbers"),
        (
            Detection([5, 5, 5, 9], 3),
            LISTED,
            r"box \[5.0, 5.0, 5.0, 9.0\] is empty; expected x1 y1",
        ),
        (
            Detection([[0, 0, 1, 1], [3, 9, 5, 2]], 3),
            LISTED,
            r"box \[3.0, 9.0, 5.0, 2.0\] is empty",
        ),
        (Detection([0, 0, math.nan, 1], 3), LISTED, r"box \[0.0, 0.0, nan, 1.0\] is empty"),
        (
            Detection([0, 0, 9, 9]),
            LISTED,
            r"nothing that the model detects overlaps box \[0.0, 0.0, 9.0, 9.0\] in sample 1; pass",
        ),
        (Detection(), listed(FIRST), "the model returned detections of 1 images; expected"),
        (
            Detection(),
            torch.zeros(2, 4),
            r"expects a list of mappings .* float32 \(2, 4\)",
        ),
        (
            Detection(),
            [{**part, "scores": part["labels"]} for part in LISTED],
            "expected floating-point scores of detections, .* torch.int64",
        ),
        (
            Detection(),
            {"logits": torch.zeros(2, 3), "pred_boxes": torch.zeros(2, 3, 4)},
            r"expected class scores \(N, queries, labels\) and boxes .* returned \(2, 3\) and",
        ),
        (
            Detection(),
            {"logits": torch.zeros(3, 3, 4), "pred_boxes": torch.zeros(3, 3, 4)},
            r"scores of shape \(3, 3, 4\) for 2 samples",
        ),
    ],
)
def test_what_does_not_fit(target, output, message):
    with pytest.raises(TargetError, match=message):
        resolve(target, output, 2, SIZE)


class Detector(nn.Module):
    """Two proposals a sample, scored by a network."""

    def __init__(self):
        super().__init__()
        net = convolutional()
        self.features, self.tail = net.features, net.tail

    def forward(self, batch):
        boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [2.0, 0.0, 8.0, 8.0]])
        scores = self.tail(self.features(batch)).sigmoid()
        return [
            {"boxes": boxes, "labels": torch.tensor([1, 2]), "scores": own[:2]} for own in scores
        ]


@pytest.mark.parametrize("kind", [GradCAM, ScoreCAM])
def test_map_of_a_detection_is_that_of_its_score(kind):
    net, batch = Detector().eval(), images()
    method = kind(net, "features", relu=False, normalize=False)
    seen = method.explain(batch)
    best = [int(one["scores"].argmax()) for one in net(batch)]
    assert seen.target.tolist() == [b + 1 for b in best]
    for sample, place in enumerate(best):
        own = method(
            batch[[sample]],
            lambda out, place=place: torch.stack([one["scores"][place] for one in out]),
        )
        torch.testing.assert_close(seen.heatmap[[sample]], own)


def test_boxes_without_an_area_show_no_object():
    output = listed([([5, 0, 5, 10], 3, 0.9), ([0, 9, 9, 9], 3, 0.8), ([0, 0, 10, 10], 3, 0.5)])
    target = resolve(None, output, 1, SIZE)
    assert target.boxes.tolist() == [[0, 0, 10, 10]]
    assert target(output).tolist() == [0.5]
    with pytest.raises(TargetError, match="sample 0"):
        resolve(None, listed([([5, 0, 5, 10], 3, 0.9)]), 1, SIZE)
