"""Attention worked out gives what the kernels give, and its matrix is in the graph."""

from __future__ import annotations

import pytest
import torch
from nets import images, spread, transformer
from torch import nn
from torch.nn import functional as F

from camlib.rules.attention import Attending

HOW = ["module", "fused", "written"]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10, torch.bfloat16: 2e-2}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("how", HOW)
def test_output_is_what_it_is_without(how, dtype):
    net, batch = transformer(how=how).to(dtype), images().to(dtype)
    expected = net(batch)
    for start in (None, 0, 1, 5):
        with Attending(start) as attending:
            found = net(batch)
        tolerance = TOLERANCE[dtype]
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
        assert found.dtype == dtype
        assert [call.shape for call in attending.found] == [(2, 2, 17, 17)] * 2


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("how", HOW)
def test_matrix_is_found_in_every_grad_mode(how, context):
    net, batch = transformer(how=how).double(), images().double()
    with context(), Attending() as attending:
        net(batch)
    first = net.features[2]
    tokens = first.norms[0](net.features[:2](batch))
    _, expected = first.attention(tokens, tokens, tokens, average_attn_weights=True)
    found = attending.found[0]
    assert found.matrix.shape == (2, 1, 17, 17)
    torch.testing.assert_close(found.matrix[:, 0], expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.matrix.sum(-1), torch.ones(2, 1, 17).double())


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad])
@pytest.mark.parametrize("how", HOW)
def test_gradient_at_the_matrix(how, context, frozen):
    """A step along it changes the score as it says."""
    net, batch = transformer(how=how).double(), images(1).double()
    net.requires_grad_(not frozen)
    with context(), Attending(0) as attending:
        score = net(batch)[0, 2]
    calls = attending.found
    found = torch.autograd.grad(score, [call.matrix for call in calls])
    block, norm = net.features[3], net.features[3].norms[0]
    tokens = net.features[:3](batch).detach()

    def scored(matrix):
        inside = F.linear(
            norm(tokens), block.attention.in_proj_weight, block.attention.in_proj_bias
        )
        value = inside.unflatten(-1, (3, 2, -1))[:, :, 2].transpose(1, 2)
        out = block.attention.out_proj((matrix @ value).transpose(1, 2).flatten(2))
        after = tokens + out
        return net.tail(after + block.perceptron(block.norms[1](after)))[0, 2]

    matrix = calls[1].per_head(calls[1].matrix).detach()
    torch.testing.assert_close(scored(matrix), score.detach(), rtol=1e-10, atol=1e-10)
    gradient = calls[1].per_head(found[1])
    assert gradient.shape == (1, 2, 17, 17)
    for place in [(0, 0, 0, 3), (0, 1, 0, 9), (0, 1, 5, 5)]:
        step = torch.zeros_like(matrix)
        step[place] = 1e-6
        numeric = (scored(matrix + step) - scored(matrix - step)) / 2e-6
        torch.testing.assert_close(gradient[place], numeric, rtol=1e-6, atol=1e-8)
    assert found[0].abs().sum() > 0


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": 0.3},
        {"is_causal": True},
        {"attn_mask": torch.arange(30).reshape(5, 6) % 4 > 0},
        {"attn_mask": drawn(2, 1, 5, 6, seed=3)},
        {"enable_gqa": True},
    ],
    ids=["plain", "scale", "causal", "mask", "bias", "groups"],
)
def test_every_option_of_the_fused_function(options):
    heads = 2 if "enable_gqa" in options else 4
    query = drawn(2, 4, 5, 8)
    key, value = drawn(2, heads, 6, 8, seed=1), drawn(2, heads, 6, 7, seed=2)
    expected = F.scaled_dot_product_attention(query, key, value, **options)
    with Attending() as attending:
        found = F.scaled_dot_product_attention(query, key, value, **options)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert attending.found[0].shape == (2, 4, 5, 6)


def test_dropout_of_the_fused_function():
    query = drawn(1, 1, 1, 4)
    ones = torch.ones(1, 1, 4000, 4).double()
    with torch.random.fork_rng(), Attending():
        torch.manual_seed(0)
        found = F.scaled_dot_product_attention(query, ones, ones, dropout_p=0.5)
    assert (found.mean() - 1).abs() > 1e-4
    torch.testing.assert_close(found.mean().item(), 1.0, rtol=0.1, atol=0)


def test_half_precision_does_not_overflow():
    query = torch.full((1, 1, 2, 4), 300.0).half()
    with Attending() as attending:
        found = F.scaled_dot_product_attention(query, query.flip(2) / 4, query)
    assert found.dtype == torch.float16
    assert found.isfinite().all()
    assert attending.found[0].matrix.dtype == torch.float32


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.softmax(-1),
        lambda x: x.softmax(dim=3),
        lambda x: F.softmax(x, -1),
        lambda x: F.softmax(x, dim=-1, dtype=torch.float32),
        lambda x: torch.softmax(x, 3),
        nn.Softmax(dim=-1),
    ],
)
def test_every_way_to_write_a_softmax(function):
    scores = drawn(2, 3, 4, 5)
    with Attending(0) as attending:
        found = function(scores)
        found.zero_()  # such as dropout in place
    [call] = attending.found
    assert call.shape == (2, 3, 4, 5)
    torch.testing.assert_close(call.matrix.detach(), function(scores))


@pytest.mark.parametrize(
    ("shape", "axis"), [((2, 3), -1), ((2, 3, 4, 5), 1), ((2, 4, 5), -1), ((2, 4, 4), 1)]
)
def test_other_softmax_is_no_attention(shape, axis):
    with Attending() as attending:
        drawn(*shape).softmax(axis)
    assert not attending.found


def test_one_head():
    with Attending() as attending:
        drawn(2, 4, 4).softmax(-1)
        F.scaled_dot_product_attention(*[drawn(2, 5, 3)] * 3)
    assert [call.shape for call in attending.found] == [(2, 1, 4, 4), (2, 1, 5, 5)]


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_weights_are_given_to_who_asks_for_them(average, batch):
    module = spread(nn.MultiheadAttention(8, 2, batch_first=True)).double()
    query, key = drawn(*batch, 4, 8), drawn(*batch, 6, 8, seed=1)
    expected = module(query, key, key, average_attn_weights=average)
    with Attending():
        found = module(query, key, key, average_attn_weights=average)
        plain = module(query, key, key, need_weights=False)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(plain[0], expected[0])
    assert plain[1] is None


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_fast_path_of_the_encoder(context):
    layer = spread(nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)).double()
    tokens = drawn(2, 5, 8)
    expected = layer(tokens).detach()
    with context(), Attending() as attending:
        found = layer(tokens)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert [call.shape for call in attending.found] == [(2, 2, 5, 5)]


def test_modules_that_run_attention_and_the_number_of_their_call():
    block = spread(nn.MultiheadAttention(8, 2))
    attending = Attending()

    def twice(tokens):
        for _ in range(2):
            tokens = attending.running(block, lambda t=tokens: block(t, t, t)[0])
        return tokens

    with attending:
        attending.running(nn.Identity(), lambda: twice(torch.ones(3, 1, 8)))
        block(*[torch.ones(3, 1, 8)] * 3)
    numbers = [[number for _, number in call.within] for call in attending.found]
    assert numbers == [[0, 0], [0, 1], []]
    assert attending.found[1].within[1][0] is block
