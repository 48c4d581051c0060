"""What `camlib demo` draws."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from camlib import METHODS, ModelError, zoo
from camlib.cli.answers import built, maps_of
from camlib.cli.files import writing
from camlib.cli.networks import scenenet
from camlib.cli.page import page
from camlib.cli.terminal import say, warnings_in_a_line
from camlib.visual import save_picture
from camlib.visual.columns import asks

SHOWN = (
    *("cam", "grad_cam", "grad_cam_plus_plus", "hires_cam", "xgrad_cam", "element_wise_grad_cam"),
    *("layer_cam", "score_cam", "saliency", "guided_backprop", "deconvnet", "guided_grad_cam"),
)
"""The methods that are drawn where not all are asked for."""


def draw(output: Path, seed: int, *, every: bool) -> None:
    """Write to `output` what methods find for two classes in the scene of `seed`.

    Raises:
        InputError: `output` cannot be written, or there is no such scene.
    """
    network = scenenet()
    picture, classes = scene_of_two(seed)
    inputs = zoo.preprocess(picture)[None]
    with torch.inference_mode():
        chances = network.probabilities(network.model(inputs)[0])
    panels, left_out = {}, []
    kinds = list(METHODS.values()) if every else [METHODS[name] for name in SHOWN]
    # Those that ask for no class stand apart, at the end.
    for kind in sorted(kinds, key=lambda each: not getattr(each, "asks", True)):
        method = built(kind, network, ["features"], quick=True)
        try:
            with warnings_in_a_line(f"scene {seed}"):
                maps, _ = maps_of(network, method, inputs, classes)
                panels[kind.__name__] = maps.over(picture)
        except ModelError:
            left_out.append(kind.__name__)
    names = [network.name_of(index) for index in classes]
    unasked = [name for name in panels if not asks(name)]
    apart = (
        f" The last {len(unasked)} ask for no class: their red says nothing of one."
        if unasked
        else ""
    )
    drawn = page(
        f"Where does the network see the {names[0]}, and where the {names[1]}?",
        f"The built-in network of camlib on scene {seed}, by {len(panels)} methods; predicted "
        "probabilities are on the left. Red marks the strongest evidence for the class, blue the "
        "weakest.\nGrey "
        "pictures mark single pixels in colour; those of Deconvnet cannot tell where, because it "
        f"ignores which units were active.{apart}",
        picture,
        panels,
        [f"{name}: {chances[index]:.1%}" for name, index in zip(names, classes, strict=True)],
    )
    with writing(output):
        say(f"wrote {save_picture(drawn, output)}")
    if left_out:
        say(f"left out, as the built-in network is no transformer: {', '.join(left_out)}")


def scene_of_two(seed: int) -> tuple[Tensor, list[int]]:
    """The picture of a scene, and two classes that are in it."""
    drawn = zoo.scene(seed)
    labels = sorted(set(drawn.labels.tolist()))
    if len(labels) == 1:
        labels.append((labels[0] + 1) % len(zoo.CLASSES))
        drawn = zoo.scene(seed, classes=labels)
    return drawn.image, labels[:2]
