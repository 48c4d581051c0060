"""The base class of layouts, and the adapter for a user's own function.

A layout reads an activation as ``(N, C, *grid)`` and puts a changed one back. Any function from an
activation to ``(N, C, *grid)`` works too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from camlib.errors import LayoutError, OptionError
from camlib.options import check_fields

Shape = Sequence[int]


class Layout(ABC):
    """Reads an activation as ``(N, C, *grid)``."""

    def __post_init__(self) -> None:
        """Check the fields of a layout that is a dataclass.

        Raises:
            OptionError: a field does not match its annotation.
        """
        check_fields(self)

    @property
    def samples_axis(self) -> int:
        """The axis of samples in the activation."""
        return 0

    @abstractmethod
    def __call__(self, activation: Tensor) -> Tensor:
        """`activation`, or a gradient of its shape, as ``(N, C, *grid)``.

        Raises:
            LayoutError: the layout does not fit the shape.
        """

    @abstractmethod
    def grid_of(self, shape: Shape) -> tuple[int, ...]:
        """The grid in an activation of `shape`.

        Raises:
            LayoutError: the layout does not fit `shape`.
        """

    def by_sample(self, activation: Tensor, count: int) -> Tensor:
        """`activation` of `count` samples as ``(N, values)``."""
        return activation.movedim(self.samples_axis, 0).reshape(count, -1)

    def of_samples(self, activation: Tensor, count: int, samples: Tensor) -> Tensor:
        """The part of `activation` that belongs to `samples` ``(M,)``, as the layer returns it.

        Several rows may belong to one sample, as where frames are folded into the batch: all frames
        of the first sample come first, or the first frame of every sample.

        Args:
            activation: the layer's output for `count` samples.
            count: the number of samples.
            samples: the numbers of those to keep.

        Raises:
            LayoutError: it is not clear which rows belong to a sample.
        """
        samples = samples.to(activation.device)
        rows = activation.shape[self.samples_axis]
        if rows == count:
            return activation.index_select(self.samples_axis, samples)
        if rows % count == 0 and self.samples_axis == 0:
            expected = self(activation)[samples]
            rest = activation.shape[1:]
            of_sample = activation.reshape(count, -1, *rest)[samples].flatten(0, 1)
            of_frame = activation.reshape(-1, count, *rest)[:, samples].flatten(0, 1)
            for chosen in (of_sample, of_frame):
                with suppress(Exception):  # a user's layout may fail in any way
                    if torch.equal(self(chosen), expected):
                        return chosen
        raise LayoutError(
            f"the layout {self!r} reads an activation {tuple(activation.shape)} of {count} samples "
            f"but not that of {len(samples)} of them; expected a layout for any number of samples, "
            "such as lambda a: a.reshape(-1, frames, *a.shape[1:]).movedim(2, 1)"
        )

    def put_back(self, arranged: Tensor, activation: Tensor) -> Tensor:
        """`activation` with the values that the layout reads replaced by `arranged`.

        Values outside the grid, such as a class token, stay.

        Args:
            arranged: ``(N, C, *grid)``.
            activation: the layer's output.

        Raises:
            LayoutError: the layout computes new values, so they cannot be put back.
        """
        flat = activation.flatten()
        numbers = torch.arange(1, len(flat) + 1, device=flat.device, dtype=torch.float64)
        places = self(numbers.reshape(activation.shape)).long().flatten()
        shown = (places > 0) & (places <= len(flat))
        values = torch.zeros_like(places, dtype=flat.dtype)
        values[shown] = flat[places[shown] - 1]
        if not torch.equal(self(activation).flatten(), values):
            raise LayoutError(
                f"the layout {self!r} computes new values from an activation; expected a layout "
                "that only moves values, so that changed ones can be put back"
            )
        changed = arranged.flatten().to(flat.dtype)[shown]
        return flat.index_copy(0, places[shown] - 1, changed).reshape(activation.shape)


@dataclass(frozen=True)
class Custom(Layout):
    """A user's function from an activation to ``(N, C, *grid)``."""

    function: Callable[[Tensor], Tensor]

    def __call__(self, activation: Tensor) -> Tensor:
        """The result of the function.

        Raises:
            LayoutError: it is not a tensor.
        """
        arranged = self.function(activation)
        if not isinstance(arranged, Tensor):
            raise LayoutError(
                f"layout={self.function!r} returned {type(arranged).__name__}; expected a function "
                "from an activation to a tensor (N, C, *grid)"
            )
        return arranged

    def grid_of(self, shape: Shape) -> tuple[int, ...]:
        """The grid that the function returns for an activation of `shape`."""
        return tuple(self(torch.zeros(tuple(shape), device="cpu")).shape[2:])

    def __repr__(self) -> str:
        return repr(self.function)


def adapted(layout: Layout | Callable[[Tensor], Tensor]) -> Layout:
    """`layout` as a `Layout`, even if it is a plain function.

    Raises:
        OptionError: `layout` is a class.
    """
    if isinstance(layout, type):
        raise OptionError(
            f"layout={layout.__name__} is a class; pass an instance: {layout.__name__}(...)"
        )
    return layout if isinstance(layout, Layout) else Custom(layout)
