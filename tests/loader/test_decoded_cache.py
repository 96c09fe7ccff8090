"""Photos that stay decoded: the same pixels whatever fits, nothing read or decoded twice, nothing thrown out for
something else, and on disk also for other processes and later ones."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from PIL import Image

from engine.augment.contract import Contract
from engine.augment.policy import Policy
from engine.augment.regions import needed_regions
from engine.decode import choose
from engine.decode.decoder import Pixels, whole
from engine.errors import RecipeError, StorageError
from engine.kernels import jpeg
from engine.loader import decoded_files
from engine.loader.batches import Batch, Epoch, Loader, Samples
from engine.loader.decoded_cache import DecodedCache, InMemory, Reductions, Shelf, decoded_cache, kept_bytes
from engine.loader.decoded_files import InFiles, Whose
from engine.loader.source import Files, Memory
from engine.quarantine import Fault, FaultKind
from engine.recipe.load import parse_recipe
from engine.recipe.sections import DecodeSection
from engine.recipe.sections.augment import AffineSection, AugmentSection, CropSection, MixSection
from engine.system import total_host_bytes

from ..conftest import HOST, MakePhoto
from ..fake_cuda import DEVICE, FakeCuda, LendingDecoder

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
MIB = 2**20
SECTION = AugmentSection(crop=CropSection(scale=(0.5, 1.0)), affine=AffineSection(p=0.5))
POLICY = Policy(SECTION, MEAN, STD)
CONTRACT = Contract(32, 32, MEAN, STD)
EPOCH = Epoch(seed=3, number=0, height=32, width=32, mix=MixSection(mixup=0.3, cutmix=1.0, p=0.6))
PHOTOS = 12
WHOSE = Whose(0, "photos")
turbo_only = pytest.mark.skipif(not jpeg.available(), reason=jpeg.why_not())
Read = list[int]


class Counted(Memory):
    """Photos in memory; notes which are read."""

    def __init__(self, contents: Sequence[bytes | Fault]) -> None:
        super().__init__(contents)
        object.__setattr__(self, "rows", [])

    def read(self, rows: np.ndarray) -> list[bytes | Fault]:
        self.rows.extend(rows.tolist())  # type: ignore[attr-defined]
        return super().read(rows)

    def taken(self) -> Read:
        """What was read since this was last asked, in order."""
        rows, self.rows[:] = sorted(self.rows), []  # type: ignore[attr-defined]
        return rows


@pytest.fixture
def contents(scene: Callable[..., Image.Image]) -> list[bytes | Fault]:
    """JPEGs of 60 to 300 pixels, two PNGs and a file that is no picture."""

    def encoded(number: int) -> bytes:
        stream = io.BytesIO()
        size = (60 + 20 * number, 90 + 15 * number)
        scene(number, *size).save(stream, "PNG" if number in (3, 9) else "JPEG", quality=95)
        return stream.getvalue()

    return [b"no picture", *(encoded(number) for number in range(1, PHOTOS))]


@pytest.fixture
def source(contents: list[bytes | Fault]) -> Counted:
    return Counted(contents)


def samples_of(source: Memory | Files) -> Samples:
    numbers = np.arange(len(source))
    return Samples([str(number) for number in numbers], source, numbers * 7919, numbers % 3)


def in_memory(megabytes: float, rows: int = PHOTOS) -> DecodedCache:
    return DecodedCache(rows, InMemory(HOST), int(megabytes * MIB))


def on_disk(folder: Path, whose: Whose = WHOSE, rows: int = PHOTOS, megabytes: float = 100) -> DecodedCache:
    return DecodedCache(rows, InFiles(folder, whose), int(megabytes * MIB))


def loader_of(source: Memory | Files, cache: DecodedCache | None) -> Loader:
    return Loader(samples_of(source), DecodeSection(device="cpu", threads=1), HOST, cache=cache)


def order(number: int) -> list[np.ndarray]:
    """Every photo once, in another order each epoch; draws, of which one is of a photo for the second time."""
    shuffled = np.random.default_rng(number).permutation(PHOTOS)
    shuffled[3] += PHOTOS
    return [shuffled[at : at + 4] for at in range(0, PHOTOS, 4)]


def epoch(loader: Loader, number: int, size: int = 32) -> list[Batch]:
    return copied(loader.train(order(number), POLICY, Epoch(EPOCH.seed, number, size, size, EPOCH.mix)))


def copied(batches: Iterator[Batch]) -> list[Batch]:
    return [batch._replace(images_BCHW=batch.images_BCHW.clone()) for batch in batches]


def assert_same(some: Sequence[Batch], others: Sequence[Batch]) -> None:
    """Bit for bit."""
    for one, other in zip(some, others, strict=True):
        assert one.rows_B.tolist() == other.rows_B.tolist()
        assert torch.equal(one.images_BCHW, other.images_BCHW)
        assert all(map(torch.equal, one.labels, other.labels))


# --- pixels ----------------------------------------------------------------------------------------------------------


def test_batches_are_the_same_whatever_fits(source: Counted, tmp_path: Path) -> None:
    """Through two epochs and another stage. Nothing fits, a part does, everything does, in memory and on disk."""
    nothing, some, everything, disk = in_memory(0), in_memory(0.5), in_memory(100), on_disk(tmp_path / "kept")
    loaders = [loader_of(source, cache) for cache in (nothing, some, everything, disk)]
    for number, size in ((0, 32), (1, 32), (2, 48)):
        expected, *found = (epoch(loader, number, size) for loader in loaders)
        for one in found:
            assert_same(one, expected)
    photos = [cache.held.photos for cache in (nothing, some, everything, disk)]
    assert photos[0] == 0 < photos[1] < photos[2] == photos[3] == PHOTOS - 1


def test_what_is_scored_is_what_is_scored_without_a_cache(source: Counted) -> None:
    rows = [np.array([2, 5, 0]), np.array([11, 3])]
    loader = loader_of(source, in_memory(100))
    epoch(loader, 0)  # what is kept for training is not what is scored
    expected = copied(loader_of(source, None).valid(rows, CONTRACT))
    source.taken()
    assert_same(copied(loader.valid(rows, CONTRACT)), expected)
    assert source.taken() == [0, 2, 3, 5, 11]
    assert_same(copied(loader.valid(rows, CONTRACT)), expected)
    assert source.taken() == [0]
    other = Contract(40, 24, MEAN, STD)
    expected = copied(loader_of(source, None).valid(rows, other))
    assert_same(copied(loader.valid(rows, other)), expected)


@turbo_only
@settings(max_examples=15)
@given(
    height=st.integers(40, 3000),
    width=st.integers(40, 3000),
    size=st.sampled_from([(32, 32), (224, 224), (200, 320)]),
    low=st.sampled_from([0.08, 0.5, 1.0]),
    turn=st.booleans(),
)
def test_a_photo_is_never_kept_smaller_than_it_is_shown(
    height: int, width: int, size: tuple[int, int], low: float, turn: bool
) -> None:
    section = AugmentSection(
        crop=CropSection(scale=(low, 1.0)), affine=AffineSection(p=0.5), quarter_turn=0.5 if turn else 0.0
    )
    policy = Policy(section, MEAN, STD)
    reduction = Reductions(policy, *size).of(height, width)
    sizes_B2 = torch.tensor([[height, width]] * 64, dtype=torch.int32)
    plan = policy.draw(torch.arange(64) * 104729, sizes_B2, *size, seed=11, epoch=5)
    each = [region.reduction for region in needed_regions(plan, sizes_B2, reduce=True)]
    assert sum(one < reduction for one in each) <= 1  # one in some hundred may be a little larger than those looked at


def test_a_large_photo_is_kept_smaller_for_a_small_stage() -> None:
    reductions = Reductions(Policy(AugmentSection(crop=CropSection(scale=(0.5, 1.0))), MEAN, STD), 128, 128)
    assert [reductions.of(*size) for size in ((100, 100), (400, 300), (700, 700), (1200, 1600), (4000, 3000))] == [
        *(1, 1, 2, 4, 8)
    ]


# --- what is read ----------------------------------------------------------------------------------------------------


def test_what_is_kept_is_neither_read_nor_decoded_again(tmp_path: Path, photo: MakePhoto) -> None:
    paths = [photo(f"{number}.jpg", 50 + number, 70) for number in range(PHOTOS)]
    loader = loader_of(Files(paths), in_memory(100))
    first = epoch(loader, 0)
    for path in paths:
        Path(path).unlink()
    assert_same(epoch(loader, 0), first)
    assert not loader.quarantine


def test_a_bad_file_is_looked_at_every_time_and_told_as_ever(source: Counted) -> None:
    loader = loader_of(source, in_memory(100))
    epoch(loader, 0)
    assert source.taken() == sorted([*range(PHOTOS)])
    epoch(loader, 1)
    assert source.taken() == [0]
    assert loader.quarantine["0"].fault.kind is FaultKind.NOT_AN_IMAGE


def test_what_came_first_stays_and_the_rest_is_read_every_time(source: Counted) -> None:
    loader = loader_of(source, in_memory(0.5))
    epoch(loader, 0)
    assert loader.cache is not None
    source.taken()
    epoch(loader, 1)
    read = source.taken()
    epoch(loader, 2)
    assert source.taken() == read
    held = loader.cache.held
    assert held.photos == PHOTOS - len(read) and held.refused == len(read) - 1  # but the bad one
    first = [row % PHOTOS for draws_B in order(0) for row in draws_B.tolist()]
    kept = [row for row in first if row not in read]
    assert kept[:2] == [row for row in first[:3] if row != 0][:2]


def test_memory_stays_within_the_limit_and_comes_back_with_another_stage(source: Counted) -> None:
    cache = in_memory(2.5)
    loader = loader_of(source, cache)
    for number, size in enumerate((24, 24, 96, 96, 24, 24)):
        epoch(loader, number, size)
        assert cache.held.bytes <= cache.limit
    photos = cache.held.photos
    again = loader_of(source, fresh := in_memory(2.5))
    epoch(again, 4, 24)
    epoch(again, 5, 24)
    assert photos == fresh.held.photos


@turbo_only
def test_another_stage_is_served_what_it_would_decode_itself(source: Counted) -> None:
    """Photos below 200 pixels come as they are for both; those above come halved for the first alone."""
    loader = loader_of(source, in_memory(100))
    epoch(loader, 0, 32)
    source.taken()
    one, other = (Reductions(POLICY, size, size) for size in (32, 72))
    changed = [row for row in range(1, PHOTOS) if row not in (3, 9) and differs(row, one, other)]
    assert 0 < len(changed) < PHOTOS - 3
    epoch(loader, 1, 72)
    assert source.taken() == [0, *changed]
    epoch(loader, 2, 72)
    assert source.taken() == [0]


def differs(row: int, one: Reductions, other: Reductions) -> bool:
    size = 60 + 20 * row, 90 + 15 * row
    return one.of(*size) != other.of(*size)


def test_what_is_told_is_what_an_epoch_left_while_the_next_one_is_made(source: Counted) -> None:
    """Of its own stage, though the next one's first batches have let go of it by then."""
    cache = in_memory(0.25)
    loader = loader_of(source, cache)
    epoch(loader, 0)
    held = cache.held
    assert held.photos and held.refused
    for size in (32, 96):
        # More batches than may be made ahead.
        with closing(loader.train(order(1) * 4, POLICY, Epoch(3, 1, size, size, None))) as ahead:
            next(ahead)
            told = [*cache.news()]
        assert len(told) == (size == 32)
        if told:
            assert f": {held.photos:,}, " in told[0] and f"; {held.refused:,} did not fit" in told[0]
    epoch(loader, 2, 96)
    (told_96,) = cache.news()
    assert f": {cache.held.photos:,}, " in told_96


