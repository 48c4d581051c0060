"""Why a segmentation network calls a region what it calls it, and whether it looked there.

A DeepLabV3 trained on Pascal VOC, on photographs of a dog, a cat, a bird and a person. For the
places where it predicts the class, and for a mask of the bird drawn by hand, the share of the
positive evidence that lies on the object is printed. HiResCAM keeps the gradient of every place;
Grad-CAM takes its mean over places, which suits an answer for the whole image better.

    python examples/segmentation.py FOLDER [FILE]

FOLDER holds `deeplabv3_mnv2_pascal.py` with its weights, and `photos/`. Without it the built-in
network answers at every place of a scene instead.
"""

import sys
from pathlib import Path

import torch
from torch import nn

from camlib import GradCAM, HiResCAM, figure, targets, zoo
from camlib.visual import save_picture

METHODS = {"HiResCAM": HiResCAM, "Grad-CAM": GradCAM}


def photographs(folder):
    """The network; for each photograph its name, input, picture, true size, class and mask."""
    sys.path.insert(0, str(folder))
    from deeplabv3_mnv2_pascal import VOC, load, preprocess
    from PIL import Image

    photos = {"dog_segmentation": "dog", "cat": "cat", "bird_segmentation": "bird"}
    found = []
    for file, name in {**photos, "grace_hopper": "person"}.items():
        inputs, size = preprocess(Image.open(folder / "photos" / f"{file}.png"))
        found.append((name, inputs, inputs[0] / 2 + 0.5, size, VOC.index(name), None))
    drawn = preprocess(Image.open(folder / "photos" / "bird_segmentation_mask.png"))[0][:, 0] > -1
    name, *known, _ = found[2]
    found.insert(3, (f"{name}, mask by hand", *known, drawn))
    return load(), found


def scenes():
    """The same of the built-in network, its classifier asked at every place."""
    network = zoo.load()
    linear = network.classifier
    everywhere = nn.Conv2d(linear.in_features, linear.out_features, 1)
    everywhere.weight.data = linear.weight.data[..., None, None]
    everywhere.bias.data = linear.bias.data
    found = []
    for seed in (236, 3):
        scene = zoo.scene(seed)
        label = int(scene.labels[0])
        inputs, mask = zoo.preprocess(scene.image)[None], scene.mask(label)
        found.append((zoo.CLASSES[label], inputs, scene.image, mask.shape, label, mask))
    return nn.Sequential(network.features, everywhere).eval(), found


folder = Path([*sys.argv, ""][1])
model, examples = photographs(folder) if (folder / "photos").is_dir() else scenes()
names, maps = [], {title: [] for title in METHODS}
for name, inputs, _picture, (height, width), label, mask in examples:
    with torch.no_grad():
        place = (
            model(inputs).argmax(1) == label if mask is None else mask.reshape(1, *mask.shape[-2:])
        )
    place = nn.functional.interpolate(place[:, None].float(), inputs.shape[2:])[0, 0]
    place = place[:height, :width]
    shares = []
    for title, method in METHODS.items():
        heatmap = method(model)(inputs, targets.Segment(label, mask), normalize="max")
        evidence = heatmap[0, :height, :width]
        shares.append(f"{float((evidence * place).sum() / evidence.sum()):.1%} with {title}")
        maps[title].append(heatmap)
    print(f"{name}: {float(place.mean()):.1%} of the picture; evidence on it {', '.join(shares)}")
    names.append(f"{name}\n{shares[0]}")

pictures = [picture for _, _, picture, *_ in examples]
columns = {title: torch.cat(found) for title, found in maps.items()}
file = [*sys.argv, "", "segmentation.png"][2] or "segmentation.png"
print(f"wrote {save_picture(figure(pictures, columns, names=names), file)}")
