"""What belongs to a sample follows it through every wrapper: baseline, target, inputs, segment."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from nets import convolutional, dense, images
from reference import integrated_grad_cam, integrated_gradients
from torch import nn
from torch.nn import functional as F

from camlib import (
    CAMERAS,
    Augmented,
    GradCAM,
    GuidedGradCAM,
    HiResCAM,
    InputError,
    IntegratedGradCAM,
    IntegratedGradients,
    ScoreCAM,
    Smooth,
    SmoothGradCAMPlusPlus,
    TargetError,
)
from camlib.augmentation import Augmentation
from camlib.passes.inputs import Inputs
from camlib.targets import Contrast, Detection, Segment, Target

pytestmark = [
    pytest.mark.filterwarnings("ignore:a map at layer:camlib.CamlibWarning"),
    pytest.mark.filterwarnings("ignore:integrated gradients with:camlib.CamlibWarning"),
]

NOISE = {"samples": 3, "sigma": 0.3, "seed": 2}

WRAPPERS = {
    "smooth, one at once": lambda m: Smooth(m, batch_size=1, **NOISE),
    "smooth, two at once": lambda m: Smooth(m, batch_size=2, **NOISE),
    "smooth, all at once": lambda m: Smooth(m, batch_size=32, **NOISE),
    "smooth, twice": lambda m: Smooth(Smooth(m, batch_size=3, **NOISE), **NOISE),
}
MOVING = {
    "augmented": lambda m: Augmented(m, scales=(1, 1.5)),
    "augmented, smooth": lambda m: Augmented(Smooth(m, batch_size=5, **NOISE)),
    "smooth, augmented": lambda m: Smooth(Augmented(m), batch_size=3, **NOISE),
}


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def noisy(image):
    noise = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    return [image + 0.3 * (image.max() - image.min()) * each for each in noise]


def large(found, size=(8, 8)):
    return F.interpolate(found[None, None], size, mode="bilinear", align_corners=False)[0, 0]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 32])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_baseline_of_each_image_in_smoothed_integrated_gradients(count, batch_size):
    """Four of captum's tests: a tunnel of noise over integrated gradients, a baseline a sample."""
    net, batch = convolutional().double(), images(count).double()
    starts = images(count, seed=5).double()
    method = Smooth(
        IntegratedGradients(net, baseline=starts, steps=5), batch_size=batch_size, **NOISE
    )
    expected = [
        sum(integrated_gradients(net, each, 1, start, 5) for each in noisy(image)) / 3
        for image, start in zip(batch, starts, strict=True)
    ]
    assert_same(method(batch, 1), torch.stack(expected))


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_baseline_of_each_image_in_smoothed_integrated_grad_cam(batch_size):
    net, batch = convolutional().double(), images(3).double()
    starts = images(3, seed=5).double()
    inner = IntegratedGradCAM(net, "features", baseline=starts, steps=4)
    found = Smooth(inner, batch_size=batch_size, **NOISE).explain(batch, 1).map
    expected = [
        sum(integrated_grad_cam(net.features, net.tail, x, 1, start, 4) for x in noisy(image)) / 3
        for image, start in zip(batch, starts, strict=True)
    ]
    assert_same(found, torch.stack(expected))


@pytest.mark.parametrize("each", [True, False])
def test_baseline_moves_with_its_image(each):
    net, batch = convolutional().double(), images(2).double()
    starts = images(2 if each else 1, seed=5).double()
    inner = IntegratedGradCAM(net, "features", baseline=starts, steps=4)
    found = Augmented(inner, scales=(1, 1.5)).explain(batch, 1).map
    expected = []
    for image, start in zip(batch, starts.expand_as(batch), strict=True):
        total = 0
        for side in (8, 12):
            views = F.interpolate(torch.stack([image, start]), (side, side), mode="bilinear")
            for flip in (False, True):
                seen, blank = views.flip(-1) if flip else views
                one = large(integrated_grad_cam(net.features, net.tail, seen, 1, blank, 4))
                total = total + (one.flip(-1) if flip else one) / 4
        expected.append(total)
    assert_same(found, torch.stack(expected))


@pytest.mark.parametrize("wrap", [*WRAPPERS.values(), *MOVING.values(), lambda m: m])
@pytest.mark.parametrize("shapes", [(4, 2), (1, 3)])
def test_baselines_that_are_not_as_many_as_the_images(wrap, shapes):
    count, starts = shapes
    net, blank = convolutional(), images(starts, seed=5)
    message = rf"baseline of shape \({starts}, 3, 8, 8\) does not fit images of shape \({count}, 3"
    with pytest.raises(InputError, match=message):
        wrap(IntegratedGradCAM(net, "features", baseline=blank))(images(count), 1)
    if wrap not in MOVING.values():
        with pytest.raises(InputError, match=message):
            wrap(IntegratedGradients(net, baseline=blank))(images(count), 1)


class Labelled(Target):
    """A user's target: the output of a label, less what it is of a weighted sum."""

    per_sample = ("labels", "weights")

    def __init__(self, labels, weights):
        self.labels = labels
        self.weights = weights

    def __call__(self, output):
        own = output.gather(1, self.labels[:, None])[:, 0]
        return own - (self.weights * output).sum(1)


