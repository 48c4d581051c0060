"""The real network and photographs: the numbers of a few lines of PyTorch, and what must hold."""

from __future__ import annotations

import pytest
import torch

from camlib import GradCAM, metrics

pytestmark = pytest.mark.shared


def test_confidence_is_that_of_a_few_lines(mobilenet):
    model, photographs = mobilenet
    maps = GradCAM(model)(photographs)
    names = ["average_drop", "increase_in_confidence", "average_gain"]
    options = {name: {"tolerance": 0} for name in names}
    found = metrics.faithfulness(model, photographs, maps, metrics=options)
    with torch.no_grad():
        clean, label = model(photographs).softmax(1).max(1)
        masked = model(photographs * maps[:, None]).softmax(1).gather(1, label[:, None])[:, 0]
    drop = 100 * (clean - masked).clamp(min=0) / clean
    gain = 100 * (masked - clean).clamp(min=0) / (1 - clean)
    torch.testing.assert_close(found["average_drop"], drop, atol=0.02, rtol=1e-3)
    torch.testing.assert_close(found["average_gain"], gain, atol=0.5, rtol=1e-2)
    assert torch.equal(found["increase_in_confidence"], 100.0 * (masked > clean))


def test_ones_score_nothing_and_a_map_beats_its_opposite(mobilenet):
    model, photographs = mobilenet
    maps = GradCAM(model)(photographs)
    names = ["average_drop", "increase_in_confidence", "average_gain"]
    ones = metrics.faithfulness(model, photographs, torch.ones_like(maps), metrics=names)
    assert not any(bool(values.any()) for values in ones.values())
    options = {"deletion": {"step": 7168}, "insertion": {"step": 7168}}
    own, opposite = (
        metrics.faithfulness(model, photographs, each, metrics=options) for each in (maps, 1 - maps)
    )
    assert float(own["deletion"].mean()) < float(opposite["deletion"].mean())
    assert float(own["insertion"].mean()) > float(opposite["insertion"].mean())
