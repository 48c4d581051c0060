"""The command `camlib report` and its options."""

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
  camlib report photos/ --model resnet50
  camlib report photos/ --model resnet18 --weights mine.pth --classes photos/ -o mine.html"""
)
@click.argument("images", nargs=-1, required=True)
@network_options("resnet50")
@click.option(
    "--method",
    default="grad_cam",
    show_default=True,
    metavar="NAME",
    help="See `camlib methods`; one that makes heatmaps.",
)
@layer_option
@device_option
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Pictures at once.",
)
@click.option("--title", default="Where the network looks", show_default=True)
@alpha_option
@colormap_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default="report.html",
    show_default=True,
    metavar="FILE",
    help="The page.",
)
@click.pass_context
def report(context: click.Context, /, **options: Any) -> None:
    """Write a page to walk through IMAGES and why a network answers what it does.

    IMAGES are files, patterns and folders, as in `camlib explain`. Where the sub-folders of a
    folder are named like classes, they are the true ones.

    The page is one file, needs no server and no network, and filters, sorts and searches. Above 24
    MB of pictures, they are in a folder beside the page. The page appears when it is complete.
    """
    from camlib.cli.reporting import report_all

    context.exit(int(not report_all(**options)))
