"""What is asked: each experiment is a function that measures and returns a table."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import median

import torch

from benchmarks.cases import LAST, LIBRARIES, Setting, overlays
from benchmarks.measure import Ratio, elapsed, peak, ready, sentence, times
from benchmarks.metrics import PASSES, PEERS, measuring, plain

PLAIN = "plain inference"

GRADIENT = (
    *("grad_cam", "grad_cam_plus_plus", "hires_cam", "xgrad_cam", "element_wise_grad_cam"),
    *("layer_cam", "lift_cam", "eigen_grad_cam", "cam", "eigen_cam"),
)
"""Methods of one forward pass and one backward pass of what follows the layer, or of none."""

PIXELS = ("saliency", "guided_backprop", "deconvnet", "guided_grad_cam", "full_grad")
"""Methods whose backward pass goes down to the pixels."""

STAGES = ("layer1", "layer2", "layer3", "layer4")


@dataclass(frozen=True)
class Options:
    """How to measure: threads of torch, the device, rounds after the one that warms up."""

    threads: int = 1
    device: str = "cpu"
    rounds: int = 7
    memory: bool = True


@dataclass
class Row:
    """One case: its time over the baseline's and its peak memory in MiB, or why there is none."""

    label: str
    ratio: Ratio | None = None
    failed: str = ""
    memory: float | None = None
    share: float | None = None


@dataclass
class Table:
    """What an experiment found; ratios are to the row `baseline`."""

    title: str
    baseline: str
    rows: list[Row] = field(default_factory=list)


def measured(
    title: str,
    cases: dict[str, tuple[str, Setting]],
    options: Options,
    *,
    rounds: int | None = None,
    memory: bool = True,
) -> Table:
    """`cases` side by side; the first is the baseline."""
    calls, failed = ready(cases)
    baseline = next(iter(cases))
    found, stopped = times(calls, rounds or options.rounds, baseline)
    del calls
    table = Table(title, baseline)
    failed |= stopped
    for label, (case, setting) in cases.items():
        row = Row(label, found.get(label), failed.get(label, ""))
        if options.memory and memory and row.ratio:
            used = peak(case, setting, options.threads)
            if isinstance(used, float):
                row.memory = used
                first = table.rows[0].memory if table.rows else used
                row.share = used / first if first else None
        table.rows.append(row)
    return table


def methods(options: Options) -> Iterable[Table]:
    """Every gradient method at the last stage, beside plain inference."""
    setting = Setting("resnet50", batch=8, device=options.device)
    cases = {PLAIN: (PLAIN, setting)}
    cases |= {name: (f"camlib {name}", setting) for name in (*GRADIENT, *PIXELS)}
    yield measured("Methods of one pass: ResNet-50, last stage, batch 8", cases, options)


def stages(options: Options) -> Iterable[Table]:
    """Earlier stages, and all of them together."""
    cases = {PLAIN: (PLAIN, Setting("resnet50", batch=8, device=options.device))}
    for name, layers in {**{stage: (stage,) for stage in STAGES}, "all four": STAGES}.items():
        cases[name] = (
            "camlib layer_cam",
            Setting("resnet50", layers, batch=8, device=options.device),
        )
    yield measured("Stages of ResNet-50 with Layer-CAM, batch 8", cases, options)


def classes(options: Options) -> Iterable[Table]:
    """What one class and many cost in one call, beside plain inference."""
    for batch in (1, 8):
        counts = (1, 10, 100, 1000)[: 4 if batch == 1 else 3]
        cases = {PLAIN: (PLAIN, Setting("resnet50", batch=batch, device=options.device))}
        for count in counts:
            setting = Setting("resnet50", batch=batch, classes=count, device=options.device)
            cases[f"{count} {'class' if count == 1 else 'classes'}"] = "camlib grad_cam", setting
        yield measured(f"Classes in one call: Grad-CAM, ResNet-50, batch {batch}", cases, options)


def peers(options: Options) -> Iterable[Table]:
    """Grad-CAM of each library on eight networks."""
    for batch in (8, 1, 32):
        for model in LAST:
            setting = Setting(model, batch=batch, device=options.device)
            cases = {PLAIN: (PLAIN, setting)}
            cases |= {library: (f"{library} grad_cam", setting) for library in LIBRARIES}
            yield measured(
                f"{model}, batch {batch}",
                cases,
                options,
                rounds=options.rounds if batch < 32 else 2,
                memory=batch == 8,
            )


def first(options: Options) -> Iterable[Table]:
    """What the first call on a network costs, told no layer where a library can find one."""
    for batch in (8, 1):
        for model in ("resnet50", "mobilenet_v2", "convnext_tiny", "swin_t", "vit_b_16"):
            setting = Setting(model, batch=batch, device=options.device)
            cases = {PLAIN: (PLAIN, setting)}
            if model in MEASURED:
                cases["the measuring passes"] = "the measuring passes", setting
            cases["camlib"] = "camlib first", setting
            cases["torchcam"] = "torchcam first", setting
            cases |= {f"{each}, told the layer": (f"{each} grad_cam", setting) for each in TOLD}
            title = f"The first call: Grad-CAM, {model}, batch {batch}"
            yield measured(title, cases, options, memory=False)


