"""Keep `torch.compile` away from functions of this package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch._C._dynamo import eval_frame

F = TypeVar("F", bound=Callable[..., Any])


def as_written(function: F) -> F:
    """Mark `function` to run as written, with all that it calls, inside a compiled function.

    ``torch.compiler.disable`` does the same, but takes a second to import.
    """
    function._torchdynamo_disable = True  # type: ignore[attr-defined]
    function._torchdynamo_disable_msg = "camlib runs as written"  # type: ignore[attr-defined]
    if hasattr(eval_frame, "set_code_exec_strategy"):
        skip = eval_frame._FrameAction.SKIP
        how = eval_frame._FrameExecStrategy(skip, skip)
        eval_frame.set_code_exec_strategy(function.__code__, how)
    else:  # before torch 2.7
        eval_frame.skip_code(function.__code__)  # type: ignore[attr-defined]
    return function
