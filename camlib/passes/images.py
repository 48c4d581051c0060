"""Find out which of several tensors is the image: the one that a layer or the answer depends on.

The measurement adds noise to one tensor after the other and looks for changes. It takes one pass
more than there are tensors. The model draws the same random numbers in all passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from camlib.draws import Draws
from camlib.errors import InputError
from camlib.maps import precise
from camlib.nested import tensors_in
from camlib.passes.arguments import described
from camlib.passes.capture import capture
from camlib.passes.inputs import Inputs
from camlib.passes.paths import Path, shown
from camlib.state.random import devices_of, draw_again
from camlib.state.undoing import Undoing

_CHANGE = 1e-4
"""A larger change of a tensor, as a share of its largest value, is not rounding."""


def image_of(model: nn.Module, given: Inputs, layers: Sequence[str] = ()) -> Inputs:
    """`given` with the image that all `layers` depend on, or the answer if there are no layers.

    Raises:
        InputError: they depend on several tensors, or on none, and the user chose no image; or they
            do not depend on the one that the user chose.
        LayerError: a layer did not run.
    """
    if not given.rivals or (given.chosen and not layers):
        return given
    looked_at = _looked_at(model, given, layers)
    if given.chosen:
        for name, paths in looked_at.items():
            if paths and given.path not in paths:
                raise InputError(
                    f"{_called(name)} does not depend on image={shown(given.path)}; it depends on "
                    f"{_listed(given, paths)}"
                )
        return given
    for name, paths in looked_at.items():
        if not paths:
            raise InputError(
                f"{_called(name)} depends on none of the inputs that may be the image: "
                f"{_listed(given, given.rivals)}; choose another layer, or pass image= if it is "
                "another input"
            )
        if len(paths) > 1:
            example = max(paths, key=lambda path: given.imaged(path).image.ndim)
            raise InputError(
                f"{_called(name)} depends on {len(paths)} inputs that may be the image: "
                f"{_listed(given, paths)}; choose the one to explain, such as "
                f"image={shown(example)}"
            )
    if len({path for [path] in looked_at.values()}) > 1:
        each = "; ".join(f"{_called(name)} on {shown(path)}" for name, [path] in looked_at.items())
        raise InputError(
            f"the layers depend on different inputs: {each}; explain them in separate calls"
        )
    [path, *_] = next(iter(looked_at.values()))
    return given.imaged(path)


def _called(layer: str) -> str:
    return f"layer {layer!r}" if layer else "the answer"


def _listed(given: Inputs, paths: Iterable[Path]) -> str:
    return ", ".join(f"{shown(path)} ({described(given.imaged(path).image)})" for path in paths)


@torch.no_grad()
def _looked_at(model: nn.Module, given: Inputs, layers: Sequence[str]) -> dict[str, list[Path]]:
    """The paths of the rivals that each of `layers` depends on; that of the answer is ``""``."""
    clean = _read(model, given, layers)
    draws = Draws(0)
    looked_at: dict[str, list[Path]] = {name: [] for name in clean}
    for path in given.rivals:
        one = given.imaged(path)
        if not one.image.numel():
            continue
        low, high = torch.aminmax(precise(one.image))
        noise = draws.normal(*one.image.shape).to(one.image.device)
        spread = (high - low).where(high > low, 1)
        changed = _read(model, one.with_image((one.image + spread * noise).to(one.image)), layers)
        for name, paths in looked_at.items():
            pairs = zip(clean[name], changed[name], strict=False)
            if len(clean[name]) != len(changed[name]) or any(_differs(*pair) for pair in pairs):
                paths.append(path)
    return looked_at


def _read(model: nn.Module, given: Inputs, layers: Sequence[str]) -> dict[str, list[Tensor]]:
    """The outputs of `layers`, or of the model if there are no layers."""
    with torch.no_grad(), Undoing() as undo, capture(model, layers, graph="none") as seen:
        draw_again(undo, devices_of(model, given.image.device))
        output = given.owned().run(model)
    if not layers:
        return {"": tensors_in(output)}
    return {name: [each] for name, each in zip(layers, seen.activations(), strict=True)}


def _differs(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return True
    one, other = (each.dequantize() if each.is_quantized else each for each in (one, other))
    one, other = (
        precise(each) if each.is_floating_point() else each.double() for each in (one, other)
    )
    if not one.numel():
        return False
    return not bool((one - other).abs().max() <= _CHANGE * one.abs().max())
