"""Run again only what follows a layer, on changed activations.

During the clean pass, what every module returns that finishes before the layer is kept. In a replay
these modules return what was kept, the layer returns the changed activation, and everything after
it runs for real: skip connections, tokens and modules used twice need no care of their own. Four
facts shape it.

* Kept is what modules return that are not inside another one and do not hold the layer; those
  inside them need not run either. Functions between them run again, which is cheap.
* A hook cannot keep a module from running, so its `forward` is wrapped. A user's hooks run as in
  any pass, on what the module itself returned then.
* Most of what is kept only goes into modules that return what was kept themselves. What the rest
  needs is found by watching one replay; all else is NaN without memory, and never a wrong value.
* Functions may remember or change in place what came before the layer. Then replaying the clean
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
"""The image, in a row with the numbers of what was kept."""


_ALL = frozenset(range(_IMAGE, 2**12))
"""The numbers of all that a model keeps, however much that is."""


@dataclass
class Needs:
    """What the tail needs of what came before it.

    Attributes:
        kept: numbers of the outputs kept that it uses; ``None`` until the first replay.
        replayable: whether replaying the clean activation gives the clean output.
        apart: whether the answer to a sample is the same whatever the others are.
    """

    kept: frozenset[int] | None = None
    replayable: bool = True
    apart: bool = True


class Tail:
    """What follows a layer, to be run again on changed activations.

    Args:
        model: without wrappers.
        name: of the layer; ``"head@2"`` is its third call.
        needs: what earlier passes found for inputs of the same size.

    Attributes:
        graphed: whether the model needs a graph from the image on to run at all.
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
        """The clean pass is the one in the block."""
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

    def settle(
        self,
        inputs: Inputs,
        calls: int,
        samples: Tensor,
        activation: Tensor,
        right: Callable[[Any], bool],
        apart: Callable[[Any], bool],
    ) -> None:
        """Find what is needed of what was kept, and whether that is enough.

        Args:
            inputs: of the clean pass.
            calls: how often the layer ran in it.
            samples: by number, ``(M,)``; to try it with.
            activation: theirs, as the layer returns it.
            right: whether an output for them is that of the clean pass.
            apart: whether it is, as far as samples that are mixed would show.
        """
        every = frozenset(range(_IMAGE, len(self._kept)))
        needs = Needs(every, self._calls == calls)

        def replay(watching: _Watching | None = None) -> Any:
            return self._output(inputs, calls, samples, activation.clone(), needs, watching)

        if needs.replayable:
            with torch.no_grad():
                with suppress(Exception), _Watching() as watching:  # not all can be watched
                    replay(watching)
                    needs.kept = frozenset(watching.used)
                try:
                    needs.replayable = right(replay())
                except Exception:  # what was kept does not fit so many samples
                    needs.replayable = False
        if not needs.replayable:
            needs.kept = every
            with suppress(Exception), torch.no_grad():  # the passes to come tell what is wrong
                needs.apart = apart(replay())
            self._kept = []
        for number, (module, output) in enumerate(self._kept):

            def keep(tensor: Tensor, number: int = number) -> Tensor:
                return tensor if _needed(needs, number, tensor) else _hollow(tensor, tensor.shape)

            self._kept[number] = module, mapped(keep, output)
        vars(self.needs).update(vars(needs))

    @property
    def leaves_out(self) -> bool:
        """Whether something of what came before the layer stands there as NaN."""
        kept = self.needs.kept
        return self.needs.replayable and kept is not None and not _ALL.issubset(kept)

    def distrust(self) -> None:
        """Run in full from here on in this call, and keep everything in those to come."""
        self.needs.kept = _ALL
        self.needs = Needs(_ALL, False, self.needs.apart)
        self._kept = []

    def output(self, inputs: Inputs, calls: int, samples: Tensor, changed: Tensor) -> Any:
        """What the model returns for changed activations of `samples` ``(M,)``, by number.

        Args:
            inputs: of the clean pass.
            calls: how often the layer ran in it.
            samples: which sample each is a change of.
            changed: ``M`` samples, shaped as the layer returns them; given away, as the model may
                change it in place.
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
            # Copies, as functions between the modules may change them in place.
            found = tensor[samples.to(tensor.device)] if sampled else tensor.clone()
            if self.graphed:
                found = with_graph(found)
            if watching is not None:
                watching.given[id(found)] = found, number
            return found

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
    """Notes which of the tensors given out operators work on."""

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
    """NaN in `shape` that takes no memory, in place of `tensor`."""
    return tensor.new_full((), torch.nan).expand(shape)


def _call(name: str, calls: int) -> int:
    """Which of `calls` of the layer is meant by `name`, counted from 0."""
    call = call_of(name)
    return calls - 1 if call is None else call


def _apart_from(model: nn.Module, layer: nn.Module) -> list[nn.Module]:
    """The modules of `model` that do not hold `layer`, it among them."""
    modules = dict(model.named_modules(remove_duplicate=False))
    holding = {id(model)}
    for name, module in modules.items():
        if module is layer:
            while name := name.rpartition(".")[0]:
                holding.add(id(modules[name]))
    # Wrappers hand on to the module inside, and scripted modules do not look at their `forward`.
    return [
        module
        for module in model.modules()
        if id(module) not in holding
        and unwrap(module) is module
        and not isinstance(module, torch.jit.ScriptModule)
    ]
