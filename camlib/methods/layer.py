"""Maps from what a layer saw."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor, nn

from camlib import maps
from camlib.errors import GraphError, LayerError, LayoutError, TargetError
from camlib.layers import default_layer, first_pass, last_layer
from camlib.layouts import ChannelsFirst, Layout, adapted
from camlib.layouts.reading import reading_of, visited
from camlib.layouts.recognition import Reading
from camlib.maps import Fuse
from camlib.methods.components import summed
from camlib.methods.heatmap import MapMethod
from camlib.methods.options import LayerOptions, MapOptions
from camlib.options import checked
from camlib.passes.capture import Graph
from camlib.passes.forward import GRAPHS, Pass
from camlib.passes.inputs import Inputs
from camlib.passes.names import Layers, check_ran, names, unwrap
from camlib.passes.replay import Needs, Tail
from camlib.targets import Target
from camlib.targets.saturation import saturated

__all__ = ["GradientWeighted", "LayerMethod"]

Weights = Callable[[Tensor, Tensor], Tensor]
"""From an activation ``(N, C, *grid)`` and the gradient at it: weights that broadcast to it."""


class LayerMethod(MapMethod):
    """A map from the activations of a layer.

    Args:
        model: any network; wrapped, compiled, frozen or training.
        layer: a module of `model`, its dotted name, a list of either, or ``None``: the last layer
            that has a grid and a gradient, found in the first call.
        fuse: how the maps of several layers become one: ``"mean"``, ``"max"``, ``"product"``,
            ``"geometric"``, ``"log_exp"``, ``"exp_mean"``, ``"scaled_max"``, ``"sum"``, as
            `camlib.maps.fuse` has them; ``None`` returns each, ``(N, L, H, W)``.
        layout: turns an activation into ``(N, C, *grid)``; recognised from its shape by default.

    Raises:
        LayerError: a layer is not in `model`.
        ModelError: `model` is not a module, or scripted.
    """

    graph: ClassVar[Graph] = "tail"
    """What autograd records on the clean pass."""

    replays: ClassVar[bool] = False
    """Whether what follows the layer runs again, on changed activations."""

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        fuse: Fuse = "mean",
        layout: Layout | Callable[[Tensor], Tensor] | None = None,
        **options: Unpack[MapOptions],
    ) -> None:
        super().__init__(model, **options)
        self.layers = names(unwrap(model), layer)
        self._chosen = not self.layers
        self.fuse = fuse
        self.layout = None if layout is None else adapted(layout)
        self._readings: dict[Any, Reading] = {}
        self._needs: dict[Any, Needs] = {}
        self._advice: dict[str, str] = {}

    @abstractmethod
    def signed_maps(self, run: Pass) -> list[Tensor]:
        """The signed map of each layer, ``(N, K, *grid)``, in units of the score."""

    def values(
        self,
        model: nn.Module,
        given: Inputs,
        target: Any,
        rule: AbstractContextManager[Any] | None = None,
    ) -> tuple[Pass, list[Tensor]]:
        """The clean pass and its maps, at a layer found for these inputs if none was given.

        With `rule`, the pass is in its context, and gradients at the image can follow.
        """
        wanted = target
        if target is None and not self.asks and rule is None:
            target = Unasked(len(given), given.image.device)
        if not self._chosen:
            layers = self.beside(model, given, self.layers)
            return self._from(layers, model, given, target, rule)
        earlier = None
        if self.layers:
            with suppress(GraphError, LayerError):
                earlier = self._from(self.layers, model, given, target, rule)
                shown = all(each.flatten(1).any(1).all() for each in earlier[1])
                if shown or saturated(earlier[0].output, earlier[0].target):
                    return earlier
        # What was found for other inputs may say nothing here: another level of a pyramid does.
        try:
            name, run = self._default(model, given, wanted)
        except (GraphError, LayerError):
            if earlier is None:
                raise
            return earlier
        self.layers = self.beside(model, given, (name,))
        alone = self.layers == (name,) and self.graph == "tail"
        if run is not None and alone and not (self.differentiable or rule):
            with suppress(GraphError):
                return run, self.signed_maps(run)
        return self._from(self.layers, model, given, target, rule)

    def beside(self, model: nn.Module, given: Inputs, layers: tuple[str, ...]) -> tuple[str, ...]:
        """The layers that the map takes where `layers` are given or found: these alone."""
        return layers

    def _default(self, model: nn.Module, given: Inputs, target: Any) -> tuple[str, Pass | None]:
        """The layer that is taken where none was given, and a pass that captured it, if any did."""
        try:
            return first_pass(model, given, target, needed=self.graph != "none")
        except (GraphError, TargetError) as error:
            check_ran(model, visited(model, given)[0])
            asked = self.asks or target is not None
            if self.graph != "none" or (isinstance(error, TargetError) and asked):
                raise
            return last_layer(model, given), None

    def parts(self, run: Pass, inputs: Inputs, target: Target) -> tuple[Pass, list[Tensor]]:
        """A pass on changed inputs and its maps, at the layers of the clean pass."""
        return self._from(run.seen.names, run.model, inputs, target)

    def _from(
        self,
        layers: tuple[str, ...],
        model: nn.Module,
        given: Inputs,
        target: Any,
        rule: AbstractContextManager[Any] | None = None,
        read: Callable[[Pass], list[Tensor]] | None = None,
    ) -> tuple[Pass, list[Tensor]]:
        """A pass and what `read` finds at `layers`, the maps by default."""
        read = read or self.signed_maps
        known = {name for name, _, form in self._readings if form == given.form}
        record = not known.issuperset(layers)
        graphs = (self.graph,) if self.graph == "none" else GRAPHS
        for graph in ("whole",) if self.differentiable or rule else graphs:
            tails = [self._tail(model, name, given) for name in layers if self.replays]
            try:
                run = Pass.of(model, given, target, layers, graph, rule, record=record, tails=tails)
            except LayerError:
                check_ran(model, visited(model, given)[0])
                raise
            if run.seen.interrupted and graph == "tail":
                continue
            try:
                return run, read(run)
            except GraphError:
                if graph == "whole":
                    raise
        raise AssertionError("the whole graph comes last")

    def _tail(self, model: nn.Module, name: str, given: Inputs) -> Tail:
        """What follows the layer `name`, with what earlier calls found out about it."""
        return Tail(model, name, self._needs.setdefault((name, given.image.shape[1:]), Needs()))

    def activations(self, run: Pass) -> list[Tensor]:
        """The activation of each layer, ``(N, C, *grid)``, in float32 at least."""
        return [
            maps.precise(self._arranged(run, name, tensor))
            for name, tensor in zip(run.seen.names, run.seen.activations(), strict=True)
        ]

    def by_class(
        self,
        run: Pass,
        activations: list[Tensor],
        function: Callable[[Tensor, Tensor], Tensor],
    ) -> list[Tensor]:
        """What `function` makes of a layer's activation and gradients, for each ``(N, K, ...)``.

        Args:
            run: the clean pass.
            activations: ``(N, C, *grid)`` of each layer.
            function: from activations ``(M, C, *grid)`` and the gradients of ``M`` scores at them,
                float32 at least, to ``(M, ...)``.
        """
        chunks: list[list[Tensor]] = [[] for _ in activations]
        for gradients in self.gradients(run):
            for name, activation, gradient, chunk in zip(
                run.seen.names, activations, gradients, chunks, strict=True
            ):
                reading = self._reading(run, name, gradient.shape[1:])
                if not isinstance(reading.layout, ChannelsFirst):
                    gradient = torch.stack([self._arranged(run, name, each) for each in gradient])
                with torch.autocast(activation.device.type, enabled=False):
                    chunk.append(_for_each(function, activation, maps.precise(gradient)))
        return [torch.cat(chunk, 1) for chunk in chunks]

    def _weighted(
        self, run: Pass, activations: list[Tensor], weigh: Weights, *, eigen_smooth: bool = False
    ) -> list[Tensor]:
        """The maps of `activations`, one ``(N, C, *grid)`` a layer, weighted by the gradients.

        Args:
            run: the pass.
            activations: of each layer.
            weigh: from an activation and the gradient at it to the weights.
            eigen_smooth: whether the first principal component stands for the sum.
        """

        def weighted(activation: Tensor, gradient: Tensor) -> Tensor:
            return summed(weigh(activation, gradient), activation, eigen_smooth=eigen_smooth)

        return self.by_class(run, activations, weighted)

    def _derivatives(self, run: Pass) -> list[Tensor]:
        """The gradient at each layer, ``(N, K, C, *grid)``, in float32 at least."""
        chunks: list[list[Tensor]] = [[] for _ in run.seen.names]
        for gradients in self.gradients(run):
            for name, gradient, chunk in zip(run.seen.names, gradients, chunks, strict=True):
                arranged = [self._arranged(run, name, each) for each in gradient]
                chunk.append(maps.precise(torch.stack(arranged, 1)))
        return [torch.cat(chunk, 1) for chunk in chunks]

    def gradients(self, run: Pass) -> Iterator[list[Tensor]]:
        """What `weights` gets as the gradient: for each layer ``(k, N, ...)``, the next k classes.

        A subclass may look further than the first derivative.
        """
        return run.seen.gradients(run.scores, create_graph=self.differentiable)

    def _reading(self, run: Pass, name: str, shape: torch.Size) -> Reading:
        """How what layer `name` returned, of `shape`, is read."""
        key = name, shape[1:], run.inputs.form
        known = self._readings.get(key, run.readings.get(key))
        if known is not None:
            return known
        reading = reading_of(run.model, run.inputs, run.order, name, shape, self.layout)
        (self._readings if reading.lasting else run.readings)[key] = reading
        return reading

    def _arranged(self, run: Pass, name: str, tensor: Tensor) -> Tensor:
        """`tensor`, which came from layer `name`, as ``(N, C, *grid)``."""
        reading = self._reading(run, name, tensor.shape)
        run.seen.windows[name] = reading.window
        arranged = reading.layout(tensor)
        if arranged.ndim != len(run.inputs.size) + 2 or len(arranged) != len(run.inputs):
            raise LayoutError(
                f"layer {name!r}: the layout made {tuple(arranged.shape)} of "
                f"{tuple(tensor.shape)}; expected (N, C, *grid) with N={len(run.inputs)} and "
                f"{len(run.inputs.size)} axes in the grid"
            )
        return arranged

    def advice(self, run: Pass, layer: str) -> str:
        """Another layer; sought once."""
        if layer not in self._advice:
            self._advice[layer] = "another layer may know more"
            # The map is there already. What it takes to name a better layer, such as a backward
            # pass, may be what the model cannot do, and must not cost the map.
            with suppress(Exception):
                asked = None if isinstance(run.target, Unasked) else run.target
                name = default_layer(run.model, run.inputs, asked)
                if name != layer:
                    self._advice[layer] = f"layer {name!r} may know more"
        return self._advice[layer]

    def __repr__(self) -> str:
        layer = ", ".join(map(repr, self.layers)) or "None, chosen in the first call"
        return f"{type(self).__name__}({type(unwrap(self.model)).__name__}, layer={layer})"


class Unasked(Target):
    """No question: a score of NaN for each of `count` samples.

    Args:
        count: the number of samples.
        device: of the scores.
    """

    asks = False

    @checked
    def __init__(self, count: int, device: torch.device) -> None:
        self.count = count
        self.device = device

    def __call__(self, output: Any) -> Tensor:
        """NaN, ``(N,)``."""
        return torch.full((self.count,), torch.nan, dtype=torch.float32, device=self.device)

    def __getitem__(self, samples: Tensor) -> Unasked:
        """The same for as many samples."""
        return self.replaced(count=len(samples))


class GradientWeighted(LayerMethod):
    """A map weighted by gradients: ``relu(sum_k w_k A_k)``.

    A subclass gives the weights and nothing else.

    Args:
        eigen_smooth: the first principal component of the ``w_k A_k`` over positions in place of
            their sum, with the sign that makes its largest value positive: less noise, and no unit
            of the score.
    """

    cost = "1 forward, 1 backward of what follows the layer"

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        eigen_smooth: bool = False,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(model, layer, **options)
        self.eigen_smooth = eigen_smooth

    @abstractmethod
    def weights(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """The weights of an activation from the gradient of the score at it.

        Both are ``(N, C, *grid)`` and float32; the weights broadcast to that shape.
        """

    def signed_maps(self, run: Pass) -> list[Tensor]:
        """The activations, weighted by the gradients."""
        return self._weighted(
            run, self.activations(run), self.weights, eigen_smooth=self.eigen_smooth
        )


def _for_each(function: Callable[..., Tensor], activation: Tensor, gradient: Tensor) -> Tensor:
    """``(N, k, ...)`` of `activation` ``(N, ...)`` and `gradient` ``(k, N, ...)``.

    Classes or samples, whichever are fewer, go one by one: no activation is copied for a class.
    """
    classes, samples = gradient.shape[:2]
    if classes <= samples:
        return torch.stack([function(activation, each) for each in gradient], 1)
    return torch.stack(
        [
            function(one.expand(classes, *one.shape), each)
            for one, each in zip(activation, gradient.unbind(1), strict=True)
        ]
    )
