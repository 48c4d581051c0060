"""How much of each test runs, and the count of what ran.

By default a part that takes seconds runs; with ``CAMLIB_TRIALS`` that many times as much. With
``CAMLIB_COUNTS`` each test adds a line to that file: how many trials of which kind it made.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def trials() -> int:
    """How many times as many trials as by default."""
    return int(os.environ.get("CAMLIB_TRIALS", "1"))


@pytest.fixture(scope="session")
def count() -> Callable[[str, int], None]:
    """Notes that so many trials of a kind were made, and that each ended as it should."""
    file = os.environ.get("CAMLIB_COUNTS")

    def note(kind: str, number: int) -> None:
        if file:
            with open(file, "a") as lines:
                lines.write(f"{number} {kind}\n")

    return note
