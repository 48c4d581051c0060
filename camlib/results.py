"""What a method returns: everything one call knows."""

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
"""How many samples a notebook shows of an explanation that is the value of a cell."""


class Drawn(ABC):
    """A result that shows itself as a figure."""

    @abstractmethod
    def figure(self, images: Any = None, **options: Any) -> Figure:
        """The result beside or on `images`, if given."""

    def show(self, images: Any = None, **options: Any) -> None:
        """Display the figure, in a notebook.

        Raises:
            InputError: there is no notebook.
        """
        running = sys.modules.get("IPython")
        if running is None or running.get_ipython() is None:
            raise InputError(
                "show() displays a figure in a notebook, and none is running; write it to a file: "
                "save('figure.png'), with the same arguments behind the name"
            )
        running.display.display(self.figure(images, **options))

    def save(self, path: str | Path, images: Any = None, **options: Any) -> None:
        """Write the figure to `path`; the suffix says the format."""
        from camlib.visual import save_picture

        save_picture(self.figure(images, **options), path)


@dataclass(frozen=True, eq=False)
class Explanation(Drawn):
    """Everything one call knows, for ``N`` samples.

    Several classes a sample add an axis ``K`` after ``N`` to everything but `output`.

    Attributes:
        heatmap: what the method's call returns: ``(N, H, W)`` in [0, 1] at the input's size, or the
            attribution ``(N, C, H, W)`` of a pixel method.
        map: the method's map at the layer's own grid ``(N, h, w)``, in units of the score, after
            the ReLU its paper has. For several layers, the fused map at the finest of their grids.
        maps: the map of each layer at its own grid, in the order of `layers`.
        score: the scores explained, ``(N,)``; NaN where a method that asks for no class was
            given no target.
        target: the classes explained, ``(N,)``; ``None`` where the target is no class, or there
            is none.
        output: what the model returned, detached.
        layers: dotted names of the layers.
        method: name of the method.
        size: the size of what was explained: ``(L,)`` of signals, ``(H, W)`` of images,
            ``(D, H, W)`` of volumes and clips.
        axis: where the input has its channels, as an attribution of it has; ``None`` for an input
            without.
        attribution: whether `heatmap` is one of the input's values, with the axes of the input.
        replayed: for methods that change activations, whether only what follows the layers ran
            again: ``False`` where a model defeats that and ran in full, with the same result;
            ``None`` where nothing had to run again.
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

    def overlay(self, images: Any, **options: Any) -> Any:
        """The heatmaps blended onto `images`, as `camlib.overlay` does it.

        Args:
            images: what was explained: a batch ``(N, C, H, W)`` or ``(N, C, D, H, W)`` in [0, 1]
                or uint8, with its axes as the model takes them; what `camlib.load` returned; or
                any picture that `camlib.overlay` takes, or a list of these, with ``transform=``
                where the model saw another size. The result of a batch has its channels after the
                samples.
            options: of `camlib.overlay`.
        """
        from camlib.visual import overlay

        return overlay(images, self, **options)

    def channels_first(self, values: Any) -> Any:
        """`values`, a batch with the axes of the input, with channels after the samples.

        Anything else is returned as it is.
        """
        axes = 1 + len(self.size) + (self.axis is not None)
        if not isinstance(values, Tensor) or values.ndim != axes or self.axis == 1:
            return values
        return values.unsqueeze(1) if self.axis is None else values.movedim(self.axis, 1)

    def figure(self, images: Any = None, **options: Any) -> Figure:
        """The heatmaps beside `images` if given, as `camlib.visual.figure` draws them."""
        from camlib.visual import figure

        return figure(images, {self.method: self}, **options)

    def _repr_png_(self) -> bytes | None:
        from camlib.visual import to_png

        try:
            return to_png(self._first(_SHOWN).figure())
        except InputError:  # maps in units of the score have no colours; a notebook shows the repr
            return None

    def _first(self, count: int) -> Explanation:
        """What was found for the first `count` samples."""
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
