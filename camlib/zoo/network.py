"""The built-in network: small, trained, and designed for clear maps.

Its last feature map is non-negative and fine. Each cell covers 8 x 8 pixels and sees a window of 71
pixels, enough for a shape and less than the picture. Average pooling and one linear layer follow,
as in the paper on CAM.
"""

from __future__ import annotations

from importlib.resources import files

import torch
from torch import Tensor, nn

from camlib.zoo.shapes import CLASSES


class SceneNet(nn.Module):
    """Scores ``(N, 8)`` of the shapes in pictures ``(N, 3, H, W)``, one logit for each class.

    Several classes may be present at once, so a probability is the sigmoid of a logit. Pictures may
    have any size, but the weights were trained on scenes of 96 to 160 pixels and work less well for
    much smaller or larger shapes.

    Attributes:
        features: blocks of convolution, batch normalisation and ReLU, ``(N, 128, H / 8, W / 8)``.
        pool: the average over positions.
        classifier: the one linear layer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _block(3, 24, stride=2),
            _block(24, 48, stride=2),
            _block(48, 48),
            _block(48, 96, stride=2),
            _block(96, 96),
            _block(96, 96),
            _block(96, 128),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(128, len(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        """The logits of preprocessed pictures."""
        scores: Tensor = self.classifier(self.pool(self.features(images)).flatten(1))
        return scores


def preprocess(image: Tensor) -> Tensor:
    """The network's input for a picture in [0, 1], ``(C, H, W)`` or ``(N, C, H, W)``."""
    return (image - 0.5) / 0.25


def load() -> SceneNet:
    """A new copy of the trained network, on the CPU, in evaluation mode."""
    with files("camlib.zoo").joinpath("scenenet.pt").open("rb") as file:
        weights = torch.load(file, map_location="cpu", weights_only=True)
    # On the meta device nothing is initialised, which would draw random numbers.
    with torch.device("meta"):
        network = SceneNet().eval()
    # The file has half precision, except for the batch counters.
    network.load_state_dict(
        {name: w.float() if w.is_floating_point() else w for name, w in weights.items()},
        assign=True,
    )
    return network


def _block(channels_in: int, channels_out: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )
