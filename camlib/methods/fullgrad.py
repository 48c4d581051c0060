"""FullGrad: the score as a sum over the input and every bias of the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camlib import maps
from camlib.methods.pixel import PixelMethod, warn_if_incomplete
from camlib.options import checked
from camlib.passes.forward import Pass
from camlib.passes.inputs import Inputs
from camlib.state.ambient import FunctionMode
from camlib.state.undoing import Called
from camlib.targets import Target

__all__ = ["FullGrad"]


class FullGrad(PixelMethod):
    """FullGrad: input times gradient and bias times gradient, one map of both.

    ``y_c = x dy_c / dx + sum_l b_l dy_c / dz_l``, with ``z_l`` what the layer of bias ``b_l``
    returns. Srinivas and Fleuret, NeurIPS 2019, arXiv:1905.00780. The map is the sum of
    ``psi`` over input, convolutions and batch norms: absolute value, scaled to [0, 1] over all
    channels jointly, resized, summed over channels. Biases of linear layers have no places and are
    left out of it. Corners are not aligned in resizing, unlike in the authors' code.

    The sum holds for networks of linear layers, ReLU, max-pooling and batch norm in evaluation
    mode, whichever way the layers are called; `terms` are its parts. A network or a target that
    bends it (GELU, attention, a probability) is warned of, beyond 5 %. Good at finding the object;
    weak at telling classes apart, as most of the map is the same for all.
    """

    name = "full_grad"
    cost = "1 forward, 1 backward"

    scaled = True

    def terms(self, inputs: Any, target: Any = None) -> list[Tensor]:
        """What the score is the sum of, all of it signed.

        Args:
            inputs: as in a call.
            target: as in a call.

        Returns:
            Input times gradient ``(N, C, H, W)``, then bias times gradient for every bias in the
            order in which they are used, ``(N, ...)`` as the layer's output; ``(N, K, ...)`` for
            several classes a sample.
        """
        with Called(), self._prepared(inputs) as (model, given):
            run, _, chunks = self._decomposed(model, given, target)
            terms = [torch.cat(parts).movedim(0, 1) for parts in zip(*chunks, strict=True)]
        return terms if run.shape else [term.squeeze(1) for term in terms]

    def attributed(self, model: nn.Module, given: Inputs, target: Any) -> tuple[Pass, Tensor]:
        """The clean pass and the map, made of a few classes at a time."""
        run, biases, chunks = self._decomposed(model, given, target)
        pictures, totals, sizes = [], [], []
        for terms in chunks:
            pictures.append(_picture(given, _drawn(given, biases, terms)))
            parts = [term.flatten(1) for term in terms]
            totals.append(torch.stack([part.sum(1) for part in parts]).sum(0))
            sizes.append(torch.stack([part.abs().sum(1) for part in parts]).sum(0))
        # Of the batch as a whole: layers may fold samples and frames into one axis.
        warn_if_incomplete(
            run,
            torch.cat(totals),
            torch.cat(sizes),
            maps.precise(run.scores.detach()).sum(0),
            "FullGrad does not account for {} of the score: the network has layers, or the target "
            "a form, that are not linear, ReLU or max-pooling, or biases that are added by hand; "
            "take the map as it is, or use IntegratedGradients",
        )
        return run, torch.cat(pictures).movedim(0, 1)

    def parts(self, run: Pass, inputs: Inputs, target: Target) -> tuple[Pass, list[Tensor]]:
        """A pass on changed inputs, and its terms that have places."""
        again, biases, chunks = self._decomposed(run.model, inputs, target)
        drawn = [_drawn(inputs, biases, terms) for terms in chunks]
        return again, [torch.cat(parts).movedim(0, 1) for parts in zip(*drawn, strict=True)]

    def joined(self, run: Pass, parts: list[Tensor]) -> list[Tensor]:
        """The map of terms."""
        return [_picture(run.inputs, parts)]

    def _decomposed(
        self, model: nn.Module, given: Inputs, target: Any
    ) -> tuple[Pass, list[_Bias], Iterator[list[Tensor]]]:
        """The clean pass, the biases met in it, and the terms, each ``(k, N, ...)``, in chunks."""
        given.check_read()
        met = _Biases()
        with torch.enable_grad():
            image = given.image.detach().clone().requires_grad_()
            run = Pass.of(model, given.with_image(image), target, (), "whole", met)
        places = [image, *(bias.output for bias in met.biases)]
        values = [maps.precise(given.image), *(bias.value for bias in met.biases)]
        names = ["the input", *["a bias"] * len(met.biases)]

        def chunks() -> Iterator[list[Tensor]]:
            for gradients in run.gradients(places, names, allow_unused=True):
                yield [maps.precise(g) * value for g, value in zip(gradients, values, strict=True)]

        return run, met.biases, chunks()


@dataclass(frozen=True)
class _Bias:
    """A bias in a forward pass.

    Attributes:
        output: what its layer returned.
        value: the bias, to be multiplied with the gradient there.
        drawn: whether it has places, as those of a convolution have.
    """

    output: Tensor
    value: Tensor
    drawn: bool


class _Biases(FunctionMode):
    """Finds the biases that calls in the block use, in order, whichever module they belong to."""

    @checked
    def __init__(self) -> None:
        super().__init__()
        self.biases: list[_Bias] = []

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if func is F.batch_norm:
            axis, bias = 1, _shift(*args, **(kwargs or {}))
        elif name in _CHANNELS:
            axis, bias = _CHANNELS[name], _added(*args, **(kwargs or {}))
        else:
            return result
        if bias is None or not result.requires_grad:
            return result
        shape = [1] * result.ndim
        shape[axis] = -1
        # A copy: FSDP frees what it lends to the pass.
        value = maps.precise(bias.detach().clone()).reshape(shape)
        self.biases.append(_Bias(result, value, name != "linear"))
        return result.clone()  # what follows may change it in place


_CHANNELS = {
    "linear": -1,
    **{f"conv{axes}d": -1 - axes for axes in (1, 2, 3)},
    **{f"conv_transpose{axes}d": -1 - axes for axes in (1, 2, 3)},
}
"""The axis of the channels in the result, by function."""


def _added(_input: Tensor, _weight: Tensor, bias: Tensor | None = None, *_: Any, **__: Any) -> Any:
    return bias


def _shift(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    """What batch norm adds with its running statistics; with those of the batch it is no bias."""
    if training or running_mean is None or running_var is None:
        return None
    scale = (maps.precise(running_var) + eps).rsqrt()
    shift = -maps.precise(running_mean) * (scale if weight is None else scale * weight)
    return shift if bias is None else shift + bias


def _drawn(given: Inputs, biases: list[_Bias], terms: list[Tensor]) -> list[Tensor]:
    """Those of `terms` ``(k, N, ...)`` that have places, the input's first."""
    first, *others = terms
    return [
        first,
        *(
            term
            for term, bias in zip(others, biases, strict=True)
            if bias.drawn and term.shape[1] == len(given) and term.ndim == len(given.size) + 3
        ),
    ]


def _picture(given: Inputs, terms: list[Tensor]) -> Tensor:
    """The map ``(k, N, *size)`` of `terms` ``(k, N, ...)``, the input's first."""
    first, *others = terms
    first = first.unsqueeze(2) if given.axis is None else first.movedim(1 + given.axis, 2)
    picture = _psi(first, given.size)
    for term in others:
        picture = picture + _psi(term, given.size)
    return picture


def _psi(term: Tensor, size: tuple[int, ...]) -> Tensor:
    """What the map shows of `term` ``(k, N, C, ...)``."""
    apart = term.abs().flatten(0, 1)[:, None]
    picture = maps.normalize(apart).sum(2)
    return maps.resize(picture, size).reshape(*term.shape[:2], *size)
