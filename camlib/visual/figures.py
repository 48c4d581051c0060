"""Methods beside each other in one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from torch import Tensor
from torch.nn import functional as F

from camlib.errors import InputError
from camlib.visual.attribution import Mode, to_image
from camlib.visual.columns import Column, Labels, columns, samples
from camlib.visual.overlay import colorize, overlay
from camlib.visual.page import Row, draw
from camlib.visual.pictures import check_unit, to_array, unpack

if TYPE_CHECKING:
    from matplotlib.figure import Figure

View = Literal["overlay", "emphasized", "cells"]
"""How a heatmap is shown: over the image, the same emphasized, or alone on the layer's own grid."""


def figure(
    images: Any,
    maps: Mapping[str, Any],
    *,
    names: Sequence[str] | None = None,
    labels: Labels | None = None,
    views: Sequence[View] = ("overlay",),
    mode: Mode = "centered",
    alpha: float = 0.5,
    colormap: str = "jet",
) -> Figure:
    """A matplotlib figure: a row for each image and view, a column for each entry of `maps`.

    The first column is the image. What `cam.explain(...)` returned also tells its layer, class
    and score, which then stand above and below; several classes or layers get a column each.

    Args:
        images: one picture as for `overlay`, a batch ``(N, C, H, W)``, or a list of pictures,
            which may differ in size; ``None`` shows the maps alone.
        maps: by column title: heatmaps ``(N, H, W)`` in [0, 1], signed attributions
            ``(N, C, H, W)`` with 1 or 3 channels, or what `cam.explain(...)` returned. N may be
            left out for one image. NumPy attributions have their channels last.
        names: what stands under each image.
        labels: the names of the classes, for maps that know their class.
        views: the rows of each image. ``("overlay", "emphasized")`` is the usual comparison;
            ``"cells"`` shows a map as the layer has it, without interpolation.
        mode: how attributions are shown, see `to_image`.
        alpha: how much of the colour is seen in an overlay.
        colormap: of the heatmaps.

    Raises:
        InputError: an argument that does not fit; the message says what to do.

    Example:
        >>> seen = {"Grad-CAM": GradCAM(model).explain(x), "Score-CAM": ScoreCAM(model).explain(x)}
        >>> figure(images, seen, labels=class_names, views=("overlay", "emphasized"))
    """
    if not isinstance(maps, Mapping) or not maps:
        raise InputError(
            f"maps={type(maps).__name__} is no mapping of titles to maps, or empty; expected for "
            "example {'Grad-CAM': heatmaps}"
        )
    if not views or not set(views) <= set(get_args(View)):
        known = ", ".join(map(repr, get_args(View)))
        raise InputError(f"views={views!r} is not known; expected a sequence of {known}")
    pictures = None if images is None else _pictures(images)
    count = samples(next(iter(maps.values()))) if pictures is None else len(pictures)
    names = [""] * count if names is None else [names] if isinstance(names, str) else names
    if len(names) != count:
        raise InputError(f"names has {len(names)} entries; expected one for each of {count} images")
    shown = [c for title, value in maps.items() for c in columns(title, value, count, labels)]

    def panel(column: Column, i: int, view: View) -> Tensor:
        if column.maps.ndim == 4:
            return to_image(column.maps[i], mode)
        heat = column.maps[i]
        under = heat.new_zeros(3, *heat.shape) if pictures is None else pictures[i]
        if view == "cells":
            cells = column.cells[i, None, None].float()
            cells = F.interpolate(cells, under.shape[1:], mode="nearest-exact")[0, 0]
            return colorize(cells, colormap)
        opacity = 1 if pictures is None else alpha
        return overlay(under, heat, opacity, colormap, emphasize=view == "emphasized")

    rows = []
    for i in range(count):
        for view in views:
            panels = [panel(column, i, view) for column in shown]
            captions = [column.captions[i] for column in shown]
            if pictures is not None:
                panels, captions = [pictures[i], *panels], [names[i], *captions]
            rows.append(
                Row(
                    panels=[to_array(picture) for picture in panels],
                    captions=captions if view == views[-1] else [""] * len(captions),
                    label=view if len(views) > 1 else "",
                )
            )
    titles = [column.title for column in shown]
    return draw(titles if pictures is None else ["image", *titles], rows)


def _pictures(images: Any) -> list[Tensor]:
    """The values ``(3, H, W)`` of each image, in [0, 1]."""
    given = images if isinstance(images, list | tuple) else [images]
    pictures = [picture for image in given for picture in unpack(image)[0]]
    if not pictures:
        raise InputError("images is empty; expected at least one picture")
    for picture in pictures:
        check_unit(image=picture)
    return [picture.clamp(0, 1) for picture in pictures]
