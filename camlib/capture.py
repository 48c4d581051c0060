"""Reading layers' outputs, and the gradients of scores with respect to them, in one forward pass.

Hooks live for the length of a `with` block and are gone when it ends, however it ends: a method
object leaves nothing on the model. Three facts about PyTorch shape the rest.

* An in-place layer may overwrite the output (``nn.ReLU(inplace=True)``). The hook keeps the output
  and hands a copy on, or values and gradient would silently be those of the next layer.
* Nothing before the layer needs a graph. The pass starts without one and the hook starts it, which
  saves most of the memory and lets frozen models and callers under ``no_grad`` work.
* Hooks belong to the model, so a pass in another thread would call ours: the hook checks.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from camlib.errors import GraphError, LayerError, warn
from camlib.gradients import gradients
from camlib.layers import Layer, find

Graph = Literal["none", "tail", "whole"]
"""What autograd records: nothing; from the layers on; from the inputs on."""


class Capture:
    """What a forward pass left at the captured layers.

    Attributes:
        names: dotted names of the layers, in the order they were asked for.
        calls: how often each of them ran.
        interrupted: whether the model itself switched grad mode off after a layer, so that part of
            the graph is missing.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.calls = dict.fromkeys(names, 0)
        self.interrupted = False
        self._outputs: dict[str, tuple[Tensor, int]] = {}
        self._passed_on: dict[str, Tensor] = {}

    @property
    def aliased(self) -> str | None:
        """The layer that returned its own input, if what followed changed its output in place."""
        changed = [name for name, tensor in self._passed_on.items() if tensor._version]
        return changed[0] if changed else None

    def activations(self) -> list[Tensor]:
        """The output of each layer, of its last call if it was called more than once.

        Raises:
            LayerError: a layer did not run, or its output was overwritten.
        """
        for name in self.names:
            if name not in self._outputs:
                raise LayerError(
                    f"layer {name!r} did not run in the forward pass; choose one that does"
                )
            tensor, version = self._outputs[name]
            if not tensor.is_inference() and tensor._version != version:
                raise LayerError(
                    f"the output of layer {name!r} was overwritten in place through another name "
                    "after it ran; choose the layer before or after it"
                )
        return [self._outputs[name][0] for name in self.names]

    def warn_of_repeats(self) -> None:
        """A warning for each layer that ran more than once: its map is of the last call."""
        for name, calls in self.calls.items():
            if calls > 1:
                warn(f"layer {name!r} ran {calls} times in one pass; the map is of its last call")

    def gradients(self, scores: Tensor, *, create_graph: bool = False) -> Iterator[list[Tensor]]:
        """The gradients of `scores` ``(N, K)`` at each layer, as `gradients` has them.

        Raises:
            LayerError: a layer did not run.
            GraphError: a score does not depend on a layer, as far as autograd can see.
        """
        return gradients(scores, self.activations(), self.names, create_graph=create_graph)


@contextmanager
def capture(
    model: nn.Module, layers: Sequence[Layer], *, graph: Graph = "tail"
) -> Iterator[Capture]:
    """Read `layers` of `model` during the forward pass in the block.

    Args:
        model: the model, or the part of it that will be called.
        layers: modules of `model`, or their dotted names.
        graph: ``"tail"`` for gradients at the layers, ``"whole"`` for a loss on the map itself or
            for gradients at the inputs, ``"none"`` for values alone.

    Example:
        >>> with capture(model, ["layer4"]) as seen:
        ...     scores = model(images)[:, [207, 281]]
        ...     [[gradient]] = seen.gradients(scores)           # (2, N, C, h, w)
    """
    found = [find(model, layer) for layer in layers]
    seen = Capture(tuple(name for name, _ in found))
    thread = threading.get_ident()

    def hook_for(name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            if threading.get_ident() != thread:
                return None
            where, tensor = _activation(name, output)
            seen.calls[name] += 1
            if tensor.is_inference():
                if graph != "none":
                    raise GraphError(
                        f"layer {name!r} runs under inference_mode() in the model itself, where "
                        "nothing has a gradient; use no_grad() there, or choose a later layer"
                    )
                seen._outputs[name] = tensor.clone(), 0
                return None
            if graph != "none":
                seen.interrupted |= bool(seen._outputs) and not torch.is_grad_enabled()
                torch.set_grad_enabled(True)
                if not tensor.requires_grad:
                    # The output itself takes part, as the model may have kept it elsewhere.
                    own = any(tensor is kept for kept in _state(module))
                    tensor = (tensor.detach() if own else tensor).requires_grad_()
            seen._outputs[name] = tensor, tensor._version
            passed = tensor.clone()
            if any(tensor is given for given in args):
                seen._passed_on[name] = passed
            return _replaced(output, where, passed)

        return hook

    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(graph == "whole"))
        for name, module in dict(found).items():
            stack.callback(module.register_forward_hook(hook_for(name)).remove)
        yield seen


@dataclass(frozen=True)
class Visit:
    """One module in the order of a forward pass: who it is and what it returned.

    Attributes:
        name: dotted name.
        module: the module.
        shape: of the first floating-point tensor it returned.
    """

    name: str
    module: nn.Module
    shape: tuple[int, ...]


@contextmanager
def visits(model: nn.Module) -> Iterator[list[Visit]]:
    """The modules of `model` that run in the block, in the order in which they finish.

    A module that runs more than once stands where its last run finished.
    """
    visited: dict[str, Visit] = {}
    thread = threading.get_ident()

    def hook_for(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, _args: Any, output: Any) -> None:
            if threading.get_ident() != thread:
                return
            try:
                _, tensor = _activation(name, output)
            except LayerError:
                return
            visited.pop(name, None)
            visited[name] = Visit(name, module, tuple(tensor.shape))

        return hook

    order: list[Visit] = []
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        for name, module in model.named_modules():
            scripted = isinstance(module, torch.jit.ScriptModule)
            if name and name.rpartition(".")[2] != "_orig_mod" and not scripted:
                stack.callback(module.register_forward_hook(hook_for(name)).remove)
        yield order
    order += visited.values()


def _activation(name: str, output: Any) -> tuple[Any, Tensor]:
    """Key and value of the first floating-point tensor in `output`, key ``None`` if bare."""
    items: Mapping[Any, Any] = {}
    if isinstance(output, Tensor):
        items = {None: output}
    elif isinstance(output, MutableMapping):
        items = output
    elif isinstance(output, tuple | list):
        items = dict(enumerate(output))
    for key, value in items.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            return key, value
    raise LayerError(
        f"layer {name!r} returned {type(output).__name__} with no floating-point tensor in it; "
        "choose another layer"
    )


def _state(module: nn.Module) -> Iterator[Tensor]:
    """What belongs to `module` itself and must not be marked."""
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)


def _replaced(output: Any, where: Any, tensor: Tensor) -> Any:
    """`output` with `tensor` at `where`."""
    if where is None:
        return tensor
    if isinstance(output, MutableMapping):
        twin = copy.copy(output)
        twin[where] = tensor
        return twin
    parts = [*output[:where], tensor, *output[where + 1 :]]
    return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
