"""What a model is called with, and the image in it.

A model takes a tensor, several (a tuple), named ones (a mapping) or a list of images (detection);
tensors may stand in containers inside these. The image is the one tensor with a grid. Where there
are several, `camlib.passes.images` measures which of them is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from camlib.augmentation import Augmentation
from camlib.errors import InputError
from camlib.maps import precise
from camlib.nested import mapped, tensors_in
from camlib.passes.arguments import arguments_of, described, hint_for, position_of
from camlib.passes.axes import axes_of, axis_in, layout_named
from camlib.passes.paths import Path, Pictures, Where, at, matching, put, walk

ModelInputs = Tensor | tuple[Any, ...] | Mapping[str, Any] | Sequence[Tensor | Mapping[str, Any]]
"""What a model may be called with: see `Inputs.of`."""


@dataclass(frozen=True)
class Inputs:
    """The arguments of a model's call, one of them the image.

    Attributes:
        args: positional.
        kwargs: by name.
        path: of the image.
        image: as the model takes it; a list of images ``(C, H, W)`` is one batch.
        axis: where the image has its channels; ``None`` for one without. Samples come first, all
            other axes are the grid.
        told: whether `axis` is known. If not, it is the most common reading of the shape.
        rivals: the paths of all tensors that could be the image, where there are several.
        chosen: whether the user said which of them is.
        shared: whether what is beside the image is the same for every sample.
        companions: pictures that belong to the samples and that the model is not called with, by
            name and with the image's axes, such as a baseline.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    path: Path
    image: Tensor
    axis: int | None = 1
    told: bool = False
    rivals: tuple[Path, ...] = ()
    chosen: bool = False
    shared: bool = False
    companions: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        given: Any,
        model: nn.Module | None = None,
        *,
        image: Where | None = None,
        image_layout: str | None = None,
    ) -> Inputs:
        """`given` as arguments: a tensor, a tuple of positional or a mapping of keyword arguments.

        A list is one argument: of images ``(C, H, W)``, as detection networks take it, or of
        batches.

        Args:
            given: what the user passed.
            model: without wrappers. The signature of its ``forward`` tells whether a mapping holds
                keyword arguments or is the one argument.
            image: which tensor is the image; needed where several could be.
            image_layout: the axes of the image, such as ``"NHWC"``.

        Raises:
            InputError: there is no image in `given`, or it is empty, or a list of several sizes, or
                `image` or `image_layout` does not fit.
        """
        if isinstance(given, Inputs):
            return given
        args, kwargs = mapped(plain, arguments_of(given, model))
        tensors = dict(walk(_by_key(args, kwargs)))
        axes = None if image_layout is None else len(image_layout)
        found = {path: value for path, value in tensors.items() if _is_image(value, axes)}
        if image is not None:
            path = matching(image, tensors, position_of(image, model))
            if not _is_image(tensors[path], axes, least=2):
                raise InputError(
                    f"image={image!r} is {described(tensors[path])}; expected a floating-point "
                    "tensor with samples first" + hint_for(tensors[path], image_layout)
                )
        elif found:
            path = next(iter(found))
        else:
            raise InputError(
                "expected images as a floating-point tensor (N, C, H, W), (N, C, L) or "
                "(N, C, D, H, W), a list of images (C, H, W), or a tuple or mapping with one in "
                f"it, got {described(given)}" + hint_for(given, image_layout)
            )
        rivals = tuple(dict.fromkeys([*found, path]))
        told = image_layout is not None
        picture = _stacked(tensors[path])
        if torch._C._functorch.is_functorch_wrapped_tensor(picture):
            raise InputError(
                "the images are inside of torch.vmap or a transform of torch.func, where no hooks "
                "run and no gradient of its own is taken; call the method outside, on the batch"
            )
        if picture.is_meta:
            raise InputError("the images are on the meta device and hold no values; pass real ones")
        if not picture.numel():
            raise InputError(f"the images are empty: shape {tuple(picture.shape)}")
        axis = axes_of(picture.shape)[0]
        if image_layout is not None:
            axis = axis_in(image_layout, picture.shape)
        rivals = rivals if len(rivals) > 1 else ()
        return cls(args, kwargs, path, picture, axis, told, rivals, image is not None)

    def imaged(self, path: Path) -> Inputs:
        """The same arguments with the tensor at `path` as the image."""
        image = _stacked(at(self._named, path))
        axis = self.axis if self.told else axes_of(image.shape)[0]
        return replace(self, path=path, image=image, axis=axis)

    @property
    def layout(self) -> str:
        """The name of the reading, such as ``"NCHW"``."""
        return layout_named(self.image.ndim, self.axis)

    @property
    def size(self) -> tuple[int, ...]:
        """The image's size without samples and channels."""
        return tuple(n for axis, n in enumerate(self.image.shape) if axis not in (0, self.axis))

    @property
    def arranged(self) -> Tensor:
        """The image as ``(N, C, *size)``."""
        return self.image.unsqueeze(1) if self.axis is None else self.image.movedim(self.axis, 1)

    @cached_property
    def form(self) -> Hashable:
        """What where things lie may depend on: the shapes, and the values beside the image.

        Where a text stands beside the image, for example, its tokens say where those of the image
        are.
        """
        if not self.several:
            return tuple(self.image.shape[1:]), self.axis, ()
        beside = self.with_image(self.image[:0])
        others = [t.detach() for t in tensors_in((beside.args, beside.kwargs)) if t.numel()]
        values = tuple((tuple(t.shape), tuple(t.double().flatten().tolist())) for t in others)
        return tuple(self.image.shape[1:]), self.axis, values

    @cached_property
    def several(self) -> bool:
        """Whether there are tensors beside the image."""
        own = len(self) if isinstance(self._given, list) else 1
        return len(tensors_in((self.args, self.kwargs))) > own

    @property
    def _given(self) -> Any:
        return at(self._named, self.path)

    @property
    def _named(self) -> dict[int | str, Any]:
        return _by_key(self.args, self.kwargs)

    def __len__(self) -> int:
        """The number of samples."""
        return self.image.shape[0]

    def readings(self) -> list[Inputs]:
        """The ways to read the image's axes, the most common one first; one where they are told."""
        if self.told:
            return [self]
        return [replace(self, axis=axis) for axis in axes_of(self.image.shape)]

    def check_read(self) -> None:
        """Check that the image's axes can be read in one way.

        Raises:
            InputError: there are several.
        """
        names = [repr(each.layout) for each in self.readings()]
        if len(names) > 1:
            raise InputError(
                f"an image of shape {tuple(self.image.shape)} can be read as {' or '.join(names)}; "
                f"say which: image_layout={names[0]}"
            )

    def owned(self) -> Inputs:
        """The same arguments, their tensors copied, also those in tuples, lists and mappings.

        The copies are safe from models that change their input in place, and usable by autograd
        even if they were made in inference mode.
        """
        return self._each(Tensor.clone)

    def of_samples(self, samples: Tensor, image: Tensor) -> Inputs:
        """The arguments for `samples` ``(M,)``, by number, with `image` of ``M`` samples.

        Companions come along. What is beside the image is copied; the image goes to the model.
        """

        def chosen(tensor: Tensor) -> Tensor:
            own = not self.shared and tensor.ndim and tensor.shape[0] == len(self)
            return tensor[samples] if own else tensor.clone()

        companions = {name: picture[samples] for name, picture in self.companions.items()}
        changed = self.with_image(self.image[:0])._each(chosen).with_image(image)
        return replace(changed, companions=companions)

    def accompanied(self, name: str, picture: Tensor | float) -> Inputs:
        """The same arguments, and `picture` as a companion of the samples.

        Args:
            name: what to call it.
            picture: a number, or a tensor that broadcasts to the images.

        Raises:
            InputError: `picture` does not fit.
        """
        found = torch.as_tensor(picture, device=self.image.device).detach().to(precise(self.image))
        try:
            found = found.expand_as(self.image)
        except RuntimeError:
            raise InputError(
                f"{name} of shape {tuple(found.shape)} does not fit images of shape "
                f"{tuple(self.image.shape)}; pass a number, or a tensor that broadcasts to them"
            ) from None
        return replace(self, companions={**self.companions, name: found})

    def augmented(self, augmentation: Augmentation) -> Inputs:
        """The arguments with the image changed by `augmentation`, and what lies at places in it.

        That is: companions, and other arguments of the image's size, with its channels or none.
        """

        def changed(tensor: Tensor) -> Tensor:
            if tensor.shape == (len(self), *self.size):
                return augmentation(tensor[:, None])[:, 0]
            if self.axis is None or tensor.ndim != self.image.ndim:
                return tensor
            arranged = tensor.movedim(self.axis, 1)
            if (len(arranged), *arranged.shape[2:]) != (len(self), *self.size):
                return tensor
            return augmentation(arranged).movedim(1, self.axis)

        companions = {name: changed(picture) for name, picture in self.companions.items()}
        rest = self.with_image(self.image[:0])._each(changed)
        return replace(rest.with_image(changed(self.image)), companions=companions)

    def with_image(self, image: Tensor) -> Inputs:
        """The arguments with another image."""
        value = list(image) if isinstance(self._given, list) else image
        if isinstance(self.path[0], int):
            return replace(self, args=put(self.args, self.path, value), image=image)
        return replace(self, kwargs=put(self.kwargs, self.path, value), image=image)

    def at_places(self, values: Tensor) -> Tensor:
        """`values` ``(N, 1, *size)`` or ``(N, C, *size)``, with the axes of the image."""
        return values.squeeze(1) if self.axis is None else values.movedim(1, self.axis)

    def run(self, model: nn.Module) -> Any:
        """What `model` returns for these arguments, its tensors plain ones."""
        try:
            output = model(*self.args, **self.kwargs)
            odd = any(plain(tensor) is not tensor for tensor in tensors_in(output))
            return mapped(plain, output) if odd else output
        except Exception as error:
            self.annotate(error)
            raise

    def annotate(self, error: Exception) -> None:
        """Add to `error` how the inputs were read, where another way may be meant."""
        read = "(" + ", ".join(self.layout) + ")"
        shape = tuple(self.image.shape)
        others = [repr(each.layout) for each in self.readings()[1:]]
        single = self.image.ndim == 3 or (
            self.image.ndim == 4 and self.image.shape[1] not in (1, 3)
        )
        advice = []
        if isinstance(self._given, list):
            advice.append(
                f"the list of {len(self)} tensors of shape {shape[1:]} is read as a batch of "
                "images, as detectors take it; batches in one list need an axis for samples each"
            )
        elif not self.told and (others or single):
            ways = [f"image_layout={' or '.join(others)} reads it otherwise"] * bool(others)
            ways += ["a single picture needs a batch axis: image[None]"] * single
            advice.append(f"the image has shape {shape}, read as {read}; {'; '.join(ways)}")
        if isinstance(error, TypeError) and self.kwargs:
            names = ", ".join(f"{name}=" for name in self.kwargs)
            advice.append(
                f"the mapping is passed as keyword arguments, {names}; where the model takes one "
                "mapping as its argument, pass (mapping,)"
            )
        if len(self.args) == 1 and isinstance(self.args[0], Mapping):
            advice.append(
                "the mapping is passed as the one positional argument; where its entries are "
                "arguments by name, use names that the model's forward has"
            )
        for note in advice:
            if note not in getattr(error, "__notes__", ()):
                error.add_note(note)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        changed = replace(
            self,
            args=tuple(mapped(change, value) for value in self.args),
            kwargs={name: mapped(change, value) for name, value in self.kwargs.items()},
        )
        given = changed._given
        return changed if isinstance(given, list) else replace(changed, image=given)


def _by_key(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[int | str, Any]:
    named: dict[int | str, Any] = dict(enumerate(args))
    return named | kwargs


def _is_image(value: Pictures, axes: int | None, least: int = 3) -> bool:
    """Whether `value` is floating point, with so many `axes`, or by default `least` or more."""
    if isinstance(value, list):
        return axes in (None, 4)
    fits = value.ndim >= least if axes is None else value.ndim == axes
    return fits and value.is_floating_point()


def _stacked(value: Pictures) -> Tensor:
    if isinstance(value, Tensor):
        return value
    shapes = [tuple(each.shape) for each in value]
    if len(set(shapes)) > 1:
        raise InputError(
            f"the images of the list have shapes {', '.join(map(str, shapes))}; pass those of one "
            "size together, the others in calls of their own"
        )
    return torch.stack(value)


def plain(tensor: Tensor) -> Tensor:
    """`tensor` without a subclass that only knows what it shows, as those of torchvision do."""
    kind = type(tensor)
    if kind in (Tensor, nn.Parameter) or kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return tensor
    return tensor.as_subclass(Tensor)


def detached(output: Any) -> Any:
    """`output` with every tensor in it detached, also those in what holds others."""
    return mapped(Tensor.detach, output)
