"""Chunks of what is to be done: their size, and half of it where memory runs out."""

from __future__ import annotations

import pytest
import torch

from camlib import CamlibWarning, InputError
from camlib.passes.chunks import Chunks, fitting, free

ITEMS = torch.arange(10)


FULL = torch.OutOfMemoryError("CUDA out of memory")


def doubled(chunks, most=100, error=FULL):
    """What comes of `ITEMS`, and the sizes tried, where more than `most` at once do not fit."""
    tried = []

    def double(items):
        tried.append(len(items))
        if len(items) > most:
            raise error
        return 2 * items

    parts = list(chunks.run(double, ITEMS, torch.zeros(1, 3, 8, 8)))
    assert torch.equal(torch.cat([items for items, _ in parts]), ITEMS)
    assert torch.equal(torch.cat([found for _, found in parts]), 2 * ITEMS)
    return tried


@pytest.mark.parametrize(("size", "sizes"), [(1, [1] * 10), (4, [4, 4, 2]), (None, [10])])
def test_chunks_are_of_the_size_asked_for(size, sizes):
    assert doubled(Chunks(size)) == sizes


@pytest.mark.filterwarnings("ignore:out of memory:camlib.CamlibWarning")
@pytest.mark.parametrize(
    "error",
    [
        FULL,
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_out_of_memory_goes_on_with_half_the_chunk_and_says_so(error):
    with pytest.warns(
        CamlibWarning,
        match="out of memory with 8 samples at once; continuing with 4; pass batch_size=4",
    ):
        assert doubled(Chunks(8), 5, error) == [8, 4, 4, 2]
    with pytest.warns(
        CamlibWarning, match="out of memory with 2 samples at once; continuing with 1"
    ):
        assert doubled(Chunks(8), 1, error) == [8, 4, 2, *[1] * 10]


@pytest.mark.filterwarnings("ignore:out of memory:camlib.CamlibWarning")
def test_one_that_does_not_fit_and_other_errors_go_on():
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        doubled(Chunks(4), 0)
    with pytest.raises(RuntimeError, match="the model's own"):
        doubled(Chunks(4), 2, RuntimeError("the model's own"))


def test_progress_wraps_the_chunks():
    seen = []

    def progress(chunks):
        for chunk in chunks:
            seen.append(len(chunk))
            yield chunk

    doubled(Chunks(4, progress))
    assert seen == [4, 4, 2]


def test_nothing_to_do():
    assert list(Chunks().run(torch.neg, ITEMS[:0], torch.zeros(1, 3))) == []


def test_bad_size():
    with pytest.raises(
        InputError, match="batch_size=0 is out of range; expected an integer of 1 or more"
    ):
        Chunks(0)


def test_size_follows_the_memory():
    image = torch.zeros(2, 3, 224, 224)
    each = 32 * 3 * 224 * 224 * 4
    assert fitting(image) == 2**29 // each == 27
    assert fitting(image, image) == 13
    assert fitting(image.half()) == 55
    assert fitting(torch.zeros(1, 3, 8, 8)) == 256
    assert fitting(torch.zeros(1, 1).expand(1, 2**40)) == 1


def test_free_memory_of_a_gpu_is_half_of_what_nobody_uses(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (600, 10_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 300)
    assert free(torch.device("cuda")) == 400
