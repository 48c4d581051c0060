"""Train the built-in network: ``python -m camlib.zoo.train``.

Every scene is drawn on the fly and used once. Training never uses seeds below `FIRST_SEED`, so
demonstrations, tests and benchmarks can use any of them.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import permutations
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from camlib.draws import Seeded
from camlib.zoo.evaluate import evaluate
from camlib.zoo.network import SceneNet, preprocess
from camlib.zoo.scenes import Scene, scene
from camlib.zoo.shapes import CLASSES

FIRST_SEED = 1_000_000
"""The first seed for training; evaluation starts at 0."""

_BATCH = 64
# Pictures are resized to these, mostly to their own size, so that the network can take any size.
_SIZES = (96, 128, 128, 160)


class _Scenes(Dataset[tuple[Tensor, Tensor]]):
    """Images and presence of the training scenes."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        # Some scenes have clutter alone, so that the network learns the absence of all shapes.
        drawn = scene(FIRST_SEED + index, classes=None if index % 16 else ())
        return drawn.image, drawn.presence


def train(
    count: int,
    *,
    build: Callable[[], SceneNet] = SceneNet,
    learning_rate: float = 4e-3,
    workers: int = 2,
) -> SceneNet:
    """Train the network that `build` makes on `count` scenes; return it in evaluation mode."""
    sizes = random.Random(0)
    with Seeded(0):
        network = build().train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.02)
    loader = DataLoader(_Scenes(count), batch_size=_BATCH, num_workers=workers, drop_last=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=len(loader), pct_start=0.2
    )
    progress = tqdm(loader, desc="training", mininterval=5)
    average = 0.7
    for images, presence in progress:
        size = sizes.choice(_SIZES)
        resized = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
        inputs = preprocess(resized).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            scores = network(inputs)
        loss = F.binary_cross_entropy_with_logits(scores.float(), presence)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        average += 0.02 * (loss.item() - average)
        progress.set_postfix(loss=f"{average:.4f}", refresh=False)
    return network.eval()


def two_classes(seed: int) -> Scene:
    """A scene with two objects of different classes; seeds go through all pairs."""
    pairs = list(permutations(CLASSES, 2))
    return scene(seed, classes=pairs[seed % len(pairs)])


def halved(network: SceneNet) -> dict[str, Tensor]:
    """The weights in half precision, ready to be stored."""
    return {
        name: tensor.half().contiguous() if tensor.is_floating_point() else tensor
        for name, tensor in network.state_dict().items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, store the weights, evaluate the stored weights, and write the numbers next to them."""
    parser = argparse.ArgumentParser(prog="python -m camlib.zoo.train")
    parser.add_argument("--scenes", type=int, default=60_000, help="scenes to train on")
    parser.add_argument("--fresh", type=int, default=2000, help="scenes to evaluate on, twice")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw scenes")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="for the files")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    start = time.monotonic()
    network = train(options.scenes, workers=options.workers)
    seconds = round(time.monotonic() - start)
    weights = halved(network)
    torch.save(weights, options.folder / "scenenet.pt")
    network.load_state_dict(weights)
    fresh = tqdm(range(options.fresh), desc="drawing fresh scenes")
    drawn = [(scene(seed), two_classes(seed)) for seed in fresh]
    record = {
        "command": f"{parser.prog} --scenes {options.scenes}",
        "seconds": seconds,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "fresh_scenes": options.fresh,
        "any_classes": asdict(evaluate(network, [one for one, _ in drawn])),
        "two_classes": asdict(evaluate(network, [pair for _, pair in drawn])),
    }
    (options.folder / "scenenet.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
