"""Read the outputs of layers, and the gradients of scores at them, in one forward pass.

Hooks exist within a `with` block only, so a method object leaves nothing on the model. Three facts
about PyTorch shape the rest.

* An in-place layer may overwrite the output (``nn.ReLU(inplace=True)``). The hook keeps the output
  and passes a copy on. Otherwise values and gradients would silently be those of the next layer.
* Nothing before the layer needs a graph. The pass starts without one, and the hook starts it. This
  saves most of the memory, and it works for frozen models and callers under ``no_grad``.
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
    """The outputs of the captured layers of a forward pass.

    Attributes:
        names: dotted names of the layers, in the order of the request.
        calls: the number of calls of each layer.
        interrupted: whether the model itself switched grad mode off after a layer, so that part of
            the graph is missing.
        graph: the part that autograd recorded. The whole graph outlives the gradients at the
            layers.
        hooked: whether the model or its user put hooks on tensors in the pass, which see gradients.
        windows: the part of the input that the grid of each layer covers, by name, where it is
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
        """Drop the graph."""
        self._outputs = {name: (t.detach(), v) for name, (t, v) in self._outputs.items()}

    @property
    def aliased(self) -> str | None:
        """A layer that returned its own input and whose output was changed in place later."""
        changed = [name for name, tensor in self._passed_on.items() if tensor._version]
        return changed[0] if changed else None

    def readable(self, name: str) -> bool:
        """Whether the layer `name` ran and its output was not overwritten since."""
        tensor, version = self._outputs.get(name, (None, 0))
        return tensor is not None and (tensor.is_inference() or tensor._version == version)

    def activations(self) -> list[Tensor]:
        """The output of each layer: of its last call, unless its name has another.

        Raises:
            LayerError: a layer did not run, or its output was overwritten.
        """
        for name in self.names:
            if name not in self._outputs:
                calls = self.calls[name]
                ran = f"ran {calls} times" if calls else "did not run"
                advice = f"choose one up to @{calls - 1}" if calls else "choose a layer that runs"
                raise LayerError(f"layer {name!r} {ran} in the forward pass; {advice}")
            tensor, version = self._outputs[name]
            if not tensor.is_inference() and tensor._version != version:
                raise LayerError(
                    f"the output of layer {name!r} was overwritten in place through another name "
                    "after it ran; choose the layer before or after it"
                )
        return [self._outputs[name][0] for name in self.names]

    def warn_of_repeats(self) -> None:
        """Warn of each layer that ran more than once: its map is of the last call."""
        for name, calls in self.calls.items():
            if calls > 1 and call_of(name) is None:
                warn(
                    f"layer {name!r} ran {calls} times in one pass, and the map is of its last "
                    f"call; '{name}@0' is the first"
                )

    def gradients(self, scores: Tensor, *, create_graph: bool = False) -> Iterator[list[Tensor]]:
        """The gradients of `scores` ``(N, K)`` at each layer, in the chunks of `gradients`.

        Raises:
            LayerError: a layer did not run.
            GraphError: autograd finds no way from a score to a layer.
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
        """The capture of one of the layers."""
        alone = Capture((name,), self.graph)
        alone.calls = {name: self.calls[name]}
        alone.interrupted = self.interrupted
        alone._outputs = {name: self._outputs[name]}
        return alone

    def reached(self, scores: Tensor, *, retain_graph: bool = False) -> Sequence[Tensor | None]:
        """The gradient of each sample's scores at each layer; see `gradients.reached`.

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
            gradients at the inputs, ``"none"`` for values only.
        optional: whether to leave out layers that do not run, return no tensor or their own input,
            or run under ``inference_mode``, instead of failing.

    Example:
        >>> with capture(model, ["layer4"]) as seen:
        ...     scores = model(images)[:, [207, 281]]
        ...     [[gradient]] = seen.gradients(scores)           # (2, N, C, h, w)
    """
    modules = [find(model, layer) for layer in layers]
    seen = Capture(tuple(name for name, _ in modules), graph)
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
                        "there is no gradient; use no_grad() there, or choose a later layer"
                    )
                seen._outputs[name] = tensor.clone(), 0
                return None
            if graph != "none":
                seen.interrupted |= bool(seen._outputs) and not torch.is_grad_enabled()
                torch.set_grad_enabled(True)
                if not tensor.requires_grad:
                    # The output itself requires grad, as the model may have kept it elsewhere. A
                    # tensor that the model holds between passes must not, so it is detached.
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
        for name, module in dict(modules).items():
            hook(undo, module, reader(name))
        yield seen
    if optional:
        seen.names = tuple(name for name in seen.names if seen.readable(name))


@contextmanager
def replacing(model: nn.Module, layer: Layer, call: int, tensor: Tensor) -> Iterator[None]:
    """Replace the output of `layer` by `tensor` in a pass in the block.

    Args:
        model: the model, or the part of it that will be called.
        layer: a module of `model`, or its dotted name.
        call: the number of the call, from 0.
        tensor: the new output; the model may change it in place.
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
    """Whether `output` has a tensor that can be captured and is not one of `args`."""
    for _, tensor in activations(output):
        return not tensor.is_inference() and all(tensor is not given for given in args)
    return False
