"""What every method is: a model, a layer, and `explain`; and what it returns."""

from __future__ import annotations

import inspect
import math
import re
import warnings
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd

from camlib import maps, targets
from camlib.capture import Capture, Graph, Visit, capture, gradients, visits
from camlib.errors import CamlibWarning, GraphError, InputError, LayerError, LayoutError
from camlib.inputs import Inputs, detached
from camlib.layers import Layers, find, names, unwrap, up_to
from camlib.layouts import Layout, recognize
from camlib.maps import Fuse, Normalize
from camlib.modes import explaining
from camlib.targets import Target

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_GRAPHS: tuple[Graph, ...] = ("tail", "whole")
"""What to record, in order of cost. A model whose own ``no_grad`` block ends after the layer takes
the graph with it; if the graph is on before that block, it is on again after it."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """Everything one call knows, for ``N`` samples.

    Several classes a sample add an axis ``K`` after ``N`` to everything but `output`.

    Attributes:
        heatmap: what the method's call returns: ``(N, H, W)`` in [0, 1] at the input's size, or the
            attribution ``(N, C, H, W)`` of a pixel method.
        map: the method's map at the layer's own grid ``(N, h, w)``, in units of the score, after
            the ReLU its paper has. For several layers, the fused map at the finest of their grids.
        maps: the map of each layer at its own grid, in the order of `layers`.
        score: the scores explained, ``(N,)``.
        target: the classes explained, ``(N,)``; ``None`` where the target is no class.
        output: what the model returned, detached.
        layers: dotted names of the layers.
        method: name of the method.
    """

    heatmap: Tensor
    map: Tensor
    maps: tuple[Tensor, ...]
    score: Tensor
    target: Tensor | None
    output: Any
    layers: tuple[str, ...]
    method: str

    def overlay(self, images: Any, **options: Any) -> Any:
        """The heatmaps blended onto `images`, as `camlib.overlay` does it.

        Args:
            images: what was explained: a batch ``(N, C, H, W)`` in [0, 1] or uint8, or one image
                of any kind that `camlib.overlay` takes.
            options: of `camlib.overlay`.
        """
        from camlib.visual import overlay

        return overlay(images, self.heatmap, **options)

    def figure(self, images: Any = None, **options: Any) -> Figure:
        """The heatmaps beside `images` if given, as `camlib.visual.figure` draws them."""
        from camlib.visual import figure

        return figure(images, {self.method: self}, **options)

    def show(self, images: Any = None, **options: Any) -> None:
        """Display the figure, in a notebook."""
        from IPython.display import display

        display(self.figure(images, **options))

    def save(self, path: str | Path, images: Any = None, **options: Any) -> None:
        """Write the figure to `path`; the suffix says the format."""
        from camlib.visual import save_picture

        save_picture(self.figure(images, **options), path)

    def _repr_png_(self) -> bytes | None:
        from camlib.visual import to_png

        try:
            return to_png(self.figure())
        except InputError:  # maps of series and volumes are no pictures; a notebook shows the repr
            return None

    def __repr__(self) -> str:
        shape = tuple(self.heatmap.shape)
        target = None if self.target is None else self.target.tolist()
        return f"Explanation({self.method}, heatmap={shape}, target={target}, layers={self.layers})"


@dataclass(frozen=True, eq=False)
class Pass:
    """One forward pass on the clean input.

    Attributes:
        model: without wrappers.
        inputs: what the model was called with.
        seen: what the layers returned.
        output: what the model returned.
        target: what is explained, resolved.
        scores: ``(N, K)``, with their graph.
        shape: ``()`` for one score a sample, ``(K,)`` for several.
    """

    model: nn.Module
    inputs: Inputs
    seen: Capture
    output: Any
    target: Target
    scores: Tensor
    shape: tuple[int, ...]

    @classmethod
    def of(
        cls, model: nn.Module, inputs: Inputs, target: Any, layers: tuple[str, ...], graph: Graph
    ) -> Pass:
        """The pass, `target` resolved on its output."""
        with capture(model, layers, graph=graph) as seen:
            output = inputs.run(model)
            seen.activations()
            # A model that leaves a no_grad block of its own leaves the hook's grad mode with it.
            with torch.set_grad_enabled(graph != "none"):
                chosen = targets.resolve(target, output, len(inputs))
                scores = chosen(output)
                shape = tuple(scores.shape[1:])
                scores = scores.reshape(len(inputs), -1)
        return cls(model, inputs, seen, output, chosen, scores, shape)


class Method(ABC):
    """A way to explain what `model` answers. The model is never changed."""

    cost: ClassVar[str]
    """Forward and backward passes of a call."""

    model: nn.Module

    @abstractmethod
    def explain(self, inputs: Any, target: Any = None) -> Explanation:
        """Everything one call knows; the arguments are those of the call."""

    @classmethod
    def paper(cls) -> str:
        """The source, as the docstring cites it: the sentence up to the first arXiv or DOI."""
        text = " ".join((inspect.getdoc(cls) or "").split())
        number = re.search(r"(?:arXiv|doi):[^\s,;)]*[^\s,;).]", text)
        return text[: number.end()].rpartition(". ")[2] if number else ""

    def __enter__(self) -> Self:
        """A courtesy: there is nothing to open or close."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close; errors pass."""
        return


