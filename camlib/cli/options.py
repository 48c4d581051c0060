"""Options that several commands have: the network they ask, and how they explain and draw."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click


def network_options(default: str) -> Callable[[Any], Any]:
    """Add options of a network to a command, which gets them as one: a `Spoken`.

    Args:
        default: the network where the user names none.
    """
    options = [
        click.option(
            "--model",
            default=default,
            show_default=True,
            metavar="MODEL",
            help="A network of torchvision by name, timm:NAME, hf:FOLDER_OR_NAME, "
            "package.module:factory, file.py:factory, a file of torch.export or TorchScript; "
            "scenenet is built in.",
        ),
        click.option(
            "--weights",
            default="DEFAULT",
            show_default=True,
            metavar="FILE|NAME",
            help="A file with weights, or the name of published ones, downloaded on first use.",
        ),
        click.option(
            "--classes",
            type=click.Path(path_type=Path),
            metavar="PATH",
            help="Names of the classes: a file with one a line, JSON, or a folder with a folder "
            "for each.",
        ),
        click.option(
            "--multi-label",
            "several",
            is_flag=True,
            help="Several classes may be present: sigmoid, not softmax.",
        ),
        click.option(
            "--trust",
            is_flag=True,
            help="Read a whole pickled model, which can run any code: only if you know who made "
            "it.",
        ),
        click.option(
            "--transform",
            metavar="MODULE:NAME",
            help="What makes the input from a PIL image, in your code: file.py:name, or "
            "file.py:make() to call it first.  [default: the model's own]",
        ),
        click.option(
            "--size",
            type=_Numbers(int, (1, 2), "224 or 224x320"),
            metavar="S|HxW",
            help="Of the input: the middle square of a photo whose shorter side becomes S, or the "
            "whole photo resized to H x W.  [default: the model's own]",
        ),
        click.option(
            "--mean",
            type=_Numbers(float, (1, 3), "0.485,0.456,0.406"),
            metavar="R,G,B",
            help="Of the colours, in [0, 1].  [default: ImageNet's]",
        ),
        click.option(
            "--std",
            type=_Numbers(float, (1, 3), "0.229,0.224,0.225"),
            metavar="R,G,B",
            help="Of the colours, likewise.  [default: ImageNet's]",
        ),
    ]

    def add(command: Callable[..., None]) -> Any:
        @wraps(command)
        def call(*args: Any, **given: Any) -> None:
            from camlib.cli.networks import Spoken

            parts = {name: given.pop(name) for name in Spoken.__dataclass_fields__}
            command(*args, spoken=Spoken(**parts), **given)

        asked: Any = call
        for option in reversed(options):
            asked = option(asked)
        return asked

    return add


layer_option = click.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="NAME",
    help="See `camlib layers`; several are fused.  [default: the last good one]",
)

device_option = click.option(
    "--device", default="auto", show_default=True, help="Such as cpu, cuda:1 or mps."
)

alpha_option = click.option(
    "--alpha",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="How much of the colours is seen.",
)

colormap_option = click.option(
    "--colormap", default="jet", show_default=True, help="Of matplotlib, such as viridis."
)


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
