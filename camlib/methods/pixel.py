"""Attribution of input values from one gradient at the input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn

from camlib.errors import InputError
from camlib.forward import Pass, input_gradients
from camlib.inputs import Inputs
from camlib.methods.base import PixelMethod
from camlib.rules import Rectifying

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


class InputXGradient(PixelMethod):
    """Input times gradient, ``x dy_c / dx``.

    Shrikumar et al., 2016, arXiv:1605.01713. The first-order share of every input value in the
    score: where layers are linear or ReLU and have no biases, it sums to the score and is
    `IntegratedGradients` from zero. Weak where the input is zero or the score saturates: black is
    never evidence.
    """

    cost = "1 forward, 1 backward"

    def _attributed(self, model: nn.Module, given: Inputs, target: Any) -> tuple[Pass, Tensor]:
        run, gradient = input_gradients(model, given, target)
        return run, gradient * given.image[:, None]


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
        rule.warn_if_unmet(type(self).__name__, type(model).__name__)
        return explained
