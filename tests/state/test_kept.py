"""What a model keeps on itself is there after a call as it was before."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch
from nets import Net, fitting, images, pooled
from snapshot import snapshot
from torch import Tensor, nn
from torch.nn import functional as F

from camlib import METHODS, CamlibWarning, GradCAM, ModelError, ScoreCAM, layers
from camlib.state import copies
from camlib.state.kept import put_back_state
from camlib.state.modes import explaining
from camlib.state.undoing import Undoing

pytestmark = [
    pytest.mark.filterwarnings("ignore:a map (at layer|of):camlib.CamlibWarning"),
    pytest.mark.filterwarnings("ignore:Counting answers a sample:camlib.CamlibWarning"),
    pytest.mark.filterwarnings("ignore:FullGrad does not:camlib.CamlibWarning"),
    pytest.mark.filterwarnings("ignore:integrated gradients with:camlib.CamlibWarning"),
]


class Counting(Net):
    """Counts samples in buffers, and takes the statistics of its batches."""

    inference = False

    def __init__(self, base: Net) -> None:
        super().__init__(base.features, base.tail)
        self.register_buffer("seen", torch.zeros(1))
        self.register_buffer("replaced", torch.zeros(()))
        self.register_buffer("nothing", None)
        self.register_buffer("odd", torch.tensor([torch.nan, 1]), persistent=False)
        self.mean = nn.Module()
        self.mean.register_buffer("value", torch.zeros(3))
        self.mean.register_buffer("spread", torch.ones(3))

    def forward(self, batch: Tensor) -> Tensor:
        self.seen += len(batch)
        if self.inference:
            with torch.inference_mode():
                self.counted += 1
        self.replaced = self.replaced + 1
        self.odd[1] += 1
        F.batch_norm(batch, self.mean.value, self.mean.spread, training=True)
        return super().forward(batch)


def values(model: nn.Module) -> dict[str, tuple[int, str]]:
    return {name: (id(each), str(each.tolist())) for name, each in model.named_buffers()}


@pytest.mark.parametrize("kind", METHODS.values(), ids=METHODS)
def test_buffers_are_as_they_were(kind):
    net = Counting(fitting(kind)).eval()
    before = values(net)
    kind(net)(images())
    assert values(net) == before
    with pytest.raises(ZeroDivisionError):
        kind(net)(images(), lambda output: 1 / 0)
    assert values(net) == before


def test_buffers_are_as_they_were_after_a_look_at_the_layers():
    net = Counting(pooled()).eval()
    before = values(net)
    layers.candidates(net, images(), 1)
    assert values(net) == before


class Keeping(Net):
    """Keeps tensors on itself and on its parts, and counts its calls."""

    def __init__(self, base: Net) -> None:
        super().__init__(base.features, base.tail)
        self.found, self.calls, self.length = None, 0, 0
        self.row, self.named = [], {"a": 3}

    def forward(self, batch: Tensor) -> Tensor:
        self.found = self.features(batch)
        self.calls += 1
        self.length = len(batch)
        self.row.append(self.found)
        self.named["b"] = (self.found,)
        self.features[0].seen = [{"deep": self.found}]
        self.new = self.found.mean()
        return self.tail(self.found)


def kept(net: Keeping) -> tuple[object, ...]:
    of_part = vars(net.features[0]).get("seen")
    return net.found, [*net.row], {**net.named}, of_part, vars(net).get("new"), net.length


@pytest.mark.parametrize("kind", METHODS.values(), ids=METHODS)
def test_tensors_that_a_model_keeps_are_those_that_were_there(kind):
    net = Keeping(fitting(kind)).eval()
    for _ in range(2):
        before = kept(net)
        containers = id(net.row), id(net.named)
        whole = snapshot(net)
        kind(net)(images())
        assert all(a is b or a == b for a, b in zip(kept(net), before, strict=True))
        assert (id(net.row), id(net.named)) == containers
        assert snapshot(net) == whole
        copy.deepcopy(net)
        pickle.dumps(net)
        with torch.no_grad():
            net(images())  # and once more, with something there
        assert net.found.numpy().any()


class Tabled(Net):
    """Keeps a table as long as the longest input so far, and its length."""

    def __init__(self, base: Net) -> None:
        super().__init__(base.features, base.tail)
        self.longest = 0
        self.register_buffer("table", torch.zeros(0), persistent=False)

    def forward(self, batch: Tensor) -> Tensor:
        if batch.shape[2] > self.longest:
            self.longest = batch.shape[2]
            self.table = torch.ones(self.longest)
        return super().forward(batch * self.table[: batch.shape[2], None])


def test_a_cache_and_its_length_go_back_together():
    base = pooled()
    net = Tabled(base).eval()
    torch.testing.assert_close(GradCAM(net, "features")(images()), GradCAM(base)(images()))
    assert (net.longest, len(net.table)) == (0, 0)
    torch.testing.assert_close(net(images()), base(images()))


def test_counters_stay():
    class Plain(Net):
        calls = 0

        def forward(self, batch: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(batch)

    net = Plain(pooled().features, pooled().tail).eval()
    GradCAM(net, "features")(images(1))
    assert net.calls == 1


def test_a_buffer_too_large_to_copy_is_told_of(monkeypatch):
    monkeypatch.setattr(copies, "_LARGE", 8)
    net = Counting(pooled()).eval()
    net.register_buffer("seen", torch.zeros(3))
    with pytest.warns(CamlibWarning, match=r"Counting changed its buffer 'seen' of shape \(3,\)"):
        ScoreCAM(net, "features")(images())
    assert net.replaced.item() == 0


def test_buffers_made_in_inference_mode_and_shared_ones():
    net = Counting(pooled()).eval()
    with torch.inference_mode():
        net.register_buffer("inferred", torch.ones(2))
        net.register_buffer("counted", torch.ones(2))
    net.inference = True
    net.mean.register_buffer("same", net.seen)
    before = values(net)
    GradCAM(net, "features")(images())
    assert values(net) == before


def test_calls_in_several_threads_put_back_what_was_there_before_the_first():
    net = Counting(pooled()).eval()
    before = values(net)
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with Undoing() as undo:
            put_back_state(undo, net)
            net(images())
            inside.set()
            leave.wait(5)

    first = Undoing()
    put_back_state(first, net)
    net(images())
    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(5)
    first.__exit__(None, None, None)
    leave.set()
    thread.join()
    assert values(net) == before


def test_nothing_is_written_where_nothing_changed():
    net = pooled()
    versions = [buffer._version for buffer in net.buffers()]
    with explaining(net, torch.device("cpu")):
        net(images())
    assert [buffer._version for buffer in net.buffers()] == versions


def test_parts_that_take_their_shape_from_the_first_call():
    head = nn.Sequential(nn.LazyConv2d(5, 3), nn.LazyBatchNorm2d(), nn.ReLU())
    net = Net(head, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(4))).eval()
    with pytest.raises(ModelError, match="a LazyConv2d of the model has no weights yet"):
        GradCAM(net, "features")(images(), 1)
    assert isinstance(net.features[0], nn.LazyConv2d)
    net(images())
    assert GradCAM(net, "features")(images(), 1).shape == (2, 8, 8)
