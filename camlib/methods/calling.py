"""How every method calls a model: which input is the image, how it is read, in which mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn

from camlib.errors import LayerError, LayoutError
from camlib.layouts.reading import as_read
from camlib.methods.described import describe
from camlib.options import checked
from camlib.passes.axes import check_layout
from camlib.passes.images import image_of
from camlib.passes.inputs import Inputs
from camlib.passes.names import unwrap
from camlib.passes.paths import Path, Where
from camlib.state.modes import explaining


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
        ModelError: `model` is not a module.
        OptionError: there is no such option, or it has no such value.
    """

    layers: tuple[str, ...] = ()
    """Dotted names of the layers that are read."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        describe(cls)

    @checked
    def __init__(
        self,
        model: nn.Module,
        *,
        image: Where | None = None,
        image_layout: str | None = None,
        eval: bool = True,
    ) -> None:
        unwrap(model)
        check_layout(image_layout)
        self.model = model
        self.image = image
        self.image_layout = image_layout
        self.eval = eval
        self._images: dict[Any, Path] = {}
        self._axes: dict[Any, tuple[int | None, bool]] = {}

    @contextmanager
    def _prepared(self, inputs: Any) -> Iterator[tuple[nn.Module, Inputs]]:
        """The model without wrappers, ready to be explained, and what it is called with.

        To be entered inside `Called`.
        """
        model = unwrap(self.model)
        given = Inputs.of(inputs, model, image=self.image, image_layout=self.image_layout)
        with explaining(model, given.image.device, eval=self.eval):
            given = self._completed(model, given)
            try:
                yield model, given
            except (LayerError, LayoutError) as error:
                given.annotate(error)
                raise

    def _completed(self, model: nn.Module, given: Inputs) -> Inputs:
        """`given` with its image and its axes known, and the pictures that belong to it."""
        return self._accompanied(self._imaged(model, given))

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
        if given.told or len(given.readings()) < 2:
            return given
        key = self.layers, given.path, given.image.shape[1:]
        if key not in self._axes:
            read = as_read(model, given, self.layers)
            self._axes[key] = read.axis, read.told
        axis, told = self._axes[key]
        return replace(given, axis=axis, told=told)
