"""Every method, in circumstances that models and processes are found in."""

from __future__ import annotations

import pytest
import torch
from nets import fitting, images
from torch import Tensor

from camlib import METHODS

pytestmark = [
    pytest.mark.filterwarnings("ignore:a map (at layer|of):camlib.CamlibWarning"),
    pytest.mark.filterwarnings("ignore:FullGrad does not:camlib.CamlibWarning"),
    pytest.mark.filterwarnings("ignore:integrated gradients with:camlib.CamlibWarning"),
]


@pytest.fixture(params=METHODS.values(), ids=METHODS)
def kind(request):
    return request.param


def assert_near(found: Tensor, expected: Tensor) -> None:
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * scale)


def test_default_dtype(kind):
    net, batch = fitting(kind), images()
    expected = kind(net)(batch, 1)
    torch.set_default_dtype(torch.float64)
    try:
        found = kind(net)(batch, 1)
    finally:
        torch.set_default_dtype(torch.float32)
    assert_near(found, expected)


def test_default_device(kind):
    net, batch = fitting(kind), images()
    for target in (1, None, [1, 2]):
        expected = kind(net)(batch, target)
        with torch.device("meta"):  # what is made there by default holds nothing
            found = kind(net)(batch, target)
        assert_near(found, expected)


def test_inference_mode_gives_plain_tensors(kind):
    method, batch = kind(fitting(kind)), images()
    with torch.inference_mode():
        seen = method.explain(batch, 1)
    for found in (seen.heatmap, seen.map, seen.score, *seen.maps):
        assert not found.is_inference()
