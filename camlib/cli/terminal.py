"""What the command says, in lines."""

from __future__ import annotations

import sys
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any, TextIO

from camlib.errors import CamlibError, CamlibWarning


def say(line: str, *, error: bool = False) -> None:
    """Print a line above the progress bar, if there is one.

    What the terminal cannot print is written as an escape.
    """
    from tqdm import tqdm

    stream = sys.stderr if error else sys.stdout
    coding = getattr(stream, "encoding", None) or "utf-8"
    tqdm.write(line.encode(coding, "backslashreplace").decode(coding), file=stream)


def bar(name: str, *, stays: bool = True) -> Callable[[Iterable[Any]], Iterable[Any]]:
    """Shows on stderr how far a loop has come, where that is a terminal."""
    from tqdm import tqdm

    # None, unlike False, looks for a terminal.
    return lambda loop: tqdm(loop, name, leave=stays, disable=None)


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], wrapped: Mapping[int, int] | None = None
) -> None:
    """Print columns side by side, those in `wrapped` broken into lines of so many letters."""
    wrapped = wrapped or {}
    lines: list[tuple[str, ...]] = []
    for row in [header, *rows]:
        broken = [
            textwrap.wrap(cell, wrapped.get(number, 1000)) or [""]
            for number, cell in enumerate(row)
        ]
        lines += zip_longest(*broken, fillvalue="")
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        say("  ".join(cells).rstrip())


def first_line(error: BaseException) -> str:
    """What `error` says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def reason(error: Exception) -> str:
    """Why something failed: what camlib says, or the kind of another error and its first line."""
    if isinstance(error, CamlibError):
        return str(error)
    return f"{type(error).__name__}: {first_line(error)}"


def say_failed(name: str, why: str) -> None:
    """Say in a line of stderr that the image `name` could not be explained."""
    about = "" if name in why else f"{name}: "
    say(f"Error: {about}{why}", error=True)


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
