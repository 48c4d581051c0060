"""Where places look: against the definition in loops, and where it is known by construction."""

from __future__ import annotations

import itertools
import math
import statistics
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from looks import centres, looking
from nets import Net, images, spread
from snapshot import snapshot
from torch import Tensor, nn

from camlib.layouts.measured import FOLDED, Measured, measure
from camlib.passes.inputs import Inputs


def by_definition(
    tensor: Tensor, channels: int, samples: int, frames: int, clean: int
) -> SimpleNamespace:
    """What `Looks` says, with loops over copies, frames, places and channels, in float64."""
    rows = tensor.double().movedim(samples, 0)
    rest = [axis for axis in range(tensor.ndim) if axis != samples]
    rows = rows.movedim(1 + rest.index(channels), -1)
    copies = [
        torch.stack([rows[frames * copy + frame] for frame in range(frames)])
        for copy in range(len(rows) // frames)
    ]
    if frames == 1:
        copies = [copy[0] for copy in copies]
    rest.remove(channels)
    grid = copies[0].shape[:-1]
    axes = range((len(copies) - clean) // 2)
    found = SimpleNamespace(
        axes=([FOLDED] if frames > 1 else []) + rest,
        positions=torch.zeros(len(axes), *grid, dtype=torch.float64),
        spread=torch.zeros(len(axes), *grid, dtype=torch.float64),
        strength=torch.zeros(grid, dtype=torch.float64),
        loud=torch.zeros(grid, dtype=torch.bool),
        along=torch.zeros(len(axes), len(grid), dtype=torch.float64),
        share=0.0,
    )
    places = list(itertools.product(*map(range, grid)))
    for place in places:
        whole = copies[0][place].tolist()
        for axis in axes:
            growing, falling = (
                [a - b for a, b in zip(copies[clean + 2 * axis + n][place], whole, strict=True)]
                for n in (0, 1)
            )
            up, down = math.hypot(*growing), math.hypot(*falling)
            even = math.hypot(*(a + b for a, b in zip(growing, falling, strict=True)))
            # What a place looks at at p, by the square of its weight: up has p, down has 1 - p.
            mean_square, mean_square_from_end = (up / even) ** 2, (down / even) ** 2
            mean = (1 + mean_square - mean_square_from_end) / 2
            found.positions[(axis, *place)] = up / (up + down)
            found.spread[(axis, *place)] = max(0.0, mean_square - mean**2) ** 0.5
            found.strength[place] += up + down
        found.share = max(found.share, float(found.strength[place]) / math.hypot(*whole))
    strengths = [float(found.strength[place]) for place in places]
    changed = [s for s in strengths if s > 1e-3 * max(strengths)]
    loud = [p for p in places if found.strength[p] > 0.1 * statistics.median_low(changed)]
    for place in loud:
        found.loud[place] = True
    for axis in axes:
        measured = [float(found.positions[(axis, *place)]) for place in loud]
        for number, length in enumerate(grid):
            if length > 1:
                claimed = [place[number] for place in loud]
                found.along[axis, number] = statistics.correlation(measured, claimed)
    return found


def random_output(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Values in float64, those at some places hundreds of times less than at others."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    faint = torch.rand(shape[2:], generator=generator) < 0.2
    return values * torch.ones(shape[2:]).double().masked_fill(faint, 1e-2) + 3


@pytest.mark.parametrize("clean", [1, 2])
@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("samples", [0, 1])
@pytest.mark.parametrize(
    ("axes", "rest"), [(1, (3, 4)), (2, (5, 3)), (2, (3, 4, 5)), (3, (2, 3, 2, 4)), (1, (2, 1, 6))]
)
def test_looks_are_what_the_definition_says(axes, rest, samples, frames, clean):
    tensor = random_output(axes + frames, ((clean + 2 * axes) * frames, *rest))
    tensor = tensor.movedim(0, samples)
    measured = Measured(tensor, samples, frames, clean)
    others = [axis for axis in range(tensor.ndim) if axis != samples]
    assert [look.channels for look in measured.looks] == others
    for look in measured.looks:
        expected = by_definition(tensor, look.channels, samples, frames, clean)
        assert list(look.axes) == expected.axes
        assert (look.samples, measured.samples, measured.frames) == (samples, samples, frames)
        assert torch.equal(look.loud, expected.loud)
        for name in ("positions", "strength", "along"):
            torch.testing.assert_close(getattr(look, name), getattr(expected, name))
        # A root of a difference: of a place that looks at one point, rounding is left.
        torch.testing.assert_close(look.spread, expected.spread, atol=1e-3, rtol=1e-6)
        assert look.share == pytest.approx(expected.share)


def test_faint_places_do_not_count():
    """Of the reference above: some places are quiet in it, and most are not."""
    loud = Measured(random_output(0, (5, 4, 9, 9)), 0, 1, 1).look(1).loud
    assert 0.5 < loud.double().mean() < 0.95


@pytest.mark.parametrize("samples", [0, 1])
def test_position_and_spread_of_a_place_that_looks_at_some_pixels(samples):
    """A channel for each pixel: the change is the noise itself, times the place's weights."""
    generator = torch.Generator().manual_seed(0)
    pixels = (torch.arange(12).double() + 0.5) / 12
    weights = torch.rand(4, 12, generator=generator).double()
    weights = torch.cat([weights, torch.eye(12).double()[[7]]])
    changes = torch.stack([weights * pixels, weights * (1 - pixels)])
    tensor = torch.cat([torch.zeros(1, 5, 12).double(), changes]).movedim(0, samples)
    look = Measured(tensor, samples, 1, 1).look(2)
    for place, weight in enumerate(weights):
        share = weight**2 / (weight**2).sum()
        mean = (share * pixels).sum()
        deviation = (share * (pixels - mean) ** 2).sum().sqrt()
        torch.testing.assert_close(look.spread[0, place], deviation, atol=1e-7, rtol=0)
        up, down = (weight * pixels).norm(), (weight * (1 - pixels)).norm()
        torch.testing.assert_close(look.positions[0, place], up / (up + down))
    assert look.positions[0, 4] == pytest.approx(7.5 / 12)


@pytest.mark.parametrize("reach", [0.0, 0.05])
def test_places_built_to_look_somewhere_are_found_there(reach):
    for window in [((0.0, 1.0), (0.0, 1.0)), ((0.2, 0.7), (0.9, 0.3))]:
        places = centres(4, 6, window=window)
        look = Measured(looking(places, reach), 0, 1, 1).look(1)
        torch.testing.assert_close(look.positions, places, atol=5 * reach**2 + 1e-9, rtol=0)
        expected = torch.full_like(places, reach)
        torch.testing.assert_close(look.spread, expected, atol=1e-7, rtol=1e-7)
        assert look.telling


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 999), order=st.permutations([0, 1, 2, 3]))
def test_permuted_axes_permute_the_answer(seed, order):
    tensor = random_output(seed, (5, 3, 4, 2))
    turned = tensor.permute(order)
    samples, channels = order.index(0), order.index(1)
    expected = Measured(tensor, 0, 1, 1).look(1)
    found = Measured(turned, samples, 1, 1).look(channels)
    places = [axis for axis in order if axis > 1]
    swapped = places != sorted(places)
    assert [order[axis] for axis in found.axes] == places
    for name in ("positions", "spread"):
        there = getattr(found, name)
        torch.testing.assert_close(there.mT if swapped else there, getattr(expected, name))
    torch.testing.assert_close(found.strength.T if swapped else found.strength, expected.strength)
    torch.testing.assert_close(found.along.flip(1) if swapped else found.along, expected.along)
    assert found.share == pytest.approx(expected.share)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 999), exponent=st.integers(-30, 30), negative=st.booleans())
