"""The results of methods: `Explanation` and `Concepts`, which can draw themselves."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from camlib.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_SHOWN = 16
"""The number of samples that a notebook shows of an explanation at the end of a cell."""


class Drawn(ABC):
    """A result that can be drawn as a figure."""

    @abstractmethod
    def figure(self, images: Any = None, **options: Any) -> Figure:
        """A figure of the result, beside or on `images` if given."""

    def show(self, images: Any = None, **options: Any) -> None:
        """Display the figure in a notebook.

        Raises:
            InputError: no notebook is running.
        """
        running = sys.modules.get("IPython")
        if running is None or running.get_ipython() is None:
            raise InputError(
                "show() needs a notebook, and none is running; write a file instead: "
                "save('figure.png'), followed by the same arguments"
            )
        running.display.display(self.figure(images, **options))

    def save(self, path: str | Path, images: Any = None, **options: Any) -> None:
        """Write the figure to `path`; the suffix chooses the format."""
        from camlib.visual import save_picture

        save_picture(self.figure(images, **options), path)


@dataclass(frozen=True, eq=False)
class Explanation(Drawn):
    """The heatmap, the raw map, the score, the class and the model's output, for ``N`` samples.

    With several classes for each sample, everything but `output` has an axis ``K`` after ``N``.

    Attributes:
        heatmap: what calling the method returns: ``(N, H, W)`` in [0, 1] at the input's size, or
            the attribution ``(N, C, H, W)`` of a pixel method.
        map: the method's map at the layer's own grid ``(N, h, w)``, in units of the score, after
            the ReLU its paper has. For several layers, the fused map at the finest of their grids.
        maps: the map of each layer at its own grid, in the order of `layers`.
        score: the scores explained, ``(N,)``; NaN where a class-agnostic method got no target.
        target: the classes explained, ``(N,)``; ``None`` where the target is not a class, or
            there is no target.
        output: what the model returned, detached.
        layers: dotted names of the layers.
        method: name of the method.
        size: the size of the input: ``(L,)`` of signals, ``(H, W)`` of images, ``(D, H, W)`` of
            volumes and clips.
        axis: the axis of channels in the input, and in an attribution of it; ``None`` if the
            input has no channels.
        attribution: whether `heatmap` is an attribution, with the axes of the input.
        replayed: for methods that change activations: ``True`` if only the part after the layers
            ran again, ``False`` if the model had to run in full, with the same result; ``None`` if
            nothing ran again.
        reason: why `camlib.explain` took this method; empty for a method of your choice.
    """

    heatmap: Tensor
    map: Tensor
    maps: tuple[Tensor, ...]
    score: Tensor
    target: Tensor | None
    output: Any
    layers: tuple[str, ...]
    method: str
    size: tuple[int, ...]
    axis: int | None = 1
    attribution: bool = False
    replayed: bool | None = None
    reason: str = ""

    def overlay(self, images: Any, **options: Any) -> Any:
        """The heatmaps blended onto `images`, as `camlib.overlay` does it.

        Args:
            images: the images explained: a batch ``(N, C, H, W)`` or ``(N, C, D, H, W)`` in [0, 1]
                or uint8, with the axes in the model's order; the result of `camlib.load`; or any
                picture that `camlib.overlay` takes, or a list of these. Pass ``transform=`` where
                the model saw another size. The overlays of a batch have their channels after the
                samples.
            options: of `camlib.overlay`.
        """
        from camlib.visual import overlay

        return overlay(images, self, **options)

    def channels_first(self, values: Any) -> Any:
        """`values`, a batch with the axes of the input, with its channels after the samples.

        Any other value is returned unchanged.
        """
        axes = 1 + len(self.size) + (self.axis is not None)
        if not isinstance(values, Tensor) or values.ndim != axes or self.axis == 1:
            return values
        return values.unsqueeze(1) if self.axis is None else values.movedim(self.axis, 1)

    def figure(self, images: Any = None, **options: Any) -> Figure:
        """A figure of the heatmaps, beside `images` if given, by `camlib.visual.figure`."""
        from camlib.visual import figure

        return figure(images, {self.method: self}, **options)

    def _repr_png_(self) -> bytes | None:
        from camlib.visual import to_png

        try:
            return to_png(self._first(_SHOWN).figure())
        except (
            InputError
        ):  # maps in units of the score cannot be drawn; the notebook shows the repr
            return None

    def _first(self, count: int) -> Explanation:
        """The explanation of the first `count` samples."""
        return replace(
            self,
            heatmap=self.heatmap[:count],
            map=self.map[:count],
            maps=tuple(each[:count] for each in self.maps),
            score=self.score[:count],
            target=None if self.target is None else self.target[:count],
        )

    def __repr__(self) -> str:
        shape = tuple(self.heatmap.shape)
        target = None if self.target is None else self.target.tolist()
        return f"Explanation({self.method}, heatmap={shape}, target={target}, layers={self.layers})"


@dataclass(frozen=True, eq=False)
class Concepts(Drawn):
    """The ``K`` concepts of a layer in ``N`` samples, the one with the most activation first.

    The activation is approximately ``sum_k maps_k vectors_k``. Where global average pooling and one
    linear layer follow, the map of a class is the sum of the concepts' maps, each times its score.

    Attributes:
        heatmaps: where each concept is, ``(N, K, *size)`` in [0, 1] at the input's size.
        maps: the same at the layer's own grid ``(N, K, *grid)``; 1 at the maximum over the whole
            batch, so that images can be compared.
        vectors: the concepts, ``(K, C)`` in units of the activation, none negative: the channels
            where the map is 1.
        scores: the classes that each concept supports, ``(K, classes)``: the model's answer when
            every position has the concept, minus its answer when the activation is zero, averaged
            over samples. Where pooling and one linear layer follow, this is the classifier applied
            to the vector, without bias.
        error: the share of the activation that is not explained, ``|A - maps vectors| / |A|``.
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
        """A figure of the concepts, on `images` if given, by `camlib.visual.concept_figure`."""
        from camlib.visual import concept_figure

        return concept_figure(self, images, **options)

    def __repr__(self) -> str:
        return (
            f"Concepts(heatmaps={tuple(self.heatmaps.shape)}, vectors={tuple(self.vectors.shape)}, "
            f"error={self.error:.3g}, layer={self.layer!r})"
        )
