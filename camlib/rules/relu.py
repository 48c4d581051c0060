"""Replace the gradient of ReLUs by the rule of the deconvnet or of guided backpropagation.

A `TorchFunctionMode` sees every call of every ReLU, module or function, in place or not, in this
thread only. The model is unchanged. For a ReLU with input ``a`` and signal ``R`` from above, the
gradient passes ``1[a > 0] R`` and the deconvnet ``1[R > 0] R``; guided backpropagation applies both
gates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from camlib.errors import GraphError, warn
from camlib.state.ambient import FunctionMode

Rule = Literal["guided", "deconvnet"]
"""The rule by which a rectifier passes a signal back."""

Explained = TypeVar("Explained")


class Rectifying(FunctionMode):
    """Makes rectifiers in the block pass signals back by `rule`.

    ReLU, ReLU6, Hardtanh from 0, and clamping or thresholding at 0 are rectifiers. With
    `generalize`, other activation functions ``f`` follow a rule too: ``f'(a) max(R, 0)`` for guided
    backpropagation, ``max(R, 0)`` for the deconvnet.

    Attributes:
        met: the number of calls that followed the rule.
        passed: the names of activation functions that did not.
        in_force: whether backward passes follow the rule.
        masks: whether guided backpropagation keeps masks of open rectifiers; without masks, it
            looks at their outputs.
    """

    def __init__(self, rule: Rule, *, generalize: bool = False, masks: bool = False) -> None:
        super().__init__()
        self.rule = rule
        self.generalize = generalize
        self.met = 0
        self.passed: set[str] = set()
        self.in_force = True
        self.masks = masks

    def tried(self, explain: Callable[[], Explained]) -> Explained:
        """The result of `explain`; it runs again with masks if they turn out to be needed.

        The output of a ReLU is in the graph anyway and shows where it was open. In a model that
        changes the output in place, only a mask shows it.
        """
        before = self.masks
        try:
            return explain()
        except RuntimeError:
            if self.masks == before:
                raise
        return explain()  # outside of `except`, where the error no longer keeps the first graph

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Make backward passes in the block ordinary ones, of the same forward pass.

        The deconvnet does not keep the values that this needs.
        """
        assert self.rule == "guided"
        self.in_force = False
        try:
            yield
        finally:
            self.in_force = True

    def warn_if_unmet(self, method: str, model: str) -> None:
        """Warn if no call followed the rule, so that `method` is the plain gradient."""
        if not self.met:
            names = ", ".join(sorted(self.passed))
            advice = f"; generalize=True applies its rule to {names}" if names else ""
            warn(f"{method} met no ReLU in {model}, so this is the plain gradient{advice}")

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Make the call; if it is a rectifier's, its signal passes back by the rule."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        in_place = name.endswith("_") or kwargs.get("inplace", False) is True
        name = name.strip("_")
        [source] = args[:1] or [kwargs.get("input")]
        if not isinstance(source, Tensor) or not source.is_floating_point():
            return func(*args, **kwargs)
        if name in _BOUNDS and (bounds := _BOUNDS[name](args, kwargs)) is not None:
            self.met += 1
            return _Rectified.apply(source, *bounds, self, in_place)
        if name in _SMOOTH:
            if not self.generalize:
                self.passed.add(name)
                return func(*args, **kwargs)
            self.met += 1
            # An in-place call would overwrite the value that its own backward pass needs.
            value = func(source.clone() if in_place else source, *args[1:], **kwargs)
            if self.rule == "guided":
                result = _Positive.apply(value, self)
            else:
                result = _Straight.apply(source, value)
            return source.copy_(result) if in_place else result
        return func(*args, **kwargs)


@contextmanager
def without_recomputation(rule: str = "ReLU") -> Iterator[None]:
    """Turn an error of a backward pass in the block into advice if layers run again in it.

    Args:
        rule: the name of what the rule of the forward pass applies to.

    Raises:
        GraphError: the model recomputes activations, where the rule is not in force.
    """
    from torch.utils.checkpoint import CheckpointError  # loads SymPy in older versions

    try:
        yield
    except CheckpointError:
        raise GraphError(
            "the model recomputes its activations (torch.utils.checkpoint) outside the rule for "
            f"{rule}; turn checkpointing off, such as with memory_efficient=False"
        ) from None


