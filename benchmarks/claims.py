"""What papers and articles claim of maps, measured: ``python -m benchmarks.claims CLAIM``.

Each command is a section of `docs/evidence.md`: it prints the table there, and writes the picture
with ``--picture``. The built-in scenes have the exact mask of every object. Two networks beside the
built-in one are trained when they are first needed, in minutes, and kept in ``--networks``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.siblings import sibling
from camlib import METHODS, LayerMethod, figure, metrics, zoo
from camlib.draws import Draws
from camlib.metrics.comparison import interval
from camlib.metrics.similarity import spearman_abs
from camlib.visual import save_picture
from camlib.zoo import Scene

CELL = 8
"""The side in pixels of a cell of the built-in network's last layer."""

NETWORKS = Path(tempfile.gettempdir()) / "camlib-networks"


@click.group(context_settings={"show_default": True})
@click.option("--threads", default=1, help="Threads of torch.")
def main(threads: int) -> None:
    """What papers and articles claim of maps, measured."""
    torch.set_num_threads(threads)


def claim(count: int) -> Callable[[Any], Any]:
    """A command with the options of every claim."""

    def add(function: Any) -> Any:
        for option in (
            click.option("--picture", type=click.Path(path_type=Path), help="Also draw this file."),
            click.option("--count", default=count, help="Scenes."),
        ):
            function = option(function)
        return main.command()(function)

    return add


networks_option = click.option(
    "--networks", type=click.Path(path_type=Path), default=NETWORKS, help="Where networks are kept."
)


@claim(60)
@networks_option
def objects(count: int, picture: Path | None, networks: Path) -> None:
    """Does Grad-CAM++ cover several objects of a class better than Grad-CAM?

    An object is found if the map reaches a share of its maximum there.
    """
    names = ("grad_cam", "grad_cam_plus_plus", "layer_cam", "score_cam")
    _header(
        "network ends in",
        "objects of the class",
        "method",
        "found at half the peak %",
        "at a quarter %",
        "lowest peak over highest %",
        "on others %",
    )
    for end, model in {"pooling": zoo.load(), "dense layers": sibling("dense", networks)}.items():
        for number in (2, 3):
            scenes = [several(seed, number) for seed in range(count)]
            label = torch.tensor([int(scene.labels[0]) for scene in scenes])
            for name in names:
                maps = explained(name, model, scenes, label)
                rows = zip(maps, scenes, label.tolist(), strict=True)
                columns = torch.tensor([_found(*row) for row in rows]).T
                others = metrics.energy_pointing_game(maps, _others(scenes, label))
                _row(end, number, name, *map(_percent, (*columns, others)))
    if picture:
        scenes = [several(seed, 3) for seed in (3, 12, 21)]
        label = torch.tensor([int(scene.labels[0]) for scene in scenes])
        drawn = {name: explained(name, model, scenes, label) for name in names[:3]}
        _draw(picture, scenes, drawn, label)


def several(seed: int, number: int) -> Scene:
    """A scene with `number` objects of one class and one of another."""
    wanted = seed % 8
    return zoo.scene(seed, classes=[*[wanted] * number, (wanted + 1 + seed // 8 % 7) % 8])


def _found(heatmap: Tensor, scene: Scene, label: int) -> tuple[float, float, float]:
    """The objects of a class on which the map has half and a quarter of its maximum, as shares.

    And the peak on the object where it is lowest, over that where it is highest.
    """
    masks = _wide(scene.masks[scene.labels == label])
    peaks = (heatmap * masks).flatten(1).amax(1)
    share = peaks / heatmap.max().clamp(min=1e-9)
    even = peaks.min() / peaks.max().clamp(min=1e-9)
    return float((share >= 0.5).float().mean()), float((share >= 0.25).float().mean()), float(even)


@claim(24)
def score(count: int, picture: Path | None) -> None:
    """Is Score-CAM less noisy than gradients, and worth its cost?

    Noise is the part of the map on no object, and its mean change from pixel to pixel.
    """
    model = zoo.load()
    scenes, label = pairs(count)
    own, others = _own(scenes, label), _others(scenes, label)
    found = {
        name: explained(name, model, scenes, label)
        for name in (
            "saliency",
            "guided_grad_cam",
            "grad_cam",
            "grad_cam_plus_plus",
            "group_cam",
            "score_cam",
        )
    }
    _header("method", "on no object %", "change from pixel to pixel %")
    for name, maps in found.items():
        nothing = 1 - metrics.energy_pointing_game(maps, own | others)
        change = sum((maps.diff(dim=axis).abs().mean((1, 2)) for axis in (1, 2)), torch.zeros(1))
        _row(name, _percent(nothing), _percent(change / 2, digits=2))
    if picture:
        shown = {name: maps[:3] for name, maps in found.items() if name != "group_cam"}
        _draw(picture, scenes[:3], shown, label[:3])


@claim(100)
def shallow(count: int, picture: Path | None) -> None:
    """Are Layer-CAM's maps of shallow layers finer, and still on the object?"""
    model = zoo.load()
    scenes, label = pairs(count)
    own, others = _own(scenes, label), _others(scenes, label)
    drawn: dict[str, Tensor] = {}
    _header("layer", "grid", "method", "energy %", "on others %", "peak %", "IoU", "precision")
    for layer, grid in {
        "features.0": 64,
        "features.2": 32,
        "features.4": 16,
        "features": 16,
    }.items():
        for name in ("layer_cam", "grad_cam", "hires_cam"):
            maps = explained(name, model, scenes, label, layer)
            if name != "hires_cam":
                drawn[f"{name}\n{layer}"] = maps[:3]
            _row(
                layer,
                f"{grid} x {grid}",
                name,
                _percent(metrics.energy_pointing_game(maps, own)),
                _percent(metrics.energy_pointing_game(maps, others)),
                _percent(metrics.pointing_game(maps, own, tolerance=4)),
                _share(metrics.iou(maps, own)),
                _share(metrics.pixel_average_precision(maps, own)),
            )
    if picture:
        shown = {name: maps for name, maps in drawn.items() if "features.4" not in name}
        _draw(picture, scenes[:3], shown, label[:3])


@claim(100)
def blind(count: int, picture: Path | None) -> None:
    """Is Guided Backprop blind to the class, and Guided Grad-CAM not?"""
    model = zoo.load()
    scenes, label = pairs(count)
    own, others = _own(scenes, label), _others(scenes, label)
    other = torch.stack([scene.labels[1] for scene in scenes])
    drawn: dict[str, Tensor] = {}
    _header("method", "correlation of the two maps", "on the object %", "on the other %", "peak %")
    for name in ("guided_backprop", "guided_grad_cam", "grad_cam", "saliency", "deconvnet"):
        maps = explained(name, model, scenes, label)
        again = explained(name, model, scenes, other)
        drawn |= {f"{name}\nthis class": maps[:3], f"{name}\nthe other": again[:3]}
        _row(
            name,
            _share(spearman_abs(maps, again)),
            _percent(metrics.energy_pointing_game(maps, own)),
            _percent(metrics.energy_pointing_game(maps, others)),
            _percent(metrics.pointing_game(maps, own, tolerance=4)),
        )
    if picture:
        shown = {name: maps for name, maps in drawn.items() if name.startswith("guided")}
        _draw(picture, scenes[:3], shown, label[:3])


@claim(100)
@networks_option
def deconvnet(count: int, picture: Path | None, networks: Path) -> None:
    """What does the deconvnet show, where a network strides and where it pools?

    The correlation is that of the pictures of two scenes, which have nothing in common.
    """
    scenes, label = pairs(count)
    own, others = _own(scenes, label), _others(scenes, label)
    other = torch.stack([scene.labels[1] for scene in scenes])
    drawn: dict[str, Tensor] = {}
    _header(
        "network",
        "method",
        "another scene",
        "another class",
        "on the object %",
        "on the other %",
        "peak %",
    )
    for kind, model in {"strides": zoo.load(), "pools": sibling("pooling", networks)}.items():
        for name in ("deconvnet", "guided_backprop", "saliency"):
            maps = explained(name, model, scenes, label)
            drawn[f"{name}\n{kind}"] = maps[:3]
            _row(
                kind,
                name,
                _share(spearman_abs(maps, maps.roll(8, 0))),
                _share(spearman_abs(maps, explained(name, model, scenes, other))),
                _percent(metrics.energy_pointing_game(maps, own)),
                _percent(metrics.energy_pointing_game(maps, others)),
                _percent(metrics.pointing_game(maps, own, tolerance=4)),
            )
    if picture:
        shown = {name: maps for name, maps in drawn.items() if "saliency" not in name}
        _draw(picture, scenes[:3], shown, label[:3])


@claim(400)
@networks_option
def stronger(count: int, picture: Path | None, networks: Path) -> None:
    """Can an eye tell the stronger of two networks by its maps, when both answer alike?

    The eye is a rule: the stronger network has more of its map on the object. Only scenes count
    where both say yes.
    """
    strong, weak = zoo.load(), sibling("weaker", networks)
    scenes, label = pairs(count)
    inputs = _inputs(scenes)
    with torch.no_grad():
        sure = [model(inputs).sigmoid().gather(1, label[:, None])[:, 0] for model in (strong, weak)]
    alike = (sure[0] > 0.5) & (sure[1] > 0.5)
    scenes = [scene for scene, each in zip(scenes, alike.tolist(), strict=True) if each]
    label = label[alike]
    own = _own(scenes, label)
    kinds = torch.bincount(label, minlength=8).tolist()
    share = ", ".join(f"{number} {name}" for name, number in zip(zoo.CLASSES, kinds, strict=True))
    click.echo(f"{len(scenes)} of {count} scenes: {share}\n")
    drawn: dict[str, Tensor] = {}
    _header("method", "on the object, stronger %", "weaker %", "the rule is right %")
    for name in (
        "grad_cam",
        "grad_cam_plus_plus",
        "layer_cam",
        "guided_grad_cam",
        "guided_backprop",
        "saliency",
    ):
        maps = [explained(name, model, scenes, label) for model in (strong, weak)]
        one, two = (metrics.energy_pointing_game(each, own) for each in maps)
        right = (one > two).double() + 0.5 * (one == two).double()
        drawn |= {
            f"{name}\n{kind}": each[:3]
            for kind, each in zip(("stronger", "weaker"), maps, strict=True)
        }
        _row(name, _percent(one), _percent(two), _percent(right))
    if picture:
        shown = {
            name: drawn[name] for name in drawn if name.startswith(("grad_cam\n", "guided_grad"))
        }
        _draw(picture, scenes[:3], shown, label[:3])


def pairs(count: int) -> tuple[list[Scene], Tensor]:
    """Scenes of two objects of different classes, and the class of the first of each."""
    scenes = [zoo.scene(s, classes=[s % 8, (s % 8 + 1 + s // 8 % 7) % 8]) for s in range(count)]
    return scenes, torch.stack([scene.labels[0] for scene in scenes])


def explained(
    name: str, model: nn.Module, scenes: Sequence[Scene], label: Tensor, layer: str = "features"
) -> Tensor:
    """The maps ``(N, H, W)`` of a method; attributions by their absolute values, up to 1."""
    kind: Any = METHODS[name]
    takes_layer = issubclass(kind, LayerMethod) or name == "guided_grad_cam"
    method = kind(model, layer) if takes_layer else kind(model)
    if hasattr(method, "score"):
        from camlib.targets import Probability

        parts = [
            method(_inputs([scene]), Probability(each[None], "sigmoid"))
            for scene, each in zip(scenes, label, strict=True)
        ]
        return torch.cat(parts)
    found: Tensor = torch.cat(
        [
            method(_inputs(scenes[start : start + 20]), label[start : start + 20])
            for start in range(0, len(scenes), 20)
        ]
    )
    if found.ndim == 3:
        return found
    strength = found.abs().sum(1)
    return strength / strength.amax((1, 2), keepdim=True).clamp(min=1e-12)


def _inputs(scenes: Sequence[Scene]) -> Tensor:
    return zoo.preprocess(torch.stack([scene.image for scene in scenes]))


def _own(scenes: Sequence[Scene], label: Tensor) -> Tensor:
    """The objects of each scene's class, widened by half a cell."""
    masks = [scene.mask(int(each)) for scene, each in zip(scenes, label, strict=True)]
    return _wide(torch.stack(masks))


def _others(scenes: Sequence[Scene], label: Tensor) -> Tensor:
    """The objects of other classes, widened likewise, without those of the class."""
    masks = [
        scene.masks[scene.labels != each].any(0) for scene, each in zip(scenes, label, strict=True)
    ]
    return _wide(torch.stack(masks)) & ~_own(scenes, label)


def _wide(masks: Tensor) -> Tensor:
    wide: Tensor = F.max_pool2d(masks[:, None].float(), CELL + 1, stride=1, padding=CELL // 2)
    return wide[:, 0] > 0


def _draw(
    picture: Path, scenes: Sequence[Scene], maps: Mapping[str, Tensor], label: Tensor
) -> None:
    names = [zoo.CLASSES[each] for each in label.tolist()]
    drawn = figure([scene.image for scene in scenes], dict(maps), names=names)
    click.echo(f"\nwrote {save_picture(drawn, picture)}")


def _header(*cells: str) -> None:
    click.echo(f"| {' | '.join(cells)} |\n|{'---|' * len(cells)}")


def _row(*cells: object) -> None:
    click.echo(f"| {' | '.join(map(str, cells))} |")


def _percent(values: Tensor, digits: int = 0) -> str:
    return _with_interval(100 * values.double(), digits)


def _share(values: Tensor) -> str:
    return _with_interval(values.double(), 2)


def _with_interval(values: Tensor, digits: int) -> str:
    """The mean of `values`, and the half width of its 95 % interval by bootstrap."""
    samples = Draws(0).numbers(len(values), 1000, len(values))
    low, high = interval(values, samples)
    return f"{float(values.nanmean()):.{digits}f} ±{(high - low) / 2:.{digits}f}"


if __name__ == "__main__":
    main()
