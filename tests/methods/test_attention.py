"""Attention rollout, gradient-weighted rollout and LeGrad: the papers, their identities, models."""

from __future__ import annotations

import copy

import pytest
import reference
import torch
from nets import Net, images, spread, transformer
from snapshot import snapshot
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from camlib import (
    AttentionRollout,
    CamlibWarning,
    GradientRollout,
    GraphError,
    InputError,
    LayoutError,
    LeGrad,
    ModelError,
    layouts,
    targets,
)
from camlib.methods.attention import rolled
from camlib.rules.attention import Attending

KINDS = [AttentionRollout, GradientRollout, LeGrad]
HOW = ["module", "fused", "written"]
EXACT = {"rtol": 1e-9, "atol": 1e-12}


def parts(module, prefix):
    names = {name for name, _ in module.named_parameters()}
    found = dict(module.named_parameters())
    return {name.removeprefix(prefix): found[name] for name in names if name.startswith(prefix)}


def numbers(tensors, count):
    """Lists by head, row and column from tensors, one for each entry."""
    flat = iter(tensors)
    return [[[next(flat).item() for _ in range(count)] for _ in range(count)] for _ in range(2)]


def by_hand(net, image, target, *, mean):
    """Of each block, its attention and the gradients of the score and of its own score at it."""
    tokens = net.features[:2](image[None])[0]
    count = len(tokens)
    attention, after = [], []
    for number in (2, 3):
        tokens, heads = reference.attention_of(tokens, parts(net, f"features.{number}."), 2)
        attention.append([entry for head in heads for row in head for entry in row])
        after.append(tokens)

    def slopes(score, entries):
        found = torch.autograd.grad(score, entries, retain_graph=True, materialize_grads=True)
        return numbers(found, count)

    score = net.tail(after[-1][None])[0, target]
    of_score = [slopes(score, entries) for entries in attention]
    of_own = []
    for tokens, entries in zip(after, attention, strict=True):
        seen = tokens.mean(0, keepdim=True).expand_as(tokens) if mean else tokens
        of_own.append(slopes(net.tail(seen[None])[0, target], entries))
    return [numbers(entries, count) for entries in attention], of_score, of_own


@pytest.fixture(scope="module", params=[True, False], ids=["class token", "mean"])
def first(request):
    return request.param


@pytest.fixture(scope="module", params=[True, False], ids=["mean tokens", "own tokens"])
def mean(request):
    return request.param


@pytest.fixture(scope="module")
def papers(first, mean):
    """The maps of the references, for classes 2 and 0 of two images of 4 x 6."""
    net, batch = transformer(first=first).double(), images(2, 4, 6).double()
    count = 6 + first
    found = {kind: [] for kind in KINDS}
    for image, target in zip(batch, [2, 0], strict=True):
        attention, of_score, of_own = by_hand(net, image, target, mean=mean)
        rows = [0] if first else range(count)
        rolled = reference.rollout(attention)
        relevance = reference.gradient_rollout(attention, of_score)
        for kind, matrix in ((AttentionRollout, rolled), (GradientRollout, relevance)):
            own = kind is GradientRollout  # without the identity
            found[kind].append(
                [sum(matrix[t][s] - own * (t == s) for t in rows) / len(rows) for s in range(count)]
            )
        found[LeGrad].append(reference.le_grad(of_own))
    return {
        kind: torch.tensor(maps, dtype=torch.float64)[:, first:].reshape(2, 2, 3)
        for kind, maps in found.items()
    }


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", KINDS)
def test_the_map_is_that_of_the_paper(kind, how, papers, first, mean):
    net, batch = transformer(how=how, first=first).double(), images(2, 4, 6).double()
    options = {"tokens": "mean" if mean else "own"} if kind is LeGrad else {}
    found = kind(net, **options).explain(batch, [2, 0]).map
    assert papers[kind].min() >= 0
    assert papers[kind].std() > 1e-4 * papers[kind].mean()
    torch.testing.assert_close(found, papers[kind], **EXACT)


