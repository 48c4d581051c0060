"""Finding what is meant in what a model returned."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from nets import Net, convolutional, images, pooled
from torch import nn

from camlib import GradCAM, TargetError, targets
from camlib.targets.outputs import embedding_in


class Wrapped(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap

    def forward(self, output):
        return self.wrap(output)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda out: {"logits": out, "loss": None},
        lambda out: OrderedDict(out=out, aux=out * 0),
        lambda out: {"scores": out},
        lambda out: (out,),
        lambda out: [out],
    ],
)
def test_scores_are_found_in_the_output(wrap):
    net = convolutional()
    wrapped = Net(net.features, nn.Sequential(*net.tail, Wrapped(wrap))).eval()
    seen = GradCAM(wrapped, "features").explain(images(), target=1)
    assert torch.equal(seen.heatmap, GradCAM(net, "features")(images(), target=1))
    assert type(seen.output) is type(wrap(torch.zeros(2, 4)))


@pytest.mark.parametrize("wrap", [lambda out: (out, out), lambda out: {"a": out, "b": out}])
def test_output_that_needs_a_function(wrap):
    net = convolutional()
    wrapped = Net(net.features, nn.Sequential(*net.tail, Wrapped(wrap))).eval()
    with pytest.raises(TargetError, match="cannot tell the class scores in the model's output"):
        GradCAM(wrapped, "features")(images(), target=1)
    first = GradCAM(wrapped, "features")(
        images(),
        target=lambda out: next(iter(out.values() if isinstance(out, dict) else out))[:, 1],
    )
    assert torch.equal(first, GradCAM(net, "features")(images(), target=1))


@pytest.mark.parametrize(
    ("output", "fitting"),
    [
        (torch.zeros(2, 3, 4, 4), r"Segment\(classes\)"),
        (torch.zeros(2, 5, 9), r"Token\(position\)"),
        ({"logits": torch.zeros(2, 5, 9), "pred_boxes": torch.zeros(2, 5, 4)}, r"Detection\(\)"),
    ],
)
def test_category_of_another_output_names_the_target_that_fits(output, fitting):
    with pytest.raises(
        TargetError,
        match=r"expected class scores \(N, classes\), the model returned .*; "
        rf"use camlib.targets.{fitting}, or pass a function",
    ):
        targets.resolve(targets.Category(1), output, 2, (8, 8))


def test_sequence_of_scores_of_an_image_is_not_dense():
    with pytest.raises(TargetError, match=r"\(2, 5, 9\); use camlib.targets.Token\(position\)"):
        targets.resolve(None, torch.zeros(2, 5, 9), 2, (8, 8))


def test_single_logit():
    net = convolutional()
    single = Net(net.features, nn.Sequential(*net.tail, Wrapped(lambda out: out[:, 1]))).eval()
    found = GradCAM(single, "features").explain(images())
    assert found.target.tolist() == [0, 0]
    assert torch.equal(found.heatmap, GradCAM(net, "features")(images(), target=1))


def test_output_that_lost_its_samples():
    net = convolutional()
    merged = Net(
        net.features, nn.Sequential(*net.tail, Wrapped(lambda out: out.mean(0, True)))
    ).eval()
    with pytest.raises(
        TargetError, match=r"scores of shape \(1, 4\) for 2 samples; does the input"
    ):
        GradCAM(merged, "features")(images())


def test_image_without_a_batch_axis_gets_a_hint():
    with pytest.raises(Exception) as raised:
        GradCAM(pooled(), "features")(images()[0])
    notes = "".join(getattr(raised.value, "__notes__", [])) + str(raised.value)
    assert "image[None]" in notes or "batch axis" in notes


FLAT, OTHER = torch.arange(6.0).reshape(2, 3), torch.ones(2, 3)
TOKENS = torch.arange(24.0).reshape(2, 4, 3)


@dataclass
class Answer:
    loss: torch.Tensor | None
    logits: torch.Tensor | None
    hidden: torch.Tensor


Named = namedtuple("Named", "logits aux")


@pytest.mark.parametrize(
    "output",
    [
        {"logits": FLAT, "out": OTHER},
        {"out": FLAT, "scores": OTHER},
        {"logits_per_image": FLAT, "logits_per_text": FLAT.mT, "image_embeds": OTHER},
        {"scores": FLAT, "class_logits": OTHER},
        {"class_logits": FLAT, "features": OTHER},
        {"anything": FLAT, "loss": None},
        {"logits": None, "out": FLAT},
        Answer(None, FLAT, OTHER),
        Answer(None, None, FLAT),
        Named(FLAT, OTHER),
        (FLAT,),
        (torch.tensor(0.5), FLAT, TOKENS, FLAT.long()),
        [TOKENS, FLAT],
        FLAT[:, :, None, None],
        {"logits": FLAT[..., None]},
    ],
)
def test_class_scores_are_found(output):
    assert torch.equal(targets.logits(output), FLAT)


@pytest.mark.parametrize(
    ("output", "held"),
    [
        ((FLAT, OTHER), "tuple"),
        ([], "list"),
        ({"a": FLAT, "b": OTHER}, r"\['a', 'b'\]"),
        ({"image_embeds": FLAT}, r"\['image_embeds'\]"),
        ({"last_hidden_state": FLAT}, r"\['last_hidden_state'\]"),
        (3, "int"),
    ],
)
def test_class_scores_that_cannot_be_told(output, held):
    with pytest.raises(TargetError, match=rf"cannot tell the class .* output \({held}\); pass a"):
        targets.logits(output)


def test_integers_are_no_scores():
    with pytest.raises(
        TargetError, match=r"torch.int64 of shape \(2,\): integers have no gradient"
    ):
        targets.logits(FLAT.argmax(1))


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (FLAT, FLAT),
        (FLAT[:, :, None, None], FLAT),
        ({"image_embeds": FLAT, "pooler_output": OTHER}, FLAT),
        ({"last_hidden_state": TOKENS, "pooler_output": FLAT[..., None, None]}, FLAT),
        ({"embedding": FLAT, "embeddings": OTHER}, FLAT),
        ({"embeddings": FLAT, "features": OTHER}, FLAT),
        ({"features": FLAT, "other": OTHER}, FLAT),
        ({"features": TOKENS, "other": FLAT}, FLAT),
        ({"last_hidden_state": TOKENS}, TOKENS.mean(1)),
        ((TOKENS, FLAT), FLAT),
        (TOKENS, None),
        ((FLAT, OTHER), None),
        (3, None),
    ],
)
def test_embedding_is_found(output, expected):
    found = embedding_in(output)
    assert found is expected is None or torch.equal(found, expected)


def test_outputs_of_transformers():
    outputs = pytest.importorskip("transformers.modeling_outputs")
    scores = outputs.ImageClassifierOutput(logits=FLAT, hidden_states=(TOKENS,))
    assert torch.equal(targets.logits(scores), FLAT)
    pooled_ = outputs.BaseModelOutputWithPooling(last_hidden_state=TOKENS, pooler_output=FLAT)
    assert torch.equal(embedding_in(pooled_), FLAT)
    plain = outputs.BaseModelOutput(last_hidden_state=TOKENS)
    assert torch.equal(embedding_in(plain), TOKENS.mean(1))
    assert isinstance(targets.resolve(None, plain, 2, (8, 8)), targets.Similarity)


def test_output_of_places_that_is_a_single_one_is_that_of_classes():
    target = targets.resolve(None, FLAT[..., None, None], 2, (8, 8))
    assert isinstance(target, targets.Category)
    assert target.classes.tolist() == [2, 2]


@pytest.mark.parametrize("size", [(9,), (9, 8), (9, 8, 7)])
def test_classes_of_a_dense_output_mean_regions(size):
    dense = torch.randn(2, 3, *[9] * len(size), generator=torch.Generator().manual_seed(0))
    for form in (None, 1, [0, 2]):
        found = targets.resolve(form, {"out": dense, "aux": dense}, 2, size)
        assert isinstance(found, targets.Segment)
        assert torch.equal(found(dense), targets.Segment(form).settled(dense, 2, size)(dense))


def test_nothing_asked_of_embeddings_alone_means_similarity():
    output = {"image_embeds": FLAT}
    assert isinstance(targets.resolve(None, output, 2, (8, 8)), targets.Similarity)
    scored = {"image_embeds": FLAT, "logits_per_image": FLAT}
    assert isinstance(targets.resolve(None, scored, 2, (8, 8)), targets.Category)
    with pytest.raises(TargetError, match=r"cannot tell the class scores .*\['image_embeds'\]"):
        targets.resolve(1, output, 2, (8, 8))
