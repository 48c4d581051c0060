"""Finding how an activation is read: from what ran before it, else from where its places look.

As long as only convolutions and their like have run, an activation lies on the axes of the image
and its reading is certain. Everything else is measured. Layers of one pass are read in the order in
which they finish: a shallow layer tells more about places than a deep one, and where the input lies
that was cut or padded on the way.
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
"""By how much it has to agree better than any other."""

_AS_WELL = 0.02
"""The reading of another sample agrees as well as that of the first to within this."""

_ROUNDING = 1e-5
"""A layer that changes by a smaller share of itself changes by rounding."""


_Known = defaultdict[object, list[tuple["Reading", int]]]
"""Readings, and the axes of the channels, of activations of the same places."""


@dataclass(frozen=True)
class Reading:
    """How an activation is read.

    Attributes:
        layout: which of its axes is what.
        window: which part of the input the grid covers.
        agreement: the correlation of the positions that the layout claims and those measured, along
            the axis where it is lowest; ``None`` where the reading was certain, or taken over.
        lasting: whether other images of the same form are read so too. Not so if what an image
            shows decides where it is cut.
    """

    layout: Layout
    window: Window
    agreement: float | None = None
    lasting: bool = True


@dataclass
class Readings:
    """The readings of the layers of a pass, found in the order in which they finish.

    Attributes:
        axes: how many the grid of the input has.
    """

    axes: int
    _known: dict[object, list[tuple[Reading, int]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    _grids: dict[Grid, None] = field(default_factory=dict)

    def certain(self, shape: Shape) -> Reading:
        """The reading of a layer before which nothing moved places.

        Raises:
            LayoutError: it has no grid like the input's.
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
        """The reading of a layer before which nothing moved places, if it looks at the image.

        Raises:
            LayoutError: it does not, or has no grid.
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
        """The reading of a layer from what was measured of it.

        Args:
            shape: of its output.
            seen: what was measured.
            module: whose output it is.
            course: what became of the image on the way to it.
            window: which part of the input the layer before it on that way covers.
            entrance: how the image is read where it entered, with channels first. A layer has its
                axes if nothing has moved places since, unless the measurement contradicts.

        Raises:
            LayoutError: no reading agrees, or two; or the layer has no positions.
        """
        known = self._known[_key(seen.samples, shape)]
        found = again = _agreeing(known, seen)
        if not found or found[0].agreement < SURE:
            telling = any(look.telling for look in seen.looks)
            new = claims(seen, self._grids, window, tokens=telling or not known)
            found = sorted([*again, *new], key=lambda claim: -claim.agreement)
        if found and (found[0] in again or found[0].agrees(self._grids)):
            return self._agreed(shape, seen, found, window, since=course.since)
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
            tried = f" (correlations: {_listed(found)}; {SURE} is needed)" if found else ""
            raise LayoutError(
                f"no reading of {tuple(shape)} agrees with where its places look{tried}"
            )
        if found and found[0].agreement >= AGREES:
            raise LayoutError(f"no reading is certain: {_listed(found)}")
        if course.joined:
            raise LayoutError(_ALIKE.format(tuple(shape)))
        return self._without_positions(shape, seen, module, window, bool(found))

    def _agreed(
        self, shape: Shape, seen: Measured, found: Sequence[Claim], window: Window, *, since: bool
    ) -> Reading:
        """The first of the claims that were `found`, if no other agrees as well."""
        best = found[0]
        if len(shape) == 3 and not best.look.telling and any(look.telling for look in seen.looks):
            raise LayoutError(f"its places lie along another axis than {best.layout!r} says")
        if best.agreement < SURE and len(best.look.axes) == len(best.grid) > 1:
            looks = [x for x in seen.looks if x is best.look or 1 not in x.strength.shape]
            agreement = max(max(orders(look).values()) for look in looks)
            if agreement > best.agreement + 1e-6:
                raise LayoutError(
                    f"{best.layout!r} agrees by {best.agreement:.2f}, and another order of the "
                    f"axes by {agreement:.2f}"
                )
        close = [c for c in found[1:] if c.agreement > best.agreement - CLEARLY]
        rivals = [claim for claim in close if best.rivals(claim)]
        if rivals:
            raise LayoutError(f"two readings fit equally well: {_listed([best, *rivals])}")
        reading = Reading(best.layout, _window(best, window, since=since), best.agreement)
        self._keep(seen.samples, shape, reading, best.look.channels)
        return reading

    def entry(self, seen: Measured) -> tuple[Window, Reading | None]:
        """Which part of the input a first layer is given, cut, padded, resized or turned.

        And how it is read, if it has its channels first.
        """
        found = [claim for claim in claims(seen, (), self.whole) if claim.agreement >= AGREES]
        if not found:
            return self.whole, None
        # The places inside a patch are in order too; those of all patches cover more.
        best = max(found, key=lambda claim: claim.extent)
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
        """The reading of layers of the same places, or by what `module` is.

        Raises:
            LayoutError: there is none, or where places look speaks against it.
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
            if claim is None or (claim.contradicted and look.share >= _ROUNDING):
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
        """All of the input."""
        return ((0.0, 1.0),) * self.axes

    def _keep(self, samples: int, shape: Shape, reading: Reading, channels: int = 1) -> None:
        known = self._known[_key(samples, shape)]
        if reading.layout not in (each.layout for each, _ in known):
            known.append((reading, channels))
            self._grids[reading.layout.grid_of(shape)] = None


