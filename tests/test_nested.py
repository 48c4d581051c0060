"""One walk through tuples, lists, mappings and dataclasses."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace

import pytest
import torch
from nets import Net, images, pooled
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from camlib import AblationCAM, GradCAM, LayerError, ScoreCAM
from camlib.nested import activations, first, mapped, replaced, tensors, tensors_in

Pair = namedtuple("Pair", ["name", "maps"])


class Checked(namedtuple("Checked", ["maps"])):
    """A named tuple that is made of something else than its fields."""

    def __new__(cls, maps: Tensor, *, scale: int) -> Checked:
        return super().__new__(cls, maps if scale == 1 else maps * scale)


@dataclass(frozen=True)
class Answer:
    maps: object
    note: str = "kept"


@dataclass(slots=True)
class Slotted:
    maps: object


PACKS = {
    "tuple": lambda maps: (None, maps),
    "list": lambda maps: ["ids", maps],
    "list of tuples": lambda maps: [("a", 1), ("b", maps)],
    "named tuple": lambda maps: Pair("ids", maps),
    "named tuple of its own making": lambda maps: Checked(maps, scale=1),
    "dict": lambda maps: {"ids": torch.zeros(2).long(), "maps": maps},
    "nested dict": lambda maps: {"ids": 3, "found": {"deep": OrderedDict(maps=[maps])}},
    "user dict": lambda maps: UserDict(maps=maps),
    "mapping that cannot be changed": lambda maps: MappingProxyType({"maps": maps}),
    "dataclass": lambda maps: Answer(maps),
    "dataclass with slots": lambda maps: Slotted(maps),
    "dataclass in a tuple": lambda maps: (Answer({"maps": (maps,)}), None),
    "namespace": lambda maps: SimpleNamespace(maps=maps, size=(2, 3)),
}
packs = pytest.mark.parametrize("pack", PACKS.values(), ids=PACKS)


@packs
def test_tensors_are_found_mapped_and_replaced(pack):
    value, other = torch.ones(2, 3), torch.zeros(2, 3)
    packed = pack(value)
    [(path, found)] = [each for each in tensors(packed) if each[1].is_floating_point()]
    assert found is value
    for made in (replaced(packed, path, other), mapped(lambda tensor: tensor * 0, packed)):
        assert type(made) is type(packed)
        assert [each for each, _ in tensors(made)] == [each for each, _ in tensors(packed)]
        assert torch.equal(dict(tensors(made))[path], other)
    assert first("a", packed)[1] is value
    assert dict(tensors(packed))[path] is value


def test_outermost_come_first():
    outer, inner, integer = torch.ones(1), torch.ones(2), torch.ones(3).long()
    packed = [(inner, inner), {"a": outer}["a"], integer]
    assert [path for path, _ in activations(packed)] == [(1,), (0, 0), (0, 1)]
    assert [len(tensor) for tensor in tensors_in(packed)] == [2, 2, 1, 3]


def test_what_holds_no_tensor_is_as_it_is():
    for value in (None, "words", 3, (), [], {}, torch.Size([2, 3]), Answer):
        assert mapped(Tensor.neg, value) == value
        assert not tensors_in(value)
    with pytest.raises(LayerError, match="layer 'a' returned list with no floating-point tensor"):
        first("a", [torch.ones(2).long()])


def test_tuples_of_pytorch():
    highest = torch.ones(2, 3).max(1)
    assert mapped(lambda tensor: tensor + 1, highest).values.tolist() == [2, 2]
    packed = pack_sequence([torch.ones(3), torch.ones(2)])
    doubled = mapped(lambda tensor: 2 * tensor, packed)
    assert type(doubled) is PackedSequence
    assert doubled.data.eq(2).all()


@packs
@pytest.mark.parametrize("kind", [GradCAM, ScoreCAM, AblationCAM])
def test_layer_that_returns_a_structure(kind, pack):
    class Packed(nn.Module):
        def forward(self, batch):
            return pack(batch)

    class Unpacked(nn.Module):
        def forward(self, packed):
            assert type(packed) is type(pack(torch.ones(1)))
            [maps] = [value for value in tensors_in(packed) if value.is_floating_point()]
            return maps

    net, batch = pooled(), images()
    packing = Net(nn.Sequential(net.features, Packed()), nn.Sequential(Unpacked(), net.tail)).eval()
    found = kind(packing, "features")(batch, 1)
    torch.testing.assert_close(found, kind(net, "features")(batch, 1))
    assert found.any()
