"""Run only the part of a model after a layer, on changed activations.

The clean pass keeps the output of every module that finishes before the layer. In a replay, these
modules return their kept outputs, the layer returns the changed activation, and everything after it
runs for real. Skip connections, tokens and modules that run twice need no special care. Four facts
shape it.

* Only outermost modules that do not contain the layer are kept; the modules inside them need not
  run. Functions between modules run again, which is cheap.
* A hook cannot stop a module from running, so its `forward` is wrapped. The user's hooks run as in
  any pass, on the output of the clean pass.
* Most kept outputs only go into modules that return kept outputs themselves. A trial replay shows
  which outputs the rest needs. All others are NaN without memory, so they are never silently wrong.
* Functions may remember or change in place what came before the layer. Then a replay of the clean
  activation does not give the clean output, and the model runs in full, with a hook on the layer.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from camlib.nested import mapped, tensors_in
from camlib.passes.capture import replacing
from camlib.passes.inputs import Inputs
from camlib.passes.interception import wrapping
from camlib.passes.names import call_of, find, unwrap
from camlib.passes.running import answer, with_graph

_IMAGE = -1
"""The number of the image, next to the numbers of kept outputs."""


_ALL = frozenset(range(_IMAGE, 2**12))
"""The numbers of all kept outputs, for a model of any size."""


@dataclass
class Needs:
    """What a tail needs from the part of the model before it.

    Attributes:
        kept: the numbers of the kept outputs that it uses; ``None`` until the first replay.
        replayable: whether a replay of the clean activation gives the clean output.
        apart: whether the answer to a sample does not depend on the other samples.
    """

    kept: frozenset[int] | None = None
    replayable: bool = True
    apart: bool = True


class Tail:
    """The part of a model after a layer, which can run again on changed activations.

    Args:
        model: the model, without wrappers.
        name: the name of the layer; ``"head@2"`` is its third call.
        needs: the needs that earlier passes found for inputs of the same size.

    Attributes:
        graphed: whether the model always needs a graph from the image on.
    """

    def __init__(self, model: nn.Module, name: str, needs: Needs) -> None:
        self.model = model
        self.name = name
        self.needs = needs
        _, self._layer = find(model, name)
        self._before = _apart_from(model, self._layer)
        self._kept: list[tuple[nn.Module, Any]] = []
        self._calls = 0
        self.graphed = False

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Keep the outputs of the clean pass in the block."""
        self._kept = []
        if not self.needs.replayable:
            yield
            return
        finished: list[int] = []
        inside = False

        def record(module: nn.Module, forward: Callable[[], Any]) -> Any:
            nonlocal inside
            if inside:
                return forward()
            inside = True
            try:
                output = forward()
            finally:
                inside = False
            number = len(self._kept)

            def keep(tensor: Tensor) -> Tensor:
                needed = _needed(self.needs, number, tensor)
                return tensor.detach().clone() if needed else _hollow(tensor, tensor.shape)

            self._kept.append((module, mapped(keep, output)))
            if module is self._layer:
                finished.append(len(self._kept))
            return output

        with wrapping(self._before, record):
            yield
        self._calls = len(finished)
        if finished:
            del self._kept[finished[_call(self.name, len(finished))] :]

    def try_replay(
        self,
        inputs: Inputs,
        calls: int,
        samples: Tensor,
        activation: Tensor,
        right: Callable[[Any], bool],
        apart: Callable[[Any], bool],
    ) -> None:
        """Find out which kept outputs a replay needs, and whether it gives the right answer.

        Args:
            inputs: the inputs of the clean pass.
            calls: the number of the layer's calls in the clean pass.
            samples: the numbers of the samples to replay, ``(M,)``.
            activation: the layer's output for these samples.
            right: tells whether an output for them equals that of the clean pass.
            apart: tells whether it does so within the larger error of a model that mixes samples.
        """
        every = frozenset(range(_IMAGE, len(self._kept)))
        needs = Needs(every, self._calls == calls)

        def replay(watching: _Watching | None = None) -> Any:
            return self._output(inputs, calls, samples, activation.clone(), needs, watching)

        if needs.replayable:
            with torch.no_grad():
                with suppress(Exception), _Watching() as watching:  # some models fail if watched
                    replay(watching)
                    needs.kept = frozenset(watching.used)
                try:
                    needs.replayable = right(replay())
                except Exception:  # the kept outputs may not fit another number of samples
                    needs.replayable = False
        if not needs.replayable:
            needs.kept = every
            with suppress(Exception), torch.no_grad():  # the method's own passes will raise it
                needs.apart = apart(replay())
            self._kept = []
        for number, (module, output) in enumerate(self._kept):

            def keep(tensor: Tensor, number: int = number) -> Tensor:
                return tensor if _needed(needs, number, tensor) else _hollow(tensor, tensor.shape)

            self._kept[number] = module, mapped(keep, output)
        vars(self.needs).update(vars(needs))

    @property
    def leaves_out(self) -> bool:
        """Whether a kept output is replaced by NaN."""
        kept = self.needs.kept
        return self.needs.replayable and kept is not None and not _ALL.issubset(kept)

    def distrust(self) -> None:
        """Run in full for the rest of this call, and keep all outputs in later calls."""
        self.needs.kept = _ALL
        self.needs = Needs(_ALL, False, self.needs.apart)
        self._kept = []

    def output(self, inputs: Inputs, calls: int, samples: Tensor, changed: Tensor) -> Any:
        """The output of the model for changed outputs of the layer.

        Args:
            inputs: the inputs of the clean pass.
            calls: the number of the layer's calls in the clean pass.
            samples: the number of the sample that each change belongs to, ``(M,)``.
            changed: the layer's output for ``M`` samples; the model may change it in place.
        """
        return self._output(inputs, calls, samples, changed, self.needs)

    def _output(
        self,
        inputs: Inputs,
        calls: int,
        samples: Tensor,
        changed: Tensor,
        needs: Needs,
        watching: _Watching | None = None,
    ) -> Any:
        count = len(inputs)
        queues: dict[int, deque[tuple[int, Any]]] = defaultdict(deque)
        for number, (module, output) in enumerate(self._kept):
            queues[id(module)].append((number, output))

        def of_samples(number: int, tensor: Tensor) -> Tensor:
            sampled = tensor.shape[:1] == (count,)
            if not _needed(needs, number, tensor):
                shape = (len(samples), *tensor.shape[1:]) if sampled else tensor.shape
                return _hollow(tensor, shape)
            # A copy, because functions between modules may change it in place.
            copied = tensor[samples.to(tensor.device)] if sampled else tensor.clone()
            if self.graphed:
                copied = with_graph(copied)
            if watching is not None:
                watching.given[id(copied)] = copied, number
            return copied

        def play(module: nn.Module, forward: Callable[[], Any]) -> Any:
            if not queues[id(module)]:
                return forward()
            number, output = queues[id(module)].popleft()
            return mapped(partial(of_samples, number), output)

        played = wrapping(self._before, play) if needs.replayable else nullcontext()
        given = inputs.of_samples(samples, of_samples(_IMAGE, inputs.image))
        if self.graphed:
            changed = with_graph(changed)
        with replacing(self.model, self._layer, _call(self.name, calls), changed), played:
            return answer(self.model, given, graphed=self.graphed)


