"""Large results lie on large pages, and are tensors like any other."""

from __future__ import annotations

import gc
import mmap
import weakref

import pytest
import torch

from camlib import maps, memory, overlay

LARGE = (5, 2**21)
"""Of float32: 40 MiB."""

linux = pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="no large pages here")


@pytest.fixture
def pages(monkeypatch):
    """Notes what is asked of the system."""
    found = []

    class Noted(mmap.mmap):
        def madvise(self, option):
            found.append((len(self), option))
            return super().madvise(option)

    monkeypatch.setattr(mmap, "mmap", Noted)
    return found


@pytest.mark.parametrize("shape", [(), (0,), (2, 3), LARGE])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.uint8])
def test_memory_is_as_asked_for(shape, dtype):
    found = memory.empty(shape, torch.ones(1, dtype=dtype))
    assert (found.shape, found.dtype) == (shape, dtype)
    assert found.is_contiguous()
    assert not found.requires_grad
    assert found.fill_(3).eq(3).all()


@linux
def test_large_memory_is_on_large_pages(pages):
    like = torch.ones(1)
    memory.empty((5, 2**20), like)
    assert pages == []
    memory.empty(LARGE, like)
    assert pages == [(5 * 2**23, mmap.MADV_HUGEPAGE)]


@linux
def test_large_memory_is_given_back(monkeypatch):
    made = []

    class Noted(mmap.mmap):
        def __new__(cls, *args, **kwargs):
            made.append(weakref.ref(pages := super().__new__(cls, *args, **kwargs)))
            return pages

    monkeypatch.setattr(mmap, "mmap", Noted)
    found = memory.empty(LARGE, torch.ones(1))
    part = found[1].fill_(2)
    del found
    gc.collect()
    assert made[0]() is not None
    assert part.eq(2).all()
    del part
    gc.collect()
    assert made[0]() is None


@linux
def test_what_is_no_plain_tensor_of_the_cpu_is_as_pytorch_makes_it(pages):
    class Own(torch.Tensor):
        pass

    assert memory.empty(LARGE, torch.ones(1, device="meta")).is_meta
    assert type(memory.empty(LARGE, torch.ones(1).as_subclass(Own))) is Own
    assert pages == []


@linux
def test_without_memory_the_error_is_that_of_pytorch(monkeypatch):
    def refusing(*_args, **_options):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", refusing)
    assert memory.empty(LARGE, torch.ones(1)).fill_(1).eq(1).all()
    with pytest.raises(RuntimeError, match="allocate memory"):
        memory.empty((2**50,), torch.ones(1))


def test_systems_without_large_pages_have_ordinary_ones(monkeypatch):
    class Refusing(mmap.mmap):
        def madvise(self, _option):
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(mmap, "mmap", Refusing)
    assert memory.empty(LARGE, torch.ones(1)).fill_(1).eq(1).all()
    monkeypatch.setattr(mmap, "mmap", None)  # not even asked
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    assert memory.empty(LARGE, torch.ones(1)).fill_(1).eq(1).all()


@linux
def test_many_heatmaps_and_many_overlays_are_on_large_pages(pages):
    heat = maps.normalize(maps.resize(torch.rand(1, 4, 7, 7), (1500, 1600)), inplace=True)
    assert [size for size, _ in pages] == [heat.nbytes]
    laid = overlay(torch.rand(4, 3, 1500, 1600), heat[0])
    assert [size for size, _ in pages] == [heat.nbytes, laid.nbytes]
