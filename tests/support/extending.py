"""The classes that the examples of `docs/extending.md` write."""

from __future__ import annotations

import functools
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import torch

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"

T = TypeVar("T")


@functools.cache
def page() -> ModuleType:
    """The code of the page as a module, so that what it defines can be pickled."""
    module = ModuleType("extending_page")
    sys.modules[module.__name__] = module
    text = PAGE.read_text(encoding="utf-8")
    # The page draws its network: another draw may show nothing, which is warned of.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            exec(compile(block, str(PAGE), "exec"), vars(module))
    return module


def defined(base: type[T]) -> list[type[T]]:
    """The subclasses of `base` that the page defines."""
    return [
        kind
        for kind in vars(page()).values()
        if isinstance(kind, type) and issubclass(kind, base) and kind.__module__ == "extending_page"
    ]
