"""What a model is called with: tensors, tuples, mappings, lists of images, clips."""

from __future__ import annotations

import dataclasses
from collections import UserDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nets import Net, convolutional, features, fitting, images, pooled, spread
from torch import nn
from torch.nn import functional as F

from camlib import (
    METHODS,
    AblationCAM,
    FullGrad,
    GradCAM,
    GroupCAM,
    GuidedGradCAM,
    InputError,
    IntegratedGradients,
    LayerMethod,
    MapMethod,
    Occlusion,
    ReciproCAM,
    Saliency,
    ScoreCAM,
)
from camlib.passes.inputs import Inputs

pytestmark = pytest.mark.filterwarnings("ignore:a map at layer:camlib.CamlibWarning")


class Listed(Net):
    """Takes a list of images, as detection networks do."""

    def forward(self, batch):
        assert isinstance(batch, list)
        return super().forward(torch.stack(batch))


@pytest.mark.parametrize("kind", METHODS.values(), ids=METHODS)
def test_list_of_images_is_a_batch(kind):
    net = fitting(kind)
    listed = Listed(net.features, net.tail).eval()
    layer = {"layer": "features"} if issubclass(kind, LayerMethod) else {}
    expected = kind(net, **layer)(images(3), [0, 1, 2])
    assert expected.any()
    several = list(images(3))
    for given in (several, (several,), {"batch": several}):
        torch.testing.assert_close(kind(listed, **layer)(given, [0, 1, 2]), expected)


def test_list_of_images_of_several_sizes():
    with pytest.raises(
        InputError, match=r"have shapes \(3, 8, 8\), \(3, 8, 6\); pass images of one size together"
    ):
        GradCAM(pooled())([torch.zeros(3, 8, 8), torch.zeros(3, 8, 6)])
    with pytest.raises(InputError, match=r"a list of images \(C, H, W\), or a tuple .* got list"):
        GradCAM(pooled())([])


@pytest.mark.filterwarnings("ignore:integrated gradients with:camlib.CamlibWarning")
def test_clip_with_frames_first():
    """(N, T, C, H, W), as Hugging Face has clips: the same as (N, C, T, H, W)."""

    class FramesFirst(Net):
        def forward(self, clip):
            return super().forward(clip.movedim(2, 1))

    net = pooled(axes=3)
    other = FramesFirst(net.features, net.tail).eval()
    clip = images(2, 6, 8, 10)
    turned = clip.movedim(1, 2)
    assert (Inputs.of(turned).axis, Inputs.of(turned).size) == (2, (6, 8, 10))
    for kind in (GradCAM, ScoreCAM):
        found = kind(other, "features")(turned, 3, relu=False)
        assert found.shape == (2, 6, 8, 10)
        torch.testing.assert_close(found, kind(net, "features")(clip, 3, relu=False))
    found = ScoreCAM(other, "features", baseline="blur")(turned, 1)
    torch.testing.assert_close(found, ScoreCAM(net, "features", baseline="blur")(clip, 1))
    torch.testing.assert_close(Saliency(other)(turned, 1), Saliency(net)(clip, 1).movedim(1, 2))
    found = FullGrad(other, image_layout="NTCHW")(turned, 1)
    torch.testing.assert_close(found, FullGrad(net)(clip, 1))
    found = IntegratedGradients(other, batch_size=7)(turned, [[1, 2]])
    expected = IntegratedGradients(net)(clip, [[1, 2]]).movedim(2, 3)
    torch.testing.assert_close(found, expected)
    for target in (1, [[1, 2]]):
        axis = 1 + isinstance(target, list)
        found = GuidedGradCAM(other, "features")(turned, target)
        expected = GuidedGradCAM(net, "features")(clip, target).movedim(axis, axis + 1)
        torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore:integrated gradients with:camlib.CamlibWarning")
@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 4, 13])
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (16, 90)])
def test_any_number_of_channels_and_any_size(channels, size):
    batch = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(0))
    for kind in METHODS.values():
        net = fitting(kind)
        conv = net.features[0]
        shape = conv.out_channels, conv.kernel_size, conv.stride, conv.padding
        net.features[0] = nn.Conv2d(channels, *shape)
        spread(net)
        found = kind(net)(batch, 1)
        assert found.shape[-2:] == size
        assert found.isfinite().all()


