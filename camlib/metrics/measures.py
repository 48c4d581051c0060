"""Compute the metrics of one call with shared perturbed passes.

A metric names the perturbed images that it needs, and computes values from their scores. The images
of all metrics form one list, with each kind once, and run in chunks. So passes are shared, batches
are full, and memory is limited by the size of a chunk.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from camlib.maps import precise
from camlib.methods.calling import Calling
from camlib.metrics.given import Given
from camlib.options import checked
from camlib.passes.chunks import Chunks, Progress
from camlib.passes.forward import Pass, scores_at
from camlib.state.undoing import Called
from camlib.targets import Target
from camlib.targets.classes import Asked, asked_as


class Perturbation(ABC):
    """Perturbed images of each row; a frozen dataclass, as equal perturbations run once."""

    @abstractmethod
    def count(self, given: Given) -> int:
        """The number of images for each row."""

    @abstractmethod
    def images(self, given: Given, rows: Tensor, numbers: Tensor) -> Tensor:
        """The images ``(M, C, *size)`` of `rows` ``(M,)`` with the `numbers` ``(M,)``."""


class Measure(ABC):
    """A metric with one or more values for each heatmap.

    Args:
        score: ``"probability"`` (softmax) or ``"logit"`` of the class. Other targets, such as a
            function, stay unchanged.

    Raises:
        InputError: `score` is not known.
    """

    higher: ClassVar[bool]
    """Whether more is better."""

    @checked
    def __init__(self, score: Asked = "probability") -> None:
        self.score: Asked = score

    def check(self, given: Given) -> None:  # noqa: B027
        """Raise an error for heatmaps and scores that the metric is not defined for."""

    @abstractmethod
    def needs(self) -> tuple[tuple[Perturbation, Asked], ...]:
        """The perturbations that the metric needs, each with a kind of score."""

    @abstractmethod
    def values(self, given: Given) -> Tensor:
        """The values by row, ``(R, K, ...)``, from the scores in `given`."""


class Measuring(Calling):
    """Computes metrics of a model's maps.

    Args:
        model: any network.
        batch_size: the number of images at once; by default, as many as fit into memory.
        progress: wraps the loop over batches, such as `tqdm.tqdm`.
        options: `image`, `image_layout` and `eval`, see `Calling`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        batch_size: int | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        self.chunks = Chunks(batch_size, progress)

    def measured(
        self, images: Any, heatmaps: Tensor, target: Any, measures: Mapping[str, Measure]
    ) -> dict[str, Tensor]:
        """The values of each of `measures`, ``(N, ...)`` or ``(N, K, ...)``."""
        with Called(), self._prepared(images) as (model, inputs), torch.no_grad():
            inputs.check_read()
            run = Pass.of(model, inputs, target, (), "none")
            given = Given.of(run, heatmaps, self.chunks)
            for measure in measures.values():
                measure.check(given)
            self._run(given, measures)
            return {name: given.shaped(each.values(given)) for name, each in measures.items()}

    def _run(self, given: Given, measures: Mapping[str, Measure]) -> None:
        """Find the scores of all perturbed images that `measures` need."""
        needs = dict.fromkeys(need for measure in measures.values() for need in measure.needs())
        asked: dict[Perturbation, list[Asked]] = {}
        for perturbation, score in needs:
            asked.setdefault(perturbation, []).append(score)
        kinds: list[Asked] = list(dict.fromkeys(score for _, score in needs))
        row = list(asked)
        counts = [each.count(given) for each in row]
        items = torch.cat(
            [torch.empty(0, 3, dtype=torch.long, device="cpu")]
            + [
                torch.cartesian_prod(
                    torch.tensor([k], device="cpu"),
                    torch.arange(len(given.values), device="cpu"),
                    torch.arange(count, device="cpu"),
                )
                for k, count in enumerate(counts)
            ]
        )
        device = given.image.device
        target = _Joined([asked_as(given.run.target, kind) for kind in kinds], len(given.image))

        def scores(chunk: Tensor) -> Tensor:
            made = []
            for k, each in enumerate(row):
                own = chunk[chunk[:, 0] == k]  # images of a kind follow each other
                if len(own):
                    made.append(each.images(given, *own[:, 1:].to(device).unbind(1)))
            image = made[0] if len(made) == 1 else torch.cat(made)
            image = given.run.inputs.at_places(image.to(given.image.dtype))
            rows = chunk[:, 1].to(device)
            all_kinds = scores_at(given.run, given.samples(rows), image, target)
            by_kind = all_kinds.chunk(len(kinds), 1)
            return torch.stack([given.picked(rows, part) for part in by_kind], 1)

        chunks = [part for _, part in self.chunks.run(scores, items, given.run.inputs.image)]
        if not chunks:
            return
        lengths = [len(given.values) * count for count in counts]
        parts = torch.split(torch.cat(chunks), lengths)
        for (changed, wanted), part, count in zip(asked.items(), parts, counts, strict=True):
            for kind in wanted:
                own = part[:, kinds.index(kind)]
                given._scores[changed, kind] = own.reshape(len(given.values), count, own.shape[1])


class _Joined(Target):
    """The scores of several targets next to each other, ``(N, targets * K)``."""

    per_sample = ("samples",)

    def __init__(self, targets: list[Target], count: int) -> None:
        self.targets = targets
        self.samples = torch.arange(count, device="cpu")

    def __call__(self, output: Any) -> Tensor:
        scores = [precise(target[self.samples](output)) for target in self.targets]
        return torch.cat([each.reshape(len(self.samples), -1) for each in scores], 1)


def measured(
    measure: Measure, model: nn.Module, images: Any, heatmaps: Tensor, target: Any, **options: Any
) -> Tensor:
    """The values of one `measure`; see `Measuring` for the arguments."""
    made = Measuring(model, **options).measured(images, heatmaps, target, {"": measure})
    return made[""]
