"""What tests of figures read from them."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from camlib import Explanation


def explanation(**known: Any) -> Explanation:
    """What `cam.explain` returns for two pictures, but for what is `known`."""
    map = torch.arange(8.0).reshape(2, 2, 2)
    usual: dict[str, Any] = {
        "heatmap": torch.nn.functional.interpolate(map[:, None] / 10, (12, 16))[:, 0],
        "map": map,
        "maps": (known.get("map", map),),
        "score": torch.zeros(2),
        "target": None,
        "output": None,
        "layers": ("features",),
        "method": "CAM",
        "size": (12, 16),
    }
    return Explanation(**{**usual, **known})


def panels(drawn: Figure) -> list[Any]:
    """The pictures in `drawn`, row by row."""
    return [axes.images[0].get_array() for axes in drawn.axes]


def texts(drawn: Figure) -> list[str]:
    return [text.get_text() for text in drawn.texts if text.get_text()]


def as_array(picture: Tensor) -> np.ndarray:
    return (picture * 255).round().byte().permute(1, 2, 0).numpy()


def assert_apart(drawn: Any) -> None:
    """Texts and panels do not overlap, and are all on the page."""
    renderer = drawn.canvas.get_renderer()
    page = drawn.bbox
    boxes = [text.get_window_extent(renderer) for text in drawn.texts if text.get_text()]
    boxes += [axes.get_window_extent(renderer) for axes in drawn.axes]
    for box in boxes:
        assert page.x0 <= box.x0 and box.x1 <= page.x1
        assert page.y0 <= box.y0 and box.y1 <= page.y1
    for one, other in combinations(boxes, 2):
        apart = one.x1 <= other.x0 or other.x1 <= one.x0 or one.y1 <= other.y0 or other.y1 <= one.y0
        assert apart
