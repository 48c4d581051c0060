"""Methods that weigh channels by gradients, beyond what holds for every method."""

from __future__ import annotations

import pytest
import torch
from nets import Failing, Net, Pooling, convolutional, features, images, pooled, spread
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from camlib import METHODS, GradCAM, GradCAMPlusPlus, GraphError, LayerCAM, ShapleyCAM
from camlib.methods.layer import GradientWeighted

pytestmark = pytest.mark.filterwarnings("ignore:a map at layer:camlib.CamlibWarning")

GRADIENT_WEIGHTED = [kind for kind in METHODS.values() if issubclass(kind, GradientWeighted)]


class Mean(nn.Module):
    """Over some of the dimensions, and a sum that tells places apart over the others."""

    def __init__(self, *dims):
        super().__init__()
        self.dims = dims

    def forward(self, features):
        rest = features.mean(self.dims).flatten(2) if len(self.dims) == 1 else None
        if rest is None:
            return features.mean(self.dims)
        return rest @ torch.linspace(-1, 2, rest.shape[2]).to(rest)


@pytest.mark.parametrize("dims", [(2, 3), (2,), (3,)])
@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("kind", GRADIENT_WEIGHTED, ids=lambda kind: kind.__name__)
def test_several_classes_before_a_pooling_are_those_of_single_calls(kind, count, dims):
    net = spread(Net(features(), nn.Sequential(Mean(*dims), nn.Linear(6, 4))), 1).double()
    method, batch = kind(net, "features"), images(count).double()
    together = method.explain(batch, [[3, 0, 2]] * count, relu=False).map
    for k, target in enumerate([3, 0, 2]):
        alone = method.explain(batch, target, relu=False).map
        torch.testing.assert_close(together[:, k], alone)
        assert alone.any()


class Attention(nn.Module):
    def forward(self, features):
        tokens = features.flatten(2).mT[:, None].repeat(1, 1, 1, 3)
        return F.scaled_dot_product_attention(tokens, tokens, tokens)[:, 0, :, :6].mT


@pytest.mark.parametrize("target", [1, [[0, 1]]])
def test_fused_attention_has_no_second_derivative(target):
    net = spread(Net(features(), nn.Sequential(Attention(), Pooling(), nn.Linear(6, 4))))
    method = ShapleyCAM(net, "features")
    with sdpa_kernel(SDPBackend.MATH):
        assert method.explain(images(), target, relu=False).map.any()
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        with pytest.raises(
            GraphError, match=r"a second derivative of what follows .* has one inside torch.*MATH\)"
        ):
            method(images(), target)


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features):
        ctx.save_for_backward(features)
        return features**2

    @staticmethod
    def backward(ctx, signal):
        [features] = ctx.saved_tensors
        return Failing.apply(2 * features * signal)


class Squared(nn.Module):
    def forward(self, features):
        return Square.apply(features)


def test_other_errors_of_the_second_backward_pass_are_the_models_own():
    net = spread(Net(features(), nn.Sequential(Squared(), Pooling(), nn.Linear(6, 4))))
    with pytest.raises(RuntimeError, match=r"^the model's own"):
        ShapleyCAM(net, "features")(images(), 1)


def test_new_method_is_one_function():
    class SumCAM(GradientWeighted):
        def weights(self, activation, gradient):
            return gradient.sum((2, 3), keepdim=True)

    net, batch = pooled(), images()
    torch.testing.assert_close(SumCAM(net)(batch), GradCAM(net)(batch))
    assert SumCAM(net)(batch, target=[[0, 1]]).shape == (2, 2, 8, 8)


def test_interpolating_relu_off_keeps_what_speaks_against():
    net = convolutional()
    against = GradCAM(net, "features").explain(images(), target=2, relu=False).map
    assert (against < 0).any()


@pytest.mark.parametrize("kind", [GradCAM, GradCAMPlusPlus, LayerCAM])
def test_many_classes_of_one_pass_equal_a_loop(kind):
    net, batch = convolutional().double(), images(3).double()
    cam = kind(net, ["features.1", "features"], fuse=None)
    several = cam.explain(batch, [list(range(4))], relu=False)
    for k in range(4):
        alone = cam.explain(batch, k, relu=False)
        for together, single in zip(several.maps, alone.maps, strict=True):
            torch.testing.assert_close(together[:, k], single, rtol=1e-10, atol=1e-14)