class Beside(nn.Module):
    """An image, a number for each sample, and a mask of the image."""

    def __init__(self):
        super().__init__()
        self.net = convolutional().double()

    def forward(self, image, factor, mask):
        features = self.net.features(image * mask)
        return self.net.tail(features * factor[:, None, None, None])


def cases(net, layer="features"):
    starts = images(3, seed=5).double()
    return {
        "baseline": (
            IntegratedGradCAM(net, layer, baseline=starts, steps=4),
            lambda n: IntegratedGradCAM(net, layer, baseline=starts[n], steps=4),
        ),
        "of pixels": (
            IntegratedGradients(net, baseline=starts, steps=4),
            lambda n: IntegratedGradients(net, baseline=starts[n], steps=4),
        ),
        **{
            kind.__name__: (method := kind(net, layer, **options), lambda _, method=method: method)
            for kind, options in (
                (HiResCAM, {}),
                (ScoreCAM, {"batch_size": 5}),
                (SmoothGradCAMPlusPlus, {"samples": 3, "batch_size": 4}),
            )
        },
    }


OWN = ["labels", "contrast"]
CASES = ["baseline", "of pixels", "HiResCAM", "ScoreCAM", "SmoothGradCAMPlusPlus"]
LABELS, WEIGHTS = torch.tensor([2, 0, 3]), torch.rand(3, 4, generator=torch.Generator()).double()
TARGETS = {
    "classes": lambda rows: [[2, 0], [1, 3], [0, 2]][rows],
    "labels": lambda rows: Labelled(LABELS[rows], WEIGHTS[rows]),
    "contrast": lambda rows: Contrast([2, 0, 1][rows], others=[[1, 3], [2, 1], [0, 3]][rows]),
}


def each_alone(wrap, method, alone, batch, target):
    """The values of `wrap` around the `method`, and of each sample by itself."""
    everything = wrap(method)(batch(slice(None)), target(slice(None)))
    one = [wrap(alone(n))(batch(slice(n, n + 1)), target(slice(n, n + 1))) for n in range(3)]
    return everything, torch.cat(one)


@pytest.mark.parametrize(
    ("wrap", "name", "target"),
    [
        *((wrap, name, "classes") for wrap in WRAPPERS for name in CASES),
        *((wrap, name, "classes") for wrap in MOVING for name in CASES if name != "of pixels"),
        *((wrap, "HiResCAM", target) for wrap in (*WRAPPERS, *MOVING) for target in OWN),
    ],
)
def test_a_batch_is_each_sample_alone(wrap, name, target):
    batch = images(3).double()
    method, alone = cases(convolutional().double())[name]
    found = each_alone(
        (WRAPPERS | MOVING)[wrap], method, alone, lambda rows: batch[rows], TARGETS[target]
    )
    assert_same(*found)


@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        ("smooth, two at once", "of pixels"),
        *product(
            ("smooth, two at once", "augmented", "smooth, augmented"),
            ("baseline", "HiResCAM", "ScoreCAM"),
        ),
    ],
)
def test_other_inputs_of_a_sample_stay_with_it(wrap, name):
    net = Beside()
    batch, factors = images(3).double(), torch.tensor([0.5, 2.0, 3.0]).double()
    masks = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(3)).double()
    method, alone = cases(net, "net.features")[name]
    method.image = "image"

    def of(rows):
        return {"image": batch[rows], "factor": factors[rows], "mask": masks[rows]}

    def one(n):
        kind = alone(n)
        kind.image = "image"
        return kind

    assert_same(*each_alone((WRAPPERS | MOVING)[wrap], method, one, of, TARGETS["classes"]))


def test_other_inputs_of_the_images_size_move_with_it():
    net, batch = Beside(), images(2).double()
    masks = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(3)).double()
    factors = torch.tensor([0.5, 2.0]).double()
    method = HiResCAM(net, "net.features", image="image", relu=False)
    found = Augmented(method, scales=(1, 1.5)).explain((batch, factors, masks), 1).map
    expected = 0
    for side in (8, 12):
        views = [F.interpolate(each, (side, side), mode="bilinear") for each in (batch, masks)]
        for flip in (False, True):
            seen, mask = [each.flip(-1) if flip else each for each in views]
            one = method.explain((seen, factors, mask), 1).map
            one = torch.stack([large(each) for each in one])
            expected = expected + (one.flip(-1) if flip else one) / 4
    assert_same(found, expected)


MASK = torch.zeros(2, 8, 8)
MASK[0, 2:4, :4] = MASK[1, 4:, 6:] = 1  # whole cells of the output's grid, 4 x 4


