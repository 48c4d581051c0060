import pytest
import torch
from nets import pooled
from snapshot import snapshot
from torch import nn

from camlib.modes import evaluating, explaining, uncompiled


def test_every_module_gets_its_own_mode_back():
    net = pooled().train()
    net.features[1].eval()
    before = snapshot(net)
    with evaluating(net):
        assert not any(module.training for module in net.modules())
    assert snapshot(net) == before


def test_nested_and_overlapping_blocks():
    net = pooled().train()
    outer, inner = evaluating(net), evaluating(net)
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    assert not net.training
    inner.__exit__(None, None, None)
    assert all(module.training for module in net.modules())


def test_overridden_train_is_not_called():
    class Stubborn(nn.Linear):
        def train(self, mode=True):
            raise AssertionError("not to be called")

    module = Stubborn(2, 2)
    with evaluating(module):
        assert not module.training
    assert module.training


def test_compiled_code_runs_as_written_and_is_put_back():
    runs = []

    @torch.compile(backend=lambda graph, _inputs: runs.append(1) or graph.forward)
    def double(x):
        return 2 * x

    with uncompiled(), uncompiled():
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
