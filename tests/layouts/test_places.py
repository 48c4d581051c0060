"""Where each place of a layer looks, measured: one patch is bright, so the right map is known."""

from __future__ import annotations

import pytest
import torch
from one_bright_place import PATCH, WIDTH, Cells, Passing, Prompted, answer, dim, patches, text
from torch import Tensor, nn
from torch.nn import functional as F

from camlib import GradCAM, HiResCAM, LayoutError, ScoreCAM, layers
from camlib.layouts import Series, Tokens


def pictures(grid: tuple[int, int], cells: Cells, channels: int = 3) -> Tensor:
    """Images of patches on `grid`, one for each of `cells`, which is the patch that is bright."""
    batch = dim(len(cells), channels, *(PATCH * cell for cell in grid))
    for picture, (row, column) in zip(batch, cells, strict=True):
        picture[:, row * PATCH :, column * PATCH :][:, :PATCH, :PATCH] = 1
    return batch


def hottest(found: Tensor) -> Cells:
    """The hottest place of each map."""
    places = found.flatten(1).argmax(1)
    return [tuple(int(i) for i in torch.unravel_index(place, found.shape[1:])) for place in places]


class WithOthers(nn.Module):
    """Tokens of patches with others before, between and behind them."""

    def __init__(self, before: int, between: int, behind: int) -> None:
        super().__init__()
        self.patches, self.layer = patches(), Passing()
        self.counts = before, between, behind
        self.others = nn.Parameter(torch.randn(sum(self.counts), WIDTH))

    def forward(self, batch: Tensor) -> Tensor:
        tokens = self.patches(batch).flatten(2).mT
        half = tokens.shape[1] // 2 + 1
        others = self.others.expand(len(tokens), -1, -1).split(self.counts, 1)
        row = [others[0], tokens[:, :half], others[1], tokens[:, half:], others[2]]
        found = self.layer(torch.cat(row, 1)).split([part.shape[1] for part in row], 1)
        return answer(torch.cat([found[1], found[3]], 1)[..., 0])


@pytest.mark.parametrize(
    "counts", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (4, 0, 0), (0, 4, 0), (0, 0, 4), (2, 1, 3)]
)
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("layer", ["layer", None])
def test_tokens_that_are_no_patches_may_stand_anywhere(counts, count, layer):
    cells = [(3, 5), (1, 0)][:count]
    seen = HiResCAM(WithOthers(*counts).eval(), layer).explain(pictures((5, 7), cells), 1)
    assert seen.layers == ("layer",)
    assert seen.map.shape == (count, 5, 7)
    assert hottest(seen.map) == cells


@pytest.mark.parametrize(("before", "behind"), [(0, 4), (3, 1), (4, 0), (9, 6)])
@pytest.mark.parametrize("count", [1, 2])
def test_words_may_stand_before_and_behind_the_patches(before, behind, count):
    cells = [(3, 5), (1, 0)][:count]
    words = torch.tensor([text(before, behind)] * count)
    net, batch = Prompted().eval(), pictures((5, 7), cells)
    for method in (HiResCAM, ScoreCAM):
        seen = method(net, "layer").explain((batch, words), 1)
        assert hottest(seen.map) == cells
    [found] = [c for c in layers.candidates(net, (batch, words), 1) if c.name == "layer"]
    assert found.layout == Tokens(before, (5, 7), behind)


def test_patches_at_another_place_in_each_text_are_refused_together():
    cells = [(3, 5), (1, 0)]
    net, batch = Prompted().eval(), pictures((5, 7), cells)
    words = torch.tensor([text(3, 4), text(5, 2)])
    with pytest.raises(LayoutError, match=r"fits the first sample but not all .* one at a time"):
        HiResCAM(net, "layer")((batch, words), 1)
    cam = HiResCAM(net, "layer")
    alone = [cam.explain((batch[n : n + 1], words[n : n + 1]), 1).map for n in (0, 1)]
    assert hottest(torch.cat(alone)) == cells


class Steps(nn.Module):
    """Each step of a series is a token, or several steps are, with other tokens around them."""

    def __init__(self, channels: int, width: int, length: int, before: int, behind: int) -> None:
        super().__init__()
        self.length, self.before, self.behind = length, before, behind
        self.embed, self.layer = nn.Linear(channels * length, width), Passing()
        self.embed.weight.data[0] = 1 / (channels * length)
        self.others = nn.Parameter(torch.randn(before + behind, width))

    def forward(self, series: Tensor) -> Tensor:
        steps = series.unflatten(2, (-1, self.length)).transpose(1, 2).flatten(2)
        others = self.others.expand(len(series), -1, -1)
        row = [others[:, : self.before], self.embed(steps), others[:, self.before :]]
        found = self.layer(torch.cat(row, 1))
        return answer(found[:, self.before : found.shape[1] - self.behind, 0])


