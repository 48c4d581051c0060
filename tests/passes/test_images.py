"""Which of several inputs is the image: the one that a layer, or the answer, depends on."""

from __future__ import annotations

import pytest
import torch
from nets import Net, fitting, images, pooled, spread
from snapshot import snapshot
from torch import nn

from camlib import (
    METHODS,
    RISE,
    AttentionMethod,
    Augmented,
    DeepFeatureFactorization,
    GradCAM,
    GuidedGradCAM,
    InputError,
    LayerMethod,
    Occlusion,
    Saliency,
    ScoreCAM,
    Smooth,
    SmoothGrad,
)
from camlib.passes.images import image_of
from camlib.passes.inputs import Inputs

pytestmark = pytest.mark.filterwarnings("ignore:a map (at layer|of):camlib.CamlibWarning")


class Two(nn.Module):
    """Two images of different sizes, each with a branch of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = pooled(1), pooled(2)

    def forward(self, big, small):
        return self.one(big) + self.other(small)


class Joined(Two):
    """The same, with a layer that sees both."""

    def __init__(self) -> None:
        super().__init__()
        self.both = spread(nn.Conv2d(12, 4, 1))

    def forward(self, big, small):
        found = torch.cat([self.one.features(big), self.other.features(small)], 1)
        return self.both(found).mean((2, 3))


BIG, SMALL = images(2, 16, 16, seed=3), images(2, 8, 12, seed=4)
ORDERS = [(BIG, SMALL), {"small": SMALL, "big": BIG}, {"big": BIG, "small": SMALL}]


@pytest.mark.parametrize("given", ORDERS, ids=["tuple", "small first", "big first"])
@pytest.mark.parametrize("kind", [GradCAM, ScoreCAM, GuidedGradCAM])
def test_image_of_a_layer_is_the_one_it_depends_on(kind, given):
    net = Two().eval()
    for branch, picture in (("one", BIG), ("other", SMALL)):
        found = kind(net, f"{branch}.features")(given, 1)
        assert found.shape[-2:] == picture.shape[-2:]
        alone = kind(net.get_submodule(branch), "features")(picture, 1)
        if kind is not ScoreCAM:  # which asks for probabilities, that depend on both
            torch.testing.assert_close(found, alone)


@pytest.mark.parametrize("kind", METHODS.values(), ids=METHODS)
def test_answer_that_depends_on_several_images_has_to_be_told_which(kind):
    class Scaled(Net):
        """A field of weights beside the image, which could be one."""

        def forward(self, picture, field):
            return super().forward(picture) * (1 + field.mean((1, 2, 3))[:, None])

    base = fitting(kind)
    net = Scaled(base.features, base.tail).eval()
    given = images(), images(2, 4, 6, seed=9)
    with pytest.raises(
        InputError, match=r"the answer depends on 2 inputs .*: 0 \(a float32 tensor of shape"
    ):
        kind(net)(given, 1)
    if kind.__name__ == "CAM":
        return  # which refuses a scaled output
    before = snapshot(net)
    for image in (0, "picture", ("picture",)):
        assert kind(net, image=image)(given, 1).shape[-2:] == (8, 8)
    assert snapshot(net) == before


def test_wrappers_of_methods_ask_as_the_method_does():
    net = Two().eval()
    inner = GradCAM(net, "other.features", image="small")
    for method in (Smooth(inner, samples=2), Augmented(inner)):
        assert method((BIG, SMALL), 1).shape == (2, 8, 12)
    assert SmoothGrad(net, samples=2, image=1)((BIG, SMALL), 1).shape == SMALL.shape
    seen = DeepFeatureFactorization(net, "one.features", concepts=2)((BIG, SMALL))
    assert seen.heatmaps.shape == (2, 2, 16, 16)


def test_only_image_that_the_answer_depends_on_is_taken():
    class First(Two):
        def forward(self, unused, seen):
            return self.other(seen)

    net = First().eval()
    for kind in (GradCAM, Saliency, Occlusion):
        expected = kind(net.other)(SMALL, 1)
        torch.testing.assert_close(kind(net)((BIG, SMALL), 1), expected)
    few = RISE(net, masks=20)((BIG, SMALL), 1)
    torch.testing.assert_close(few, RISE(net.other, masks=20)(SMALL, 1))


def test_sequence_before_the_image_is_none_for_a_layer_of_the_image():
    class Sequence(Net):
        def forward(self, steps, picture, numbers):
            return super().forward(picture) + steps.mean(1) + numbers

    base = pooled()
    net = Sequence(base.features, base.tail).eval()
    steps, numbers = torch.randn(2, 10, 4), torch.randn(2, 4)
    found = GradCAM(net, "features")((steps, images(), numbers), 1)
    torch.testing.assert_close(found, GradCAM(base, "features")(images(), 1))
    with pytest.raises(InputError, match=r"such as image=1$"):
        GradCAM(net)((steps, images(), numbers), 1)


def test_layer_that_sees_both_has_to_be_told_which():
    net = Joined().eval()
    pair = BIG, images(2, 16, 16, seed=5)
    with pytest.raises(InputError, match="layer 'both' depends on 2 inputs that may be the image"):
        GradCAM(net, "both")(pair, 1)
    ones = [ScoreCAM(net, "both", image=place)(pair, 1) for place in (0, 1)]
    assert not torch.allclose(*ones)
    named = {"big": pair[0], "small": pair[1]}
    torch.testing.assert_close(ScoreCAM(net, "both", image="small")(named, 1), ones[1])


def test_image_that_a_layer_does_not_see_is_refused():
    net = Two().eval()
    with pytest.raises(
        InputError, match=r"'other.features' does not depend on image=0; it depends on 1 \("
    ):
        GradCAM(net, "other.features", image=0)((BIG, SMALL), 1)
    with pytest.raises(
        InputError, match=r"image=2 names none of the inputs; pass one of 0 \(a float"
    ):
        GradCAM(net, image=2)((BIG, SMALL), 1)
    with pytest.raises(InputError, match=r"image='text' names none of the inputs"):
        GradCAM(net, image="text")((BIG, SMALL), 1)

    class Blind(Two):
        def forward(self, big, small):
            self.one(torch.ones_like(big))
            return super().forward(big, small)

    net = Blind().eval()
    with pytest.raises(InputError, match=r"'one@0' depends on none of the inputs that may be the"):
        GradCAM(net, "one@0")((BIG, SMALL), 1)


def test_layers_of_different_images_are_refused():
    with pytest.raises(
        InputError, match=r"layers depend on different inputs: layer 'one.features'"
    ):
        GradCAM(Two().eval(), ["one.features", "other.features"])((BIG, SMALL), 1)


def test_measuring_is_done_once_and_leaves_no_trace():
    class Counted(Two):
        count = 0

        def forward(self, big, small):
            self.count += 1
            return super().forward(big, small) + 0 * torch.rand(())

    net = Counted().eval()
    cam = GradCAM(net, "other.features")
    before = snapshot(net)
    first = cam((BIG, SMALL), 1)
    assert snapshot(net) | {((""), "attributes"): None} == before | {((""), "attributes"): None}
    counted = net.count
    torch.testing.assert_close(cam((BIG, SMALL), 1), first)
    assert net.count - counted == 1
    # The pass, its modules, one for each image and the clean one, and where each sample looks.
    assert counted <= 2 + 3 + 2


def test_random_numbers_of_the_model_are_no_dependence():
    class Dropping(Two):
        def forward(self, big, small):
            return super().forward(nn.functional.dropout(big, 0.5, training=True), small)

    net = Dropping().eval()
    given = Inputs.of((BIG, SMALL))
    assert image_of(net, given, ["other.features"]).path == (1,)
    assert image_of(net, given, ["one.features"]).path == (0,)


def test_integers_and_lists_of_images_are_weighed_too():
    class Listed(Two):
        def forward(self, pictures, field):
            return (1000 * self.one(torch.stack(pictures))).long()

    net = Listed().eval()
    batch = images(4, 8, 8)
    given = Inputs.of((list(batch), images(4, 4, 4)))
    found = image_of(net, given)
    assert found.path == (0,)
    torch.testing.assert_close(found.image, batch)


def test_inputs_of_an_attention_method():
    kinds = [kind for kind in METHODS.values() if issubclass(kind, AttentionMethod)]
    assert kinds
    assert all(not issubclass(kind, LayerMethod) for kind in kinds)
    base = fitting(kinds[0])

    class Beside(Net):
        def forward(self, field, picture):
            return super().forward(picture)

    net = Beside(base.features, base.tail).eval()
    for kind in kinds:
        found = kind(net)((images(2, 4, 4), images()), 1)
        torch.testing.assert_close(found, kind(base)(images(), 1))
