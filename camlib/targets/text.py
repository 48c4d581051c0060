"""The target for models that write texts about an image, such as captions: Token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from camlib.errors import TargetError
from camlib.targets.base import Target
from camlib.targets.classes import picked
from camlib.targets.forms import indices, within
from camlib.targets.outputs import class_scores


class Token(Target):
    """A token of a text: the output of a vocabulary entry at a position, before softmax.

    Args:
        position: the position in the text: one for all samples, one for each, or several
            ``(N, K)``; negative positions count from the end.
        index: the index in the vocabulary, in the same forms; ``None`` for the predicted entry.
    """

    per_sample = ("position", "classes")

    def __init__(self, position: Any, index: Any = None) -> None:
        self.position: Tensor = position
        self.classes: Tensor = index

    def resolve(self, output: Any, count: int, size: tuple[int, ...]) -> Token:
        """The target with positions and vocabulary entries of the same shape."""
        scores = _vocabulary(output, count)
        _, length, vocabulary = scores.shape
        place = indices(self.position, count, scores.device, name="position", noun="position")
        place = within(place, length, "position", from_end=True)
        if self.classes is None:
            return self.replaced(position=place, classes=picked(scores.detach().argmax(2), place))
        index = indices(self.classes, count, scores.device, name="index", noun="token")
        index = within(index, vocabulary, "token")
        if index.ndim != place.ndim:
            place, index = place.reshape(count, -1), index.reshape(count, -1)
        if 1 not in (place.shape[-1], index.shape[-1]) and place.shape != index.shape:
            raise TargetError(
                f"positions {tuple(place.shape)} and vocabulary entries {tuple(index.shape)} do "
                "not match; pass the same number of both"
            )
        shape = max(place.shape, index.shape, key=torch.Size.numel)
        return self.replaced(position=place.expand(shape), classes=index.expand(shape))

    def __call__(self, output: Any) -> Tensor:
        """The scores of the entries, shaped like `classes`."""
        scores = _vocabulary(output, len(self.classes))
        return picked(scores.flatten(1), self.position * scores.shape[2] + self.classes)


def _vocabulary(output: Any, count: int) -> Tensor:
    """The scores ``(N, positions, vocabulary)`` in the `output` for `count` samples."""
    scores = class_scores(output, count)
    if scores.ndim != 3:
        raise TargetError(
            "Token expects scores (N, positions, vocabulary), but the model returned "
            f"{tuple(scores.shape)}"
        )
    return scores