def test_scale_changes_the_strength_alone(seed, exponent, negative):
    tensor, scale = random_output(seed, (5, 3, 4, 2)), 2.0**exponent
    expected = Measured(tensor, 0, 1, 1).look(1)
    found = Measured(tensor * (-scale if negative else scale), 0, 1, 1).look(1)
    for name in ("positions", "spread", "along", "loud"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))
    torch.testing.assert_close(found.strength, expected.strength * scale)
    assert found.share == pytest.approx(expected.share)
    assert found.telling == expected.telling


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 999))
def test_growing_and_falling_noise_swapped_turns_the_picture(seed):
    tensor = random_output(seed, (5, 3, 4, 2))
    expected = Measured(tensor, 0, 1, 1).look(1)
    found = Measured(tensor[[0, 2, 1, 4, 3]], 0, 1, 1).look(1)
    torch.testing.assert_close(found.positions, 1 - expected.positions)
    torch.testing.assert_close(found.spread, expected.spread)
    torch.testing.assert_close(found.along, -expected.along)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 999), channels=st.integers(1, 3))
def test_along_is_a_correlation_and_positions_a_share(seed, channels):
    look = Measured(random_output(seed, (5, 3, 4, 2)), 0, 1, 1).look(channels)
    assert (look.along.abs() <= 1 + 1e-9).all()
    assert ((look.positions >= 0) & (look.positions <= 1)).all()
    assert (look.spread >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_compared_in_float32(dtype):
    tensor = (300 * random_output(0, (5, 3, 4, 2))).to(dtype)  # of which the squares are too large
    half, single = (Measured(t, 0, 1, 1).look(1) for t in (tensor, tensor.float()))
    for name in ("positions", "spread", "strength", "along"):
        assert torch.equal(getattr(half, name), getattr(single, name))
    assert half.strength.isfinite().all()


@pytest.mark.parametrize("value", [-math.inf, math.inf, math.nan])
def test_value_that_is_never_finite_is_as_one_that_never_changes(value):
    tensor = random_output(0, (5, 3, 4, 2))
    tensor[:, 1, 2, 0] = value
    still = tensor.clone()
    still[:, 1, 2, 0] = 0
    found, expected = (Measured(t, 0, 1, 1).look(1) for t in (tensor, still))
    for name in ("positions", "spread", "strength", "along", "loud"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    assert found.positions.isfinite().all()


def test_place_that_does_not_change():
    tensor = random_output(0, (5, 3, 4, 2))
    tensor[:, :, 1, 1] = 7
    measured = Measured(tensor, 0, 1, 1)
    look = measured.look(1)
    assert (look.positions[:, 1, 1] == 0.5).all()
    assert (look.spread[:, 1, 1] == 1).all()
    assert look.strength[1, 1] == 0
    assert not look.loud[1, 1]
    assert not measured.still


def test_nothing_changes():
    measured = Measured(torch.full((5, 3, 4, 2), 7.0), 0, 1, 1)
    assert measured.still
    for look in measured.looks:
        assert (look.positions == 0.5).all()
        assert look.share == 0
        assert not look.loud.any()
        assert not look.along.any()
        assert not look.telling


def test_tensor_is_not_changed():
    tensor = random_output(0, (5, 3, 4, 2))
    before = tensor.clone()
    for look in Measured(tensor, 0, 1, 1).looks:
        assert look.positions.shape == (2, *look.strength.shape)
    assert torch.equal(tensor, before)


def test_telling_asks_for_places_that_differ_by_more_than_each_sees():
    middle = torch.full((2, 4, 6), 0.5, dtype=torch.float64)
    assert not Measured(looking(middle), 0, 1, 1).look(1).telling
    alike = middle + 0.01 * (centres(4, 6) - 0.5)
    assert not Measured(looking(alike), 0, 1, 1).look(1).telling
    deviation = float(centres(4, 6)[1].std())
    for reach, telling in [(0.0, True), (deviation / 2, True), (deviation, False)]:
        assert Measured(looking(centres(4, 6), reach), 0, 1, 1).look(1).telling == telling
    assert not Measured(looking(centres(1, 1)), 0, 1, 1).look(1).telling


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize(
    ("samples", "channels"), [(0, 1), (0, 3), (1, 2), (2, 0), (3, 1), (0, 2), (1, 0)]
)
def test_fields_lie_as_an_activation_of_one_sample(samples, channels, frames):
    shape = [5 * frames if axis == samples else 2 + axis for axis in range(4)]
    tensor = random_output(3, tuple(shape))
    look = Measured(tensor, samples, frames, 1).look(channels)
    shape[samples], shape[channels] = frames, 2 * 2 + 2
    assert list(look.fields.shape) == shape
    rows = look.fields.movedim((samples, channels), (0, 1))
    rows = rows.movedim(1, 0) if frames > 1 else rows[0]
    assert torch.equal(rows[:2], look.positions)
    assert torch.equal(rows[2:4], look.spread)
    assert torch.equal(rows[4], look.strength)
    assert rows[5].flatten().tolist() == list(range(1, look.strength.numel() + 1))


def taken(model: nn.Module, batch: Tensor, shapes: dict[str, tuple[int, ...]], **options) -> dict:
    """What `measure` tells of each of `shapes`."""
    found: dict[str, Measured] = {}
    measure(model, Inputs.of(batch), 0, shapes, lambda: found.__setitem__, **options)
    return found


def test_convolution_of_single_pixels_looks_at_each():
    net = nn.Sequential(nn.Conv2d(3, 4, 1)).eval()
    look = taken(net, images(2, 5, 7), {"0@0": (2, 4, 5, 7)})["0@0"].look(1)
    torch.testing.assert_close(look.positions, centres(5, 7), atol=1e-5, rtol=0)
    assert (look.spread < 1e-2).all()


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_positions_of_a_convolution_increase_along_both_axes(stride):
    net = spread(nn.Sequential(nn.Conv2d(3, 16, 4, stride=stride), nn.ReLU()))
    batch = images(2, 20, 24)
    look = taken(net, batch, {"1@0": tuple(net(batch).shape)})["1@0"].look(1)
    rows, columns = look.positions[0].mean(1), look.positions[1].mean(0)
    assert (rows.diff() > 0).all()
    assert (columns.diff() > 0).all()
    assert (look.along.diag() > 0.95).all()
    assert (look.along.fliplr().diag().abs() < 0.1).all()


class Second(nn.Module):
    """Pixels as tokens ``(T, N, C)``."""

    def forward(self, features: Tensor) -> Tensor:
        return features.flatten(2).permute(2, 0, 1)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("size", [(5, 1), (5, 7), (2, 1)])
def test_samples_are_found_where_they_are_second(size, count):
    """Also where there are as many tokens as samples, or as copies of a sample."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1), Second()).eval()
    tokens = math.prod(size)
    found = taken(net, images(count, *size), {"1@0": (tokens, count, 4)})["1@0"]
    assert (found.samples, found.axes) == (1, (0, 2))
    torch.testing.assert_close(
        found.look(2).positions, centres(*size).flatten(1), atol=1e-4, rtol=0
    )


def test_frames_in_the_axis_of_the_samples():
    class Folded(nn.Module):
        def forward(self, clips: Tensor) -> Tensor:
            return clips.movedim(2, 1).flatten(0, 1)

    net = nn.Sequential(Folded(), nn.Conv2d(3, 4, 1)).eval()
    found = taken(net, images(2, 3, 4, 5), {"1@0": (6, 4, 4, 5)})["1@0"]
    assert (found.samples, found.frames, found.axes) == (0, 3, (FOLDED, 1, 2, 3))
    look = found.look(1)
    assert look.axes == (FOLDED, 2, 3)
    torch.testing.assert_close(look.positions, centres(3, 4, 5), atol=1e-5, rtol=0)


class Twice(nn.Module):
    """A body on an image and on the same, turned over."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 4, 1)

    def forward(self, batch: Tensor) -> Tensor:
        return self.body(batch) + self.body(batch.flip(2, 3))


def test_calls_of_a_module_are_measured_apart():
    shape = (2, 4, 5, 7)
    found = taken(Twice().eval(), images(2, 5, 7), {"body@0": shape, "body@1": shape})
    one, other = (found[f"body@{call}"].look(1).positions for call in (0, 1))
    torch.testing.assert_close(one, centres(5, 7), atol=1e-5, rtol=0)
    torch.testing.assert_close(other, centres(5, 7).flip(1, 2), atol=1e-5, rtol=0)
    only = taken(Twice().eval(), images(2, 5, 7), {"body@1": shape})
    assert list(only) == ["body@1"]


def test_what_the_first_layer_gets():
    class Cut(Net):
        def forward(self, batch: Tensor) -> Tensor:
            return super().forward(batch[..., 2:, 3:])

    net = Cut(nn.Conv2d(3, 4, 1), nn.ReLU()).eval()
    shapes = {"features<0": (2, 3, 4, 7), "features@0": (2, 4, 4, 7)}
    found = taken(net, images(2, 6, 10), shapes)
    assert list(found) == ["features<0", "features@0"]
    expected = centres(4, 7, window=((2 / 6, 1), (3 / 10, 1)))
    for seen in found.values():
        torch.testing.assert_close(seen.look(1).positions, expected, atol=1e-5, rtol=0)


def test_output_without_an_axis_of_samples_is_left_out():
    class Constant(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            return torch.ones(2, 4, 5)

    net = nn.Sequential(nn.Conv2d(3, 4, 1), Constant()).eval()
    shapes = {"0@0": (2, 4, 5, 7), "1@0": (2, 4, 5)}
    assert list(taken(net, images(2, 5, 7), shapes)) == ["0@0"]


def test_image_of_one_value_is_measured_too():
    net = nn.Sequential(nn.Conv2d(3, 4, 1)).eval()
    look = taken(net, torch.full((1, 3, 5, 7), 0.5), {"0@0": (1, 4, 5, 7)})["0@0"].look(1)
    torch.testing.assert_close(look.positions, centres(5, 7), atol=1e-5, rtol=0)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("inference", [True, False])
def test_measuring_leaves_no_trace(grad, inference):
    net = spread(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(), nn.Conv2d(4, 2, 1))
    )
    batch = images(2, 5, 7)
    pixels = batch.clone()
    with torch.set_grad_enabled(grad), torch.inference_mode(inference):
        before = snapshot(net)
        first = taken(net, batch, {"3@0": (2, 2, 5, 7)})["3@0"].look(1)
        again = taken(net, batch, {"3@0": (2, 2, 5, 7)})["3@0"].look(1)
        assert snapshot(net) == before
    assert torch.equal(first.positions, again.positions)
    assert torch.equal(batch, pixels)


class Particular(Net):
    """Takes two samples, no more and no less."""

    def forward(self, batch: Tensor) -> Tensor:
        if len(batch) != 2:
            raise ValueError("two samples, if you please")
        return super().forward(batch)


def test_error_of_the_model_comes_through():
    net = Particular(nn.Conv2d(3, 4, 1), nn.ReLU()).eval()
    before = snapshot(net)
    with pytest.raises(ValueError, match="two samples, if you please"):
        taken(net, images(2, 5, 7), {"features@0": (2, 4, 5, 7)})
    assert snapshot(net) == before