@pytest.mark.parametrize("target", ["one", "several", "predicted"])
def test_segments_move_with_the_image(target):
    net, batch = dense().double(), images(2).double()
    method = HiResCAM(net, "features", relu=False, resize=False)

    def asked(mask):
        if target == "one":
            return Segment([1, 2], mask)
        return Segment([[1, 2], [0, 3]], mask)

    if target == "predicted":
        labels = net(batch).argmax(1)
        mask = (labels == labels[:, :1, :1]).float()
        wanted = Segment(labels[:, 0, 0])
        asked = lambda mask: Segment(labels[:, 0, 0], mask)  # noqa: E731
    else:
        mask, wanted = MASK, asked(MASK)
    found = Augmented(method).explain(batch, wanted).map
    plain = method.explain(batch, asked(mask)).map
    turned = method.explain(batch.flip(-1), asked(mask.flip(-1))).map
    both = [
        F.interpolate(each.reshape(-1, 1, *each.shape[-2:]), (8, 8), mode="bilinear")
        for each in (plain, turned)
    ]
    expected = (both[0] + both[1].flip(-1)) / 2
    assert_same(found, expected.reshape(found.shape))


def test_segments_of_scaled_images_fit_the_output_there():
    net, batch = dense().double(), images(2).double()
    method = HiResCAM(net, "features", relu=False)
    found = Augmented(method, flips=False, scales=(2,)).explain(batch, Segment(1, MASK)).map
    bigger = F.interpolate(batch, (16, 16), mode="bilinear")
    mask = MASK.repeat_interleave(2, 1).repeat_interleave(2, 2)
    expected = method.explain(bigger, Segment(1, mask)).map
    assert_same(found, torch.stack([large(each) for each in expected]))
    small = CAMERAS(net, "features", scales=(0.5,))(batch, Segment(1, MASK))
    assert small.isfinite().all()
    one = torch.zeros(2, 8, 8)
    one[:, 3, 5] = 1  # would be lost among the nearest neighbours
    assert CAMERAS(net, "features", scales=(0.25,))(batch, Segment(1, one)).isfinite().all()


def test_boxes_move_with_the_image():
    target = Detection([[10.0, 20.0, 30.0, 60.0], [0.0, 0.0, 50.0, 80.0]], label=[1, 2])
    target = target.replaced(
        boxes=torch.tensor(target.boxes), classes=torch.tensor([1, 2]), size=(80, 50)
    )
    moved = target.augmented(Augmentation(2.0, flip=True))
    assert moved.size == (160, 100)
    assert moved.boxes.tolist() == [[40, 40, 80, 120], [0, 0, 100, 160]]
    again = moved.augmented(Augmentation(0.5, flip=True))
    assert torch.equal(again.boxes, target.boxes)
    assert again.size == (80, 50)


def test_a_target_of_places_that_does_not_say_how_it_moves_is_refused():
    class Corner(Target):
        placed = True

        def __call__(self, output):
            return output[:, 1, 0, 0]

    for method in (Augmented(GradCAM(dense(), "features")), CAMERAS(dense(), "features")):
        with pytest.raises(
            TargetError,
            match="the image moves, but the places that Corner refers to do not; define "
            "`augmented` in it, pass a class, or use Smooth",
        ):
            method(images(), Corner())
    assert Smooth(GradCAM(dense(), "features"), samples=2)(images(), Corner()).any()


@pytest.mark.parametrize("axis", ["NCHW", "NHWC", "NHW"])
def test_what_lies_at_places_is_told_by_its_size(axis):
    batch = images(2, 4, 6)
    image = {"NCHW": batch, "NHWC": batch.movedim(1, -1), "NHW": batch[:, 0]}[axis]
    labels = torch.arange(48).reshape(2, 4, 6) + 2**40
    depth = image.double() if axis == "NHW" else image.narrow(image.shape.index(3), 0, 1)
    beside = {"image": image, "labels": labels, "depth": depth, "tokens": torch.rand(2, 5)}
    given = Inputs.of(beside, image="image", image_layout=axis).accompanied("baseline", image / 2)
    moved = given.augmented(Augmentation(1.0, flip=True))
    width = image.ndim - 1 - (axis == "NHWC")
    assert torch.equal(moved.image, image.flip(width))
    assert torch.equal(moved.kwargs["image"], image.flip(width))
    assert torch.equal(moved.kwargs["labels"], labels.flip(-1))
    assert torch.equal(moved.kwargs["depth"], depth.flip(width))
    assert torch.equal(moved.kwargs["tokens"], beside["tokens"])
    assert torch.equal(moved.companions["baseline"], (image / 2).flip(width))
    twice = given.augmented(Augmentation(2.0))
    assert twice.size == (8, 12)
    expected = labels.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(twice.kwargs["labels"], expected)


def test_guided_grad_cam_takes_the_baseline_along():
    net, batch = convolutional().double(), images(3).double()
    starts = images(3, seed=5).double()
    found = GuidedGradCAM(net, "features", cam=IntegratedGradCAM, baseline=starts)(batch, 1)
    for n in range(3):
        alone = GuidedGradCAM(net, "features", cam=IntegratedGradCAM, baseline=starts[n])
        assert_same(found[n : n + 1], alone(batch[n : n + 1], 1))
    with pytest.raises(InputError, match=r"baseline of shape \(2, 3, 8, 8\) does not fit images"):
        GuidedGradCAM(net, "features", cam=IntegratedGradCAM, baseline=starts[:2])(batch, 1)
