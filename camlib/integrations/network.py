"""A classifier and what it takes to ask it about photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from camlib.draws import Seeded

if TYPE_CHECKING:
    from camlib.visual.transforms import Transform


@dataclass(frozen=True)
class Network:
    """A classifier and what it takes to ask it about photos.

    Attributes:
        model: in evaluation mode, on the CPU.
        classes: the names of the classes by index; none where neither they nor their number are
            known before the first photo.
        transform: what makes the model's input from a photo, see `camlib.load`; ``None`` where
            nothing says so.
        several: whether a probability is the sigmoid of a score, not the softmax: several classes
            may be present at once, or one output tells two apart.
    """

    model: nn.Module
    classes: Sequence[str]
    transform: Transform | None
    several: bool = False

    def probabilities(self, scores: Tensor) -> Tensor:
        """The probabilities ``(classes,)`` that `scores` ``(classes,)`` stand for.

        Scores in [0, 1] that add up to 1 are probabilities already.
        """
        total = scores.sum()
        if scores.min() >= 0 and torch.isclose(total, torch.ones_like(total), atol=1e-4):
            return scores
        return scores.sigmoid() if self.several else scores.softmax(-1)

    def name_of(self, index: int) -> str:
        """The name of a class, or its number where it has none."""
        return str(self.classes[index]) if index < len(self.classes) else f"class {index}"


def names_of(outputs: int, names: Sequence[str]) -> Sequence[str]:
    """`names` of the classes of a model, or their numbers where these are not as many.

    A single output has two classes.
    """
    count = 2 if outputs == 1 else outputs
    return names if len(names) == count else [f"class {index}" for index in range(count)]


def imagenet() -> Sequence[str]:
    """The names of the classes of ImageNet, as torchvision has them."""
    from torchvision.models import ResNet50_Weights

    names: Sequence[str] = ResNet50_Weights.DEFAULT.meta["categories"]
    return names


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """What `build` makes, always with the same random weights, in evaluation mode."""
    with Seeded(0), torch.no_grad():
        model = build().eval()
        # Some networks start with a last layer of zeros, behind which nothing has a gradient.
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    return model


def reason_of(error: BaseException) -> str:
    """Why something failed, in one line."""
    return " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__


def resized(size: tuple[int, ...], mean: Sequence[float], std: Sequence[float]) -> Any:
    """A transform for evaluation, by torchvision.

    Args:
        size: one number resizes the shorter side to it and takes the square in the middle; two
            resize the whole photo to this height and width.
        mean: of the colours, in [0, 1].
        std: their standard deviations.
    """
    from torchvision.transforms import v2

    steps = [v2.Resize(size[0]), v2.CenterCrop(size[0])] if len(size) == 1 else [v2.Resize(size)]
    scale = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    return v2.Compose([*steps, *scale])
