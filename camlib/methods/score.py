"""Score-CAM, and its kin with several masks of each channel.

The kin cost many times what Score-CAM does, and neither is known to be better than it by a measure
that others have repeated; they are here for comparison with what was published.
"""

from __future__ import annotations

from typing import Literal, Unpack

import torch
from torch import Tensor, nn

from camlib import maps
from camlib.draws import Draws
from camlib.maps import Window
from camlib.methods.changed_inputs import beside
from camlib.methods.components import summed_by_class
from camlib.methods.layer import LayerMethod
from camlib.methods.options import LayerOptions, ScoreOptions
from camlib.options import Count, Seed, Width, checked
from camlib.passes.chunks import Chunks, Progress
from camlib.passes.forward import Pass, scores_at
from camlib.passes.names import Layers
from camlib.targets import Target
from camlib.targets.classes import Asked, asked_as


class ScoreCAM(LayerMethod):
    """Score-CAM: a channel weighs what the model answers when it sees only that channel's region.

    ``w_k = p_c(x * H_k)`` with ``H_k`` the channel resized to the input and scaled to [0, 1].
    Wang et al., CVPR Workshops 2020, arXiv:1910.01279. The paper gives three definitions that
    differ; this is the one of the authors' code, the others are options. Zero input stands for "no
    image", so inputs should be normalised to zero mean. Channels that are constant say nothing and
    are skipped; of those that give the same mask, one is run. Where there is no gradient. Weak in
    its cost, and in masks of a kind that the network has never seen; `GroupCAM` is the fast form.

    The authors' code resizes the map before its ReLU, which is the same where activations are not
    negative. On signed layers their form is ``ScoreCAM(model, layer, relu=False,
    normalize=False)(images).relu()``, then scaled.

    Args:
        score: ``"probability"`` (softmax) or ``"logit"`` of the class. Other targets, such as a
            function, are taken as they are.
        baseline: subtract the score of a ``"zero"`` or ``"blur"`` image, as in the paper's
            increase of confidence (definition 3).
        channel_softmax: softmax of the weights over channels, as in the paper's algorithm 1.
        eigen_smooth: the first principal component of the ``w_k A_k`` over positions in place of
            their sum, with the sign that makes its largest value positive: less noise, and no unit
            of the score.
        max_channels: use only so many channels of the highest standard deviation: an
            approximation, known as Faster Score-CAM.
        batch_size: how many masked images the model sees at once; by default what fits into memory.
        progress: wraps the loop over batches, such as `tqdm.tqdm`.
    """

    cost = "1 forward, 1 forward for each channel"
    graph = "none"
    ways = 1
    """In how many ways the mask of a channel is used; a weight is the mean of its scores."""

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
        self.chunks = Chunks(batch_size, progress)

    def _maps(self, run: Pass) -> list[Tensor]:
        target = asked_as(run.target, self.score)
        return [
            self._map(run, target, activation, run.seen.windows[name])
            for name, activation in zip(run.seen.names, self._activations(run), strict=True)
        ]

    def _map(self, run: Pass, target: Target, activation: Tensor, window: Window) -> Tensor:
        """The map ``(N, K, *grid)`` of `activation` ``(N, C, *grid)``, which lies in `window`."""
        used = self._used(activation)
        weights = activation.new_zeros(*used.shape, run.scores.shape[1])
        pairs = used.nonzero()

        def scores(chunk: Tensor) -> Tensor:
            samples, channels, ways = chunk.unbind(1)
            masks = activation[samples, channels][:, None]
            masks = maps.place(masks, run.inputs.size, window)
            masks = run.inputs.at_places(self._varied(maps.normalize(masks), ways))
            image = run.inputs.image[samples].mul_(masks.to(run.inputs.image.dtype))
            return scores_at(run, samples, image, target)

        first, same = _distinct(pairs[:, 0], maps.normalize(activation.detach())[used])
        ways = torch.arange(self.ways, device=pairs.device)[:, None]
        run_for = pairs[first].repeat_interleave(self.ways, 0)
        run_for = torch.cat([run_for, ways.repeat(len(first), 1)], 1)
        found = [each for _, each in self.chunks.run(scores, run_for, run.inputs.image)]
        if found:
            mean = torch.cat(found).reshape(len(first), self.ways, -1).mean(1)
            weights[used] = mean[same].to(weights.dtype)
        if self.baseline is not None:
            image = run.inputs.image
            if self.baseline == "zero":
                blank = torch.zeros_like(image)
            else:
                blank = run.inputs.at_places(maps.blur(run.inputs.arranged))
            samples = torch.arange(len(image), device=image.device)
            weights = weights - scores_at(run, samples, blank, target)[:, None]
        if self.channel_softmax:
            weights = weights.where(used[..., None], -torch.inf).softmax(1)
        weights = weights.where(used[..., None], 0)
        with torch.autocast(activation.device.type, enabled=False):
            return summed_by_class(weights, activation, eigen_smooth=self.eigen_smooth)

    def _varied(self, masks: Tensor, ways: Tensor) -> Tensor:
        """`masks` ``(M, 1, *size)`` in [0, 1], as they are used in the `ways` numbered ``(M,)``."""
        return masks

    def _used(self, activation: Tensor) -> Tensor:
        """Which channels to run, bool ``(N, C)``."""
        used = ~maps.flat(activation).flatten(1)
        if self.max_channels is None or self.max_channels >= used.shape[1]:
            return used
        spread = activation.flatten(2).std(2)
        best = spread.topk(self.max_channels, 1).indices
        return used & torch.zeros_like(used).scatter(1, best, True)


