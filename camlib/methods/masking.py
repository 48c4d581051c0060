"""Maps from hiding parts of the input, without a layer."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Annotated, Any, Literal, Unpack

import torch
from torch import Tensor, nn

from camlib import maps
from camlib.draws import Draws
from camlib.errors import InputError
from camlib.methods.base import MapMethod
from camlib.methods.options import HidingOptions, MapOptions
from camlib.options import Count, Filled, Range, Seed, checked
from camlib.passes.chunks import Chunks, Progress
from camlib.passes.forward import Pass, scores_at
from camlib.passes.inputs import Inputs
from camlib.targets.classes import Asked, asked_as

Lengths = Count | Annotated[tuple[Count, ...], Filled()]
"""A number of places along each axis, or one for all."""


class Hiding(MapMethod):
    """A map at the input's size from what the model answers when parts of the input are hidden.

    Args:
        score: ``"probability"`` (softmax) or ``"logit"`` of the class. Other targets, such as a
            function, are taken as they are.
        batch_size: how many inputs the model sees at once; by default what fits into memory.
        progress: wraps the loop over batches, such as `tqdm.tqdm`.

    Raises:
        InputError: in a call, where the channels are cannot be told.
    """

    rectify = False

    @checked
    def __init__(
        self,
        model: nn.Module,
        *,
        score: Asked = "probability",
        batch_size: Count | None = None,
        progress: Progress | None = None,
        **options: Unpack[MapOptions],
    ) -> None:
        super().__init__(model, **options)
        self.score: Asked = score
        self.chunks = Chunks(batch_size, progress)

    def values(self, model: nn.Module, given: Inputs, target: Any) -> tuple[Pass, list[Tensor]]:
        """The clean pass and its maps."""
        given.check_read()
        run = Pass.of(model, given, target, (), "whole" if self.differentiable else "none")
        return run, [self._map(run)]

    @abstractmethod
    def _map(self, run: Pass) -> Tensor:
        """The map ``(N, K, *size)``."""

    def _sum(
        self,
        run: Pass,
        count: int,
        hidden: Callable[[Tensor], Tensor],
        value: float,
        weigh: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    ) -> Tensor:
        """A sum of weighted areas over inputs with hidden parts, ``(N, K, *size)``.

        Args:
            run: the clean pass.
            count: how many ways there are to hide parts.
            hidden: what is hidden in the ways numbered ``(M,)``: ``(M, *size)`` in [0, 1].
            value: what stands there instead.
            weigh: from samples ``(M,)``, scores ``(M, K)`` and what was hidden to weights
                ``(M, K)`` and areas ``(M, *size)``.
        """
        image, samples = run.inputs.image, len(run.inputs)
        target = asked_as(run.target, self.score)
        pairs = torch.cartesian_prod(
            *(torch.arange(n, device=image.device) for n in (samples, count))
        )
        total = maps.precise(image).new_zeros(samples, run.scores.shape[1], *run.inputs.size)

        def add(chunk: Tensor) -> Tensor:
            nonlocal total
            which, ways = chunk.unbind(1)
            covers = hidden(ways)
            places = run.inputs.at_places(covers[:, None]).to(image.dtype)
            covered = image[which] * (1 - places) + value * places
            found = scores_at(run, which, covered, target).to(total.device)
            weights, areas = weigh(which, found, covers)
            # Each sample gets its own share of the sum; those of other samples are zero.
            own = (torch.arange(samples, device=which.device)[:, None] == which)[:, None]
            shares = weights.T.where(own, 0).to(total.dtype)
            with torch.autocast(total.device.type, enabled=False):
                total = total + torch.einsum("nkm,m...->nk...", shares, areas.to(total.dtype))
            return found

        for _ in self.chunks.run(add, pairs, image):
            pass
        return total

    def _better(self, run: Pass, layer: str) -> str:
        return "what was hidden may be too small to matter"


class RISE(Hiding):
    """RISE: a pixel is worth what the model answers, on average, when that pixel is seen.

    ``M = sum_i p_c(x m_i) m_i / (n p)``. Petsiuk, Das and Saenko, BMVC 2018, arXiv:1806.07421. The
    masks are random grids of few cells, enlarged and shifted; zero input stands for "no image". All
    samples see the same masks, in every call. Beyond the centres of the outermost cells a mask
    stays as it is there, where the authors' code mirrors it. For any function at all. Weak where
    there are few masks: the map is noisy.

    Args:
        masks: how many; the paper takes 4000 for VGG-16 and 8000 for ResNet-50.
        cells: of a mask along each axis.
        probability: that a cell is seen.
        seed: of the masks.
    """

    cost = "1 forward, 1 forward for each mask"

    @checked
    def __init__(
        self,
        model: nn.Module,
        *,
        masks: Count = 4000,
        cells: Count = 7,
        probability: Annotated[float, Range(0, 1, above=True)] = 0.5,
        seed: Seed = 0,
        **options: Unpack[HidingOptions],
    ) -> None:
        super().__init__(model, **options)
        self.masks = masks
        self.cells = cells
        self.probability = probability
        self.seed = seed

    def _map(self, run: Pass) -> Tensor:
        size, image = run.inputs.size, run.inputs.image
        # On the CPU, so that the masks are the same on every device.
        draws = Draws(self.seed)
        grid = draws.uniform(self.masks, *[self.cells] * len(size))
        steps = [math.ceil(length / self.cells) for length in size]
        starts = [draws.numbers(s, self.masks) for s in steps]
        seen = (grid < self.probability).to(image.device, maps.precise(image).dtype)
        offsets = torch.stack(starts, 1).to(image.device)

        def hidden(ways: Tensor) -> Tensor:
            large = [(self.cells + 1) * step for step in steps]
            masks = maps.resize(seen[ways][:, None], large)[:, 0]
            for axis, length in enumerate(size):
                places = torch.arange(length, device=ways.device) + offsets[ways, axis, None]
                shape = [len(ways), *[1] * len(size)]
                shape[1 + axis] = length
                masks = masks.take_along_dim(places.reshape(shape), 1 + axis)
            return 1 - masks

        def weigh(_: Tensor, scores: Tensor, covers: Tensor) -> tuple[Tensor, Tensor]:
            return scores, 1 - covers

        return self._sum(run, self.masks, hidden, 0, weigh) / (self.masks * self.probability)


class Occlusion(Hiding):
    """Occlusion: a pixel is worth what the score loses, on average, when a window hides it.

    Zeiler and Fergus, ECCV 2014, arXiv:1311.2901, section 4.2, who draw the score itself, at the
    centre of the window. For any function at all, and as a check of other maps. Weak where the
    evidence is spread, so that no window hides it, and in its choice of window.

    Args:
        window: its length along each axis, or one for all; by default a seventh of the input.
        stride: how far it moves, by default half the window.
        last: what becomes of the last window along an axis, where it would reach beyond the input:
            ``"moved"`` in, so that all windows are whole, or ``"cut"`` at the border.
        overlap: ``"mean"`` over the windows that hide a pixel, or their ``"sum"``.
        value: what stands in the window: 0 is grey for normalised inputs.
    """

    cost = "1 forward, 1 forward for each window"

    @checked
    def __init__(
        self,
        model: nn.Module,
        *,
        window: Lengths | None = None,
        stride: Lengths | None = None,
        last: Literal["moved", "cut"] = "moved",
        overlap: Literal["mean", "sum"] = "mean",
        value: float = 0.0,
        **options: Unpack[HidingOptions],
    ) -> None:
        super().__init__(model, **options)
        self.window = window
        self.stride = stride
        self.last = last
        self.overlap = overlap
        self.value = value

    def _map(self, run: Pass) -> Tensor:
        size, image = run.inputs.size, run.inputs.image
        lines = [line.to(image.device) for line in self._lines(size)]
        counts = [len(line) for line in lines]

        def hidden(ways: Tensor) -> Tensor:
            covers = torch.ones(
                len(ways), *[1] * len(size), dtype=torch.float32, device=ways.device
            )
            for axis, place in enumerate(torch.unravel_index(ways, counts)):
                shape = [len(ways), *[1] * len(size)]
                shape[1 + axis] = size[axis]
                covers = covers * lines[axis][place].reshape(shape)
            return covers.to(maps.precise(image).dtype)

        target = asked_as(run.target, self.score)
        answer = target(run.output)
        clean = maps.precise(answer).reshape(len(image), -1)
        rounding = 8 * torch.finfo(answer.dtype).eps

        def weigh(samples: Tensor, scores: Tensor, covers: Tensor) -> tuple[Tensor, Tensor]:
            whole = clean.to(scores.device)[samples]
            lost = whole - scores
            # A batch of another size is rounded otherwise, which a scale to [0, 1] would show.
            return lost.where(lost.abs() > rounding * whole.abs(), 0), covers

        often = lines[0].sum(0)
        for line in lines[1:]:
            often = often[..., None] * line.sum(0)
        total = self._sum(run, math.prod(counts), hidden, self.value, weigh)
        return total if self.overlap == "sum" else total / often

    def _lines(self, size: tuple[int, ...]) -> list[Tensor]:
        """What the windows along each axis of `size` cover, ``(windows, length)``."""
        for name, given in (("window", self.window), ("stride", self.stride)):
            if isinstance(given, tuple) and len(given) != len(size):
                raise InputError(
                    f"{name}={given} is for {len(given)} axes, and the input has {len(size)}; pass "
                    "one number for all"
                )
        windows = [max(length // 7, 1) for length in size]
        if self.window is not None:
            asked = _lengths(self.window, len(size))
            windows = [min(pair) for pair in zip(asked, size, strict=True)]
        strides = [max(window // 2, 1) for window in windows]
        if self.stride is not None:
            strides = _lengths(self.stride, len(size))
        lines = []
        for length, window, stride in zip(size, windows, strides, strict=True):
            if stride > window:
                raise InputError(
                    f"stride={stride} leaves pixels between windows of {window}; use at most that"
                )
            starts = torch.tensor(
                [*range(0, length - window, stride), length - window], device="cpu"
            )
            if self.last == "cut" and len(starts) > 1:
                starts[-1] = starts[-2] + stride
            apart = torch.arange(length, device="cpu") - starts[:, None]
            lines.append(((apart >= 0) & (apart < window)).float())
        return lines


def _lengths(given: int | tuple[int, ...], axes: int) -> list[int]:
    """`given` along each of `axes`."""
    return list(given) if isinstance(given, tuple) else [given] * axes
