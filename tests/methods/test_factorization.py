"""Concepts of a batch: the factors, what they are of, what they speak for, and their picture."""

from __future__ import annotations

import itertools
import re
import warnings

import pytest
import torch
from nets import Net, Pooling, convolutional, images, pooled, spread
from reference import factorization, squared_error
from snapshot import snapshot
from torch import Tensor, nn

from camlib import (
    CAM,
    CamlibWarning,
    DeepFeatureFactorization,
    InputError,
    LayerError,
    TargetError,
    layouts,
    zoo,
)
from camlib.methods.factorization import factored, updated

BLOBS = torch.tensor(
    [[0, 0, 0, 0, 0, 2], [1, 0, 0, 0, 0, 2], [3, 0, 4, 4, 0, 0], [1, 0, 4, 4, 0, 0]],
    dtype=torch.float64,
)
"""Three patches that share no place, by their strength."""

CHANNELS = torch.tensor([[5, 0, 1, 0], [0, 2, 0, 0], [0, 0, 3, 3]], dtype=torch.float64)
"""What is active in each of them, the patches from the left to the right."""


def blobs() -> tuple[Tensor, Tensor]:
    """The three patches apart, ``(3, 4, 6)``, and the activation they make, ``(4, 4, 6)``."""
    apart = torch.zeros(3, 4, 6, dtype=torch.float64)
    for k, columns in enumerate([slice(0, 1), slice(2, 4), slice(5, 6)]):
        apart[k, :, columns] = BLOBS[:, columns]
    return apart, torch.einsum("khw,kc->chw", apart, CHANNELS)


class Given(nn.Module):
    """Returns what it is given, whatever it sees."""

    def __init__(self, activation: Tensor) -> None:
        super().__init__()
        self.register_buffer("activation", activation)

    def forward(self, images: Tensor) -> Tensor:
        return self.activation + 0 * images.mean()


def given(activation: Tensor, tail: nn.Module) -> Net:
    return Net(Given(activation), tail).double().eval()


