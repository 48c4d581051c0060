"""What every method is: a model, perhaps a layer, and `explain`."""

from __future__ import annotations

import inspect
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from camlib import maps
from camlib.capture import Graph
from camlib.errors import (
    CamlibError,
    GraphError,
    InputError,
    LayerError,
    LayoutError,
    warn,
)
from camlib.forward import GRAPHS, Pass
from camlib.inputs import Inputs, detached
from camlib.layers import default_layer, layout_of
from camlib.layouts import ChannelsFirst, Layout
from camlib.maps import Fuse, Normalize
from camlib.methods.explanation import Explanation
from camlib.modes import explaining
from camlib.modules import Layers, names, unwrap
from camlib.replay import Needs, Tail


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
        """The source, as the docstring cites it: the sentence up to the first arXiv or DOI.

        ``"no paper"`` where there is none.
        """
        text = " ".join((inspect.getdoc(cls) or "").split())
        number = re.search(r"(?:arXiv|doi):[^\s,;)]*[^\s,;).]", text)
        return text[: number.end()].rpartition(". ")[2] if number else "no paper"

    def __enter__(self) -> Self:
        """A courtesy: there is nothing to open or close."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close; errors pass."""
        return


class MapMethod(Method):
    """A heatmap for each sample.

    Args:
        model: any network; wrapped, compiled, frozen or training.
        differentiable: keep the graph, so that a heatmap can stand in a loss.
        relu: whether negative evidence is cut off; by default as in the method's paper, and not
            for a target whose sign says as much (`camlib.targets.Regression`).
        resize: whether a call returns maps at the input's size, or at the layer's grid.
        normalize: ``True`` for [0, 1], ``"max"`` to divide by the largest value only,
            ``"centered"`` for [0, 1] with 0.5 for "no evidence", ``False`` for units of the score;
            by default ``True``, or ``"centered"`` where such a target's sign is kept.

    Raises:
        InputError: an option has no such value.
        ModelError: `model` is not a module.
    """

    rectify: ClassVar[bool] = True
    """Whether the paper's map ends with a ReLU."""

    fuse: Fuse = "mean"
    """How the maps of several layers become one."""

    def __init__(
        self,
        model: nn.Module,
        *,
        differentiable: bool = False,
        relu: bool | None = None,
        resize: bool = True,
        normalize: Normalize | None = None,
    ) -> None:
        unwrap(model)
        maps.check(fuse=self.fuse, normalize=normalize)
        self.model = model
        self.differentiable = differentiable
        self.relu = relu
        self.resize = resize
        self.normalize: Normalize | None = normalize

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
            classes a sample. A flat map gives zeros, or 0.5 where the sign is kept and it is zero.

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
        maps.check(fuse=self.fuse, normalize=normalize)
        with explaining(model, given.image.device):
            with torch.inference_mode(False), torch.set_grad_enabled(self.differentiable):
                run, signed = self._explained(model, given, target)
                run.seen.warn_of_repeats()
                if relu is None:
                    relu = self.rectify and not run.target.signed
                if normalize is None:
                    normalize = "centered" if run.target.signed and not relu else True
                # A model spread over devices leaves its maps where the layers are.
                found = [(m.relu() if relu else m).to(given.image.device) for m in signed]
                if not self.differentiable:
                    self._examine(run, signed, found)
                shape = len(given), *run.shape
                fused = self._fused(found, max((m.shape[2:] for m in found), key=math.prod))
                heat = fused
                if resize:
                    heat = self._fused(found, given.size, run.seen.shown)
                apart = heat.flatten(1, -1 - len(given.size))
                heat = maps.normalize(apart, normalize).reshape(heat.shape)
        return Explanation(
            heatmap=heat.reshape(*shape, *heat.shape[2:]),
            map=fused.reshape(*shape, *fused.shape[2:]),
            maps=tuple(m.reshape(*shape, *m.shape[2:]) for m in found),
            score=maps.precise(run.scores.detach()).reshape(shape),
            target=run.target.classes,
            output=detached(run.output),
            layers=run.seen.names,
            method=type(self).__name__,
            size=given.size,
            replayed=run.replayed,
        )

    @abstractmethod
    def _explained(self, model: nn.Module, given: Inputs, target: Any) -> tuple[Pass, list[Tensor]]:
        """The clean pass and its signed maps ``(N, K, *grid)``, in units of the score."""

    @abstractmethod
    def _better(self, run: Pass, layer: str) -> str:
        """What else to try where `layer` shows nothing."""

    def _fused(
        self, found: list[Tensor], size: Sequence[int], shown: Sequence[float] = ()
    ) -> Tensor:
        return maps.fuse([maps.resize(m, size, shown) for m in found], self.fuse)

    def _examine(self, run: Pass, signed: list[Tensor], found: list[Tensor]) -> None:
        """Refuse maps that are not finite; warn of maps that are zero everywhere."""
        states = [
            torch.stack([~m.isfinite().all(), _zero(m), _zero(s).to(m.device)])
            for m, s in zip(found, signed, strict=True)
        ]
        for name, (broken, empty, idle) in zip(
            run.seen.names or ("",), torch.stack(states).tolist(), strict=True
        ):
            where = f"at layer {name!r}" if name else f"of {type(self).__name__}"
            if broken:
                raise InputError(_NOT_FINITE.format(f"the map {where}"))
            if empty:
                against = "" if idle else "relu=False shows what speaks against it; "
                warn(
                    f"a map {where} is zero everywhere: nothing there speaks for the target; "
                    f"{against}{self._better(run, name)}"
                )


