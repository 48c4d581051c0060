"""What a layout is: how to read an activation as ``(N, C, *grid)``, and put a changed one back.

Any function from an activation to ``(N, C, *grid)`` will do instead.
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
            OptionError: one is not what its annotation says.
        """
        check_fields(self)

    @property
    def samples_axis(self) -> int:
        """Which axis of the activation has the samples."""
        return 0

    @abstractmethod
    def __call__(self, activation: Tensor) -> Tensor:
        """`activation`, or its gradient, as ``(N, C, *grid)``.

        Raises:
            LayoutError: the layout does not fit its shape.
        """

    @abstractmethod
    def grid_of(self, shape: Shape) -> tuple[int, ...]:
        """The grid in an activation of `shape`.

        Raises:
            LayoutError: the layout does not fit `shape`.
        """

    def by_sample(self, activation: Tensor, count: int) -> Tensor:
        """`activation` as ``(N, values)``, of `count` samples."""
        return activation.movedim(self.samples_axis, 0).reshape(count, -1)

    def of_samples(self, activation: Tensor, count: int, samples: Tensor) -> Tensor:
        """`activation` of `count` samples for `samples` ``(M,)`` of them, as the layer returns it.

        A layout may make several rows one sample, as where frames are folded into the batch: the
        frames of a sample one after the other, or the samples of a frame.

        Raises:
            LayoutError: which rows are those of a sample cannot be told.
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
                with suppress(Exception):  # of a layout that is the user's
                    if torch.equal(self(chosen), expected):
                        return chosen
        raise LayoutError(
            f"the layout {self!r} does not take an activation {tuple(activation.shape)} of {count} "
            f"samples for {len(samples)} of them; expected one for any number of samples, such as "
            "lambda a: a.reshape(-1, frames, *a.shape[1:]).movedim(2, 1)"
        )

    def put_back(self, arranged: Tensor, activation: Tensor) -> Tensor:
        """`activation` with what the layout reads from it changed to `arranged`.

        What the grid does not show, such as a class token, stays.

        Args:
            arranged: ``(N, C, *grid)``.
            activation: as the layer returned it.

        Raises:
            LayoutError: the layout makes new values, so there is no way back.
        """
        flat = activation.flatten()
        numbers = torch.arange(1, len(flat) + 1, device=flat.device, dtype=torch.float64)
        places = self(numbers.reshape(activation.shape)).long().flatten()
        shown = (places > 0) & (places <= len(flat))
        values = torch.zeros_like(places, dtype=flat.dtype)
        values[shown] = flat[places[shown] - 1]
        if not torch.equal(self(activation).flatten(), values):
            raise LayoutError(
                f"the layout {self!r} makes new values of an activation; expected one that only "
                "moves them, so that changed ones can be put back"
            )
        changed = arranged.flatten().to(flat.dtype)[shown]
        return flat.index_copy(0, places[shown] - 1, changed).reshape(activation.shape)


@dataclass(frozen=True)
class Custom(Layout):
    """A user's function from an activation to ``(N, C, *grid)``."""

    function: Callable[[Tensor], Tensor]

    def __call__(self, activation: Tensor) -> Tensor:
        """What the function returns.

        Raises:
            LayoutError: it is no tensor.
        """
        found = self.function(activation)
        if not isinstance(found, Tensor):
            raise LayoutError(
                f"layout={self.function!r} returned {type(found).__name__}; expected a function "
                "from an activation to a tensor (N, C, *grid)"
            )
        return found

    def grid_of(self, shape: Shape) -> tuple[int, ...]:
        """The grid that the function makes of an activation of `shape`."""
        return tuple(self(torch.zeros(tuple(shape), device="cpu")).shape[2:])

    def __repr__(self) -> str:
        return repr(self.function)


def adapted(layout: Layout | Callable[[Tensor], Tensor]) -> Layout:
    """`layout` as a `Layout`, also where it is a plain function.

    Raises:
        OptionError: it is a class.
    """
    if isinstance(layout, type):
        raise OptionError(
            f"layout={layout.__name__} is a class; pass a layout: {layout.__name__}(...)"
        )
    return layout if isinstance(layout, Layout) else Custom(layout)