@pytest.mark.parametrize("concepts", [1, 2, 5])
def test_factors_are_those_of_the_loops_and_the_error_never_rises(concepts):
    generator = torch.Generator().manual_seed(concepts)
    rows = torch.rand(14, 9, generator=generator, dtype=torch.float64)
    rows[3] = 0
    rows[:, 4] = 0
    weights = torch.rand(14, concepts, generator=generator, dtype=torch.float64)
    vectors = torch.rand(concepts, 9, generator=generator, dtype=torch.float64)
    errors = [squared_error(rows, weights, vectors)]
    for count in range(1, 31):
        found = updated(rows, weights, vectors)
        if count <= 3:
            expected = factorization(rows, weights, vectors)
            torch.testing.assert_close(found[0], expected[0], rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(found[1], expected[1], rtol=1e-10, atol=1e-12)
        weights, vectors = found
        assert weights.min() >= 0
        assert vectors.min() >= 0
        errors.append(squared_error(rows, weights, vectors))
    assert all(after <= before * (1 + 1e-12) for before, after in itertools.pairwise(errors))
    assert errors[-1] < 0.9 * errors[0]


def test_error_is_that_of_the_factors_and_their_scale_is_settled():
    rows = torch.rand(20, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights, vectors, error = factored(rows, 3, 200, 1e-4)
    torch.testing.assert_close(weights.amax(0), torch.ones(3, dtype=torch.float64))
    expected = (squared_error(rows, weights, vectors) / float(rows.square().sum())) ** 0.5
    assert error == pytest.approx(expected)
    sizes = weights.norm(dim=0) * vectors.norm(dim=1)
    assert sizes.tolist() == sorted(sizes.tolist(), reverse=True)


def test_more_iterations_and_a_smaller_tolerance_leave_less():
    rows = torch.rand(40, 30, generator=torch.Generator().manual_seed(0))
    few, some, many = (factored(rows, 6, count, 0.0)[2] for count in (1, 10, 300))
    assert 1 > few > some > many
    assert factored(rows, 6, 300, 0.1)[2] == pytest.approx(factored(rows, 6, 20, 0.0)[2])


def test_blobs_that_share_nothing_are_the_concepts():
    apart, activation = blobs()
    net = given(activation[None], nn.Sequential(Pooling(), nn.Linear(4, 3)))
    seen = DeepFeatureFactorization(net, "features", concepts=3, iterations=2000, tolerance=0)(
        images(1, 8, 12).double()
    )
    assert seen.error < 1e-3
    found = [int(k) for k in torch.einsum("khw,rhw->kr", apart, seen.maps[0]).argmax(1)]
    assert sorted(found) == [0, 1, 2]
    strongest = apart.amax((1, 2))
    for k, concept in enumerate(found):
        expected = apart[k] / strongest[k]
        torch.testing.assert_close(seen.maps[0, concept], expected, atol=1e-3, rtol=0)
        expected = CHANNELS[k] * strongest[k]
        torch.testing.assert_close(seen.vectors[concept], expected, atol=0.02, rtol=0)
    energy = apart.square().sum((1, 2)) * CHANNELS.square().sum(1)
    assert [found.index(concept) for concept in range(3)] == energy.argsort(
        descending=True
    ).tolist()


def test_where_there_are_fewer_patterns_the_rest_is_zero():
    _, activation = blobs()
    net = given(activation[None], nn.Sequential(Pooling(), nn.Linear(4, 3)))
    seen = DeepFeatureFactorization(net, "features", concepts=5)(images(1, 8, 12).double())
    assert seen.vectors.any(1).tolist() == [True] * 3 + [False] * 2
    assert seen.heatmaps.isfinite().all()
    assert not seen.scores[3:].any()


def test_silent_layer_has_no_concepts():
    net = given(torch.zeros(1, 4, 4, 6), nn.Sequential(Pooling(), nn.Linear(4, 3)))
    seen = DeepFeatureFactorization(net, "features", concepts=2)(images(1, 8, 12).double())
    assert not seen.maps.any()
    assert not seen.scores.any()
    assert seen.error == 0


def test_scores_are_the_classifier_on_the_vectors():
    net = pooled()
    seen = DeepFeatureFactorization(net, "features", concepts=3)(images(4))
    expected = seen.vectors.double() @ net.tail[1].weight.detach().double().mT
    torch.testing.assert_close(seen.scores.double(), expected, rtol=1e-4, atol=1e-5)


def test_scores_are_what_the_tail_makes_of_the_concept_at_every_position():
    net, batch = convolutional(), images(3)
    seen = DeepFeatureFactorization(net, "features", concepts=3, batch_size=2)(batch)
    for vector, scores in zip(seen.vectors, seen.scores, strict=True):
        everywhere = vector[None, :, None, None].expand(1, 6, 4, 4)
        expected = net.tail(everywhere) - net.tail(torch.zeros_like(everywhere))
        torch.testing.assert_close(scores, expected[0].detach(), rtol=1e-4, atol=1e-5)


class Louder(Net):
    """Answers more to bright images."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * images.flatten(1).sum(1, keepdim=True)


def test_what_goes_around_the_layer_counts_in_the_mean_over_samples():
    net, batch = pooled(), images(3)
    expected = DeepFeatureFactorization(net, "features", concepts=2)(batch)
    other = Louder(net.features, net.tail).eval()
    seen = DeepFeatureFactorization(other, "features", concepts=2)(batch)
    brightness = batch.flatten(1).sum(1).mean()
    torch.testing.assert_close(seen.scores, expected.scores * brightness, rtol=1e-4, atol=1e-4)


def test_target_says_what_else_a_concept_may_speak_for():
    net, batch = pooled(), images(3)
    method = DeepFeatureFactorization(net, "features", concepts=2)
    every = method(batch).scores
    torch.testing.assert_close(method(batch, [[3, 1]]).scores, every[:, [3, 1]])
    found = method(batch, lambda output: output[:, 0] - output[:, 2]).scores
    torch.testing.assert_close(found[:, 0], every[:, 0] - every[:, 2], atol=1e-5, rtol=1e-5)


def test_map_of_a_class_is_the_sum_of_those_of_the_concepts_times_their_scores():
    _, activation = blobs()
    tail = spread(nn.Sequential(Pooling(), nn.Linear(4, 3)))
    net = given(activation[None], tail)
    batch = images(1, 8, 12).double()
    seen = DeepFeatureFactorization(net, "features", concepts=3, iterations=2000, tolerance=0)(
        batch
    )
    for label in range(3):
        expected = CAM(net, "features").explain(batch, label).map
        found = torch.einsum("nkhw,k->nhw", seen.maps, seen.scores[:, label])
        torch.testing.assert_close(found, expected, atol=0.02, rtol=0)


def test_order_of_the_images_does_not_matter_and_calls_agree():
    net, batch = pooled(), images(4)
    method = DeepFeatureFactorization(net, "features", concepts=3)
    seen, again, turned = method(batch), method(batch), method(batch.flip(0))
    assert torch.equal(seen.heatmaps, again.heatmaps)
    torch.testing.assert_close(turned.heatmaps.flip(0), seen.heatmaps, atol=1e-3, rtol=0)
    torch.testing.assert_close(turned.vectors, seen.vectors, atol=1e-3, rtol=1e-3)


def test_heatmaps_are_at_the_size_of_the_input_and_maps_on_the_grid():
    seen = DeepFeatureFactorization(pooled(), concepts=2)(images(3))
    assert seen.layer == "features"
    assert seen.heatmaps.shape == (3, 2, 8, 8)
    assert seen.maps.shape == (3, 2, 4, 4)
    assert seen.scores.shape == (2, 4)
    torch.testing.assert_close(seen.maps.amax((0, 2, 3)), torch.ones(2))
    assert seen.heatmaps.min() >= 0
    assert seen.heatmaps.max() <= 1
    assert not seen.scores.requires_grad
    assert "heatmaps=(3, 2, 8, 8), vectors=(2, 6), error=0." in repr(seen)


class Turned(nn.Module):
    """Channels last."""

    def forward(self, features: Tensor) -> Tensor:
        return features.movedim(1, -1)


class Back(nn.Module):
    """Channels first."""

    def forward(self, features: Tensor) -> Tensor:
        return features.movedim(-1, 1)


class Tokens(nn.Module):
    """A row of tokens, the first of them of the class."""

    def forward(self, features: Tensor) -> Tensor:
        patches = features.flatten(2).mT
        return torch.cat([patches.mean(1, keepdim=True), patches], 1)


class Grid(nn.Module):
    """The patches alone, channels first."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 1:].mT.unflatten(2, (4, 4))


@pytest.mark.parametrize(
    ("there", "back", "layout"),
    [
        (Turned(), Back(), None),
        (Turned(), Back(), layouts.ChannelsLast()),
        (Tokens(), Grid(), layouts.Tokens(prefix=1)),
    ],
)
def test_layout_does_not_matter(there, back, layout):
    net, batch = pooled(), images(2)
    expected = DeepFeatureFactorization(net, "features", concepts=2)(batch)
    other = Net(nn.Sequential(*net.features, there), nn.Sequential(back, *net.tail)).eval()
    seen = DeepFeatureFactorization(other, "features", concepts=2, layout=layout)(batch)
    torch.testing.assert_close(seen.maps, expected.maps)
    torch.testing.assert_close(seen.scores, expected.scores, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("axes", [1, 3])
def test_series_and_volumes(axes):
    net = pooled(axes=axes)
    size = [12, 6, 6][:axes]
    seen = DeepFeatureFactorization(net, "features", concepts=2)(images(2, *size))
    assert seen.heatmaps.shape == (2, 2, *size)
    with pytest.raises(
        InputError, match=re.escape(f"concepts of inputs of size {tuple(size)} cannot")
    ):
        seen.figure()


def test_model_is_left_as_found_and_may_be_in_training_or_half_precision():
    net, batch = pooled().train(), images(3)
    before = snapshot(net)
    method = DeepFeatureFactorization(net, "features", concepts=2)
    seen = method(batch)
    assert snapshot(net) == before
    with torch.inference_mode():
        assert torch.equal(method(batch).maps, seen.maps)
    net.eval().bfloat16()
    rough = method(batch.bfloat16())
    assert rough.maps.dtype == torch.float32
    assert (rough.maps - seen.maps).abs().max() < 0.1


def test_negative_values_are_cut_off_with_a_warning_unless_they_are_few():
    net, batch = pooled(), images(2)
    with pytest.warns(CamlibWarning, match=r"layer 'features\.3' has negative values, \d+% of its"):
        seen = DeepFeatureFactorization(net, "features.3", concepts=2)(batch)
    expected = DeepFeatureFactorization(net, "features.4", concepts=2)(batch)
    torch.testing.assert_close(seen.maps, expected.maps)


@pytest.mark.parametrize(("negative", "told"), [(0.5, 0), (4.0, 1)])
def test_a_few_negative_values_are_cut_off_without_a_word(negative, told):
    _, activation = blobs()
    activation[0, 0, 3:] = -negative
    net = given(activation[None], nn.Sequential(Pooling(), nn.Linear(4, 3)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        DeepFeatureFactorization(net, "features", concepts=2)(images(1, 8, 12).double())
    assert len(caught) == told


def test_concepts_tell_the_objects_of_scenes_from_each_other_and_from_the_background():
    scenes = [zoo.scene(seed, classes=["ring", "cross"]) for seed in range(6)]
    pictures = torch.stack([scene.image for scene in scenes])
    net = zoo.load()
    seen = DeepFeatureFactorization(net, concepts=3)(zoo.preprocess(pictures))
    background = torch.stack([~scene.masks.any(0) for scene in scenes])
    masks = {name: torch.stack([s.mask(name) for s in scenes]) for name in ("ring", "cross")}
    masks["background"] = background
    found = {}
    for name, mask in masks.items():
        inside = (seen.heatmaps * mask[:, None]).sum((0, 2, 3)) / mask.sum()
        outside = (seen.heatmaps * ~mask[:, None]).sum((0, 2, 3)) / (~mask).sum()
        found[name] = int((inside / outside).argmax())
        assert inside[found[name]] > 2 * outside[found[name]], name
    assert sorted(found.values()) == [0, 1, 2]
    best = seen.scores.argmax(1)
    for name in ("ring", "cross"):
        assert zoo.CLASSES[best[found[name]]] == name
    assert seen.scores[found["background"]].max() < 0.1 * seen.scores.max()


def test_figure_has_a_colour_for_each_concept_and_the_classes_it_speaks_for(tmp_path):
    scenes = [zoo.scene(seed, classes=["ring", "cross"]) for seed in range(2)]
    pictures = torch.stack([scene.image for scene in scenes])
    seen = DeepFeatureFactorization(zoo.load(), concepts=3)(zoo.preprocess(pictures))
    page = seen.figure(pictures, labels=zoo.CLASSES, classes=1)
    texts = [text.get_text() for text in page.findobj(lambda a: hasattr(a, "get_text"))]
    assert sum("ring  " in text for text in texts) == 2
    assert sum("cross  " in text for text in texts) == 2
    numbers = [text.split()[0] for text in texts if text[:1].isdigit()]
    assert numbers == ["1", "2", "3"] * 2
    every = seen.figure(pictures, labels=zoo.CLASSES, classes=8)
    texts = [text.get_text() for text in every.findobj(lambda a: hasattr(a, "get_text"))]
    background = int(seen.scores.amax(1).argmin())
    assert seen.scores[background].max() < 0
    assert sum(text.strip() == str(background + 1) for text in texts) == 2
    seen.save(tmp_path / "concepts.png", pictures)
    assert (tmp_path / "concepts.png").read_bytes().startswith(b"\x89PNG")


def test_places_have_the_colour_of_their_strongest_concept():
    _, activation = blobs()
    net = given(activation[None], nn.Sequential(Pooling(), nn.Linear(4, 3)))
    seen = DeepFeatureFactorization(net, "features", concepts=3)(images(1, 4, 6).double())
    page = seen.figure(alpha=1.0)
    drawn = page.axes[1].images[0].get_array()
    which = int(seen.maps[0, :, 2, 2].argmax())
    expected = [(31, 119, 180), (255, 127, 14), (44, 160, 44)][which]
    assert tuple(drawn[2, 2]) == expected
    assert tuple(drawn[0, 1]) == (0, 0, 0)
    bars = [patch for patch in page.axes[2].patches if patch.get_width() < 1]
    assert sum(bar.get_width() for bar in bars) == pytest.approx(1, abs=1e-3)


def test_bad_arguments():
    net, batch = pooled(), images(2)
    with pytest.raises(
        InputError, match="concepts=0 is out of range; expected an integer of 1 or more"
    ):
        DeepFeatureFactorization(net, concepts=0)
    with pytest.raises(
        InputError, match="iterations=0 is out of range; expected an integer of 1 or more"
    ):
        DeepFeatureFactorization(net, iterations=0)
    with pytest.raises(
        InputError, match="batch_size=0 is out of range; expected an integer of 1 or more"
    ):
        DeepFeatureFactorization(net, batch_size=0)
    with pytest.raises(LayerError, match=r"expected one layer to factor, got \('features\.2', "):
        DeepFeatureFactorization(net, ["features.2", "features"])
    with pytest.raises(LayerError, match="did you mean 'features'"):
        DeepFeatureFactorization(net, "feature")
    with pytest.raises(TargetError, match="class 9 is out of range"):
        DeepFeatureFactorization(net, "features")(batch, 9)
    broken = batch.clone()
    broken[0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match="the output of layer 'features' is not finite"):
        DeepFeatureFactorization(net, "features")(broken)
    seen = DeepFeatureFactorization(net, "features")(batch)
    with pytest.raises(InputError, match="images has 1 pictures; expected 2, as in concepts"):
        seen.figure(torch.zeros(1, 3, 8, 8))
    with pytest.raises(InputError, match=r"alpha=1\.5 is out of range"):
        seen.figure(alpha=1.5)
    with pytest.raises(InputError, match="labels has no entry"):
        seen.figure(labels=[])
    assert repr(DeepFeatureFactorization(net)).endswith("(Net, layer=None, chosen in every call)")
    assert repr(DeepFeatureFactorization(net, "features")).endswith("(Net, layer='features')")