class GeneralizedRCNNTransform(nn.Module):
    """Doubles the size and pads it to a multiple of 8, as torchvision's of the same name."""

    def forward(self, batch):
        large = F.interpolate(torch.stack(batch), scale_factor=2, mode="nearest")
        height, width = large.shape[2:]
        padded = F.pad(large, (0, -width % 8, 0, -height % 8))
        return SimpleNamespace(tensors=padded, image_sizes=[(height, width)] * len(batch)), None


class Padding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transform = GeneralizedRCNNTransform()
        self.body = nn.AvgPool2d(4)
        self.head = nn.Linear(3, 2)
        nn.init.ones_(self.head.weight)

    def forward(self, batch):
        return self.head(self.body(self.transform(batch)[0].tensors).mean((2, 3)))


@pytest.mark.parametrize("size", [(8, 8), (10, 8), (9, 14)])
def test_map_of_a_padded_image_shows_the_image(size):
    """The evidence is one bright place; the padding behind the image must not shift it."""
    height, width = size
    batch = torch.zeros(1, 3, *size)
    batch[..., height - 2 :, width - 2 :] = 1
    found = GradCAM(Padding().eval(), "body").explain(list(batch), 0)
    padded = tuple(-(-2 * s // 8) * 8 for s in size)
    assert found.map.shape[1:] == tuple(p // 4 for p in padded)
    large = F.interpolate(found.map[:, None], padded, mode="bilinear", align_corners=False)
    cut = large[..., : 2 * height, : 2 * width]
    expected = F.interpolate(cut, size, mode="bilinear", align_corners=False)[:, 0]
    expected = (expected - expected.amin()) / (expected.amax() - expected.amin())
    torch.testing.assert_close(found.heatmap, expected, atol=0.1, rtol=0)
    row, column = divmod(int(found.heatmap.argmax()), width)
    assert row >= height - 2
    assert column >= width - 2


def test_arguments_that_are_no_images_follow_their_samples():
    class Scaled(Net):
        def forward(self, image, scale):
            return super().forward(image) * scale["by"]

    net = convolutional()
    scaled = Scaled(net.features, net.tail).eval()
    scale = torch.tensor([[1.0], [3.0]])
    found = ScoreCAM(scaled, "features", batch_size=3)((images(), {"by": scale}), 1)
    for n in range(2):
        inputs = images()[n : n + 1], {"by": scale[n : n + 1]}
        torch.testing.assert_close(found[n], ScoreCAM(scaled, "features")(inputs, 1)[0])


def test_texts_that_images_are_compared_with_are_the_same_for_all():
    """As many texts as images: they are classes, and do not follow the samples."""

    class Comparing(Net):
        def forward(self, image, words):
            return {"logits_per_image": super().forward(image) @ words.T, "image_embeds": image}

    net = convolutional()
    model = Comparing(net.features, net.tail).eval()
    words = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    found = ScoreCAM(model, "features", batch_size=3)((images(), words), [[0, 1]])
    for n in range(2):
        alone = ScoreCAM(model, "features")((images()[n : n + 1], words), [[0, 1]])
        torch.testing.assert_close(found[n], alone[0])


def test_series_of_one_channel():
    body = features(axes=1)
    body[0] = nn.Conv1d(1, 5, 3, padding=1)
    net = spread(Net(body, nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 4))))
    assert GradCAM(net)(torch.randn(2, 1, 30), 1).shape == (2, 30)


class Compared(Net):
    """Images against texts, as CLIP has it, and a temperature; it may change both in place."""

    in_place = True

    def forward(self, pixels, texts, temperature):
        if self.in_place:
            texts.mul_(2)
            temperature.mul_(3)
        else:
            texts, temperature = 2 * texts, 3 * temperature
        return {"logits_per_image": self.tail(self.features(pixels)) @ texts.T * temperature}


IN_BATCHES = [ScoreCAM, GroupCAM, AblationCAM, ReciproCAM, Occlusion, IntegratedGradients]


@pytest.mark.parametrize("kind", IN_BATCHES)
@pytest.mark.filterwarnings("ignore:integrated gradients with:camlib.CamlibWarning")
def test_what_is_beside_the_image_may_be_changed_in_place(kind):
    base = convolutional().double()
    net = Compared(base.features, base.tail).eval()
    texts = torch.randn(3, 4, generator=torch.Generator().manual_seed(3)).double()
    temperature = torch.tensor(0.1).double()
    given = {"pixels": images().double(), "texts": texts, "temperature": temperature}
    before = {name: tensor.clone() for name, tensor in given.items()}
    layer = {"layer": "features"} if issubclass(kind, LayerMethod) else {}
    relu = {"relu": False} if issubclass(kind, MapMethod) else {}
    method = kind(net, **layer, **relu, batch_size=2)
    found = method.explain(given, 1)
    assert all(torch.equal(given[name], tensor) for name, tensor in before.items())
    net.in_place = False
    expected = kind(net, **layer, **relu, batch_size=2).explain(given, 1)
    assert expected.map.any()
    torch.testing.assert_close(found.map, expected.map, rtol=1e-9, atol=1e-12)
    assert found.replayed == expected.replayed


class Fast(nn.Module):
    """Two clips of different lengths in one list, as SlowFast takes them."""

    def __init__(self) -> None:
        super().__init__()
        self.slow, self.fast = pooled(1, axes=3), pooled(2, axes=3)

    def forward(self, clips):
        assert type(clips) is list
        return self.slow(clips[0]) + self.fast(clips[1])


def test_list_of_batches_is_one_argument():
    slow, fast = images(2, 4, 8, 8, seed=1), images(2, 8, 8, 8, seed=2)
    net = Fast().eval()
    for given in ([slow, fast], ([slow, fast],), {"clips": [slow, fast]}):
        found = GradCAM(net, "fast.features")(given, 1)
        torch.testing.assert_close(found, GradCAM(net.fast, "features")(fast, 1))
        for image in (0, (0, 0) if not isinstance(given, dict) else ("clips", 0)):
            found = GradCAM(net, "slow.features", image=image)(given, 1)
            torch.testing.assert_close(found, GradCAM(net.slow, "features")(slow, 1))
        found = Saliency(net, image=1)(given, 1)
        torch.testing.assert_close(found, Saliency(net.fast)(fast, 1))


@dataclasses.dataclass
class Held:
    picture: torch.Tensor
    name: str = ""


class Batched(Net):
    """Takes one mapping, or what else holds the picture."""

    def forward(self, batch):
        picture = batch.picture if isinstance(batch, Held) else batch["picture"]
        return super().forward(picture[0] if isinstance(picture, tuple) else picture)


@pytest.mark.parametrize(
    "given",
    [
        {"picture": images(), "id": ["a", "b"]},
        ({"picture": images(), "id": ["a", "b"]},),
        {"batch": {"picture": images()}},
        ({"picture": (images(), "b")},),
        UserDict({"picture": images()}),
        (Held(images(), "a"),),
        Held(images()),
    ],
    ids=["mapping", "in a tuple", "by name", "deep", "UserDict", "dataclass", "bare dataclass"],
)
@pytest.mark.parametrize("kind", [GradCAM, ScoreCAM, Saliency, Occlusion, AblationCAM])
def test_image_in_one_container(kind, given):
    base = pooled()
    net = Batched(base.features, base.tail).eval()
    layer = {"layer": "features"} if issubclass(kind, LayerMethod) else {}
    found = kind(net, **layer)(given, [[0, 1, 2, 3]])
    torch.testing.assert_close(found, kind(base, **layer)(images(), [[0, 1, 2, 3]]))


def test_mapping_that_was_meant_otherwise_says_how_to_pass_it():
    base = pooled()
    net = Batched(base.features, base.tail).eval()
    with pytest.raises(KeyError) as caught:
        GradCAM(net)({"image": images()})
    assert "the mapping is passed as the only positional argument" in caught.value.__notes__[-1]

    class Two(Net):
        def forward(self, one, other=None):
            return super().forward(one["picture"])

    net = Two(base.features, base.tail).eval()
    with pytest.raises(TypeError, match="unexpected keyword argument 'extra'") as caught:
        GradCAM(net)({"other": 3, "extra": images()})
    assert "passed as keyword arguments, other=, extra=" in caught.value.__notes__[-1]
    assert GradCAM(net, "features")(({"picture": images()},), 1).shape == (2, 8, 8)

    class Open(Net):
        def forward(self, **named):
            return super().forward(named["picture"])

    net = Open(base.features, base.tail).eval()
    assert GradCAM(net, "features")({"picture": images()}, 1).shape == (2, 8, 8)


def test_list_of_pictures_that_was_meant_as_one_argument_says_so():
    class Pair(Net):
        def forward(self, pair):
            return super().forward(pair[0]) + super().forward(pair[1])

    base = pooled()
    net = Pair(base.features, base.tail).eval()
    with pytest.raises(ValueError, match="expected 4D input") as caught:
        GradCAM(net)([images()[0], images()[1]])
    assert "read as a batch of images, as detectors take it" in caught.value.__notes__[-1]


class Branded(torch.Tensor):
    """A tensor with a name, as torchvision and MONAI have them."""


@pytest.mark.parametrize("kind", METHODS.values(), ids=METHODS)
def test_subclass_of_tensor_is_a_plain_one(kind):
    net = fitting(kind)
    branded = images().as_subclass(Branded)
    for given in (branded, (branded,), list(branded)):
        model = Listed(net.features, net.tail).eval() if isinstance(given, list) else net
        layer = {"layer": "features"} if issubclass(kind, LayerMethod) else {}
        seen = kind(model, **layer).explain(given, 1)
        for tensor in (seen.heatmap, seen.map, seen.score, seen.output):
            assert type(tensor) is torch.Tensor
        torch.testing.assert_close(seen.heatmap, kind(net, **layer)(images(), 1))


def test_parameter_as_the_image_gets_its_gradient():
    pixels = nn.Parameter(images())
    net = pooled()
    GradCAM(net, "features", differentiable=True)(pixels, 1, normalize=False).sum().backward()
    assert pixels.grad.any()


class Photo:
    """A picture of Pillow, as far as its module tells."""

    __module__ = "PIL.Image"


BYTES = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
NO_IMAGES = {
    "uint8": (BYTES, "divide by 255, or use the transform the model was trained with"),
    "uint8 CHW": (BYTES[0], "divide by 255"),
    "uint8 in a list": ([BYTES[0], BYTES[1]], r"got list of a uint8 tensor .*; divide by 255"),
    "uint8 by name": ({"batch": BYTES}, "divide by 255"),
    "integers": (BYTES.long(), r"got a int64 tensor .*; convert it with \.float\(\)"),
    "complex": (images() + 0j, r"pass real numbers: the magnitude, or torch\.view_as_real"),
    "PIL": (Photo(), r"got Photo; use the transform .* trained with: transform\(picture\)\[None\]"),
    "list of PIL": ([Photo(), Photo()], r"got list of Photo; use the transform"),
    "NumPy": (
        np.zeros((8, 8, 3)),
        r"got ndarray of shape \(8, 8, 3\); .* torch\.from_numpy\(array",
    ),
    "list of NumPy": ([np.zeros((8, 8, 3))], r"got list of ndarray .*; convert it: torch.from"),
    "grey": (torch.zeros(8, 8), r"image_layout='NL' .* grey picture: image\[None, None\]"),
    "text": ("cat.png", r"got str$"),
    "nothing": (None, r"got NoneType$"),
    "empty": ((), r"got tuple of nothing$"),
}


@pytest.mark.parametrize("name", NO_IMAGES)
@pytest.mark.parametrize("kind", [GradCAM, Saliency, Occlusion, GuidedGradCAM])
def test_what_is_no_image_says_what_to_do(kind, name):
    given, message = NO_IMAGES[name]
    with pytest.raises(InputError, match=message):
        kind(pooled())(given)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_model_that_fails_without_a_batch_axis_says_so(axes):
    net = fitting(GradCAM, axes=axes)
    picture = images(1, *[10, 12, 14][:axes])[0]
    if axes == 1:
        with pytest.raises(InputError, match=r"image_layout='NL' for a batch"):
            GradCAM(net, "features")(picture, 1)
        return
    with pytest.raises(ValueError, match=r"expected [45]D input") as caught:
        GradCAM(net, "features")(picture, 1)
    assert "a single picture needs a batch axis: image[None]" in caught.value.__notes__[-1]


def test_model_that_fails_otherwise_speaks_for_itself():
    class Failing(Net):
        def forward(self, batch):
            raise ArithmeticError("the model's own")

    net = Failing(*pooled().children()).eval()
    with pytest.raises(ArithmeticError, match="the model's own") as caught:
        GradCAM(net)(images())
    assert not getattr(caught.value, "__notes__", [])
