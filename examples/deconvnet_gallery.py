"""The nine scenes that excite a feature map most, and what excites it in each.

The picture of Zeiler and Fergus (ECCV 2014), for the built-in network: reconstructions by the
deconvnet on the left, the patches of the images they come from on the right. This network strides
instead of pooling, so no switches tell one image from another: the reconstructions of a channel
show its filter, the patches what answers to it. A network with max-pooling, such as VGG, shows the
image too.

    python examples/deconvnet_gallery.py [FILE]
"""

import sys

import torch

from camlib import zoo
from camlib.visual import gallery, save_picture

model = zoo.load()
scenes = torch.stack([zoo.scene(seed).image for seed in range(200)])

# The channels of the last feature map that speak most for the star and the ring.
channels = [
    int(model.classifier.weight[zoo.CLASSES.index(name)].argmax()) for name in ("star", "ring")
]

found = gallery(model, "features", channels, zoo.preprocess(scenes).split(50))
file = save_picture(found.figure(lambda inputs: inputs * 0.25 + 0.5), [*sys.argv, "gallery.png"][1])
print(f"wrote {file}")
