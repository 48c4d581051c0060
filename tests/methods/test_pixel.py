"""Attributions of pixels, beyond what holds for every method."""

from __future__ import annotations

import pytest
import torch
from nets import convolutional, images

from camlib import InputError, Saliency


def test_saliency_reduced_over_colours():
    net, batch = convolutional(), images()
    pixels = batch.clone().requires_grad_()
    [expected] = torch.autograd.grad(net(pixels)[:, 1].sum(), pixels)
    torch.testing.assert_close(Saliency(net)(batch, target=1), expected)
    absolute = expected.abs()
    found = {how: Saliency(net, reduce=how)(batch, target=1) for how in ("max", "sum", "l2")}
    torch.testing.assert_close(found["max"], absolute.amax(1))
    torch.testing.assert_close(found["sum"], absolute.sum(1))
    torch.testing.assert_close(found["l2"], expected.norm(dim=1))
    assert Saliency(net, reduce="max")(batch, target=[[0, 1, 2]]).shape == (2, 3, 8, 8)
    with pytest.raises(
        InputError, match="reduce='mean' is not known; use 'max', 'sum', 'l2' or None"
    ):
        Saliency(net, reduce="mean")
