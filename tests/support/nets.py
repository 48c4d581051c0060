"""Small networks for the tests, with seeded, spread-out weights and batch-norm statistics."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camlib import Method

M = TypeVar("M", bound=nn.Module)


def spread(model: M, seed: int = 0) -> M:
    """`model` in evaluation mode, with weights that give maps some shape."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        for name, tensor in [
            *module.named_parameters(recurse=False),
            *module.named_buffers(recurse=False),
        ]:
            if tensor.is_floating_point():
                values = torch.randn(tensor.shape, generator=generator)
                if name in ("running_var", "weight") and tensor.ndim == 1:
                    values = 0.5 + values.abs()
                elif tensor.ndim > 1:
                    values *= (2 / tensor[0].numel()) ** 0.5
                tensor.data.copy_(values)
    return model.eval()


class Net(nn.Module):
    """``tail(features(x))``."""

    def __init__(self, features: Any, tail: Any) -> None:
        super().__init__()
        self.features = features
        self.tail = tail

    def forward(self, images: Tensor) -> Tensor:
        return self.tail(self.features(images))


class Pooling(nn.Module):
    """The mean over positions."""

    def forward(self, features: Tensor) -> Tensor:
        return features.flatten(2).mean(2)


class Functional(nn.Module):
    """A function as a module."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, features: Tensor) -> Tensor:
        return getattr(F, self.name)(features)


def features(*, in_place: bool = False, axes: int = 2, channels: int = 6) -> nn.Sequential:
    """Two convolutions, ending in a ReLU; the grid is half the input's."""
    conv = [nn.Conv1d, nn.Conv2d, nn.Conv3d][axes - 1]
    norm = [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d][axes - 1]
    return nn.Sequential(
        conv(3, 5, 3, padding=1),
        norm(5),
        nn.ReLU(inplace=in_place),
        conv(5, channels, 3, stride=2, padding=1),
        nn.ReLU(inplace=in_place),
    )


def pooled(seed: int = 0, **options: Any) -> Net:
    """A network that ends in pooling and one linear layer."""
    return spread(Net(features(**options), nn.Sequential(Pooling(), nn.Linear(6, 4))), seed)


def convolutional(seed: int = 0, **options: Any) -> Net:
    """A network whose tail has convolutions, with layers of negative values."""
    tail = nn.Sequential(
        nn.Conv2d(6, 7, 3, padding=1),
        nn.ReLU(inplace=bool(options.get("in_place"))),
        nn.MaxPool2d(2),
        nn.Conv2d(7, 7, 1),
        nn.GELU(),
        Pooling(),
        nn.Linear(7, 4),
    )
    return spread(Net(features(**options), tail), seed)


