"""The contract, for every method: those of `METHODS`, and those that `docs/extending.md` writes.

What a test has to know of a method is an attribute of its class, so a new one needs no line here.
"""

from __future__ import annotations

import copy
import gc
import inspect
import pickle
import re
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
import torch
from extending import defined
from nets import Net, convolutional, fitting, images, pooled, transformer
from snapshot import snapshot
from torch import nn

from camlib import (
    METHODS,
    AblationCAM,
    Augmented,
    CamlibError,
    ClassAgnostic,
    GradCAM,
    GradientWeighted,
    LayerMethod,
    Method,
    Smooth,
    TargetError,
    layers,
)
from camlib.targets import Category

pytestmark = pytest.mark.filterwarnings("ignore:a map (at layer|of):camlib.CamlibWarning")


class SmoothCAM(Smooth):
    """Smooth of a map: of one that replays, at a layer that is found."""

    def __init__(self, model, layer=None):
        super().__init__(AblationCAM(model, layer), samples=4)


class AugmentedCAM(Augmented):
    """Augmented views of a map."""

    def __init__(self, model, layer=None):
        super().__init__(GradCAM(model, layer), scales=(1, 1.5))


KINDS = {
    **METHODS,
    "smooth": SmoothCAM,
    "augmented": AugmentedCAM,
    **{kind.name: kind for kind in defined(Method)},
}
DIFFERENTIABLE = [
    kind
    for kind in KINDS.values()
    if issubclass(kind, GradientWeighted | ClassAgnostic) and kind.looks
]


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def net(kind):
    return fitting(kind, 151)  # where every method finds something for every class


def assert_near(found, expected, tolerance=1e-5):
    scale = float(expected.abs().max())
    assert scale > 0
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * scale)


def takes(kind, option):
    return option in inspect.signature(kind).parameters


def of_the_logit(kind, net):
    """A method that asks for the logit of the class, where others would be asked for by default."""
    return kind(net, **{"score": "logit"} if takes(kind, "score") else {})


def at_features(kind, net):
    """A method at the layer that it would choose by itself in a plain network."""
    layered = issubclass(kind, LayerMethod)
    return kind(net, **{"layer": "features"} if layered else {})


def shape_of(method, *leading):
    return (*leading, *(() if method.scaled else (3,)), 8, 8)


def test_call_gives_a_plain_tensor_at_input_size(kind, net):
    method = kind(net)
    found = method(images())
    assert found.shape == shape_of(method, 2)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert found.grad_fn is None
    assert found.isfinite().all()
    if method.scaled:
        assert found.amin() == 0
        assert found.amax() == 1


def test_float64_stays_float64(kind, net):
    assert kind(net.double())(images().double()).dtype == torch.float64


def test_explanation_knows_everything_of_the_pass(kind, net):
    batch = images()
    method = kind(net)
    seen = method.explain(batch)
    output = net(batch).detach()
    torch.testing.assert_close(seen.output, output)  # attention is worked out another way
    if isinstance(method, LayerMethod) and not kind.asks:
        assert seen.target is None
        assert seen.score.shape == (2,)
        assert seen.score.isnan().all()
        seen = method.explain(batch, output.argmax(1))
    assert torch.equal(seen.target, output.argmax(1))
    torch.testing.assert_close(seen.score, output.amax(1))
    assert torch.equal(seen.heatmap, kind(net)(batch))
    assert not seen.output.requires_grad
    assert not seen.score.requires_grad
    assert kind.__name__ in repr(seen)
    if isinstance(method, LayerMethod):
        assert seen.layers == method.layers == ("features",)
    assert set(seen.layers) <= {name for name, _ in net.named_modules()}


def test_batch_equals_each_sample_alone(kind, net):
    batch = images(3)
    together = kind(net)(batch, target=[0, 1, 2])
    alone = [kind(net)(image[None], target=t) for t, image in enumerate(batch)]
    assert_near(together, torch.cat(alone))


