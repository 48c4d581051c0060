"""Finding what is meant in what a model returned."""

import re
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from nets import Net, convolutional, images, pooled
from torch import nn

from camlib import AblationCAM, GradCAM, ScoreCAM, TargetError, targets
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
    with pytest.raises(TargetError, match=r"the class scores .* \(out\[.*\] \(2, 4\), out\["):
        GradCAM(wrapped, "features")(images(), target=1)
    first = GradCAM(wrapped, "features")(
        images(),
        target=lambda out: next(iter(out.values() if isinstance(out, dict) else out))[:, 1],
    )
    assert torch.equal(first, GradCAM(net, "features")(images(), target=1))


@pytest.mark.parametrize(
    ("output", "fitting"),
    [
        (torch.zeros(2, 3, 4, 4), r"Segment\(classes\), or pass a function"),
        (torch.zeros(2, 5, 9), r"Token\(position\); for a detector, pass a fu"),
        (
            {"logits": torch.zeros(2, 5, 9), "pred_boxes": torch.zeros(2, 5, 4)},
            r"Detection\(\), or pass a function",
        ),
    ],
)
def test_category_of_another_output_names_the_target_that_fits(output, fitting):
    with pytest.raises(
        TargetError,
        match=r"expected class scores \(N, classes\), but the model returned .*; "
        rf".*use camlib.targets.{fitting}",
    ):
        targets.resolve(targets.Category(1), output, 2, (8, 8))


def test_sequence_of_scores_of_an_image_is_not_dense():
    with pytest.raises(TargetError, match=r"\(2, 5, 9\); for a text.* use camlib.targets.Token"):
        targets.resolve(None, torch.zeros(2, 5, 9), 2, (8, 8))


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
DENSE = torch.arange(96.0).reshape(2, 3, 4, 4)


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
        {"logits": FLAT, "anything": OTHER},
        {"out": FLAT, "aux": OTHER},
        {"Pred": FLAT, "embedding": OTHER},
        {"pred": FLAT, "map": DENSE},
        {"prediction": FLAT, "hidden_states": (TOKENS, TOKENS), "z": OTHER},
        {"anything": FLAT, "attentions": (DENSE,), "labels": FLAT.argmax(1)},
        {"logits_per_image": FLAT, "logits_per_text": FLAT.mT, "image_embeds": OTHER},
        {"class_logits": FLAT, "features": OTHER},
        {"anything": FLAT, "loss": None},
        {"logits": None, "out": FLAT},
        Answer(None, FLAT, OTHER),
        Answer(None, None, FLAT),
        Named(FLAT, OTHER),
        (FLAT,),
        (torch.tensor(0.5), FLAT, TOKENS, FLAT.long()),
        (FLAT, [DENSE, DENSE], None),
        (FLAT, {"features": OTHER}),
        (FLAT.argmax(1), FLAT),
        SimpleNamespace(scores=FLAT, embedding=OTHER),
        FLAT[:, :, None, None],
        {"logits": FLAT[..., None]},
    ],
)
def test_class_scores_are_found(output):
    assert torch.equal(targets.logits(output), FLAT)


