"""Every method in many surroundings: the same map, and the model as found.

A method meets some of them by default, and all with ``CAMLIB_TRIALS`` above 1.
"""

from __future__ import annotations

import copy
import gc
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from nets import Net, fitting, images
from snapshot import snapshot
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from camlib import METHODS

pytestmark = [
    pytest.mark.filterwarnings("ignore:a map (at layer|of):camlib.CamlibWarning"),
    pytest.mark.filterwarnings("ignore:FullGrad does not:camlib.CamlibWarning"),
    pytest.mark.filterwarnings("ignore:integrated gradients with:camlib.CamlibWarning"),
]

Call = Callable[[nn.Module, Tensor], Tensor]


class Calls(TorchFunctionMode):
    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Operators(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class deterministic:
    def __enter__(self) -> None:
        torch.use_deterministic_algorithms(True)

    def __exit__(self, *_: object) -> None:
        torch.use_deterministic_algorithms(False)


class without_collector:
    def __enter__(self) -> None:
        gc.disable()

    def __exit__(self, *_: object) -> None:
        gc.enable()


CONTEXTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "enable_grad": torch.enable_grad,
    "anomalies detected": lambda: torch.autograd.set_detect_anomaly(True),
    "one autograd thread": lambda: torch.autograd.set_multithreading_enabled(False),
    "saved on the CPU": torch.autograd.graph.save_on_cpu,
    "mode of functions": Calls,
    "mode of operators": Operators,
    "record of a profiler": lambda: torch.autograd.profiler.record_function("call"),
    "deterministic algorithms": deterministic,
    "garbage collector off": without_collector,
    "autocast switched off": lambda: torch.autocast("cpu", enabled=False),
    "default device": lambda: torch.device("cpu"),
}


def in_context(name: str) -> Callable[[Call, Net, Tensor], Tensor]:
    def use(call: Call, net: Net, batch: Tensor) -> Tensor:
        with CONTEXTS[name]():
            return call(net, batch)

    return use


def hooked(call: Call, net: Net, batch: Tensor) -> Tensor:
    for module in net.modules():
        module.register_forward_hook(lambda *_: None)
        module.register_forward_pre_hook(lambda *_: None)
    return call(net, batch)


def in_a_tensor_hook(call: Call, net: Net, batch: Tensor) -> Tensor:
    maps: list[Tensor] = []
    weight = torch.ones(1, requires_grad=True)
    product = weight * 2
    product.register_hook(lambda _: maps.append(call(net, batch)))
    product.sum().backward()
    return maps[0]


def in_a_hook_of_another_model(call: Call, net: Net, batch: Tensor) -> Tensor:
    maps: list[Tensor] = []
    other = nn.Linear(2, 2)
    other.register_forward_hook(lambda *_: maps.append(call(net, batch)))
    other(torch.ones(1, 2))
    return maps[0]


def in_a_thread(call: Call, net: Net, batch: Tensor) -> Tensor:
    maps: list[Tensor] = []
    thread = threading.Thread(target=lambda: maps.append(call(net, batch)))
    thread.start()
    thread.join()
    return maps[0]


def in_a_generator(call: Call, net: Net, batch: Tensor) -> Tensor:
    return next(call(net, batch) for _ in range(2))


def with_another_forward(call: Call, net: Net, batch: Tensor) -> Tensor:
    before = net.forward
    net.forward = lambda batch: before(batch)
    found = call(net, batch)
    del net.forward
    return found


def of_a_copy(call: Call, net: Net, batch: Tensor) -> Tensor:
    return call(copy.deepcopy(net), batch)


def of_an_average(call: Call, net: Net, batch: Tensor) -> Tensor:
    return call(torch.optim.swa_utils.AveragedModel(net).module, batch)


def with_a_parametrization(call: Call, net: Net, batch: Tensor) -> Tensor:
    parametrizations.weight_norm(net.tail[-1])
    return call(net, batch)