class _Watching(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which of the given tensors operators use."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.given: dict[int, tuple[Tensor, int]] = {}
        self.used: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        for tensor in tensors_in((args, kwargs)):
            if id(tensor) in self.given:
                self.used.add(self.given[id(tensor)][1])
        return func(*args, **(kwargs or {}))


def _needed(needs: Needs, number: int, tensor: Tensor) -> bool:
    return needs.kept is None or number in needs.kept or not tensor.is_floating_point()


def _hollow(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """A tensor of NaN with `shape` that takes no memory, like `tensor`."""
    return tensor.new_full((), torch.nan).expand(shape)


def _call(name: str, calls: int) -> int:
    """The number of the call in `name`, from 0; the last of `calls` by default."""
    call = call_of(name)
    return calls - 1 if call is None else call


def _apart_from(model: nn.Module, layer: nn.Module) -> list[nn.Module]:
    """The modules of `model` that do not contain `layer`, and `layer` itself."""
    modules = dict(model.named_modules(remove_duplicate=False))
    holding = {id(model)}
    for name, module in modules.items():
        if module is layer:
            while name := name.rpartition(".")[0]:
                holding.add(id(modules[name]))
    # Wrappers call the module inside, and scripted modules ignore their `forward` attribute.
    return [
        module
        for module in model.modules()
        if id(module) not in holding
        and unwrap(module) is module
        and not isinstance(module, torch.jit.ScriptModule)
    ]
