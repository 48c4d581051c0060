"""Every method, in circumstances that models and processes are found in."""

from __future__ import annotations

import inspect
import warnings
from collections import OrderedDict, deque
from collections.abc import Iterator, MutableMapping
from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
import torch.ao.quantization
from nets import Net, convolutional, fitting, images, pooled, spread
from snapshot import snapshot
from torch import Tensor, nn
from torch.nn.utils import parametrize

from camlib import (
    METHODS,
    AblationCAM,
    AttentionMethod,
    CamlibError,
    ClassAgnostic,
    GradCAM,
    GraphError,
    HiResCAM,
    InputError,
    LayerCAM,
    ReciproCAM,
    ScoreCAM,
    layers,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:a map (at layer|of):camlib.CamlibWarning"),
    pytest.mark.filterwarnings("ignore:FullGrad does not:camlib.CamlibWarning"),
    pytest.mark.filterwarnings("ignore:integrated gradients with:camlib.CamlibWarning"),
]


@pytest.fixture(params=METHODS.values(), ids=METHODS)
def kind(request):
    return request.param


def all_but(*others: str) -> pytest.MarkDecorator:
    """For every method except the `others`."""
    kinds = {name: kind for name, kind in METHODS.items() if name not in others}
    return pytest.mark.parametrize("kind", kinds.values(), ids=kinds)


OF_CLASSES = ("cam", "group_cam")
"""Methods that take classes alone as targets."""


def assert_near(found: Tensor, expected: Tensor) -> None:
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * scale)


def test_default_dtype(kind):
    net, batch = fitting(kind), images()
    expected = kind(net)(batch, 1)
    torch.set_default_dtype(torch.float64)
    try:
        found = kind(net)(batch, 1)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_near(found, expected)


def test_default_device(kind):
    net, batch = fitting(kind), images()
    for target in (1, None, [1, 2]):
        expected = kind(net)(batch, target)
        with torch.device("meta"):  # what is made there by default holds nothing
            found = kind(net)(batch, target)
        assert_near(found, expected)


def test_inference_mode_gives_plain_tensors(kind):
    method, batch = kind(fitting(kind)), images()
    with torch.inference_mode():
        seen = method.explain(batch, 1)
    for found in (seen.heatmap, seen.map, seen.score, *seen.maps):
        assert not found.is_inference()


@pytest.mark.parametrize("training", [True, False])
@all_but(*OF_CLASSES)
def test_a_target_that_runs_the_model(kind, training):
    net, batch, other = fitting(kind), images(), images(seed=9)
    with torch.no_grad():
        kept = net(other[:1])
    net.train(training)
    calls = []

    def compared(output):
        calls.append(len(output))
        return (output * net(other[:1].expand(len(output), -1, -1, -1))).sum(1)

    expected = kind(net)(batch, lambda output: (output * kept).sum(1))
    assert_near(kind(net)(batch, compared), expected)
    assert calls
    assert net.training == training


@all_but(*OF_CLASSES)
def test_a_target_that_explains_the_model(kind):
    net, batch = fitting(kind).train(), images()
    before = snapshot(net)

    def weighed(output):
        weight = GradCAM(net, "features.0")(batch[:1], 2).mean()
        return output[:, 1] * weight

    weight = GradCAM(net, "features.0")(batch[:1], 2).mean()
    expected = kind(net)(batch, lambda output: output[:, 1] * weight)
    assert_near(kind(net)(batch, weighed), expected)
    assert snapshot(net) == before


class Positions(Net):
    """Adds what it owns, passed through a module that does not own it."""

    def __init__(self, base: Net, *, buffer: bool) -> None:
        super().__init__(base.features, base.tail)
        shift = torch.linspace(0, 1, 6 * 16).reshape(1, 6, 4, 4)
        if buffer:
            self.register_buffer("shift", shift)
        else:
            self.shift = nn.Parameter(shift, requires_grad=False)
        self.plain, self.held = torch.ones(1, 6, 4, 4), [torch.ones(1, 6, 4, 4)]
        self.drop, self.same = nn.Dropout(0.5), nn.ModuleList(nn.Identity() for _ in range(3))

    def forward(self, batch: Tensor) -> Tensor:
        found = self.same[0](self.features(batch)) + self.drop(self.shift)
        found = found + self.same[1](self.plain) + self.same[2](self.held[0])
        return self.tail(found)