class _Rectified(torch.autograd.Function):
    """``min(max(a, 0), upper)`` forward, the rule of `Rectifying` backward."""

    @staticmethod
    def forward(
        ctx: Any, source: Tensor, upper: float | None, rule: Rectifying, in_place: bool
    ) -> Tensor:
        ctx.batches, ctx.rule = True, rule
        # Rounded to the precision of the values that are compared with it.
        bound = inf if upper is None else source.new_tensor(upper, device="cpu").item()
        open_ = (source > 0) & (source < bound) if rule.masks else None
        if in_place:
            ctx.mark_dirty(source)
            result = source.clamp_(min=0, max=upper)
        else:
            result = source.clamp(min=0, max=upper)
        if rule.rule == "guided":
            ctx.bound = bound
            # Marking a tensor as changed in place counts as one more change.
            ctx.version = None if result.is_inference() else result._version + in_place
            # Checkpointing tells a layer that it runs again by how many tensors it keeps; the
            # ordinary one keeps one, and may have changed it in place unseen.
            ctx.save_for_backward(result if open_ is None else open_, result.new_empty(0))
        return result

    @staticmethod
    def backward(ctx: Any, *signals: Tensor) -> tuple[Tensor, None, None, None]:
        [signal] = signals
        if ctx.rule.rule == "deconvnet":
            return signal.clamp(min=0), None, None, None
        signal = _gated(signal, ctx)
        return signal.clamp_(min=0) if ctx.rule.in_force else signal, None, None, None


def _gated(signal: Tensor, ctx: Any) -> Tensor:
    """A new tensor: `signal` where the rectifier was open, else zero."""
    try:
        kept, _ = ctx.saved_tensors
        if kept.dtype == torch.bool:
            return signal.where(kept, 0)
        if kept._version != ctx.version:  # autograd does not check under hooks for saved tensors
            raise RuntimeError("the output of a rectifier was changed in place")
    except RuntimeError:
        ctx.rule.masks = True
        raise
    gated: Tensor
    if ctx.bound == inf:
        gated = torch.ops.aten.threshold_backward(signal, kept, 0)
    else:
        gated = torch.ops.aten.hardtanh_backward(signal, kept, 0, ctx.bound)
    return gated


class _Positive(torch.autograd.Function):
    """The identity, which passes only positive signals back."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, rule: Rectifying) -> Tensor:
        ctx.batches, ctx.rule = True, rule
        return value.clone()  # a view could not be changed in place

    @staticmethod
    def backward(ctx: Any, *signals: Tensor) -> tuple[Tensor, None]:
        [signal] = signals
        return signal.clamp(min=0) if ctx.rule.in_force else signal, None


class _Straight(torch.autograd.Function):
    """`value`, its positive signals handed to `source` directly."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, value: Tensor) -> Tensor:
        ctx.batches = True
        return value.clone()  # a view could not be changed in place

    @staticmethod
    def backward(ctx: Any, *signals: Tensor) -> tuple[Tensor, None]:
        return signals[0].clamp(min=0), None


def _unbounded(_args: Any, _kwargs: Any) -> tuple[None]:
    return (None,)


def _six(_args: Any, _kwargs: Any) -> tuple[float]:
    return (6.0,)


def _from_zero(first: str, second: str | None) -> Callable[[Any, Any], tuple[float | None] | None]:
    """A function that returns the upper bound of a call if its lower bound, `first`, is 0."""

    def bounds(args: Any, kwargs: Any) -> tuple[float | None] | None:
        lower = args[1] if len(args) > 1 else kwargs.get(first)
        upper = (args[2] if len(args) > 2 else kwargs.get(second)) if second else None
        numbers = int | float
        if not isinstance(lower, numbers) or lower != 0:
            return None
        return (upper,) if upper is None or isinstance(upper, numbers) else None

    return bounds


def _threshold(args: Any, kwargs: Any) -> tuple[None] | None:
    bounds = [*args[1:3], kwargs.get("threshold"), kwargs.get("value")]
    return (None,) if [b for b in bounds if b is not None] == [0, 0] else None


_BOUNDS: dict[str, Callable[[Any, Any], tuple[float | None] | None]] = {
    "relu": _unbounded,
    "relu6": _six,
    "hardtanh": _from_zero("min_val", "max_val"),
    "clamp": _from_zero("min", "max"),
    "clamp_min": _from_zero("min", None),
    "clip": _from_zero("min", "max"),
    "threshold": _threshold,
}
"""The upper bound of a rectifier by function name; ``None`` if the call is no rectifier's."""

_SMOOTH = {
    "celu", "elu", "gelu", "hardswish", "hardtanh", "leaky_relu", "mish", "prelu", "rrelu", "selu",
    "silu", "softplus", "tanh",
}  # fmt: skip
