"""Turn what the user passed into the arguments of a model's call, or into advice."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def arguments_of(given: Any, model: nn.Module | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and the keyword arguments in `given`.

    A tuple holds positional arguments, a mapping keyword arguments; anything else is one argument.
    A mapping is one argument too if ``forward`` has none of its names and requires one argument at
    most.
    """
    if isinstance(given, tuple):
        return given, {}
    if isinstance(given, Mapping) and given and not _is_one(given, model):
        return (), dict(given)
    return (given,), {}


def parameters_of(model: nn.Module | None) -> dict[str, inspect.Parameter]:
    """The parameters of `model`'s ``forward``; none if they are unknown."""
    if model is None:
        return {}
    try:
        return dict(inspect.signature(model.forward).parameters)
    except (TypeError, ValueError):
        return {}


def position_of(image: Any, model: nn.Module | None) -> Any:
    """`image` as a path, with a parameter's name at its start replaced by its position."""
    path = image if isinstance(image, tuple) else (image,)
    names = [name for name, each in parameters_of(model).items() if each.kind in _POSITIONAL]
    return (names.index(path[0]), *path[1:]) if path and path[0] in names else path


def _is_one(given: Mapping[Any, Any], model: nn.Module | None) -> bool:
    if not all(isinstance(name, str) for name in given):
        return True
    parameters = parameters_of(model).values()
    positional = [each for each in parameters if each.kind in _POSITIONAL]
    required = [each for each in positional if each.default is each.empty]
    keywords = any(each.kind is each.VAR_KEYWORD for each in parameters)
    known = any(each.name in given for each in parameters)
    return bool(positional) and len(required) <= 1 and not keywords and not known


def described(given: Any) -> str:
    """A short description of `given`, for a message."""
    if isinstance(given, Tensor):
        return f"a {str(given.dtype).removeprefix('torch.')} tensor of shape {tuple(given.shape)}"
    if isinstance(given, tuple | list | Mapping):
        values = given.values() if isinstance(given, Mapping) else given
        parts = list(dict.fromkeys(map(described, values)))
        return f"{type(given).__name__} of {', '.join(parts) or 'nothing'}"
    shape = getattr(given, "shape", None)
    shaped = f" of shape {tuple(shape)}" if isinstance(shape, tuple) else ""
    return type(given).__name__ + shaped


def hint_for(given: Any, image_layout: str | None = None) -> str:
    """The end of a message that says how to make an image of `given`; may be empty."""
    parts = list(_parts(given))
    tensors = [part for part in parts if isinstance(part, Tensor)]
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    if image_layout is not None and floating:
        return f"; image_layout={image_layout!r} names {len(image_layout)} axes"
    for tensor in tensors:
        if tensor.is_complex():
            return "; pass real numbers: the magnitude, or torch.view_as_real(x) as channels"
        if tensor.ndim >= 2 and tensor.dtype == torch.uint8:
            return "; divide by 255, or use the transform the model was trained with"
        if tensor.ndim >= 3 and not tensor.is_floating_point():
            return "; convert it with .float(), and scale it as in training"
    if any(tensor.ndim == 2 for tensor in floating):
        return (
            "; pass image_layout='NL' for a batch of raw series, or add axes for sample and "
            "channel to a single grey picture: image[None, None]"
        )
    for part in parts:
        module = type(part).__module__.partition(".")[0]
        if module == "PIL":
            return "; use the transform the model was trained with: transform(picture)[None]"
        if module == "numpy":
            return (
                "; convert it: torch.from_numpy(array).float(), with channels before height and "
                "width and samples first, scaled as in training"
            )
    return ""


def _parts(given: Any) -> Any:
    """The values in `given` if it is a container, else `given` itself."""
    if isinstance(given, tuple | list | Mapping):
        for part in given.values() if isinstance(given, Mapping) else given:
            yield from _parts(part)
    else:
        yield given
