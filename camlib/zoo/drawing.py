"""Paint shapes, textures and clutter on a canvas.

Everything is a polygon. The share of each pixel that it covers gives its soft edge and its exact
mask. Lengths are in pixels, x to the right and y down, with the corner of the picture at (0, 0) and
the centre of its first pixel at (0.5, 0.5). A canvas is ``(H, W, 3)`` in [0, 1] and painted in
place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from camlib.zoo.shapes import SHAPES, Array, regular, turned

# The number of rows that sample a pixel.
_LINES = 4


class Place(NamedTuple):
    """The place of an object: centre and radius of the circle around it, rotation and stretch."""

    x: float
    y: float
    radius: float
    angle: float
    stretch: float


class Box(NamedTuple):
    """The rows and columns of a canvas that something can touch."""

    rows: slice
    columns: slice


def outlines(name: str, place: Place) -> list[Array]:
    """The polygons ``(points, 2)`` of a shape at a place."""
    scale = place.radius * np.array([place.stretch, 1]) / max(place.stretch, 1)
    centre = np.array([place.x, place.y])
    return [turned(polygon * scale, place.angle) + centre for polygon in SHAPES[name]]


def around(place: Place, size: int) -> Box:
    """The box of the circle around an object of any shape."""
    centre = np.array([place.x, place.y])
    return _box(np.stack([centre - place.radius, centre + place.radius]), size)


def coverage(polygons: Sequence[Array], box: Box) -> Array:
    """The share of each pixel of the box that the polygons cover, ``(h, w)`` in [0, 1].

    It is exact along a row: the covered length left of x is ``sum_k (-1)^k max(x - x_k, 0)`` for
    the sorted crossings ``x_k`` of the outline. Within a pixel, it is the mean of four rows.
    """
    starts = np.concatenate(polygons)
    ends = np.concatenate([np.roll(polygon, -1, axis=0) for polygon in polygons])
    rise = ends[:, 1] - starts[:, 1]
    slope = (ends[:, 0] - starts[:, 0]) / np.where(rise == 0, 1, rise)
    lines = np.arange(box.rows.start * _LINES, box.rows.stop * _LINES)[:, None] + 0.5
    lines = lines / _LINES
    crossed = (starts[:, 1] <= lines) != (ends[:, 1] <= lines)
    at = np.where(crossed, starts[:, 0] + (lines - starts[:, 1]) * slope, np.inf)
    most = int(crossed.sum(1).max())
    at = np.sort(at, axis=1)[:, :most, None]
    edges = np.arange(box.columns.start, box.columns.stop + 1)
    signs = np.where(np.arange(most) % 2, -1, 1)[:, None]
    lengths = (signs * np.maximum(edges - at, 0)).sum(1)
    shares: Array = np.diff(lengths).reshape(-1, _LINES, len(edges) - 1).mean(1)
    return shares


def paint(canvas: Array, box: Box, cover: Array, colour: Array) -> None:
    """Blend a colour ``(3,)`` or ``(h, w, 3)`` onto the box, by the covered share of each pixel."""
    region = canvas[box]
    region += cover[..., None] * (colour - region)


def texture(rng: np.random.Generator, canvas: Array, place: Place) -> Array:
    """A fill ``(h, w, 3)`` for the box around a place, of two colours unlike the background.

    The background is the mean of the whole box, not of the shape, so neither colour nor texture
    reveals the class.
    """
    size = len(canvas)
    box = around(place, size)
    behind = canvas[box].mean((0, 1))
    pairs = rng.uniform(0, 1, (16, 2, 3))
    between = np.stack([pairs[:, 0], pairs.mean(1), pairs[:, 1]], axis=1)
    distance = np.sqrt(((between - behind) ** 2).sum(-1)).min(-1)
    # The first pair that is different enough, or the most different one.
    first, second = pairs[distance.clip(max=0.45).argmax()]
    u, v = _axes(box, rng.uniform(0, 2 * np.pi))
    period = rng.uniform(0.05, 0.09) * size
    phase = rng.uniform(0, 2 * np.pi, 2)
    waves = (np.sin(2 * np.pi * u / period + phase[0]), np.sin(2 * np.pi * v / period + phase[1]))
    slope = (u - u.min()) / np.ptp(u)
    pattern = _TEXTURES[int(rng.integers(len(_TEXTURES)))](*waves, slope)
    fill: Array = first + (second - first) * pattern.clip(0, 1)[..., None]
    return fill


def background(rng: np.random.Generator, size: int) -> Array:
    """A canvas ``(size, size, 3)``: gradient, slow noise, faint stripes, clutter and grain."""
    everything = Box(slice(0, size), slice(0, size))
    u, _ = _axes(everything, rng.uniform(0, 2 * np.pi))
    start, end = _muted(rng.uniform(0.1, 0.9, (2, 3)))
    canvas: Array = start + (end - start) * ((u - u.min()) / np.ptp(u))[..., None]
    cells = int(rng.integers(3, 9))
    noise = _muted(rng.uniform(-1, 1, (cells, cells, 3))) * rng.uniform(0.1, 0.3)
    canvas += enlarged(noise, size)
    u, _ = _axes(everything, rng.uniform(0, 2 * np.pi))
    stripes = rng.uniform(0, 0.08) * np.sin(2 * np.pi / (rng.uniform(0.04, 0.15) * size) * u)
    canvas += stripes[..., None]
    for _ in range(int(rng.integers(6, 16))):
        polygon, colour = _clutter(rng, size), rng.uniform(0, 1, 3)
        box = _box(polygon, size)
        paint(canvas, box, coverage([polygon], box), colour)
    grain = rng.uniform(0.01, 0.05) * rng.uniform(-1, 1, (size, size, 1))
    canvas += grain
    return canvas


def enlarged(noise: Array, size: int) -> Array:
    """A grid ``(cells, cells, 3)`` interpolated cubically to ``(size, size, 3)``.

    The result equals ``cv2.resize`` with ``INTER_CUBIC`` to the bit (Keys' kernel with a = -0.75,
    its weights in single precision). The training scenes of the built-in network used that.
    """
    cells = len(noise)
    place = ((np.arange(size) + 0.5) * (cells / size) - 0.5).astype(np.float32)
    before = np.floor(place)
    away = place - before
    a = np.float32(-0.75)
    outer = ((a * (away + 1) - 5 * a) * (away + 1) + 8 * a) * (away + 1) - 4 * a
    left, right = (((a + 2) * t - (a + 3)) * t * t + 1 for t in (away, 1 - away))
    weights = np.stack([outer, left, right, 1 - outer - left - right]).astype(np.float64)
    places = np.clip(before.astype(int) + np.arange(-1, 3)[:, None], 0, cells - 1)
    wide = np.zeros((cells, size, 3))
    for column, weight in zip(places, weights, strict=True):
        wide += noise[:, column] * weight[:, None]
    whole = np.zeros((size, size, 3))
    for row, weight in zip(places, weights, strict=True):
        whole += wide[row] * weight[:, None, None]
    return whole


def _muted(colours: Array) -> Array:
    """Colours halfway to grey, so that maps over the picture stand out."""
    muted: Array = (colours + colours.mean(-1, keepdims=True)) / 2
    return muted


def _clutter(rng: np.random.Generator, size: int) -> Array:
    """The outline of a hair, bar, bean or speck: too thin or too small for any class."""
    outline, shortest, longest, thickness = _CLUTTER[int(rng.integers(len(_CLUTTER)))]
    length = rng.uniform(shortest, longest) * size
    centre = rng.uniform(0, size, 2)
    lying = outline * (length / 2, length / 2 * thickness)
    polygon: Array = turned(lying, rng.uniform(0, 2 * np.pi)) + centre
    return polygon


def _box(points: Array, size: int) -> Box:
    """The box of the points, one pixel wider on each side, within the canvas."""
    low = np.clip(np.floor(points.min(0)).astype(int) - 1, 0, size - 1)
    high = np.clip(np.ceil(points.max(0)).astype(int) + 1, low + 1, size)
    return Box(slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0])))


def _axes(box: Box, angle: float) -> tuple[Array, Array]:
    """The coordinates ``(h, w)`` of the box's pixels along and across a direction."""
    rows, columns = np.ogrid[box]
    return (
        np.cos(angle) * columns + np.sin(angle) * rows,
        np.cos(angle) * rows - np.sin(angle) * columns,
    )


# Outline, smallest and largest length as shares of the picture's side, and width over length.
_BAR = np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
_CLUTTER: tuple[tuple[Array, float, float, float], ...] = (
    (_BAR, 0.2, 0.8, 0.02),
    (_BAR, 0.1, 0.25, 0.2),
    (regular(16), 0.05, 0.1, 0.4),
    (regular(16), 0.01, 0.03, 1),
)

# Each mixes two colours, from two perpendicular waves in [-1, 1] and a slope in [0, 1].
_TEXTURES: tuple[Callable[[Array, Array, Array], Array], ...] = (
    lambda across, along, slope: np.zeros_like(slope),
    lambda across, along, slope: 0.5 + 3 * across,
    lambda across, along, slope: 3 * (across + along - 0.6),
    lambda across, along, slope: 0.5 + 6 * across * along,
    lambda across, along, slope: slope,
)
