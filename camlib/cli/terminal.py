"""What the command says, in lines."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import click

from camlib.errors import CamlibWarning


def say(line: str, *, error: bool = False) -> None:
    """Print a line above the progress bar, if there is one."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr if error else sys.stdout)


def bar(name: str, *, stays: bool = True) -> Callable[[Iterable[Any]], Iterable[Any]]:
    """Shows on stderr how far a loop has come, where that is a terminal."""
    from tqdm import tqdm

    # None, unlike False, looks for a terminal.
    return lambda loop: tqdm(loop, name, leave=stays, disable=None)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns side by side."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in [header, *rows]:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def first_line(error: Exception) -> str:
    """What `error` says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def warnings_in_a_line(about: object) -> Iterator[None]:
    """Warnings of camlib in the block say what they are about, and no line of code."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", CamlibWarning)
        usual = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, CamlibWarning):
                say(f"Warning: {about}: {message}", error=True)
            else:
                usual(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield
