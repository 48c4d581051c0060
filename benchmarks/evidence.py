"""What maps are worth: how faithful they are, where they lie, and what they depend on.

``python -m benchmarks.evidence faithfulness FOLDER``, ``localisation`` and ``dependence FOLDER``
are the three measurements of `docs/choosing.md`. FOLDER holds a trained classifier,
`mobilenet_v2_imagenet.py` with its weights, and `images/NNN.jpg`; the second takes the built-in
network, whose scenes have exact masks.
"""

from __future__ import annotations

import copy
import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import camlib
from camlib import METHODS, CamlibWarning, LayerMethod, zoo

LAST = "last, after a ReLU"

LAYERS = {
    LAST: "features.18",
    "middle, after a ReLU": "features.14.conv.0.2",
    "middle, signed": "features.13",
    "early, after a ReLU": "features.5.conv.0.2",
}
"""Layers of MobileNetV2 by what they are: grids of 7, 14, 14 and 28."""

SCENE_LAYERS = {
    LAST: "features",
    "last, signed": "features.6.1",
    "early, after a ReLU": "features.2",
}
"""Layers of the built-in network: grids of 16, 16 and 32."""

RULES = (
    *("grad_cam", "hires_cam", "xgrad_cam", "grad_cam_plus_plus", "layer_cam"),
    *("element_wise_grad_cam", "lift_cam", "eigen_cam", "lafam", "random_cam", "center_gaussian"),
)
"""Methods that cost little at any layer."""

AT_THE_END = (
    *("cam", "shapley_cam", "ablation_cam", "recipro_cam", "group_cam", "eigen_grad_cam"),
    *("seg_eigen_cam", "kpca_cam", "fem"),
)
"""Methods that cost little at the last layer alone."""

DEPENDS = (
    *("grad_cam", "saliency", "input_x_gradient", "smooth_grad", "integrated_gradients"),
    *("full_grad", "guided_backprop", "deconvnet", "guided_grad_cam"),
)
"""Methods that are asked what they depend on."""

FAR = 500
"""How many classes lie between the one explained and the other one."""


@click.group(context_settings={"show_default": True})
@click.option("--threads", default=2, help="Threads of torch.")
def main(threads: int) -> None:
    """What maps are worth."""
    torch.set_num_threads(threads)


@main.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--count", default=40, help="Photographs.")
@click.option("--layer", "layers", multiple=True, default=list(LAYERS), help="These alone.")
def faithfulness(folder: Path, count: int, layers: tuple[str, ...]) -> None:
    """How much probability is left where a map hides the rest, and how much maps differ."""
    model, images = trained(folder, count)
    for title in layers:
        found = dict(heatmaps(model, images, LAYERS[title]))
        click.echo(f"\n{title} ({LAYERS[title]}), {len(images)} photographs\n")
        click.echo("| method | average drop % | increase % | correlation with Grad-CAM |")
        click.echo("|---|---:|---:|---:|")
        for name, heat in found.items():
            drop, increase = kept(model, images, heat)
            like = correlation(heat, found["grad_cam"])
            click.echo(f"| {name} | {drop:.1f} | {increase:.1f} | {like:.3f} |")


@main.command()
@click.option("--count", default=100, help="Scenes of two objects.")
@click.option("--layer", "layers", multiple=True, default=list(SCENE_LAYERS), help="These alone.")
@click.option("--pixels/--no-pixels", default=True, help="Also attributions of pixels.")
def localisation(count: int, layers: tuple[str, ...], pixels: bool) -> None:
    """Where the evidence lies: on the object asked for, on the other one, or on neither."""
    model = zoo.load()
    scenes = [zoo.scene(seed, classes=_pair(seed)) for seed in range(count)]
    images = torch.stack([zoo.preprocess(scene.image) for scene in scenes])
    labels = torch.stack([scene.labels for scene in scenes])
    masks = torch.stack([scene.masks for scene in scenes]).float()
    wide = F.max_pool2d(masks, 9, stride=1, padding=4)
    click.echo(f"{count} scenes, masks widened by 4 pixels: {float(wide.mean()):.1%} each\n")
    click.echo("| layer | method | on the object % | on the other % | peak on the object % |")
    click.echo("|---|---|---:|---:|---:|")
    for title in layers:
        for name in (*RULES, *(AT_THE_END if title == LAST else ())):
            made = attempted(name, model, images, SCENE_LAYERS[title], labels)
            if made is not None:
                click.echo(f"| {title} | {name} | {_placed(made, wide)} |")
    for name in ("occlusion", *DEPENDS[1:]) if pixels else ():
        made = attempted(name, model, images, None, labels)
        assert made is not None
        strength = made.abs().sum(2) if made.ndim == 5 else made
        click.echo(f"| pixels | {name} | {_placed(strength, wide)} |")