class LayerMethod(Method):
    """A map from the activations of a layer.

    Args:
        model: any network; wrapped, compiled, frozen or training.
        layer: a module of `model`, its dotted name, a list of either, or ``None``: the last layer
            that has a grid and a gradient, found in the first call.
        fuse: how the maps of several layers become one: ``"mean"``, ``"max"``, ``"product"``,
            ``"scaled_max"``; ``None`` returns each, ``(N, L, H, W)``.
        layout: turns an activation into ``(N, C, *grid)``; recognised from its shape by default.
        differentiable: keep the graph, so that a heatmap can stand in a loss.
        relu: whether negative evidence is cut off; by default as in the method's paper.
        resize: whether a call returns maps at the input's size, or at the layer's grid.
        normalize: ``True`` for [0, 1], ``"max"`` to divide by the largest value only, ``False``
            for units of the score.

    Raises:
        LayerError: a layer is not in `model`.
        ModelError: `model` is not a module.
    """

    graph: ClassVar[Graph] = "tail"
    """What autograd records on the clean pass."""

    rectify: ClassVar[bool] = True
    """Whether the paper's map ends with a ReLU."""

    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        fuse: Fuse = "mean",
        layout: Layout | None = None,
        differentiable: bool = False,
        relu: bool | None = None,
        resize: bool = True,
        normalize: Normalize = True,
    ) -> None:
        self.model = model
        self.layers = names(unwrap(model), layer)
        self.fuse: Fuse = fuse
        self.layout = layout
        self.differentiable = differentiable
        self.relu = self.rectify if relu is None else relu
        self.resize = resize
        self.normalize: Normalize = normalize

    def __call__(
        self,
        inputs: Any,
        target: Any = None,
        *,
        relu: bool | None = None,
        resize: bool | None = None,
        normalize: Normalize | None = None,
    ) -> Tensor:
        """Where the model looked: a heatmap for each sample.

        Args:
            inputs: images ``(N, C, H, W)``, series ``(N, C, L)`` or volumes ``(N, C, D, H, W)``; a
                tuple of positional or a mapping of keyword arguments with one in it.
            target: what to explain: ``None`` for the predicted class, a class, one class a sample,
                ``(N, K)`` classes, a `camlib.targets.Target`, or a function of the model's output
                that returns ``(N,)`` or ``(N, K)``.
            relu: overrides the method's own setting, as do `resize` and `normalize`.
            resize: see `relu`.
            normalize: see `relu`.

        Returns:
            ``(N, H, W)`` float32 in [0, 1] on the input's device; ``(N, K, H, W)`` for several
            classes a sample. A flat map gives zeros.

        Raises:
            CamlibError: the inputs, the target or the layer do not fit the model; see the message.
        """
        return self.explain(inputs, target, relu=relu, resize=resize, normalize=normalize).heatmap

    def explain(
        self,
        inputs: Any,
        target: Any = None,
        *,
        relu: bool | None = None,
        resize: bool | None = None,
        normalize: Normalize | None = None,
    ) -> Explanation:
        """Everything one call knows; the arguments are those of the call."""
        given = Inputs.of(inputs)
        model = unwrap(self.model)
        relu = self.relu if relu is None else relu
        resize = self.resize if resize is None else resize
        normalize = self.normalize if normalize is None else normalize
        with explaining(model, given.image.device):
            with torch.inference_mode(False), torch.set_grad_enabled(self.differentiable):
                if not self.layers:
                    self.layers = (default_layer(model, given, target),)
                run, signed = self._explained(model, given, target)
                # A model spread over devices leaves its maps where the layers are.
                found = [(m.relu() if relu else m).to(given.image.device) for m in signed]
                if not self.differentiable:
                    _examine(found, self.layers)
                shape = len(given), *run.shape
                fused = self._fused(found, max((m.shape[2:] for m in found), key=torch.Size.numel))
                heat = self._fused(found, given.size) if resize else fused
                apart = heat.flatten(1, -1 - len(given.size))
                heat = maps.normalize(apart, normalize).reshape(heat.shape)
        return Explanation(
            heatmap=heat.reshape(*shape, *heat.shape[2:]),
            map=fused.reshape(*shape, *fused.shape[2:]),
            maps=tuple(m.reshape(*shape, *m.shape[2:]) for m in found),
            score=maps.precise(run.scores.detach()).reshape(shape),
            target=run.target.classes,
            output=detached(run.output),
            layers=self.layers,
            method=type(self).__name__,
        )

    @abstractmethod
    def _maps(self, run: Pass) -> list[Tensor]:
        """The signed map of each layer, ``(N, K, *grid)``, in units of the score."""

    def _explained(self, model: nn.Module, given: Inputs, target: Any) -> tuple[Pass, list[Tensor]]:
        """The clean pass and its maps."""
        graphs = (self.graph,) if self.graph == "none" else _GRAPHS
        for graph in ("whole",) if self.differentiable else graphs:
            run = Pass.of(model, given.owned(), target, self.layers, graph)
            try:
                return run, self._maps(run)
            except GraphError:
                if graph == "whole":
                    raise
        raise AssertionError("the whole graph comes last")

    def _fused(self, found: list[Tensor], size: torch.Size | tuple[int, ...]) -> Tensor:
        return maps.fuse([maps.resize(m, size) for m in found], self.fuse)

    def _activations(self, run: Pass) -> list[Tensor]:
        """The activation of each layer, ``(N, C, *grid)``, in float32 at least."""
        return [
            maps.precise(self._arranged(run, name, tensor))
            for name, tensor in zip(run.seen.names, run.seen.activations(), strict=True)
        ]

    def _arranged(self, run: Pass, name: str, tensor: Tensor) -> Tensor:
        layout = self.layout
        if layout is None:
            _, module = find(run.model, name)
            try:
                layout = recognize(tensor.shape, run.inputs.size, up_to(run.model, module))
            except LayoutError as error:
                raise LayoutError(f"layer {name!r}: {error}") from None
        arranged = layout(tensor)
        if arranged.ndim != run.inputs.image.ndim:
            raise LayoutError(
                f"layer {name!r}: the layout made {tuple(arranged.shape)} of "
                f"{tuple(tensor.shape)}; expected (N, C, *grid) with {len(run.inputs.size)} axes "
                "in the grid"
            )
        return arranged

    def __repr__(self) -> str:
        layer = ", ".join(map(repr, self.layers)) or "None, chosen in the first call"
        return f"{type(self).__name__}({type(unwrap(self.model)).__name__}, layer={layer})"


