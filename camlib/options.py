"""What an option's value is, of whatever library: Python's numbers, NumPy's, tensors of one."""

from __future__ import annotations

import math
from operator import index
from typing import Any


def is_whole(value: Any) -> bool:
    """Whether `value` is a whole number; a bool is none."""
    try:
        index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


def is_real(value: Any) -> bool:
    """Whether `value` is a finite real number; a bool is none."""
    if isinstance(value, bool | str | bytes):
        return False
    try:
        return math.isfinite(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False
