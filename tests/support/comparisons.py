"""A test that passes without a comparison fails: one that returned early, or looped over nothing.

What counts is an assertion that holds, a call of ``assert_close`` or ``assert_allclose``, and an
error or a warning that is awaited. Helpers are rewritten, so that their assertions count too.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np
import pytest
import torch
from _pytest.assertion import rewrite

P = ParamSpec("P")
R = TypeVar("R")

made = 0
"""How many comparisons this process has made."""


def compared() -> bool:
    """Note a comparison; false, so that no text is made of an assertion that holds."""
    global made
    made += 1
    return False


def counted(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, each call of which is a comparison."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        __tracebackhide__ = True
        compared()
        return function(*args, **kwargs)

    return call


# pytest's own hook for assertions that hold is handed a text of every operand, tensors included.
rewrite._check_if_assertion_pass_impl = compared
for _module, _name in (
    (torch.testing, "assert_close"),
    (np.testing, "assert_allclose"),
    (pytest, "raises"),
    (pytest, "warns"),
):
    setattr(_module, _name, counted(getattr(_module, _name)))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Fail a test that has passed without a comparison."""
    before = made
    result = yield
    if made == before:
        pytest.fail(f"{pyfuncitem.name} passed without a comparison", pytrace=False)
    return result