def test_rows_of_rollout_sum_to_one():
    """C47."""
    net, batch = transformer().double(), images().double()
    with Attending() as attending:
        net(batch)
    product = torch.eye(17).double()
    for call in attending.found:
        product = rolled(call.matrix[:, 0]) @ product
    torch.testing.assert_close(product.sum(-1), torch.ones(2, 17).double(), **EXACT)
    found = AttentionRollout(net).explain(batch).map
    torch.testing.assert_close(found.flatten(1), product[:, 0, 1:], **EXACT)
    without = AttentionRollout(transformer(first=False).double()).explain(batch).map
    torch.testing.assert_close(without.sum((1, 2)), torch.ones(2).double(), **EXACT)


def test_rollout_of_attention_to_oneself_is_the_identity():
    """C47."""
    identity = torch.eye(5).expand(2, 5, 5)
    torch.testing.assert_close(rolled(rolled(identity) @ identity), identity)


@pytest.mark.parametrize("first", [True, False])
def test_without_gradient_gradient_rollout_is_zero(first):
    """C48."""
    method = GradientRollout(transformer(first=first))
    with pytest.warns(CamlibWarning, match=r"a map of GradientRollout is zero .* GradCAM reads"):
        found = method.explain(images(), lambda output: 0 * output[:, 1])
    assert not found.map.any()


def test_le_grad_is_the_same_with_a_constant_added_to_all_logits():
    """C49."""
    net, batch = transformer().double(), images().double()
    expected = LeGrad(net).explain(batch, 1).map
    net.tail[2].bias.data += 3.7
    torch.testing.assert_close(LeGrad(net).explain(batch, 1).map, expected, **EXACT)
    net.tail[2].weight.data[1] *= 2
    found = LeGrad(net).explain(batch, 1).map
    torch.testing.assert_close(found, 2 * expected, **EXACT)


def test_rollout_is_the_same_for_every_class_and_the_others_are_not():
    net, batch = transformer(), images()
    for kind in KINDS:
        found = kind(net)(batch, [[0, 1, 2]])
        same = torch.allclose(found[:, 0], found[:, 1], atol=1e-3)
        assert same == (kind is AttentionRollout)


def test_le_grad_has_a_map_for_each_block():
    seen = LeGrad(transformer(depth=3)).explain(images(), 1)
    assert seen.layers == ("features.2", "features.3", "features.4")
    torch.testing.assert_close(torch.stack(seen.maps).sum(0), seen.map)
    assert all(each.any() for each in seen.maps)
    assert seen.replayed


def test_le_grad_of_the_last_block_with_its_own_tokens_is_of_the_score():
    net, batch = transformer().double(), images().double()
    with Attending(0) as attending:
        score = net(batch)[:, 3].sum()
    call = attending.found[-1]
    gradient = call.per_head(torch.autograd.grad(score, call.matrix)[0])
    expected = gradient.relu().mean((1, 2))[:, 1:].reshape(2, 4, 4)
    found = LeGrad(net, tokens="own").explain(batch, 3)
    torch.testing.assert_close(found.maps[-1], expected, **EXACT)


