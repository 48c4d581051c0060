"""The built-in network, the scenes it was trained on with their exact truth, and its weights."""

from camlib.zoo.network import SceneNet, load, preprocess
from camlib.zoo.scenes import Scene, batch, scene
from camlib.zoo.shapes import CLASSES

__all__ = ["CLASSES", "Scene", "SceneNet", "batch", "load", "preprocess", "scene"]