class GradientWeighted(LayerMethod):
    """A map weighted by gradients: ``relu(sum_k w_k A_k)``.

    A subclass gives the weights and nothing else.
    """

    cost = "1 forward, 1 backward of what follows the layer"

    @abstractmethod
    def weights(self, activation: Tensor, gradient: Tensor) -> Tensor:
        """The weights of an activation from the gradient of the score at it.

        Both are ``(N, C, *grid)`` and float32; the weights broadcast to that shape.
        """

    def _maps(self, run: Pass) -> list[Tensor]:
        activations = self._activations(run)
        chunks: list[list[Tensor]] = [[] for _ in activations]
        for gradients_ in run.seen.gradients(run.scores, create_graph=self.differentiable):
            for name, activation, gradient, chunk in zip(
                run.seen.names, activations, gradients_, chunks, strict=True
            ):
                chunk.append(self._weighted(run, name, activation, gradient))
        return [torch.cat(chunk, 1) for chunk in chunks]

    def _weighted(self, run: Pass, name: str, activation: Tensor, gradient: Tensor) -> Tensor:
        """The maps ``(N, k, *grid)`` of ``k`` classes, `gradient` ``(k, N, ...)``."""
        classes = len(gradient)
        gradient = maps.precise(self._arranged(run, name, gradient.flatten(0, 1)))
        activation = activation.expand(classes, *activation.shape).flatten(0, 1)
        with torch.autocast(activation.device.type, enabled=False):
            found = maps.weighted_sum(self.weights(activation, gradient), activation)
        return found.reshape(classes, -1, *found.shape[1:]).movedim(0, 1)


