"""How the layers of a model are read: what has to be measured for it, and what is remembered."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from nets import Net, Pooling, features, images, pooled, spread, transformer
from torch import Tensor, nn
from torchvision.models import SwinTransformer, VisionTransformer

from camlib import GradCAM, LayoutError, layers, layouts
from camlib.layouts import ChannelsFirst, ChannelsLast, Tokens, reader, reading
from camlib.layouts.reader import NamedReadings
from camlib.layouts.reading import reading_of, readings, visited
from camlib.layouts.recognition import Reading
from camlib.passes.inputs import Inputs
from camlib.passes.visits import Visits


class Second(nn.Module):
    """PyTorch's encoder with the samples second, and a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        block = nn.TransformerEncoderLayer(8, 2, 16, norm_first=True, dropout=0)
        self.encoder = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 4)

    def forward(self, batch: Tensor) -> Tensor:
        tokens = self.patches(batch).flatten(2).permute(2, 0, 1)
        tokens = torch.cat([self.token.expand(-1, tokens.shape[1], -1), tokens])
        return self.head(self.encoder(tokens)[0])


class Cut(Net):
    """Looks at the lower right part of the image alone."""

    def forward(self, batch: Tensor) -> Tensor:
        return super().forward(batch[..., 4:, 4:])


def swin() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SwinTransformer([4, 4], 8, [2, 1], [2, 2], [2, 2], num_classes=4).eval()


def vit() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=4).eval()


NETS = {
    "convolutions": (pooled, (2, 8, 8)),
    "cut": (lambda: Cut(pooled().features, pooled().tail).eval(), (2, 12, 16)),
    "transformer": (transformer, (2, 12, 16)),
    "transformer of a signal": (lambda: transformer(axes=1), (2, 24)),
    "transformer of a volume": (lambda: transformer(axes=3, depth=1), (1, 6, 8, 10)),
    "samples second": (lambda: spread(Second()), (2, 16, 24)),
    "windows": (swin, (1, 32, 48)),
    "class token": (vit, (2, 32, 32)),
}
"""Networks, and the number and size of their images."""

EACH = [
    pytest.param(
        *net, id=name, marks=[pytest.mark.slow] * (name in ("transformer of a volume", "windows"))
    )
    for name, net in NETS.items()
]


def read(model: nn.Module, batch: Tensor, wanted: tuple[str, ...] | None = None) -> NamedReadings:
    """How layers are read, of a pass of `model` on `batch`; those `wanted`, or all."""
    given = Inputs.of(batch)
    with torch.no_grad():
        order, _ = visited(model, given)
        return readings(model, given, order, wanted)


def said(found: NamedReadings, name: str) -> Reading | str:
    """What was found of a layer; the message of an error."""
    each = found[name]
    return each if isinstance(each, Reading) else str(each)


@pytest.fixture
def measured(monkeypatch) -> list[set[str]]:
    """The names of what each measurement takes, as they are made."""
    seen: list[set[str]] = []
    plain = reader.measure

    def measure(model, given, sample, shapes, *rest):
        seen.append(set(shapes))
        plain(model, given, sample, shapes, *rest)

    monkeypatch.setattr(reader, "measure", measure)
    return seen


