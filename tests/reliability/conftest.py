"""How much of each test runs: a part that takes seconds, or ``CAMLIB_TRIALS`` times as much."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session")
def trials() -> int:
    """How many times as many trials as by default."""
    return int(os.environ.get("CAMLIB_TRIALS", "1"))
