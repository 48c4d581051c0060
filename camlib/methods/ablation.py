"""Maps from what the model answers when activations are changed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Unpack

import torch
from torch import Tensor, nn

from camlib import maps
from camlib.layouts import Custom, Layout, Placed, Series, Tokens
from camlib.methods.ablation_linear import Channelwise
from camlib.methods.cam import closest_classifier
from camlib.methods.components import summed_by_class
from camlib.methods.layer import LayerMethod
from camlib.methods.options import LayerOptions, ReplayingOptions
from camlib.options import Count, checked
from camlib.passes.chunks import Chunks, Progress
from camlib.passes.forward import Pass
from camlib.passes.names import Layers
from camlib.targets import Category, Target
from camlib.targets.classes import Asked, asked_as

Change = Callable[[Tensor, Tensor], Tensor]
"""From activations of samples ``(M, C, *grid)`` and a number for each to the changed ones."""


class Replaying(LayerMethod):
    """A map from running again what follows the layer, on changed activations.

    Only what follows runs; where a model defeats that, all of it, and `Explanation.replayed` says
    so. Tokens that the map does not show, such as a class token, are kept as they are.

    Args:
        batch_size: how many changed activations run at once; by default what fits into memory.
        progress: wraps the loop over batches, such as `tqdm.tqdm`.
    """

    graph = "none"
    replays = True

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        batch_size: Count | None = None,
        progress: Progress | None = None,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(model, layer, **options)
        self.chunks = Chunks(batch_size, progress)

    def _maps(self, run: Pass) -> list[Tensor]:
        return [self._map(run, n, each) for n, each in enumerate(self._activations(run))]

    @abstractmethod
    def _map(self, run: Pass, number: int, activation: Tensor) -> Tensor:
        """The map ``(N, K, *grid)`` of layer `number` from its activation ``(N, C, *grid)``."""

    def _scores(
        self, run: Pass, number: int, pairs: Tensor, change: Change, target: Target | None = None
    ) -> Tensor:
        """`changed_scores` of layer `number`."""
        layout = self._layout_at(run, number)
        return changed_scores(run, number, layout, self.chunks, pairs, change, target)

    def _layout_at(self, run: Pass, number: int) -> Layout:
        """The layout of the output of layer `number`."""
        shape = run.seen.activations()[number].shape
        return self._reading(run, run.seen.names[number], shape).layout


def changed_scores(
    run: Pass,
    number: int,
    layout: Layout,
    chunks: Chunks,
    pairs: Tensor,
    change: Change,
    target: Target | None = None,
) -> Tensor:
    """The scores ``(P, K)`` for `pairs` ``(P, 2)`` of a sample and a number for `change`.

    Args:
        run: the clean pass, with what follows its layers.
        number: of the layer.
        layout: of its output.
        chunks: how many pairs run at once.
        pairs: what to run.
        change: what becomes of the activation.
        target: what to ask instead of the target of the pass.
    """
    raw = run.seen.activations()[number]

    def scores(chunk: Tensor) -> Tensor:
        samples, numbers = chunk.unbind(1)
        whole = layout.of_samples(raw, len(run.inputs), samples)
        changed = change(layout(whole), numbers.to(raw.device))
        found = run.again(number, samples, layout.put_back(changed, whole), target)
        return found.to(raw.device)

    run.settle(number, layout, several=chunks.size != 1 or len(run.inputs) > 1)
    like = run.inputs.image, layout(raw)
    pairs = pairs.to(run.inputs.image.device)
    found = [each for _, each in chunks.run(scores, pairs, *like)]
    return torch.cat(found) if found else run.scores.new_zeros(0, run.scores.shape[1])


class AblationCAM(Replaying):
    """Ablation-CAM: a channel weighs what the score loses without it, ``w_k = y - y_{A_k := 0}``.

    Desai and Ramaswamy, WACV 2020, doi:10.1109/WACV45572.2020.9093360. The paper divides the loss
    by the score, which leaves the map as it is, or turns it around where the score is negative;
    here it is not divided. Channels that are zero lose nothing. Where global average pooling and
    one linear layer follow, the loss is ``W_ck mean(A_k)`` and nothing runs again. Where steps for
    each channel alone, a linear layer and more follow, as in VGG, that layer runs once for all
    channels, and only what comes after it for each. At the last layer, when channels are to be
    weighed by their share of the score. Weak at earlier layers, where one weight for a channel says
    little and what follows is dear to run.

    Args:
        eigen_smooth: the first principal component of the ``w_k A_k`` over positions in place of
            their sum, with the sign that makes its largest value positive: less noise, and no unit
            of the score.
    """

    cost = "1 forward, 1 forward of what follows the layer for each channel"

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        eigen_smooth: bool = False,
        **options: Unpack[ReplayingOptions],
    ) -> None:
        super().__init__(model, layer, **options)
        self.eigen_smooth = eigen_smooth

    def _map(self, run: Pass, number: int, activation: Tensor) -> Tensor:
        weights = self._closed(run, number, activation)
        if weights is None:
            alive = activation.flatten(2).any(2)
            pairs = alive.T.nonzero().flip(1)
            weights = activation.new_zeros(*alive.shape, run.scores.shape[1])
            blocks = None
            if len(pairs):
                layout = self._layout_at(run, number)
                blocks = Channelwise.of(run, number, layout, self.chunks)
            if blocks is None:
                left = self._scores(run, number, pairs, _without)
            else:
                left = blocks.scores(pairs)
            samples, channels = pairs.unbind(1)
            clean = maps.precise(run.scores).to(left.device)
            weights[samples, channels] = (clean[samples] - left).to(weights.dtype)
        with torch.autocast(activation.device.type, enabled=False):
            return summed_by_class(weights, activation, eigen_smooth=self.eigen_smooth)

    def _closed(self, run: Pass, number: int, activation: Tensor) -> Tensor | None:
        """The weights ``(N, C, K)`` where pooling and one linear layer follow."""
        if not isinstance(run.target, Category):
            return None
        closest = closest_classifier(run, run.seen.activations()[number], activation)
        if not closest.holds:
            return None
        classes = run.target.classes.reshape(len(activation), -1)
        pooled = closest.features.flatten(2).mean(2)
        return (closest.weight[classes.to(pooled.device)] * pooled[:, None]).movedim(1, 2)


class ReciproCAM(Replaying):
    """Recipro-CAM: a position is worth what the model answers when it sees that position alone.

    ``M_i = p_c(A where everything but position i is 0)``. Byun and Lee, 2022, arXiv:2209.14074; for
    vision transformers arXiv:2310.02588, where the class token stays. Where there is no gradient.
    Weak on large grids, one run for each position, and as a picture in [0, 1]: the map does not end
    at zero where nothing speaks for the class.

    With `gaussian`, a position comes with its neighbours, by the kernel ``[1 2 1] / 4`` along each
    axis; what falls over the border is lost. As in the authors' code, this is one operation in
    convolutional networks, where the features of the position itself stand at its neighbours, and
    another in transformers, where each neighbouring token keeps its own features.

    Args:
        score: ``"probability"`` (softmax) or ``"logit"`` of the class. Other targets, such as a
            function, are taken as they are.
        gaussian: whether a position comes with its neighbours. The authors' code for transformers
            does so by default, that for convolutional networks does not.
    """

    cost = "1 forward, 1 forward of what follows the layer for each position"
    rectify = False

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        score: Asked = "probability",
        gaussian: bool = False,
        **options: Unpack[ReplayingOptions],
    ) -> None:
        super().__init__(model, layer, **options)
        self.score: Asked = score
        self.gaussian = gaussian

    def _map(self, run: Pass, number: int, activation: Tensor) -> Tensor:
        count, _, *grid = activation.shape
        cells = activation[0, 0].numel()
        pairs = torch.cartesian_prod(*(torch.arange(n, device="cpu") for n in (count, cells)))
        own = _in_a_row(self._layout_at(run, number), run.seen.activations()[number])

        def alone(whole: Tensor, positions: Tensor) -> Tensor:
            flat = whole.flatten(2)
            values = flat if own else flat.take_along_dim(positions[:, None, None], 2)
            values = values.reshape(*whole.shape[:2], *(grid if own else [1] * len(grid)))
            places = torch.unravel_index(positions, grid)
            for axis, (place, length) in enumerate(zip(places, grid, strict=True)):
                shape = [len(whole), 1, *[1] * len(grid)]
                shape[2 + axis] = length
                values = values * self._line(length, place).to(values).reshape(shape)
            return values

        target = asked_as(run.target, self.score)
        found = self._scores(run, number, pairs, alone, target)
        return found.reshape(count, *grid, -1).movedim(-1, 1).to(activation.device)

    def _line(self, length: int, places: Tensor) -> Tensor:
        """What of each of `places` ``(M,)`` on a line comes to its positions, ``(M, length)``."""
        apart = (torch.arange(length, device=places.device) - places[:, None]).abs()
        return (2 - apart).clamp(min=0) / 4 if self.gaussian else apart == 0


def _in_a_row(layout: Layout, activation: Tensor) -> bool:
    """Whether `activation` is a row of tokens, as transformers have it, and no grid of its own."""
    if isinstance(layout, Custom):
        return activation.ndim == 3 and len(layout(activation).shape) > 3
    return isinstance(layout, Tokens | Series | Placed)


def _without(whole: Tensor, channels: Tensor) -> Tensor:
    """`whole` ``(M, C, *grid)`` with one of `channels` ``(M,)`` of each set to zero."""
    kept = torch.arange(whole.shape[1], device=whole.device) != channels[:, None]
    return whole.where(kept.reshape(*kept.shape, *[1] * (whole.ndim - 2)), 0)