def test_forms_of_a_target_agree(kind, net):
    method, batch = of_the_logit(kind, net), images()
    expected = method(batch, target=1)
    forms = [
        [1, 1],
        (1, 1),
        torch.tensor(1),
        torch.tensor([1, 1]),
        np.int64(1),
        np.array([1, 1]),
    ]
    forms += [[torch.tensor(1), np.int32(1)], Category(torch.tensor([1, 1]))]
    if kind.any_score:
        forms.append(lambda out: out[:, 1])
    for form in forms:
        assert_near(method(batch, target=form), expected)


def test_several_classes_equal_single_calls(kind, net):
    method, batch = kind(net), images()
    several = method(batch, target=[[0, 3, 1], [2, 0, 3]])
    assert several.shape == shape_of(method, 2, 3)
    for k, target in enumerate([[0, 2], [3, 0], [1, 3]]):
        assert_near(several[:, k], method(batch, target=target))
    for_all = method(batch, target=[[2, 1]])
    assert_near(for_all[:, 1], method(batch, target=1))


def test_predicted_class_is_the_default(kind, net):
    batch = images(4)
    assert_near(kind(net)(batch), kind(net)(batch, target=net(batch).argmax(1)))


class Failing(nn.Module):
    def forward(self, features):
        raise ArithmeticError("the model's own")


def prepared(net):
    """A network in the middle of training: mixed modes, gradients, frozen parts, hooks."""
    net.train()
    net.features[1].eval()
    net.features[0].weight.requires_grad_(False)
    net.tail[1].weight.grad = torch.ones_like(net.tail[1].weight)
    net.features.register_forward_hook(lambda *_: None)
    return net


def test_model_is_left_as_found(kind, net):
    prepared(net)
    before = snapshot(net)
    batch = images()
    kept = batch.clone()
    kind(net)(batch)
    assert snapshot(net) == before
    assert torch.equal(batch, kept)
    assert not batch.requires_grad
    assert batch.grad is None


def test_model_is_left_as_found_after_a_bad_target(kind, net):
    prepared(net)
    before = snapshot(net)
    with pytest.raises(TargetError, match="class 99 is out of range: the model has 4 classes"):
        kind(net)(images(), target=99)
    assert snapshot(net) == before


def test_model_is_left_as_found_when_it_fails(kind, net):
    method = kind(net)
    method(images())
    net.tail.append(Failing())
    prepared(net)
    before = snapshot(net)
    with pytest.raises(ArithmeticError, match="the model's own"):
        method(images())
    assert snapshot(net) == before


def test_model_that_draws_random_numbers_leaves_them_as_found(kind):
    class Noisy(nn.Module):
        def forward(self, features):
            return features + 0 * torch.rand_like(features)

    base = fitting(kind)
    net = Net(base.features, nn.Sequential(*base.tail, Noisy())).eval()
    before = snapshot(net)
    at_features(kind, net)(images())
    assert snapshot(net) == before


def test_user_gradients_survive_a_call_between_forward_and_backward(kind, net):
    batch = images()
    net.train()
    expected = torch.autograd.grad(net(batch).sum(), list(net.parameters()))
    loss = net(batch).sum()
    kind(net)(batch)
    found = torch.autograd.grad(loss, list(net.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_training_mode_gives_the_same_map(kind, net):
    expected = kind(net)(images())
    assert_near(kind(net.train())(images()), expected)
    assert net.training
    assert net.features[1].training


def test_frozen_model_gives_the_same_map(kind, net):
    expected = kind(net)(images())
    assert_near(kind(net.requires_grad_(False))(images()), expected)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_grad_mode_of_the_caller_does_not_matter(kind, net, context):
    expected = kind(net)(images())
    with context():
        found = kind(net)(images())
        several = kind(net)(images(), target=[[0, 1]])
        assert torch.is_grad_enabled() == (context is torch.enable_grad)
    assert_near(found, expected)
    assert_near(several, kind(net)(images(), target=[[0, 1]]))


def test_inputs_made_in_inference_mode(kind, net):
    expected = kind(net)(images())
    with torch.inference_mode():
        batch = images() + 0
    assert_near(kind(net)(batch), expected)


def test_bfloat16_model(kind, net):
    expected = kind(net)(images(), target=1)
    found = kind(net.bfloat16())(images().bfloat16(), target=1)
    assert found.dtype == torch.float32
    assert torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1] > 0.98


def test_half_precision_model(kind, net):
    expected = kind(net)(images(), target=1)
    found = kind(net.half())(images().half(), target=1)
    assert found.dtype == torch.float32
    assert torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1] > 0.99