class LayerMethod(MapMethod):
    """A map from the activations of a layer.

    Args:
        model: any network; wrapped, compiled, frozen or training.
        layer: a module of `model`, its dotted name, a list of either, or ``None``: the last layer
            that has a grid and a gradient, found in the first call.
        fuse: how the maps of several layers become one: ``"mean"``, ``"max"``, ``"product"``,
            ``"scaled_max"``; ``None`` returns each, ``(N, L, H, W)``.
        layout: turns an activation into ``(N, C, *grid)``; recognised from its shape by default.
        options: see `MapMethod`.

    Raises:
        InputError: an option has no such value.
        LayerError: a layer is not in `model`.
        ModelError: `model` is not a module, or scripted.
    """

    graph: ClassVar[Graph] = "tail"
    """What autograd records on the clean pass."""

    replays: ClassVar[bool] = False
    """Whether what follows the layer runs again, on changed activations."""

    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        fuse: Fuse = "mean",
        layout: Layout | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        maps.check(fuse=fuse, normalize=self.normalize)
        self.layers = names(unwrap(model), layer)
        self._chosen = not self.layers
        self.fuse = fuse
        self.layout = layout
        self._layouts: dict[Any, Layout] = {}
        self._needs: dict[Any, Needs] = {}
        self._advice: dict[str, str] = {}

    @abstractmethod
    def _maps(self, run: Pass) -> list[Tensor]:
        """The signed map of each layer, ``(N, K, *grid)``, in units of the score."""

    def _explained(self, model: nn.Module, given: Inputs, target: Any) -> tuple[Pass, list[Tensor]]:
        """The clean pass and its maps, at a layer found for these inputs if none was given."""
        if not self._chosen:
            return self._from(self.layers, model, given, target)
        found = None
        if self.layers:
            with suppress(GraphError, LayerError):
                found = self._from(self.layers, model, given, target)
                if all(each.flatten(1).any(1).all() for each in found[1]):
                    return found
        # What was found for other inputs may say nothing here: another level of a pyramid does.
        try:
            self.layers = (default_layer(model, given, target),)
        except (GraphError, LayerError):
            if found is None:
                raise
            return found
        return self._from(self.layers, model, given, target)

    def _from(
        self, layers: tuple[str, ...], model: nn.Module, given: Inputs, target: Any
    ) -> tuple[Pass, list[Tensor]]:
        """The clean pass and the maps at `layers`."""
        known = {name for name, _, size in self._layouts if size == given.size}
        record = self.layout is None and not known.issuperset(layers)
        graphs = (self.graph,) if self.graph == "none" else GRAPHS
        for graph in ("whole",) if self.differentiable else graphs:
            tails = [self._tail(model, name, given) for name in layers if self.replays]
            run = Pass.of(model, given, target, layers, graph, record=record, tails=tails)
            if run.seen.interrupted and graph == "tail":
                continue
            try:
                return run, self._maps(run)
            except GraphError:
                if graph == "whole":
                    raise
        raise AssertionError("the whole graph comes last")

    def _tail(self, model: nn.Module, name: str, given: Inputs) -> Tail:
        """What follows the layer `name`, with what earlier calls found out about it."""
        return Tail(model, name, self._needs.setdefault((name, given.image.shape[1:]), Needs()))

    def _activations(self, run: Pass) -> list[Tensor]:
        """The activation of each layer, ``(N, C, *grid)``, in float32 at least."""
        return [
            maps.precise(self._arranged(run, name, tensor))
            for name, tensor in zip(run.seen.names, run.seen.activations(), strict=True)
        ]

    def _layout(self, run: Pass, name: str, shape: torch.Size) -> Layout:
        if self.layout is not None:
            return self.layout
        key = name, shape[1:], run.inputs.size
        if key not in self._layouts:
            self._layouts[key] = layout_of(run.model, run.inputs, run.order, name, shape)
        return self._layouts[key]

    def _arranged(self, run: Pass, name: str, tensor: Tensor) -> Tensor:
        """`tensor`, which came from layer `name`, as ``(N, C, *grid)``."""
        arranged = self._layout(run, name, tensor.shape)(tensor)
        if arranged.ndim != run.inputs.image.ndim or len(arranged) != len(run.inputs):
            raise LayoutError(
                f"layer {name!r}: the layout made {tuple(arranged.shape)} of "
                f"{tuple(tensor.shape)}; expected (N, C, *grid) with N={len(run.inputs)} and "
                f"{len(run.inputs.size)} axes in the grid"
            )
        return arranged

    def _better(self, run: Pass, layer: str) -> str:
        """Another layer; sought once."""
        if layer not in self._advice:
            self._advice[layer] = "another layer may know more"
            with suppress(CamlibError):
                name = default_layer(run.model, run.inputs, run.target)
                if name != layer:
                    self._advice[layer] = f"layer {name!r} may know more"
        return self._advice[layer]

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
        for gradients_ in self._gradients(run):
            for name, activation, gradient, chunk in zip(
                run.seen.names, activations, gradients_, chunks, strict=True
            ):
                chunk.append(self._weighted(run, name, activation, gradient))
        return [torch.cat(chunk, 1) for chunk in chunks]

    def _gradients(self, run: Pass) -> Iterator[list[Tensor]]:
        """What `weights` gets as the gradient: for each layer ``(k, N, ...)``, the next k classes.

        A subclass may look further than the first derivative.
        """
        return run.seen.gradients(run.scores, create_graph=self.differentiable)

    def _weighted(self, run: Pass, name: str, activation: Tensor, gradient: Tensor) -> Tensor:
        """The maps ``(N, k, *grid)`` of ``k`` classes, `gradient` ``(k, N, ...)``."""
        classes = len(gradient)
        if isinstance(self._layout(run, name, gradient.shape[1:]), ChannelsFirst):
            gradient = gradient.flatten(0, 1)
        else:
            gradient = torch.cat([self._arranged(run, name, each) for each in gradient])
        gradient = maps.precise(gradient)
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
        with explaining(model, given.image.device), torch.inference_mode(False):
            run, attribution = self._attributed(model, given, target)
            shape = len(given), *run.shape
            attribution = maps.precise(attribution).reshape(*shape, *attribution.shape[2:])
            if not attribution.isfinite().all():
                raise InputError(_NOT_FINITE.format("the attribution"))
        return Explanation(
            heatmap=attribution,
            map=attribution,
            maps=(attribution,),
            score=maps.precise(run.scores.detach()).reshape(shape),
            target=run.target.classes,
            output=detached(run.output),
            layers=(),
            method=type(self).__name__,
            size=given.size,
        )

    @abstractmethod
    def _attributed(self, model: nn.Module, given: Inputs, target: Any) -> tuple[Pass, Tensor]:
        """The clean pass and the attribution ``(N, K, C, *size)``."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(unwrap(self.model)).__name__})"


def warn_if_incomplete(run: Pass, total: Tensor, size: Tensor, due: Tensor, message: str) -> None:
    """A warning if parts that sum to `total` miss what is `due` by more than 5 %.

    Args:
        run: the clean pass; half precision may miss more.
        total: sums of the parts.
        size: of the values that were summed or subtracted, as a measure of rounding.
        due: what they should sum to.
        message: of the warning, with a place for the share that is missing.
    """
    rounding = max(torch.finfo(each.dtype).eps for each in (run.inputs.image, run.scores)) ** 0.5
    missing = (total - due).abs()
    share = missing / due.abs().clamp(min=torch.finfo(due.dtype).tiny)
    worst = share.where(missing > rounding * size, 0).amax()
    if worst > 0.05:
        warn(message.format(f"{float(worst):.0%}"))


_NOT_FINITE = (
    "{} is not finite: the inputs or the model's values hold NaN or infinity, or overflow in half "
    "precision; look for them with torch.isfinite"
)


def _zero(found: Tensor) -> Tensor:
    """Whether one of the maps `found` ``(N, K, *grid)`` is zero everywhere, ``()``."""
    return ~found.flatten(2).any(2).all()
