"""The command `camlib explain` and its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from camlib.cli.options import (
    alpha_option,
    colormap_option,
    device_option,
    layer_option,
    network_options,
)


@click.command(
    epilog="""Examples:

\b
  camlib explain photo.jpg --model resnet50
  camlib explain photos/ -o maps --model resnet18 --weights mine.pth --classes classes.txt
  camlib explain photo.jpg --model timm:vit_small_patch16_224 --method grad_cam --top 3
  camlib explain photo.jpg --model mine.py:build --size 224 --expected cat --json found.json"""
)
@click.argument("images", nargs=-1, required=True)
@network_options("resnet50")
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="NAME",
    help="See `camlib methods`; may be repeated.  [default: what fits the network]",
)
@layer_option
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
@device_option
@click.option(
    "--view",
    "views",
    multiple=True,
    type=click.Choice(["overlay", "emphasized", "cells"]),
    default=["overlay"],
    show_default=True,
    help="Over the photo; the same emphasized; the layer's own cells. May be repeated.",
)
@alpha_option
@colormap_option
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
    a row for each class. The model runs once for each image and method. Without --method, camlib
    takes the one that measurements recommend for what the layer returns, and says why.
    """
    from camlib.cli.explaining import explain_all

    context.exit(int(not explain_all(**options)))