@pytest.mark.parametrize(("before", "behind"), [(0, 0), (1, 0), (0, 2), (2, 1)])
@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("width", [8, 24])
@pytest.mark.parametrize("channels", [2, 3])
def test_tokens_of_a_series_are_its_steps(channels, width, length, before, behind):
    """As many hidden channels as steps, and fewer."""
    torch.manual_seed(0)
    net = Steps(channels, width, length, before, behind).eval()
    series = dim(2, channels, 24 * length)
    for row, step in zip(series, (17, 4), strict=True):
        row[:, step * length : (step + 1) * length] = 1
    seen = HiResCAM(net).explain(series, 1)
    assert seen.layers == ("layer",)
    assert seen.map.shape == (2, 24)
    assert hottest(seen.map) == [(17,), (4,)]
    assert seen.heatmap.shape == (2, 24 * length)
    [found] = [c for c in layers.candidates(net, series, 1) if c.default]
    if before or behind:
        assert found.layout == Series(before, suffix=behind)


class Folded(nn.Module):
    """A network of single pictures sees each frame; `outer` is the outer axis of its batch."""

    def __init__(self, outer: str) -> None:
        super().__init__()
        self.patches, self.act, self.outer = patches(), nn.ReLU(), outer

    def forward(self, clip: Tensor) -> Tensor:
        if self.outer == "samples":
            found = self.act(self.patches(clip.flatten(0, 1))).unflatten(0, clip.shape[:2])
        else:
            found = self.act(self.patches(clip.transpose(0, 1).flatten(0, 1)))
            found = found.unflatten(0, (clip.shape[1], len(clip))).transpose(0, 1)
        return answer(found[:, :, 0])


def clips(frames: int, cells: Cells) -> Tensor:
    """Clips ``(N, frames, 3, 24, 40)`` with one bright patch: its frame, row and column."""
    batch = dim(len(cells), frames, 3, 3 * PATCH, 5 * PATCH)
    for clip, (frame, row, column) in zip(batch, cells, strict=True):
        clip[frame, :, row * PATCH :, column * PATCH :][:, :PATCH, :PATCH] = 1
    return batch


@pytest.mark.parametrize("frames", [2, 3, 6])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("layer", ["act", None])
def test_frames_in_the_batch_belong_to_their_sample(frames, count, layer):
    cells = [(1, 2, 4), (frames - 1, 0, 1)][:count]
    net, batch = Folded("samples").eval(), clips(frames, cells)
    seen = HiResCAM(net, layer).explain(batch, 1)
    assert seen.map.shape == (count, frames, 3, 5)
    assert hottest(seen.map) == cells
    assert seen.heatmap.shape == (count, frames, 24, 40)


@pytest.mark.parametrize("count", [1, 2])
def test_frames_before_samples_in_the_batch_are_refused_or_told(count):
    cells = [(1, 2, 4), (3, 0, 1)][:count]
    net, batch = Folded("frames").eval(), clips(4, cells)
    with pytest.raises(LayoutError, match="or a function from the activation to"):
        HiResCAM(net, "act")(batch, 1)
    told = HiResCAM(net, "act", layout=lambda a: a.unflatten(0, (4, -1)).movedim(0, 2))
    assert hottest(told.explain(batch, 1).map) == cells


