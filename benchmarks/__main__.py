"""``python -m benchmarks``: camlib beside plain inference and the other libraries.

``python -m benchmarks classes peers`` measures these alone; ``--write`` puts what was measured, now
and before, into ``docs/``.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch

import camlib
from benchmarks import report
from benchmarks.experiments import EXPERIMENTS, Options, Row, Table
from benchmarks.measure import Ratio

DOCS = Path(__file__).parents[1] / "docs"
RESULTS = Path(tempfile.gettempdir()) / "camlib-benchmarks.json"


@click.command(context_settings={"show_default": True})
@click.argument("names", nargs=-1, type=click.Choice(list(EXPERIMENTS)))
@click.option("--threads", default=1, help="Threads of torch.")
@click.option("--device", default="cpu", help="Where the networks run.")
@click.option("--rounds", default=7, help="Rounds after the one that warms up.")
@click.option("--memory/--no-memory", default=True, help="Measure memory as well.")
@click.option("--write", is_flag=True, help="Write docs/benchmarks.md and its picture.")
def main(
    names: tuple[str, ...], threads: int, device: str, rounds: int, memory: bool, write: bool
) -> None:
    """Measure NAMES, or everything."""
    torch.set_num_threads(threads)
    # Random weights may leave nothing that speaks for a class; it costs the same.
    warnings.simplefilter("ignore", camlib.CamlibWarning)
    options = Options(threads, device, rounds, memory)
    where = report.machine(device, threads)
    click.echo(where)
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in names or EXPERIMENTS:
        command = f"python -m benchmarks {name} --threads {threads} --rounds {rounds}"
        command += f" --device {device}" * (device != "cpu")
        tables: list[Any] = []
        stored[name] = {"command": command, "machine": where, "tables": tables}
        for table in EXPERIMENTS[name](options):
            click.echo("\n" + report.markdown(table))
            tables.append(asdict(table))
            RESULTS.write_text(json.dumps(stored))
    if write:
        results = {name: _read(found) for name, found in stored.items()}
        (DOCS / "benchmarks.md").write_text(report.page(results), encoding="utf-8")
        if "peers" in results:
            report.plot(results["peers"]["tables"], DOCS / "images" / "cost.png")


def _read(stored: dict[str, Any]) -> dict[str, Any]:
    tables = []
    for table in stored["tables"]:
        rows = [
            Row(**{**row, "ratio": Ratio(**row["ratio"]) if row["ratio"] else None})
            for row in table["rows"]
        ]
        tables.append(Table(table["title"], table["baseline"], rows))
    return {**stored, "tables": tables}


if __name__ == "__main__":
    main()