def test_autocast(kind, net):
    expected = kind(net)(images(), target=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = kind(net)(images(), target=1)
        net(images()).sum().backward()
    assert found.dtype == torch.float32
    assert torch.corrcoef(torch.stack([found.flatten(), expected.flatten()]))[0, 1] > 0.98
    # Weights cast without a graph must not be left in autocast's cache.
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_model_cold_and_warm(kind, net):
    expected = kind(net)(images())
    compiled = torch.compile(net, backend="eager")
    assert_near(kind(compiled)(images()), expected)
    compiled(images())
    assert_near(kind(compiled)(images()), expected)
    inner = copy.deepcopy(net)
    inner.features = torch.compile(inner.features, backend="eager")
    inner.tail.compile(backend="eager")
    inner(images())
    assert_near(at_features(kind, inner)(images()), expected)
    torch.testing.assert_close(inner(images()), net(images()))


def test_data_parallel(kind, net):
    expected = kind(net)(images())
    assert_near(kind(nn.DataParallel(net))(images()), expected)


@pytest.fixture(scope="module")
def process_group(tmp_path_factory):
    store = tmp_path_factory.mktemp("gloo") / "store"
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_distributed_data_parallel(kind, net):
    expected = kind(net)(images())
    wrapped = nn.parallel.DistributedDataParallel(net)
    before = snapshot(wrapped)
    assert_near(kind(wrapped)(images()), expected)
    assert snapshot(wrapped) == before


def test_threads_share_a_model(kind, net):
    net.train()
    before = snapshot(net)
    batches = [images(seed=seed) for seed in range(4)]
    method = kind(net)
    expected = [method(batch, target=1) for batch in batches]
    start = threading.Barrier(4)

    def explain(batch):
        with suppress(threading.BrokenBarrierError):
            start.wait(timeout=1)
        return method(batch, target=1)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(explain, batches))
    for one, other in zip(found, expected, strict=True):
        assert_near(one, other)
    assert snapshot(net) == before


def test_pickle_and_deepcopy(kind, net):
    method = kind(net)
    expected = method(images())
    assert_near(pickle.loads(pickle.dumps(method))(images()), expected)
    twin = copy.deepcopy(method)
    assert twin.model is not net
    assert_near(twin(images()), expected)


def test_nothing_holds_the_model(kind):
    net = fitting(kind)
    method = kind(net)
    seen = method.explain(images())
    gone = weakref.ref(net)
    del net, method
    gc.collect()
    assert gone() is None
    assert seen.heatmap is not None


def test_with_is_accepted_and_lets_errors_pass(kind, net):
    with kind(net) as method:
        method(images())
    with pytest.raises(IndexError, match="mine"), kind(net):
        raise IndexError("mine")


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_series_images_and_volumes(kind, axes):
    net = fitting(kind, axes=axes)
    size = (8, 4, 6)[:axes]
    found = kind(net)(images(2, *size))
    assert found.shape[-axes:] == size
    assert found.shape[0] == 2


def test_memory_layout_does_not_matter(kind, net):
    expected = kind(net)(images())
    channels_last = images().to(memory_format=torch.channels_last)
    assert_near(kind(net.to(memory_format=torch.channels_last))(channels_last), expected)


