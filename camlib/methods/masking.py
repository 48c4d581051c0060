"""The loop of masked images: what the model answers when it sees parts of its input alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from camlib import maps
from camlib.passes.chunks import Chunks
from camlib.passes.forward import Pass, scores_at
from camlib.passes.inputs import Inputs
from camlib.targets.classes import Asked, asked_as

__all__ = ["Masks"]


@dataclass(frozen=True, eq=False)
class Masks:
    """Masks of the images of a batch, drawn a few at a time.

    Attributes:
        samples: which sample each mask is for, by number, ``(P,)``.
        draw: from the numbers of masks ``(M,)`` to the masks ``(M, *size)``: 1 where the image is
            seen, 0 where the background stands.
        hides: whether a weight belongs to what the mask hides, not to what it shows.
        often: what the weighted sum is divided by, such as how often each place counts.
    """

    samples: Tensor
    draw: Callable[[Tensor], Tensor]
    hides: bool = False
    often: Tensor | float = 1.0

    @classmethod
    def same_for_all(
        cls,
        inputs: Inputs,
        count: int,
        draw: Callable[[Tensor], Tensor],
        *,
        hides: bool = False,
        often: Tensor | float = 1.0,
    ) -> Masks:
        """The same `count` masks for every sample of `inputs`; see the attributes."""
        samples = torch.arange(len(inputs), device=inputs.image.device).repeat_interleave(count)
        return cls(samples, lambda numbers: draw(numbers % count), hides, often)


@dataclass(frozen=True, eq=False)
class Answers:
    """What the model answers to some masked images.

    Attributes:
        numbers: of the masks, ``(M,)``.
        masks: ``(M, *size)``.
        scores: ``(M, K)``, in float32 at least.
    """

    numbers: Tensor
    masks: Tensor
    scores: Tensor


@dataclass(frozen=True)
class Masking:
    """How masked images are run.

    Attributes:
        score: what is asked of the model.
        chunks: how many masked images it sees at once.
    """

    score: Asked
    chunks: Chunks

    def answers(self, run: Pass, masks: Masks, background: Tensor | float) -> Iterator[Answers]:
        """The answers to all of `masks`, in order, some at a time.

        Args:
            run: the clean pass.
            masks: what the model sees of the images.
            background: what it sees where a mask is zero: shaped like the image, or a number.
        """
        target, image = asked_as(run.target, self.score), run.inputs.image
        blank = not isinstance(background, Tensor) and background == 0

        def answered(numbers: Tensor) -> Answers:
            samples = masks.samples[numbers].to(image.device)
            drawn = masks.draw(numbers)
            shares = run.inputs.at_places(drawn[:, None]).to(image)
            masked = image[samples].mul_(shares)
            if not blank:
                behind = background[samples] if isinstance(background, Tensor) else background
                masked = masked + behind * (1 - shares)
            scores = scores_at(run, samples, masked, target).to(image.device)
            return Answers(numbers, drawn, scores)

        numbers = torch.arange(len(masks.samples), device=masks.samples.device)
        for _, answers in self.chunks.run(answered, numbers, image):
            yield answers

    def total(
        self,
        run: Pass,
        masks: Masks,
        background: Tensor | float,
        weigh: Callable[[Answers], tuple[Tensor, Tensor]],
    ) -> Tensor:
        """The sum of weighted areas, ``(N, K, *size)``.

        Args:
            run: the clean pass.
            masks: see `answers`.
            background: see `answers`.
            weigh: from answers to weights ``(M, K)`` and the areas ``(M, *size)`` they are for.
        """
        image = run.inputs.image
        samples = torch.arange(len(image), device=image.device)[:, None]
        total = maps.precise(image).new_zeros(len(image), run.scores.shape[1], *run.inputs.size)
        for answers in self.answers(run, masks, background):
            weights, areas = weigh(answers)
            # Each sample gets its own share of the sum; those of other samples are zero.
            own = samples == masks.samples[answers.numbers].to(image.device)
            shares = weights.T.where(own[:, None], 0).to(total.dtype)
            with torch.autocast(total.device.type, enabled=False):
                total = total + torch.einsum("nkm,m...->nk...", shares, areas.to(total))
        return total
