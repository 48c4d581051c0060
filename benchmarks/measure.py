"""Time and memory of calls on a machine that is not ours alone.

Time: every round runs each case once, one after the other, in an order that rotates, and divides
its time by that of the baseline in the same round; what else the machine does hits all alike. The
median over rounds is reported with its quartiles.

Memory: each case runs in a process of its own, once. The peak is the largest resident set during
the pass less the resident set just before it, when the network, the images and the libraries are
loaded. Linux keeps that peak and resets it on request (``clear_refs``); elsewhere it is
``ru_maxrss``, which cannot be reset, so that the number is a lower bound.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles

import torch

from benchmarks.cases import BASELINE, Call, Setting, prepared

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Ratio:
    """Times of a case over those of the baseline: median, quartiles, and its median in seconds."""

    median: float
    low: float
    high: float
    seconds: float


def times(
    calls: dict[str, Call], rounds: int, baseline: str = BASELINE
) -> tuple[dict[str, Ratio], dict[str, str]]:
    """The ratio of each case, and why each of the others failed; one more round warms up."""
    seconds: dict[str, list[float]] = {case: [] for case in calls}
    failed: dict[str, str] = {}
    order = list(calls)
    for turn in range(rounds + 1):
        for case in order[turn % len(order) :] + order[: turn % len(order)]:
            if case in failed:
                continue
            start = time.perf_counter()
            try:
                calls[case]()
            except Exception as error:
                failed[case] = _sentence(error)
                continue
            seconds[case].append(time.perf_counter() - start)
    base = seconds[baseline][1:]
    found = {}
    for case in order:
        if case not in failed:
            ratios = [own / other for own, other in zip(seconds[case][1:], base, strict=True)]
            low, _, high = quantiles(ratios, n=4, method="inclusive")
            found[case] = Ratio(median(ratios), low, high, median(seconds[case][1:]))
    return found, failed


def ready(cases: Sequence[str], setting: Setting) -> tuple[dict[str, Call], dict[str, str]]:
    """What is timed for each case, and why each of the others cannot be."""
    calls: dict[str, Call] = {}
    failed: dict[str, str] = {}
    for case in cases:
        try:
            calls[case] = prepared(case, setting)
        except Exception as error:
            failed[case] = _sentence(error)
    return calls, failed


def peak(case: str, setting: Setting, threads: int) -> float | str:
    """Peak memory of one pass in MiB, in a process of its own; or why there is none."""
    order = json.dumps({"case": case, "threads": threads, "setting": asdict(setting)})
    command = [sys.executable, "-m", "benchmarks.measure", order]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no output"
    return float(done.stdout.splitlines()[-1])


def _peak_here(case: str, setting: Setting, threads: int) -> float:
    torch.set_num_threads(threads)
    small = Setting(**{**asdict(setting), "batch": 1, "size": 64})
    prepared(case, small)()  # libraries and kernels are loaded before, not in the pass
    call = prepared(case, setting)
    before = _resident("VmRSS")
    if _RESET.exists():
        _RESET.write_text("5")
    call()
    return (_resident("VmHWM") - before) / 1024


def _resident(field: str) -> float:
    """Resident memory of this process in KiB: now (``VmRSS``) or at most (``VmHWM``)."""
    if _STATUS.exists():
        [line] = [line for line in _STATUS.read_text().splitlines() if line.startswith(field)]
        return float(line.split()[1])
    unit = 1024 if sys.platform == "darwin" else 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    print(_peak_here(given["case"], Setting(**given["setting"]), given["threads"]))
