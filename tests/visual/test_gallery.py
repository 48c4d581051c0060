"""The images that excite a channel most, and the patch of each that it sees."""

from __future__ import annotations

import pytest
import torch
from nets import images, rectifying
from snapshot import snapshot

from camlib import Deconvnet, InputError, TargetError
from camlib.visual import gallery


def loader(batch, size=4):
    return [(part, None) for part in batch.split(size)]


def test_strongest_images_of_each_channel_in_order():
    net, batch = rectifying(size=16), images(11, 16, 16)
    before = snapshot(net)
    found = gallery(net, "features.2", [4, 1], loader(batch), count=3)
    assert snapshot(net) == before
    peaks = net.features[:3](batch).detach().amax((2, 3))
    for k, channel in enumerate([4, 1]):
        order = peaks[:, channel].argsort(descending=True)[:3]
        assert torch.equal(found.samples[k], order)
        torch.testing.assert_close(found.scores[k], peaks[order, channel])
        assert torch.equal(found.images[k], batch[order])
        drawn = Deconvnet(net, "features.2")(batch[order], unit=channel)
        torch.testing.assert_close(found.reconstructions[k], drawn)


def test_patch_is_what_the_unit_sees():
    net = rectifying(size=16)
    found = gallery(net, "features.2", 2, images(5, 16, 16), count=2)
    assert found.samples.shape == (1, 2)
    for box, image in zip(found.boxes[0].tolist(), found.images[0], strict=True):
        value, place = net.features[:3](image[None])[0, 2].flatten().max(0)
        row, column = divmod(int(place), 16)
        top, left, bottom, right = box
        assert row - 2 <= top <= row <= bottom - 1 <= row + 2
        assert column - 2 <= left <= column <= right - 1 <= column + 2
        assert value > 0


def test_batches_do_not_matter():
    net, batch = rectifying(size=16), images(7, 16, 16)
    whole = gallery(net, "features", [0, 3], batch)
    parts = gallery(net, "features", [0, 3], loader(batch, 2))
    assert torch.equal(whole.samples, parts.samples)
    assert whole.samples.shape == (2, 7)
    torch.testing.assert_close(whole.reconstructions, parts.reconstructions)


def test_figure_has_a_row_a_channel():
    found = gallery(rectifying(size=16), "features", [0, 3], images(12, 16, 16))
    figure = found.figure(torch.sigmoid)
    texts = " ".join(text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text")))
    assert "channel 0" in texts
    assert "channel 3" in texts
    with pytest.raises(InputError, match="image has values from"):
        found.figure()


def test_bad_arguments():
    net = rectifying(size=16)
    with pytest.raises(
        TargetError, match="channel 6 is out of range: layer 'features' has 6 channels"
    ):
        gallery(net, "features", 6, images(2, 16, 16))
    with pytest.raises(InputError, match="images is empty"):
        gallery(net, "features", 1, [])
