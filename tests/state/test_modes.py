"""Evaluation mode for a block, and every module's own mode afterwards."""

from __future__ import annotations

import threading

import pytest
import torch
from nets import Net, convolutional, images, pooled, spread
from snapshot import snapshot
from torch import nn
from torch.utils.checkpoint import CheckpointFunction, checkpoint

from camlib import AblationCAM, GradCAM, GuidedBackprop, Saliency, ScoreCAM
from camlib.state.modes import evaluate, explaining, run_unchecked, run_uncompiled
from camlib.state.undoing import Undoing

pytestmark = pytest.mark.filterwarnings("ignore:a map at layer:camlib.CamlibWarning")


def test_every_module_gets_its_own_mode_back():
    net = pooled().train()
    net.features[1].eval()
    before = snapshot(net)
    with Undoing() as undo:
        evaluate(undo, net)
        assert not any(module.training for module in net.modules())
    assert snapshot(net) == before


def test_nested_and_overlapping_blocks():
    net = pooled().train()
    outer, inner = Undoing(), Undoing()
    evaluate(outer, net)
    evaluate(inner, net)
    outer.__exit__(None, None, None)
    assert not net.training
    inner.__exit__(None, None, None)
    assert all(module.training for module in net.modules())


class Merging(nn.Linear):
    """Adds what it learned to its weight in evaluation mode, as adapters do."""

    def __init__(self):
        super().__init__(6, 4)
        self.learned = nn.Parameter(torch.randn(4, 6))
        self.merged = False

    def train(self, mode=True):
        super().train(mode)
        if self.merged == mode:
            self.weight.data += -self.learned.data if mode else self.learned.data
            self.merged = not mode
        return self

    def forward(self, batch):
        assert self.merged != self.training
        extra = 0 if self.merged else batch @ self.learned.T
        return super().forward(batch) + extra


def test_what_eval_prepares_is_prepared_and_put_back():
    net = pooled()
    net.tail[1] = Merging()
    net.train()
    net.features[1].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = GradCAM(net, "features")(images(), 1)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.tail[1].training and not net.tail[1].merged and not net.features[1].training
    torch.testing.assert_close(GradCAM(net.eval(), "features")(images(), 1), found)
    assert net.tail[1].merged and not net.training


def test_a_module_whose_eval_freezes_it_is_as_trainable_as_before():
    class Freezing(Net):
        def train(self, mode=True):
            self.requires_grad_(mode)
            return super().train(mode)

    net = Freezing(pooled().features, pooled().tail).train()
    GradCAM(net, "features")(images(), 1)
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_compiled_code_runs_as_written_and_is_put_back():
    runs = []

    @torch.compile(backend=lambda graph, _inputs: runs.append(1) or graph.forward)
    def double(x):
        return 2 * x

    with Undoing() as undo, Undoing() as inner:
        run_uncompiled(undo)
        run_uncompiled(inner)
        double(torch.ones(2))
    assert not runs
    double(torch.ones(2))
    assert runs == [1]


def test_everything_is_back_after_an_error():
    net = pooled().train()
    before = snapshot(net)
    with pytest.raises(ZeroDivisionError), explaining(net, torch.device("cpu")):
        torch.rand(3)
        raise ZeroDivisionError
    assert snapshot(net) == before


class Recurrent(nn.Module):
    """Convolutions, whose columns are a sequence for a recurrent network."""

    def __init__(self, kind):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU())
        self.rnn = kind(5, 6, num_layers=2, dropout=0.5, batch_first=True)
        self.head = nn.Linear(6, 4)

    def forward(self, batch):
        return self.head(self.rnn(self.features(batch).mean(2).mT)[0][:, -1])


RNNS = pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])


@RNNS
def test_recurrent_layers_on_a_gpu_run_without_cudnn_where_a_gradient_is_taken(kind, monkeypatch):
    net, found = spread(Recurrent(kind)), []
    net.rnn.register_forward_pre_hook(lambda *_: found.append(torch.backends.cudnn.enabled))
    GradCAM(net, "features")(images(), 1)
    assert set(found) == {True}
    monkeypatch.setattr(
        "camlib.state.modes._by_cudnn", lambda module: isinstance(module, nn.RNNBase)
    )
    for method in (GradCAM(net, "features"), Saliency(net), ScoreCAM(net, "features")):
        found.clear()
        method(images(), 1)
        assert set(found) == {isinstance(method, ScoreCAM)}
        assert torch.backends.cudnn.enabled
    with pytest.raises(ZeroDivisionError):
        GradCAM(net, "features")(images(), lambda output: 1 / 0)
    assert torch.backends.cudnn.enabled


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@RNNS
def test_recurrent_layers_of_cudnn(kind):
    net, batch = spread(Recurrent(kind)), images()
    for method in (GradCAM, ScoreCAM, AblationCAM):
        expected = method(net.cpu(), "features")(batch, 1)
        found = method(net.cuda(), "features")(batch.cuda(), 1)
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-2, atol=1e-3)
    assert Saliency(net.cuda())(batch.cuda(), 1).any()
    assert torch.backends.cudnn.enabled


class Checkpointed(Net):
    """Runs its parts under checkpoints."""

    def __init__(self, base, *, reentrant):
        super().__init__(base.features, base.tail)
        self.reentrant = reentrant

    def forward(self, batch):
        for part in (self.features[:2], self.features[2:], self.tail):
            batch = checkpoint(part, batch, use_reentrant=self.reentrant)
        return batch


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_checkpoints_of_either_kind(reentrant, frozen):
    base, batch = convolutional(), images()
    net = Checkpointed(base, reentrant=reentrant).eval().requires_grad_(not frozen)
    ordinary = CheckpointFunction.apply
    for layer in ("features.1", "features.3", "features.4", "tail.0"):
        for kind in (GradCAM, ScoreCAM, AblationCAM):
            for target in (1, [[1, 2], [3, 0]]):
                expected = kind(base, layer).explain(batch, target, relu=False).map
                found = kind(net, layer).explain(batch, target, relu=False).map
                torch.testing.assert_close(found, expected)
    torch.testing.assert_close(Saliency(net)(batch, 1), Saliency(base)(batch, 1))
    if reentrant:
        torch.testing.assert_close(GuidedBackprop(net)(batch, 1), GuidedBackprop(base)(batch, 1))
    assert CheckpointFunction.apply == ordinary
    assert "apply" not in vars(CheckpointFunction)


def test_other_threads_go_on_with_checkpoints():
    runs = []

    def function(value):
        runs.append(torch.is_grad_enabled())
        return 2 * value

    def run():
        checkpoint(function, torch.ones(2, requires_grad=True), use_reentrant=True).sum().backward()

    with Undoing() as undo:
        run_unchecked(undo)
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        assert runs == [False, True]
        checkpoint(function, torch.ones(2, requires_grad=True), use_reentrant=True)
    assert runs == [False, True, True]
