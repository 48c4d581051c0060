"""Attribution of input values: the gradient, and two ways of passing back only what is positive."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from camlib import maps
from camlib.capture import capture, visits
from camlib.errors import InputError, TargetError, warn
from camlib.forward import Pass, input_gradients
from camlib.gradients import gradients
from camlib.inputs import Inputs, detached
from camlib.layers import layout_of
from camlib.layouts import ChannelsFirst, Layout
from camlib.methods.base import PixelMethod
from camlib.methods.explanation import Explanation
from camlib.modes import explaining
from camlib.modules import Layer, find, unwrap
from camlib.rules import Rectifying, without_recomputation

_REDUCTIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda gradient: gradient,
    "max": lambda gradient: gradient.abs().amax(2),
    "sum": lambda gradient: gradient.abs().sum(2),
    "l2": lambda gradient: gradient.norm(dim=2),
}


class Saliency(PixelMethod):
    """The gradient of the score at the input, ``dy_c / dx``.

    Simonyan, Vedaldi and Zisserman, ICLR Workshop 2014, arXiv:1312.6034. The paper's map is the
    largest absolute value over colours, ``reduce="max"``.

    Args:
        model: see `PixelMethod`.
        reduce: ``None`` for the signed gradient ``(N, C, H, W)``; ``"max"``, ``"sum"`` or ``"l2"``
            of its absolute values over channels for a map ``(N, H, W)``.

    Raises:
        InputError: `reduce` is none of these.
    """

    cost = "1 forward, 1 backward"

    def __init__(
        self, model: nn.Module, *, reduce: Literal["max", "sum", "l2"] | None = None
    ) -> None:
        super().__init__(model)
        if reduce not in _REDUCTIONS:
            raise InputError(f"reduce={reduce!r} is not known; use 'max', 'sum', 'l2' or None")
        self.reduce = reduce

    def _attributed(self, model: nn.Module, given: Inputs, target: Any) -> tuple[Pass, Tensor]:
        run, gradient = input_gradients(model, given, target)
        return run, _REDUCTIONS[self.reduce](gradient)


class GuidedBackprop(PixelMethod):
    """Guided backpropagation: a ReLU passes back what is positive, where it was open.

    ``R_in = 1[a > 0] 1[R_out > 0] R_out``. Springenberg et al., ICLR Workshop 2015,
    arXiv:1412.6806. Sharp pictures, but not an explanation of the class: they hardly depend on the
    class or on the upper layers (Adebayo et al., NeurIPS 2018, arXiv:1810.03292). Multiply with
    Grad-CAM (`GuidedGradCAM`) for the class.

    Every ReLU and ReLU6 follows the rule: module or function, in place, used once or often.

    Args:
        model: see `PixelMethod`.
        generalize: other activation functions ``f`` follow ``R_in = f'(a) max(R_out, 0)``; an
            extension of the paper, for networks of SiLU, GELU and the like.
    """

    cost = "1 forward, 1 backward"

    def __init__(self, model: nn.Module, *, generalize: bool = False) -> None:
        super().__init__(model)
        self.generalize = generalize

    def _attributed(self, model: nn.Module, given: Inputs, target: Any) -> tuple[Pass, Tensor]:
        rule = Rectifying("guided", generalize=self.generalize)
        explained = input_gradients(model, given, target, rule)
        _warn_without_relu(self, model, rule)
        return explained


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
        model: see `PixelMethod`.
        layer: where the signal starts: a module or its dotted name; ``None`` for the score of a
            class at the output.
        generalize: other activation functions pass back ``max(R_out, 0)`` as well.

    Raises:
        LayerError: the layer is not in `model`.
    """

    cost = "1 forward, 1 backward"

    def __init__(
        self, model: nn.Module, layer: Layer | None = None, *, generalize: bool = False
    ) -> None:
        super().__init__(model)
        self.layer = None if layer is None else find(model, layer)[0]
        self.generalize = generalize

    def __call__(
        self,
        inputs: Any,
        target: Any = None,
        *,
        unit: int | tuple[int, ...] | None = None,
        channel: int | None = None,
    ) -> Tensor:
        """The pattern in each sample that excites a unit, or speaks for a class.

        Args:
            inputs: images ``(N, C, H, W)``, or what else the model takes.
            target: the class where there is no layer, as for every method.
            unit: a channel of the layer, for its strongest unit; or a channel and a position
                ``(channel, row, column)``, for that one.
            channel: a channel of the layer, for all its units together. Signals that meet are
                rectified together, so this is not the sum over units.

        Returns:
            ``(N, C, H, W)`` float32 on the input's device, signed, not normalised.

        Raises:
            InputError: not exactly one of `target`, `unit` and `channel` fits how this was built.
            TargetError: there is no such unit in the layer.
        """
        return self.explain(inputs, target, unit=unit, channel=channel).heatmap

    def explain(
        self,
        inputs: Any,
        target: Any = None,
        *,
        unit: int | tuple[int, ...] | None = None,
        channel: int | None = None,
    ) -> Explanation:
        """Everything one call knows; the score is the sum of the activations started from."""
        if self.layer is None:
            if unit is not None or channel is not None:
                raise InputError("unit= and channel= need a layer: Deconvnet(model, layer)")
            return super().explain(inputs, target)
        if target is not None or (unit is None) == (channel is None):
            raise InputError(
                f"Deconvnet from layer {self.layer!r} needs one of unit= and channel=, and no "
                "target; for a class, build it without a layer"
            )
        given = Inputs.of(inputs)
        model = unwrap(self.model)
        rule = self._rule()
        with explaining(model, given.image.device), torch.inference_mode(False):
            image = given.image.detach().clone().requires_grad_()
            with rule, visits(model) as order, capture(model, [self.layer], graph="whole") as seen:
                output = given.owned().with_image(image.clone()).run(model)
            [activation] = seen.activations()
            layout: Layout = ChannelsFirst()
            if activation.ndim > 2:
                layout = layout_of(model, given, order, self.layer, activation.shape)
            arranged = layout(activation)
            start = _start(arranged.detach(), self.layer, unit, channel)
            with torch.enable_grad(), without_recomputation():
                excited = (arranged * start).flatten(1).sum(1, keepdim=True)
                [[signal]] = next(gradients(excited, [image], ["the input"]))
        _warn_without_relu(self, model, rule)
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
        )

    def _attributed(self, model: nn.Module, given: Inputs, target: Any) -> tuple[Pass, Tensor]:
        rule = self._rule()
        explained = input_gradients(model, given, target, rule)
        _warn_without_relu(self, model, rule)
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


def _warn_without_relu(method: PixelMethod, model: nn.Module, rule: Rectifying) -> None:
    if not rule.met:
        met = f"; generalize=True applies its rule to {', '.join(sorted(rule.passed))}"
        warn(
            f"{type(method).__name__} met no ReLU in {type(model).__name__}, so this is the plain "
            f"gradient{met if rule.passed else ''}"
        )
