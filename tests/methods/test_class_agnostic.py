"""Maps that ask for no class: components, statistics, and the two baselines."""

from __future__ import annotations

import math

import pytest
import torch
from nets import Net, convolutional, images, pooled
from torch import nn

from camlib import (
    FEM,
    KPCACAM,
    Augmented,
    CenterGaussian,
    EigenCAM,
    EigenGradCAM,
    GradCAM,
    GuidedGradCAM,
    InputError,
    LaFAM,
    RandomCAM,
    SegEigenCAM,
    Smooth,
    TargetError,
    figure,
)

AGNOSTIC = [CenterGaussian, EigenCAM, FEM, KPCACAM, LaFAM, RandomCAM]


@pytest.mark.parametrize("kind", AGNOSTIC)
def test_nothing_is_recorded_for_autograd(kind):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda t: t):
        kind(pooled(), "features")(images())
    assert not saved


@pytest.mark.parametrize("kind", AGNOSTIC)
def test_no_gradient_is_needed(kind):
    class Detached(Net):
        @torch.inference_mode()
        def forward(self, batch):
            return super().forward(batch)

    net = pooled()
    cut = Detached(net.features, net.tail).eval()
    torch.testing.assert_close(kind(cut, "features")(images()), kind(net, "features")(images()))


def test_random_weights_are_those_of_the_seed():
    net, batch = convolutional().double(), images(3).double()
    net.features[4] = nn.Tanh()  # full rank
    activation = net.features(batch).detach()
    drawn = []
    for seed in (0, 0, 1):
        found = RandomCAM(net, "features", seed=seed).explain(batch, relu=False).map
        rows, values = activation.movedim(1, -1).reshape(-1, 6), found.reshape(-1, 1)
        weights = torch.linalg.lstsq(rows, values).solution
        torch.testing.assert_close(rows @ weights, values)
        assert weights.abs().amax() <= 1
        assert weights.amin() < 0 < weights.amax()
        drawn.append(weights)
    torch.testing.assert_close(drawn[0], drawn[1])
    assert (drawn[0] - drawn[2]).abs().amax() > 0.1


def test_center_gaussian_has_the_shape_of_the_picture():
    found = CenterGaussian(pooled(), "features").explain(images(2, 16, 8), resize=False)
    assert found.map.shape == (2, 8, 4)
    torch.testing.assert_close(found.map, found.map.flip(1, 2))
    down, right = 3.5 / 8, 1.5 / 4  # from the middle to that of the cell in the corner
    corner = math.exp(-(down**2 + right**2) / (2 * 0.25**2))
    assert found.map[0, 0, 0].item() == pytest.approx(corner)
    for sigma in (0, -1, float("nan")):
        with pytest.raises(
            InputError,
            match=f"sigma={sigma} is (out of range|not finite); expected a number above 0",
        ):
            CenterGaussian(pooled(), sigma=sigma)


def test_constant_channel_counts_everywhere():
    """Its threshold is its value, and rounding must not say otherwise."""
    for value in torch.linspace(0.1, 3, 50):
        found = FEM(pooled(), "features").pattern(value.expand(2, 1, 13, 11))
        torch.testing.assert_close(found, value.expand(2, 13, 11))


@pytest.mark.parametrize("kind", [EigenCAM, KPCACAM])
@pytest.mark.parametrize("shape", [(2, 30, 3, 4), (2, 5, 6, 7)])
def test_layer_of_zeros_has_no_pattern(kind, shape):
    activation = torch.zeros(shape, requires_grad=True)
    for each in (activation, activation.detach()):
        found = kind(pooled(), "features").pattern(each)
        assert not found.any()
    kind(pooled(), "features").pattern(activation).sum().backward()
    assert activation.grad.isfinite().all()


def test_constant_layer_has_no_component():
    assert not KPCACAM(pooled(), "features").pattern(torch.full((2, 5, 6, 7), 0.3)).any()
    assert KPCACAM(pooled(), "features").pattern(torch.eye(6).expand(1, 2, 6, 6)).any()


