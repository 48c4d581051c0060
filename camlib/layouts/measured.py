"""Measure where each place of a layer looks in the input.

Noise on the image grows from 0 to 1 along an axis, then the same noise falls from 1 to 0. A place
that looks at position ``p`` of that axis changes in proportion to ``p`` in the first pass and to
``1 - p`` in the second. So ``|d1| / (|d1| + |d2|)``, with norms over channels, is the position. It
needs no gradient and no trained network. All passes are one batch of changed copies of a sample.
Its size differs from that of the clean pass, which reveals the axis of samples.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from camlib.draws import Draws
from camlib.layouts.base import Shape
from camlib.nested import activations
from camlib.passes.inputs import Inputs
from camlib.passes.running import completed
from camlib.state.hooks import hook, hook_before
from camlib.state.undoing import Undoing

ALIKE = 0.02
"""Places whose positions vary by less look at the same part of the input."""

_MOST = 1e15
"""The number that replaces infinity; its square is finite."""

FOLDED = -1
"""The number of the axis of frames or views that are folded into the axis of samples."""


@dataclass(frozen=True, eq=False)
class Looks:
    """Where the places of an activation look, for one choice of its axis of channels.

    Attributes:
        samples: the axis of samples.
        channels: the axis of channels.
        axes: the axes of places.
        positions: the position along each axis of the input, 0 to 1, ``(A, *places)``; 0.5 for a
            place that does not change.
        spread: the standard deviation of what a place looks at, along each axis, ``(A, *places)``.
        strength: how much a place changes, ``(*places)``.
        share: the largest change of a place, as a share of its value.
        apart: where the tokens of a row look without what changes in all of them, as where a
            network adds the mean over tokens to each.
    """

    samples: int
    channels: int
    axes: tuple[int, ...]
    positions: Tensor
    spread: Tensor
    strength: Tensor
    share: float
    apart: Looks | None = None

    @cached_property
    def fields(self) -> Tensor:
        """Positions, spread, strength and numbers, as the channels of a one-sample activation."""
        numbers = torch.arange(1, self.strength.numel() + 1, device=self.strength.device).to(
            self.strength
        )
        both = torch.stack([self.strength, numbers.reshape(self.strength.shape)])
        fields = torch.cat([self.positions, self.spread, both])
        axes = [self.channels, *(self.samples if a == FOLDED else a for a in self.axes)]
        if FOLDED not in self.axes:
            fields, axes = fields[None], [self.samples, *axes]
        return fields.permute(sorted(range(len(axes)), key=axes.__getitem__))

    @cached_property
    def loud(self) -> Tensor:
        """Which places change with the input, ``(*places)``."""
        return loud_places(self.strength)

    @cached_property
    def faint(self) -> Tensor:
        """Which places change a little, and may be part of a grid or not, ``(*places)``."""
        return (self.strength > 1e-3 * self.strength[self.loud].median()) & ~self.loud

    @cached_property
    def along(self) -> Tensor:
        """The correlation of positions with indices, ``(A, axes)``, over places that change.

        It pairs the position along each axis of the input with the index of the place along each
        axis of the activation.
        """
        loud = self.loud.to(self.positions)
        count = loud.sum().clamp(min=1)
        places = tuple(range(1, self.positions.ndim))
        mean = (self.positions * loud).sum(places, keepdim=True) / count
        away = (self.positions - mean) * loud
        size = away.square().sum(places).sqrt()
        correlations = []
        for axis, length in enumerate(loud.shape):
            weight = loud.movedim(axis, 0).reshape(length, -1).sum(1)
            lines = away.movedim(1 + axis, 1).reshape(len(away), length, -1).sum(2)
            numbers = torch.arange(length, device=loud.device).to(loud)
            numbers = numbers - (numbers * weight).sum() / count
            scale = size * (numbers.square() * weight).sum().sqrt()
            correlations.append(lines @ numbers / scale.clamp(min=1e-12))
        return torch.stack(correlations, 1)

    @cached_property
    def telling(self) -> bool:
        """Whether places look at different parts of the input."""
        if self.loud.sum() < 2:
            return False
        varied = self.positions[:, self.loud].var(1)
        spread = self.spread[:, self.loud].square().mean(1)
        return bool(((varied > ALIKE**2) & (varied > 2 * spread)).any())


def loud_places(strength: Tensor) -> Tensor:
    """Which places change with the input, given how much each changes."""
    changed = strength[strength > 1e-3 * strength.max()]
    return strength > (0.1 * changed.median() if len(changed) else torch.inf)


class Measured:
    """The measurement of a layer's output.

    Attributes:
        samples: the axis of samples.
        frames: the number of frames or views of a sample folded into that axis.
        axes: the other axes, which may hold channels or places.
    """

    def __init__(self, tensor: Tensor, samples: int, frames: int, clean: int) -> None:
        """Compare the output for noisy samples with that for the clean sample.

        Args:
            tensor: the output for `clean` copies of the clean sample, then for noisy ones.
            samples: the axis of samples.
            frames: the number of frames of a sample folded into that axis.
            clean: the number of clean copies.
        """
        self.samples, self.frames = samples, frames
        self.axes = tuple(axis for axis in range(tensor.ndim) if axis != samples)
        rows = tensor.detach().movedim(samples, 0)
        rows = rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows
        if frames > 1:
            rows = rows.reshape(-1, frames, *rows.shape[1:])
            self.axes = FOLDED, *self.axes
        if not rows.sum().isfinite():
            rows = torch.nan_to_num(rows, 0, _MOST, -_MOST).clamp(-_MOST, _MOST)
        self._whole, self._changes = rows[:1], rows[clean:] - rows[:1]
        self._looks: dict[int, Looks] = {}

    @property
    def looks(self) -> Iterator[Looks]:
        """Where the places look, for each axis that may hold channels."""
        return (self.look(axis) for axis in self.axes if axis != FOLDED and len(self.axes) > 1)

    @property
    def still(self) -> bool:
        """Whether nothing changes with the input."""
        return not self._changes.any()

    def look(self, channels: int) -> Looks:
        """Where the places look if `channels` is the axis of channels."""
        if channels not in self._looks:
            self._looks[channels] = self._look(channels)
        return self._looks[channels]

    def _look(self, channels: int) -> Looks:
        places = tuple(axis for axis in self.axes if axis != channels)
        look = self._look_of(self._changes, channels, places)
        if len(places) > 1 or FOLDED in places:
            return look
        common = self._changes.mean(1 + self.axes.index(places[0]), keepdim=True)
        return replace(look, apart=self._look_of(self._changes - common, channels, places))

    def _look_of(self, changes: Tensor, channels: int, places: tuple[int, ...]) -> Looks:
        """Where `places` look, for the `changes` of an activation ``(2 A, *axes)``."""

        def norms(values: Tensor) -> Tensor:
            found: Tensor = torch.linalg.vector_norm(values, dim=1 + self.axes.index(channels))
            return found.double()

        changed, even = norms(changes), norms(changes[::2] + changes[1::2])
        size = norms(self._whole)[0]
        up, down = changed[::2], changed[1::2]
        total = up + down
        mean = (1 + (up.square() - down.square()) / even.square()) / 2
        spread = ((up / even).square() - mean.square()).clamp(min=0).sqrt()
        strength = total.sum(0)
        return Looks(
            samples=self.samples,
            channels=channels,
            axes=places,
            positions=(up / total).where(total > 0, 0.5),
            spread=spread.where(even > 0, 1),
            strength=strength,
            share=float((strength / size.where(size > 0, 1)).max()),
        )


def measure(
    model: nn.Module,
    given: Inputs,
    sample: int,
    shapes: Mapping[str, Shape],
    begin: Callable[[], Callable[[str, Measured], None]],
    strength: float = 1.0,
) -> None:
    """Measure where the places of layers look in one sample of an input.

    Args:
        model: the model, ready for a pass.
        given: the arguments of the clean pass.
        sample: the number of the sample.
        shapes: the shapes in the clean pass, by name and call; ``"head@2"`` is the output of the
            third call of head, and ``"head<2"`` its input.
        begin: called before the pass; returns a function that gets each layer's measurement as
            soon as the layer finishes.
        strength: the strength of the noise. A norm or a sigmoid may give the same answer to all
            strong noise.

    Raises:
        Exception: the model fails, for example because it takes no batch of another size.
    """
    image = given.image[sample : sample + 1]
    ramps = _ramps(given)
    clean = 2 if len(ramps) + 1 == len(given) else 1  # never as many samples as in the clean pass
    changed = torch.cat(
        [image.expand(clean, *image.shape[1:]), image + strength * _noise(image) * ramps]
    )

    def attempt(each: Inputs) -> None:
        take = begin()

        def look(name: str, output: Any) -> None:
            for _, tensor in activations(output)[:1]:
                if measured := _measured(tensor, shapes[name], len(given), clean):
                    take(name, measured)

        with _looking(model, shapes, look):
            each.owned().run(model)

    with torch.no_grad():
        samples = torch.full((len(changed),), sample, device=image.device)
        completed(attempt, given.of_samples(samples, changed))


def _ramps(given: Inputs) -> Tensor:
    """Two masks for each axis of the grid, growing and falling, ``(2 A, 1, ...)``."""
    image, masks = given.image, []
    for axis in range(1, image.ndim):
        if axis != given.axis:
            length = image.shape[axis]
            places = (torch.arange(length, device=image.device) + 0.5) / length
            places = places.reshape([-1 if a == axis else 1 for a in range(image.ndim)])
            masks += [each.expand(1, *image.shape[1:]) for each in (places, 1 - places)]
    return torch.cat(masks).to(image.dtype)


def _noise(image: Tensor) -> Tensor:
    """Noise as strong as the variation of `image` ``(1, ...)``, from a generator of its own.

    No value is near zero, so that a place that looks at a single pixel changes too.
    """
    draws = Draws(0)
    signs = draws.numbers(2, *image.shape) * 2 - 1
    noise = (signs * (0.75 + 0.5 * draws.uniform(*image.shape))).to(image)
    scale = torch.nan_to_num(image.float()).std()
    return noise * scale.where(scale > 0, 1).to(image)


def _measured(tensor: Tensor, shape: Shape, count: int, clean: int) -> Measured | None:
    """The measurement in `tensor`, a layer's output; ``None`` if its axes do not tell samples.

    Args:
        tensor: the output for `clean` copies of the clean sample, then for noisy ones.
        shape: the shape of the output in the clean pass.
        count: the number of samples in the clean pass.
        clean: the number of clean copies.
    """
    if tensor.ndim != len(shape) or tensor.ndim < 2:
        return None
    several = [axis for axis, length in enumerate(shape) if tensor.shape[axis] != length]
    if len(several) != 1 or shape[several[0]] % count:
        return None
    [samples] = several
    return Measured(tensor, samples, shape[samples] // count, clean)


@contextmanager
def _looking(
    model: nn.Module, shapes: Mapping[str, Shape], look: Callable[[str, Any], None]
) -> Iterator[None]:
    """Call `look` with the input or output of each layer named in `shapes`, in this thread."""

    def looking_for(name: str) -> tuple[Callable[..., None], Callable[..., None]]:
        begun, ended = itertools.count(), itertools.count()

        def before(_module: nn.Module, args: Any) -> None:
            if (call := f"{name}<{next(begun)}") in shapes:
                look(call, args)

        def after(_module: nn.Module, _args: Any, output: Any) -> None:
            if (call := f"{name}@{next(ended)}") in shapes:
                look(call, output)

        return before, after

    given = {name.rpartition("<")[0] for name in shapes}
    returned = {name.rpartition("@")[0] for name in shapes}
    with Undoing() as undo:
        for name, module in model.named_modules():
            before, after = looking_for(name)
            if name in given:
                hook_before(undo, module, before)
            if name in returned:
                hook(undo, module, after)
        yield
