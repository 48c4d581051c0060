"""Draw the maps of several methods side by side in one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch

from camlib.errors import InputError
from camlib.options import Count, Positive, Share, checked
from camlib.results import Explanation
from camlib.visual.attribution import Mode
from camlib.visual.columns import Labels, Together, columns_of, on_one_scale, painted
from camlib.visual.overlay import Channels, Fit, colorize
from camlib.visual.page import PANEL, Row, Scale, draw
from camlib.visual.panels import Brush, View
from camlib.visual.photos import Photos
from camlib.visual.pictures import to_array
from camlib.visual.placement import Placement, placements_of
from camlib.visual.samples import Kind, channels_of, count_of, kind_of, read
from camlib.visual.signals import WIDTH, Line
from camlib.visual.transforms import Transform
from camlib.visual.volumes import as_slices

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@checked
def figure(
    images: Any,
    maps: Mapping[str, Any],
    *,
    names: str | Sequence[str] | None = None,
    labels: Labels | None = None,
    views: Sequence[View] = ("overlay",),
    mode: Mode = "centered",
    alpha: Share = 0.5,
    colormap: Any = "jet",
    threshold: Share | None = None,
    slices: Count = 5,
    kind: Kind | None = None,
    transform: Transform | Placement | None = None,
    fit: Fit | None = None,
    channels: Channels = "RGB",
    veil: Share = 0,
    columns: Count = 1,
    colorbar: bool = False,
    scale: Together = "each",
    panel: Positive | None = None,
) -> Figure:
    """A matplotlib figure with a row for each image and view, and a column for each of `maps`.

    The first column is the image. A result of `cam.explain(...)` also shows its layer, class and
    score; several classes or layers get a column each.

    Signals are drawn as lines in the colours of their heatmap, or in diverging colours of their
    attribution. For volumes and clips, the figure shows some slices or frames, including the
    hottest of each column.

    Args:
        images: one picture as for `overlay`, a batch ``(N, C, H, W)``, a list of pictures of any
            sizes, or the result of `camlib.load`; a tensor of signals ``(N, C, L)`` or of volumes
            or clips ``(N, C, D, H, W)``; ``None`` shows the maps alone. A tensor of pictures or
            volumes with neither 1 nor 3 channels is shown in grey: the mean of its channels, from
            the smallest value to the largest.
        maps: by column title: heatmaps ``(N, H, W)`` in [0, 1], signed attributions
            ``(N, C, H, W)`` with 1 or 3 channels or those of `images`, or the result of
            `cam.explain(...)` or `camlib.localize(...)`; the same for signals and volumes. N may be
            left out for one image. NumPy attributions have their channels last.
        names: the text under each image.
        labels: the names of the classes, for explanations.
        views: the rows of each image. ``("overlay", "emphasized")`` is the usual comparison;
            ``"cells"`` shows a map on the layer's grid, without interpolation.
        mode: how attributions are shown, see `to_image`. Instead of ``"centered"``, attributions of
            more channels are shown as ``"magnitude"``, and those of signals as ``"diverging"``.
        alpha: the opacity of the colours in an overlay.
        colormap: the colour map of the heatmaps.
        threshold: see `overlay`.
        slices: the number of slices of each volume.
        kind: the kind of one sample, if shapes are ambiguous. By default explanations tell it;
            otherwise a tensor with five axes holds volumes, one with heatmaps ``(N, L)`` holds
            signals, and everything else is a picture.
        transform: the transform that made the model's input from pictures, see `overlay`; it places
            attributions too.
        fit: see `overlay`.
        channels: ``"BGR"`` for pictures as OpenCV reads them.
        veil: how much to darken the part of a picture that the model did not see, from 0 to 1.
        columns: the number of images side by side.
        colorbar: whether to draw a colour bar for heatmaps.
        scale: ``"each"``: each heatmap runs from its own lowest to its own highest value.
            ``"image"`` and ``"all"`` compare heatmaps, of an image or of all: the colours run from
            0 to the largest value of any. They need maps in units of the score, from
            ``normalize=False``. What can be compared are maps of one method at one layer, of
            several classes, images or networks with the same loss; other methods have other units.
        panel: the width of a picture in inches.

    Raises:
        InputError: an argument does not fit; the message says what to do.

    Example:
        >>> seen = {"Grad-CAM": GradCAM(model).explain(x), "Score-CAM": ScoreCAM(model).explain(x)}
        >>> figure(images, seen, labels=class_names, views=("overlay", "emphasized"))
    """
    if not isinstance(maps, Mapping) or not maps:
        raise InputError(
            f"maps of type {type(maps).__name__} is not a mapping, or is empty; expected titles "
            "with maps, such as {'Grad-CAM': heatmaps}"
        )
    if not views or not set(views) <= set(get_args(View)):
        known = ", ".join(map(repr, get_args(View)))
        raise InputError(f"views={views!r} is not known; expected a sequence of {known}")
    for value in maps.values():
        if isinstance(value, Explanation):
            images = value.channels_first(images)
            break
    placements: Sequence[Placement] = ()
    if isinstance(images, Photos):
        images, placements = list(images.pictures), images.placements
    kind = kind_of(images, maps, kind)
    if transform is not None and images is not None and kind == "picture":
        placements = placements_of(transform, images)
    samples = None if images is None else read(images, kind)
    count = count_of(next(iter(maps.values())), kind) if samples is None else len(samples)
    names = [""] * count if names is None else [names] if isinstance(names, str) else names
    if len(names) != count:
        raise InputError(f"names has {len(names)} entries; expected one for each of {count} images")
    if samples is not None and channels == "BGR":
        samples = [values.flip(0) for values in samples]
    shown = [
        column
        for title, value in maps.items()
        for column in columns_of(
            title, value, count, kind, channels_of(images, kind), labels, scale
        )
    ]
    shown = on_one_scale(shown, scale)
    places = [""] * count
    if kind == "volume":
        cut = as_slices(samples, shown, names, slices, mode)
        samples, shown, names, places = cut.pictures, cut.columns, cut.names, cut.places
    elif kind == "picture":
        shown = [painted(column, mode) for column in shown]
    brush = Brush(mode, alpha, colormap, placements, fit, veil, threshold)
    paint = brush.signal if kind == "signal" else brush.picture
    rows = []
    for i, place in enumerate(places):
        for view in views:
            under = None if samples is None else samples[i]
            panels: list[Any] = [paint(under, column, i, view) for column in shown]
            captions = [column.captions[i] for column in shown]
            if under is not None:
                panels.insert(0, Line(under) if kind == "signal" else to_array(under))
                captions.insert(0, names[i])
            rows.append(
                Row(
                    panels=panels,
                    captions=captions if view == views[-1] else [""] * len(captions),
                    label="\n".join(filter(None, [place, view if len(views) > 1 else ""])),
                )
            )
    titles = [column.title for column in shown]
    if samples is not None:
        titles.insert(0, "signal" if kind == "signal" else "image")
    wide = min(columns, count)
    bar = colorbar and not all(column.signed for column in shown)
    width = panel or (WIDTH if kind == "signal" else PANEL)
    return draw(
        titles * wide,
        _side_by_side(rows, wide, len(views)),
        width,
        _bar(colormap, scale) if bar else None,
    )


def _side_by_side(rows: Sequence[Row], wide: int, views: int) -> list[Row]:
    """`rows`, of which each image has `views`, with `wide` images side by side."""
    if wide == 1:
        return list(rows)
    joined = []
    for start in range(0, len(rows), wide * views):
        for view in range(views):
            side = rows[start + view : start + wide * views : views]
            panels = [each for row in side for each in row.panels]
            captions = [each for row in side for each in row.captions]
            missing = (wide - len(side)) * len(side[0].panels)
            blank = np.full((1, 1, 3), 255, np.uint8)
            joined.append(
                Row(
                    panels=[*panels, *[blank] * missing],
                    captions=[*captions, *[""] * missing],
                    label=side[0].label,
                    samples=wide,
                )
            )
    return joined


def _bar(colormap: Any, together: Together) -> Scale:
    falling = torch.linspace(1, 0, 256, dtype=torch.float32, device="cpu")
    notes = {"each": "each map by itself", "image": "each image by itself", "all": "all maps alike"}
    low = "low" if together == "each" else "0"
    return Scale(to_array(colorize(falling[:, None], colormap)), "high", low, notes[together])
