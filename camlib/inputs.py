"""What a model is called with, and the image in it.

A model takes a tensor, several (a tuple), named ones (a mapping) or a list of images (detection).
One of them is the image: the first floating-point tensor with a grid, or the list.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from camlib.errors import InputError
from camlib.passes.nested import mapped, tensors_in


@dataclass(frozen=True)
class Inputs:
    """The arguments of a model's call, one of them the image.

    Attributes:
        args: positional.
        kwargs: by name.
        key: of the image: a position or a name.
        image: ``(N, C, *size)``, or a clip ``(N, T, C, H, W)``; a list of images is one batch.
        shared: whether what is beside the image is the same for every sample.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    key: int | str
    image: Tensor
    shared: bool = False

    @classmethod
    def of(cls, given: Any) -> Inputs:
        """`given` as arguments: a tensor, a tuple of positional or a mapping of keyword arguments.

        Any of them may be a list of images ``(C, H, W)``, as detection networks take it.

        Raises:
            InputError: there is no image in `given`, or it is empty, or a list of several sizes.
        """
        if isinstance(given, Inputs):
            return given
        kwargs = dict(given) if isinstance(given, Mapping) else {}
        args = () if kwargs else given if isinstance(given, tuple) else (given,)
        for key, value in [*enumerate(args), *kwargs.items()]:
            if isinstance(value, list) and value and all(_is_image(each, 3) for each in value):
                shapes = [tuple(each.shape) for each in value]
                if len(set(shapes)) > 1:
                    raise InputError(
                        f"the images of the list have shapes {', '.join(map(str, shapes))}; pass "
                        "those of one size together, the others in calls of their own"
                    )
                value = torch.stack(value)
            if _is_image(value):
                if not value.numel():
                    raise InputError(f"the images are empty: shape {tuple(value.shape)}")
                return cls(args, kwargs, key, value)
        raise InputError(
            "expected images as a floating-point tensor (N, C, H, W), (N, C, L) or "
            "(N, C, D, H, W), a list of images (C, H, W), or a tuple or mapping with one in it, "
            "got " + _described(given)
        )

    @property
    def axis(self) -> int:
        """Where the image has its channels: behind the frames in a clip ``(N, T, C, H, W)``."""
        shape = self.image.shape
        return 2 if len(shape) == 5 and shape[1] > 4 and shape[2] in (1, 3) else 1

    @property
    def size(self) -> tuple[int, ...]:
        """The image's size without samples and channels."""
        shape = list(self.image.shape)
        del shape[self.axis], shape[0]
        return tuple(shape)

    @property
    def form(self) -> Hashable:
        """What where things lie may depend on: the shapes, and the values beside the image.

        Where a text stands beside the image, for example, its tokens say where those of the image
        are.
        """
        beside = self.with_image(self.image[:0])
        others = [t.detach() for t in tensors_in((beside.args, beside.kwargs)) if t.numel()]
        values = tuple((tuple(t.shape), tuple(t.double().flatten().tolist())) for t in others)
        return tuple(self.image.shape[1:]), self.axis, values

    @property
    def several(self) -> bool:
        """Whether there are tensors beside the image."""
        named = [*enumerate(self.args), *self.kwargs.items()]
        return bool(tensors_in([value for key, value in named if key != self.key]))

    @property
    def _given(self) -> Any:
        return self.args[self.key] if isinstance(self.key, int) else self.kwargs[self.key]

    def __len__(self) -> int:
        """The number of samples."""
        return self.image.shape[0]

    def owned(self) -> Inputs:
        """The same arguments, their tensors copied, also those in tuples, lists and mappings.

        The copies are safe from models that change their input in place, and usable by autograd
        even if they were made in inference mode.
        """
        return self._each(Tensor.clone)

    def of_samples(self, samples: Tensor, image: Tensor) -> Inputs:
        """The arguments for `samples` ``(M,)``, by number, with `image` ``(M, C, *size)``.

        What is beside the image is copied; the image itself goes to the model.
        """

        def chosen(tensor: Tensor) -> Tensor:
            own = not self.shared and tensor.ndim and tensor.shape[0] == len(self)
            return tensor[samples] if own else tensor.clone()

        return self.with_image(self.image[:0])._each(chosen).with_image(image)

    def with_image(self, image: Tensor) -> Inputs:
        """The arguments with another image."""
        value = list(image) if isinstance(self._given, list) else image
        if isinstance(self.key, int):
            args = (*self.args[: self.key], value, *self.args[self.key + 1 :])
            return replace(self, args=args, image=image)
        return replace(self, kwargs={**self.kwargs, self.key: value}, image=image)

    def at_places(self, maps: Tensor) -> Tensor:
        """`maps` ``(N, 1, *size)``, shaped to be multiplied with the image."""
        return maps.movedim(1, self.axis)

    def run(self, model: nn.Module) -> Any:
        """What `model` returns for these arguments."""
        try:
            return model(*self.args, **self.kwargs)
        except Exception as error:
            if self.image.ndim == 3:
                error.add_note(
                    f"the image has shape {tuple(self.image.shape)}, read as (N, C, L); "
                    "a single picture needs a batch axis: image[None]"
                )
            raise

    def _each(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        changed = replace(
            self,
            args=tuple(mapped(change, value) for value in self.args),
            kwargs={name: mapped(change, value) for name, value in self.kwargs.items()},
        )
        given = changed._given
        return changed if isinstance(given, list) else replace(changed, image=given)


def _is_image(value: Any, axes: int | None = None) -> bool:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return False
    return value.ndim >= 3 if axes is None else value.ndim == axes


def detached(output: Any) -> Any:
    """`output` with every tensor in it detached, also those in what holds others."""
    return mapped(Tensor.detach, output)


def _described(given: Any) -> str:
    if isinstance(given, Tensor):
        return f"a {str(given.dtype).removeprefix('torch.')} tensor of shape {tuple(given.shape)}"
    if isinstance(given, tuple | Mapping):
        values = given.values() if isinstance(given, Mapping) else given
        return f"{type(given).__name__} of {', '.join(map(_described, values)) or 'nothing'}"
    return type(given).__name__
