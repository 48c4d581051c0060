"""Draw pictures of plain shapes on clutter, with the exact mask of every object.

A scene depends on its seed alone and takes a few milliseconds. The right place for a map is known
to the pixel, without any download. Only the outline shows the class. Place, size, rotation, colours
and texture do not depend on it, so one seed with other classes gives the same picture with other
shapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
import torch
from torch import Tensor

from camlib.errors import InputError
from camlib.zoo.drawing import Place, around, background, coverage, outlines, paint, texture
from camlib.zoo.shapes import CLASSES

_MOST_OBJECTS = 9
_SMALLEST_SIZE = 64


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture and its objects.

    Attributes:
        image: ``(3, H, W)``, float32 in [0, 1] in steps of 1/255, so that a PNG of it is exact.
        masks: ``(objects, H, W)``, bool: the pixels of which an object covers at least half. A
            later object is in front of an earlier one.
        labels: ``(objects,)``, int64, indices in `CLASSES`.
    """

    image: Tensor
    masks: Tensor
    labels: Tensor

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each object's class."""
        return tuple(CLASSES[label] for label in self.labels.tolist())

    @property
    def presence(self) -> Tensor:
        """1 for each class with an object in the scene, else 0: ``(8,)``, float32."""
        present = torch.zeros(len(CLASSES))
        present[self.labels] = 1
        return present

    def mask(self, label: int | str) -> Tensor:
        """The pixels of all objects of one class, ``(H, W)``, bool; none if it is absent.

        Raises:
            InputError: the class does not exist.
        """
        return self.masks[self.labels == _label(label)].any(0)


def scene(seed: int, *, size: int = 128, classes: Sequence[int | str] | None = None) -> Scene:
    """The scene of a seed, the same in every run. It does not touch global random states.

    Args:
        seed: an integer of 0 or more.
        size: height and width in pixels. Objects and clutter grow with it.
        classes: one object for each entry, from back to front, by name or index in `CLASSES`;
            an empty sequence gives clutter alone. By default, one to four objects of any class.

    Raises:
        InputError: the seed is negative, the size below 64, a class unknown, or there are more than
            nine objects.

    Example:
        >>> scene(7, classes=["star", "ring"]).names
        ('star', 'ring')
    """
    if seed < 0:
        raise InputError(f"seed={seed!r} is out of range; expected an integer of 0 or more")
    if size < _SMALLEST_SIZE:
        raise InputError(
            f"size={size!r} is out of range; expected at least {_SMALLEST_SIZE} pixels, so that "
            "shapes differ; draw a larger scene and resize it"
        )
    # One random stream for each purpose, so that classes do not change the clutter or the places.
    behind, layout, choice = (np.random.default_rng([seed, purpose]) for purpose in range(3))
    labels = _chosen(choice) if classes is None else _given(classes)
    canvas = background(behind, size)
    masks = np.zeros((len(labels), size, size), dtype=bool)
    for number, place in enumerate(_places(layout, len(labels), size)):
        box = around(place, size)
        cover = coverage(outlines(CLASSES[labels[number]], place), box)
        paint(canvas, box, cover, texture(layout, canvas, place))
        masks[(number, *box)] = cover >= 0.5
        masks[:number] &= ~masks[number]
    image = np.rint(canvas.clip(0, 1) * 255).astype(np.float32) / np.float32(255)
    return Scene(
        image=torch.from_numpy(image.transpose(2, 0, 1).copy()),
        masks=torch.from_numpy(masks),
        labels=torch.tensor(labels, dtype=torch.int64),
    )


def batch(
    seeds: Iterable[int], *, size: int = 128, classes: Sequence[int | str] | None = None
) -> tuple[Tensor, Tensor]:
    """The images ``(N, 3, H, W)`` and the presence ``(N, 8)`` of the scenes of N seeds.

    Raises:
        InputError: there are no seeds, or `scene` refuses one.
    """
    scenes = [scene(seed, size=size, classes=classes) for seed in seeds]
    if not scenes:
        raise InputError("seeds is empty; expected at least one, such as range(16)")
    return torch.stack([s.image for s in scenes]), torch.stack([s.presence for s in scenes])


def _label(label: int | str) -> int:
    """The index of a class in `CLASSES`."""
    if label in CLASSES:
        return CLASSES.index(label)
    if isinstance(label, str):
        near = get_close_matches(label, CLASSES, n=1)
        advice = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(CLASSES)}"
    elif 0 <= label < len(CLASSES):
        return int(label)
    else:
        advice = f"pass 0 to {len(CLASSES) - 1}, or a name: {', '.join(CLASSES)}"
    raise InputError(f"class {label!r} is not one of the {len(CLASSES)} shapes; {advice}")


def _given(classes: Sequence[int | str]) -> list[int]:
    if isinstance(classes, str | int):
        raise InputError(
            f"classes={classes!r} is not a sequence; expected one entry for each object; "
            f"pass [{classes!r}]"
        )
    if len(classes) > _MOST_OBJECTS:
        raise InputError(
            f"classes has {len(classes)} objects; expected at most {_MOST_OBJECTS}, so that each "
            "is clearly visible; draw several scenes"
        )
    return [_label(label) for label in classes]


def _chosen(rng: np.random.Generator) -> list[int]:
    count = int(rng.integers(1, 5))
    return [int(label) for label in rng.integers(0, len(CLASSES), count)]


def _places(rng: np.random.Generator, count: int, size: int) -> list[Place]:
    """Places inside the picture whose circles hardly overlap.

    A circle shrinks with every failed attempt, so the search ends.
    """
    places: list[Place] = []
    for _ in range(count):
        radius = rng.uniform(0.12, 0.23) * size
        angle, stretch = rng.uniform(0, 2 * np.pi), rng.uniform(0.85, 1.15)
        x, y = rng.uniform(radius, size - radius, 2)
        while any(np.hypot(x - p.x, y - p.y) < 0.95 * (radius + p.radius) for p in places):
            radius *= 0.99
            x, y = rng.uniform(radius, size - radius, 2)
        places.append(Place(float(x), float(y), float(radius), float(angle), float(stretch)))
    return places
