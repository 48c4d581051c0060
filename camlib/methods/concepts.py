"""What a factorization finds in a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from camlib.methods.explanation import Drawn

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Concepts(Drawn):
    """The ``K`` concepts that a layer sees in ``N`` samples, the one of most activation first.

    The activation is about ``sum_k maps_k vectors_k``. Where global average pooling and one linear
    layer follow, the map of a class is the sum of the maps of the concepts, each times its score.

    Attributes:
        heatmaps: where each concept is, ``(N, K, *size)`` in [0, 1] at the input's size.
        maps: the same at the layer's own grid ``(N, K, *grid)``; 1 where in the batch there is most
            of the concept, so that images compare.
        vectors: the concepts, ``(K, C)`` in units of the activation, none negative: what the
            channels have where there is most of it.
        scores: the classes each concept speaks for, ``(K, classes)``: what the model answers where
            the activation is the concept at every position, less what it answers where it is zero,
            in the mean over samples. The classifier on the vector, without bias, where pooling and
            one linear layer follow.
        error: the share of the activation that is left, ``|A - maps vectors| / |A|``.
        output: what the model returned, detached.
        layer: dotted name of the layer.
    """

    heatmaps: Tensor
    maps: Tensor
    vectors: Tensor
    scores: Tensor
    error: float
    output: Any
    layer: str

    def figure(self, images: Any = None, **options: Any) -> Figure:
        """The concepts in colours, on `images` if given, as `camlib.visual.concept_figure` does."""
        from camlib.visual import concept_figure

        return concept_figure(self, images, **options)

    def __repr__(self) -> str:
        return (
            f"Concepts(heatmaps={tuple(self.heatmaps.shape)}, vectors={tuple(self.vectors.shape)}, "
            f"error={self.error:.3g}, layer={self.layer!r})"
        )
