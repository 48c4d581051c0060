"""Deconvnet: what a class, or one unit of a layer, looks for in the pixels."""

from __future__ import annotations

import operator
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from camlib import maps
from camlib.errors import InputError, TargetError
from camlib.layouts import ChannelsFirst, Layout
from camlib.layouts.reading import reading_of
from camlib.methods.options import CallingOptions
from camlib.methods.pixel import PixelMethod
from camlib.options import checked
from camlib.passes.capture import capture
from camlib.passes.forward import Pass, input_gradients
from camlib.passes.gradients import gradients
from camlib.passes.inputs import Inputs, ModelInputs, detached
from camlib.passes.names import Layer, find
from camlib.passes.visits import visits
from camlib.results import Explanation
from camlib.rules.relu import Rectifying, without_recomputation
from camlib.state.undoing import Called
from camlib.targets import TargetLike

__all__ = ["Deconvnet"]


class Deconvnet(PixelMethod):
    """Deconvnet: a class, or one unit of a layer, projected down to the pixels.

    Zeiler and Fergus, ECCV 2014, arXiv:1311.2901. From the layer down: unpool to where the maxima
    were, rectify, filter with the transposed filters; biases are not used. In terms of gradients,
    a ReLU passes back what is positive, wherever it was open: ``R_in = 1[R_out > 0] R_out``.

    The signal starts as the activation itself, everything else in the layer set to zero. Where
    pooling windows overlap and share their maximum, the signals that meet there are summed: this is
    the transpose of pooling as the filters are transposed, and does not depend on an order, as
    overwriting does. A picture of what excites the unit; it says little about a class (it fails the
    sanity checks of arXiv:1810.03292).

    Args:
        layer: where the signal starts: a module or its dotted name; ``None`` for the score of a
            class at the output.
        generalize: other activation functions pass back ``max(R_out, 0)`` as well.

    Raises:
        LayerError: the layer is not in `model`.
    """

    name = "deconvnet"
    cost = "1 forward, 1 backward"

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layer | None = None,
        *,
        generalize: bool = False,
        **options: Unpack[CallingOptions],
    ) -> None:
        super().__init__(model, **options)
        self.layer = None if layer is None else find(model, layer)[0]
        self.layers = () if self.layer is None else (self.layer,)
        self.generalize = generalize

    @checked
    def __call__(
        self,
        inputs: ModelInputs,
        target: TargetLike = None,
        *,
        unit: int | tuple[int, ...] | None = None,
        channel: int | None = None,
    ) -> Tensor:
        """The `heatmap` of `explain`, with the same arguments."""
        return self.explain(inputs, target, unit=unit, channel=channel).heatmap

    @checked
    def explain(
        self,
        inputs: ModelInputs,
        target: TargetLike = None,
        *,
        unit: int | tuple[int, ...] | None = None,
        channel: int | None = None,
    ) -> Explanation:
        """The pattern in each sample that excites a unit, or speaks for a class.

        Args:
            inputs: see `Method.__call__`.
            target: the class where there is no layer, as for every method.
            unit: a channel of the layer, for its strongest unit; or a channel and a position
                ``(channel, row, column)``, for that one.
            channel: a channel of the layer, for all its units together. Signals that meet are
                rectified together, so this is not the sum over units.

        Returns:
            The pattern ``(N, C, H, W)`` float32 on the input's device, signed, not normalised, and
            what else there is; the score is the sum of the activations started from.

        Raises:
            InputError: not exactly one of `target`, `unit` and `channel` fits how this was built.
            TargetError: there is no such unit in the layer.
        """
        if self.layer is None:
            if unit is not None or channel is not None:
                raise InputError("unit= and channel= need a layer: Deconvnet(model, layer)")
            return self._explain(inputs, target)
        if target is not None or (unit is None) == (channel is None):
            raise InputError(
                f"Deconvnet from layer {self.layer!r} needs one of unit= and channel=, and no "
                "target; for a class, build it without a layer"
            )
        rule = self._rule()
        with Called(), self._prepared(inputs) as (model, given):
            image = given.image.detach().clone().requires_grad_()
            looking = visits(model, len(given.size))
            with rule, looking as order, capture(model, [self.layer], graph="whole") as seen:
                output = given.owned().with_image(image.clone()).run(model)
            [activation] = seen.activations()
            layout: Layout = ChannelsFirst()
            if activation.ndim > 2:
                layout = reading_of(model, given, order, self.layer, activation.shape).layout
            arranged = layout(activation)
            start = _start(arranged.detach(), self.layer, unit, channel)
            with torch.enable_grad(), without_recomputation():
                excited = (arranged * start).flatten(1).sum(1, keepdim=True)
                [[signal]] = next(gradients(excited, [image], ["the input"]))
        rule.warn_if_unmet(type(self).__name__, type(model).__name__)
        signal = maps.precise(signal)
        return Explanation(
            heatmap=signal,
            map=signal,
            maps=(signal,),
            score=maps.precise(start).flatten(1).sum(1),
            target=None,
            output=detached(output),
            layers=(self.layer,),
            method="Deconvnet",
            size=given.size,
            axis=given.axis,
            attribution=True,
        )

    def attributed(self, model: nn.Module, given: Inputs, target: Any) -> tuple[Pass, Tensor]:
        """The clean pass, and the gradient of the score by the rule."""
        if self.layer is not None:
            raise InputError(
                f"Deconvnet from layer {self.layer!r} starts at one unit of one call and cannot be "
                "averaged over inputs; build it without a layer, for a class"
            )
        rule = self._rule()
        explained = input_gradients(model, given, target, rule)
        rule.warn_if_unmet(type(self).__name__, type(model).__name__)
        return explained

    def _rule(self) -> Rectifying:
        return Rectifying("deconvnet", generalize=self.generalize)


def _start(
    activation: Tensor, layer: str, unit: int | tuple[int, ...] | None, channel: int | None
) -> Tensor:
    """`activation` ``(N, C, *grid)`` at the units asked for, zero elsewhere."""
    index = channel if unit is None else unit
    shape = activation.shape[1:]
    asked: tuple[Any, ...] = unit if isinstance(unit, tuple) and channel is None else (index,)
    try:
        place: tuple[int, ...] = tuple(operator.index(i) for i in asked)
    except TypeError:
        place = ()
    if len(place) not in (1, len(shape)) or not all(
        -size <= i < size for i, size in zip(place, shape, strict=False)
    ):
        raise TargetError(
            f"there is no unit {index!r} in layer {layer!r} of shape {tuple(shape)}; pass a "
            "channel, or a channel and a position"
        )
    chosen: tuple[slice | int, ...] = (slice(None), *place)
    kept = torch.zeros_like(activation, dtype=torch.bool)
    kept[chosen] = True
    if unit is not None and len(place) < len(shape):
        units = activation[chosen].flatten(1)
        strongest = torch.zeros_like(units, dtype=torch.bool)
        strongest.scatter_(1, units.argmax(1, keepdim=True), True)
        kept[chosen] = strongest.reshape(activation[chosen].shape)
    return activation.where(kept, 0)
