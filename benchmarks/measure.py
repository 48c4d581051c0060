"""Time and memory of calls on a machine that is not ours alone.

Time: every round runs each case once, in an order that rotates, with the baseline before and after
it, and divides the case's time by the mean of the two; what else the machine does hits both alike.
The median over rounds is reported with its quartiles.

Memory: each case runs in a process of its own, twice. The peak is the largest resident set during
the second call less the resident set just before it. The C library is told to give back every
block of 64 KiB as soon as it is freed: what it hoards otherwise differs by half from one process to
the next. Linux keeps that peak and resets it on request (``clear_refs``); elsewhere it is
``ru_maxrss``, which cannot be reset. On a GPU it is what the allocator gave out in the second call.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles

import torch

from benchmarks.cases import Call, Setting, checked, prepared

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
_GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


@dataclass(frozen=True)
class Ratio:
    """Times of a case over those of the baseline: median, quartiles, and its median in seconds."""

    median: float
    low: float
    high: float
    seconds: float


def times(
    calls: dict[str, Call], rounds: int, baseline: str
) -> tuple[dict[str, Ratio], dict[str, str]]:
    """The ratio of each case to the baseline, and why each of the others failed.

    One more round warms up.
    """
    ratios: dict[str, list[float]] = {case: [] for case in calls}
    seconds: dict[str, list[float]] = {case: [] for case in calls}
    failed: dict[str, str] = {}
    others = [case for case in calls if case != baseline]
    for turn in range(rounds + 1):
        shift = turn % max(1, len(others))
        before = elapsed(calls[baseline])
        seconds[baseline].append(before)
        for case in others[shift:] + others[:shift]:
            if case in failed:
                continue
            try:
                own = elapsed(calls[case])
            except Exception as error:
                failed[case] = sentence(error)
                continue
            after = elapsed(calls[baseline])
            ratios[case].append(2 * own / (before + after))
            seconds[case].append(own)
            before = after
    ratios[baseline] = [1.0] * (rounds + 1)
    found = {}
    for case in calls:
        if case not in failed:
            low, middle, high = quantiles(ratios[case][1:], n=4, method="inclusive")
            found[case] = Ratio(middle, low, high, median(seconds[case][1:]))
    return found, failed


def elapsed(call: Call) -> float:
    """Seconds that `call` takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def ready(cases: dict[str, tuple[str, Setting]]) -> tuple[dict[str, Call], dict[str, str]]:
    """What is timed for each case, and why each of the others cannot be.

    A case of another library runs once before, to see that it returns a map for each image.
    """
    calls: dict[str, Call] = {}
    failed: dict[str, str] = {}
    for label, (case, setting) in cases.items():
        try:
            call = prepared(case, setting)
            if case.endswith(" grad_cam"):
                checked(call(), setting)
            calls[label] = call
        except Exception as error:
            failed[label] = sentence(error)
    return calls, failed


def peak(case: str, setting: Setting, threads: int) -> float | str:
    """Peak memory of one call in MiB, in a process of its own; or why there is none."""
    order = json.dumps({"case": case, "threads": threads, "setting": asdict(setting)})
    command = [sys.executable, "-m", "benchmarks.measure", order]
    environment = {**os.environ, **_GIVE_BACK}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no output"
    return float(done.stdout.splitlines()[-1])


def _peak_here(case: str, setting: Setting, threads: int) -> float:
    torch.set_num_threads(threads)
    call = prepared(case, setting)
    call()  # libraries and kernels are loaded, and what is found out once is known
    if setting.device.startswith("cuda"):
        start = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return (torch.cuda.max_memory_allocated() - start) / 2**20
    if _RESET.exists():
        _RESET.write_text("5")
    before = _resident("VmRSS")
    call()
    return (_resident("VmHWM") - before) / 1024


def _resident(field: str) -> float:
    """Resident memory of this process in KiB: now (``VmRSS``) or at most (``VmHWM``)."""
    if _STATUS.exists():
        [line] = [line for line in _STATUS.read_text().splitlines() if line.startswith(field)]
        return float(line.split()[1])
    unit = 1024 if sys.platform == "darwin" else 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:100]}"


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    warnings.simplefilter("ignore")
    setting = Setting(**{**given["setting"], "layers": tuple(given["setting"]["layers"])})
    print(_peak_here(given["case"], setting, given["threads"]))
