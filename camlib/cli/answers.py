"""What a network answers for a photo, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any

from torch import Tensor

from camlib import (
    ISCAM,
    SSCAM,
    Explanation,
    InputError,
    Method,
    PixelMethod,
    SmoothFullGrad,
    SmoothGrad,
)
from camlib.cli.arguments import method_named, name_of
from camlib.cli.asked import Question, scores_of
from camlib.cli.terminal import bar
from camlib.integrations.network import Network
from camlib.methods.recommended import Recommended
from camlib.visual import Photos, overlay, to_image

if TYPE_CHECKING:
    from camlib.targets import TargetLike


@dataclass(frozen=True)
class Maps:
    """What one method finds for ``K`` classes, on the CPU.

    Attributes:
        heatmaps: ``(K, H, W)`` in [0, 1], or attributions ``(K, C, H, W)``.
        raw: ``(K, h, w)`` at the layer's grid, in units of the score, or the attributions.
        scores: ``(K,)``, what the method explains; NaN where it asks for no class.
        layers: dotted names.
        method: the class of the method.
        reason: why this method was taken, where none was asked for.
    """

    heatmaps: Tensor
    raw: Tensor
    scores: Tensor
    layers: tuple[str, ...]
    method: str
    reason: str = ""

    def over(self, picture: Tensor) -> Tensor:
        """Each heatmap over `picture`, or each attribution made visible: ``(K, 3, H, W)``."""
        if self.heatmaps.ndim == 4:
            return to_image(self.heatmaps)
        return overlay(picture.expand(len(self.heatmaps), -1, -1, -1), self.heatmaps)

    def on(self, photo: Photos, **options: Any) -> Any:
        """The first heatmap over `photo`, or the attribution of what the network saw."""
        if self.heatmaps.ndim == 4:
            return to_image(self.heatmaps[0])
        drawn: Any = photo
        return overlay(drawn, self.heatmaps[:1], **options)


@dataclass(frozen=True)
class Answer:
    """What a network answers for a photo.

    Attributes:
        scores: of all classes, ``(classes,)``.
        chances: their probabilities.
        best: the predicted class.
        classes: what is explained, by index; ``None`` for the last of three, the first less the
            second.
        maps: by the name of the method.
    """

    scores: Tensor
    chances: Tensor
    best: int
    classes: Sequence[int | None]
    maps: Mapping[str, Maps]


def built(
    kind: type[Method], network: Network, layers: Sequence[str], *, quick: bool = False
) -> Method:
    """A method for `network`, at `layers` if it has any; if `quick`, with few masks and noise."""
    construct: Any = kind
    options: dict[str, Any] = {}
    known = _options(kind)
    # Deconvnet is one of pixels: at a layer it would start from a unit, not from a class.
    if "layer" in known and not issubclass(kind, PixelMethod):
        options["layer"] = list(layers) or None
    if "progress" in known:
        options["progress"] = bar(kind.__name__, stays=False)
    if "masks" in known and quick:
        options["masks"] = 300
    if issubclass(kind, SSCAM | ISCAM) and quick:
        options["samples"] = 4
    if issubclass(kind, SmoothGrad | SmoothFullGrad) and quick:
        options["sigma"] = 0.05  # more leads a small network astray
    method: Method = construct(network.model, **options)
    return method


def answered(
    network: Network, methods: Mapping[str, Method], inputs: Any, question: Question
) -> Answer:
    """What `network` answers for `inputs`, one photo, and what each method finds in it.

    The first method's own pass also gives the answer and settles the classes; each further method
    runs its own. A method without a name is called by the one that it takes.

    Raises:
        CamlibError: a method does not fit the network, or the question its output.
    """
    found: dict[str, Maps] = {}
    scores: Tensor | None = None
    for name, method in methods.items():
        target = question.target(method, several=network.several)
        maps, output = maps_of(network, method, inputs, target)
        found[name or name_of(method_named(maps.method))] = maps
        if scores is None:
            scores = scores_of(output)
            best = _best(output)
            # What the first method was asked is asked of all others.
            classes = _classes(question, scores, best)
    assert scores is not None, "there is a method"
    if network.classes and len(network.classes) != len(scores):
        raise InputError(
            f"there are names for {len(network.classes)} classes, but the network has "
            f"{len(scores)}; expected a name for each"
        )
    return Answer(scores, network.probabilities(scores), best, classes, found)


def maps_of(network: Network, method: Method, inputs: Any, target: TargetLike) -> tuple[Maps, Any]:
    """What `method` finds in `inputs`, one photo, for `target`; and the model's output.

    Raises:
        CamlibError: the method does not fit the network.
    """
    if isinstance(target, list):
        target = Question(tuple(target)).target(method, several=network.several)
    seen: Explanation = method.explain(inputs, target)
    if isinstance(method, Recommended):
        seen = method.named(seen)
    scores = seen.score[0].detach().float().cpu()
    heatmaps, raw = seen.heatmap[0].cpu(), seen.map[0].cpu()
    return Maps(heatmaps, raw, scores, seen.layers, seen.method, seen.reason), seen.output


def _best(output: Any) -> int:
    from camlib.targets import TopK

    return int(TopK(1).resolve(output, 1, ()).classes)


def _classes(question: Question, scores: Tensor, best: int) -> list[int | None]:
    """The rows of the maps, as the target has them."""
    if question.expected is not None:
        return [best, *([] if best == question.expected else [question.expected, None])]
    if question.classes:
        return list(question.classes)
    return [int(each) for each in scores.topk(min(question.top, len(scores))).indices]


def _options(kind: type[Method]) -> set[str]:
    """The names of what `kind` and the families above it take."""
    families = [each for each in kind.__mro__ if issubclass(each, Method)]
    return {name for each in families for name in signature(each).parameters}
