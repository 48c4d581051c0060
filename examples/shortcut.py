"""A network that takes a shortcut: find it by its maps, mend the data, see it gone.

The built-in network gets a new last layer and learns to tell stars from hearts. In the first data
every star has a ring beside it, and no heart has one. The network answers well on such scenes, and
its maps say why: they lie on the ring. In the mended data a ring is beside half of the stars and
half of the hearts, and the same network is trained on.

Then the same with a colour: every star is red. That map lies on the star, as it should, so it takes
scenes with another red object to find the shortcut.

    python examples/shortcut.py [FOLDER] [BATCHES]

It takes one to three minutes on one core.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from camlib import GradCAM, figure, zoo
from camlib.visual import save_picture

SIZE, BATCH = 96, 64
STAR, HEART = 0, 1
BESIDE = ("disc", "square", "triangle", "crescent")
RED = torch.tensor([0.85, 0.1, 0.1])[:, None, None]
FRESH = range(60)  # seeds of the scenes to look at
FIRST, SECOND = 100_000, 200_000  # the first seeds of the biased and of the mended data


@dataclass
class Scene:
    image: torch.Tensor  # (3, SIZE, SIZE)
    label: int
    masks: torch.Tensor  # (2, SIZE, SIZE): the star or heart, and what is beside it


def scene(seed, label, beside, red=None):
    """A star or a heart with another shape beside it; `red` is the number of the red object."""
    drawn = zoo.scene(seed, size=SIZE, classes=[("star", "heart")[label], beside])
    image = drawn.image
    if red is not None:
        image = torch.where(drawn.masks[red], 0.3 * image + 0.7 * RED, image)
    return Scene(image, label, drawn.masks)


def ring_with_every_star(seed):
    label = seed % 2
    return scene(seed, label, "ring" if label == STAR else BESIDE[seed // 2 % 4])


def ring_with_half_of_each(seed):
    return scene(seed, seed % 2, "ring" if seed // 2 % 2 else BESIDE[seed // 4 % 4])


def every_star_red(seed):
    label = seed % 2
    return scene(seed, label, BESIDE[seed // 2 % 4], 0 if label == STAR else None)


def anything_red(seed):
    return scene(seed, seed % 2, BESIDE[seed // 2 % 4], (0, 1, None)[seed // 8 % 3])


def network():
    """The built-in network with a new last layer."""
    torch.manual_seed(0)
    model = zoo.load()
    model.classifier = nn.Linear(128, 2)
    return model


def inputs_of(scenes):
    return zoo.preprocess(torch.stack([each.image for each in scenes]))


def train(model, make, first, batches):
    """Train `model` on so many batches of new scenes; yields the number of those it has seen."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
    for number in range(batches):
        scenes = [make(first + number * BATCH + place) for place in range(BATCH)]
        labels = torch.tensor([each.label for each in scenes])
        loss = F.cross_entropy(model.train()(inputs_of(scenes)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.eval()
        yield number + 1


def accuracy(model, scenes):
    """The share of scenes that `model` answers rightly, in percent."""
    with torch.no_grad():
        answers = model(inputs_of(scenes)).argmax(1)
    return 100 * float((answers == torch.tensor([each.label for each in scenes])).float().mean())


def maps(model, scenes):
    """Where `model` sees the star, whatever is there."""
    return GradCAM(model, "features")(inputs_of(scenes), STAR)


def shares(model, scenes):
    """The shares of the maps on the star or heart, and on what is beside it, in percent."""
    heatmaps = maps(model, scenes)
    masks = torch.stack([each.masks for each in scenes]).float()
    wide = F.max_pool2d(masks, 9, stride=1, padding=4)  # by half a cell of the map
    total = heatmaps.sum((1, 2)).clamp(min=1e-9)[:, None]
    return (100 * (heatmaps[:, None] * wide).sum((2, 3)) / total).mean(0).tolist()


def story(title, biased, mended, looked_at, stars, hearts, batches):
    """Train on biased and then on mended data, print a table, and return maps of three scenes.

    `looked_at` are the scenes of the maps; `stars` and `hearts` break the rule of the biased data.
    """
    print(f"\n{title}\n")
    print("| data, batches | as in training % | stars % | hearts % | map on it % | beside it % |")
    print("|---|---:|---:|---:|---:|---:|")
    model, drawn = network(), {}
    known = [biased(seed) for seed in FRESH]
    for data, make, first in (("biased", biased, FIRST), ("mended", mended, SECOND)):
        for seen in train(model, make, first, batches):
            if seen in (1, 2, 5, 10, batches):
                right = [accuracy(model, each) for each in (known, stars, hearts)]
                cells = " | ".join(f"{each:.0f}" for each in right + shares(model, looked_at))
                print(f"| {data}, {seen} | {cells} |", flush=True)
        drawn[f"{data} data"] = maps(model, looked_at[:3])
    return figure([each.image for each in looked_at[:3]], drawn)


def main():
    torch.set_num_threads(1)
    folder, batches = [*sys.argv[1:], *[".", "20"][len(sys.argv) - 1 :]][:2]
    with_ring = [scene(seed, STAR, "ring") for seed in FRESH]
    plain = [scene(seed, STAR, BESIDE[seed % 4]) for seed in FRESH]
    found = story(
        "A ring with every star: maps of stars with a ring, stars without, hearts with a ring",
        *(ring_with_every_star, ring_with_half_of_each, with_ring, plain),
        [scene(seed, HEART, "ring") for seed in FRESH],
        int(batches),
    )
    print(f"\nwrote {save_picture(found, Path(folder, 'shortcut-ring.webp'))}")
    beside_red = [scene(seed, STAR, BESIDE[seed % 4], 1) for seed in FRESH]
    found = story(
        "Every star red: maps of stars beside a red shape, plain stars, hearts beside a red shape",
        *(every_star_red, anything_red, beside_red, plain),
        [scene(seed, HEART, BESIDE[seed % 4], 1) for seed in FRESH],
        int(batches),
    )
    print(f"\nwrote {save_picture(found, Path(folder, 'shortcut-red.webp'))}")


if __name__ == "__main__":
    main()
