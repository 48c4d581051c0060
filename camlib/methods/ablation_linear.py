"""What the model answers without a channel, where a linear layer has the channels side by side.

Behind the features of VGG, AlexNet or MobileNetV3 come pooling, flattening, a linear layer and more
layers. What lies between works on each channel alone, so the input ``x`` of the linear layer has a
block for each channel, and without channel ``k`` its output is ``y - W_k (x_k - x0_k)``, with
``x0`` the input without any channel. For all channels together this costs one pass of the linear
layer, and only what follows it runs for each. Three facts shape it.

* A `TorchFunctionMode` sees the first linear function that runs in a replay, in this thread alone;
  modules before the layer do not run there.
* Whether a block hears of other channels is tried on every sample, with half of the channels left
  out, so often that any two of them are parted in both ways.
* While outputs of the linear layer are put in, the layer returns one sample of NaN: it costs
  nothing, and shows if the scores depend on it in another way. A few channels are also left out
  for real.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from camlib.layouts import Layout
from camlib.passes.chunks import Chunks
from camlib.passes.forward import Pass
from camlib.state.ambient import FunctionMode
from camlib.state.shards import sharded

_TRIED = 3
"""How many channels of each sample are left out for real."""


@dataclass(frozen=True, eq=False)
class Channelwise:
    """A linear layer behind a layer, with a block of inputs for each channel.

    Attributes:
        layer: behind which it is.
        chunks: how many pairs of a sample and a channel run at once.
        clean: its input, ``(N, C, m)``.
        empty: its input without any channel.
        weight: ``(out, C * m)``.
        bias: ``(out,)`` if there is one.
    """

    layer: _Layer
    chunks: Chunks
    clean: Tensor
    empty: Tensor
    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, run: Pass, number: int, layout: Layout, chunks: Chunks) -> Self | None:
        """What follows layer `number`, if it is like this for every sample.

        Args:
            run: the clean pass, with what follows its layers.
            number: of the layer.
            layout: of its output.
            chunks: see the attributes.
        """
        layer = _Layer(run, number, layout, Chunks(chunks.size))
        run.try_replay(number, layout, several=chunks.size != 1 or len(run.inputs) > 1)
        if sharded(run.model.modules()):  # which takes the weight back after the pass
            return None
        wide = (each.shape[1] for each in run.model.parameters() if each.ndim == 2)
        if not run.tails[number].needs.replayable or all(w % layer.channels for w in wide):
            return None
        every = layer.every
        neither = torch.zeros(1, layer.channels, dtype=torch.bool, device=every.device)
        with suppress(Exception):  # a model that does not take this is run in the general way
            _, weight, bias = layer.entering(every[:1], neither)
            both = torch.cat([neither, ~neither]).repeat_interleave(len(every), 0)
            inputs = layer.each(lambda *rows: layer.entering(*rows)[0], every.repeat(2), both)
            clean, empty = inputs.reshape(2, len(every), layer.channels, -1)
            channelwise = cls(layer, chunks, clean, empty, weight, bias)
            with torch.no_grad():
                return channelwise if channelwise._holds() else None
        return None

    def scores(self, pairs: Tensor) -> Tensor:
        """The scores ``(P, K)`` for `pairs` ``(P, 2)`` of a sample and the channel it is without.

        In the order of the channels, the weights are read once for all samples.
        """
        output = self._linear(self.clean)

        def scores(chunk: Tensor) -> Tensor:
            samples, channels = chunk.unbind(1)
            some = slice(int(channels.min()), int(channels.max()) + 1)
            lost = (self.clean - self.empty)[:, some].movedim(1, 0)
            with torch.autocast(lost.device.type, enabled=False):
                blocks = self.weight.reshape(-1, *self.clean.shape[1:])[:, some]
                change = lost @ blocks.permute(1, 2, 0)
            return self._behind(samples, output[samples] - change[channels - some.start, samples])

        answered = self.chunks.run(scores, pairs.to(output.device), output)
        return torch.cat([each for _, each in answered])

    def _holds(self) -> bool:
        every, channels = self.layer.every, self.layer.channels
        halves = _halves(channels).to(every.device)
        for some in (halves[:1], halves[1:]):  # what mixes channels mostly shows at the first
            left_out = some.repeat_interleave(len(every), 0)
            if not self.layer.each(self._enters, every.repeat(len(some)), left_out).all():
                return False
        strongest = (self.clean - self.empty).norm(dim=2).topk(min(_TRIED, channels)).indices
        left_out = F.one_hot(strongest.T.flatten(), channels).bool().to(every.device)
        samples = every.repeat(strongest.shape[1])  # different ones side by side, as they will be
        return self._answers(samples, left_out)

    def _enters(self, samples: Tensor, left_out: Tensor) -> Tensor:
        """Whether without channels ``(M, C)`` their blocks alone are others, and empty."""
        inputs, *_ = self.layer.entering(samples, left_out)
        error = (inputs - self._input(samples, left_out).flatten(1)).abs().amax(1)
        return error.le(8 * torch.finfo(inputs.dtype).eps * self.clean.abs().max())

    def _answers(self, samples: Tensor, left_out: Tensor) -> bool:
        """Whether the scores without channels ``(M, C)`` are those with them left out for real."""
        layer, output = self.layer, self._linear(self._input(samples, left_out))
        real = layer.each(
            lambda *rows: layer.scores(rows[0], layer.without(*rows)), samples, left_out
        )
        rows = torch.arange(len(samples), device=output.device)
        chunks = layer.chunks.run(lambda r: self._behind(samples[r], output[r]), rows, output)
        error = (torch.cat([scores for _, scores in chunks]) - real).abs().max()
        rounding = torch.finfo(output.dtype).eps ** (2 / 3)
        return bool(error <= rounding * layer.run.scores.abs().max().to(error.device))

    def _input(self, samples: Tensor, left_out: Tensor) -> Tensor:
        samples, left_out = samples.to(self.clean.device), left_out.to(self.clean.device)
        return self.empty[samples].where(left_out[..., None], self.clean[samples])

    def _linear(self, blocks: Tensor) -> Tensor:
        with torch.autocast(blocks.device.type, enabled=False):
            return F.linear(blocks.flatten(1), self.weight, self.bias)

    def _behind(self, samples: Tensor, output: Tensor) -> Tensor:
        """The scores ``(M, K)`` where the linear layer returns `output` ``(M, out)``."""
        one = samples[:1]
        poison = torch.full_like(self.layer.output(one), torch.nan)
        with _FirstLinear(lambda *_, **__: output):
            return self.layer.scores(samples, poison, one)


@dataclass(frozen=True, eq=False)
class _Layer:
    """A layer of a clean pass, and what follows it."""

    run: Pass
    number: int
    layout: Layout
    chunks: Chunks

    @property
    def raw(self) -> Tensor:
        """What the layer returned."""
        return self.run.seen.activations()[self.number]

    @property
    def channels(self) -> int:
        """How many it has."""
        return int(self.layout(self.raw).shape[1])

    @property
    def every(self) -> Tensor:
        """All samples, by number."""
        return torch.arange(len(self.run.inputs), device=self.raw.device)

    def each(
        self, function: Callable[[Tensor, Tensor], Tensor], samples: Tensor, left_out: Tensor
    ) -> Tensor:
        """What `function` makes of `samples` ``(M,)`` without channels ``(M, C)``, in chunks."""
        like = self.run.inputs.image, self.layout(self.raw)

        def chunk(rows: Tensor) -> Tensor:
            return function(samples[rows], left_out[rows])

        rows = torch.arange(len(samples), device=samples.device)
        return torch.cat([made for _, made in self.chunks.run(chunk, rows, *like)])

    def output(self, samples: Tensor) -> Tensor:
        """What the layer returned for `samples`."""
        return self.layout.of_samples(self.raw, len(self.run.inputs), samples)

    def without(self, samples: Tensor, left_out: Tensor) -> Tensor:
        """The same, with channels ``(M, C)`` set to zero."""
        whole = self.output(samples)
        arranged = self.layout(whole)
        kept = ~left_out.reshape(*left_out.shape, *[1] * (arranged.ndim - 2))
        return self.layout.put_back(arranged.where(kept, 0), whole)

    def scores(self, samples: Tensor, changed: Tensor, entering: Tensor | None = None) -> Tensor:
        """The scores where the layer returns `changed`."""
        scores = self.run.again(self.number, samples, changed, entering=entering)
        return scores.to(self.raw.device)

    def entering(self, samples: Tensor, left_out: Tensor) -> _Call:
        """With what the first linear function is called without channels ``(M, C)``.

        Raises:
            ValueError: none is, or in half precision, whose rounding hides what is tried.
        """

        def stop(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> NoReturn:
            raise _Reached(input, weight, bias)

        try:
            with _FirstLinear(stop):
                self.scores(samples, self.without(samples, left_out))
            raise ValueError
        except _Reached as reached:
            input, weight, bias = reached.args
        if input.dtype not in (torch.float32, torch.float64):
            raise ValueError
        return input, weight, bias


class _FirstLinear(FunctionMode):
    """`answer` stands for the first linear function that runs in the block."""

    def __init__(self, answer: Callable[..., Tensor]) -> None:
        super().__init__()
        self.answer: Callable[..., Tensor] | None = answer

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """What `answer` returns, or once it has answered, `func`."""
        answer = self.answer if func is F.linear else None
        if answer is None:
            return func(*args, **(kwargs or {}))
        self.answer = None
        return answer(*args, **(kwargs or {}))


class _Reached(BaseException):
    """The model has come to the linear function: no error, and not for the model to catch."""


_Call = tuple[Tensor, Tensor, Tensor | None]
"""Input, weight and bias."""


def _halves(count: int) -> Tensor:
    """Halves of `count` channels and their other halves, ``(2 * bits, count)``."""
    bits = torch.arange((count - 1).bit_length(), device="cpu")
    halves = (torch.arange(count, device="cpu") >> bits[:, None]) % 2 == 1
    return torch.cat([halves, ~halves])