@main.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.option("--count", default=8, help="Photographs.")
def dependence(folder: Path, count: int) -> None:
    """How alike maps are for another class, and for a network whose end or all was drawn anew.

    The correlation of the maps, of absolute values for attributions: 1 means that a map says
    nothing about what was changed.
    """
    model, images = trained(folder, count)
    with torch.no_grad():
        classes = model(images).argmax(1)
    others = (classes + FAR) % 1000
    networks = {"classifier drawn anew": drawn_anew(model, "classifier")}
    networks["features.15 on drawn anew"] = drawn_anew(
        model, "classifier", *(f"features.{number}" for number in range(15, 19))
    )
    networks["all drawn anew"] = drawn_anew(model, "")
    click.echo(f"| method | another class | {' | '.join(networks)} |")
    click.echo(f"|---|{'---:|' * (1 + len(networks))}")
    for name in DEPENDS:
        own = strengths(name, model, images, classes)
        cells = [correlation(own, strengths(name, model, images, others))]
        cells += [
            correlation(own, strengths(name, other, images, classes)) for other in networks.values()
        ]
        click.echo(f"| {name} | {' | '.join(f'{each:.2f}' for each in cells)} |")


def trained(folder: Path, count: int) -> tuple[nn.Module, Tensor]:
    """The classifier in `folder`, and `count` of its photographs, of different classes."""
    from PIL import Image

    path = folder / "mobilenet_v2_imagenet.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    files = sorted((folder / "images").glob("*.jpg"))
    files = files[:: max(len(files) // count, 1)][:count]
    return module.load(), torch.cat([module.to_tensor(Image.open(file)) for file in files])


def heatmaps(model: nn.Module, images: Tensor, layer: str) -> Iterator[tuple[str, Tensor]]:
    """The heatmaps ``(N, H, W)`` of each method that fits `layer`, and one that hides nothing."""
    for name in (*RULES, *(AT_THE_END if layer == LAYERS[LAST] else ())):
        # One image at a time, as the memory of some grows with the batch.
        parts = [attempted(name, model, image[None], layer, None) for image in images]
        found = [part for part in parts if part is not None]
        if found:
            yield name, torch.cat(found)
    yield "nothing hidden", torch.ones_like(images[:, 0])


def attempted(
    name: str, model: nn.Module, images: Tensor, layer: str | None, target: Any
) -> Tensor | None:
    """What the method `name` finds, ``None`` if it does not fit the network."""
    kind: Any = METHODS[name]
    options = {"layer": layer} if layer and issubclass(kind, LayerMethod) else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CamlibWarning)
        try:
            found: Tensor = kind(model, **options)(images, target)
        except camlib.ModelError:
            return None
    return found


@torch.no_grad()
def kept(model: nn.Module, images: Tensor, heat: Tensor) -> tuple[float, float]:
    """Average drop and increase of confidence in percent, where images are multiplied by maps.

    Both as Grad-CAM++ defines them, but for an increase below a hundredth of a percent, which is
    rounding.
    """
    before = model(images).softmax(1)
    chance, label = before.max(1)
    after = model(images * heat[:, None]).softmax(1).gather(1, label[:, None])[:, 0]
    drop = ((chance - after).clamp(min=0) / chance).mean()
    return 100 * float(drop), 100 * float((after > chance + 1e-4).float().mean())


def correlation(one: Tensor, other: Tensor) -> float:
    """The mean correlation of maps of the same image; a flat map counts as 0."""
    one, other = (each.flatten(1) - each.flatten(1).mean(1, keepdim=True) for each in (one, other))
    size = (one.norm(dim=1) * other.norm(dim=1)).clamp(min=1e-12)
    return float(((one * other).sum(1) / size).mean())


def strengths(name: str, model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Maps ``(N, H, W)``, the absolute values of attributions summed over colours."""
    parts = []
    for image, label in zip(images, classes.tolist(), strict=True):
        found = attempted(name, model, image[None], LAYERS[LAST], label)
        assert found is not None
        parts.append(found.abs().sum(1) if found.ndim == 4 else found)
    return torch.cat(parts)


def drawn_anew(model: nn.Module, *names: str) -> nn.Module:
    """A copy of `model` with weights of the modules `names` permuted at random."""
    twin = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    for name in names:
        for parameter in twin.get_submodule(name).parameters():
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.data = parameter.data.flatten()[order].reshape(parameter.shape)
    return twin


def _placed(found: Tensor, masks: Tensor) -> str:
    """Shares of maps ``(N, 2, H, W)`` on their own object, on the other, and of their peaks."""
    total = found.flatten(2).sum(2).clamp(min=1e-12)
    other = masks.flip(1) * (1 - masks)
    peaks = masks.flatten(2).gather(2, found.flatten(2).argmax(2, keepdim=True))
    values = (
        ((found * masks).flatten(2).sum(2) / total).mean(),
        ((found * other).flatten(2).sum(2) / total).mean(),
        peaks.mean(),
    )
    return " | ".join(f"{100 * float(value):.0f}" for value in values)


def _pair(seed: int) -> tuple[int, int]:
    """Two different classes, all pairs in turn."""
    first, step = seed % 8, 1 + seed // 8 % 7
    return first, (first + step) % 8


if __name__ == "__main__":
    main()
