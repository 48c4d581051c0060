"""That a test which compares nothing fails."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comparisons
import pytest
import torch


def guarded(test: Callable[[], None]) -> None:
    """`test`, under the guard that every test is under."""
    item: Any = SimpleNamespace(name="test_of_mine")
    call = comparisons.pytest_pyfunc_call(item)
    next(call)
    test()
    with suppress(StopIteration):
        call.send(True)


def test_loop_over_nothing_is_no_comparison() -> None:
    def test() -> None:
        for value in list[int]():
            assert value

    with pytest.raises(pytest.fail.Exception, match="test_of_mine passed without a comparison"):
        guarded(test)


def holds() -> None:
    assert torch.ones(1).all()


def close() -> None:
    torch.testing.assert_close(torch.ones(1), torch.ones(1))


def raises() -> None:
    with pytest.raises(ZeroDivisionError):
        _ = 1 / 0


def warns() -> None:
    with pytest.warns(UserWarning):
        torch.tensor(torch.ones(1))


@pytest.mark.parametrize("test", [holds, close, raises, warns])
def test_each_kind_of_comparison_counts(test: Callable[[], None]) -> None:
    guarded(test)
    before = comparisons.made
    test()
    assert comparisons.made > before


MISSING = re.compile(
    r"install|needs|not here|no CUDA|reads no|has no|cannot fetch|is None|importorskip"
)
"""What a reason to skip says: that something is missing where the tests run."""

TESTS = Path(__file__).parent


def test_only_what_is_missing_is_a_reason_to_skip() -> None:
    skips = [
        (path.name, ast.unparse(node))
        for path in TESTS.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and "skip" in ast.unparse(node.func).rpartition(".")[2]
    ]
    assert len(skips) > 10
    assert [found for found in skips if not MISSING.search(found[1])] == []
