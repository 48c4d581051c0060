"""Gradients at many points between an input and a baseline, at its pixels or at a layer."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from camlib import maps
from camlib.draws import Draws
from camlib.errors import InputError
from camlib.methods.changed_inputs import (
    Rule,
    View,
    averaged,
    beside,
    check_rule,
    drawn,
    on_the_way,
)
from camlib.methods.gradient import mean_gradient
from camlib.methods.layer import LayerMethod
from camlib.methods.options import CallingOptions, LayerOptions
from camlib.methods.pixel import PixelMethod, warn_if_incomplete
from camlib.options import Count, Seed, checked
from camlib.passes.forward import Pass, input_gradients, scores_at
from camlib.passes.inputs import Inputs
from camlib.passes.names import Layers
from camlib.targets import Target

__all__ = ["ExpectedGradients", "IntegratedGradCAM", "IntegratedGradients"]


class IntegratedGradients(PixelMethod):
    """Integrated gradients: ``(x - x') * integral_0^1 dy_c(x' + a (x - x')) / dx da``.

    Sundararajan, Taly and Yan, ICML 2017, arXiv:1703.01365. The attribution sums to what the score
    gains from the baseline ``x'`` to ``x``; a sum that misses it by more than 5 % is warned of, and
    more `steps` are the remedy. The integral is taken by the Gauss-Legendre rule unless told. It
    answers "how much", with a baseline that means "nothing". Weakness: it is sensitive to that
    choice. What equals the baseline gets nothing, and the network does not know pictures like those
    on the way.

    Args:
        baseline: a number, or a tensor that broadcasts to the images.
        steps: points of the rule.
        rule: how the integral is taken: ``"gauss_legendre"``, or over equal steps ``"left"``,
            ``"right"``, ``"middle"`` or ``"trapezoid"``.
        multiply: with ``False``, the integral alone, not times ``x - x'``.
        batch_size: how many images the model sees at once; bounds the memory.

    Raises:
        InputError: in a call, `baseline` does not fit.
    """

    name = "integrated_gradients"
    cost = "2 forward, 1 forward and backward for each of 50 steps"

    @checked
    def __init__(
        self,
        model: nn.Module,
        *,
        baseline: Tensor | float = 0.0,
        steps: Count = 50,
        rule: Rule = "gauss_legendre",
        multiply: bool = True,
        batch_size: Count = 32,
        **options: Unpack[CallingOptions],
    ) -> None:
        super().__init__(model, **options)
        check_rule(rule, steps)
        self.rule: Rule = rule
        self.multiply = multiply
        self.baseline = baseline
        self.steps = steps
        self.batch_size = batch_size

    def _accompanied(self, given: Inputs) -> Inputs:
        return given.accompanied("baseline", self.baseline)

    def attributed(self, model: nn.Module, given: Inputs, target: Any) -> tuple[Pass, Tensor]:
        """The clean pass and the mean over the points."""
        run = self.clean(model, given, target)
        start, points = on_the_way(run, self.steps, self.batch_size, self.rule)
        [mean] = averaged(run, points, _gradients(run))
        if not self.multiply:
            return run, mean
        attribution = mean * (maps.precise(given.image) - start)[:, None]
        samples = torch.arange(len(given), device=start.device)
        with torch.no_grad():
            before = scores_at(run, samples, start.to(given.image.dtype))
        score = maps.precise(run.scores)
        warn_if_incomplete(
            run,
            attribution.flatten(2).sum(2),
            attribution.flatten(2).abs().sum(2) + score.abs(),
            score - before,
            f"integrated gradients with steps={self.steps} miss {{}} of what the score gains from "
            "the baseline; use more steps",
        )
        return run, attribution


class ExpectedGradients(PixelMethod):
    """Expected gradients: ``mean_s (x - x'_s) * dy_c(x'_s + a_s (x - x'_s)) / dx``.

    Erion et al., Nature Machine Intelligence 2021, arXiv:1906.10670. Integrated gradients averaged
    over baselines, one drawn for each sample together with ``a``, uniform in [0, 1]; complete in
    expectation, with the mean score of the baselines. Pass images of the training set: no single
    picture has to mean "nothing". Weakness: its variance is high, so use many samples.

    Args:
        baselines: images ``(B, C, H, W)`` to draw from; by default one of zeros.
        samples: how many draws, the same for all images.
        multiply: with ``False``, the mean gradient alone, not times ``x - x'``.
        seed: of the draws.
        batch_size: how many images the model sees at once; bounds the memory.

    Raises:
        InputError: in a call, `baselines` do not fit.
    """

    name = "expected_gradients"
    cost = "1 forward, 1 forward and backward for each of 50 samples"

    @checked
    def __init__(
        self,
        model: nn.Module,
        *,
        baselines: Tensor | None = None,
        samples: Count = 50,
        multiply: bool = True,
        seed: Seed = 0,
        batch_size: Count = 32,
        **options: Unpack[CallingOptions],
    ) -> None:
        super().__init__(model, **options)
        self.baselines = baselines
        self.samples = samples
        self.multiply = multiply
        self.seed = seed
        self.batch_size = batch_size

    def attributed(self, model: nn.Module, given: Inputs, target: Any) -> tuple[Pass, Tensor]:
        """The clean pass and the mean over the points."""
        image = maps.precise(given.image)
        baselines = torch.zeros_like(image[:1])
        if self.baselines is not None:
            baselines = self.baselines.detach().to(image)
        if baselines.shape[1:] != image.shape[1:] or not len(baselines):
            raise InputError(
                f"baselines of shape {tuple(baselines.shape)} do not fit images of shape "
                f"{tuple(image.shape)}; pass (B, {', '.join(map(str, image.shape[1:]))})"
            )
        draws = Draws(self.seed)
        chosen = draws.numbers(len(baselines), self.samples)
        places = draws.uniform(self.samples).to(image)
        starts = baselines[chosen.to(image.device)]
        run = self.clean(model, given, target)

        def points() -> Iterator[View]:
            for draws, which in drawn(run, self.samples, self.batch_size):
                way = image[which] - starts[draws]
                point = starts[draws] + beside(places[draws], image) * way
                share = way[:, None] if self.multiply else torch.ones_like(way[:, None])
                back = functools.partial(torch.mul, share / self.samples)
                yield View(which, point, back)

        [attribution] = averaged(run, points(), _gradients(run))
        return run, attribution


class IntegratedGradCAM(LayerMethod):
    """Integrated Grad-CAM: Grad-CAM of what the layer gains, on the way from a baseline.

    ``integral_0^1 relu(sum_k mean_i(G_ki) (A_k - A'_k)) da``, with ``G`` and ``A`` at
    ``x' + a (x - x')`` and ``A'`` at ``x'``. Sattarzadeh et al., ICASSP 2021, arXiv:2102.07805. The
    ReLU stands inside the integral, so ``relu=False`` has no effect; for a target whose sign says
    as much it is left out. The authors' code leaves out ``A'`` and sums 50 equal steps; here the
    integral is taken by the Gauss-Legendre rule unless told. Use it for saturated scores, whose
    gradient at the input itself is small. Weakness: it is sensitive to the baseline, like
    `IntegratedGradients`.

    Args:
        baseline: a number, or a tensor that broadcasts to the images.
        steps: points of the rule.
        rule: how the integral is taken: ``"gauss_legendre"``, or over equal steps ``"left"``,
            ``"right"``, ``"middle"`` or ``"trapezoid"``.
        batch_size: how many images the model sees at once; bounds the memory.
        eigen_smooth: the first principal component of the ``w_k A_k`` over positions in place of
            their sum, with the sign that makes its largest value positive: less noise, and no unit
            of the score.

    Raises:
        InputError: in a call, `baseline` does not fit.
    """

    name = "integrated_grad_cam"
    cost = "2 forward, 1 forward and backward of what follows the layer for each of 50 steps"

    @checked
    def __init__(
        self,
        model: nn.Module,
        layer: Layers = None,
        *,
        baseline: Tensor | float = 0.0,
        steps: Count = 50,
        rule: Rule = "gauss_legendre",
        batch_size: Count = 32,
        eigen_smooth: bool = False,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(model, layer, **options)
        self.eigen_smooth = eigen_smooth
        check_rule(rule, steps)
        self.rule: Rule = rule
        self.baseline = baseline
        self.steps = steps
        self.batch_size = batch_size

    def _accompanied(self, given: Inputs) -> Inputs:
        return given.accompanied("baseline", self.baseline)

    def signed_maps(self, run: Pass) -> list[Tensor]:
        """The integral, by the rule, of the rectified maps on the way from the baseline."""
        layers, image = run.seen.names, run.inputs.image
        start, points = on_the_way(run, self.steps, self.batch_size, self.rule)
        blank = run.inputs.with_image(start.to(image.dtype))
        first, before = self._from(layers, run.model, blank, run.target, read=self.activations)
        run.seen.windows |= first.seen.windows

        def read(samples: Tensor, inputs: Inputs, target: Target) -> list[Tensor]:
            def gained(again: Pass) -> list[Tensor]:
                now = self.activations(again)
                gains = [a - b[samples.to(b.device)] for a, b in zip(now, before, strict=True)]
                weighted = self._weighted(
                    again, gains, mean_gradient, eigen_smooth=self.eigen_smooth
                )
                return weighted if target.signed else [each.relu() for each in weighted]

            return self._from(layers, run.model, inputs, target, read=gained)[1]

        return averaged(run, points, read)


def _gradients(run: Pass) -> Any:
    """Reads the gradient of each score at the image, ``(M, K, C, *size)``."""

    def read(_: Tensor, inputs: Inputs, target: Target) -> list[Tensor]:
        return [input_gradients(run.model, inputs, target)[1]]

    return read
