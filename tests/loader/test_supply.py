"""What streams share: room by the bytes, memory that is used again."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import ExitStack, closing

import numpy as np
import pytest
import torch

from engine.decode.decoder import Opened, Pixels, whole
from engine.errors import EngineError
from engine.kernels import cpu_pass
from engine.loader import supply as supply_module
from engine.loader.batches import Loader, Samples
from engine.loader.source import Memory
from engine.loader.stream import ImageStream
from engine.loader.supply import Slabs, Supply, prefetch_bytes, shared_supplies, supply_for
from engine.ranks import join_ranks
from engine.recipe.sections import DecodeSection
from engine.system import total_host_bytes

HOST = torch.device("cpu")
KEYS = np.zeros(1, dtype=np.int64)
MIB = 2**20


class Counting:
    """Decodes any file to a photo of one MiB, and counts the bytes that are alive."""

    device = HOST
    made = alive = most = at_once = busy = 0
    lock = threading.Lock()

    def __init__(self) -> None:
        Counting.made += 1

    def open(self, contents: Sequence[bytes]) -> list[Opened]:
        return [Opened(content, 512, 682) for content in contents]

    def pixels(self, opened: Sequence[Opened], regions: object = None, rough: bool = False) -> list[Pixels]:
        Counting.busy += 1
        Counting.at_once = max(Counting.at_once, Counting.busy)
        photos = [whole(self._photo()) for _ in opened]
        Counting.busy -= 1
        return photos

    def _photo(self) -> torch.Tensor:
        array = np.zeros((512, 682, 3), dtype=np.uint8)
        pixels = torch.from_numpy(array)
        with Counting.lock:
            Counting.alive += 1
            Counting.most = max(Counting.most, Counting.alive)
        weakref.finalize(array, self._gone)
        return pixels

    @staticmethod
    def _gone() -> None:
        with Counting.lock:
            Counting.alive -= 1


@pytest.fixture(autouse=True)
def counting(monkeypatch: pytest.MonkeyPatch) -> None:
    Counting.made = Counting.alive = Counting.most = Counting.at_once = Counting.busy = 0
    monkeypatch.setattr(supply_module, "decoder_for", lambda *_: Counting())


def stream(supply: Supply, photos: int = 4, batches: int = 12) -> ImageStream:
    source = Memory([b"photo"] * photos)
    return ImageStream(source, [np.arange(photos)] * batches, DecodeSection(), HOST, supply=supply)


def settled() -> int:
    """Photos that are alive when nothing changes any more."""
    before = -1
    while before != Counting.alive:
        before = Counting.alive
        time.sleep(0.1)
    return before


@pytest.mark.parametrize(
    ("megabytes", "photos"), [(0, 7 * 4), (29, 7 * 4), (20, 5 * 4), (13, 3 * 4), (9, 2 * 4), (1, 2 * 4)]
)
def test_as_many_batches_are_made_ahead_as_fit_and_at_least_one(megabytes: int, photos: int) -> None:
    """Batches of four photos, a MiB each: five wait, one is the consumer's, one stands before the queue."""
    supply = Supply(DecodeSection(prefetch=5, prefetch_mb=megabytes), HOST)
    with closing(iter(stream(supply))) as running:
        next(running)
        assert settled() == photos
        seen = 1 + sum(1 for _ in running)
    assert seen == 12 and Counting.most <= photos + 4 and supply.room.taken == 0


def test_batches_of_two_streams_are_counted_together() -> None:
    supply = Supply(DecodeSection(prefetch=5, prefetch_mb=17), HOST)
    with ExitStack() as stack:
        one = stack.enter_context(closing(iter(stream(supply))))
        next(one)
        assert settled() == 16
        other = stack.enter_context(closing(iter(stream(supply, batches=3))))
        assert settled() == 20  # the other may make one all the same
        assert sum(1 for _ in other) == 3
        assert settled() <= 20
    assert supply.room.taken == 0


def test_closing_wakes_a_thread_that_waits_for_room() -> None:
    supply = Supply(DecodeSection(prefetch=5, prefetch_mb=1), HOST)
    running = iter(stream(supply))
    next(running)
    settled()
    began = time.monotonic()
    running.close()
    assert time.monotonic() - began < 5 and supply.room.taken == 0


def test_there_is_one_decoder_and_never_two_batches_in_it_at_once() -> None:
    supply = Supply(DecodeSection(), HOST)
    for _ in range(2):
        list(stream(supply, batches=2))
    with ExitStack() as stack:
        for _ in range(3):
            assert len(list(zip(stack.enter_context(closing(iter(stream(supply)))), range(6), strict=False))) == 6
    assert Counting.made == 1 and Counting.at_once == 1


def test_loaders_share_what_they_decode_with_where_that_is_wished() -> None:
    section, other = DecodeSection(prefetch=5), DecodeSection(prefetch=4)
    assert supply_for(section, HOST) is not supply_for(section, HOST)
    with shared_supplies():
        shared = supply_for(section, HOST)
        assert supply_for(DecodeSection(prefetch=5), HOST) is shared and supply_for(other, HOST) is not shared
        loaders = [Loader(Samples(["a"], Memory([b"a"]), KEYS, KEYS), section, HOST) for _ in range(2)]
        for loader in loaders:
            assert len(list(loader.photos([np.arange(1)]))) == 1
        assert Counting.made == 1
    assert supply_for(section, HOST) is not shared


def test_slabs_fit_are_used_again_and_not_hoarded() -> None:
    slabs = Slabs(pinned=False, limit=4 * MIB)
    small, large = slabs.take(MIB), slabs.take(2 * MIB)
    assert len(small) >= MIB and len(large) >= 2 * MIB
    slabs.give(large)
    slabs.give(small)
    assert slabs.take(MIB // 2) is small
    assert slabs.take(MIB // 2) is large
    slabs.give(small)
    assert len(slabs.take(3 * MIB)) >= 3 * MIB  # in the place of the small one
    assert slabs.take(MIB) is not small
    slabs.give(torch.empty(5 * MIB, dtype=torch.uint8))
    assert len(slabs.take(MIB)) < 5 * MIB


def test_no_memory_for_a_batch_names_what_to_change() -> None:
    with pytest.raises(EngineError, match=r"decode\.prefetch_mb"):
        Slabs(pinned=False, limit=0).take(1 << 60)


def test_the_room_is_what_the_recipe_says_or_a_share_of_the_memory() -> None:
    assert prefetch_bytes(DecodeSection(prefetch_mb=300), HOST) == 300 * MIB
    assert prefetch_bytes(DecodeSection(), HOST) == (total_host_bytes() or 0) // 8


def test_processes_of_a_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(supply_module, "decoder_for", lambda section, *_: asked.append(section.threads) or Counting())
    monkeypatch.setattr("engine.ranks.cores", lambda: 16)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert all(Supply(DecodeSection(threads=threads), HOST).decoder for threads in (0, 7))
    assert asked == [4, 7]
    passes: list[int] = []
    monkeypatch.setattr(cpu_pass, "available", lambda: True)
    monkeypatch.setattr(cpu_pass, "set_threads", passes.append)
    with join_ranks():
        assert passes == [4]
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    with join_ranks():
        assert passes == [4]  # alone, it takes what there is
