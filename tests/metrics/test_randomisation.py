"""What a map depends on, and that the model comes back as it was."""

from __future__ import annotations

import pytest
import torch
from metrics_reference import pearson
from nets import Net, convolutional, features, images, spread
from snapshot import snapshot
from torch import nn

from camlib import EigenCAM, GradCAM, InputError, LayerError, Saliency, TargetError, metrics
from camlib.metrics.randomised import randomised, weighted
from camlib.metrics.similarity import histograms, spearman, ssim


@pytest.fixture
def case():
    net, batch = convolutional(1), images(3, 32, 32)
    cam = GradCAM(net, "features", relu=False)
    return net, batch, cam, cam(batch, [0, 1, 2])


@pytest.mark.parametrize("order", ["cascading", "independent"])
@pytest.mark.parametrize("weights", ["permuted", "reset"])
def test_the_model_is_left_as_found(case, order, weights):
    net, batch, cam, maps = case
    before = snapshot(net)
    seen = metrics.parameter_randomisation(
        net, batch, maps, [0, 1, 2], method=cam, order=order, weights=weights
    )
    assert snapshot(net) == before
    assert seen.layers == ("tail.6", "tail.3", "tail.0", "features.3", "features.1", "features.0")
    assert {name: found.shape for name, found in seen.similarity.items()} == {
        name: (6, 3) for name in ("spearman", "ssim", "hog")
    }
    assert all(bool((found <= 1 + 1e-6).all()) for found in seen.similarity.values())
    assert torch.equal(cam(batch, [0, 1, 2]), maps)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("calls", [0, 3])
def test_the_model_is_left_as_found_when_interrupted(case, error, calls):
    net, batch, cam, maps = case
    before, count = snapshot(net), 0

    def method(changed, classes):
        nonlocal count
        count += 1
        if count > calls:
            assert not torch.equal(net.tail[6].weight, weight)
            raise error
        return cam(changed, classes)

    weight = net.tail[6].weight
    with pytest.raises(error):
        metrics.parameter_randomisation(net, batch, maps, [0, 1, 2], method=method)
    assert snapshot(net) == before


def test_an_interruption_while_weights_are_drawn_is_undone(case, monkeypatch):
    net = case[0]
    before = snapshot(net)
    draw, count = torch.randperm, 0

    def randperm(*args, **options):
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt
        return draw(*args, **options)

    monkeypatch.setattr(torch, "randperm", randperm)
    with pytest.raises(KeyboardInterrupt), randomised(net, weighted(net, None)):
        pass
    assert snapshot(net) == before


def test_random_numbers_of_the_caller_go_on(case):
    net, batch, cam, maps = case
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    metrics.parameter_randomisation(net, batch, maps, 1, method=cam, weights="reset")
    assert torch.equal(torch.rand(3), expected)


def test_cascading_is_random_from_the_output_on_and_independent_in_one_layer(case):
    net, batch, cam, maps = case
    own = {name: parameter.clone() for name, parameter in net.named_parameters()}
    changed = []

    def method(images, classes):
        changed.append(
            {name for name, each in net.named_parameters() if not torch.equal(each, own[name])}
        )
        return cam(images, classes)

    for order in ("cascading", "independent"):
        metrics.parameter_randomisation(net, batch, maps, 1, method=method, order=order)
    cascading, independent = changed[:6], changed[6:]
    for step, (now, before) in enumerate(zip(cascading[1:], cascading, strict=False)):
        assert before < now, step
    assert cascading[-1] == set(own)
    layers = [{name.rpartition(".")[0] for name in names} for names in independent]
    assert layers == [
        {"tail.6"},
        {"tail.3"},
        {"tail.0"},
        {"features.3"},
        {"features.1"},
        {"features.0"},
    ]
    for names, layer in zip(independent, layers, strict=True):
        assert names == {name for name in own if name.rpartition(".")[0] in layer}


def test_values_are_permuted_and_buffers_stay_or_all_starts_anew(case):
    net = case[0]
    own = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with randomised(net, ["features"]):
        for name, tensor in net.features.state_dict(prefix="features.").items():
            assert torch.equal(tensor.flatten().sort().values, own[name].flatten().sort().values)
        assert torch.equal(net.features[1].running_mean, own["features.1.running_mean"])
        assert torch.equal(net.tail[0].weight, own["tail.0.weight"])
    with randomised(net, ["features"], "reset", seed=3):
        torch.testing.assert_close(net.features[1].running_var, torch.ones(5))
        found = net.features[0].weight.clone()
    with randomised(net, [""], "reset", seed=3):  # a layer's numbers are its own
        assert torch.equal(net.features[0].weight, found)
    with randomised(net, ["features"], "reset", seed=4):
        assert not torch.equal(net.features[0].weight, found)


def test_tied_weights_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
            self.other.weight = self.one.weight

    net = Tied()
    weight = net.one.weight
    with randomised(net, ["one", "other"]):
        assert net.one.weight is net.other.weight
        assert net.one.weight is not weight
    assert net.one.weight is net.other.weight is weight


def test_a_recurrent_layer_uses_the_random_weights_and_then_its_own():
    net = nn.Sequential(nn.LSTM(3, 4, batch_first=True))
    wave = torch.randn(2, 5, 3)
    expected = net(wave)[0]
    with randomised(net, ["0"]):
        assert not torch.equal(net(wave)[0], expected)
    assert torch.equal(net(wave)[0], expected)


