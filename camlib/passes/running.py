"""Running a model as leanly as it allows: without a graph, unless its own `forward` needs one.

Some models put hooks on tensors as they run, keep gradients or take them: without a graph they
fail. Nothing says so beforehand, so they are run again with a graph from the image on. An error of
another cause comes again then, and the first is the one that is raised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from camlib.errors import CamlibError
from camlib.passes.chunks import out_of_memory
from camlib.passes.inputs import Inputs, detached

Found = TypeVar("Found")


def completed(attempt: Callable[[Inputs], Found], given: Inputs, *, whole: bool = False) -> Found:
    """What `attempt` returns for `given`; if it fails, for an image at which a graph starts.

    Args:
        attempt: runs a model, with no trace of an attempt before.
        given: the arguments of its call.
        whole: whether a graph starts at the image anyway.

    Raises:
        CamlibError: an attempt raised it.
        Exception: that of the first attempt, if the second fails too.
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
    """What `model` returns for `given`, with no more of a graph than the caller records.

    Args:
        model: without wrappers.
        given: the arguments of its call; the image is given away.
        graphed: whether `model` needs a graph from the image on.
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
    """`tensor` as a result that autograd follows, which may be changed in place."""
    if tensor.requires_grad or not tensor.is_floating_point():
        return tensor
    with torch.enable_grad():
        return tensor.detach().requires_grad_().clone()
