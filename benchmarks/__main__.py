"""``python -m benchmarks inference``: Grad-CAM beside plain inference and the other libraries."""

from __future__ import annotations

import os
import platform
import warnings
from importlib.metadata import PackageNotFoundError, version

import click
import torch

import camlib
from benchmarks.cases import BASELINE, CASES, Setting, camlib_classes
from benchmarks.measure import Ratio, peak, ready, times

_PACKAGES = ("torch", "torchvision", "torchcam", "captum", "grad-cam")


@click.group(context_settings={"show_default": True})
def main() -> None:
    """Measurements of camlib."""


@main.command()
@click.option("--model", default="resnet50", help="A network of torchvision, random weights.")
@click.option("--layer", default="layer4", help="Where the map is read.")
@click.option("--batch", default=16, help="Images in a call.")
@click.option("--size", default=224, help="Height and width of an image.")
@click.option("--rounds", default=7, help="Rounds after the one that warms up.")
@click.option("--threads", default=2, help="Threads of torch.")
@click.option("--case", "cases", multiple=True, type=click.Choice(list(CASES)), help="These alone.")
@click.option("--memory/--no-memory", default=True, help="Measure memory as well.")
def inference(
    model: str,
    layer: str,
    batch: int,
    size: int,
    rounds: int,
    threads: int,
    cases: tuple[str, ...],
    memory: bool,
) -> None:
    """What Grad-CAM costs beside plain inference (no_grad, eval), on the CPU."""
    torch.set_num_threads(threads)
    # Random weights may leave nothing that speaks for a class; it costs the same.
    warnings.simplefilter("ignore", camlib.CamlibWarning)
    setting = Setting(model, layer, batch, size)
    chosen = [case for case in CASES if not cases or case in cases or case == BASELINE]
    calls, failed = ready(chosen, setting)
    found, stopped = times(calls, rounds)
    failed |= stopped
    peaks = {case: peak(case, setting, threads) for case in found} if memory else {}

    click.echo(f"Grad-CAM at {layer} of {model}, random weights, batch {batch} at {size} x {size}")
    click.echo(f"{rounds} rounds, median and quartiles of the ratio to inference in each round")
    click.echo(f"{_machine()}, {threads} threads\n{_versions()}\n")
    click.echo("| case | time / inference | quartiles | seconds | peak memory | / inference |")
    click.echo("|---|---|---|---|---|---|")
    for case in chosen:
        click.echo(_row(case, found.get(case), failed.get(case), peaks))


@main.command()
@click.option("--model", default="resnet50", help="A network of torchvision, random weights.")
@click.option("--layer", default="layer4", help="Where the map is read.")
@click.option("--batch", default=1, help="Images in a call.")
@click.option("--size", default=224, help="Height and width of an image.")
@click.option(
    "--count", "counts", multiple=True, default=[1, 10, 100], help="Classes; the first is 1."
)
@click.option("--rounds", default=15, help="Rounds after the one that warms up.")
@click.option("--threads", default=2, help="Threads of torch.")
def classes(
    model: str,
    layer: str,
    batch: int,
    size: int,
    counts: tuple[int, ...],
    rounds: int,
    threads: int,
) -> None:
    """What more classes cost beside one, in the same call of Grad-CAM, on the CPU."""
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore", camlib.CamlibWarning)
    setting = Setting(model, layer, batch, size)
    calls = {f"classes: {count}": camlib_classes(setting, count) for count in counts}
    found, _ = times(calls, rounds, next(iter(calls)))

    click.echo(f"Grad-CAM at {layer} of {model}, random weights, batch {batch} at {size} x {size}")
    click.echo(f"{rounds} rounds, median and quartiles of the ratio to one class in each round")
    click.echo(f"{_machine()}, {threads} threads\n{_versions()}\n")
    click.echo("| case | time / one class | quartiles | seconds |")
    click.echo("|---|---|---|---|")
    for case, ratio in found.items():
        click.echo(
            f"| {case} | {ratio.median:.2f} | {ratio.low:.2f} to {ratio.high:.2f} "
            f"| {ratio.seconds:.3f} |"
        )


def _row(case: str, ratio: Ratio | None, reason: str | None, peaks: dict[str, float | str]) -> str:
    if ratio is None:
        return f"| {case} | failed: {reason} | | | | |"
    cells = [
        case,
        f"{ratio.median:.2f}",
        f"{ratio.low:.2f} to {ratio.high:.2f}",
        f"{ratio.seconds:.2f}",
    ]
    own, base = peaks.get(case, ""), peaks.get(BASELINE)
    if isinstance(own, float):
        cells.append(f"{own:.0f} MiB")
        cells.append(f"{own / base:.2f}" if isinstance(base, float) and base else "")
    else:
        cells += [f"failed: {own}" if own else "", ""]
    return f"| {' | '.join(cells)} |"


def _machine() -> str:
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, CPU"


def _versions() -> str:
    found = [f"camlib {camlib.__version__}, Python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    return ", ".join(found)


if __name__ == "__main__":
    main()
