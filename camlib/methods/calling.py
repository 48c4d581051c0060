"""How every method calls a model: which input is the image, how it is read, in which mode."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, ClassVar

import torch
from torch import nn

from camlib.errors import LayerError, LayoutError, OptionError
from camlib.images import image_of
from camlib.inputs import Inputs
from camlib.layouts.reading import as_read
from camlib.modes import explaining
from camlib.modules import unwrap
from camlib.paths import Path, Where
from camlib.readings import check_layout


class Calling:
    """What calls a model, and leaves it as found.

    Args:
        model: any network; wrapped, compiled, frozen or training.
        image: which of several inputs is the image, where it cannot be measured: a position, a
            name, or a path of these into containers, such as ``(0, "pixels")``.
        image_layout: a letter for each axis of the image: ``N`` for samples first, ``C`` for
            channels, others for its grid: ``"NCHW"``, ``"NHWC"``, ``"NHW"`` (grey), ``"NTCHW"``,
            ``"NCL"``, ``"NL"``. Where it is not given, channels follow the samples unless the
            shape or the layer says otherwise.
        eval: whether modules are in evaluation mode in a call. With ``False`` they keep the modes
            they have, and the random numbers of the model go on from call to call: dropout that is
            left in training mode gives another map in each.

    Raises:
        InputError: `image_layout` is not known.
        ModelError: `model` is not a module.
        OptionError: there is no such option.
    """

    layers: tuple[str, ...] = ()
    """Dotted names of the layers that are read."""

    reads: ClassVar[bool] = False
    """Whether layers are read, which tell the axes of the image."""

    def __init__(
        self,
        model: nn.Module,
        *,
        image: Where | None = None,
        image_layout: str | None = None,
        eval: bool = True,
        **unknown: Any,
    ) -> None:
        check_options(type(self), unknown)
        unwrap(model)
        check_layout(image_layout)
        self.model = model
        self.image = image
        self.image_layout = image_layout
        self.eval = eval
        self._images: dict[Any, Path] = {}
        self._axes: dict[Any, int | None] = {}

    @contextmanager
    def _prepared(self, inputs: Any) -> Iterator[tuple[nn.Module, Inputs]]:
        """The model without wrappers, ready to be explained, and what it is called with."""
        model = unwrap(self.model)
        given = Inputs.of(inputs, model, image=self.image, image_layout=self.image_layout)
        with explaining(model, given.image.device, eval=self.eval), torch.inference_mode(False):
            given = self._accompanied(self._imaged(model, given))
            try:
                yield model, given
            except (LayerError, LayoutError) as error:
                given.annotate(error)
                raise

    def _accompanied(self, given: Inputs) -> Inputs:
        """`given` with the pictures that belong to its samples, such as a baseline."""
        return given

    def _imaged(self, model: nn.Module, given: Inputs) -> Inputs:
        """`given` with the image that the layers, or the answer, look at; measured once."""
        if not given.rivals:
            return self._read(model, given)
        shapes = [given.imaged(path).image.shape[1:] for path in given.rivals]
        key = (self.layers, given.path, given.rivals, *shapes)
        if key not in self._images:
            self._images[key] = image_of(model, given, self.layers).path
        return self._read(model, given.imaged(self._images[key]))

    def _read(self, model: nn.Module, given: Inputs) -> Inputs:
        """`given` with the axis of its channels as the layers have it; measured once."""
        if given.told or not self.reads or len(given.readings()) < 2:
            return given
        key = self.layers, given.path, given.image.shape[1:]
        if key not in self._axes:
            self._axes[key] = as_read(model, given, self.layers).axis
        return replace(given, axis=self._axes[key], told=True)


def check_options(kind: type, given: Iterable[str], known: Iterable[str] = ()) -> None:
    """Check that nothing is `given` that `kind` has no option for.

    Args:
        kind: a method.
        given: names that it does not know.
        known: of options of the call; by default those of the constructor.

    Raises:
        OptionError: there is a name, with what it is called here.
    """
    for name in given:
        if name in ELSEWHERE:
            raise OptionError(f"{name}= is not an option of {kind.__name__}; {ELSEWHERE[name]}")
        options = set(known) or {
            each.name
            for part in kind.__mro__
            if part is not object and "__init__" in vars(part)
            for each in inspect.signature(vars(part)["__init__"]).parameters.values()
            if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
        }
        near = get_close_matches(name, sorted(options - {"self"}), n=1)
        hint = f"did you mean {near[0]}=?" if near else f"there are {_listed(options - {'self'})}"
        raise OptionError(f"{name}= is not an option of {kind.__name__}; {hint}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"{name}=" for name in sorted(names))


_LAYER = (
    "the layer is called layer=: a module, its dotted name, a list of either, or None for the "
    "default; methods of pixels have none"
)
_TARGET = "what to explain is the target= of a call: a class, one a sample, or a function"
_BLOCKS = "maps of attention take blocks=: how many of the last ones count"
_DEVICE = "nothing has to be said: a map is computed where the inputs are"
ELSEWHERE = {
    "target_layer": _LAYER,
    "target_layers": _LAYER,
    "targets": _TARGET,
    "target_category": _TARGET,
    "class_idx": _TARGET,
    "use_cuda": _DEVICE,
    "device": _DEVICE,
    "reshape_transform": "layers are read without one; layout= is for those that cannot be",
    "input_tensor": "the images are the first argument of a call, inputs",
    "input_img": "the images are the first argument of a call, inputs",
    "input_shape": "the layer is chosen from the first inputs; leave it out",
    "fc_layer": "the classifier is found by itself; leave it out",
    "aug_smooth": "wrap the method: Augmented(GradCAM(model))",
    "eigen_smooth": "methods that weigh channels have it: GradCAM(model, eigen_smooth=True)",
    "normalized": "use normalize=",
    "multiply_by_inputs": "use multiply=",
    "n_steps": "use steps=",
    "nt_type": "SmoothGrad and Smooth have statistic=: 'mean', 'square' or 'variance'",
    "layer_index": _BLOCKS,
    "start_layer": _BLOCKS,
}
"""What other libraries have, and where it is here."""