@pytest.mark.parametrize(("build", "size"), EACH)
def test_some_layers_are_read_as_all_are(build, size):
    net, batch = build(), images(*size)
    whole = read(copy.deepcopy(net), batch)
    assert any(isinstance(each, Reading) for each in whole.values())
    names = list(whole)
    for wanted in [(name,) for name in names[:: 1 + len(names) // 7]] + [tuple(names[1::3])]:
        found = read(copy.deepcopy(net), batch, wanted)
        for name in wanted:
            assert said(found, name) == said(whole, name)


def test_layers_asked_for_one_after_another_are_read_as_all_at_once():
    net, batch = transformer(), images(2, 12, 16)
    whole = read(copy.deepcopy(net), batch)
    for name in reversed(whole):
        assert said(read(net, batch, (name,)), name) == said(whole, name)
    for name in whole:
        assert said(read(net, batch), name) == said(whole, name)


@pytest.mark.parametrize(("build", "size"), EACH)
def test_no_more_is_measured_than_needed(build, size, measured):
    """Beside what is asked for, the first layer of each shape, which tells the others the grid."""
    net, batch = build(), images(*size)
    order, _ = visited(net, Inputs.of(batch))
    moved = {
        f"{visit.name}@{call}": shape
        for visit in order
        for call, (shape, course) in enumerate(zip(visit.shapes, visit.courses, strict=True))
        if (course.moved or course.joined) and len(shape) > 2
    }
    first = {shape: name for name, shape in reversed(moved.items())}
    entries = {f"{e.name}<{e.call}" for e in order.entries if e.course.moved}
    for visit in order[::5]:
        measured.clear()
        read(copy.deepcopy(net), batch, (visit.name,))
        last = f"{visit.name}@{visit.calls - 1}"
        for taken in measured:
            assert taken <= {*entries, last, *first.values()}
            assert last in taken or last not in moved
    measured.clear()
    read(net, batch)
    assert measured == ([moved.keys() | entries] if moved else [])


def test_network_in_which_nothing_moves_is_never_measured(measured):
    net = pooled()
    found = read(net, images())
    assert found["features"] == Reading(ChannelsFirst(), ((0.0, 1.0), (0.0, 1.0)), None)
    GradCAM(net)(images(), 1, relu=False)
    assert layers.candidates(net, images())[-1].agreement is None
    assert measured == []


def test_readings_are_remembered_beside_the_model(measured):
    net, batch = transformer(), images()

    def ask(model: nn.Module, layer: str, batch: Tensor) -> int:
        """How often was measured for a map so far."""
        GradCAM(model, layer, relu=False).explain(batch, 1)
        return len(measured)

    assert ask(net, "features.1", batch) == 1
    calls = []
    net.register_forward_hook(lambda *_: calls.append(1))
    assert ask(net, "features.1", 2 * batch) == 1
    assert len(calls) == 1
    assert ask(net, "features.2", batch) == 2  # another layer
    assert ask(net, "features.2", images(2, 12, 16)) == 3  # another size
    assert ask(transformer(), "features.2", batch) == 4  # another model


def test_part_that_was_replaced_is_read_anew():
    class Last(nn.Module):
        def forward(self, tensor: Tensor) -> Tensor:
            return tensor.movedim(1, -1)

    class First(nn.Module):
        def forward(self, tensor: Tensor) -> Tensor:
            return tensor.movedim(1, -1).movedim(-1, 1)

    net = Net(nn.Sequential(nn.Conv2d(3, 6, 2, stride=2), Last()), nn.Flatten()).eval()
    batch = images(2, 12, 12)
    assert read(net, batch)["features"].layout == ChannelsLast()
    net.features[1] = First()
    assert read(net, batch)["features"].layout == ChannelsFirst()


@pytest.mark.parametrize("build", [pooled, transformer])
def test_readings_die_with_the_model(build):
    gc.collect()
    net, batch, before = build(), images(), len(reading._known)
    GradCAM(net).explain(batch, 1, relu=False)
    read(net, batch)
    assert len(reading._known) == before + 1
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None
    assert len(reading._known) == before


class Particular(Net):
    """Takes two samples, no more and no less."""

    def forward(self, batch: Tensor) -> Tensor:
        if len(batch) != 2:
            raise ValueError("two samples, if you please")
        return super().forward(batch)


def test_model_of_a_fixed_batch_says_what_to_do():
    plain = transformer()
    net, batch = Particular(plain.features, plain.tail).eval(), images()
    message = (
        r"layer 'features\.2': camlib cannot measure where it looks \(ValueError: two samples, if "
        r"you please\); choose another layer, or pass layout=, such as layout=camlib\.layouts\."
        r"Tokens\(prefix=1, grid=\(4, 4\)\), or a function"
    )
    with pytest.raises(LayoutError, match=message):
        GradCAM(net, "features.2")(batch, 1)
    told = Tokens(prefix=1, grid=(4, 4))
    found = GradCAM(net, "features.2", layout=told)(batch, 1, relu=False)
    expected = GradCAM(plain, "features.2")(batch, 1, relu=False)
    torch.testing.assert_close(found, expected)


def test_model_of_a_fixed_batch_is_read_where_it_is_certain():
    net, batch = transformer(), images()
    fixed = Particular(net.features, net.tail).eval()
    for layer in ("features.0", None):
        seen = GradCAM(fixed, layer).explain(batch, 1, relu=False)
        assert seen.layers == ("features.0",)
        expected = GradCAM(net, "features.0").explain(batch, 1, relu=False)
        torch.testing.assert_close(seen.heatmap, expected.heatmap)


def test_error_of_a_grid_in_doubt_gives_an_example_of_its_axes():
    class Rolled(nn.Module):
        def forward(self, tensor: Tensor) -> Tensor:
            return tensor.roll((4, 4), (2, 3))

    net = Net(nn.Sequential(nn.Conv2d(3, 6, 2, stride=2), Rolled()), nn.Flatten()).eval()
    with pytest.raises(
        LayoutError, match=r"or pass layout=, such as .*layouts\.ChannelsLast\(\), or a function"
    ):
        GradCAM(net, "features.1")(images(2, 16, 16), 1)


def test_calls_of_a_layer_are_read_apart():
    class Twice(Net):
        def forward(self, batch: Tensor) -> Tensor:
            one = self.features(batch)
            other = self.features(batch.mT)
            return self.tail((one + other.mT).movedim(1, -1))

    found = read(Twice(nn.Conv2d(3, 6, 2, stride=2), nn.ReLU()).eval(), images(2, 8, 12))
    assert found.keys() == {"features@0", "features", "tail"}
    assert found["features@0"].layout == ChannelsFirst()
    assert found["features"].layout == layouts.Axes((0, 1, 3, 2))
    assert found["tail"].layout == ChannelsLast()


def test_layout_that_is_told_lies_on_the_part_that_the_model_sees():
    net, batch = Cut(features(), nn.Flatten()).eval(), images(2, 12, 16)
    window = ((4 / 12, 1.0), (4 / 16, 1.0))
    shape = (2, 6, 4, 6)
    given = Inputs.of(batch)
    for layout in (None, ChannelsFirst()):
        found = reading_of(net, given, Visits(), "features", shape, layout)
        assert found.layout == ChannelsFirst()
        for ends, expected in zip(found.window, window, strict=True):
            assert ends == pytest.approx(expected, abs=0.01)


def test_layer_that_answers_alike_to_strong_noise_is_measured_with_weak():
    class Limited(nn.Module):
        """Near its reference it is linear, further away it says only on which side it is."""

        def __init__(self, reference: Tensor) -> None:
            super().__init__()
            self.reference = reference
            self.scale = nn.Parameter(torch.tensor(50.0))

        def forward(self, batch: Tensor) -> Tensor:
            away = ((batch - self.reference) * self.scale).clamp(-1, 1)
            return away.flatten(2).mT

    batch = images(1, 6, 8)
    net = Net(Limited(batch), nn.Flatten()).eval()
    assert isinstance(read(net, batch)["features"], LayoutError)
    found = reading_of(net, Inputs.of(batch), Visits(), "features", (1, 48, 3))
    assert found.layout == Tokens(grid=(6, 8))


class Beside(nn.Module):
    """Tokens of an image, behind as many others as a number beside it says."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 2, stride=2)
        self.mark, self.pooling = nn.Identity(), Pooling()

    def forward(self, batch: Tensor, starts: Tensor) -> Tensor:
        tokens = self.patches(batch).flatten(2).mT
        rows = torch.cat([tokens, tokens.new_ones(len(tokens), 6, tokens.shape[2])], 1)
        places = torch.arange(rows.shape[1]) - starts[:, None]
        rows = rows.gather(1, (places % rows.shape[1])[..., None].expand(rows.shape))
        return self.pooling(self.mark(rows).mT)


def test_what_stands_beside_the_image_is_part_of_the_form(measured):
    net, batch = Beside().eval(), images(2, 8, 12)
    for start in (0, 2, 5):
        given = Inputs.of((batch, torch.tensor([start, start])))
        found = reading_of(net, given, Visits(), "mark", (2, 30, 6))
        assert found.layout == Tokens(start, (4, 6), 6 - start)
    assert len(measured) == 6  # a measurement of each sample


def test_samples_whose_patches_lie_apart_have_no_reading_in_common():
    net, batch = Beside().eval(), images(2, 8, 12)
    with pytest.raises(LayoutError, match="fits the first sample but not all"):
        reading_of(net, Inputs.of((batch, torch.tensor([1, 4]))), Visits(), "mark", (2, 30, 6))