@pytest.mark.parametrize(
    ("output", "held"),
    [
        ((FLAT, OTHER), r"out\[0\] \(2, 3\), out\[1\] \(2, 3\)\); pass a"),
        ([TOKENS, FLAT], r"out\[0\] \(2, 4, 3\), out\[1\] \(2, 3\)\); pass a"),
        ((FLAT[:, 0], OTHER), r"out\[0\] \(2,\), out\[1\] \(2, 3\)\); pass a"),
        ((TOKENS, DENSE), r"out\[0\] \(2, 4, 3\), out\[1\] \(2, 3, 4, 4\)\); pass a"),
        (([DENSE], FLAT), r"out\[0\]\[0\] \(2, 3, 4, 4\), out\[1\] \(2, 3\)\); pass a"),
        ((FLAT, {"other": OTHER}), r"out\[0\] \(2, 3\), out\[1\]\['other'\] \(2, 3\)\); pass a"),
        ({"out": FLAT, "scores": OTHER}, r"out\['out'\] \(2, 3\), out\['scores'\] .*; pass a"),
        ({"pred": FLAT, "other": OTHER}, r"out\['pred'\] \(2, 3\), out\['other'\] .*; pass a"),
        ({"features": FLAT, "cls": OTHER}, r"\); pass .*=lambda out: out\['cls'\]\[:, 2\]"),
        ({"map": DENSE, "embedding": OTHER}, r"\); pass .* out\['map'\]\[:, 2\].flatten\(1\)"),
        ({"a": FLAT, "b": OTHER}, r"out\['a'\] \(2, 3\), out\['b'\] \(2, 3\)\); pass a"),
        ({"image_embeds": FLAT}, r"out\['image_embeds'\] \(2, 3\)\); pass a"),
        ({"last_hidden_state": FLAT}, r"out\['last_hidden_state'\] \(2, 3\)\); pass a"),
        (SimpleNamespace(a=FLAT, b=OTHER), r"out.a \(2, 3\), out.b \(2, 3\)\); pass a"),
        ({f"part{n}": FLAT for n in range(12)}, r"out\['part7'\] \(2, 3\) and 4 more\); pass a"),
        ([], r"list without a tensor\); let it return floating-point scores"),
        (3, r"int without a tensor\); let it return floating-point scores"),
        ({"a": FLAT.long(), "b": FLAT.long()}, r"let it return floating-point scores"),
    ],
)
def test_class_scores_that_cannot_be_told(output, held):
    with pytest.raises(TargetError, match=rf"cannot find the class scores in .* output \(.*{held}"):
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
        assert torch.equal(found(dense), targets.Segment(form).resolve(dense, 2, size)(dense))


def test_nothing_asked_of_embeddings_alone_means_similarity():
    output = {"image_embeds": FLAT}
    assert isinstance(targets.resolve(None, output, 2, (8, 8)), targets.Similarity)
    scored = {"image_embeds": FLAT, "logits_per_image": FLAT}
    assert isinstance(targets.resolve(None, scored, 2, (8, 8)), targets.Category)
    with pytest.raises(TargetError, match=r"cannot find the class scores .*\['image_embeds'\]"):
        targets.resolve(1, output, 2, (8, 8))


def advised(output, count=2):
    """The function that the error about `output` advises."""
    with pytest.raises(TargetError) as raised:
        targets.resolve(1, output, count, (8, 8))
    return eval(re.search(r"target=(lambda out: .+?)(?:, or let|$)", str(raised.value))[1])


Pair = namedtuple("Pair", "first second")


@dataclass
class Unnamed:
    first: torch.Tensor
    second: torch.Tensor


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ({"other": OTHER, "pred": FLAT}, FLAT[:, 2]),
        ((FLAT, OTHER), FLAT[:, 2]),
        ([OTHER[:, :1], FLAT], OTHER[:, 0]),
        (Pair(FLAT, OTHER), FLAT[:, 2]),
        (Unnamed(FLAT, OTHER), FLAT[:, 2]),
        (SimpleNamespace(first=FLAT, second=OTHER), FLAT[:, 2]),
        ({"heads": [TOKENS, {"pred": FLAT}], "other": OTHER}, FLAT[:, 2]),
        ((TOKENS, DENSE), TOKENS[:, :, 2].amax(1)),
        (DENSE[None].expand(2, -1, -1, -1, -1), DENSE[1].mean().expand(2)),
        ((torch.rand(2, 7, 36), {"maps": [DENSE]}), None),
        (torch.arange(504.0).reshape(2, 7, 36), torch.tensor([179.0, 431.0])),
        (torch.arange(504.0).reshape(2, 36, 7), torch.tensor([249.0, 501.0])),
        (torch.arange(220.0).reshape(10, 2, 11), torch.tensor([113.0, 124.0])),
        (FLAT.mT, FLAT[:, 2]),
        ({"scores": FLAT.mT, "z": OTHER}, FLAT[:, 2]),
    ],
)
def test_function_that_is_advised_works_on_that_output(output, expected):
    scores = targets.resolve(advised(output), output, 2, (8, 8))(output)
    assert scores.shape == (2,)
    if expected is not None:
        torch.testing.assert_close(scores, expected)