MEASURED = "convnext_tiny", "swin_t", "vit_b_16"
"""Networks in which places are moved, so that where their layers look is measured."""

TOLD = "captum", "grad-cam"
"""Libraries that have to be told the layer."""


def growth(options: Options) -> Iterable[Table]:
    """How the cost of Grad-CAM grows with the size of the image."""
    for size in (96, 160, 224, 320, 448):
        setting = Setting("resnet50", batch=2, size=size, device=options.device)
        cases = {PLAIN: (PLAIN, setting)}
        cases |= {library: (f"{library} grad_cam", setting) for library in LIBRARIES}
        yield measured(f"{size} x {size}", cases, options)


def score(options: Options) -> Iterable[Table]:
    """Score-CAM beside as many plain passes of the same batch."""
    for model in ("mobilenet_v2", "resnet18"):
        setting = Setting(model, batch=1, device=options.device)
        cases = {
            "plain masked passes": ("plain masked passes", setting),
            "camlib score_cam": ("camlib score_cam", setting),
        }
        title = f"Score-CAM: {model}, one image, 32 masks at a time"
        yield measured(title, cases, options, rounds=min(options.rounds, 5))


def ablation(options: Options) -> Iterable[Table]:
    """Ablation-CAM by closed form or replay, and by running the network for every channel."""
    for model in ("resnet50", "vgg16"):
        setting = Setting(model, batch=1, device=options.device)
        cases = {
            "camlib ablation_cam": ("camlib ablation_cam", setting),
            PLAIN: (PLAIN, setting),
        }
        table = measured(f"Ablation-CAM: {model}, one image", cases, options, memory=False)
        calls, failed = ready({"grad-cam": ("grad-cam ablation_cam", setting)})
        for label, reason in failed.items():
            table.rows.append(Row(label, failed=reason))
        own = table.rows[0].ratio
        assert own is not None
        for label, call in calls.items():  # minutes: once, and nothing is to be warmed up
            try:
                seconds = elapsed(call)
            except Exception as error:
                table.rows.append(Row(label, failed=sentence(error)))
                continue
            ratio = seconds / own.seconds
            table.rows.append(Row(label, Ratio(ratio, ratio, ratio, seconds)))
        yield table


def metrics(options: Options) -> Iterable[Table]:
    """Metrics of maps, beside plain passes over as many images and the other libraries."""
    for title, count in PASSES.items():
        batch = 16 if title == "confidence" else 1
        setting = Setting("mobilenet_v2", batch=batch, device=options.device)
        calls = {PLAIN: plain(setting, batch * count)}
        failed: dict[str, str] = {}
        for library in ("camlib", *PEERS[title]):
            try:
                calls[library] = measuring(setting, title, library)
            except Exception as error:
                failed[library] = sentence(error)
        rounds = min(options.rounds, 3)
        found, stopped = times(calls, rounds, PLAIN)
        failed |= stopped
        rows = [
            Row(name, found.get(name), failed.get(name, ""))
            for name in (PLAIN, "camlib", *PEERS[title])
        ]
        yield Table(f"{title.capitalize()}: MobileNetV2, {batch * count} passes", PLAIN, rows)


def pictures(options: Options) -> Iterable[Table]:
    """64 overlays."""
    for dtype in (torch.float32, torch.uint8):
        calls = {each: overlays(each, dtype) for each in ("camlib", "grad-cam", "torchcam")}
        found, failed = times(calls, options.rounds, "camlib")
        rows = [Row(name, found.get(name), failed.get(name, "")) for name in calls]
        kind = str(dtype).removeprefix("torch.")
        yield Table(f"Overlays of 64 images of 224 x 224, tensors of {kind}", "camlib", rows)


def imports(options: Options) -> Iterable[Table]:
    """What importing a library takes beyond torch, each time in a new process."""
    table = Table("Import beyond `import torch`, in a process of its own", "camlib")
    names = {"camlib": "camlib", "torchcam": "torchcam.methods", "captum": "captum.attr"}
    names["grad-cam"] = "pytorch_grad_cam"
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as compiled:
        for turn in range(options.rounds + 1):
            for name, module in names.items():
                took = _import(module, compiled)
                seconds[name] += [took] * (turn > 0)  # the first compiles, as installing does
    for name, own in seconds.items():
        ratios = sorted(one / other for one, other in zip(own, seconds["camlib"], strict=True))
        quarter = len(ratios) // 4
        spread = ratios[quarter], ratios[-1 - quarter]
        table.rows.append(Row(name, Ratio(median(ratios), *spread, median(own))))
    yield table


def _import(module: str, compiled: str) -> float:
    code = (
        "import time, torch; start = time.perf_counter(); import {0}; "
        "print(time.perf_counter() - start)"
    )
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-c", code.format(module)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return float(done.stdout.split()[-1])


EXPERIMENTS: dict[str, Callable[[Options], Iterable[Table]]] = {
    each.__name__: each
    for each in (
        *(methods, stages, classes, peers, first, growth, score, ablation, metrics, pictures),
        imports,
    )
}