@pytest.mark.parametrize("buffer", [True, False])
@pytest.mark.parametrize("layer", ["drop", "same.1", "same.2", None])
def test_what_the_model_owns_is_never_marked(buffer, layer):
    net = Positions(pooled(), buffer=buffer).requires_grad_(False).eval()
    net.train()
    for count in (1, 2):
        for kind in (GradCAM, HiResCAM, LayerCAM):
            with suppress(CamlibError):
                kind(net, layer)(images(count), 1)
        layers.candidates(net, images(count), 1)
        for owned in (net.shift, net.plain, net.held[0]):
            assert not owned.requires_grad


OBSERVERS = (
    torch.ao.quantization.MinMaxObserver,
    torch.ao.quantization.PerChannelMinMaxObserver,
    torch.ao.quantization.MovingAverageMinMaxObserver,
    torch.ao.quantization.HistogramObserver,
)


class Observed(Net):
    """Calibrates as it runs."""

    def __init__(self, base: Net, observer: type[nn.Module]) -> None:
        super().__init__(base.features, base.tail)
        per_channel = {"ch_axis": 1} if "Channel" in observer.__name__ else {}
        self.observer = observer(**per_channel)

    def forward(self, batch: Tensor) -> Tensor:
        return self.tail(self.observer(self.features(batch)))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("calibrated", [True, False])
@pytest.mark.parametrize("observer", OBSERVERS, ids=lambda observer: observer.__name__)
def test_observers_keep_their_calibration(observer, calibrated):
    net, batch = Observed(pooled(), observer), images()
    if calibrated:
        net(batch / 2)
    before = {name: value.clone() for name, value in net.observer.state_dict().items()}
    names = {name: id(value) for name, value in net.observer.named_buffers()}
    for kind in (GradCAM, ScoreCAM, AblationCAM):
        kind(net, "features")(3 * batch, 1)
        assert {name: id(value) for name, value in net.observer.named_buffers()} == names
        for name, value in net.observer.state_dict().items():
            assert torch.equal(value, before[name]), name


class Cached(Net):
    """Keeps what it makes of a weight in evaluation mode, as LeViT does its biases."""

    def __init__(self, base: Net) -> None:
        super().__init__(base.features, base.tail)
        self.bias, self.cache, self.deep = nn.Parameter(torch.zeros(6, 1, 1)), {}, {"a": [{}]}
        self.orders, self.rows = OrderedDict(), deque(maxlen=3)
        self.count, self.several = torch.zeros(2), {torch.zeros(1)}
        self.state = SimpleNamespace(last=None)

    def forward(self, batch: Tensor) -> Tensor:
        if self.training:
            bias = self.bias * 2
        else:
            if "bias" not in self.cache:
                self.cache["bias"] = self.bias * 2
            bias = self.cache["bias"]
        found = self.features(batch) + bias
        self.deep["a"][0]["found"] = (found,)
        self.orders["found"] = self.state.last = found
        self.rows.append(found)
        self.several.add(found)
        self.count += 1
        return self.tail(found)


@all_but("cam", *(name for name, kind in METHODS.items() if issubclass(kind, AttentionMethod)))
def test_caches_and_tensors_in_containers(kind):
    net, batch = Cached(pooled()).train(), images()
    for _ in range(2):
        kind(net)(batch, 1)
        assert (net.cache, net.deep, net.orders) == ({}, {"a": [{}]}, OrderedDict())
        assert not net.rows and len(net.several) == 1 and net.state.last is None
        assert not net.count.any()
    net(batch).sum().backward()
    assert net.bias.grad.any()


def test_weights_that_are_made_again_keep_their_graph():
    net, batch = pooled(), images()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(net.tail[1])
        nn.utils.spectral_norm(net.features[0])
    net.train()
    kept = net.tail[1].weight, net.features[0].weight
    GradCAM(net, "features")(batch, 1)
    assert kept[0] is net.tail[1].weight
    assert kept[1] is net.features[0].weight
    with parametrize.cached():
        parametrized = nn.utils.parametrizations.weight_norm(pooled().tail[1])
        net.tail[1] = parametrized
        ScoreCAM(net, "features")(batch, 1)
        net(batch).sum().backward()
        GradCAM(net, "features")(batch, 1)
    assert all(p.grad is not None and p.grad.any() for p in parametrized.parameters())