class SSCAM(ScoreCAM):
    """SS-CAM: Score-CAM with noise on the masks, ``w_k = mean_s p_c(x * (H_k + e_s))``.

    Wang, Naidu, Michael and Kundu, 2020, arXiv:2006.14255, the variant with noise on the activation
    map. ``e`` is normal; the masks leave [0, 1] and are not scaled again. In the authors' code the
    mask is the resized channel, not scaled to [0, 1] at all, and the noise has a deviation of
    ``(2 / range)^2`` of that channel; here it has the paper's `sigma`, the same for all channels
    and images. That `sigma` drowns the mask and shows the network noise that it does not know;
    small ones give Score-CAM back. Weak for ten times its cost: try `Smooth` around a cheaper one.

    Args:
        samples: how many noisy masks of each channel.
        sigma: of the noise, where masks lie in [0, 1].
        seed: of the noise.
    """

    cost = "1 forward, 10 forward for each channel"

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        samples: Count = 10,
        sigma: Width = 2.0,
        seed: Seed = 0,
        **options: Unpack[ScoreOptions],
    ) -> None:
        super().__init__(model, layer, **options)
        self.ways = samples
        self.sigma = sigma
        self.seed = seed

    def _varied(self, masks: Tensor, ways: Tensor) -> Tensor:
        noise = Draws(self.seed).normal(self.ways, *masks.shape[1:])
        return masks + self.sigma * noise.to(masks)[ways]


class ISCAM(ScoreCAM):
    """IS-CAM: Score-CAM with masks from faint to full, ``w_k = mean_i p_c(x * H_k * i / N)``.

    Naidu et al., 2020, arXiv:2010.03023, with ``i`` from 1 to ``N``. As published, the factors are
    summed up on the way, ``sum_{j <= i} j / N``, up to ``(N + 1) / 2``: most pictures are then
    brighter than any the network knows; ``cumulative=True`` does so. Ten times the cost of
    Score-CAM; weak where a faint picture is no evidence of anything.

    Args:
        samples: how many factors, ``N``.
        cumulative: whether factors are summed up, as published.
    """

    cost = "1 forward, 10 forward for each channel"

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        samples: Count = 10,
        cumulative: bool = False,
        **options: Unpack[ScoreOptions],
    ) -> None:
        super().__init__(model, layer, **options)
        self.ways = samples
        self.cumulative = cumulative

    def _varied(self, masks: Tensor, ways: Tensor) -> Tensor:
        factors = torch.arange(1, self.ways + 1, device=masks.device).to(masks) / self.ways
        if self.cumulative:
            factors = factors.cumsum(0)
        return masks * beside(factors[ways], masks)


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
