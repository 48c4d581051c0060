"""Group-CAM: groups of channels, each weighed by a masked image."""

from __future__ import annotations

import pytest
import torch
from nets import Net, by_hand, convolutional, images, pooled
from reference import blur, group_cam
from torch.nn import functional as F

from camlib import GradCAM, GroupCAM, InputError, layouts

pytestmark = pytest.mark.filterwarnings("ignore:a map at layer:camlib.CamlibWarning")


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("layer", [3, 4])
@pytest.mark.parametrize("build", [pooled, convolutional])
@pytest.mark.parametrize(
    "options",
    [
        {"groups": 3},
        {"groups": 4},  # of two channels each, so there are three
        {"groups": 32},
        {"groups": 2, "percentile": 0},
        {"groups": 1, "percentile": 33.5},
        {"groups": 3, "form": "code"},
        {"groups": 32, "form": "code"},
        {"groups": 2, "percentile": 50},  # of 15 places, one is the median itself
    ],
)
def test_group_cam(build, layer, in_place, options):
    net, batch = build(in_place=in_place).double(), images(3, 6, 10).double()
    method = GroupCAM(net, f"features.{layer}", batch_size=4, **options)
    found = method.explain(batch, target=[2, 0, 1], relu=False).map
    assert found.any() or (build is pooled and "form" in options)  # where no group gains
    for one, image, target in zip(found, batch, [2, 0, 1], strict=True):
        activation, gradient = by_hand(net, image[None], layer, target)
        expected = group_cam(net, image, activation[0], gradient[0], target, **options)
        torch.testing.assert_close(one, expected, rtol=1e-9, atol=1e-12)


def probability(net, batch, target):
    return net(batch).softmax(1)[:, target].detach()


@pytest.mark.parametrize(("seed", "target"), [(0, 1), (0, 3), (1, 0), (2, 3)])
def test_one_group_is_grad_cam_where_its_region_gains(seed, target):
    net, batch = convolutional(seed).double(), images(8).double()
    grad_cam = GradCAM(net, "features")(batch, target)
    blurred = torch.stack([blur(image, 8 * 50 / 224, 1) for image in batch])
    masked = blurred + (batch - blurred) * grad_cam[:, None]
    gains = probability(net, masked, target) > probability(net, blurred, target)
    assert (gains & grad_cam.flatten(1).any(1)).any()
    assert (~gains & grad_cam.flatten(1).any(1)).any()
    found = GroupCAM(net, "features", groups=1, percentile=0)(batch, target)
    torch.testing.assert_close(found, grad_cam * gains[:, None, None], rtol=1e-9, atol=1e-12)


def test_each_channel_alone_where_there_are_groups_enough():
    net, batch = convolutional().double(), images().double()
    expected = GroupCAM(net, "features", groups=6)(batch, 1)
    torch.testing.assert_close(GroupCAM(net, "features", groups=100)(batch, 1), expected)
    assert not torch.allclose(GroupCAM(net, "features", groups=2)(batch, 1), expected, rtol=0.01)


def test_logits_weigh_on_request():
    net, batch = pooled().double(), images().double()
    found = GroupCAM(net, "features", score="logit").explain(batch, 1).map
    expected = GroupCAM(net, "features").explain(batch, lambda output: output[:, 1]).map
    torch.testing.assert_close(found, expected)
    probable = GroupCAM(net, "features").explain(batch, 1).map
    assert not torch.allclose(found, probable, rtol=0.01)


def watched(net):
    """`net`, and the batches that it gets."""
    seen = []
    net.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    return net, seen


@pytest.mark.parametrize("batch_size", [1, 4, 5, 100])
def test_batches_are_bounded_and_flat_masks_skipped(batch_size):
    net, seen = watched(convolutional().double())
    batch = images(3).double()
    net.features[3].weight.data[[1, 4]] = 0
    net.features[3].bias.data[[1, 4]] = 1.0
    whole = GroupCAM(net, "features", groups=6).explain(batch, [[3, 1]], relu=False)
    seen.clear()
    method = GroupCAM(net, "features", groups=6, batch_size=batch_size)
    found = method.explain(batch, [[3, 1]], relu=False)
    torch.testing.assert_close(found.map, whole.map)
    _, _, *masked = map(len, seen)
    weights = torch.stack([by_hand(net, batch, 4, c)[1].mean((2, 3)) for c in (3, 1)], 1)
    alive = weights[..., None, None] * net.features(batch)[:, None].detach() > 0
    alive[:, :, [1, 4]] = False
    used = int(alive.flatten(3).any(3).sum())
    assert 0 < used < 3 * 2 * 4
    assert max(masked) == min(batch_size, used)
    assert sum(masked) == used


def test_progress_wraps_the_batches():
    seen = []

    def progress(batches):
        for batch in batches:
            seen.append(len(batch))
            yield batch

    GroupCAM(convolutional(), "features", batch_size=4, progress=progress)(images(3), 1)
    assert len(seen) > 2
    assert set(seen[:-1]) == {4}


def test_blur_is_that_of_the_authors_in_images_of_224():
    net, seen = watched(pooled().double())
    image = images(1, 224, 230).double()
    GroupCAM(net, "features")(image, 1)
    kernel = torch.exp(-(torch.arange(-25, 26).double() ** 2) / (2 * 50**2))
    kernel = kernel / kernel.sum()
    rows = torch.arange(0, 224, 16)  # every sixteenth row will do
    padded = F.pad(image, (25, 25, 25, 25), mode="reflect").movedim(1, 0)
    expected = F.conv2d(padded, (kernel[:, None] * kernel)[None, None], stride=(16, 1))
    torch.testing.assert_close(seen[1][:, :, rows], expected.movedim(0, 1))


def test_clips_have_masks_of_their_frames():
    class Frames(Net):
        def forward(self, clip):
            return super().forward(clip.movedim(2, 1))

    base = pooled(axes=3).double()
    clip = images(2, 6, 8, 8).double()
    expected = GroupCAM(base, "features")(clip, 1)
    net = Frames(base.features, base.tail).eval()
    found = GroupCAM(net, "features", layout=layouts.ChannelsFirst())(clip.movedim(1, 2), 1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 0}, "groups=0 is out of range; expected an integer of 1 or more"),
        (
            {"percentile": 100},
            "percentile=100 is out of range; expected a number from 0, below 100",
        ),
        ({"percentile": -1}, "percentile=-1 is out of range; expected a number from 0, below 100"),
        ({"percentile": "a"}, "percentile='a' is of type str; expected a number from 0, below 100"),
        ({"form": "new"}, "form='new' is not known; use 'paper' or 'code'"),
        ({"score": "softmax"}, "score='softmax' is not known; use 'probability' or 'logit'"),
        ({"batch_size": 0}, "batch_size=0 is out of range; expected an integer of 1 or more"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        GroupCAM(pooled(), "features", **options)
