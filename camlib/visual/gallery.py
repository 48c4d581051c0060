"""Find the images that excite the channels of a layer most, and show what excites them.

Deconvnets are known for this picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from camlib.errors import InputError, TargetError
from camlib.methods import Deconvnet
from camlib.options import Count, checked
from camlib.passes.capture import capture
from camlib.passes.names import Layer, unwrap
from camlib.state.modes import explaining
from camlib.state.undoing import Called
from camlib.visual.attribution import to_image
from camlib.visual.page import Row, draw
from camlib.visual.pictures import check_unit, to_array

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Gallery:
    """The images that excite each of ``K`` channels most, the strongest first.

    Attributes:
        layer: dotted name of the layer.
        channels: the ``K`` channels.
        samples: the numbers of the images in the given order, ``(K, count)``.
        scores: the activation of the strongest unit, ``(K, count)``.
        images: the images as the model takes them, ``(K, count, C, H, W)``.
        reconstructions: the deconvnet's projection of the strongest unit, ``(K, count, C, H, W)``.
        boxes: top, left, bottom and right of the part that the unit sees, ``(K, count, 4)``.
    """

    layer: str
    channels: tuple[int, ...]
    samples: Tensor
    scores: Tensor
    images: Tensor
    reconstructions: Tensor
    boxes: Tensor

    def figure(self, restore: Callable[[Tensor], Tensor] | None = None) -> Figure:
        """A figure with two panels for each channel: reconstructions, and patches of the images.

        Args:
            restore: turns the model's input ``(N, 3, H, W)`` back into pictures in [0, 1]; not
                needed if the model takes such pictures.

        Raises:
            InputError: the pictures are not in [0, 1].
        """
        pictures = self.images.flatten(0, 1)
        pictures = pictures if restore is None else restore(pictures)
        check_unit(image=pictures)
        pictures = pictures.clamp(0, 1).reshape(self.images.shape)
        rows = []
        for k, channel in enumerate(self.channels):
            boxes = self.boxes[k].tolist()
            drawn = [
                to_image(_cut(r, box)).float() / 255
                for r, box in zip(self.reconstructions[k], boxes, strict=True)
            ]
            patches = [_cut(p, box) for p, box in zip(pictures[k], boxes, strict=True)]
            best = f"activation {self.scores[k, 0]:.3g} to {self.scores[k, -1]:.3g}"
            rows.append(Row([_sheet(drawn), _sheet(patches)], ["", best], f"channel {channel}"))
        return draw([f"{self.layer}\nreconstructions", "image patches"], rows)


@checked
def gallery(
    model: nn.Module,
    layer: Layer,
    channels: int | Sequence[int],
    images: Tensor | Iterable[Any],
    *,
    count: Count = 9,
) -> Gallery:
    """Find the `count` images that excite each channel of a layer most, and what excites it.

    Zeiler and Fergus, ECCV 2014, arXiv:1311.2901, figure 2: the strongest unit of the channel in
    each image, projected down to the pixels with all others set to zero.

    Args:
        model: any network.
        layer: a module of `model`, or its dotted name.
        channels: one channel of the layer, or several.
        images: batches ``(N, C, H, W)``, as a data loader gives them, with or without labels, all
            of one size; or one tensor of images.
        count: the number of images to keep for each channel; fewer if there are fewer.

    Raises:
        InputError: there are no images.
        LayerError: the layer is not in `model`.
        TargetError: the layer has no such channel.
    """
    deconvnet = Deconvnet(model, layer)
    assert deconvnet.layer is not None
    chosen = (channels,) if isinstance(channels, int) else tuple(channels)
    best: _Excited | None = None
    start = 0
    for batch in [images] if isinstance(images, Tensor) else images:
        pixels = batch[0] if isinstance(batch, tuple | list) else batch
        scores = _peaks(model, deconvnet.layer, chosen, pixels)
        samples = torch.arange(start, start + len(pixels), device=scores.device).expand_as(scores)
        excited = _Excited(scores, samples, pixels.expand(len(chosen), *pixels.shape))
        best = (excited if best is None else best.joined(excited)).best(count)
        start += len(pixels)
    if best is None:
        raise InputError("images is empty; pass at least one batch")
    drawn = torch.stack(
        [deconvnet(own, unit=channel) for own, channel in zip(best.pixels, chosen, strict=True)]
    )
    return Gallery(
        layer=deconvnet.layer,
        channels=chosen,
        samples=best.samples,
        scores=best.scores,
        images=best.pixels,
        reconstructions=drawn,
        boxes=torch.stack([torch.stack([_extent(one) for one in own]) for own in drawn]),
    )


def _peaks(model: nn.Module, layer: str, channels: tuple[int, ...], pixels: Tensor) -> Tensor:
    """The largest activation of each channel in each image, ``(K, N)``."""
    network = unwrap(model)
    reading = capture(network, [layer], graph="none")
    with Called(), explaining(network, pixels.device), reading as seen:
        network(pixels.clone())
    [activation] = seen.activations()
    available = activation.shape[1]
    for channel in channels:
        if not -available <= channel < available:
            raise TargetError(
                f"channel {channel} is out of range: layer {layer!r} has {available} channels; "
                f"pass 0 to {available - 1}"
            )
    return activation.flatten(2).amax(2).mT[list(channels)]


@dataclass(frozen=True)
class _Excited:
    """Images for each channel: scores and samples ``(K, N)``, and pixels ``(K, N, C, H, W)``."""

    scores: Tensor
    samples: Tensor
    pixels: Tensor

    def joined(self, other: _Excited) -> _Excited:
        """The images of both."""
        return _Excited(
            torch.cat([self.scores, other.scores], 1),
            torch.cat([self.samples, other.samples], 1),
            torch.cat([self.pixels, other.pixels], 1),
        )

    def best(self, count: int) -> _Excited:
        """The `count` images with the highest scores of each channel, the highest first."""
        order = self.scores.argsort(stable=True, dim=1, descending=True)[:, :count]
        rows = torch.arange(len(order), device=order.device)[:, None]
        return _Excited(
            self.scores[rows, order], self.samples[rows, order], self.pixels[rows, order]
        )


def _extent(reconstruction: Tensor) -> Tensor:
    """Top, left, bottom and right of the nonzero part of ``(C, H, W)``; of all if all is zero."""
    marked = (reconstruction != 0).any(0)
    if not marked.any():
        marked = torch.ones_like(marked)
    rows, columns = marked.any(1).nonzero().flatten(), marked.any(0).nonzero().flatten()
    return torch.stack([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1])


def _cut(picture: Tensor, box: Sequence[int]) -> Tensor:
    top, left, bottom, right = box
    return picture[:, top:bottom, left:right]


def _sheet(pictures: Sequence[Tensor]) -> NDArray[Any]:
    """Pictures ``(3, h, w)`` of any size on one square sheet, row by row."""
    from torchvision.transforms.functional import resize
    from torchvision.utils import make_grid

    side = max(max(picture.shape[1:]) for picture in pictures)
    tiles = [resize(picture, [side, side], antialias=True) for picture in pictures]
    across = int(len(tiles) ** 0.5 + 0.999)
    return to_array(make_grid(tiles, nrow=across, padding=max(1, side // 32), pad_value=1))