def flat(seed: int = 0, size: int = 8) -> Net:
    """A network that flattens into one linear layer."""
    tail = nn.Sequential(nn.Flatten(), nn.Linear(6 * (size // 2) ** 2, 4))
    return spread(Net(features(), tail), seed)


def rectifying(seed: int = 0, size: int = 8, *, bias: bool = True) -> Net:
    """A network of convolutions, linear layers, ReLU and max-pooling."""
    body = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1, bias=bias),
        nn.ReLU(),
        nn.Conv2d(5, 6, 3, padding=1, bias=bias),
        nn.ReLU(),
    )
    tail = nn.Sequential(
        nn.Conv2d(6, 6, 3, padding=1, bias=bias),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(6 * (size // 2) ** 2, 8, bias=bias),
        nn.ReLU(),
        nn.Linear(8, 4, bias=bias),
    )
    return spread(Net(body, tail), seed)


def linear_tail() -> Net:
    """One linear map from pixels to scores; maps of HiResCAM are linear in the pixels."""
    body = nn.Conv2d(3, 6, 3, padding=1)
    return spread(Net(body, nn.Sequential(Pooling(), nn.Linear(6, 4))))


def dense() -> Net:
    """A network that answers at every place of its grid."""
    return spread(Net(features(), nn.Conv2d(6, 4, 1)))


class Failing(torch.autograd.Function):
    """The identity, whose backward pass fails."""

    @staticmethod
    def forward(_ctx: Any, signal: Tensor) -> Tensor:
        return signal.clone()

    @staticmethod
    def backward(_ctx: Any, *_signals: Tensor) -> Tensor:
        raise RuntimeError("the model's own")


class GeneralizedRCNNTransform(nn.Module):
    """Pads at the end to a multiple of 8, and says so as torchvision's of the same name."""

    def forward(self, batch: Tensor) -> tuple[SimpleNamespace, None]:
        height, width = batch.shape[2:]
        padded = F.pad(batch, (0, -width % 8, 0, -height % 8))
        return SimpleNamespace(tensors=padded, image_sizes=[(height, width)] * len(batch)), None


class Padding(nn.Module):
    """`net` on the images, padded."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.transform, self.net = GeneralizedRCNNTransform(), net

    def forward(self, batch: Tensor) -> Tensor:
        return self.net(self.transform(batch)[0].tensors)


def padding(net: Net) -> Padding:
    """`net` behind a transform that pads."""
    return Padding(net).eval()


def images(count: int = 2, *size: int, seed: int = 1) -> Tensor:
    """Random images ``(count, 3, *size)``, 8 x 8 by default."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *(size or (8, 8)), generator=generator)


def by_hand(net: Net, batch: Tensor, layer: int, target: int) -> tuple[Tensor, Tensor]:
    """Value of ``features[layer]`` and its gradient of class `target`, everything out of place."""
    found = batch
    for module in net.features[: layer + 1]:
        found = module(found.clone())
    activation = found.detach().clone().requires_grad_()
    rest = activation
    for module in [*net.features[layer + 1 :], *net.tail]:
        rest = module(rest.clone())
    [gradient] = torch.autograd.grad(rest[:, target].sum(), activation)
    return activation.detach(), gradient


class Tokens(nn.Module):
    """The places of a grid as tokens, with one for the class before them if there is one."""

    def __init__(self, width: int, *, first: bool) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(1, 1, width)) if first else None

    def forward(self, features: Tensor) -> Tensor:
        tokens = features.flatten(2).mT
        if self.first is None:
            return tokens
        return torch.cat([self.first.expand(len(tokens), -1, -1), tokens], 1)


class Block(nn.Module):
    """A block of a transformer: attention and a perceptron, each behind a norm.

    Args:
        width: of a token.
        how: attention by ``"module"``, by ``"fused"`` or as ``"written"``, with the same weights.
    """

    def __init__(self, width: int, how: str) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.perceptron = nn.Sequential(nn.Linear(width, 12), nn.GELU(), nn.Linear(12, width))
        self.how = how

    def attend(self, tokens: Tensor) -> Tensor:
        if self.how == "module":
            return self.attention(tokens, tokens, tokens, need_weights=False)[0]
        inside = F.linear(tokens, self.attention.in_proj_weight, self.attention.in_proj_bias)
        query, key, value = inside.unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        if self.how == "fused":
            found = F.scaled_dot_product_attention(query, key, value)
        else:
            found = (query @ key.mT * key.shape[-1] ** -0.5).softmax(-1) @ value
        return self.attention.out_proj(found.transpose(1, 2).flatten(2))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attend(self.norms[0](tokens))
        return tokens + self.perceptron(self.norms[1](tokens))


class First(nn.Module):
    """The first token."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]


class Middle(nn.Module):
    """The mean of the tokens."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.mean(1)


def transformer(
    seed: int = 0, *, axes: int = 2, how: str = "module", first: bool = True, depth: int = 2
) -> Net:
    """A vision transformer with patches of 2, which answers from its class token if it has one."""
    conv = [nn.Conv1d, nn.Conv2d, nn.Conv3d][axes - 1]
    blocks = [Block(8, how) for _ in range(depth)]
    body = nn.Sequential(conv(3, 8, 2, stride=2), Tokens(8, first=first), *blocks)
    pooling = First() if first else Middle()
    return spread(Net(body, nn.Sequential(pooling, nn.LayerNorm(8), nn.Linear(8, 4))), seed)


def fitting(kind: type[Method], seed: int = 0, **options: Any) -> Net:
    """A small network that the method `kind` is for."""
    return (transformer if kind.needs_attention else pooled)(seed, **options)


def assert_slope(kind: Callable[..., Method], net: Net, batch: Tensor, sample: int) -> None:
    """The gradient of one place of the map of a `sample` at one pixel is the slope there."""
    image = batch.clone().requires_grad_()
    seen = kind(net, "features", differentiable=True, relu=False).explain(image, 1)
    [gradient] = torch.autograd.grad(seen.map[sample, 1, 1], image)
    step = torch.zeros_like(batch)
    step[sample, 1, 3, 3] = 1e-6
    plain = kind(net, "features", relu=False)
    up, down = (plain.explain(batch + sign * step, 1).map[sample, 1, 1] for sign in (1, -1))
    found = gradient[sample, 1, 3, 3]
    torch.testing.assert_close(found, (up - down) / 2e-6, rtol=1e-4, atol=1e-8)
    assert found != 0
