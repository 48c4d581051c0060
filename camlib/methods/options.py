"""The options that methods have in common, with their types, for signatures that hand them on.

``**options: Unpack[LayerOptions]`` lets type checkers see every one of them. What an option means
and its default stand with the class that takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypedDict

from torch import Tensor

from camlib.layouts import Layout
from camlib.maps import Fuse, Normalize
from camlib.options import Count
from camlib.passes.chunks import Progress
from camlib.passes.paths import Where
from camlib.targets.classes import Asked


class CallingOptions(TypedDict, total=False):
    """Of every method: see `Calling`."""

    image: Where | None
    image_layout: str | None
    eval: bool


class MapOptions(CallingOptions, total=False):
    """Of every map: see `MapMethod`."""

    differentiable: bool
    relu: bool | None
    resize: bool
    normalize: Normalize | None


class MaskedOptions(MapOptions, total=False):
    """Of maps from masks of the input: see `MaskedMethod`."""

    score: Asked
    batch_size: Count | None
    progress: Progress | None


class ArrangedOptions(MapOptions, total=False):
    """Of maps that come from activations: see `LayerMethod` and `AttentionMethod`."""

    layout: Layout | Callable[[Tensor], Tensor] | None


class AttentionOptions(ArrangedOptions, total=False):
    """Of maps from attention: see `AttentionMethod`."""

    blocks: Count | None


class LayerOptions(ArrangedOptions, total=False):
    """Of maps of one layer or several: see `LayerMethod`."""

    fuse: Fuse


class GradientOptions(LayerOptions, total=False):
    """Of maps weighted by gradients: see `GradientWeighted`."""

    eigen_smooth: bool


class ReplayedOptions(LayerOptions, total=False):
    """Of maps from changed activations: see `ReplayedMethod`."""

    batch_size: Count | None
    progress: Progress | None


class MaskedLayerOptions(ReplayedOptions, total=False):
    """Of maps from masks of a layer's regions: see `MaskedLayerMethod`."""

    score: Asked
    baseline: Literal["zero", "blur"] | None
    channel_softmax: bool
    eigen_smooth: bool
    max_channels: Count | None


class PlusPlusOptions(GradientOptions, total=False):
    """Of Grad-CAM++ and its kin: see `GradCAMPlusPlus`."""

    normalize_alpha: bool
