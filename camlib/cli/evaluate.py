"""The command `camlib evaluate` and its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from camlib.cli.options import device_option, layer_option, network_options


@click.command(
    epilog="""Examples:

\b
  camlib evaluate -o methods.png
  camlib evaluate --methods grad_cam,score_cam --count 24 --json found.json
  camlib evaluate --data photos/ --model resnet18 --weights mine.pth --classes classes.txt"""
)
@click.option(
    "--data",
    default="scenes",
    show_default=True,
    metavar="scenes|DIR",
    help="The built-in scenes, or a folder of photos. Sub-folders with names of classes say what "
    "is explained, else it is the predicted class. Objects are known from masks (NAME_mask.png, or "
    "masks/NAME.png), XML of Pascal VOC and JSON of COCO.",
)
@click.option(
    "--count",
    type=click.IntRange(min=1),
    default=48,
    show_default=True,
    help="How many images, evenly spread over a folder.",
)
@click.option(
    "--methods",
    "methods",
    multiple=True,
    metavar="NAMES",
    help="See `camlib methods`; with commas, or repeated; all for all that fit the network.  "
    "[default: those of few passes]",
)
@network_options("scenenet")
@layer_option
@device_option
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Changed images at once.  [default: as many as fit into memory]",
)
@click.option(
    "--json",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also write everything that was measured. An interrupted run goes on from this file.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also draw a plot, such as methods.png.",
)
def evaluate(**options: Any) -> None:
    """Compare methods on images with known truth: are their maps worth anything?

    Each method explains the same class of the same images. It is measured whether the network uses
    what a map shows, where the map lies, whether it depends on the weights and on the class, and
    what it costs. Maps that explain nothing are always among them: all ones, a Gaussian in the
    middle, random weights of channels, the mean activation and the edges of the image.

    Intervals are of 95 %, by bootstrap over images. + and - are better and worse than Grad-CAM, by
    paired differences.
    """
    from camlib.cli.evaluating import evaluate_all

    evaluate_all(**options)
