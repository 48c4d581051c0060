"""The map that the measurements recommend for the model at hand, in one call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Unpack

from torch import Tensor, nn

from camlib import maps
from camlib.methods.gradient import element_wise, mean_gradient
from camlib.methods.layer import LayerMethod, Weights
from camlib.methods.options import LayerOptions
from camlib.nested import tensors_in
from camlib.options import checked
from camlib.passes.forward import Pass
from camlib.passes.inputs import ModelInputs
from camlib.passes.names import Layers
from camlib.results import Explanation
from camlib.targets import TargetLike

__all__ = ["explain"]

SIGNED = 0.1
"""A layer is signed if negative values have more than this share of its energy."""


@checked
def explain(
    model: nn.Module,
    inputs: ModelInputs,
    target: TargetLike = None,
    *,
    layer: Layers = None,
    **options: Unpack[LayerOptions],
) -> Explanation:
    """Where the model looked, by the method that measurements recommend for it.

    The rule depends on what the layer returns and what follows it, seen in the pass that makes the
    map. It is one of three, of which `Explanation.method` names the one taken, and
    `Explanation.reason` says why:

    * `ElementWiseGradCAM` at a layer with negative values, such as tokens of a transformer or a
      linear bottleneck, where the other rules cancel evidence;
    * `HiResCAM` for a model that answers at every place, as in segmentation;
    * `GradCAM` otherwise, as no other method of one pass is better in every column of
      `docs/evidence.md`.

    A call finds the layer anew. Build a method once to explain many batches.

    Args:
        model: see `LayerMethod`.
        inputs: see `Method.__call__`.
        target: see `Method.__call__`.
        layer: see `LayerMethod`.
        options: of `LayerMethod`.

    Returns:
        What the method returns, with the reason.

    Raises:
        CamlibError: the inputs, the target or the layer do not fit the model; see the message.

    Example:
        >>> seen = camlib.explain(model, images)
        >>> seen.method, seen.layers, seen.reason
    """
    method = Recommended(model, layer, **options)
    return method.named(method.explain(inputs, target))


class Recommended(LayerMethod):
    """Chooses one of three rules in the pass.

    Attributes:
        rule: the class of the method that has the rule.
        reason: why this one.
    """

    cost = "1 forward, 1 backward of what follows the layer"
    rule: str
    reason: str

    def named(self, seen: Explanation) -> Explanation:
        """What the last call returned, with the rule that it took and the reason."""
        return replace(seen, method=self.rule, reason=self.reason)

    def signed_maps(self, run: Pass) -> list[Tensor]:
        """The activations, weighted by the rule that fits the first layer."""
        activations = self.activations(run)
        weigh = self._rule(activations[0], run.output, len(run.inputs.size))
        return self._weighted(run, activations, weigh)

    def _rule(self, activation: Tensor, output: Any, axes: int) -> Weights:
        """The weights, from the activation of the layer and the output of the model."""
        energy = maps.precise(activation.detach()).square()
        below = energy.where(activation < 0, 0).sum() / energy.sum().clamp(min=1e-30)
        if below > SIGNED:
            self.rule = "ElementWiseGradCAM"
            self.reason = (
                f"negative values have {float(below):.0%} of the layer's energy, where other rules "
                "cancel evidence"
            )
            return element_wise
        if any(each.ndim == axes + 2 for each in tensors_in(output)):
            self.rule = "HiResCAM"
            self.reason = "the model answers at every place, and a mean gradient leaves the place"
            return lambda _, gradient: gradient
        self.rule = "GradCAM"
        self.reason = "no other method of one pass is better by every measure"
        return mean_gradient
