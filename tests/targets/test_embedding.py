"""Similarity to an embedding, against sums in plain Python."""

import math

import numpy as np
import pytest
import torch
from nets import Net, convolutional, images

from camlib import GradCAM, TargetError
from camlib.targets import Similarity, resolve

OWN = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
OTHERS = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))


def dot(one, other):
    return sum(float(a) * float(b) for a, b in zip(one, other, strict=True))


def cosine(one, other):
    return dot(one, other) / math.sqrt(dot(one, one) * dot(other, other))


@pytest.mark.parametrize(("metric", "formula"), [("cosine", cosine), ("dot", dot)])
def test_similarity_to_given_embeddings(metric, formula):
    def found(embedding):
        return Similarity(embedding, metric=metric).resolve(OWN, 2, (8, 8))(OWN).tolist()

    for form in (OTHERS[0, 0], OTHERS[0, 0].tolist(), OTHERS[0, 0].double().numpy()):
        assert found(form) == pytest.approx([formula(own, OTHERS[0, 0]) for own in OWN])
    for form in (OTHERS[:, 1], list(OTHERS[:, 1]), OTHERS[:, 1].numpy()):
        expected = [formula(own, other) for own, other in zip(OWN, OTHERS[:, 1], strict=True)]
        assert found(form) == pytest.approx(expected)
    several = [[formula(own, k) for k in OTHERS[0]] for own in OWN]
    assert found(OTHERS[:1]) == [pytest.approx(row) for row in several]
    several = [[formula(own, k) for k in ks] for own, ks in zip(OWN, OTHERS, strict=True)]
    assert found(OTHERS) == [pytest.approx(row) for row in several]


def test_own_embedding_is_compared_by_its_direction():
    output = {"image_embeds": OWN}
    for metric in ("cosine", "dot"):
        target = Similarity(metric=metric).resolve(output, 2, (8, 8))
        lengths = [math.sqrt(dot(own, own)) for own in OWN]
        assert target(output).tolist() == pytest.approx(lengths)
        other = {"image_embeds": OWN.flip(0)}
        expected = [dot(OWN[1 - n], OWN[n]) / lengths[n] for n in (0, 1)]
        assert target(other).tolist() == pytest.approx(expected)


def test_half_precision_is_compared_in_float32():
    target = Similarity(OTHERS[0, 0]).resolve(OWN.half(), 2, (8, 8))
    assert target(OWN.half()).dtype == torch.float32


def test_own_direction_is_a_constant_and_the_gradient():
    own = OWN.clone().requires_grad_()
    target = Similarity().resolve(own, 2, (8, 8))
    assert not target.embedding.requires_grad
    [gradient] = torch.autograd.grad(target(own).sum(), own)
    torch.testing.assert_close(gradient, OWN / OWN.norm(dim=1, keepdim=True))


@pytest.mark.parametrize(
    ("embedding", "output", "message"),
    [
        (torch.ones(5), OWN, r"an embedding of shape \(1, 5\) does not fit the model's \(2, 4\)"),
        (torch.ones(3, 4), OWN, r"embedding of shape \(3, 4\) .* pass \(4,\) for all samples"),
        (torch.ones(3, 2, 4), OWN, r"embedding of shape \(3, 2, 4\)"),
        (torch.ones(1, 1, 1, 4), OWN, r"embedding of shape \(1, 1, 1, 4\)"),
        (torch.tensor(1.0), OWN, r"embedding of shape \(\)"),
        (torch.zeros(4), OWN, "an embedding is zero, empty or not finite, so it has no direction"),
        ([[1.0] * 4, [0.0] * 4], OWN, "an embedding is zero, empty or not finite"),
        (np.array([1.0, np.nan, 0, 0]), OWN, "an embedding is zero, empty or not finite"),
        (torch.ones(1, 0, 4), OWN, "an embedding is zero, empty or not finite"),
        ("dog", OWN, "embedding='dog' is not an array of numbers"),
        (
            None,
            {"a": OWN, "b": OWN},
            r"output \(out\['a'\] .*=lambda out: out\['a'\] @ embedding",
        ),
        (None, OWN.long(), r"cannot find the embedding in .* \(int64 \(2, 4\)\); let it return"),
        (None, torch.ones(3, 4), r"scores of shape \(3, 4\) for 2 samples"),
    ],
)
def test_what_does_not_fit(embedding, output, message):
    with pytest.raises(TargetError, match=message):
        resolve(Similarity(embedding), output, 2, (8, 8))


def test_model_that_embeds_is_explained_without_a_target():
    class Embedding(torch.nn.Module):
        def forward(self, scores):
            return {"pooler_output": scores}

    net, batch = convolutional(), images()
    embedding = Net(net.features, torch.nn.Sequential(*net.tail, Embedding())).eval()
    own = net(batch).detach()
    direction = own / own.norm(dim=1, keepdim=True)
    found = GradCAM(embedding, "features", relu=False).explain(batch)
    assert found.target is None
    expected = GradCAM(net, "features", relu=False)(batch, lambda out: (out * direction).sum(1))
    torch.testing.assert_close(found.heatmap, expected)
