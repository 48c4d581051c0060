"""Scores without a gradient are told from scores with one."""

import pytest
import torch
from nets import Net, images, pooled
from torch import nn

from camlib import CamlibWarning, GradCAM, targets
from camlib.targets.saturation import saturated

SURE = torch.tensor([[0.0, 1.0], [0.3, 0.7]])
LOGITS = torch.tensor([[-500.0, 500.0], [0.0, 1.0]])
RETURNS = "the model returns a probability that is exactly 0 or 1, .* pass the module before them"
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


class Sure(Net):
    """Returns probabilities, all but certain of one class."""

    passes = 0

    def forward(self, batch):
        self.passes += 1
        return (1e4 * super().forward(batch)).softmax(1)


def test_model_that_is_sure_is_told_of_at_no_further_pass():
    base = pooled()
    net = Sure(base.features, nn.Sequential(*base.tail)).eval()
    cam = GradCAM(net, "features")
    for call in range(1, 4):
        with pytest.warns(CamlibWarning, match=f"'features' is zero everywhere: {RETURNS}"):
            assert not cam(images(1)).any()
        assert net.passes == call
    with pytest.warns(CamlibWarning, match=RETURNS):
        assert not GradCAM(net)(images()).any()
    assert net.passes - call <= 3
    logit = GradCAM(Net(net.features, net.tail), "features")(images(), relu=False)
    assert logit.any()
