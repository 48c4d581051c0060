"""The built-in network with its weights, and the scenes with exact masks that it was trained on."""

from camlib.zoo.network import SceneNet, load, preprocess
from camlib.zoo.scenes import Scene, batch, scene
from camlib.zoo.shapes import CLASSES

__all__ = ["CLASSES", "Scene", "SceneNet", "batch", "load", "preprocess", "scene"]


def __dir__() -> list[str]:
    """The public names, without helper modules."""
    return __all__
