"""Readings compared with places that are built to look somewhere: the right one is found, or none.

A reading is right if what it makes of the layer's output is that output as it was on its grid,
before its axes were turned, its tokens shuffled, and others put between them.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from looks import centres, looking, nothing
from torch import Tensor

from camlib.layouts import (
    Axes,
    ChannelsFirst,
    ChannelsLast,
    Frames,
    Layout,
    Placed,
    Series,
    Tokens,
)
from camlib.layouts.claims import Claim
from camlib.layouts.measured import Measured
from camlib.layouts.search import claims
from camlib.maps import Window

WHOLE = ((0.0, 1.0), (0.0, 1.0))

GRIDS = [(4, 6), (5, 5), (3, 3), (2, 8), (7, 4)]


def found_in(
    output: Tensor, grids=(), *, samples: int = 0, frames: int = 1, window: Window = WHOLE
) -> list[Claim]:
    """The claims about an output that `looking` made, the best first."""
    return claims(Measured(output, samples, frames, 1), grids, window)


def claim(layout: Layout, output: Tensor, channels: int, samples: int = 0) -> Claim:
    """What `layout` claims of an output."""
    found = Claim.of(layout, Measured(output, samples, 1, 1).look(channels))
    assert found is not None
    return found


def in_a_row(
    on_grid: Tensor, numbers: Tensor, others: tuple[int, int, int] = (0, 0, 0), strength: float = 0
) -> Tensor:
    """The places `numbers` of an output ``(N, C, *grid)`` as tokens ``(N, T, C)``.

    Args:
        on_grid: ``(N, C, *grid)``.
        numbers: of the places, row by row, in the order of the tokens.
        others: how many tokens that are no places stand before, between and behind them.
        strength: by how much these change.
    """
    tokens, half = on_grid.flatten(2)[..., numbers], len(numbers) // 2
    before, between, behind = (nothing(count, strength) for count in others)
    return torch.cat([before, tokens[..., :half], between, tokens[..., half:], behind], 2).mT


@pytest.mark.parametrize("grid", GRIDS[:2])
@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_axes_in_any_order_and_direction(grid, order):
    on_grid = looking(centres(*grid))
    for flipped in ([], [2], [3], [2, 3]):
        output = on_grid.flip(flipped).permute(order)
        best = found_in(output, samples=order.index(0))[0]
        assert torch.equal(best.layout(output), on_grid)
        assert best.agreement == pytest.approx(1)
        assert best.agrees(())
        assert best.grid == grid


def test_usual_orders_have_their_names():
    on_grid = looking(centres(4, 6))
    for output, expected in [
        (on_grid, ChannelsFirst()),
        (on_grid.movedim(1, -1), ChannelsLast()),
        (on_grid.mT, Axes((0, 1, 3, 2))),
        (on_grid.flip(3), Axes((0, 1, 2, 3), flipped=(1,))),
    ]:
        best = found_in(output)[0]
        assert best.layout == expected
        assert best.usual == (expected in (ChannelsFirst(), ChannelsLast()))


def test_transposed_grid_disagrees_as_the_one_that_it_is_not():
    output = looking(centres(5, 5))
    assert claim(ChannelsFirst(), output, 1).correlations == pytest.approx([1, 1])
    assert claim(ChannelsFirst(), output.mT, 1).correlations == pytest.approx([0, 0])
    assert claim(ChannelsFirst(), output.flip(2), 1).correlations == pytest.approx([-1, 1])
    assert not claim(ChannelsFirst(), output.mT, 1).agrees([(5, 5)])
    assert not claim(ChannelsFirst(), output.flip(2), 1).agrees([(5, 5)])


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("others", [(0, 0, 0), (1, 0, 0), (5, 0, 0), (0, 0, 2), (2, 0, 3)])
@pytest.mark.parametrize("samples", [0, 1])
def test_tokens_row_by_row(grid, others, samples):
    on_grid = looking(centres(*grid))
    expected = Tokens(others[0], grid, others[2], samples == 0)
    for strength in (0, 0.03):
        output = in_a_row(on_grid, torch.arange(math.prod(grid)), others, strength)
        output = output.movedim(0, samples)
        for known in ([], [grid]):
            best = found_in(output, known, samples=samples)[0]
            assert best.layout == expected
            assert best.agrees(known)
            assert torch.equal(best.layout(output), on_grid)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("others", [(0, 0, 0), (1, 0, 0), (0, 3, 0), (1, 2, 3)])
@pytest.mark.parametrize("way", ["columns", "backwards", "from below", "rows"])
def test_tokens_in_another_order_of_rows(grid, others, way):
    numbers = torch.arange(math.prod(grid)).reshape(grid)
    numbers = {
        "columns": numbers.T,
        "backwards": numbers.flip(0, 1),
        "from below": numbers.flip(0),
        "rows": numbers,
    }[way]
    on_grid = looking(centres(*grid))
    output = in_a_row(on_grid, numbers.flatten(), others)
    best = found_in(output)[0]
    assert torch.equal(best.layout(output), on_grid)
    assert best.agrees(())
    assert best.usual == (way == "rows" and not others[1])


@pytest.mark.parametrize("flipped", [[], [0], [1], [0, 1]])
@pytest.mark.parametrize(("between", "strength"), [(0, 0), (2, 0.03), (2, 1)])
def test_tokens_are_told_where_places_see_more_than_their_cell(flipped, between, strength):
    on_grid = looking(centres(4, 6), 0.14)
    numbers = torch.arange(24).reshape(4, 6).flip(flipped)
    output = in_a_row(on_grid, numbers.flatten(), (0, between, 0), strength)
    best = found_in(output, [(4, 6)])[0]
    assert not best.clear
    assert best.agrees([(4, 6)])
    assert torch.equal(best.layout(output), on_grid)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    grid=st.sampled_from(GRIDS),
    seed=st.integers(0, 999),
    dropped=st.sampled_from([0, 0, 1, 2, 4]),
    others=st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)),
)
def test_shuffled_tokens_lie_where_they_look(grid, seed, dropped, others):
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randperm(math.prod(grid), generator=generator)[dropped:]
    on_grid = looking(centres(*grid))
    output = in_a_row(on_grid, numbers, others)
    [best, *_] = found_in(output, [grid])
    gone = torch.ones(math.prod(grid), dtype=torch.bool).index_fill(0, numbers, False)
    assert torch.equal(best.layout(output), on_grid.masked_fill(gone.reshape(grid), 0))
    assert best.agrees([grid])
    assert isinstance(best.layout, Placed if dropped else Tokens)


def test_dropped_tokens_leave_empty_cells():
    output = in_a_row(looking(centres(3, 4)), torch.tensor([4, 0, 1, 7, 2, 11, 3, 6, 9, 8]))
    best = found_in(output, [(3, 4)])[0]
    assert best.layout == Placed((1, 2, 4, 6, 0, -1, 7, 3, 9, 8, -1, 5), (3, 4))
    assert best.silent == 2


@pytest.mark.parametrize("strength", [0, 0.03])
def test_tokens_that_may_be_patches_are_placed_nowhere(strength):
    """Shuffled, and beside them some that change a little: these may be faint patches."""
    numbers = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    output = in_a_row(looking(centres(4, 6)), numbers, (1, 0, 0), strength)
    agreeing = [each for each in found_in(output, [(4, 6)]) if each.agrees([(4, 6)])]
    assert bool(agreeing) == (strength == 0)


@pytest.mark.parametrize("others", [(0, 0), (1, 0), (2, 3)])
@pytest.mark.parametrize("samples", [0, 1])
@pytest.mark.parametrize("steps", [7, 16])
def test_series(steps, others, samples):
    before, after = (torch.ones(3, 3, count, dtype=torch.float64) for count in others)
    series = looking(centres(steps))
    output = torch.cat([before, series, after], 2).mT.movedim(0, samples)
    best = found_in(output, samples=samples, window=((0.0, 1.0),))[0]
    assert torch.equal(best.layout(output), series)
    assert best.agrees(())
    if samples == 0 and others == (0, 0):
        assert best.layout == ChannelsLast()
    else:
        assert best.layout == Series(others[0], samples == 0, others[1])


def test_series_with_channels_first():
    best = found_in(looking(centres(9)), window=((0.0, 1.0),))[0]
    assert (best.layout, best.agreement) == (ChannelsFirst(), pytest.approx(1))


@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (0, 2, 3, 1), (0, 1, 3, 2)])
def test_frames_in_the_axis_of_the_samples(axes):
    clip = looking(centres(3, 4, 5))
    output = clip.movedim(2, 1).flatten(0, 1).permute(axes)
    best = found_in(output, frames=3, window=((0.0, 1.0),) * 3)[0]
    assert isinstance(best.layout, Frames)
    assert torch.equal(best.layout(output), clip)
    assert best.agrees(())


@pytest.mark.parametrize("reach", [0.0, 0.14])
def test_tokens_of_a_volume(reach):
    on_grid = looking(centres(2, 6, 3), reach)
    best = found_in(on_grid.flatten(2).mT, window=((0.0, 1.0),) * 3)[0]
    assert best.layout == Tokens(grid=(2, 6, 3))
    assert best.agrees(())


@pytest.mark.parametrize("by", [(1, 0), (0, 3), (2, 2), (4, 4)])
def test_grid_that_was_rolled_over_is_not_taken_for_right(by):
    grid = (8, 8)
    rolled = looking(centres(*grid)).roll(by, (2, 3))
    assert not any(each.agrees([grid]) for each in found_in(rolled, [grid]))
    plain = claim(ChannelsFirst(), rolled, 1)
    assert plain.turned_over
    assert not plain.agrees([grid])
    tokens = claim(Tokens(grid=grid), in_a_row(rolled, torch.arange(64)), 2)
    assert tokens.turned_over
    assert not tokens.agrees([grid])


def test_grid_in_order_is_not_turned_over():
    output = looking(centres(8, 8), 0.05)
    assert not claim(ChannelsFirst(), output, 1).turned_over
    assert not claim(ChannelsFirst(), looking(centres(8, 8).flip(0)), 1).turned_over


@pytest.mark.parametrize("reach", [0.0, 0.29])
@pytest.mark.parametrize("varied", [0.0, 0.004])
def test_collapsed_positions_give_no_claim_that_agrees(reach, varied):
    generator = torch.Generator().manual_seed(0)
    noise = varied * torch.randn(2, 4, 6, generator=generator, dtype=torch.float64)
    output = looking(0.5 + noise, reach)
    for shown in (output.movedim(1, -1), output.flatten(2).mT):
        measured = Measured(shown, 0, 1, 1)
        assert not any(look.telling for look in measured.looks if look.channels == shown.ndim - 1)
        for known in ([], [(4, 6)]):
            assert not any(each.agrees(known) for each in claims(measured, known, WHOLE))


def test_few_places_have_to_agree_better():
    """Of four places, one unusual reading or another agrees by half by chance."""
    bent = centres(2, 2)
    bent[:, 0, 0] = 0.5
    for output, layout, channels, agrees in [
        (looking(bent), ChannelsFirst(), 1, True),
        (looking(bent.mT), Axes((0, 1, 3, 2)), 1, False),
        (looking(bent).flatten(2).mT, Tokens(grid=(2, 2)), 2, False),
    ]:
        found = claim(layout, output, channels)
        assert 0.8 < found.agreement < 0.95
        assert found.agrees(()) == agrees
    assert claim(Axes((0, 1, 3, 2)), looking(centres(2, 2)).mT, 1).agrees(())


def test_row_agrees_by_less_on_a_grid_that_other_layers_have():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 4, 6, generator=generator, dtype=torch.float64)
    output = looking(centres(4, 6) + 0.13 * noise)
    row = claim(Tokens(grid=(4, 6)), output.flatten(2).mT, 2)
    assert 0.8 < row.agreement < 0.95
    assert row.agrees([(4, 6)])
    assert not row.agrees([])
    assert not row.agrees([(6, 4), (3, 8)])
    assert claim(ChannelsFirst(), output, 1).agrees([])
    worse = claim(ChannelsFirst(), looking(centres(4, 6) + 0.3 * noise), 1)
    assert worse.agreement < 0.8
    assert not worse.agrees([(4, 6)])


def test_layout_that_does_not_fit_claims_nothing():
    look = Measured(in_a_row(looking(centres(4, 6)), torch.arange(24)), 0, 1, 1).look(2)
    for layout in (Tokens(grid=(5, 5)), Placed((30,), (1, 1)), ChannelsFirst(), Series()):
        assert Claim.of(layout, look) is None
    assert Claim.of(Tokens(grid=(4, 6)), look) is not None


def test_claim_needs_two_places_that_change():
    strength = torch.zeros(4, 6, dtype=torch.float64)
    strength[2, 3] = 1
    one = Measured(looking(centres(4, 6), strength=strength), 0, 1, 1).look(1)
    assert Claim.of(ChannelsFirst(), one) is None
    strength[1, 0] = 1
    two = Measured(looking(centres(4, 6), strength=strength), 0, 1, 1).look(1)
    assert Claim.of(ChannelsFirst(), two).silent == 22


@pytest.mark.parametrize("reach", [0.0, 0.02, 0.08])
@pytest.mark.parametrize("grid", [(4, 6), (7, 5)])
@pytest.mark.parametrize(
    "window",
    [
        ((0.0, 1.0), (0.0, 1.0)),
        ((0.2, 0.7), (0.25, 1.0)),
        ((0.4, 0.9), (0.8, 0.1)),
    ],
)
def test_borders_tell_the_window_within_half_a_cell(window, grid, reach):
    layout = Axes((0, 1, 2, 3), flipped=(1,)) if window[1][0] > window[1][1] else ChannelsFirst()
    output = looking(centres(*grid, window=window), reach)
    borders = claim(layout, output, 1).borders()
    for (start, end), line, cells in zip(borders, window, grid, strict=True):
        low, high = sorted(line)
        half = (high - low) / cells / 2
        assert abs(start - low) < half
        assert abs(end - high) < half
    if not reach:
        expected = [pytest.approx(sorted(line)) for line in window]
        assert [list(ends) for ends in borders] == expected


def test_borders_of_a_padded_input():
    """Places in the padding do not change; those at its border look at a part of their cell."""
    window = ((-0.25, 1.25), (0.0, 1.3))
    places, strength = centres(12, 10, window=window), torch.ones(12, 10, dtype=torch.float64)
    for axis, (start, end) in enumerate(window):
        half = (end - start) / places.shape[1 + axis] / 2
        low, high = ((places[axis] + by).clamp(0, 1) for by in (-half, half))
        strength = strength * (high - low).sign()
        places[axis] = (low + high) / 2
    found = claim(ChannelsFirst(), looking(places, strength=strength), 1)
    assert found.silent == 4 * 10 + 8 * 2
    for (start, end), line, cells in zip(found.borders(), window, found.grid, strict=True):
        half = (line[1] - line[0]) / cells / 2
        assert abs(start - line[0]) < half
        assert abs(end - line[1]) < half


def test_borders_leave_out_what_a_padding_mirrors():
    places = centres(12, 6, window=((0.0, 1.0), (0.0, 1.0)))
    places[0, 0] = places[0, 1]
    (start, end), _ = claim(ChannelsFirst(), looking(places), 1).borders()
    assert (start, end) == (pytest.approx(0), pytest.approx(1))


def test_clear_claims_are_of_places_that_look_at_their_cell():
    def clear(places: Tensor, reach: float) -> bool:
        return claim(ChannelsFirst(), looking(places, reach), 1).clear

    assert clear(centres(4, 6), 0.1)
    assert not clear(centres(4, 6), 0.14)  # of a cell of a sixth
    assert clear(centres(4, 1), 0.1)
    bent = centres(4, 6)
    bent[0, 0] = 0.3
    assert not clear(bent, 0.0)


def test_rivals_put_places_at_other_distances():
    output = in_a_row(looking(centres(4, 4)), torch.arange(16), (0, 0, 4))
    look = Measured(output, 0, 1, 1).look(2)

    def read(layout: Layout) -> Claim:
        found = Claim.of(layout, look)
        assert found is not None
        return found

    right = read(Tokens(grid=(4, 4), suffix=4))
    assert not right.rivals(right)
    assert not right.rivals(read(Tokens(grid=(3, 4), suffix=8)))  # fewer rows
    assert not right.rivals(read(Tokens(4, (3, 4), 4)))  # the same, one row further
    assert not right.rivals(read(Tokens(grid=(5, 4))))
    for other in (
        Tokens(1, (4, 4), 3),
        Tokens(grid=(2, 8), suffix=4),
        Tokens(grid=(4, 4), patches=tuple(torch.arange(16).reshape(4, 4).T.flatten().tolist())),
        Tokens(grid=(4, 4), patches=tuple(range(15, -1, -1))),
    ):
        assert right.rivals(read(other))
        assert read(other).rivals(right)


def test_claims_of_other_channels_are_rivals():
    output = looking(centres(4, 6))
    assert claim(ChannelsFirst(), output, 1).rivals(claim(ChannelsFirst(), output, 1))
    look = Measured(output, 0, 1, 1).look(1)
    one, other = (Claim.of(ChannelsFirst(), look) for _ in range(2))
    assert not one.rivals(other)


def test_claims_come_in_order():
    for output in (looking(centres(5, 5), 0.05), looking(centres(4, 6), 0.05).flatten(2).mT):
        found = found_in(output)
        agreements = [each.agreement for each in found]
        assert agreements == sorted(agreements, reverse=True)


def test_tokens_are_not_looked_for_unless_asked():
    measured = Measured(in_a_row(looking(centres(4, 6)), torch.arange(24)), 0, 1, 1)
    assert claims(measured, [], WHOLE)
    assert not claims(measured, [], WHOLE, tokens=False)


def test_tokens_of_a_window_lie_on_its_cells():
    window = ((0.25, 0.75), (0.0, 0.5))
    numbers = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    output = in_a_row(looking(centres(4, 6, window=window)), numbers)
    expected = tuple(numbers.argsort().tolist())
    assert found_in(output, [(4, 6)], window=window)[0].layout == Tokens(
        grid=(4, 6), patches=expected
    )