@pytest.mark.parametrize("shape", [(2, 15, 2, 3), (2, 5, 3, 4)])
@pytest.mark.parametrize("kind", [EigenCAM, KPCACAM, EigenGradCAM, SegEigenCAM])
def test_dead_channels_and_places_leave_the_gradient_finite(kind, shape):
    activation = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double().relu()
    activation[:, 2:] = 0
    activation[:, :, 0] = 0
    method = kind(pooled(), "features")

    def found(activation):
        if hasattr(method, "pattern"):
            return method.pattern(activation)
        return (method.weights(activation, activation.cos()) * activation).sum(1)

    assert torch.autograd.gradcheck(found, activation.requires_grad_(), atol=1e-5)


OUTPUTS = {
    "detector": lambda out: (out.sigmoid(), [out[:, :, None, None], out[:, :2, None, None]]),
    "list": lambda out: [out, out + 1],
    "two scores": lambda out: {"one": out, "other": -out},
    "integers": lambda out: out.argmax(1),
    "boxes": lambda out: [{"boxes": torch.rand(3, 4)} for _ in out],
    "nothing": lambda out: None,
}


@pytest.mark.filterwarnings("ignore:.* answers a sample differently:camlib.CamlibWarning")
@pytest.mark.filterwarnings("ignore:a map at layer:camlib.CamlibWarning")
@pytest.mark.parametrize("form", OUTPUTS)
@pytest.mark.parametrize("kind", AGNOSTIC)
def test_output_may_be_anything(kind, form):
    class Other(Net):
        def forward(self, batch):
            return OUTPUTS[form](super().forward(batch))

    net, batch = pooled(), images()
    other = Other(net.features, net.tail).eval()
    expected = kind(net, "features").explain(batch)
    seen = kind(other, "features").explain(batch)
    torch.testing.assert_close(seen.heatmap, expected.heatmap)
    assert seen.target is None
    assert seen.score.shape == (2,)
    assert seen.score.isnan().all()
    for wrap in (lambda method: Smooth(method, samples=2), Augmented):
        found = wrap(kind(other, "features")).explain(batch)
        torch.testing.assert_close(found.map, wrap(kind(net, "features")).explain(batch).map)


@pytest.mark.parametrize("kind", AGNOSTIC)
def test_target_is_asked_where_it_is_given(kind):
    net, batch = pooled(), images()
    plain = kind(net, "features")(batch)
    seen = kind(net, "features").explain(batch, [[1, 2]])
    torch.testing.assert_close(seen.score, net(batch)[:, [1, 2]].detach())
    for k in range(2):
        assert torch.equal(seen.heatmap[:, k], plain)
    with pytest.raises(TargetError, match="class 99 is out of range"):
        kind(net)(batch, 99)


def test_score_that_was_not_asked_for_is_not_drawn():
    seen = LaFAM(pooled(), "features").explain(images())
    texts = [text.get_text() for text in figure(images().sigmoid(), {"LaFAM": seen}).texts]
    assert not any("score" in text for text in texts)


@pytest.mark.filterwarnings("ignore:a map at layer:camlib.CamlibWarning")
def test_guided_half_asks_for_the_predicted_class():
    net, batch = pooled(80), images()
    seen = GuidedGradCAM(net, "features", cam=EigenCAM).explain(batch)
    assert torch.equal(seen.target, net(batch).argmax(1))
    torch.testing.assert_close(seen.score, net(batch).amax(1).detach())


def test_layer_that_is_changed_in_place_later_is_read():
    class InPlace(nn.Module):
        def forward(self, batch):
            return batch

    class Adding(Net):
        def forward(self, batch):
            found = self.features(batch)
            kept = found
            found += 1
            return self.tail(found + kept)

    net = pooled()
    body = nn.Sequential(*net.features, InPlace())
    other = Adding(body, net.tail).eval()
    expected = LaFAM(net, "features").explain(images())
    torch.testing.assert_close(LaFAM(other, "features.5").explain(images()).map, expected.map)


def test_without_scores_the_last_layer_with_a_grid_does():
    class Boxes(Net):
        def forward(self, batch):
            return (super().forward(batch)[:, None, :, None], [batch, batch])

    base = pooled()
    net = Boxes(base.features, base.tail).eval()
    assert EigenCAM(net).explain(images()).layers == ("features",)
    with pytest.raises(TargetError, match="cannot find the class scores"):
        GradCAM(net)(images())
