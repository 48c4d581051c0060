"""The outlines of the eight classes, in the unit circle around the origin."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.floating[Any]]
"""Numbers in any floating-point precision."""


def turned(points: Array, angle: float) -> Array:
    """The points ``(count, 2)`` rotated about the origin by an angle in radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    turned: Array = points @ np.array([[cos, sin], [-sin, cos]])
    return turned


def regular(corners: int) -> Array:
    """A regular polygon in the unit circle."""
    return _arc(0, 2 * np.pi, corners + 1)[:-1]


def _arc(start: float, stop: float, count: int = 32) -> Array:
    """Points ``(count, 2)`` on the unit circle from one angle to another."""
    angles = np.linspace(start, stop, count)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star() -> Array:
    return regular(10) * np.where(np.arange(10) % 2, 0.42, 1)[:, None]


def _cross() -> Array:
    arm = np.array([[0.32, 0.32], [0.32, 0.95], [-0.32, 0.95]])
    return np.concatenate([turned(arm, quarter * np.pi / 2) for quarter in range(4)])


def _heart() -> Array:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 5 * np.cos(2 * t) + 2 * np.cos(3 * t) + np.cos(4 * t) - 13 * np.cos(t)
    points = np.stack([x, y], axis=1)
    points -= (points.max(0) + points.min(0)) / 2
    heart: Array = points / np.hypot(*points.T).max()
    return heart


def _crescent() -> Array:
    """A disc without the disc of radius 0.75 whose centre is 0.45 to the side."""
    tip = np.arccos((1 - 0.75**2 + 0.45**2) / (2 * 0.45))
    inner = np.arctan2(np.sin(tip), np.cos(tip) - 0.45)
    bite = 0.75 * _arc(2 * np.pi - inner, inner)[1:-1] + (0.45, 0)
    return np.concatenate([_arc(tip, 2 * np.pi - tip), bite])


SHAPES: dict[str, list[Array]] = {
    "disc": [regular(48) * 0.9],
    "ring": [regular(48), regular(48) * 0.55],
    "triangle": [regular(3)],
    "square": [regular(4)],
    "star": [_star()],
    "cross": [_cross()],
    "heart": [_heart()],
    "crescent": [_crescent()],
}
"""The polygons ``(points, 2)`` of each shape; a polygon within another is a hole."""

CLASSES: tuple[str, ...] = tuple(SHAPES)
"""The names of the shapes; the index of a name is its label and its output of the network."""