def test_weights_that_are_given_other_data():
    class Bounded(nn.Conv2d):
        def forward(self, batch: Tensor) -> Tensor:
            self.weight.data = torch.renorm(self.weight.data, 2, 0, 0.1)
            return super().forward(batch)

    net = pooled()
    net.features[0] = Bounded(3, 5, 3, padding=1)
    before = snapshot(net)
    GradCAM(net, "features")(images(), 1)
    AblationCAM(net, "features")(images(), 1)
    assert snapshot(net) == before


def test_parts_that_are_built_on_the_way():
    class Building(Net):
        def forward(self, batch: Tensor) -> Tensor:
            found = self.features(batch)
            if "head" not in self._modules:
                self.add_module("head", nn.Linear(6, 4))
                self.extra = nn.Parameter(torch.ones(4))
            return self._modules["head"](found.mean((2, 3))) * self.extra

    net = Building(pooled().features, nn.Identity()).eval()
    before = snapshot(net)
    GradCAM(net, "features")(images(), 1)
    assert snapshot(net) == before


class Inner(MutableMapping):
    """Holds its items in something of its own."""

    def __init__(self, **items: object) -> None:
        self.inner = {"deep": items}

    def __getitem__(self, key: str) -> object:
        return self.inner["deep"][key]

    def __setitem__(self, key: str, value: object) -> None:
        self.inner["deep"][key] = value

    def __delitem__(self, key: str) -> None:
        del self.inner["deep"][key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.inner["deep"])

    def __len__(self) -> int:
        return len(self.inner["deep"])


class Mapped(Net):
    """Takes and returns mappings."""

    def forward(self, given: Inner) -> Inner:
        self.seen = given
        return Inner(logits=self.tail(self.features(given["pixels"])))


def test_mappings_that_hold_their_items_inside(kind):
    base, batch = fitting(kind), images()
    net, kept = Mapped(base.features, base.tail).eval(), batch.clone()
    given = Inner(pixels=batch)
    seen = kind(net).explain((given,), 1)
    assert given["pixels"] is batch
    assert torch.equal(batch, kept) and not batch.requires_grad
    assert not seen.output["logits"].requires_grad
    assert_near(seen.heatmap, kind(base)(batch, 1))


