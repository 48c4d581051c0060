"""The command `camlib explain` and its options."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click


class _Numbers(click.ParamType):  # type: ignore[type-arg]
    """One number or several: ``224``, ``224x320``, ``0.5,0.5,0.5``.

    Args:
        kind: of each number.
        counts: how many there may be.
        name: what they are called in the help.
    """

    def __init__(self, kind: type[int] | type[float], counts: tuple[int, ...], name: str) -> None:
        self.kind = kind
        self.counts = counts
        self.name = name

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """The numbers in `value`."""
        if isinstance(value, tuple):
            return value
        try:
            found = tuple(self.kind(part) for part in re.split(r"[x,\s]+", value.strip()))
        except ValueError:
            found = ()
        if len(found) not in self.counts or min(found) < 0:
            counts = " or ".join(map(str, self.counts))
            self.fail(f"{value!r} is not {counts} numbers such as {self.name}", param, ctx)
        return found


@click.command(
    epilog="""Examples:

\b
  camlib explain photo.jpg --model resnet50
  camlib explain photos/ -o maps --model resnet18 --weights mine.pth --classes classes.txt
  camlib explain photo.jpg --model timm:vit_small_patch16_224 --method grad_cam --top 3
  camlib explain photo.jpg --model mine.py:build --size 224 --expected cat --json found.json"""
)
@click.argument("images", nargs=-1, required=True)
@click.option(
    "--model",
    default="resnet50",
    show_default=True,
    metavar="MODEL",
    help="A network of torchvision by name, timm:NAME, hf:FOLDER_OR_NAME, package.module:factory, "
    "file.py:factory, a file of torch.export or TorchScript; scenenet is built in.",
)
@click.option(
    "--weights",
    default="DEFAULT",
    show_default=True,
    metavar="FILE|NAME",
    help="A file with weights, or the name of published ones, downloaded on first use.",
)
@click.option(
    "--classes",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Names of the classes: a file with one a line, JSON, or a folder with a folder for each.",
)
@click.option(
    "--multi-label", is_flag=True, help="Several classes may be present: sigmoid, not softmax."
)
@click.option(
    "--trust",
    is_flag=True,
    help="Read a whole pickled model, which can run any code: only if you know who made it.",
)
@click.option(
    "--transform",
    metavar="MODULE:NAME",
    help="What makes the input from a PIL image, in your code: file.py:name, or file.py:make() to "
    "call it first.  [default: the model's own]",
)
@click.option(
    "--size",
    type=_Numbers(int, (1, 2), "224 or 224x320"),
    metavar="S|HxW",
    help="Of the input: the middle square of a photo whose shorter side becomes S, or the whole "
    "photo resized to H x W.  [default: the model's own]",
)
@click.option(
    "--mean",
    type=_Numbers(float, (1, 3), "0.485,0.456,0.406"),
    metavar="R,G,B",
    help="Of the colours, in [0, 1].  [default: ImageNet's]",
)
@click.option(
    "--std",
    type=_Numbers(float, (1, 3), "0.229,0.224,0.225"),
    metavar="R,G,B",
    help="Of the colours, likewise.  [default: ImageNet's]",
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    default=["grad_cam"],
    show_default=True,
    metavar="NAME",
    help="See `camlib methods`; may be repeated.",
)
@click.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="NAME",
    help="See `camlib layers`; several are fused.  [default: the last good one]",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="CLASS",
    help="A class by number or name; may be repeated.  [default: the predicted class]",
)
@click.option("--top", type=click.IntRange(min=1), metavar="K", help="Explain the K best classes.")
@click.option(
    "--expected",
    metavar="CLASS",
    help="Explain the predicted class, this one, and what speaks for the one and not the other.",
)
@click.option("--device", default="auto", show_default=True, help="Such as cpu, cuda:1 or mps.")
@click.option(
    "--view",
    "views",
    multiple=True,
    type=click.Choice(["overlay", "emphasized", "cells"]),
    default=["overlay"],
    show_default=True,
    help="Over the photo; the same emphasized; the layer's own cells. May be repeated.",
)
@click.option(
    "--alpha",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="How much of the colours is seen.",
)
@click.option(
    "--colormap", default="jet", show_default=True, help="Of matplotlib, such as viridis."
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    help="Leave the photo as it is where the map is below.",
)
@click.option("--plain", is_flag=True, help="The first map over the photo, and nothing else.")
@click.option("--raw", is_flag=True, help="Also write the maps as .npy, in units of the score.")
@click.option(
    "--json",
    "manifest",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    help="Also write what was found for a program to read; - prints it.",
)
@click.option(
    "--csv",
    "rows",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    help="The same as a table, a row for each map.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="A picture for one image, or a folder, made if it is missing.  [default: IMAGE-camlib.png "
    "in the current folder; FOLDER-camlib/ for a folder]",
)
@click.pass_context
def explain(context: click.Context, /, **options: Any) -> None:
    """Show where a network looked in each of IMAGES.

    IMAGES are files, patterns, folders, which are searched with all below them, and - for the
    standard input. Pictures that camlib wrote, whose names end in -camlib, are left out.

    The figure has the photo with its class and probability, and beside it the map of each method;
    a row for each class. The model runs once for each image and method.
    """
    from camlib.cli.explaining import explain_all

    context.exit(int(not explain_all(**options)))
