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

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from camlib.errors import GraphError, LayerError, warn
from camlib.maps import Window
from camlib.nested import activations, first, replaced
from camlib.passes.gradients import gradients, reached
from camlib.passes.inputs import plain
from camlib.passes.names import Layer, call_of, find
from camlib.state.hooks import hook
from camlib.state.kept import owned
from camlib.state.modes import run_differentiable_rnns, run_plainly
from camlib.state.undoing import Undoing

Graph = Literal["none", "tail", "whole"]
"""What autograd records: nothing; from the layers on; from the inputs on."""


class Capture:
    """What a forward pass left at the captured layers.

    Attributes:
        names: dotted names of the layers, in the order they were asked for.
        calls: how often each of them ran.
        interrupted: whether the model itself switched grad mode off after a layer, so that part of
            the graph is missing.
        graph: what autograd recorded. One from the inputs on outlives the gradients at the layers.
        hooked: whether hooks were put on tensors in the pass, by the model or for its user, which
            see the gradients on their way.
        windows: which part of the input the grid of each layer covers, by name, as far as it is
            known; see `camlib.maps.place`.
    """

    def __init__(self, names: tuple[str, ...], graph: Graph) -> None:
        self.names = names
        self.graph = graph
        self.calls = dict.fromkeys(names, 0)
        self.interrupted = False
        self.hooked = False
        self.windows: dict[str, Window] = {}
        self._outputs: dict[str, tuple[Tensor, int]] = {}
        self._passed_on: dict[str, Tensor] = {}

    def detach(self) -> None:
        """Let go of the graph."""
        self._outputs = {name: (t.detach(), v) for name, (t, v) in self._outputs.items()}

    @property
    def aliased(self) -> str | None:
        """The layer that returned its own input, if what followed changed its output in place."""
        changed = [name for name, tensor in self._passed_on.items() if tensor._version]
        return changed[0] if changed else None

    def readable(self, name: str) -> bool:
        """Whether the layer `name` ran, and its output is as it was."""
        tensor, version = self._outputs.get(name, (None, 0))
        return tensor is not None and (tensor.is_inference() or tensor._version == version)

    def activations(self) -> list[Tensor]:
        """The output of each layer, of its last call unless another is in its name.

        Raises:
            LayerError: a layer did not run, or its output was overwritten.
        """
        for name in self.names:
            if name not in self._outputs:
                ran = f"ran {calls} times" if (calls := self.calls[name]) else "did not run"
                raise LayerError(
                    f"layer {name!r} {ran} in the forward pass; choose one that does"
                    + f", up to @{calls - 1}" * bool(calls)
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
            if calls > 1 and call_of(name) is None:
                warn(
                    f"layer {name!r} ran {calls} times in one pass; the map is of its last call; "
                    f"'{name}@0' is the first"
                )

    def gradients(self, scores: Tensor, *, create_graph: bool = False) -> Iterator[list[Tensor]]:
        """The gradients of `scores` ``(N, K)`` at each layer, as `gradients` has them.

        Raises:
            LayerError: a layer did not run.
            GraphError: a score does not depend on a layer, as far as autograd can see.
        """
        return gradients(
            scores,
            self.activations(),
            self.names,
            create_graph=create_graph,
            retain_graph=self.graph == "whole",
            alone=self.hooked,
        )

    def only(self, name: str) -> Capture:
        """What the pass left at one of the layers."""
        alone = Capture((name,), self.graph)
        alone.calls = {name: self.calls[name]}
        alone.interrupted = self.interrupted
        alone._outputs = {name: self._outputs[name]}
        return alone

    def reached(self, scores: Tensor, *, retain_graph: bool = False) -> Sequence[Tensor | None]:
        """The gradient of each sample's scores at each layer, as `reached` has it.

        Raises:
            LayerError: a layer did not run.
            GraphError: the scores depend on nothing at all.
        """
        return reached(scores, self.activations(), self.names, retain_graph=retain_graph)


@contextmanager
def capture(
    model: nn.Module, layers: Sequence[Layer], *, graph: Graph = "tail", optional: bool = False
) -> Iterator[Capture]:
    """Read `layers` of `model` during the forward pass in the block.

    Args:
        model: the model, or the part of it that will be called.
        layers: modules of `model`, or their dotted names; ``"head@2"`` is the third call of head.
        graph: ``"tail"`` for gradients at the layers, ``"whole"`` for a loss on the map itself or
            for gradients at the inputs, ``"none"`` for values alone.
        optional: leave out layers that do not run, return no tensor or their own input, or run
            under ``inference_mode``, instead of failing.

    Example:
        >>> with capture(model, ["layer4"]) as seen:
        ...     scores = model(images)[:, [207, 281]]
        ...     [[gradient]] = seen.gradients(scores)           # (2, N, C, h, w)
    """
    found = [find(model, layer) for layer in layers]
    seen = Capture(tuple(name for name, _ in found), graph)
    held = owned(model)

    def reader(name: str) -> Callable[..., Any]:
        def read(_: nn.Module, args: Any, output: Any) -> Any:
            seen.calls[name] += 1
            if call_of(name) not in (None, seen.calls[name] - 1):
                return None
            if optional and not _plain(args, output):
                return None
            where, given = first(name, output)
            tensor = plain(given)
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
                    # The output itself takes part, as the model may have kept it elsewhere; but
                    # what the model holds between passes, in any of its modules, is not marked.
                    own = held(given)
                    tensor = (tensor.detach() if own else tensor).requires_grad_()
            seen._outputs[name] = tensor, tensor._version
            passed = tensor.clone()
            if any(given is other for other in args):
                seen._passed_on[name] = passed
            if given is not tensor and type(given) is not type(tensor):
                passed = passed.as_subclass(type(given))
                vars(passed).update(vars(given))
            return replaced(output, where, passed)

        return read

    with Undoing() as undo:
        run_plainly(undo, grad=graph == "whole")
        if graph != "none":
            run_differentiable_rnns(undo, model)
        for name, module in dict(found).items():
            hook(undo, module, reader(name))
        yield seen
    if optional:
        seen.names = tuple(name for name in seen.names if seen.readable(name))


@contextmanager
def replacing(model: nn.Module, layer: Layer, call: int, tensor: Tensor) -> Iterator[None]:
    """`tensor` stands for what `layer` returns in a pass in the block.

    Args:
        model: the model, or the part of it that will be called.
        layer: a module of `model`, or its dotted name.
        call: which call of it, counted from 0.
        tensor: goes to the model, which may change it in place.
    """
    name, module = find(model, layer)
    calls = itertools.count()

    def replace(_module: nn.Module, _args: Any, output: Any) -> Any:
        if next(calls) != call:
            return None
        return replaced(output, first(name, output)[0], tensor)

    with Undoing() as undo:
        hook(undo, module, replace)
        yield


def _plain(args: Any, output: Any) -> bool:
    """Whether `output` has a tensor that can be captured, and is none of `args`."""
    found = [tensor for _, tensor in activations(output)][:1]
    return all(not t.is_inference() and all(t is not given for given in args) for t in found) and (
        bool(found)
    )