class Predicting(nn.Module):
    """A detector that returns four numbers of a box and scores for each place, of two levels."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.act, self.down = patches(), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 2, 2)
        self.fine, self.coarse = nn.Conv2d(WIDTH, 7, 1), nn.Conv2d(WIDTH, 7, 1)
        self.decode = nn.Conv1d(7, 7, 1)

    def forward(self, batch: Tensor) -> tuple[Tensor, list[Tensor]]:
        found = self.act(self.body(batch))
        levels = [self.fine(found), self.coarse(self.act(self.down(found)))]
        rows = self.decode(torch.cat([level.flatten(2) for level in levels], 2))
        return rows.sigmoid(), levels


def test_predictions_of_a_detector_are_no_grid():
    torch.manual_seed(0)
    net, batch = Predicting().eval(), pictures((4, 6), [(1, 2), (3, 4)])
    assert net(batch)[0].shape == (2, 7, 30)

    def mean(output: tuple[Tensor, list[Tensor]]) -> Tensor:
        return output[0][:, 5].mean(1)

    with pytest.raises(LayoutError, match=r"layer 'decode': .* \(2, 7, 30\)"):
        GradCAM(net, "decode")(batch, mean)
    assert "decode" not in {c.name for c in layers.candidates(net, batch, mean)}
    for layer in ("body", "down", None):
        assert GradCAM(net, layer)(batch, mean, relu=False).shape == (2, 32, 48)


class Line(nn.Module):
    """Reads a line of text: each column is a step, ``(T, N, classes)`` as CTC takes them."""

    def __init__(self, first: str) -> None:
        super().__init__()
        self.columns = nn.Conv2d(1, WIDTH, (16, PATCH), (16, PATCH))
        self.columns.weight.data = torch.randn(self.columns.weight.shape) / 50
        self.columns.weight.data[0] = 1 / (16 * PATCH)
        self.layer, self.first = Passing(), first

    def forward(self, lines: Tensor) -> Tensor:
        found = self.layer(self.columns(lines).squeeze(2).permute(2, 0, 1))[..., 0]
        found = torch.stack([-found, found], 2)
        return found if self.first == "steps" else found.transpose(0, 1)


@pytest.mark.parametrize("first", ["steps", "samples"])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("layer", ["layer", "columns", None])
def test_steps_of_a_line_of_text_are_its_columns(first, count, layer):
    torch.manual_seed(0)
    lines = dim(count, 1, 16, 9 * PATCH)
    for line, column in zip(lines, (6, 2, 4), strict=False):
        line[..., column * PATCH : (column + 1) * PATCH] = 1
    axis = 0 if first == "steps" else 1
    cam = HiResCAM(Line(first).eval(), layer)
    seen = cam.explain(lines, lambda out: out[..., 1].mean(axis))
    assert seen.map.shape == (count, 1, 9)
    assert hottest(seen.map) == [(0, 6), (0, 2), (0, 4)][:count]


class Spectrogram(nn.Module):
    """Takes ``(N, time, frequency)`` and makes tokens of it, frequencies outside, two before."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.layer = patches(channels=1), Passing()
        self.others = nn.Parameter(torch.randn(2, WIDTH))

    def forward(self, batch: Tensor) -> Tensor:
        tokens = self.patches(batch.mT[:, None]).flatten(2).mT
        row = torch.cat([self.others.expand(len(batch), -1, -1), tokens], 1)
        return answer(self.layer(row)[:, 2:, 0])


@pytest.mark.parametrize("grid", [(7, 3), (3, 7), (5, 5)])
@pytest.mark.parametrize("layer", ["layer", "patches"])
def test_time_and_frequency_keep_their_axes(grid, layer):
    cells = [(2, 1), (0, 2)]
    batch = pictures(grid, cells, channels=1)[:, 0]
    cam = HiResCAM(Spectrogram().eval(), layer, image_layout="NHW")
    seen = cam.explain(batch, 1)
    assert seen.map.shape == (2, *grid)
    assert hottest(seen.map) == cells


def letterboxed(batch: Tensor) -> Tensor:
    """Twice as large, in the middle of a square."""
    large = F.interpolate(batch, scale_factor=2, mode="bilinear")
    return F.pad(large, (0, 0, 32, 32))


WAYS = {
    "cut at the left and below": lambda batch: batch[..., :-PATCH, 12:],
    "cut at the right and above": lambda batch: batch[..., 4:, : -PATCH - 4],
    "in the middle of a square": letterboxed,
    "padded at the left and above": lambda batch: F.pad(batch, (PATCH, 0, 12, 4)),
    "twice as large": lambda batch: F.interpolate(batch, scale_factor=2, mode="bilinear"),
    "a quarter turn": lambda batch: torch.rot90(batch, 1, (2, 3)),
    "upside down": lambda batch: batch.flip(2),
    "cut from a canvas": lambda batch: torch.cat([batch * 0, batch, batch * 0], 3)[..., 52:-36],
}
"""What a model may do with an image before its first layer."""


class Looking(nn.Module):
    """Looks at the image in a way of its own, as a grid or as tokens."""

    def __init__(self, way: str, tokens: bool) -> None:
        super().__init__()
        self.patches, self.layer, self.way, self.tokens = patches(), Passing(), way, tokens

    def forward(self, batch: Tensor) -> Tensor:
        found = self.patches(WAYS[self.way](batch)).movedim(1, -1)
        return answer(self.layer(found.flatten(1, 2) if self.tokens else found)[..., 0])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_map_lies_where_the_model_looked_on_the_image_as_given(way, tokens, count):
    cells = [(2, 4), (1, 3)][:count]
    net, batch = Looking(way, tokens).eval(), pictures((6, 10), cells)
    for method, tolerance in ((HiResCAM, PATCH / 2), (ScoreCAM, PATCH)):
        found = method(net, "layer")(batch, 1)
        for heat, cell in zip(found, cells, strict=True):
            middle = (heat > 0.7 * heat.max()).nonzero().double().mean(0)
            expected = torch.tensor(cell) * PATCH + (PATCH - 1) / 2
            assert ((middle - expected).abs() <= tolerance).all(), (method, middle, expected)
