"""Maps weighted by the gradients at several inputs."""

import pytest
import torch
from nets import convolutional, dense, images, linear_tail, padding, pooled

from camlib import (
    CAMERAS,
    Augmented,
    GradCAMPlusPlus,
    HiResCAM,
    InputError,
    IntegratedGradCAM,
    Smooth,
    SmoothGradCAMPlusPlus,
)
from camlib.targets import Regression, Segment

pytestmark = pytest.mark.filterwarnings("ignore:a map at layer:camlib.CamlibWarning")

NOISE = {"samples": 5, "sigma": 0.3, "seed": 2}


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_weight_rules_of_one_input_are_those_of_several_alike():
    net, batch = convolutional().double(), images().double()
    plain = GradCAMPlusPlus(net, "features").explain(batch, [[0, 1]]).map
    still = SmoothGradCAMPlusPlus(net, "features", samples=3, sigma=0)
    assert_same(still.explain(batch, [[0, 1]]).map, plain)
    several = SmoothGradCAMPlusPlus(net, "features", **NOISE).explain(batch, [[0, 1]]).map
    averaged = Smooth(GradCAMPlusPlus(net, "features"), **NOISE).explain(batch, [[0, 1]]).map
    assert (several - averaged).abs().max() > 1e-3 * several.abs().max()
    found = CAMERAS(net, "features.2", scales=(1,))  # whose grid is the input's
    assert_same(found(batch, [[0, 1]]), HiResCAM(net, "features.2")(batch, [[0, 1]]))


def test_smooth_grad_cam_plus_plus_does_not_underflow():
    net = pooled()
    net.tail[1].weight.data *= 1e-18
    found = SmoothGradCAMPlusPlus(net, "features", samples=2).explain(images(), 2, relu=False).map
    positive = net.tail[1].weight[2].clamp(min=0)[:, None, None] / 2
    torch.testing.assert_close(found, (positive * net.features(images())).sum(1).detach())


@pytest.mark.parametrize("steps", [1, 3])
def test_integrated_grad_cam_of_a_linear_model_is_grad_cam_of_the_gain(steps):
    """On the line the gain grows linearly and the gradient stays: half of it, on average."""
    net, batch = linear_tail().double(), images().double()
    start = images(1, seed=7).double()
    method = IntegratedGradCAM(net, "features", steps=steps, baseline=start)
    found = method.explain(batch, 1).map
    gain = (net.features(batch) - net.features(start)).detach()
    weight = net.tail[1].weight[1].detach()[:, None, None] / 64
    signed = (weight * gain).sum(1) / 2
    assert (signed < 0).any()
    assert_same(found, signed.relu())
    assert_same(method.explain(batch, 1, relu=False).map, signed.relu())  # it stands inside
    assert_same(method.explain(batch, Regression(1)).map, signed)


@pytest.mark.parametrize("kind", [SmoothGradCAMPlusPlus, IntegratedGradCAM])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_batches_bound_what_the_model_sees_and_change_nothing(kind, batch_size):
    net, batch = convolutional().double(), images(3).double()
    options = {"steps" if kind is IntegratedGradCAM else "samples": 5}
    expected = kind(net, "features", **options)(batch, [[0, 1], [2, 3], [1, 1]])
    sizes = []
    method = kind(net, "features", batch_size=batch_size, **options)
    method(batch, [[0, 1], [2, 3], [1, 1]])  # finds out once whether samples mix
    net.register_forward_hook(lambda _module, given, _output: sizes.append(len(given[0])))
    assert_same(method(batch, [[0, 1], [2, 3], [1, 1]]), expected)
    points = sizes[2 if kind is IntegratedGradCAM else 1 :]  # after the clean passes
    assert max(points) == min(batch_size, 15)
    assert sum(points) == 15


@pytest.mark.parametrize("wrap", [lambda cam: cam, lambda cam: Augmented(cam, flips=False)])
def test_padding_is_cut_off_once(wrap):
    net, batch = padding(pooled()).double(), images(2, 12, 10).double()
    found = wrap(CAMERAS(net, "net.features.2", scales=(1,), relu=False))(batch, 1)
    expected = HiResCAM(net, "net.features.2", relu=False)(batch, 1)
    torch.testing.assert_close(found, expected)


def test_larger_images_take_places_along():
    net, batch = dense().double(), images().double()
    mask = torch.zeros(8, 8)
    mask[:4, 2:] = 1
    found = CAMERAS(net, "features", scales=(2,)).explain(batch, Segment(1, mask)).map
    large = torch.nn.functional.interpolate(batch, (16, 16), mode="bilinear")
    activation = net.features(large).detach().requires_grad_()
    score = net.tail(activation)[:, 1, :4, 2:].mean((1, 2)).sum()  # of a grid of 8 x 8
    [gradient] = torch.autograd.grad(score, activation)
    assert_same(found, (activation * gradient).sum(1).relu().detach())


def test_bad_options():
    for name in ("samples", "batch_size"):
        with pytest.raises(
            InputError, match=f"{name}=0 is out of range; expected an integer of 1 or more"
        ):
            SmoothGradCAMPlusPlus(pooled(), **{name: 0})
    with pytest.raises(
        InputError, match="sigma=-1 is out of range; expected a number of 0 or more"
    ):
        SmoothGradCAMPlusPlus(pooled(), sigma=-1)
    with pytest.raises(
        InputError, match="steps=0 is out of range; expected an integer of 1 or more"
    ):
        IntegratedGradCAM(pooled(), steps=0)
    with pytest.raises(InputError, match="interpolation='area' is not known; use 'linear' or"):
        CAMERAS(pooled(), interpolation="area")
    with pytest.raises(InputError, match=r"scales=\(1, 0\) is out of range; expected a sequence"):
        CAMERAS(pooled(), scales=(1, 0))
    with pytest.raises(InputError, match=r"baseline of shape \(3, 4, 4\) does not fit images"):
        IntegratedGradCAM(pooled(), baseline=torch.zeros(3, 4, 4))(images())
