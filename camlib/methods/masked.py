"""The bases of methods that mask the input.

A masked method says three things: which masks, what stands where a mask is zero, and how scores
become weights. `MaskedMethod` takes masks of the input, `MaskedLayerMethod` makes them of a layer's
channels. Both run the model in the loop of `Masking`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn

from camlib import maps
from camlib.maps import Window
from camlib.methods.components import summed_by_class
from camlib.methods.heatmap import MapMethod
from camlib.methods.layer import LayerMethod
from camlib.methods.masking import Answers, Masking, Masks
from camlib.methods.options import LayerOptions, MapOptions
from camlib.options import Count, checked
from camlib.passes.chunks import Chunks, Progress
from camlib.passes.forward import Pass, scores_at
from camlib.passes.inputs import Inputs
from camlib.passes.names import Layers
from camlib.targets.classes import Asked, asked_as

__all__ = ["MaskedLayerMethod", "MaskedMethod"]


class MaskedMethod(MapMethod):
    """A map at the input's size from what the model answers when parts of the input are masked.

    A subclass says which masks, how scores become weights, and what stands where a mask is zero.

    Args:
        score: ``"probability"`` (softmax) or ``"logit"`` of the class. Other targets, such as a
            function, are taken as they are.
        batch_size: how many masked images the model sees at once; by default what fits into memory.
        progress: wraps the loop over batches, such as `tqdm.tqdm`.

    Raises:
        InputError: in a call, the axis of the channels is ambiguous.
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
        self.masking = Masking(score, Chunks(batch_size, progress))

    @abstractmethod
    def masks(self, inputs: Inputs) -> Masks:
        """The masks of a batch. ``inputs.size`` is the size of its images."""

    @abstractmethod
    def weights(self, scores: Tensor, clean: Tensor) -> Tensor:
        """The weights ``(M, K)`` of masks.

        Args:
            scores: of the masked images, ``(M, K)``, in float32 at least.
            clean: of the same images without a mask, ``(M, K)``, in the model's precision.
        """

    def background(self, images: Tensor) -> Tensor | float:
        """What stands where a mask is zero: like `images` ``(N, C, *size)``, or a number."""
        return 0.0

    def values(self, model: nn.Module, given: Inputs, target: Any) -> tuple[Pass, list[Tensor]]:
        """The clean pass and its map."""
        given.check_read()
        run = Pass.of(model, given, target, (), "whole" if self.differentiable else "none")
        clean = asked_as(run.target, self.score)(run.output).reshape(len(given), -1)
        masks = self.masks(given)

        def weigh(answers: Answers) -> tuple[Tensor, Tensor]:
            own = clean[masks.samples[answers.numbers].to(clean.device)].to(answers.scores.device)
            area = 1 - answers.masks if masks.hides else answers.masks
            return self.weights(answers.scores, own), area

        background = placed(given, self.background(given.arranged))
        return run, [self.masking.total(run, masks, background, weigh) / masks.often]

    def advice(self, run: Pass, layer: str) -> str:
        """Other masks."""
        return "what was hidden may be too small to matter"