@pytest.mark.parametrize("kind", [GradCAM, ScoreCAM, AblationCAM])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda out: {"features": out * 2, "cls": out},
        lambda out: (out, out * 2),
        lambda out: Pair(out, out * 2),
        lambda out: Unnamed(out, out * 2),
        lambda out: (out[..., None].expand(-1, -1, 9), [out]),
        lambda out: out[None].expand(6, -1, -1),
    ],
)
def test_function_that_is_advised_gives_the_map_of_that_class(kind, wrap):
    net, batch = convolutional(), images()
    wrapped = Net(net.features, nn.Sequential(*net.tail, Wrapped(wrap))).eval()
    found = kind(wrapped, "features").explain(batch, advised(wrapped(batch)))
    three = kind(net, "features").explain(batch, lambda out: out[:, 3])
    torch.testing.assert_close(found.heatmap, three.heatmap)


def test_answer_that_looks_elsewhere_than_the_embedding_is_the_one_explained():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 2, 2, bias=False)
            self.conv.weight.data = torch.eye(3)[:2, :, None, None].expand(2, 3, 2, 2).clone()

        def forward(self, batch):
            red, green = self.conv(batch).mean((2, 3)).unbind(1)
            return {"features": torch.stack([red, red], 1), "pred": torch.stack([-green, green], 1)}

    batch = torch.zeros(1, 3, 8, 8)
    batch[0, 0, :2, :2] = batch[0, 1, 4:6, 4:6] = 1
    seen = GradCAM(Two().eval(), "conv").explain(batch)
    assert seen.target.tolist() == [1]
    assert seen.map[0].nonzero().tolist() == [[2, 2]]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            torch.zeros(4),
            r"shape \(4,\) for 1 sample: it drops the axis .* like squeeze\(\) without",
        ),
        (torch.zeros(4), r"use flatten\(1\) or squeeze\(dim\), or .* out.reshape\(-1, 4\)\[:, 3\]"),
        (
            {"scores": torch.zeros(4)},
            r"target=lambda out: out\['scores'\].reshape\(-1, 4\)\[:, 3\]",
        ),
        (torch.zeros(3, 8, 8), r"shape \(3, 8, 8\) for 1 sample: it drops the axis of samples"),
        (torch.zeros(9, 1, 5), r"are on axis 1, .* target=lambda out: out\[4, :, 3\], or let"),
    ],
)
def test_output_of_one_sample_without_its_axis(output, message):
    with pytest.raises(TargetError, match=message):
        targets.resolve(None, output, 1, (8, 8))


def test_model_that_squeezes():
    net, batch = convolutional(), images(1)
    squeezed = Net(net.features, nn.Sequential(*net.tail, Wrapped(torch.squeeze))).eval()
    with pytest.raises(TargetError, match="it drops the axis of samples if there is only one"):
        GradCAM(squeezed, "features")(batch, 1)
    for kind in (GradCAM, ScoreCAM, AblationCAM):
        found = kind(squeezed, "features")(batch, lambda out: out.reshape(-1, 4)[:, 1])
        torch.testing.assert_close(found, kind(net, "features")(batch, lambda out: out[:, 1]))
    with pytest.raises(TargetError, match=r"shape \(4,\) for 1 sample"):
        ScoreCAM(squeezed, "features", batch_size=1)(images(2), 1)


def test_token_of_a_sequence_with_samples_on_axis_1():
    steps = torch.zeros(9, 2, 5)
    for target in (None, 3, targets.Token(4)):
        with pytest.raises(TargetError, match=r"\(9, 2, 5\) for 2 samples: the samples are on"):
            targets.resolve(target, steps, 2, (8, 30))


def test_nothing_asked_of_an_embedding_beside_something_unknown():
    for output in (
        {"embedding": FLAT, "other": OTHER},
        {"features": FLAT, "map": DENSE},
        {"last_hidden_state": TOKENS, "score_map": DENSE},
        (TOKENS, FLAT),
    ):
        with pytest.raises(TargetError, match="cannot find the class scores"):
            targets.resolve(None, output, 2, (8, 8))
        if not isinstance(output, tuple):
            assert targets.resolve(targets.Similarity(), output, 2, (8, 8)).resolved
    several = {"image_features": FLAT, "text_features": OTHER, "logit_scale": torch.tensor(1.0)}
    assert isinstance(targets.resolve(None, several, 2, (8, 8)), targets.Similarity)
