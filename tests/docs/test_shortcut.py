"""The walk of examples/shortcut.py: maps show the shortcut early, and move when it is mended."""

from __future__ import annotations

from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "shortcut.py"


def example():
    loader = SourceFileLoader("shortcut", str(EXAMPLE))
    module = ModuleType(loader.name)
    module.__file__ = loader.path
    loader.exec_module(module)
    return module


@pytest.mark.slow
def test_map_moves_from_the_ring_to_the_star():
    shortcut = example()
    model = shortcut.network()
    scenes = [shortcut.scene(seed, shortcut.STAR, "ring") for seed in range(20)]
    found = []
    for make, first, batches in (
        (shortcut.ring_with_every_star, shortcut.FIRST, 4),
        (shortcut.ring_with_half_of_each, shortcut.SECOND, 8),
    ):
        assert list(shortcut.train(model, make, first, batches))[-1] == batches
        found.append(shortcut.shares(model, scenes))
    (star, ring), (star_again, ring_again) = found
    assert ring > 2 * star
    assert star_again > 2 * ring_again


def test_rings_are_beside_every_star_or_half_of_each():
    shortcut = example()

    def has_ring(make, seed):
        ring = shortcut.scene(seed, seed % 2, "ring").masks
        return bool((make(seed).masks == ring).all())

    every = [has_ring(shortcut.ring_with_every_star, seed) for seed in range(8)]
    half = [has_ring(shortcut.ring_with_half_of_each, seed) for seed in range(8)]
    assert every == [True, False] * 4
    assert half == [False, False, True, True] * 2


def test_red_is_on_every_star_or_on_anything():
    shortcut = example()

    def red(make, seed):
        scene = make(seed)
        plain = shortcut.zoo.scene(
            seed, size=96, classes=[("star", "heart")[seed % 2], shortcut.BESIDE[seed // 2 % 4]]
        )
        changed = (scene.image != plain.image).any(0)
        return [bool((changed & mask).any()) for mask in scene.masks]

    every = [red(shortcut.every_star_red, seed) for seed in range(4)]
    assert every == [[True, False], [False, False]] * 2
    found = [red(shortcut.anything_red, seed) for seed in (0, 1, 8, 9, 16, 17)]
    assert found == [[True, False]] * 2 + [[False, True]] * 2 + [[False, False]] * 2