def test_le_grad_where_the_model_cannot_be_run_in_part():
    class Remembering(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            self.scale = features.flatten(1).mean(1).exp()[:, None]
            return features

    class Scaled(Net):
        def forward(self, batch):
            return self.tail(self.features(batch)) * self.features[1].scale

    base, batch = transformer().double(), images().double()
    body = nn.Sequential(base.features[0], Remembering(), *base.features[1:])
    net = Scaled(body, base.tail).eval()
    scale = base.features[0](batch).flatten(1).mean(1).exp().detach()
    found = LeGrad(net).explain(batch, 1)
    assert not found.replayed
    for one, other in zip(found.maps, LeGrad(base).explain(batch, 1).maps, strict=True):
        torch.testing.assert_close(one, other * scale[:, None, None], **EXACT)


def test_block_that_runs_twice():
    base, batch = transformer().double(), images().double()
    body = nn.Sequential(*base.features[:3], base.features[2])
    net = Net(body, base.tail).eval()
    twin = Net(copy.deepcopy(body), base.tail).eval()
    twin.features[3] = copy.deepcopy(body[2])
    for kind in KINDS:
        found, expected = (kind(each).explain(batch, 1) for each in (net, twin))
        torch.testing.assert_close(found.map, expected.map, **EXACT)
    assert found.layers == ("features.2@0", "features.2@1")


@pytest.mark.parametrize("kind", KINDS)
def test_heatmap_can_stand_in_a_loss(kind):
    net = transformer(how="fused").double()
    method = kind(net, differentiable=True)
    batch = images().double().requires_grad_()
    torch.testing.assert_close(method(batch, 2).detach(), kind(net)(batch, 2))

    def loss(pixels):
        return (1e3 * method(pixels, 2, normalize=False) ** 2).sum()

    [gradient] = torch.autograd.grad(loss(batch), batch)
    step = torch.zeros_like(batch)
    step[1, 2, 3, 4] = 1e-6
    numeric = (loss(batch + step) - loss(batch - step)) / 2e-6
    torch.testing.assert_close(gradient[1, 2, 3, 4], numeric, rtol=1e-4, atol=1e-9)
    loss(images().double()).backward()
    assert net.features[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", [torch.no_grad, torch.inference_mode])
def test_backbone_under_no_grad(kind, cut):
    class Probe(Net):
        def forward(self, batch):
            with cut():
                tokens = self.features(batch)
            return self.tail(tokens.clone())

    base = transformer()
    net = Probe(base.features, base.tail).eval()
    if cut is torch.inference_mode and kind is not AttentionRollout:
        with pytest.raises(GraphError, match=r"no gradient flows|runs under inference_mode"):
            kind(net)(images(), 1)
    else:
        torch.testing.assert_close(kind(net)(images(), 1), kind(base)(images(), 1))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", KINDS)
def test_first_blocks_under_no_grad(kind, how):
    class Partly(Net):
        def forward(self, batch):
            with torch.no_grad():
                tokens = self.features[:3](batch)
            return self.tail(self.features[3](tokens))

    base, batch = transformer(how=how).double(), images().double()
    net = Partly(base.features, base.tail).eval()
    found, expected = kind(net).explain(batch, 1), kind(base).explain(batch, 1)
    torch.testing.assert_close(found.map, expected.map, **EXACT)


def test_detached_backbone_has_no_gradient():
    class Detached(Net):
        def forward(self, batch):
            return self.tail(self.features(batch).detach())

    base = transformer()
    net = Detached(base.features, base.tail).eval()
    with pytest.raises(GraphError, match="no gradient flows from the score to 'attention'"):
        GradientRollout(net)(images(), 1)
    expected = AttentionRollout(base)(images())
    torch.testing.assert_close(AttentionRollout(net)(images()), expected)


@pytest.mark.parametrize("how", HOW)
def test_no_more_is_recorded_than_needed(how):
    """Rollout needs a graph from the last attention on, the others from the first."""

    def saved(kind):
        sizes = []
        pack = lambda t: sizes.append(t.numel()) or t  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            kind(net)(images(), 1)
        return sum(sizes)

    net = transformer(how=how, depth=6)
    assert saved(AttentionRollout) < saved(GradientRollout) / 3


def test_tokens_that_the_answer_is_read_from():
    """A mean of the patches beside a class token that nothing reads, and one patch alone."""

    class Patches(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return tokens[:, 1:].mean(1)

    base, batch = transformer().double(), images().double()
    net = Net(base.features, nn.Sequential(Patches(), *base.tail[1:])).eval()
    with Attending() as attending:
        net(batch)
    one, two = (rolled(call.matrix[:, 0]) for call in attending.found)
    product = two @ one
    found = AttentionRollout(net).explain(batch).map.flatten(1)
    torch.testing.assert_close(found, product[:, 1:, 1:].mean(1), **EXACT)

    class Sixth(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return tokens[:, 6]

    net.tail[0] = Sixth()
    found = AttentionRollout(net).explain(batch).map.flatten(1)
    torch.testing.assert_close(found, product[:, 6, 1:], **EXACT)


class Pooled(nn.Module):
    """Tokens pooled by the attention of a learned one, as SigLIP does it, or the first of some."""

    def __init__(self, latents: int = 1) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.zeros(1, latents, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        probe = self.probe.expand(len(tokens), -1, -1)
        return self.attention(probe, tokens, tokens)[0][:, 0]


def test_pooling_by_attention_is_one_more_step():
    base, batch = transformer(first=False).double(), images().double()
    net = Net(base.features, nn.Sequential(Pooled(), *base.tail[1:])).eval()
    spread(net.tail[0]).double()
    with Attending(0) as attending:
        score = net(batch)[:, 1].sum()
    calls = attending.found
    assert calls[-1].shape == (2, 2, 1, 16)
    one, two, pool = (call.per_head(call.matrix).mean(1).detach() for call in calls)
    expected = (pool @ rolled(two) @ rolled(one))[:, 0]
    torch.testing.assert_close(
        AttentionRollout(net).explain(batch, 1).map.flatten(1), expected, **EXACT
    )
    slopes = torch.autograd.grad(score, [call.matrix for call in calls])
    one, two, pool = (
        (call.per_head(g) * call.per_head(call.matrix)).relu().mean(1).detach()
        for call, g in zip(calls, slopes, strict=True)
    )
    eye = torch.eye(16).double()
    expected = (pool @ (two + eye) @ (one + eye))[:, 0]
    torch.testing.assert_close(
        GradientRollout(net).explain(batch, 1).map.flatten(1), expected, **EXACT
    )
    assert LeGrad(net).explain(batch, 1).layers == ("features.2", "features.3")


@pytest.mark.parametrize("blocks", [None, 1, 2])
@pytest.mark.parametrize("latents", [1, 3])
def test_le_grad_where_attention_pools(latents, blocks):
    """As the authors' code for SigLIP and CoCa: at the pooling, over the tokens of each block."""
    base, batch = transformer(first=False, depth=3).double(), images(2, 4, 6).double()
    net = Net(base.features, nn.Sequential(Pooled(latents), *base.tail[1:])).eval()
    pool = spread(net.tail[0]).double()
    before = snapshot(net)
    found = LeGrad(net, blocks=blocks).explain(batch, [2, 0])
    assert snapshot(net) == before
    assert found.replayed
    expected = []
    for image, target in zip(batch, [2, 0], strict=True):
        tokens = net.features[:2](image[None])[0]
        total = [0.0] * 6
        for number in (2, 3, 4):
            tokens, _ = reference.attention_of(tokens, parts(net, f"features.{number}."), 2)
            if number < 5 - (blocks or 3):
                continue
            pooled, heads = reference.pooled_by_attention(
                tokens, pool.probe[0], parts(pool, "attention."), 2
            )
            score = net.tail[1:](pooled[:1])[0, target]
            for head in heads:
                slopes = torch.autograd.grad(score, head[0], retain_graph=True)
                total = [t + max(float(g), 0) / 2 for t, g in zip(total, slopes, strict=True)]
        expected.append(torch.tensor(total, dtype=torch.float64).reshape(2, 3))
    torch.testing.assert_close(found.map, torch.stack(expected), **EXACT)
    assert found.layers == tuple(f"features.{number}" for number in range(5 - (blocks or 3), 5))
    one = [LeGrad(net, blocks=blocks).explain(batch, k).map for k in (2, 0)]
    both = LeGrad(net, blocks=blocks).explain(batch, [[2, 0]]).map
    torch.testing.assert_close(both, torch.stack(one, 1), **EXACT)


def test_le_grad_of_mean_tokens_where_attention_pools_is_flat():
    """Tokens that are the same all count the same, which is why they stay what they are."""
    base, batch = transformer(first=False).double(), images().double()
    net = Net(base.features, nn.Sequential(Pooled(), *base.tail[1:])).eval()
    spread(net.tail[0]).double()
    found = LeGrad(net, tokens="mean").explain(batch, 1).map
    assert found.flatten(1).std(1).max() < 1e-12
    assert LeGrad(net, tokens="own").explain(batch, 1).map.flatten(1).std(1).min() > 1e-4
    assert torch.equal(LeGrad(net)(batch, 1), LeGrad(net, tokens="own")(batch, 1))


def test_le_grad_needs_no_graph_of_the_blocks_where_attention_pools():
    base, batch = transformer(first=False, depth=6), images()
    net = Net(base.features, nn.Sequential(Pooled(), *base.tail[1:])).eval()
    spread(net.tail[0])

    def saved(method):
        sizes = []
        pack = lambda t: sizes.append(t.numel()) or t  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            method(batch, 1)
        return sum(sizes)

    assert saved(LeGrad(net)) < saved(GradientRollout(net))
    batch = batch.double().requires_grad_()
    method = LeGrad(net.double(), differentiable=True)
    [gradient] = torch.autograd.grad(method(batch, 2, normalize=False).sum(), batch)
    assert gradient.any()
    torch.testing.assert_close(method(batch, 2).detach(), LeGrad(net)(batch, 2))


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_the_last_blocks_alone(kind, blocks):
    """``start_layer`` of Chefer et al., ``layer_index`` of LeGrad."""
    net, batch = transformer().double(), images(2, 4, 6).double()
    found = kind(net, blocks=blocks).explain(batch, [2, 0])
    if blocks == 2:
        assert torch.equal(found.map, kind(net).explain(batch, [2, 0]).map)
        return
    for n, (image, target) in enumerate(zip(batch, [2, 0], strict=True)):
        attention, of_score, of_own = by_hand(net, image, target, mean=True)
        if kind is AttentionRollout:
            row = reference.rollout(attention[1:])[0]
        elif kind is GradientRollout:
            row = reference.gradient_rollout(attention[1:], of_score[1:])[0]
        else:
            row = reference.le_grad(of_own[1:])
        expected = torch.tensor(row[1:], dtype=torch.float64).reshape(2, 3)
        torch.testing.assert_close(found.map[n], expected, **EXACT)


@pytest.mark.parametrize("discard", [0.3, 0.6])
def test_rollout_without_the_lowest_attention(discard):
    net, batch = transformer().double(), images(2, 4, 6).double()
    found = AttentionRollout(net, discard=discard).explain(batch).map
    for n, image in enumerate(batch):
        attention, _, _ = by_hand(net, image, 0, mean=False)
        kept = []
        for heads in attention:
            mean = [[sum(h[t][s] for h in heads) / len(heads) for s in range(7)] for t in range(7)]
            order = sorted((mean[t][s], t, s) for t in range(7) for s in range(7))
            for _, t, s in order[: int(49 * discard)]:
                mean[t][s] = mean[t][s] if t == s == 0 else 0.0
            kept.append([mean])
        row = reference.rollout(kept)[0]
        expected = torch.tensor(row[1:], dtype=torch.float64).reshape(2, 3)
        torch.testing.assert_close(found[n], expected, **EXACT)
    whole = AttentionRollout(net).explain(batch).map
    assert torch.equal(AttentionRollout(net, discard=0).explain(batch).map, whole)
    assert (found - whole).abs().max() > 0.01 * whole.max()


def test_attention_that_nothing_reads_counts_for_nothing():
    class Early(Net):
        def forward(self, batch):
            tokens = self.features[:3](batch)
            self.features[3](tokens)
            return self.tail(tokens)

    base = transformer().double()
    net, batch = Early(base.features, base.tail).eval(), images().double()
    short = transformer(depth=1).double()
    short.load_state_dict({k: v for k, v in base.state_dict().items() if "features.3" not in k})
    found = GradientRollout(net).explain(batch, 1).map
    torch.testing.assert_close(found, GradientRollout(short).explain(batch, 1).map, **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_one_block(kind):
    found = kind(transformer(depth=1))(images(), 1)
    assert found.shape == (2, 8, 8)
    assert found.amax() == 1


@pytest.mark.parametrize("kind", KINDS)
def test_layout_that_is_given(kind):
    net, batch = transformer(), images()
    tokens = layouts.Tokens(prefix=1, grid=(4, 4))
    turned = layouts.Tokens(prefix=1, grid=(4, 4), batch_first=False)
    expected = kind(net)(batch, 1)
    assert torch.equal(kind(net, layout=tokens)(batch, 1), expected)
    if kind is not LeGrad:
        assert torch.equal(kind(net, layout=turned)(batch, 1), expected)
    with pytest.raises(LayoutError, match=r"does not fit an activation of shape \(2, 17, 1\)"):
        kind(net, layout=layouts.Tokens(prefix=3, grid=(4, 4)))(batch, 1)


def test_tokens_before_samples():
    class Turned(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner
            self.attention = nn.MultiheadAttention(8, 2)
            self.attention.load_state_dict(inner.attention.state_dict())

        def forward(self, tokens: Tensor) -> Tensor:
            normed = self.inner.norms[0](tokens)
            tokens = tokens + self.attention(normed, normed, normed)[0]
            return tokens + self.inner.perceptron(self.inner.norms[1](tokens))

    class Swapped(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return tokens.transpose(0, 1)

    base, batch = transformer().double(), images(3).double()
    blocks = [Turned(block) for block in base.features[2:]]
    body = nn.Sequential(*base.features[:2], Swapped(), *blocks)
    net = Net(body, nn.Sequential(Swapped(), *base.tail)).eval().double()
    for kind in KINDS:
        found = kind(net).explain(batch, 1).map
        torch.testing.assert_close(found, kind(base).explain(batch, 1).map, **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_model_is_left_as_found_when_attention_fails(kind):
    net = transformer()
    method = kind(net)
    method(images(), 1)

    class Bad(nn.Module):
        def forward(self, *_: Tensor, **__: object) -> Tensor:
            raise ArithmeticError("inside")

    net.features[3].attention = Bad()
    before = snapshot(net)
    with pytest.raises(ArithmeticError, match="inside"):
        method(images(), 1)
    with pytest.raises(ArithmeticError, match="inside"):
        kind(net)(images(), 1)
    assert snapshot(net) == before


def test_recomputed_activations_are_refused():
    class Saving(nn.Module):
        def __init__(self, block: nn.Module) -> None:
            super().__init__()
            self.block = block

        def forward(self, tokens: Tensor) -> Tensor:
            return checkpoint(self.block, tokens, use_reentrant=False)

    net = transformer(how="fused")
    net.features[3] = Saving(net.features[3])
    with pytest.raises(GraphError, match=r"recomputes its activations .* the rule for attention"):
        GradientRollout(net)(images(), 1)
    assert AttentionRollout(net)(images(), 1).any()


def test_blocks_that_are_no_modules():
    class Whole(nn.Module):
        def __init__(self, base: Net) -> None:
            super().__init__()
            self.conv, self.tokens = base.features[:2]
            self.weights = nn.Parameter(base.features[2].attention.in_proj_weight.detach())
            self.head = base.tail[2]

        def forward(self, batch: Tensor) -> Tensor:
            tokens = self.tokens(self.conv(batch))
            for _ in range(2):
                query, key, value = F.linear(tokens, self.weights)[:, None].chunk(3, -1)
                tokens = tokens + F.scaled_dot_product_attention(query, key, value)[:, 0]
            return self.head(tokens[:, 0])

    net = Whole(transformer()).eval()
    assert AttentionRollout(net)(images(), 1).shape == (2, 8, 8)
    assert GradientRollout(net)(images(), 1).shape == (2, 8, 8)
    with pytest.raises(ModelError, match=r"the blocks of the model are no modules .* use Grad"):
        LeGrad(net)(images(), 1)


def test_options():
    with pytest.raises(InputError, match="tokens='all' is not known; use 'mean', 'own' or None"):
        LeGrad(transformer(), tokens="all")
    for discard in (1, -0.1, "a"):
        with pytest.raises(InputError, match=f"discard={discard!r} is .*; expected a number"):
            AttentionRollout(transformer(), discard=discard)
    for kind in KINDS:
        with pytest.raises(InputError, match="blocks=0 is out of range; expected an int"):
            kind(transformer(), blocks=0)
        with pytest.raises(InputError, match="blocks=3 asks for more than there are: the model h"):
            kind(transformer(), blocks=3)(images(), 1)
    assert repr(LeGrad(transformer())) == "LeGrad(Net)"


def test_other_targets():
    net, batch = transformer(), images()
    for kind in (GradientRollout, LeGrad):
        contrast = kind(net).explain(batch, targets.Contrast(1, 2)).map
        assert not torch.allclose(contrast, kind(net).explain(batch, 1).map)
        probable = kind(net).explain(batch, targets.Probability(1))
        assert probable.map.any()
