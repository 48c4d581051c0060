"""Which part of an activation belongs to which sample."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor

from camlib.errors import LayoutError
from camlib.layouts import Custom, Frames, Layout


def of_samples(layout: Layout, activation: Tensor, count: int, samples: Tensor) -> Tensor:
    """`activation` of `count` samples for `samples` ``(M,)`` of them, as the layer returns it.

    A layout may make several rows one sample, as where frames are folded into the batch: the frames
    of a sample one after the other, or the samples of a frame.

    Raises:
        LayoutError: which rows are those of a sample cannot be told.
    """
    samples = samples.to(activation.device)
    rows = activation.shape[0]
    if rows == count or not isinstance(layout, Custom | Frames):
        return activation.index_select(layout.samples_axis, samples)
    if rows % count == 0:
        expected = layout(activation)[samples]
        rest = activation.shape[1:]
        of_sample = activation.reshape(count, -1, *rest)[samples].flatten(0, 1)
        of_frame = activation.reshape(-1, count, *rest)[:, samples].flatten(0, 1)
        for chosen in (of_sample, of_frame):
            with suppress(Exception):  # of a layout that is the user's
                if torch.equal(layout(chosen), expected):
                    return chosen
    raise LayoutError(
        f"the layout {layout!r} does not take an activation {tuple(activation.shape)} of {count} "
        f"samples for {len(samples)} of them; expected one for any number of samples, such as "
        "lambda a: a.reshape(-1, frames, *a.shape[1:]).movedim(2, 1)"
    )


def on_trial(layout: Layout, activation: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Samples by number, and an `activation` of `count` samples for them, to try a replay with.

    One more than there were, in another order: an axis mistaken for that of samples shows. A single
    one stands behind another that is no copy, which is not to be looked at.
    """
    samples = torch.tensor([1, 0, 1] if count > 1 else [0, 0], device="cpu")
    found = of_samples(layout, activation, count, samples)
    if count == 1:
        arranged = layout(found)
        found = layout.put_back(torch.cat([arranged[:1] / 2, arranged[1:]]), found)
    return samples, found
