"""Attribution of input values: what such methods share, and those of one gradient."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn

from camlib import maps
from camlib.errors import NOT_FINITE, InputError, warn
from camlib.methods.base import Method
from camlib.methods.options import CallingOptions
from camlib.options import checked
from camlib.passes.forward import Pass, input_gradients
from camlib.passes.inputs import Inputs, detached
from camlib.passes.names import unwrap
from camlib.results import Explanation
from camlib.rules.relu import Rectifying
from camlib.targets import Target

__all__ = ["GuidedBackprop", "InputXGradient", "PixelMethod", "Saliency"]

_REDUCTIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "max": lambda gradient, axis: gradient.abs().amax(axis),
    "sum": lambda gradient, axis: gradient.abs().sum(axis),
    "l2": lambda gradient, axis: gradient.norm(dim=axis),
}


class PixelMethod(Method):
    """An attribution of the input itself.

    Args:
        model: any network; wrapped, compiled, frozen or training.

    Raises:
        InputError: an option has no such value.
        ModelError: `model` is not a module.
        OptionError: there is no such option.
    """

    scaled = False

    @checked
    def __init__(self, model: nn.Module, **options: Unpack[CallingOptions]) -> None:
        super().__init__(model, **options)

    @abstractmethod
    def attributed(self, model: nn.Module, given: Inputs, target: Any) -> tuple[Pass, Tensor]:
        """The clean pass and the attribution ``(N, K, ...)`` with the image's axes.

        Args:
            model: without wrappers, ready to be run.
            given: what it is called with.
            target: what to explain.
        """

    def values(self, model: nn.Module, given: Inputs, target: Any) -> tuple[Pass, list[Tensor]]:
        """The clean pass and the attribution."""
        run, attribution = self.attributed(model, given, target)
        return run, [attribution]

    def clean(self, model: nn.Module, given: Inputs, target: Any) -> Pass:
        """The clean pass alone."""
        with torch.no_grad():
            return Pass.of(model, given, target, (), "none")

    def parts(self, run: Pass, inputs: Inputs, target: Target) -> tuple[Pass, list[Tensor]]:
        """A pass on changed inputs and its attribution."""
        again, attribution = self.attributed(run.model, inputs, target)
        return again, [attribution]

    def present(self, run: Pass, values: list[Tensor], **shown: Any) -> Explanation:
        """The attribution, of a clean pass and its values.

        Raises:
            InputError: it is to be shown in another way, or is not finite.
        """
        if options := [f"{name}=" for name, value in shown.items() if value is not None]:
            raise InputError(
                f"{type(self).__name__} returns attributions as they are and takes no "
                f"{', '.join(options)}; leave it out"
            )
        [attribution] = values
        given = run.inputs
        shape = len(given), *run.shape
        attribution = maps.precise(attribution).reshape(*shape, *attribution.shape[2:])
        if not attribution.isfinite().all():
            raise InputError(NOT_FINITE.format("the attribution"))
        run.check_scores()
        heat = attribution
        if self.scaled:
            heat = maps.normalize(heat.reshape(-1, 1, *given.size)).reshape(heat.shape)
        return Explanation(
            heatmap=heat,
            map=attribution,
            maps=(attribution,),
            score=maps.precise(run.scores.detach()).reshape(shape),
            target=run.target.classes,
            output=detached(run.output),
            layers=(),
            method=type(self).__name__,
            size=given.size,
            axis=given.axis,
            attribution=not self.scaled
            and attribution.shape[len(shape) :] == given.image.shape[1:],
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(unwrap(self.model)).__name__})"


class Saliency(PixelMethod):
    """The gradient of the score at the input, ``dy_c / dx``.

    Simonyan, Vedaldi and Zisserman, ICLR Workshop 2014, arXiv:1312.6034. The paper's map is the
    largest absolute value over colours, ``reduce="max"``. It says what a small change of each pixel
    would do. Weakness: it is a noisy picture, as the gradient of a deep network jumps from pixel to
    pixel.

    Args:
        reduce: ``None`` for the signed gradient ``(N, C, H, W)``; ``"max"``, ``"sum"`` or ``"l2"``
            of its absolute values over channels for a map ``(N, H, W)``.

    Raises:
        InputError: in a call, where the channels are cannot be told.
    """

    name = "saliency"
    cost = "1 forward, 1 backward"

    @checked
    def __init__(
        self,
        model: nn.Module,
        *,
        reduce: Literal["max", "sum", "l2"] | None = None,
        **options: Unpack[CallingOptions],
    ) -> None:
        super().__init__(model, **options)
        self.reduce = reduce

    def attributed(self, model: nn.Module, given: Inputs, target: Any) -> tuple[Pass, Tensor]:
        """The clean pass and the gradient, reduced as asked for."""
        run, gradient = input_gradients(model, given, target)
        return run, self._reduced(run, gradient)

    def parts(self, run: Pass, inputs: Inputs, target: Target) -> tuple[Pass, list[Tensor]]:
        """A pass on changed inputs and the gradient."""
        again, gradient = input_gradients(run.model, inputs, target)
        return again, [gradient]

    def joined(self, run: Pass, parts: list[Tensor]) -> list[Tensor]:
        """The gradients, reduced as they are asked for."""
        return [self._reduced(run, gradient) for gradient in parts]

    def _reduced(self, run: Pass, gradient: Tensor) -> Tensor:
        """`gradient` ``(N, K, ...)`` with the image's axes, or the map ``(N, K, *size)`` of it."""
        if self.reduce is None:
            return gradient
        run.inputs.check_read()
        if run.inputs.axis is None:
            return gradient.abs()
        return _REDUCTIONS[self.reduce](gradient, 1 + run.inputs.axis)


class InputXGradient(PixelMethod):
    """Input times gradient, ``x dy_c / dx``.

    Shrikumar et al., 2016, arXiv:1605.01713. The first-order share of every input value in the
    score: where layers are linear or ReLU and have no biases, it sums to the score and is
    `IntegratedGradients` from zero. Weakness: it shows nothing where the input is zero or the score
    saturates. Black is never evidence.
    """

    name = "input_x_gradient"
    cost = "1 forward, 1 backward"

    def attributed(self, model: nn.Module, given: Inputs, target: Any) -> tuple[Pass, Tensor]:
        """The clean pass, and input times gradient."""
        run, gradient = input_gradients(model, given, target)
        return run, gradient * given.image[:, None]


class GuidedBackprop(PixelMethod):
    """Guided backpropagation: a ReLU passes back what is positive, where it was open.

    ``R_in = 1[a > 0] 1[R_out > 0] R_out``. Springenberg et al., ICLR Workshop 2015,
    arXiv:1412.6806. Sharp pictures, but not an explanation of the class: they hardly depend on the
    class or on the upper layers (Adebayo et al., NeurIPS 2018, arXiv:1810.03292). Multiply with
    Grad-CAM (`GuidedGradCAM`) for the class.

    Every ReLU and ReLU6 follows the rule: module or function, in place, used once or often. Where a
    model changes in place what a ReLU returned, the first call takes a second pass.

    Args:
        generalize: other activation functions ``f`` follow ``R_in = f'(a) max(R_out, 0)``; an
            extension of the paper, for networks of SiLU, GELU and the like.
    """

    name = "guided_backprop"
    cost = "1 forward, 1 backward"

    @checked
    def __init__(
        self, model: nn.Module, *, generalize: bool = False, **options: Unpack[CallingOptions]
    ) -> None:
        super().__init__(model, **options)
        self.generalize = generalize
        self._masks = False

    def attributed(self, model: nn.Module, given: Inputs, target: Any) -> tuple[Pass, Tensor]:
        """The clean pass, and the gradient by the rule."""
        rule = Rectifying("guided", generalize=self.generalize, masks=self._masks)
        explained = rule.tried(lambda: input_gradients(model, given, target, rule))
        self._masks = rule.masks
        rule.warn_if_unmet(type(self).__name__, type(model).__name__)
        return explained


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