class MaskedLayerMethod(LayerMethod):
    """A map of a layer: a channel weighs what the model answers when it sees the channel's region.

    Channels that are constant say nothing and are skipped; of those with the same region, one is
    run. A subclass says which masks are made of a region, how scores become weights, and what
    stands where a mask is zero.

    Args:
        score: ``"probability"`` (softmax) or ``"logit"`` of the class. Other targets, such as a
            function, are taken as they are.
        baseline: subtract the score of a ``"zero"`` or ``"blur"`` image, as in the increase of
            confidence of Score-CAM's paper (definition 3).
        channel_softmax: softmax of the weights over channels, as in algorithm 1 of that paper.
        eigen_smooth: the first principal component of the ``w_k A_k`` over positions in place of
            their sum, with the sign that makes its largest value positive: less noise, and no unit
            of the score.
        max_channels: use only so many channels of the highest standard deviation: an
            approximation, known as Faster Score-CAM.
        batch_size: how many masked images the model sees at once; by default what fits into memory.
        progress: wraps the loop over batches, such as `tqdm.tqdm`.
    """

    graph = "none"
    masks_each: int = 1
    """How many masks are made of each region; the channel's score is the mean of theirs."""
    scaled: bool = True
    """Whether regions are scaled to [0, 1] before masks are made of them."""

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        score: Asked = "probability",
        baseline: Literal["zero", "blur"] | None = None,
        channel_softmax: bool = False,
        eigen_smooth: bool = False,
        max_channels: Count | None = None,
        batch_size: Count | None = None,
        progress: Progress | None = None,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(model, layer, **options)
        self.score: Asked = score
        self.baseline = baseline
        self.channel_softmax = channel_softmax
        self.eigen_smooth = eigen_smooth
        self.max_channels = max_channels
        self.masking = Masking(score, Chunks(batch_size, progress))

    @abstractmethod
    def masks(self, regions: Tensor, numbers: Tensor) -> Tensor:
        """The masks ``(M, *size)`` of regions.

        Args:
            regions: channels at the input's size, scaled to [0, 1] if `scaled`, ``(M, *size)``.
            numbers: which of its `masks_each` masks to make of each, ``(M,)``.
        """

    @abstractmethod
    def weights(self, scores: Tensor, clean: Tensor) -> Tensor:
        """The weights ``(N, C, K)`` of channels.

        Args:
            scores: of the images masked with each channel, ``(N, C, K)``; 0 if it is skipped.
            clean: of the images without a mask, ``(N, 1, K)``.
        """

    def background(self, images: Tensor) -> Tensor | float:
        """What stands where a mask is zero: like `images` ``(N, C, *size)``, or a number."""
        return 0.0

    def signed_maps(self, run: Pass) -> list[Tensor]:
        """The weighted sum of the channels of each layer."""
        background = placed(run.inputs, self.background(run.inputs.arranged))
        return [
            self._map(run, activation, run.seen.windows[name], background)
            for name, activation in zip(run.seen.names, self.activations(run), strict=True)
        ]

    def _map(
        self, run: Pass, activation: Tensor, window: Window, background: Tensor | float
    ) -> Tensor:
        """The map ``(N, K, *grid)`` of `activation` ``(N, C, *grid)``, which lies in `window`."""
        used = self._used(activation)
        pairs = used.nonzero()
        scale = maps.normalize if self.scaled else torch.clone
        first, kinds = _distinct(pairs[:, 0], scale(activation.detach())[used])
        samples, channels = pairs[first].repeat_interleave(self.masks_each, 0).unbind(1)
        each = torch.arange(self.masks_each, device=pairs.device).repeat(len(first))

        def draw(numbers: Tensor) -> Tensor:
            regions = activation[samples[numbers], channels[numbers]][:, None]
            regions = scale(maps.place(regions, run.inputs.size, window))
            return self.masks(regions[:, 0], each[numbers])

        answers = self.masking.answers(run, Masks(samples, draw), background)
        answered = [some.scores for some in answers]
        scores = activation.new_zeros(*used.shape, run.scores.shape[1])
        if answered:
            mean = torch.cat(answered).reshape(len(first), self.masks_each, -1).mean(1)
            scores[used] = mean.to(scores)[kinds]
        target = asked_as(run.target, self.score)
        clean = target(run.output).reshape(len(activation), 1, -1).to(scores.device)
        weights = self.weights(scores, clean)
        if self.baseline is not None:
            image = run.inputs.image
            blank = torch.zeros_like(image)
            if self.baseline == "blur":
                blank = run.inputs.at_places(maps.blur(run.inputs.arranged))
            every = torch.arange(len(image), device=image.device)
            weights = weights - scores_at(run, every, blank, target)[:, None]
        if self.channel_softmax:
            weights = weights.where(used[..., None], -torch.inf).softmax(1)
        weights = weights.where(used[..., None], 0)
        return summed_by_class(weights, activation, eigen_smooth=self.eigen_smooth)

    def _used(self, activation: Tensor) -> Tensor:
        """Which channels to run, bool ``(N, C)``."""
        used = ~maps.flat(activation).flatten(1)
        if self.max_channels is None or self.max_channels >= used.shape[1]:
            return used
        spread = activation.flatten(2).std(2)
        best = spread.topk(self.max_channels, 1).indices
        return used & torch.zeros_like(used).scatter(1, best, True)


def placed(inputs: Inputs, background: Tensor | float) -> Tensor | float:
    """`background` ``(N, C, *size)`` with the axes of the image; a number stays one."""
    return inputs.at_places(background) if isinstance(background, Tensor) else background


def _distinct(samples: Tensor, grids: Tensor) -> tuple[Tensor, Tensor]:
    """Which of `grids` ``(P, *grid)`` are the first of their kind, and of which kind each is.

    Returns:
        Places in `grids` ``(D,)``, in order, and for each of `grids` a place among these ``(P,)``.
    """
    if not len(grids):
        return samples, samples
    rows = torch.cat([samples[:, None].to(grids.dtype), grids.flatten(1)], 1)
    _, kinds = torch.unique(rows, dim=0, return_inverse=True)
    places = torch.arange(len(grids), device=grids.device)
    first = torch.full_like(places, len(grids)).scatter_reduce_(0, kinds, places, "amin")
    first = first[: int(kinds.max()) + 1]
    order = first.argsort()
    return first[order], order.argsort()[kinds]
