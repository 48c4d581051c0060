"""What a model is called with: tensors, tuples, mappings, lists of images, clips."""

from __future__ import annotations

from types import SimpleNamespace

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
from camlib.inputs import Inputs

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
        InputError, match=r"have shapes \(3, 8, 8\), \(3, 8, 6\); pass those of one size together"
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
    torch.testing.assert_close(FullGrad(other)(turned, 1), FullGrad(net)(clip, 1))
    found = IntegratedGradients(other, batch_size=7)(turned, [[1, 2]])
    expected = IntegratedGradients(net)(clip, [[1, 2]]).movedim(2, 3)
    torch.testing.assert_close(found, expected)
    for target in (1, [[1, 2]]):
        axis = 1 + isinstance(target, list)
        found = GuidedGradCAM(other, "features")(turned, target)
        expected = GuidedGradCAM(net, "features")(clip, target).movedim(axis, axis + 1)
        torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore:integrated gradients with:camlib.CamlibWarning")
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
