"""Networks small enough to work out by hand; captum's own tests have the same ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camlib.targets import Target

ROWS = {"image_layout": "NL"}
"""For inputs ``(N, L)``."""


class Convolution(nn.Module):
    """Sums of 3 x 3 pixels less 50 and 75, and five of them less the other three.

    With ``last=False`` the output is not rectified.
    """

    def __init__(self, *, inplace: bool = False, last: bool = True) -> None:
        super().__init__()
        self.entry = nn.Identity()
        self.convolution = nn.Conv2d(1, 2, 3)
        self.first = nn.ReLU(inplace)
        self.last = nn.ReLU(inplace) if last else nn.Identity()
        self.linear = nn.Linear(8, 4)
        with torch.no_grad():
            self.convolution.weight.fill_(1)
            self.convolution.bias = nn.Parameter(torch.tensor([-50.0, -75.0]))
            self.linear.weight.fill_(1)[:, 5:] = -1
            self.linear.bias.fill_(0)

    def forward(self, image: Tensor, other: Tensor | None = None) -> Tensor:
        image = image if other is None else image + other
        hidden = self.first(self.convolution(self.entry(image)))
        return self.last(self.linear(hidden.flatten(1)))


class Layers(nn.Module):
    """Three numbers: their sum, less 10 once and more by 1 three times, rectified and summed.

    With ``dense=True`` the output is ``(N, 2, 2, 2)``: its multiples by 1, 2, 4 and 8.
    """

    def __init__(self, *, inplace: bool = False) -> None:
        super().__init__()
        self.zeroth, self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 4), nn.Linear(4, 2)
        self.relu = nn.ReLU(inplace)
        with torch.no_grad():
            self.zeroth.weight.copy_(torch.eye(3))
            self.zeroth.bias.fill_(0)
            self.first.weight.fill_(1)
            self.first.bias.copy_(torch.tensor([-10.0, 1.0, 1.0, 1.0]))
            self.second.weight.fill_(1)
            self.second.bias.copy_(torch.tensor([-1.0, 1.0]))

    def forward(self, values: Tensor, other: Tensor | None = None, dense: bool = False) -> Tensor:
        values = values if other is None else values + other
        output = self.second(self.relu(self.first(self.zeroth(values))))
        if not dense:
            return output
        pair = torch.stack([output, 2 * output], 2)
        return torch.stack([pair, 4 * pair], 3)


class Sum(nn.Module):
    """`Layers` of a multiple of the sum of three inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = Layers()

    def forward(self, one: Tensor, two: Tensor, three: Tensor, scale: int = 1) -> Tensor:
        return self.layers(scale * (one + two + three))


class Cut(nn.Module):
    """The output of a layer of `model`, as if the network ended there."""

    def __init__(self, model: nn.Module, layer: str) -> None:
        super().__init__()
        self.model = model
        self.layer = layer

    def forward(self, *given: Any) -> Tensor:
        kept: list[Tensor] = []
        module = self.model.get_submodule(self.layer)
        handle = module.register_forward_hook(lambda _m, _i, output: kept.append(output.clone()))
        try:
            self.model(*given)
        finally:
            handle.remove()
        return kept[0]


class Function(nn.Module):
    """A function of the columns of its input."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, values: Tensor) -> Tensor:
        return self.function(*values.unbind(1))[:, None]


class Weighted(nn.Module):
    """One column of ``relu(p relu(x - 1) - q relu(y))``; captum's with two factors and a number."""

    def forward(
        self, one: Tensor, two: Tensor, factors: Sequence[float], column: int = 0
    ) -> Tensor:
        return F.relu(factors[0] * F.relu(one - 1) - factors[1] * F.relu(two))[:, column]


class At(Target):
    """The output at a place of its own for each sample; captum passes such places as tuples."""

    per_sample = ("places",)

    def __init__(self, places: Any) -> None:
        self.places = torch.as_tensor(places)

    def __call__(self, output: Tensor) -> Tensor:
        return output[(torch.arange(len(output)), *self.places.unbind(1))]


def first(output: Tensor) -> Tensor:
    """The first number of an output ``(N, K)``."""
    return output[:, 0]


def bounded(value: Tensor) -> Tensor:
    """``min(value, 1)``."""
    return 1 - F.relu(1 - value)


TWO_RELUS = Function(lambda a, b: F.relu(F.relu(a) - 1 - F.relu(b)))
ANOTHER = Function(lambda a, b: F.relu(F.relu(a - 1) - F.relu(b)))
"""Figure 3 of the paper of integrated gradients: two networks of one function."""
