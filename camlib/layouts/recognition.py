"""Recognise how an activation is read: from the layers before it, or by a measurement.

As long as only convolutions and the like have run, an activation lies on the axes of the image, and
its reading is certain. Every other layer is measured. Layers are read in the order in which they
finish: a shallow layer shows positions better than a deep one, and it shows where an input that was
cut or padded lies.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from camlib.errors import LayoutError
from camlib.layouts.base import Layout, Shape
from camlib.layouts.claims import AGREES, SURE, Claim, Grid
from camlib.layouts.conventions import said_by
from camlib.layouts.kinds import ChannelsFirst
from camlib.layouts.measured import Measured
from camlib.layouts.search import claims, orders
from camlib.maps import Window
from camlib.passes.courses import Course

CLEARLY = 0.1
"""The best reading must agree better than its rivals by this much."""

_AS_WELL = 0.02
"""Another sample may agree worse with a reading than the first one by this much."""

_ROUNDING = 1e-5
"""A layer that changes by a smaller share of its value changes by rounding."""


_Known = defaultdict[object, list[tuple["Reading", int]]]
"""Readings and their axes of channels, by the shape of the places that activations share."""


@dataclass(frozen=True)
class Reading:
    """How an activation is read.

    Attributes:
        layout: the layout.
        window: the part of the input that the grid covers.
        agreement: the correlation of claimed and measured positions along the axis where it is
            lowest; ``None`` if the reading was certain, or taken from another layer.
        lasting: whether the reading holds for other images of the same form. It does not if the
            content of an image decides where it is cut.
    """

    layout: Layout
    window: Window
    agreement: float | None = None
    lasting: bool = True


@dataclass
class Readings:
    """The readings of the layers of a pass, in the order in which the layers finish.

    Attributes:
        axes: the number of axes of the input's grid.
    """

    axes: int
    _known: dict[object, list[tuple[Reading, int]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    _grids: dict[Grid, None] = field(default_factory=dict)

    def certain(self, shape: Shape) -> Reading:
        """The reading of a layer before which nothing moved positions.

        Raises:
            LayoutError: the layer has no grid like the input's.
        """
        if len(shape) != self.axes + 2:
            raise LayoutError(
                f"an activation of shape {tuple(shape)} has no grid for an input of {self.axes} "
                "axes; choose a layer before pooling or flattening, or pass layout=, a function "
                "from the activation to (N, C, *grid)"
            )
        reading = Reading(ChannelsFirst(), self.whole)
        self._keep(0, shape, reading)
        return reading

    def unmoved(self, shape: Shape, seen: Measured) -> Reading:
        """The reading of a layer before which nothing moved positions, if it sees the image.

        Raises:
            LayoutError: the layer does not depend on the image, or has no grid.
        """
        if seen.still:
            raise LayoutError(_STILL)
        return self.certain(shape)

    def measured(
        self,
        shape: Shape,
        seen: Measured,
        module: nn.Module | None,
        course: Course,
        window: Window,
        entrance: Reading | None = None,
    ) -> Reading:
        """The reading of a layer from its measurement.

        Args:
            shape: the shape of its output.
            seen: the measurement.
            module: the module.
            course: what happened to the image on the way to the layer.
            window: the part of the input that the previous layer on that way covers.
            entrance: the reading of the image where it entered, with channels first. It applies if
                nothing has moved positions since, unless the measurement contradicts it.

        Raises:
            LayoutError: no layout agrees, or two do; or all places look at the same part.
        """
        known = self._known[_key(seen.samples, shape)]
        ranked = again = _agreeing(known, seen)
        if not ranked or ranked[0].agreement < SURE:
            telling = any(look.telling for look in seen.looks)
            new = claims(seen, self._grids, window, tokens=telling or not known)
            ranked = sorted([*again, *new], key=lambda claim: -claim.agreement)
        if ranked and (ranked[0] in again or ranked[0].agrees(self._grids)):
            return self._agreed(shape, seen, ranked, window, since=course.since)
        if seen.still:
            raise LayoutError(_STILL)
        if known and len(shape) == self.axes + 2:
            telling = any(seen.look(channels).telling for _, channels in known)
        if not course.since and entrance and len(shape) == self.axes + 2:
            claim = Claim.of(entrance.layout, next(seen.looks))
            if claim is not None and claim.agreement > -0.3 and not claim.turned_over:
                self._keep(seen.samples, shape, entrance)
                return entrance
        if telling and any(look.share >= _ROUNDING for look in seen.looks):
            tried = f" (correlations: {_listed(ranked)}; {SURE} is needed)" if ranked else ""
            raise LayoutError(
                f"no layout of {tuple(shape)} agrees with where its places look{tried}"
            )
        if ranked and ranked[0].agreement >= AGREES:
            raise LayoutError(f"no layout is certain: {_listed(ranked)}")
        if course.joined:
            raise LayoutError(_ALIKE.format(tuple(shape)))
        return self._without_positions(shape, seen, module, window, bool(ranked))

    def _agreed(
        self, shape: Shape, seen: Measured, ranked: Sequence[Claim], window: Window, *, since: bool
    ) -> Reading:
        """The reading of the first of the `ranked` claims, if no other agrees as well."""
        best = ranked[0]
        if len(shape) == 3 and not best.look.telling and any(look.telling for look in seen.looks):
            raise LayoutError(f"its places lie along another axis than {best.layout!r} claims")
        if best.agreement < SURE and len(best.look.axes) == len(best.grid) > 1:
            looks = [x for x in seen.looks if x is best.look or 1 not in x.strength.shape]
            agreement = max(max(orders(look).values()) for look in looks)
            if agreement > best.agreement + 1e-6:
                raise LayoutError(
                    f"another order of the axes agrees better ({agreement:.2f}) than "
                    f"{best.layout!r} ({best.agreement:.2f})"
                )
        close = [c for c in ranked[1:] if c.agreement > best.agreement - CLEARLY]
        rivals = [claim for claim in close if best.rivals(claim)]
        if rivals:
            raise LayoutError(f"two layouts fit equally well: {_listed([best, *rivals])}")
        reading = Reading(best.layout, _window(best, window, since=since), best.agreement)
        self._keep(seen.samples, shape, reading, best.look.channels)
        return reading

    def entry(self, seen: Measured) -> tuple[Window, Reading | None]:
        """The part of the input that a first layer gets, and the reading of what it gets.

        The image may be cut, padded, resized or turned before. The reading is ``None`` unless
        channels come first.
        """
        agreeing = [claim for claim in claims(seen, (), self.whole) if claim.agreement >= AGREES]
        if not agreeing:
            return self.whole, None
        # The places inside one patch are in order too, but all patches together cover more.
        best = max(agreeing, key=lambda claim: claim.extent)
        borders = zip(best.borders(), best.grid, strict=True)
        window = tuple(_snapped(*ends, cells) for ends, cells in borders)
        return window, Reading(best.layout, window) if best.look.channels == 1 else None

    def _without_positions(
        self,
        shape: Shape,
        seen: Measured,
        module: nn.Module | None,
        window: Window,
        grid: bool,
    ) -> Reading:
        """The reading of other layers with the same places, or the one that `module` implies.

        Raises:
            LayoutError: there is none, or the measurement contradicts it.
        """
        known = self._known[_key(seen.samples, shape)]
        said = said_by(module)
        readings = {each.layout: (each, channels) for each, channels in known}
        if not known and grid and said is not None and len(shape) == self.axes + 2:
            readings = {said: (Reading(said, window), 1)}
        if len(readings) == 1:
            [(reading, channels)] = readings.values()
            look = seen.look(channels)
            claim = Claim.of(reading.layout, look)
            wrong = claim is None or claim.contradicted or claim.displaced_apart
            if wrong and look.share >= _ROUNDING:
                raise LayoutError(f"{reading.layout!r} does not agree with where its places look")
            self._keep(seen.samples, shape, reading, channels)
            return Reading(reading.layout, window)
        raise LayoutError(
            _ALIKE.format(tuple(shape))
            if grid
            else f"an activation of shape {tuple(shape)} has no grid for an input of {self.axes} "
            "axes"
        )

    @property
    def whole(self) -> Window:
        """The whole input."""
        return ((0.0, 1.0),) * self.axes

    def _keep(self, samples: int, shape: Shape, reading: Reading, channels: int = 1) -> None:
        known = self._known[_key(samples, shape)]
        if reading.layout not in (each.layout for each, _ in known):
            known.append((reading, channels))
            self._grids[reading.layout.grid_of(shape)] = None


_STILL = "it does not depend on the image"

_ALIKE = "all places of {} look at the same part of the input, so the layer cannot localise"


def _window(claim: Claim, before: Window, *, since: bool) -> Window:
    """The part of the input that the claim's grid covers.

    It is the part that the layer `before` covers, unless something may have moved positions since
    the image entered, and sharp positions show another part.
    """
    if not since or not claim.sharp:
        return before
    window = []
    for ends, (first, last), cells in zip(claim.borders(), before, claim.grid, strict=True):
        start, end = _snapped(*ends, cells)
        close = 0.75 * max(end - start, last - first) / cells
        same = cells == 1 or max(abs(start - first), abs(end - last)) < close
        window.append((first, last) if same else (start, end))
    return tuple(window)


def _key(samples: int, shape: Shape) -> tuple[int, ...]:
    """A key that activations with the same places share, for any number of samples.

    Sequences with the same number of tokens share it, whatever their width.
    """
    rest = *shape[:samples], *shape[samples + 1 :]
    return (samples, rest[0]) if len(rest) == 2 and samples < 2 else (samples, *rest)


def confirm(reading: Reading, seen: Measured) -> Reading:
    """`reading`, which was found with one sample, if it fits another sample too.

    Raises:
        LayoutError: it does not fit.
    """
    if seen.still:
        raise LayoutError(_STILL)
    row = len(seen.axes) == 2 and seen.frames == 1
    tried = [claim for look in seen.looks if (claim := Claim.of(reading.layout, look))]
    if reading.agreement is None:
        fits = not row or any(not claim.contradicted for claim in tried)
    else:  # a row of tokens that is off by a few agrees nearly as well
        least = min(SURE, reading.agreement - _AS_WELL) if row else AGREES
        close = [claim for claim in tried if claim.agreement >= least]
        fits = any(not (claim.displaced or (row and claim.leaves_out)) for claim in close)
    if not fits:
        raise LayoutError(
            f"{reading.layout!r} fits the first sample but not all samples; explain samples whose "
            "patches lie at different places one at a time"
        )
    return reading


def _agreeing(known: Sequence[tuple[Reading, int]], seen: Measured) -> list[Claim]:
    """The claims of `known` readings that agree, the best first."""
    tried = [Claim.of(reading.layout, seen.look(channels)) for reading, channels in known]
    agreeing = [c for c in tried if c is not None and c.agreement >= AGREES and not c.displaced]
    return sorted(agreeing, key=lambda claim: -claim.agreement)


def _listed(ranked: Sequence[Claim], most: int = 4) -> str:
    return ", ".join(
        f"{claim.layout!r} {' and '.join(f'{c:.2f}' for c in claim.correlations)}"
        for claim in ranked[:most]
    )


def _snapped(start: float, end: float, cells: int) -> tuple[float, float]:
    """The ends of a window in ascending order, moved to those of the input if they are close."""
    close = 0.25 * abs(end - start) / cells
    low, high = min(start, end), max(start, end)
    return 0.0 if abs(low) < close else low, 1.0 if abs(high - 1) < close else high
