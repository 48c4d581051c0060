"""One case of the matrix: a model, its weights, and what it is called with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

CLASSES = 40
"""The number of classes of every classifier here."""

ANY = (128, 192)
"""A size for networks that take any."""

MIXED = "its drawn transformers outweigh what comes to them from a place"
"""Why maps of MobileViT do not follow: layer norms make the small large, and nothing goes past."""

Scores = Callable[[Any], Tensor]
"""Scores ``(N, K)`` of some kind, of a model's output."""


@dataclass(frozen=True)
class Case:
    """A model and what it is called with.

    Attributes:
        group: the library, and the kind where it has several.
        name: the library's own name of the model.
        build: makes the model; its weights are drawn afterwards.
        size: of the input: frames, if any, height and width.
        form: what surrounds the images: nothing (``"tensor"``), a list (``"list"``), a mapping
            (``"mapping"``), or a mapping with texts (``"texts"``).
        scores: what the evidence is evidence for, where the output is not one score a class.
        nightly: why the case is not part of every run; empty where it is.
        lost: why its map cannot follow the evidence, with weights that are drawn; empty where it
            has to. All else is asked of it still.
    """

    group: str
    name: str
    build: Callable[[], nn.Module] = field(repr=False)
    size: tuple[int, ...]
    form: str = "tensor"
    scores: Scores | None = None
    nightly: str = ""
    lost: str = ""

    def __str__(self) -> str:
        return f"{self.group}-{self.name}"

    def model(self, seed: int = 0) -> nn.Module:
        """The model in evaluation mode, with weights drawn from `seed`."""
        with torch.random.fork_rng(devices=[]), _Undrawn(), torch.no_grad():
            torch.manual_seed(seed)
            model = self.build()
        return drawn(model, seed)

    def inputs(self, images: Tensor) -> Any:
        """`images` ``(N, 3, *size)`` as the model takes them."""
        if self.form == "list":
            return list(images)
        if self.form == "mapping":
            return {"pixel_values": images}
        if self.form == "texts":
            texts = torch.arange(CLASSES * 5).reshape(CLASSES, 5) % 95 + 2
            texts[:, -1] = 98
            mask = torch.ones_like(texts)
            return {"pixel_values": images, "input_ids": texts, "attention_mask": mask}
        return images


class _Undrawn(TorchFunctionMode):
    """Zeros for the initial draws, which take most of the time of building a large network."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in (Tensor.normal_, Tensor.uniform_):
            return args[0].zero_()
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def drawn(model: nn.Module, seed: int = 0) -> nn.Module:
    """`model` in evaluation mode, all its weights drawn anew, those that start at zero too.

    Matrices and kernels have a standard deviation of ``fan_in ** -0.5``, tokens one of 1, and
    offsets and means are 0. Scales lie in [0.1, 0.3]: the branches of residual networks add little
    to what goes past them, as in trained ones, or nothing would stay in its place. Single numbers,
    such as a temperature, are kept.
    """
    generator = torch.Generator().manual_seed(seed)
    statistics = [(name, value) for name, value in model.named_buffers() if "running_" in name]
    for path, tensor in [*model.named_parameters(), *statistics]:
        name = path.rpartition(".")[2]
        if not tensor.ndim or not tensor.is_floating_point():
            continue
        if "pos" in path and "embed" in path:
            tensor.zero_()
        elif tensor.numel() > max(tensor.shape):
            tensor.normal_(std=tensor[0].numel() ** -0.5, generator=generator)
        elif "bias" in name or name in ("beta", "running_mean"):
            tensor.zero_()
        elif "token" in name or "embed" in name:
            tensor.normal_(generator=generator)
        elif name == "running_var" or "res_scale" in path:
            tensor.uniform_(0.5, 1.5, generator=generator)
        else:
            tensor.uniform_(0.1, 0.3, generator=generator)
    return model.eval()


def everywhere(output: Any) -> Tensor:
    """The mean score of each class over a dense output, ``(N, classes)``."""
    scores: Tensor = output["out" if "out" in output else "logits"]
    return scores.flatten(2).mean(2)
