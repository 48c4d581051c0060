"""Which calls of attention make a map, in which modules they run, and which tokens are patches."""

from __future__ import annotations

import pytest
import torch
from nets import Net, images, pooled, transformer
from snapshot import snapshot
from torch import Tensor, nn

from camlib import AttentionRollout, GradientRollout, LeGrad, ModelError, layouts
from camlib.methods.attention_blocks import Blocks, blocks_of
from camlib.passes.inputs import Inputs

KINDS = [AttentionRollout, GradientRollout, LeGrad]
TOKENS = layouts.Tokens(prefix=1, grid=(4, 4))
WHOLE = ((0.0, 1.0), (0.0, 1.0))


def blocks(net, batch=None):
    return blocks_of(net, Inputs.of(images() if batch is None else batch))


@pytest.mark.parametrize("how", ["module", "fused", "written"])
def test_blocks_are_the_largest_modules_that_run_one_attention(how):
    net = transformer(how=how, depth=3)
    before = snapshot(net)
    found = blocks(net)
    assert snapshot(net) == before
    names = ("features.2", "features.3", "features.4")
    assert found == Blocks((0, 1, 2), None, names, TOKENS, WHOLE)
    net.features[3] = nn.Sequential(nn.Identity(), net.features[3])
    assert blocks(net).names == names


def test_the_only_block_returns_tokens():
    class Encoder(nn.Module):
        def __init__(self, base: Net) -> None:
            super().__init__()
            self.body, self.norm = base.features, nn.LayerNorm(8)

        def forward(self, batch: Tensor) -> Tensor:
            return self.norm(self.body(batch))[:, 0]

    base = transformer(depth=1)
    assert blocks(Net(Encoder(base), base.tail[1:]).eval()).names == ("features.body",)


def test_one_sample_and_as_many_samples_as_tokens():
    for count in (1, 17):
        assert blocks(transformer(), images(count)).layout == TOKENS


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("size", [(8,), (8, 6), (4, 8, 6)])
def test_tokens_of_series_images_and_volumes(size, first):
    net = transformer(axes=len(size), first=first)
    layout = blocks(net, images(2, *size)).layout
    length = first + torch.Size(s // 2 for s in size).numel()
    assert layout.grid_of((2, length, 8)) == tuple(s // 2 for s in size)
    assert getattr(layout, "prefix", 0) == first


class Both(nn.Module):
    """An image compared with texts, as CLIP does it, with a transformer for each."""

    def __init__(self, *, texts_first: bool) -> None:
        super().__init__()
        self.seeing, self.reading = transformer(), transformer(seed=1, axes=1)
        self.texts_first = texts_first

    def forward(self, pixels: Tensor, texts: Tensor) -> Tensor:
        if self.texts_first:
            texts = self.reading(texts)
        scores = self.seeing(pixels)
        return scores @ (texts if self.texts_first else self.reading(texts)).mT


@pytest.mark.parametrize("texts_first", [True, False])
def test_attention_to_texts_is_left_out(texts_first):
    net, texts = Both(texts_first=texts_first).eval(), images(2, 34)  # 17 tokens too
    found = blocks(net, (images(), texts))
    assert found.calls == ((2, 3) if texts_first else (0, 1))
    assert found.names == ("seeing.features.2", "seeing.features.3")
    vectors = net.reading(texts).detach()
    for kind in KINDS:
        seen = kind(net, image="pixels")((images(), texts), 1)
        alone = kind(net.seeing)(images(), lambda scores: (scores @ vectors.mT)[:, 1])
        torch.testing.assert_close(seen, alone)


class Windows(nn.Module):
    """Attention within the rows of the grid."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, tokens: Tensor) -> Tensor:
        rows = tokens.unflatten(1, (4, 4)).flatten(0, 1)
        return self.inner(rows).unflatten(0, (-1, 4)).flatten(1, 2)


class Repeated(nn.Module):
    """Attention of several copies of each sample."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, tokens: Tensor) -> Tensor:
        return self.inner(tokens.repeat_interleave(3, 0))[::3]


class Coarse(nn.Module):
    """Attention to every second token."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.attention(tokens, tokens[:, ::2], tokens[:, ::2])[0]


class Merging(nn.Module):
    """Every second token."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, ::2]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("change", "shapes"),
    [
        (lambda one, two: [Windows(one), Windows(two)], "(8, 2, 4, 4)"),
        (lambda one, two: [Windows(one), two], "(8, 2, 4, 4), (2, 2, 16, 16)"),
        (lambda one, two: [Repeated(one), two], "(6, 2, 16, 16), (2, 2, 16, 16)"),
        (lambda one, two: [Coarse(), two], "(2, 2, 16, 8), (2, 2, 16, 16)"),
        (lambda one, two: [one, Merging(), two], "(2, 2, 16, 16), (2, 2, 8, 8)"),
        (lambda one, two: [Coarse(), Coarse()], "(2, 2, 16, 8)"),
    ],
    ids=["windows", "windows and all", "copies", "coarse and all", "merged", "coarse"],
)
def test_other_attention_is_refused(kind, change, shapes):
    base = transformer(first=False)
    net = Net(nn.Sequential(*base.features[:2], *change(*base.features[2:])), base.tail).eval()
    before = snapshot(net)
    with pytest.raises(ModelError) as caught:
        kind(net)(images())
    assert str(caught.value) == (
        f"Net has attention of shapes {shapes}; expected (samples, heads, tokens, tokens) in every "
        "block, from all patches to all patches, as in ViT, DeiT or CLIP; use GradCAM, which reads "
        "the tokens of any layer"
    )
    assert snapshot(net) == before


@pytest.mark.parametrize("kind", KINDS)
def test_network_without_attention_is_refused(kind):
    with pytest.raises(ModelError, match=r"Net has no attention; expected \(samples, heads, "):
        kind(pooled())(images())


def test_rows_that_are_followed():
    def queries(read, layout=TOKENS, pooling=None):
        found = Blocks((0,), pooling, (), layout).queries(torch.tensor(read, dtype=torch.bool))
        return found.int().tolist()

    two = layouts.Tokens(prefix=2, grid=(1, 2))
    assert queries([1, 0, 0, 0], two) == [1, 0, 0, 0]
    assert queries([1, 1, 0, 0], two) == [1, 1, 0, 0]
    assert queries([1, 0, 1, 1], two) == [1, 0, 0, 0]
    assert queries([0, 0, 1, 1], two) == [0, 0, 1, 1]
    assert queries([0, 0, 0, 0], two) == [1, 0, 0, 0]
    assert queries([0, 0, 0], layouts.ChannelsLast()) == [1, 1, 1]
    assert queries([1, 1], two, pooling=1) == [1, 1]
    assert queries([0, 0], two, pooling=1) == [1, 1]