class Turned(nn.Module):
    """Tokens that become a grid, whose strides for one sample are those of channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)

    def forward(self, batch: Tensor) -> Tensor:
        found = self.conv(batch)
        tokens = found.flatten(2).mT.contiguous()
        grid = tokens.mT.unflatten(2, found.shape[2:])
        return self.head(self.norm(grid).relu().mean((2, 3)))


@pytest.mark.parametrize("name", ["saliency", "grad_cam", "guided_backprop", "hires_cam"])
def test_batch_norm_of_one_sample_on_a_cpu(name):
    net, batch, kind = spread(Turned()), images(2), METHODS[name]
    layer = () if "layer" not in inspect.signature(kind).parameters else ("conv",)
    together = kind(net, *layer)(batch, 1)
    alone = torch.cat([kind(net, *layer)(image[None], 1) for image in batch])
    assert_near(alone, together)


class Forked(Net):
    """Takes another way for bright images, past parts that the other does not need."""

    def __init__(self, base: Net) -> None:
        super().__init__(base.features, base.tail)
        self.beside = nn.Conv2d(3, 6, 3, stride=2, padding=1)

    def forward(self, batch: Tensor) -> Tensor:
        beside = self.beside(batch)
        found = self.features(batch)
        if batch.mean() > 1:
            found = found + beside
        return self.tail(found)


@pytest.mark.parametrize("kind", [AblationCAM, ReciproCAM])
def test_another_way_for_another_input(kind):
    net = spread(Forked(convolutional()))
    method = kind(net, "features.3")
    for batch in (images(), images() + 3, images(), images() + 3):
        assert_near(method(batch, 1), kind(net, "features.3")(batch, 1))


def test_a_score_that_is_not_a_number_is_told(kind):
    net, batch = fitting(kind), images()
    nothing = torch.full((), torch.nan)
    if kind not in (METHODS["cam"], METHODS["group_cam"]):
        with pytest.raises(CamlibError):
            kind(net)(batch, lambda output: output[:, 1] * nothing)
    batch[0, 0, 2, 2] = torch.nan
    if not issubclass(kind, ClassAgnostic) or kind is METHODS["eigen_cam"]:
        error = CamlibError if kind is METHODS["cam"] else InputError
        with pytest.raises(error, match="needs global" if kind is METHODS["cam"] else "not finite"):
            kind(net)(batch, 1)


MEMORY = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory."),
    "cpu": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    "windows": RuntimeError(
        "DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"
    ),
    "mps": RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    "cudnn": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "python": MemoryError(),
}
BATCHED = {
    "score_cam": {"batch_size": 4},
    "ablation_cam": {"batch_size": 4, "layer": "features"},
    "occlusion": {"batch_size": 4},
    "smooth_grad": {"samples": 6, "batch_size": 4},
    "integrated_gradients": {"steps": 6, "batch_size": 4},
    "expected_gradients": {"samples": 6, "batch_size": 4},
    "smooth_full_grad": {"samples": 6, "batch_size": 4},
    "smooth_grad_cam_plus_plus": {"samples": 6, "batch_size": 4},
    "integrated_grad_cam": {"steps": 6, "batch_size": 4},
}


@pytest.mark.filterwarnings("ignore:out of memory with:camlib.CamlibWarning")
@pytest.mark.parametrize("name", BATCHED)
@pytest.mark.parametrize("error", MEMORY.values(), ids=MEMORY)
def test_out_of_memory_is_halved(name, error):
    if name == "ablation_cam":
        net, part = convolutional(), 2
    else:
        net, part = pooled(), 0
    batch, most = images(1), []
    expected = METHODS[name](net, **BATCHED[name])(batch, 1)

    def full(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        most.append(len(args[0]))
        if len(args[0]) > 2:
            raise error

    (net.tail if part else net).register_forward_pre_hook(full)
    assert_near(METHODS[name](net, **BATCHED[name])(batch, 1), expected)
    assert max(most) > 2


def test_a_model_made_in_inference_mode():
    with torch.inference_mode():
        net = pooled()
    with pytest.raises(GraphError, match=r"created under torch.inference_mode\(\)"):
        GradCAM(net, "features.1")(images(), 1)
    assert ScoreCAM(net, "features")(images(), 1).any()


def test_images_on_the_meta_device():
    with pytest.raises(InputError, match="on the meta device and have no values"):
        GradCAM(pooled())(images().to("meta"), 1)


class Picture(Tensor):
    """A tensor that knows more, as those of MONAI and fastai."""


class Wrapping(Net):
    """Makes tensors of a class of its own on the way."""

    def forward(self, batch: Tensor) -> Tensor:
        return self.tail(self.features(batch.as_subclass(Picture)))


def test_tensors_of_another_class(kind):
    base, batch = fitting(kind), images()
    expected = kind(base).explain(batch, 1)
    found = kind(Wrapping(base.features, base.tail).eval()).explain(batch.as_subclass(Picture), 1)
    if kind is not METHODS["group_cam"]:  # which finds nothing here
        assert_near(found.heatmap, expected.heatmap)
    for tensor in (found.heatmap, found.map, found.score, found.output, *found.maps):
        assert type(tensor) is Tensor


def test_a_call_inside_of_vmap_is_refused():
    cam = GradCAM(pooled(), "features")
    with pytest.raises(InputError, match=r"inside torch\.vmap"):
        torch.vmap(lambda image: cam(image[None], 1))(images())


def test_a_call_inside_of_a_compiled_function(kind):
    method, batch = kind(fitting(kind)), images()
    expected = method(batch, 1)
    compiled = torch.compile(lambda image: method(image * 1, 1) + 1, backend="eager")
    for _ in range(2):
        assert_near(compiled(batch) - 1, expected)
