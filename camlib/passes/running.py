"""Run a model without a graph, or with one if its own `forward` fails without it.

Some models take gradients in their `forward`, or put hooks on tensors, and fail without a graph.
This cannot be known before, so a model that fails runs again with a graph from the image on. If it
fails again, the first error is raised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from camlib.errors import CamlibError
from camlib.passes.chunks import out_of_memory
from camlib.passes.inputs import Inputs, detached

Result = TypeVar("Result")


def completed(attempt: Callable[[Inputs], Result], given: Inputs, *, whole: bool = False) -> Result:
    """The result of `attempt` for `given`; if it fails, for an image at which a graph starts.

    Args:
        attempt: runs a model; a second call must not depend on the first.
        given: the arguments of the model's call.
        whole: whether a graph starts at the image anyway.

    Raises:
        CamlibError: an attempt raised it.
        Exception: the error of the first attempt, if both fail.
    """
    try:
        return attempt(given)
    except (CamlibError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if whole or out_of_memory(error):
            raise
        try:
            with torch.enable_grad():
                return attempt(started(given))
        except CamlibError as other:
            raise other from None
        except Exception:
            pass  # the model's own error is the first
        raise


def answer(model: nn.Module, given: Inputs, *, graphed: bool) -> Any:
    """The output of `model` for `given`, with a graph only if the caller records one.

    Args:
        model: the model, without wrappers.
        given: the arguments of its call; the model may change the image in place.
        graphed: whether `model` always needs a graph from the image on.
    """
    if not graphed:
        return given.run(model)
    recording = torch.is_grad_enabled()
    with torch.enable_grad():
        output = given.with_image(with_graph(given.image)).run(model)
    return output if recording else detached(output)


def started(given: Inputs) -> Inputs:
    """`given` with an image at which a graph starts."""
    return given.with_image(given.image.detach().clone().requires_grad_())


def with_graph(tensor: Tensor) -> Tensor:
    """`tensor` as the result of an operator with a graph, so that it may change in place."""
    if tensor.requires_grad or not tensor.is_floating_point():
        return tensor
    with torch.enable_grad():
        return tensor.detach().requires_grad_().clone()
