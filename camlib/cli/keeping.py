"""A JSON file of what was measured, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, MutableMapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from camlib.cli.files import writing
from camlib.errors import InputError
from camlib.metrics.benchmark import Values
from camlib.metrics.comparison import Row
from camlib.visual.files import write_whole

_PAUSE = 5.0
"""The least seconds between two times that the file is written."""


class Measured(MutableMapping[tuple[str, int], Values]):
    """The values of each method and batch, kept in a file that is always whole.

    Args:
        file: the file; ``None`` keeps nothing.
        settings: what the values depend on.

    Raises:
        InputError: the file was measured with other settings, or is another file.
    """

    def __init__(self, file: Path | None, settings: dict[str, Any]) -> None:
        self.file = file
        self.settings = settings
        self.measured: dict[str, dict[int, Values]] = {}
        self.rows: list[Row] = []
        self.failed: dict[str, str] = {}
        self._written = time.monotonic()
        if file is not None and file.exists():
            self._read(file)

    def __getitem__(self, key: tuple[str, int]) -> Values:
        method, number = key
        return self.measured[method][number]

    def __setitem__(self, key: tuple[str, int], values: Values) -> None:
        method, number = key
        self.measured.setdefault(method, {})[number] = values
        if time.monotonic() - self._written > _PAUSE:
            self.write()

    def __delitem__(self, key: tuple[str, int]) -> None:
        del self.measured[key[0]][key[1]]

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return ((method, number) for method, each in self.measured.items() for number in each)

    def __len__(self) -> int:
        return sum(map(len, self.measured.values()))

    def write(self) -> None:
        """Write the file, with the rows if there are any.

        Raises:
            InputError: it cannot be written.
        """
        if self.file is None:
            return
        content = {
            "settings": self.settings,
            "complete": bool(self.rows),
            "rows": [asdict(row) for row in self.rows],
            "left out": self.failed,
            "measured": self.measured,
        }
        text = json.dumps(_plain(content), indent=1, allow_nan=False) + "\n"
        with writing(self.file):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(text.encode(), self.file)
        self._written = time.monotonic()

    def _read(self, file: Path) -> None:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            settings, measured = content["settings"], content["measured"]
            self.measured = {
                method: {
                    int(number): {
                        name: [math.nan if value is None else value for value in values]
                        for name, values in columns.items()
                    }
                    for number, columns in batches.items()
                }
                for method, batches in measured.items()
            }
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            raise InputError(
                f"{str(file)!r} was not written by camlib evaluate; choose another --json"
            ) from None
        now = json.loads(json.dumps(self.settings))
        for name in {**settings, **now}:
            if settings.get(name) != now.get(name):
                before, after = _short(settings.get(name)), _short(now.get(name))
                raise InputError(
                    f"{str(file)!r} was measured with {name} {before}, not {after}; choose another "
                    "--json, or delete it"
                )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _plain(value: Any) -> Any:
    """`value` with ``None`` in place of NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
