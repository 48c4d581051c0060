"""The arguments of a model's call, and the image among them.

A model takes a tensor, several (a tuple), named ones (a mapping) or a list of images (detection),
and these may contain containers of tensors. The image is the tensor with a grid. If there are
several, `camlib.passes.images` measures which one the model looks at.
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
"""The inputs that a model may take: see `Inputs.of`."""


@dataclass(frozen=True)
class Inputs:
    """The arguments of a model's call, one of which is the image.

    Attributes:
        args: the positional arguments.
        kwargs: the keyword arguments.
        path: the path of the image.
        image: the image as the model takes it; a list of images ``(C, H, W)`` is one batch.
        axis: the image's axis of channels; ``None`` if it has none. Samples come first, and all
            other axes are the grid.
        told: whether `axis` is certain. If not, it follows the most common reading of the shape.
        rivals: the paths of all tensors that could be the image, if there are several.
        chosen: whether the user chose the image.
        shared: whether the other arguments are the same for every sample.
        companions: pictures that belong to the samples but are no arguments of the call, such as a
            baseline, by name and with the image's axes.
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
            given: the user's inputs.
            model: the model, without wrappers. The signature of its ``forward`` tells whether a
                mapping holds keyword arguments or is the only argument.
            image: which tensor is the image, if several could be.
            image_layout: the axes of the image, such as ``"NHWC"``.

        Raises:
            InputError: `given` has no image, an empty one or a list of several sizes; or `image` or
                `image_layout` does not fit.
        """
        if isinstance(given, Inputs):
            return given
        args, kwargs = mapped(plain, arguments_of(given, model))
        tensors = dict(walk(_by_key(args, kwargs)))
        axes = None if image_layout is None else len(image_layout)
        images = [path for path, value in tensors.items() if _is_image(value, axes)]
        if image is not None:
            path = matching(image, tensors, position_of(image, model))
            if not _is_image(tensors[path], axes, least=2):
                raise InputError(
                    f"image={image!r} is {described(tensors[path])}; expected a floating-point "
                    "tensor with samples first" + hint_for(tensors[path], image_layout)
                )
        elif images:
            path = images[0]
        else:
            raise InputError(
                "expected images as a floating-point tensor (N, C, H, W), (N, C, L) or "
                "(N, C, D, H, W), a list of images (C, H, W), or a tuple or mapping with one in "
                f"it, got {described(given)}" + hint_for(given, image_layout)
            )
        rivals = tuple(dict.fromkeys([*images, path]))
        told = image_layout is not None
        picture = _stacked(tensors[path])
        if torch._C._functorch.is_functorch_wrapped_tensor(picture):
            raise InputError(
                "the images are inside torch.vmap or another transform of torch.func, where camlib "
                "can use neither hooks nor gradients; call the method outside it, on the batch"
            )
        if picture.is_meta:
            raise InputError("the images are on the meta device and have no values; pass real ones")
        if not picture.numel():
            raise InputError(f"the images are empty: shape {tuple(picture.shape)}")
        axis = axes_of(picture.shape)[0]
        if image_layout is not None:
            axis = axis_in(image_layout, picture.shape)
        rivals = rivals if len(rivals) > 1 else ()
        return cls(args, kwargs, path, picture, axis, told, rivals, image is not None)

    def imaged(self, path: Path) -> Inputs:
        """The arguments with the tensor at `path` as the image."""
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
        """A key for readings of layers: the shape of the image, and the other arguments' values.

        The values matter: the tokens of a text, for example, may tell where those of the image are.
        """
        if not self.several:
            return tuple(self.image.shape[1:]), self.axis, ()
        beside = self.with_image(self.image[:0])
        others = [t.detach() for t in tensors_in((beside.args, beside.kwargs)) if t.numel()]
        values = tuple((tuple(t.shape), tuple(t.double().flatten().tolist())) for t in others)
        return tuple(self.image.shape[1:]), self.axis, values

    @cached_property
    def several(self) -> bool:
        """Whether there are tensors besides the image."""
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
        """The possible readings of the image's axes, the most common first; one if certain."""
        if self.told:
            return [self]
        return [replace(self, axis=axis) for axis in axes_of(self.image.shape)]

    def check_read(self) -> None:
        """Check that there is only one way to read the image's axes.

        Raises:
            InputError: there are several ways.
        """
        names = [repr(each.layout) for each in self.readings()]
        if len(names) > 1:
            raise InputError(
                f"an image of shape {tuple(self.image.shape)} can be read as {' or '.join(names)}; "
                f"choose one: image_layout={names[0]}"
            )

    def owned(self) -> Inputs:
        """The arguments with a copy of every tensor, also of those in containers.

        A model may change the copies in place, and autograd can use them even if the originals were
        created in inference mode.
        """
        return self._each(Tensor.clone)

    def of_samples(self, samples: Tensor, image: Tensor) -> Inputs:
        """The arguments for the samples numbered `samples` ``(M,)``, with `image` of ``M`` samples.

        Companions are chosen too. Other arguments are copied; the model may change the image.
        """

        def chosen(tensor: Tensor) -> Tensor:
            own = not self.shared and tensor.ndim and tensor.shape[0] == len(self)
            return tensor[samples] if own else tensor.clone()

        companions = {name: picture[samples] for name, picture in self.companions.items()}
        changed = self.with_image(self.image[:0])._each(chosen).with_image(image)
        return replace(changed, companions=companions)

    def accompanied(self, name: str, picture: Tensor | float) -> Inputs:
        """The arguments with `picture` as a companion of the samples.

        Args:
            name: the name of the companion.
            picture: a number, or a tensor that broadcasts to the images.

        Raises:
            InputError: `picture` does not fit.
        """
        values = torch.as_tensor(picture, device=self.image.device).detach().to(precise(self.image))
        try:
            values = values.expand_as(self.image)
        except RuntimeError:
            raise InputError(
                f"{name} of shape {tuple(values.shape)} does not fit images of shape "
                f"{tuple(self.image.shape)}; pass a number, or a tensor that broadcasts to them"
            ) from None
        return replace(self, companions={**self.companions, name: values})

    def augmented(self, augmentation: Augmentation) -> Inputs:
        """The arguments with the image, and everything of its size, changed by `augmentation`.

        That includes companions, and other arguments of the image's size, with or without channels.
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
        """The arguments with `image` instead of the image."""
        value = list(image) if isinstance(self._given, list) else image
        if isinstance(self.path[0], int):
            return replace(self, args=put(self.args, self.path, value), image=image)
        return replace(self, kwargs=put(self.kwargs, self.path, value), image=image)

    def at_places(self, values: Tensor) -> Tensor:
        """`values` ``(N, 1, *size)`` or ``(N, C, *size)`` with their axes in the image's order."""
        return values.squeeze(1) if self.axis is None else values.movedim(1, self.axis)

    def run(self, model: nn.Module) -> Any:
        """The output of `model` for these arguments, as plain tensors."""
        try:
            output = model(*self.args, **self.kwargs)
            odd = any(plain(tensor) is not tensor for tensor in tensors_in(output))
            return mapped(plain, output) if odd else output
        except Exception as error:
            self.annotate(error)
            raise

    def annotate(self, error: Exception) -> None:
        """Add notes to `error` on how the inputs were read, if the user may mean another way."""
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
                "images, as detectors take it; each batch in a list needs an axis for samples"
            )
        elif not self.told and (others or single):
            note = f"the image has shape {shape}, read as {read}"
            if others:
                note += f"; image_layout={' or '.join(others)} reads it otherwise"
            if single:
                note += "; a single picture needs a batch axis: image[None]"
            advice.append(note)
        if isinstance(error, TypeError) and self.kwargs:
            names = ", ".join(f"{name}=" for name in self.kwargs)
            advice.append(
                f"the mapping is passed as keyword arguments, {names}; if the model takes one "
                "mapping as its argument, pass (mapping,)"
            )
        if len(self.args) == 1 and isinstance(self.args[0], Mapping):
            advice.append(
                "the mapping is passed as the only positional argument; if its entries are keyword "
                "arguments, use the names in the model's forward"
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
    """Whether `value` is floating point and has `axes` axes, or by default at least `least`."""
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
            f"the images in the list have shapes {', '.join(map(str, shapes))}; pass images of one "
            "size together, and the others in separate calls"
        )
    return torch.stack(value)


def plain(tensor: Tensor) -> Tensor:
    """`tensor` without a subclass that only adds metadata, like those of torchvision."""
    kind = type(tensor)
    if kind in (Tensor, nn.Parameter) or kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return tensor
    return tensor.as_subclass(Tensor)


def detached(output: Any) -> Any:
    """`output` with every tensor in it detached, also those in containers."""
    return mapped(Tensor.detach, output)
