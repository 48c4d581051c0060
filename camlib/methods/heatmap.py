"""What every method of heatmaps is: maps that are rectified, resized and scaled as asked for."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor, nn

from camlib import maps
from camlib.errors import NOT_FINITE, InputError, warn
from camlib.maps import Fuse, Normalize
from camlib.methods.base import Method
from camlib.methods.options import CallingOptions
from camlib.options import checked
from camlib.passes.forward import Pass
from camlib.passes.inputs import ModelInputs, detached
from camlib.results import Explanation
from camlib.targets import TargetLike
from camlib.targets.saturation import saturated

__all__ = ["MapMethod"]


class Showable(Method):
    """A method whose maps are shown in one of several ways, chosen when it is built or called."""

    @checked
    def __call__(
        self,
        inputs: ModelInputs,
        target: TargetLike = None,
        *,
        relu: bool | None = None,
        resize: bool | None = None,
        normalize: Normalize | None = None,
    ) -> Tensor:
        """Where the model looked: the `heatmap` of `explain`.

        Args:
            inputs: see `Method.__call__`.
            target: see `Method.__call__`.
            relu: whether negative evidence is cut off; ``None`` as the method is built, as for
                the other two.
            resize: whether the maps come at the input's size, or at the layer's grid.
            normalize: how they are scaled: ``True``, ``"max"``, ``"centered"`` or ``False``.

        Returns:
            A map ``(N, H, W)`` in [0, 1] for each sample; ``(N, K, H, W)`` for several classes a
            sample. Float32, on the input's device.

        Raises:
            CamlibError: the inputs, the target or the layer do not fit the model; see the message.
            OptionError: there is no such option, or it has no such value.
        """
        return self.explain(inputs, target, relu=relu, resize=resize, normalize=normalize).heatmap

    @checked
    def explain(
        self,
        inputs: ModelInputs,
        target: TargetLike = None,
        *,
        relu: bool | None = None,
        resize: bool | None = None,
        normalize: Normalize | None = None,
    ) -> Explanation:
        """Everything one call knows.

        Args:
            inputs: see `Method.__call__`.
            target: see `Method.__call__`.
            relu: see `__call__`, as for the next two.
            resize: see `__call__`.
            normalize: see `__call__`.

        Returns:
            The heatmap, and what else there is. The heatmap is ``(N, H, W)`` float32 in [0, 1] on
            the input's device; ``(N, K, H, W)`` for several classes a sample. A flat map gives
            zeros, or 0.5 where the sign is kept and it is zero.

        Raises:
            CamlibError: the inputs, the target or the layer do not fit the model; see the message.
        """
        return self._explain(inputs, target, relu=relu, resize=resize, normalize=normalize)


class MapMethod(Showable):
    """A heatmap for each sample.

    Args:
        model: any network; wrapped, compiled, frozen or training.
        differentiable: keep the graph, so that a heatmap can stand in a loss.
        relu: whether negative evidence is cut off; by default as in the method's paper, and not
            for a target whose sign says as much (`camlib.targets.Regression`).
        resize: whether a call returns maps at the input's size, or at the layer's grid.
        normalize: ``True`` for [0, 1], ``"max"`` to divide by the largest value only,
            ``"centered"`` for [0, 1] with 0.5 for "no evidence", ``False`` for units of the score;
            by default ``True``, or ``"centered"`` where such a target's sign is kept.

    Raises:
        ModelError: `model` is not a module.
        OptionError: there is no such option, or it has no such value.
    """

    rectify: ClassVar[bool] = True
    """Whether the paper's map ends with a ReLU."""

    fuse: Fuse = "mean"
    """How the maps of several layers become one."""

    @checked
    def __init__(
        self,
        model: nn.Module,
        *,
        differentiable: bool = False,
        relu: bool | None = None,
        resize: bool = True,
        normalize: Normalize | None = None,
        **options: Unpack[CallingOptions],
    ) -> None:
        super().__init__(model, **options)
        self.differentiable = differentiable
        self.relu = relu
        self.resize = resize
        self.normalize: Normalize | None = normalize

    def present(
        self,
        run: Pass,
        values: list[Tensor],
        relu: bool | None = None,
        resize: bool | None = None,
        normalize: Normalize | None = None,
        **_: Any,
    ) -> Explanation:
        """The heatmap of a clean pass and its signed maps ``(N, K, *grid)``.

        Args:
            run: the clean pass.
            values: the maps.
            relu: see `__call__`, as for the next two.
            resize: see `__call__`.
            normalize: see `__call__`.
        """
        run.seen.warn_of_repeats()
        relu = self.relu if relu is None else relu
        if relu is None:
            relu = self.rectify and not run.target.signed
        resize = self.resize if resize is None else resize
        normalize = self.normalize if normalize is None else normalize
        if normalize is None:
            normalize = "centered" if run.target.signed and not relu else True
        given = run.inputs
        # A model spread over devices leaves its maps where the layers are.
        shown = [(m.relu() if relu else m).to(given.image.device) for m in values]
        if not self.differentiable:
            self._examine(run, values, shown)
        shape = len(given), *run.shape
        alike = maps.alike(shown, self.fuse)
        grid = max((m.shape[2:] for m in shown), key=math.prod)
        fused = heat = maps.fuse([maps.resize(m, grid) for m in alike], self.fuse)
        if resize:
            windows = run.windows(len(shown))
            placed = [maps.place(m, given.size, w) for m, w in zip(alike, windows, strict=True)]
            heat = maps.fuse(placed, self.fuse)
        apart = heat.flatten(1, -1 - len(given.size))
        fresh = not self.differentiable and not _share(heat, (fused, *shown))
        scaled = (maps.normalize_ if fresh else maps.normalize)(apart, normalize)
        heat = scaled.reshape(heat.shape)
        return Explanation(
            heatmap=heat.reshape(*shape, *heat.shape[2:]),
            map=fused.reshape(*shape, *fused.shape[2:]),
            maps=tuple(m.reshape(*shape, *m.shape[2:]) for m in shown),
            score=maps.precise(run.scores.detach()).reshape(shape),
            target=run.target.classes,
            output=detached(run.output),
            layers=run.seen.names,
            method=type(self).__name__,
            size=given.size,
            axis=given.axis,
            replayed=run.replayed,
        )

    @abstractmethod
    def advice(self, run: Pass, layer: str) -> str:
        """What else to try where `layer` shows nothing."""

    def _examine(self, run: Pass, signed: list[Tensor], shown: list[Tensor]) -> None:
        """Refuse maps that are not finite; warn of maps that are zero everywhere."""
        unknown = (run.scores.isnan().any() & run.target.asks).to(shown[0].device)
        states = [
            torch.stack([~m.isfinite().all(), _zero(m), _zero(s).to(m.device), unknown])
            for m, s in zip(shown, signed, strict=True)
        ]
        for name, (broken, empty, idle, scoreless) in zip(
            run.names(len(shown)), torch.stack(states).tolist(), strict=True
        ):
            where = f"at layer {name!r}" if name else f"of {type(self).__name__}"
            if broken:
                raise InputError(NOT_FINITE.format(f"the map {where}"))
            if scoreless:
                raise InputError(NOT_FINITE.format("the score"))
            if empty:
                against = "" if idle else "relu=False shows what speaks against it; "
                why = saturated(run.output, run.target) if idle else ""
                hint = why or f"nothing there speaks for the target; {against}"
                warn(
                    f"a map {where} is zero everywhere: {hint}"
                    + ("" if why else self.advice(run, name))
                )


def _zero(signed: Tensor) -> Tensor:
    """Whether one of the maps ``(N, K, *grid)`` is zero everywhere, ``()``."""
    return ~signed.flatten(2).any(2).all()


def _share(tensor: Tensor, others: Iterable[Tensor]) -> bool:
    """Whether `tensor` has memory in common with one of `others`."""
    place = tensor.untyped_storage().data_ptr()
    return any(place == other.untyped_storage().data_ptr() for other in others)