class PixelMethod(Method):
    """An attribution of the input itself.

    Args:
        model: any network; wrapped, compiled, frozen or training.

    Raises:
        ModelError: `model` is not a module.
    """

    def __init__(self, model: nn.Module) -> None:
        unwrap(model)
        self.model = model

    def __call__(self, inputs: Any, target: Any = None) -> Tensor:
        """What each input value contributes: a signed attribution for each sample.

        Args:
            inputs: images ``(N, C, H, W)``, series or volumes; a tuple of positional or a mapping
                of keyword arguments with one in it.
            target: what to explain, as for every method.

        Returns:
            ``(N, C, H, W)`` float32 on the input's device, signed, not normalised;
            ``(N, K, C, H, W)`` for several classes a sample.

        Raises:
            CamlibError: the inputs or the target do not fit the model; see the message.
        """
        return self.explain(inputs, target).heatmap

    def explain(self, inputs: Any, target: Any = None) -> Explanation:
        """Everything one call knows; the arguments are those of the call."""
        given = Inputs.of(inputs)
        model = unwrap(self.model)
        with explaining(model, given.image.device):
            run, attribution = self._attributed(model, given, target)
        shape = len(given), *run.shape
        attribution = maps.precise(attribution).reshape(*shape, *attribution.shape[2:])
        return Explanation(
            heatmap=attribution,
            map=attribution,
            maps=(attribution,),
            score=maps.precise(run.scores.detach()).reshape(shape),
            target=run.target.classes,
            output=detached(run.output),
            layers=(),
            method=type(self).__name__,
        )

    @abstractmethod
    def _attributed(self, model: nn.Module, given: Inputs, target: Any) -> tuple[Pass, Tensor]:
        """The clean pass and the attribution ``(N, K, C, *size)``."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(unwrap(self.model)).__name__})"


def input_gradients(
    model: nn.Module, given: Inputs, target: Any, rule: AbstractContextManager[Any] | None = None
) -> tuple[Pass, Tensor]:
    """The clean pass, and the gradient of each score at the image, ``(N, K, C, *size)``.

    Args:
        model: without wrappers.
        given: the arguments of its call.
        target: what to explain.
        rule: a context in which the model runs.
    """
    with torch.inference_mode(False), torch.enable_grad():
        image = given.image.detach().clone().requires_grad_()
        with rule or nullcontext():
            run = Pass.of(model, given.owned().with_image(image.clone()), target, (), "whole")
        found = [gradient for [gradient] in gradients(run.scores, [image], ["the input"])]
    return run, torch.cat(found).movedim(0, 1)


def default_layer(model: nn.Module, given: Inputs, target: Any = None) -> str:
    """The last layer of `model` that has a grid and a gradient for these inputs.

    Raises:
        LayerError: there is none.
    """
    candidates = grids(model, given)
    for graph, visit in product(_GRAPHS, reversed(candidates)):
        try:
            run = Pass.of(model, given.owned(), target, (visit.name,), graph)
            if any(gradient.any() for [gradient] in run.seen.gradients(run.scores)):
                return visit.name
        except GraphError:
            continue
    raise LayerError(
        f"{type(model).__name__} has no layer with a grid and a gradient for inputs of size "
        f"{given.size}; pass layer="
    )


def grids(model: nn.Module, given: Inputs) -> list[Visit]:
    """The layers of `model` with a grid of more than one position, in the order they finish."""
    with visits(model) as order:
        given.owned().run(model)
    return [visit for visit in order if _has_grid(model, visit, given)]


def _has_grid(model: nn.Module, visit: Visit, given: Inputs) -> bool:
    try:
        layout = recognize(visit.shape, given.size, up_to(model, visit.module))
    except LayoutError:
        return False
    # A pooling to a fixed size may even enlarge: its grid is not that of what it pools.
    pooled = isinstance(visit.module, _AdaptiveAvgPoolNd | _AdaptiveMaxPoolNd)
    several = math.prod(layout.grid(visit.shape)) > 1
    return visit.shape[0] == len(given) and several and not pooled


def _examine(found: list[Tensor], layers: tuple[str, ...]) -> None:
    """Refuse maps that are not finite; warn of maps that are zero everywhere."""
    states = [torch.stack([~m.isfinite().all(), (m == 0).flatten(2).all(2).any()]) for m in found]
    for name, (broken, empty) in zip(layers, torch.stack(states).tolist(), strict=True):
        if broken:
            raise InputError(
                f"the map at layer {name!r} is not finite: the inputs or the model's values hold "
                "NaN or infinity, or overflow in half precision; look for them with torch.isfinite"
            )
        if empty:
            warnings.warn(
                f"a map at layer {name!r} is zero everywhere: nothing there speaks for the target; "
                "relu=False shows what speaks against it, another layer may know more",
                CamlibWarning,
                stacklevel=4,
            )
