"""What can be chosen: the layers of a network, and the methods."""

from __future__ import annotations

import inspect
from typing import Any

from camlib import METHODS
from camlib.cli.arguments import method_named, name_of
from camlib.cli.networks import inputs_for
from camlib.cli.terminal import first_line, say, table
from camlib.errors import CamlibError, InputError
from camlib.layers import candidates


def list_layers(model: str, size: int | None, last: int | None) -> None:
    """Print the layers of `model` that can be explained, the `last` ones alone if given.

    Raises:
        InputError: there is no such model, or it takes no input of this `size`.
    """
    network, inputs, usual = inputs_for(model, size)
    try:
        found = candidates(network, inputs)
    except CamlibError:
        raise
    # Networks refuse a size in their own ways, from assertions to errors deep inside.
    except Exception as error:
        given = f"{size} x {size}" if size else "this size"
        advice = f"; its own size is {usual}: --size {usual}" if usual else "; try another --size"
        raise InputError(
            f"{model!r} cannot take pictures of {given} ({first_line(error)}){advice}"
        ) from None
    rows = []
    for layer in found[-last:] if last else found:
        shape, grid = (" x ".join(map(str, axes)) for axes in (layer.shape[1:], layer.grid))
        mark = "default" if layer.default else ""
        stride, share = f"{layer.stride[-1]:.3g}", f"{layer.share:.0%}"
        rows.append([layer.name, layer.kind, shape, grid, stride, share, mark])
    table(["layer", "kind", "output", "grid", "stride", "gradient on it", ""], rows)


def list_methods() -> None:
    """Print the methods, their papers and what they cost."""
    rows: list[list[Any]] = [
        [name, _without_number(kind.paper()), kind.cost] for name, kind in METHODS.items()
    ]
    table(["name", "paper", "passes of the network"], rows, wrapped={1: 34, 2: 36})
    say("\nA method in full: camlib methods NAME")


def describe_method(name: str) -> None:
    """Print what the method `name` computes, its paper and its cost.

    Raises:
        InputError: there is no such method.
    """
    kind = method_named(name)
    say(f"{name_of(kind)}, in Python camlib.{kind.__name__}\npasses of the network: {kind.cost}\n")
    text = inspect.getdoc(kind) or ""
    say(text.partition("\n\nArgs:")[0].partition("\n\nRaises:")[0])


def _without_number(paper: str) -> str:
    """`paper` without its arXiv or DOI, and with nothing before the authors."""
    return paper.rpartition(", ")[0].rpartition("; ")[2] or paper
