"""The commands and their options.

What a command does is imported when it runs: help and completion answer without torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from camlib import __version__
from camlib.cli.evaluate import evaluate
from camlib.cli.explain import explain
from camlib.cli.report import report
from camlib.errors import CamlibError

DEMO_SEED = 236
"""Its scene has two large objects far apart, and the network is sure of both."""


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CamlibError as error:
            raise click.ClickException(str(error)) from None


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example:  camlib explain photo.jpg --model resnet50",
)
@click.version_option(__version__, prog_name="camlib", message="%(prog)s %(version)s")
def main() -> None:
    """Class activation maps: see where your model looked."""


main.add_command(explain)
main.add_command(evaluate)
main.add_command(report)


@main.command(epilog="Example:  camlib demo --all -o every-method.png")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default="camlib-demo.png",
    show_default=True,
    metavar="FILE",
    help="The picture.",
)
@click.option("--seed", default=DEMO_SEED, show_default=True, help="Another scene.")
@click.option("--all", "every", is_flag=True, help="Every method; takes a minute.")
def demo(*, output: Path, seed: int, every: bool) -> None:
    """Draw what the best-known methods find for two classes in one scene.

    The scene and the network are built in; nothing is downloaded.
    """
    from camlib.cli.demo import draw

    draw(output, seed, every=every)


@main.command(epilog="Example:  camlib layers resnet50 --last 10")
@click.argument("model")
@click.option("--size", type=click.IntRange(min=1), help="Of the input; the network's by default.")
@click.option("--last", type=click.IntRange(min=1), help="List so many of the last layers alone.")
def layers(*, model: str, size: int | None, last: int | None) -> None:
    """List the layers of MODEL that can be explained.

    MODEL is a network as `camlib explain` takes it. Networks of torchvision and timm have random
    weights here, and nothing is downloaded for them.
    """
    from camlib.cli.listing import list_layers

    list_layers(model, size, last)


@main.command(epilog="Example:  camlib methods grad_cam")
@click.argument("name", required=False)
def methods(*, name: str | None) -> None:
    """List the methods with their papers and costs, or describe the method NAME."""
    from camlib.cli.listing import describe_method, list_methods

    if name:
        describe_method(name)
    else:
        list_methods()