def test_what_depends_on_the_weights_changes_and_what_does_not_stays(case):
    net, batch, cam, maps = case
    seen = metrics.parameter_randomisation(net, batch, maps, [0, 1, 2], method=cam)
    assert bool((seen.similarity["spearman"][-1] < 0.9).all())
    edges = batch.abs().mean(1)
    fixed = metrics.parameter_randomisation(net, batch, edges, method=lambda x, _: x.abs().mean(1))
    for found in fixed.similarity.values():
        torch.testing.assert_close(found, torch.ones_like(found))
    # What lies before the layer alone depends on nothing behind it.
    eigen = EigenCAM(net, "features")
    blind = metrics.parameter_randomisation(
        net, batch, eigen(batch), method=eigen, order="independent", similarity="spearman"
    )
    torch.testing.assert_close(blind.similarity["spearman"][:3], torch.ones(3, 3))
    assert bool((blind.similarity["spearman"][3:] < 0.999).any())


def test_several_classes_and_attributions(case):
    net, batch, _, _ = case
    saliency = Saliency(net)
    classes = [[0, 2], [1, 0], [3, 1]]
    found = metrics.parameter_randomisation(
        net, batch, saliency(batch, classes), classes, method=saliency, batch_size=2
    )
    for k in range(2):
        target = [row[k] for row in classes]
        alone = metrics.parameter_randomisation(
            net, batch, saliency(batch, target), target, method=saliency
        )
        for name, values in alone.similarity.items():
            assert found.similarity[name].shape == (6, 3, 2)
            torch.testing.assert_close(found.similarity[name][..., k], values)


def test_random_logit(case):
    net, batch, cam, maps = case
    found = metrics.random_logit(net, batch, maps, [0, 1, 2], method=cam, similarity="spearman")
    step = int(torch.randint(1, 4, (), generator=torch.Generator().manual_seed(0)))
    other = cam(batch, [(c + step) % 4 for c in (0, 1, 2)])
    torch.testing.assert_close(found, spearman(maps, other), check_dtype=False)
    eigen = EigenCAM(net, "features")
    blind = metrics.random_logit(net, batch, eigen(batch), method=eigen)
    torch.testing.assert_close(blind, torch.ones(3))
    with pytest.raises(TargetError, match="is not a class"):
        metrics.random_logit(net, batch, maps, lambda out: out[:, 0], method=cam)


# How alike maps are.


def test_spearman_with_equal_values():
    one = torch.tensor([[1.0, 2, 2, 3, 0, 2]])
    other = torch.tensor([[0.0, 5, 4, 4, 1, 9]])
    expected = pearson([1, 3, 3, 5, 0, 3], [0, 4, 2.5, 2.5, 1, 5])
    assert float(spearman(one, other)) == pytest.approx(expected)
    assert float(spearman(one, one.exp())) == pytest.approx(1)
    assert float(spearman(one, -one)) == pytest.approx(-1)
    assert float(spearman(one, torch.ones(1, 6))) == 0


def test_ssim_by_loops():
    generator = torch.Generator().manual_seed(0)
    one, other = torch.rand(2, 1, 12, 10, generator=generator, dtype=torch.float64)
    a, b = ((m[0] - m.min()) / (m.max() - m.min()) for m in (one, other))
    found = []
    for i in range(6):
        for j in range(4):
            p, q = a[i : i + 7, j : j + 7].flatten(), b[i : i + 7, j : j + 7].flatten()
            cov = ((p - p.mean()) * (q - q.mean())).sum() / 48
            top = (2 * p.mean() * q.mean() + 0.01**2) * (2 * cov + 0.03**2)
            bottom = p.mean() ** 2 + q.mean() ** 2 + 0.01**2
            found.append(float(top / (bottom * (p.var() + q.var() + 0.03**2))))
    assert float(ssim(one, other)) == pytest.approx(sum(found) / 24)
    assert float(ssim(one, 3 * one + 2)) == pytest.approx(1)


def test_histograms_know_the_direction():
    ramp = torch.arange(64.0).expand(64, 64)
    across = histograms(ramp[None].double()).reshape(-1, 3, 3, 9)
    down = histograms(ramp.T[None].double()).reshape(-1, 3, 3, 9)
    assert int(across.sum((0, 1, 2)).argmax()) == 0
    assert int(down.sum((0, 1, 2)).argmax()) == 4


def test_what_does_not_fit_is_refused(case):
    net, batch, cam, maps = case
    call = metrics.parameter_randomisation
    for options, message in [
        ({"order": "top_down"}, "order='top_down' is not known"),
        ({"similarity": ["mse"]}, r"similarity=\['mse'\] is not known"),
        ({"weights": "zero"}, "weights='zero' is not known"),
        ({"method": 3}, "method=3 is of type int; expected a Method or a function"),
        ({"method": GradCAM(convolutional(), "features")}, "explains another model"),
    ]:
        with pytest.raises(InputError, match=message):
            call(net, batch, maps, 1, **{"method": cam} | options)
    for layers, message in [(["feature"], "not found"), (["features.2"], "has no weights")]:
        with pytest.raises(LayerError, match=message):
            call(net, batch, maps, 1, method=cam, layers=layers)
    series = spread(Net(features(axes=1), nn.Sequential(nn.Flatten(), nn.Linear(36, 4))))
    wave = torch.randn(2, 3, 12)
    with pytest.raises(InputError, match="ssim compares pictures of two axes"):
        call(series, wave, wave[:, 0], 1, method=lambda x, _: x[:, 0])
    seen = call(series, wave, wave[:, 0], 1, method=lambda x, _: x[:, 0], similarity="spearman")
    assert repr(seen) == "Randomisation(cascading, 4 layers, spearman)"
