"""Scores without a gradient are told from scores with one."""

import pytest
import torch

from camlib import targets
from camlib.targets.saturation import saturated

SURE = torch.tensor([[0.0, 1.0], [0.3, 0.7]])
LOGITS = torch.tensor([[-500.0, 500.0], [0.0, 1.0]])
RETURNS = "the model returns a probability that is exactly 0 or 1, .* pass the module that comes"
ASKED = "a probability is exactly 0 or 1, .* explain the logit, with camlib.targets.Category"


def told(target, output):
    return saturated(output, targets.resolve(target, output, len(output), (8, 8)))


@pytest.mark.parametrize(
    ("target", "output", "message"),
    [
        (None, SURE, RETURNS),
        (0, SURE, RETURNS),
        (lambda out: out[:, 1], SURE, RETURNS),
        (1, torch.tensor([[1.0], [0.2]]), RETURNS),
        (0, torch.tensor([1.0, 0.2]), RETURNS),
        (1, torch.tensor([[0.0], [0.9]]), RETURNS),
        (None, LOGITS.softmax(1), RETURNS),
        (targets.Segment(1, [[1, 1]]), SURE[1:, :, None, None].expand(1, 2, 1, 2), ""),
        (targets.Segment(1, [[1, 1]]), SURE[:1, :, None, None].expand(1, 2, 1, 2), RETURNS),
        (targets.Probability(1), LOGITS, ASKED),
        (targets.Probability(0), LOGITS, ASKED),
        (targets.LogProbability(1), LOGITS, ASKED),
        (targets.Probability(1), LOGITS[:, 1:], ASKED),
        (None, LOGITS, ""),
        (None, torch.tensor([[0.4, 0.6]]), ""),
        (1, torch.tensor([[0.0, 1.0, 1.0]]), ""),
        (targets.Probability(1), LOGITS / 100, ""),
        (targets.LogProbability(0), LOGITS, ""),
    ],
)
def test_saturation_is_told_with_the_way_out(target, output, message):
    found = told(target, output)
    assert bool(found) == bool(message)
    if message:
        with pytest.raises(ValueError, match=message):
            raise ValueError(found)


def test_output_of_a_detector_is_not_saturated():
    found = [{"boxes": torch.tensor([[0.0, 0, 4, 4]]), "labels": torch.tensor([1])}]
    found[0]["scores"] = torch.tensor([1.0])
    assert told(None, found) == ""
