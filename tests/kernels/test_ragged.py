"""A batch of images of many sizes, given as tensors or as places in somebody's memory: the same batch either way."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from engine.kernels import Filter, Placed, Plan, Ragged, one_pass

SIZES = [(3, 5), (8, 2), (1, 1), (40, 30)]


@pytest.fixture
def slab() -> torch.Tensor:
    return torch.randint(0, 256, (1 << 13,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def placed(slab: torch.Tensor) -> list[Placed]:
    """One after the other, with gaps."""
    starts = [7, 200, 300, 1000]
    return [Placed(slab.data_ptr() + start, *size, slab) for start, size in zip(starts, SIZES, strict=True)]


def test_places_and_tensors_are_the_same_batch(slab: torch.Tensor) -> None:
    there = Ragged(placed(slab))
    copied = Ragged([image.clone() for image in there.tensors])
    assert len(there) == 4 and there.device == slab.device
    assert there.sizes_B2.tolist() == copied.sizes_B2.tolist() == [list(size) for size in SIZES]
    assert there.sizes_B2.dtype == torch.int32 and there.pointers_B.dtype == torch.int64
    assert there.pointers_B.tolist() == [image.data_ptr() for image in there.tensors]
    assert there.bytes == copied.bytes == sum(3 * height * width for height, width in SIZES)
    plan = Plan(6, 7, torch.eye(3).repeat(4, 1, 1), (0.0,) * 3, (1.0,) * 3, Filter.BILINEAR)
    assert torch.equal(one_pass(there, plan), one_pass(copied, plan))


def test_both_may_be_mixed_repeated_and_put_in_another_order(slab: torch.Tensor) -> None:
    first, *others = placed(slab)
    mixed = Ragged([first.tensor().clone(), *others]).take([3, 0, 0])
    assert mixed.sizes_B2.tolist() == [[40, 30], [3, 5], [3, 5]]
    assert torch.equal(mixed.tensors[0], others[-1].tensor()) and torch.equal(mixed.tensors[2], first.tensor())
    assert Ragged([]).sizes_B2.shape == (0, 2) and Ragged([]).bytes == 0


def test_a_place_keeps_the_memory_that_it_is_in() -> None:
    slab = torch.zeros(300, dtype=torch.uint8)
    alive = weakref.ref(slab)
    images = Ragged([Placed(slab.data_ptr() + 3, 2, 2, slab)])
    pixels_HW3 = images.tensors[0]
    del slab
    gc.collect()
    assert alive() is not None and pixels_HW3.shape == (2, 2, 3)
    del images, pixels_HW3
    gc.collect()
    assert alive() is None
