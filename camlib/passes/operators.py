"""Which of PyTorch's operators keep every value of an image at its position.

A convolution, a pooling or an activation function keeps positions. A permutation, reshape, slice,
padding or matrix product may move them. So may any operator that this file does not name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload


def keeps_places(func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether `func` leaves every value of an ``(N, C, *grid)`` at its position."""
    return _local(func) or _beside_the_grid(func, args, kwargs)


def makes_new(func: OpOverload) -> bool:
    """Whether the result of `func` does not depend on the values of its arguments."""
    name = name_of(func)
    return name in ("fill_", "zero_") or name.startswith("new_") or name.endswith("_like")


def name_of(func: OpOverload) -> str:
    """The name of an operator without its overload, such as ``"convolution"``."""
    return func._schema.name.removeprefix("aten::")


def choosing(func: OpOverload, args: tuple[Any, ...]) -> list[Tensor]:
    """The tensors that decide which values `func` takes: indices, masks, a grid."""
    if isinstance(args[0], list | tuple):
        return []
    held = [each for arg in args[1:] for each in (arg if isinstance(arg, list | tuple) else [arg])]
    every = [each for each in held if isinstance(each, Tensor)]
    grid = "grid_sampler" in name_of(func)
    return [t for t in every if grid or not (t.is_floating_point() or t.is_complex())]


def joins_all_places(func: OpOverload, given: Tensor, result: Tensor) -> bool:
    """Whether `func` reduced a grid to one position, as a global pooling does."""
    if name_of(func) not in _JOINING or given.ndim < 3:
        return False
    same = given.shape[:1] == result.shape[:1]
    return same and given.shape[2:].numel() > 1 and result.shape[2:].numel() == 1


@cache
def _local(func: OpOverload) -> bool:
    """Whether `func` keeps positions for any arguments."""
    return name_of(func) in _LOCAL or torch.Tag.pointwise in func.tags


def _beside_the_grid(func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether `func` works along the channels only, or changes nothing at all."""
    name = name_of(func)
    if name == "convolution":
        # A padding larger than the kernel's reach makes a larger image.
        kernel, padding, dilation, transposed = args[1].shape[2:], args[4], args[5], args[6]
        reach = zip(padding, dilation, kernel, strict=False)
        return transposed or all(p <= (d * (k - 1) + 1) // 2 for p, d, k in reach)
    if name in _ALONG:
        return bool([*args[_ALONG[name] :], kwargs.get("dim", 0)][0] == 1)
    if name in ("view", "_unsafe_view", "reshape", "expand"):
        return isinstance(args[1], Sequence) and tuple(args[0].shape) == tuple(args[1])
    return False


_ALONG = {"cat": 1, "split": 2, "split_with_sizes": 2, "slice": 1}
"""The index of the argument that names the axis an operator works along."""

_JOINING = {
    *("mean", "sum", "amax", "amin", "max", "std", "var", "linalg_vector_norm", "logsumexp"),
    *("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d"),
    *("adaptive_max_pool2d", "adaptive_max_pool3d", "adaptive_max_pool1d"),
    *("avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d_with_indices"),
    *("max_pool2d_with_indices", "max_pool3d_with_indices"),
}
"""Operators that may reduce a whole grid."""

_LOCAL = {
    *("_convolution", "cudnn_convolution", "mkldnn_convolution"),
    *("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "native_group_norm"),
    *("_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "_batch_norm_no_update"),
    *("max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices"),
    *("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
    *("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d"),
    *("adaptive_max_pool2d", "adaptive_max_pool3d", "adaptive_max_pool1d"),
    *("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d"),
    *("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d"),
    *("_upsample_nearest_exact2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
    *("mean", "sum", "amax", "amin", "max", "std", "var", "var_mean", "linalg_vector_norm"),
    *(
        "hardswish",
        "hardswish_",
        "mish",
        "mish_",
        "glu",
        "hardtanh",
        "hardtanh_",
        "leaky_relu_",
        "_prelu_kernel",
        "_softmax",
    ),
    *("native_dropout", "bernoulli_", "detach", "alias", "clone", "_to_copy", "copy_"),
    *("empty", "empty_like", "zeros", "zeros_like", "ones", "ones_like", "full", "full_like"),
    *("new_zeros", "new_ones", "new_full", "new_empty", "fill_", "zero_", "scalar_tensor"),
    *("empty_strided", "arange", "lift_fresh", "_local_scalar_dense"),
}
"""Operators that keep positions, besides pointwise ones."""
