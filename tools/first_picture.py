"""The picture at the top of the README: a real photograph, explained by a trained network.

The photograph is "coffee" by Rachel Michetti, who put it in the public domain (CC0); the wheel of
scikit-image has it and says so. The network is a MobileNetV2 with the
weights of ImageNet, which the project does not have: pass the folder of `mobilenet_v2_imagenet.py`.

    PYTHONPATH=. python tools/first_picture.py ../shared/data
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import camlib
from camlib.integrations.network import resized
from camlib.visual import save_picture

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "espresso.webp"


def main(data: Path) -> None:
    """Write the picture."""
    import skimage.data
    from PIL import Image

    spec = importlib.util.spec_from_file_location("mobilenet", data / "mobilenet_v2_imagenet.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model, names = module.load(), module.classes()
    transform = resized((224, 320), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    photo = camlib.load(Image.fromarray(skimage.data.coffee()), transform)
    methods = {
        "Grad-CAM": camlib.GradCAM(model, "features.18"),
        "Layer-CAM": camlib.LayerCAM(model, ["features.13", "features.18"]),
        "Guided Grad-CAM": camlib.GuidedGradCAM(model, "features.18"),
    }
    seen = {title: method.explain(photo.inputs) for title, method in methods.items()}
    first = seen["Grad-CAM"]
    assert first.target is not None
    best = int(first.target)
    name = f"{names[best]}, {first.output.softmax(1)[0, best]:.0%}"
    maps = {title: each.heatmap for title, each in seen.items()}
    drawn = camlib.figure(photo, maps, names=name, colorbar=True)
    save_picture(drawn, PICTURE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