def pruned(call: Call, net: Net, batch: Tensor) -> Tensor:
    prune.identity(net.features[0], "weight")
    return call(net, batch)


def with_a_checkpoint(call: Call, net: Net, batch: Tensor) -> Tensor:
    inner = net.features[2]
    before = inner.forward
    inner.forward = lambda values: checkpoint(before, values, use_reentrant=False)
    found = call(net, batch)
    del inner.forward
    return found


def frozen(call: Call, net: Net, batch: Tensor) -> Tensor:
    return call(net.requires_grad_(False), batch)


def between_forward_and_backward(call: Call, net: Net, batch: Tensor) -> Tensor:
    loss = net.eval()(batch).sum()  # in training, it would change the statistics
    found = call(net, batch)
    loss.backward()
    net.zero_grad()
    return found


def of_inputs_with_a_gradient(call: Call, net: Net, batch: Tensor) -> Tensor:
    leaf = batch.clone().requires_grad_()
    found = call(net, leaf)
    assert leaf.grad is None
    return found


def of_results_with_a_graph(call: Call, net: Net, batch: Tensor) -> Tensor:
    return call(net, batch.clone().requires_grad_() * 1)


def of_strided_inputs(call: Call, net: Net, batch: Tensor) -> Tensor:
    return call(net, batch.mT.contiguous().mT)


def of_a_view(call: Call, net: Net, batch: Tensor) -> Tensor:
    return call(net, torch.cat([batch, batch])[1:3].roll(1, 0))


def of_inputs_in_inference_mode(call: Call, net: Net, batch: Tensor) -> Tensor:
    with torch.inference_mode():
        made = batch.clone()
    return call(net, made)


def after_a_failed_call(call: Call, net: Net, batch: Tensor) -> Tensor:
    with pytest.raises(Exception, match=r"."):
        call(net, batch[:, :1])
    return call(net, batch)


def in_the_depths(call: Call, net: Net, batch: Tensor, depth: int = 300) -> Tensor:
    return in_the_depths(call, net, batch, depth - 1) if depth else call(net, batch)


USES = [
    hooked,
    in_a_tensor_hook,
    in_a_hook_of_another_model,
    in_a_thread,
    in_a_generator,
    with_another_forward,
    of_a_copy,
    of_an_average,
    with_a_parametrization,
    pruned,
    with_a_checkpoint,
    frozen,
    between_forward_and_backward,
    of_inputs_with_a_gradient,
    of_results_with_a_graph,
    of_strided_inputs,
    of_a_view,
    of_inputs_in_inference_mode,
    after_a_failed_call,
    in_the_depths,
]
SURROUNDINGS = {use.__name__: use for use in USES} | {name: in_context(name) for name in CONTEXTS}


GUIDED = METHODS["guided_backprop"], METHODS["guided_grad_cam"]


@pytest.mark.filterwarnings("ignore:Detected call of:UserWarning")
@pytest.mark.parametrize("kind", METHODS.values(), ids=METHODS)
def test_surroundings(kind, trials, count):
    batch, met = images(), 0
    first = [*METHODS.values()].index(kind)
    expected = kind(fitting(kind))(batch, 1)
    for name in [*SURROUNDINGS][first % 6 :: 6] if trials == 1 else SURROUNDINGS:
        if name == "with_a_checkpoint" and kind in GUIDED:
            continue  # an error says so
        net = fitting(kind).train()
        changed: list[Any] = []

        def call(model: nn.Module, given: Tensor, changed: list[Any] = changed) -> Tensor:
            before = snapshot(model)
            try:
                return kind(model)(given, 1)
            finally:
                changed.append(
                    [key for key, value in snapshot(model).items() if value != before[key]]
                )

        found = SURROUNDINGS[name](call, net, batch)
        scale = float(expected.abs().max())
        torch.testing.assert_close(
            found, expected, rtol=1e-5, atol=1e-5 * scale, msg=lambda told, n=name: f"{n}: {told}"
        )
        assert not any(changed), (name, changed)
        met += 1
    count("methods in some surroundings", met)
