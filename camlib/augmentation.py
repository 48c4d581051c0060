"""Scale and mirror pictures, and the masks, labels and maps that belong to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from camlib.maps import positions, resize


@dataclass(frozen=True)
class Augmentation:
    """Scaling, then mirroring, of pictures ``(N, C, *size)``.

    Attributes:
        scale: the factor by which the last two axes grow.
        flip: whether left and right change places.
        cubic: whether pictures are interpolated bicubically, not linearly.
    """

    scale: float = 1.0
    flip: bool = False
    cubic: bool = False

    def size(self, size: Sequence[int]) -> tuple[int, ...]:
        """The size that pictures of `size` get."""
        return (*size[:-2], *(max(1, round(length * self.scale)) for length in size[-2:]))

    def __call__(self, pictures: Tensor) -> Tensor:
        """The changed pictures: interpolated, or the nearest value for labels and masks."""
        size = self.size(pictures.shape[2:])
        if self.cubic and pictures.is_floating_point() and len(size) == 2:
            pictures = F.interpolate(pictures, size, mode="bicubic", align_corners=False)
        elif pictures.is_floating_point():
            pictures = resize(pictures, size)
        else:
            for axis, length in zip(positions(pictures), size, strict=True):
                places = (torch.arange(length, device=pictures.device) + 0.5) / length
                nearest = (places * pictures.shape[axis]).long()
                pictures = pictures.index_select(axis, nearest)
        return self.mirrored(pictures)

    def mirrored(self, pictures: Tensor) -> Tensor:
        """`pictures` mirrored if `flip` is set, and not scaled."""
        return pictures.flip(-1) if self.flip else pictures