_STILL = "it does not depend on the image"

_ALIKE = "all places of {} look at the same part of the input: the network does not localise there"


def _window(claim: Claim, before: Window, *, since: bool) -> Window:
    """The part of the input that the first layer of its kind covers.

    It is that of the layer `before`, unless something may have moved places since the image
    entered, and the positions are sharp and tell otherwise.
    """
    if not since or not claim.sharp:
        return before
    found = []
    for ends, (first, last), cells in zip(claim.borders(), before, claim.grid, strict=True):
        start, end = _snapped(*ends, cells)
        close = 0.75 * max(end - start, last - first) / cells
        same = cells == 1 or max(abs(start - first), abs(end - last)) < close
        found.append((first, last) if same else (start, end))
    return tuple(found)


def _key(samples: int, shape: Shape) -> tuple[int, ...]:
    """What activations of the same places have in common, however many samples they are of.

    Sequences of as many tokens are the same, whatever their width.
    """
    rest = *shape[:samples], *shape[samples + 1 :]
    return (samples, rest[0]) if len(rest) == 2 and samples < 2 else (samples, *rest)


def confirm(reading: Reading, seen: Measured) -> Reading:
    """`reading`, found with one sample, if it is that of another too.

    Raises:
        LayoutError: it is not.
    """
    if seen.still:
        raise LayoutError(_STILL)
    row = len(seen.axes) == 2 and seen.frames == 1
    found = [claim for look in seen.looks if (claim := Claim.of(reading.layout, look))]
    if reading.agreement is None:
        fits = not row or any(not claim.contradicted for claim in found)
    else:  # a row of tokens that is off by a few agrees as well, nearly
        least = min(SURE, reading.agreement - _AS_WELL) if row else AGREES
        close = [claim for claim in found if claim.agreement >= least]
        fits = any(not (claim.displaced or (row and claim.leaves_out)) for claim in close)
    if not fits:
        raise LayoutError(
            f"{reading.layout!r} fits the first sample and not all of them; explain "
            "samples whose patches lie at different places one by one"
        )
    return reading


def _agreeing(known: Sequence[tuple[Reading, int]], seen: Measured) -> list[Claim]:
    """The claims of `known` readings that agree, the best first."""
    found = [Claim.of(reading.layout, seen.look(channels)) for reading, channels in known]
    agreeing = [c for c in found if c is not None and c.agreement >= AGREES and not c.displaced]
    return sorted(agreeing, key=lambda claim: -claim.agreement)


def _listed(found: Sequence[Claim], most: int = 4) -> str:
    return ", ".join(
        f"{claim.layout!r} {' and '.join(f'{c:.2f}' for c in claim.correlations)}"
        for claim in found[:most]
    )


def _snapped(start: float, end: float, cells: int) -> tuple[float, float]:
    """The ends of a window in ascending order, exactly those of the input where they are close."""
    close = 0.25 * abs(end - start) / cells
    low, high = min(start, end), max(start, end)
    return 0.0 if abs(low) < close else low, 1.0 if abs(high - 1) < close else high