def test_tuple_and_mapping_inputs(kind, net):
    class Two(Net):
        def forward(self, images, scale):
            return super().forward(images) * scale

    model = Two(net.features, net.tail).eval()
    method = of_the_logit(kind, net)
    plain = method(images(), target=1)
    scale = torch.tensor([[2.0], [3.0]]) if kind.linear else torch.ones(2, 1)
    found = of_the_logit(kind, model)((images(), scale), target=1)
    named = of_the_logit(kind, model)({"scale": scale, "images": images()}, target=1)
    assert_near(named, found)
    assert_near(found, plain if method.scaled else plain * scale[:, :, None, None])


def test_bad_inputs(kind, net):
    method = kind(net)
    with pytest.raises(CamlibError, match=r"expected images as a floating-point tensor .* got str"):
        method("cat.png")
    with pytest.raises(CamlibError, match=r"got a uint8 tensor of shape \(2, 3, 8, 8\)"):
        method(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(CamlibError, match=r"the images are empty: shape \(0, 3, 8, 8\)"):
        method(images()[:0])


def test_model_that_is_none(kind):
    with pytest.raises(CamlibError, match=r"expected a torch.nn.Module as the model, got function"):
        kind(lambda x: x)


@pytest.mark.filterwarnings("ignore:FullGrad does not:camlib.CamlibWarning")
def test_model_that_changes_its_input_in_place(kind):
    class InPlace(Net):
        def forward(self, batch):
            return super().forward(batch.mul_(2).sub_(1))

    base, batch = fitting(kind, 6), images()
    method = kind(InPlace(base.features, base.tail).eval())
    expected = method(batch, target=1)
    assert torch.equal(batch, images())
    assert torch.equal(method(batch, target=1), expected)
    assert expected.abs().sum() > 0


@pytest.mark.filterwarnings("ignore:FullGrad does not:camlib.CamlibWarning")
def test_second_call_gives_the_same(kind):
    method = kind(transformer() if kind.needs_attention else pooled(in_place=True))
    first = method(images(), target=1)
    assert torch.equal(method(images(), target=1), first)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_what_the_cpu_gives(kind, net):
    batch = images()
    expected = kind(net)(batch, target=1)
    state = torch.cuda.get_rng_state()
    found = kind(net.cuda())(batch.cuda(), target=1)
    assert found.is_cuda
    assert torch.equal(torch.cuda.get_rng_state(), state)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", DIFFERENTIABLE, ids=lambda kind: kind.__name__)
def test_heatmap_can_stand_in_a_loss(kind):
    net = convolutional().double()
    method = kind(net, "features", differentiable=True)
    batch = images().double().requires_grad_()
    heatmap = method(batch, target=2)
    torch.testing.assert_close(heatmap.detach(), kind(net, "features")(batch, target=2))

    def loss(pixels):
        return (method(pixels, target=2, normalize=False, relu=False) ** 2).sum()

    [gradient] = torch.autograd.grad(loss(batch), batch)
    step = torch.zeros_like(batch)
    step[1, 2, 3, 4] = 1e-6
    numeric = (loss(batch + step) - loss(batch - step)) / 2e-6
    torch.testing.assert_close(gradient[1, 2, 3, 4], numeric, rtol=1e-4, atol=1e-6)
    loss(images().double()).backward()
    assert net.features[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", METHODS.values(), ids=METHODS)
def test_docstring_gives_the_source_a_weakness_and_the_cost(kind):
    source = r"arXiv:\d{4}\.\d{4,5}|doi:10\.|A baseline with no paper"
    assert re.search(source, inspect.getdoc(kind))
    assert re.search(r"[Ww]eak|not an explanation|fails|no paper", inspect.getdoc(kind))
    assert "forward" in kind.cost


def test_model_is_found_through_names():
    net = pooled()
    assert layers.names(net, ["features", net.tail]) == ("features", "tail")