def test_a_batch_in_hand_stays_when_its_photos_are_let_go(source: Counted) -> None:
    cache = in_memory(100)
    shelf, rows = cache.scored(CONTRACT, np.arange(2)), np.arange(2)
    shelf.begin()
    pixels = [whole(torch.full((20, 30, 3), value, dtype=torch.uint8)) for value in (7, 9)]
    cache.keep(shelf, {row: (1, pixels[row]) for row in rows.tolist()})
    found = shelf.find(rows)
    other = cache.scored(Contract(8, 8, MEAN, STD), rows)
    other.begin()
    assert other.find(rows) == [None, None] and cache.held.bytes == 0
    cache.keep(other, {0: (1, whole(torch.zeros(20, 30, 3, dtype=torch.uint8)))})
    for one, value in zip(found, (7, 9), strict=True):
        assert one is not None and bool((one.pixels_HW3 == value).all())


class Fixed(Reductions):
    """One for all photos."""

    def __init__(self, reduction: int) -> None:
        self.reduction = reduction

    def of(self, height: int, width: int) -> int:
        return self.reduction


@settings(max_examples=60)
@given(
    limit=st.integers(0, 12_000),
    steps=st.lists(st.tuples(st.sampled_from([1, 2, 4]), st.integers(0, 5)), max_size=60),
)
def test_whatever_is_kept_and_let_go_of_what_is_found_is_right(limit: int, steps: list[tuple[int, int]]) -> None:
    """Photos of 24 x 16 pixels and more, asked for by stages that come and go, two of them at once."""
    cache = DecodedCache(6, InMemory(HOST), limit)
    rules = {reduction: Fixed(reduction) for reduction in (1, 2, 4)}
    shelves = {reduction: Shelf(cache, 0, rule) for reduction, rule in rules.items()}
    seen: list[tuple[torch.Tensor, int]] = []
    begun = 0
    for reduction, row in steps:
        shelf, value = shelves[reduction], 10 * row + reduction
        if reduction != begun and row % 3 == 0:
            shelf.begin()
            begun = reduction
        (found,) = shelf.find(np.array([row]))
        height, width = 24 + 8 * row, 16
        if found is None:
            pixels_HW3 = torch.full((height // reduction, width // reduction, 3), value, dtype=torch.uint8)
            cache.keep(shelf, {row: (reduction, Pixels(pixels_HW3, height, width, 0, 0, reduction))})
        else:
            assert found[1:] == (height, width, 0, 0, reduction)
            seen.append((found.pixels_HW3, value))
        assert 0 <= cache.held.bytes <= limit
    assert all(bool((pixels_HW3 == value).all()) for pixels_HW3, value in seen)


# --- on disk ---------------------------------------------------------------------------------------------------------


def test_an_interrupted_run_finds_its_photos_again(source: Counted, tmp_path: Path) -> None:
    first = epoch(loader_of(source, on_disk(tmp_path / "kept")), 0)
    source.taken()
    assert_same(epoch(loader_of(source, on_disk(tmp_path / "kept")), 0), first)
    assert source.taken() == [0]
    assert_same(epoch(loader_of(source, on_disk(tmp_path / "kept", Whose(0, "other photos"))), 0), first)
    assert source.taken() == [*range(PHOTOS)]


def test_after_another_boot_nothing_is_trusted(
    source: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch(loader_of(source, on_disk(tmp_path / "kept")), 0)
    before = {path.name for path in (tmp_path / "kept").glob("*.pixels")}
    (tmp_path / "boot").write_text("another")
    monkeypatch.setattr(decoded_files, "_BOOT", tmp_path / "boot")
    source.taken()
    cache = on_disk(tmp_path / "kept")
    assert cache.held.photos == 0 and before and not [*(tmp_path / "kept").iterdir()]
    epoch(loader_of(source, cache), 0)
    assert source.taken() == [*range(PHOTOS)]


def test_processes_of_a_machine_share_what_each_has_decoded(source: Counted, tmp_path: Path) -> None:
    caches = [on_disk(tmp_path / "kept", Whose(rank, "photos")) for rank in range(2)]
    loaders = [loader_of(source, cache) for cache in caches]
    halves = order(0)[:2], order(0)[2:]
    for loader, half in zip(loaders, halves, strict=True):
        copied(loader.train(half, POLICY, EPOCH))
    source.taken()
    # In the next epoch each is given what the other had.
    for loader, half in zip(loaders, halves[::-1], strict=True):
        copied(loader.train(half, POLICY, EPOCH))
    assert source.taken() == [0]
    assert caches[0].held.bytes + caches[1].held.bytes < caches[0].limit


def test_a_file_that_another_process_has_removed_is_no_loss(source: Counted, tmp_path: Path) -> None:
    epoch(loader_of(source, on_disk(tmp_path / "kept", Whose(1, "photos"))), 0)
    for path in (tmp_path / "kept").glob("*.pixels"):
        path.unlink()
    mine = on_disk(tmp_path / "kept")
    assert_same(epoch(loader_of(source, mine), 0), epoch(loader_of(source, in_memory(0)), 0))
    assert mine.held.photos == PHOTOS - 1


@pytest.mark.parametrize("left", [0, 100])
def test_a_damaged_index_is_none(source: Counted, tmp_path: Path, left: int) -> None:
    """As a loss of power leaves it."""
    first = epoch(loader_of(source, on_disk(tmp_path / "kept")), 0)
    os.truncate(tmp_path / "kept" / "0.npz", left)
    source.taken()
    assert_same(epoch(loader_of(source, on_disk(tmp_path / "kept")), 0), first)
    assert source.taken() == [*range(PHOTOS)]


@pytest.mark.parametrize("left", [0, 4096])
def test_a_file_that_was_cut_off_is_no_loss(source: Counted, tmp_path: Path, left: int) -> None:
    """Whoever read behind its end would be ended by the system."""
    first = epoch(loader_of(source, on_disk(tmp_path / "kept", megabytes=1)), 0)
    cut, *others = sorted((tmp_path / "kept").glob("*.pixels"))
    os.truncate(cut, left)
    source.taken()
    assert_same(epoch(loader_of(source, on_disk(tmp_path / "kept", megabytes=1)), 0), first)
    assert others and 1 < len(source.taken()) < PHOTOS


def test_the_number_of_a_file_that_is_gone_is_not_used_again(source: Counted, tmp_path: Path) -> None:
    """An index that was not renewed, because its process was killed, would name it to others."""
    epoch(loader_of(source, on_disk(tmp_path / "kept", megabytes=1)), 0)
    before = {path.name for path in (tmp_path / "kept").glob("*.pixels")}
    for name in before:
        (tmp_path / "kept" / name).unlink()
    number, _ = InFiles(tmp_path / "kept", WHOSE).new(64)
    assert number > max(int(Path(name).stem) for name in before)


def test_a_run_that_goes_on_may_keep_as_much_as_it_might(
    source: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it keeps already is no longer free on the disk."""
    section = DecodeSection(cache="disk", cache_dir=str(tmp_path))
    disk = 8 * MIB

    def usage(_: object) -> SimpleNamespace:
        taken = sum(path.stat().st_size for path in tmp_path.rglob("*.pixels"))
        return SimpleNamespace(free=disk - taken)

    monkeypatch.setattr("engine.loader.decoded_cache.shutil.disk_usage", usage)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), decoded_cache(section, PHOTOS, HOST, "run", WHOSE) as cache:
            assert cache is not None and cache.limit == disk // 2
            epoch(loader_of(source, cache), 0)
            assert cache.held.photos
            raise KeyboardInterrupt


def test_a_full_disk_is_told_and_the_run_goes_on(
    source: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = epoch(loader_of(source, in_memory(0)), 0)
    cache = on_disk(tmp_path / "kept", megabytes=1)  # so that files are small
    allocate, made = os.posix_fallocate, []

    def fill_up(descriptor: int, offset: int, length: int) -> None:
        made.append(length)
        if len(made) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        allocate(descriptor, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", fill_up)
    loader = loader_of(source, cache)
    assert_same(epoch(loader, 0), expected)
    assert 0 < cache.held.photos < PHOTOS - 1
    assert len([*(tmp_path / "kept").glob("*.pixels")]) == 2
    told = [*cache.news()]
    assert "did not fit" in told[0] and "No space left" in told[1]
    assert [*cache.news()] == []


def test_no_folder_for_it_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"decode\.cache_dir.*another folder"):
        on_disk(tmp_path / "file" / "kept")


def test_a_finished_run_leaves_nothing_and_an_interrupted_one_its_photos(source: Counted, tmp_path: Path) -> None:
    section = DecodeSection(cache="disk", cache_mb=50, cache_dir=str(tmp_path))
    with pytest.raises(KeyboardInterrupt), decoded_cache(section, PHOTOS, HOST, "run", WHOSE) as cache:
        running = loader_of(source, cache).train(order(0), POLICY, EPOCH)
        with closing(running):
            next(running)
            raise KeyboardInterrupt
    with decoded_cache(section, PHOTOS, HOST, "run", WHOSE) as cache:
        assert cache is not None
        source.taken()
        epoch(loader_of(source, cache), 0)
        assert len(source.taken()) < PHOTOS
    assert [*tmp_path.iterdir()] == []


# --- the recipe ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["device", "host"])
def test_a_folder_for_what_is_kept_in_memory_is_refused(where: str) -> None:
    stage = [{"size": 32, "batch": 4, "epochs": 1, "lr": 1e-3}]
    decode = {"cache": where, "cache_dir": "somewhere"}
    with pytest.raises(RecipeError, match=rf'cache_dir.*"disk", and it is "{where}"'):
        parse_recipe({"stage": stage, "model": {"backbone": "test_convnext"}, "decode": decode})


def test_how_much_may_be_kept() -> None:
    assert kept_bytes(DecodeSection(cache="host", cache_mb=300), HOST, processes=3) == 100 * MIB
    assert kept_bytes(DecodeSection(cache="host"), HOST) == (total_host_bytes() or 0) // 4
    assert kept_bytes(DecodeSection(cache="device"), HOST) == (total_host_bytes() or 0) // 4
    with FakeCuda():
        assert kept_bytes(DecodeSection(cache="device"), DEVICE, processes=3) == (80 << 30) // 4


# --- on the way to a GPU, on a double of one -------------------------------------------------------------------------


@pytest.mark.parametrize("decoded", ["gpu", pytest.param("cpu", marks=turbo_only)])
@pytest.mark.parametrize("kept", ["device", "host"])
def test_on_a_gpu_batches_are_the_same_and_nobody_waits_for_them(
    source: Counted, decoded: str, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeCuda() as gpu:
        monkeypatch.setattr(choose, "DaliDecoder", lambda *_: LendingDecoder(gpu))
        section = DecodeSection(device=decoded, threads=1, cache=kept)
        device = DEVICE if kept == "device" else HOST
        caches = [DecodedCache(PHOTOS, InMemory(device), limit) for limit in (0, MIB // 4, 100 * MIB)]
        loaders = [Loader(samples_of(source), section, DEVICE, cache=cache) for cache in caches]
        for number in range(2):
            expected, *found = (on_host(gpu, loader, number) for loader in loaders)
            for one in found:
                for mine, other in zip(one, expected, strict=True):
                    assert torch.equal(mine, other)
        assert 0 < caches[1].held.photos < caches[2].held.photos == PHOTOS - 1
        gpu.finish()


def test_a_new_block_is_written_when_what_lay_there_has_been_read(source: Counted) -> None:
    """The allocator hands out memory again while kernels of the same stream are still to read it."""

    class Reused(InMemory):
        def new(self, size: int) -> tuple[int, torch.Tensor]:
            number, block = super().new(size)
            block.sum()
            return number, block

    with FakeCuda() as gpu:
        section = DecodeSection(device="cpu", threads=1, cache="device")
        loader = Loader(samples_of(source), section, DEVICE, cache=DecodedCache(PHOTOS, Reused(DEVICE), 100 * MIB))
        assert on_host(gpu, loader, 0)
        gpu.finish()


def on_host(gpu: FakeCuda, loader: Loader, number: int) -> list[torch.Tensor]:
    found = []
    with closing(loader.train(order(number), POLICY, Epoch(3, number, 32, 32, EPOCH.mix))) as running:
        gpu.clear()
        for batch in running:
            assert not gpu.waits_here
            assert number == 0 or not gpu.blocking_uploads  # at first what is kept is copied, while decoding
            found.append(batch.images_BCHW.cpu())
            gpu.clear()
    return found
