"""Compute attention step by step, so that its matrix can be read and differentiated.

Fused kernels never store ``A = softmax(q k^T / sqrt(d))``. A `TorchFunctionMode` sees each call of
attention, fused or written out, in this thread only. The model is unchanged. In this mode,
`nn.MultiheadAttention` and `nn.TransformerEncoderLayer` do not take their fast paths either.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camlib.maps import precise
from camlib.state.ambient import FunctionMode


@dataclass(frozen=True, eq=False)
class Attention:
    """One call of attention, of ``N`` samples from ``S`` tokens to ``T``.

    Attributes:
        shape: ``(N, heads, T, S)``, or another shape if windows or groups attend separately.
        matrix: ``A`` with as many values, as part of the graph; without a graph, its mean over
            heads ``(N, 1, T, S)``, which is all that methods need.
        within: the modules around the call and the numbers of their calls, the outermost first.
    """

    shape: tuple[int, ...]
    matrix: Tensor
    within: tuple[tuple[nn.Module, int], ...] = ()

    def per_head(self, values: Tensor) -> Tensor:
        """`values` ``(..., *matrix.shape)`` as ``(..., N, heads, T, S)``, in float32 or better."""
        lead = values.shape[: values.ndim - self.matrix.ndim]
        count, _, *tokens = self.shape
        return precise(values).reshape(*lead, count, -1, *tokens)


class Attending(FunctionMode):
    """Computes calls of attention in the block step by step, and keeps them.

    Args:
        start: the number of the call at which autograd starts to record; ``None`` for no graph.

    Attributes:
        found: the calls, in order.
        interrupted: whether the model switched grad mode off between recorded calls, so that part
            of the graph is missing.
    """

    def __init__(self, start: int | None = None) -> None:
        super().__init__()
        self.start = start
        self.found: list[Attention] = []
        self.interrupted = False
        self._running: list[tuple[nn.Module, int]] = []
        self._runs: Counter[int] = Counter()

    def __enter__(self) -> Self:
        """Start without any calls."""
        self.found, self.interrupted = [], False
        self._running, self._runs = [], Counter()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def running(self, module: nn.Module, forward: Callable[[], Any]) -> Any:
        """The output of `forward` of `module`; attention in it is noted as within `module`."""
        self._running.append((module, self._runs[id(module)]))
        self._runs[id(module)] += 1
        try:
            return forward()
        finally:
            self._running.pop()

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Make the call; if it is attention, compute it step by step and keep it."""
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._dot_product(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return self._multi_head(**_MULTI_HEAD.bind(*args, **kwargs).arguments)
        result = func(*args, **kwargs)
        if getattr(func, "__name__", "") == "softmax" and _attends(result, args, kwargs):
            return self._kept(result).clone()  # the model may change it in place
        return result

    def _dot_product(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if enable_gqa:
            groups = query.shape[-3] // key.shape[-3]
            key, value = (each.repeat_interleave(groups, -3) for each in (key, value))
        factor = query.shape[-1] ** -0.5 if scale is None else scale
        scores = precise((query * factor) @ key.mT)
        if is_causal:
            attn_mask = torch.ones_like(scores, dtype=torch.bool).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        matrix = self._kept(scores.softmax(-1))
        return F.dropout(matrix, dropout_p).to(value.dtype) @ value

    def _multi_head(self, **given: Any) -> tuple[Tensor, Tensor | None]:
        """The result of `F.multi_head_attention_forward` without a fused kernel."""
        needed = given.pop("need_weights", True), given.pop("average_attn_weights", True)
        query = given["query"]
        if self._recording() and not query.requires_grad:
            started = query.detach().requires_grad_()
            # Key and value may be the same tensor, and must stay the same.
            given = {k: started if v is query else v for k, v in given.items()}
        output, weights = F.multi_head_attention_forward(
            **given, need_weights=True, average_attn_weights=False
        )
        assert weights is not None
        # The weights are a view of the matrix that multiplies the values.
        matrix = weights if weights._base is None else weights._base
        self._kept(matrix, tuple(weights.shape))
        if not needed[0]:
            return output, None
        return output, weights.mean(-3) if needed[1] else weights

    def _recording(self) -> bool:
        """Whether autograd records the next call; starts recording if it does."""
        if self.start is None or len(self.found) < self.start:
            return False
        self.interrupted |= len(self.found) > self.start and not torch.is_grad_enabled()
        torch.set_grad_enabled(True)
        return True

    def _kept(self, matrix: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
        """Keep `matrix`, and start its graph if recording has begun and it has none."""
        shape = shape or tuple(matrix.shape)
        if len(shape) == 3:  # one head
            shape = shape[0], 1, *shape[1:]
        kept = matrix
        if not self._recording():
            kept = precise(matrix).reshape(shape).flatten(1, -3).mean(1, keepdim=True)
        elif not matrix.requires_grad and not matrix.is_inference():
            matrix.requires_grad_()
        self.found.append(Attention(shape, kept, tuple(self._running)))
        return matrix


_MULTI_HEAD = inspect.signature(F.multi_head_attention_forward)


def _attends(result: Tensor, args: Any, kwargs: Any) -> bool:
    """Whether a softmax computes an attention matrix: over the last axis, tokens by tokens."""
    axis = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if axis not in (-1, result.ndim - 1):
        return False
    return result.ndim > 3 or (result.ndim == 3 and result.shape[1] == result.shape[2])
