"""Photos of a run that stay decoded: from the second epoch on, what fits is neither read nor decoded.

What is kept is what the decoder brought, so that the pass makes the same batch of it. For training that is the whole
photo, at the largest reduction that this stage's augmentations can use; for scoring, the region that is scored. Both
depend on the photo and the stage alone, and never on what is kept: a photo that does not fit is decoded in the same way
every time, and the pixels of a run are the same whatever its cache holds, also after it was interrupted. The price is
that a photo is decoded whole where its crop would have done.

A later stage is served what it would decode itself: a photo at the same reduction. One of another reduction makes room
when the stage begins; it is not made smaller here, because libjpeg-turbo's smaller sizes are others than ours would be.

Nothing is thrown out for something else within a stage. What comes first stays: an order of samples that is shuffled
anew each epoch asks for each photo once, so the next to be asked for is never the one that was asked for last, and any
exchange would be work for nothing.

Memory comes in blocks, because a run has more photos than a process may have mappings, and goes when nothing in a block
is wanted any more. Where batches still look at a block, it lives until they do not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from engine.augment.contract import Contract
from engine.augment.policy import Policy
from engine.augment.regions import needed_regions
from engine.decode.decoder import Opened, Pixels
from engine.errors import StorageError
from engine.kernels import Placed
from engine.kernels.jpeg import REDUCTIONS, Region
from engine.loader.decoded_files import InFiles, Whose
from engine.quarantine import Fault
from engine.recipe.sections import DecodeSection
from engine.system import GIB, cache_folder, total_host_bytes

_LINE = 64  # bytes: where an image may begin, aligned for any kernel
_BLOCK = 64 * 2**20  # bytes of memory that are taken at once
_TRAINED, _SCORED = 0, 1  # what a photo is kept for
_ANY = 0  # asked for at a reduction, a photo came as it is: it comes so for every stage
_LOOKED_AT = 256  # draws, to know how large the parts of a photo are shown
_STEPS = 8  # sizes of photos in an octave that are told apart

_ENTRY = np.dtype(
    [
        ("block", np.int32),  # 0: not kept
        ("asked", np.int32),  # at which reduction, or _ANY
        ("start", np.int64),
        *((name, np.int32) for name in ("rows", "columns", "height", "width", "x", "y", "reduction")),
    ]
)


class Reductions:
    """At which reduction whole photos are decoded for `policy` at an output of `height` x `width`: the largest at which
    none of some hundred draws would show one enlarged that it shows smaller as it is.

    Photos of about one size are treated alike, as the smallest of them: what can be drawn is linear in the size.
    """

    def __init__(self, policy: Policy, height: int, width: int) -> None:
        self._policy, self._size = policy, (height, width)
        self._known: dict[tuple[int, int], int] = {}

    def of(self, height: int, width: int) -> int:
        """Of a photo of this size, upright."""
        if max(height, width) < REDUCTIONS[1] * min(self._size):  # all of it is shown larger than half
            return 1
        cell = _floor(height), _floor(width)
        if cell not in self._known:
            self._known[cell] = self._drawn(*cell)
        return self._known[cell]

    def _drawn(self, height: int, width: int) -> int:
        keys_K = torch.arange(_LOOKED_AT, dtype=torch.int64) * 0x5851F42D4C957F2D
        sizes_K2 = torch.tensor([[height, width]], dtype=torch.int32).expand(_LOOKED_AT, 2).contiguous()
        plan = self._policy.draw(keys_K, sizes_K2, *self._size, seed=0, epoch=0)
        return min(region.reduction for region in needed_regions(plan, sizes_K2, reduce=True))


def _floor(pixels: int) -> int:
    """The next size below among _STEPS an octave."""
    return int(2 ** (math.floor(_STEPS * math.log2(pixels) + 1e-9) / _STEPS) + 1e-9)


class Blocks(Protocol):
    """Where kept photos lie."""

    @property
    def device(self) -> torch.device: ...

    def new(self, size: int) -> tuple[int, Tensor]:
        """A block of `size` bytes, and its number, above 0. Raises OSError, MemoryError or RuntimeError for none."""
        ...

    def of(self, number: int) -> Tensor:
        """The block of that number."""
        ...

    def drop(self, number: int) -> None:
        """Nobody will ask for it any more."""
        ...

    def soon(self, number: int, start: int, stop: int) -> None:
        """These bytes will be read."""
        ...

    def owns(self, number: int) -> bool:
        """Whether the block is this process's, and no other's that it may look at."""
        ...

    def publish(self, rows_K: np.ndarray, entries_K: np.ndarray) -> None:
        """Tell others, and this process when it begins again, what lies in its blocks. Raises StorageError."""
        ...

    def found(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """What was published since this was last asked: rows and entries, of one process at a time."""
        ...

    def remove(self) -> None:
        """All of it, for good."""
        ...


class InMemory:
    """Blocks in main memory, or in a device's."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._blocks: dict[int, Tensor] = {}
        self._last = 0

    def new(self, size: int) -> tuple[int, Tensor]:
        self._last += 1
        self._blocks[self._last] = torch.empty(size, dtype=torch.uint8, device=self.device)
        return self._last, self._blocks[self._last]

    def of(self, number: int) -> Tensor:
        return self._blocks[number]

    def drop(self, number: int) -> None:
        self._blocks.pop(number)

    def soon(self, number: int, start: int, stop: int) -> None:
        pass

    def owns(self, number: int) -> bool:
        return True

    def publish(self, rows_K: np.ndarray, entries_K: np.ndarray) -> None:
        pass

    def found(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return iter(())

    def remove(self) -> None:
        self._blocks.clear()


@dataclasses.dataclass
class _Block:
    size: int
    filled: int = 0
    live: int = 0  # images in it that are wanted


class Held(NamedTuple):
    """How much is kept: photos that are trained on, bytes that were taken, bytes that may be, and photos that were met
    and did not fit."""

    photos: int
    bytes: int
    limit: int
    refused: int


class DecodedCache:
    """Decoded photos of the rows of a source of `rows`, in blocks that take `limit` bytes together.

    For any number of streams at once, each with a shelf of its own.
    """

    def __init__(self, rows: int, blocks: Blocks, limit: int) -> None:
        self.blocks, self.limit = blocks, limit
        self._entries_2N = np.zeros((2, rows), dtype=_ENTRY)
        self._refused_N = np.zeros(rows, dtype=bool)
        self._blocks: dict[int, _Block] = {}
        self._open: dict[tuple[int, int], int] = {}  # the block that is being filled, by use and reduction
        self._bytes = 0
        self._lock = threading.RLock()
        self._rules: dict[tuple[str, int, int, int], Reductions] = {}
        self._rule: Reductions | None = None  # by which the trained ones were looked through
        self._contract: Contract | None = None  # of the scored ones
        self._trouble = ""
        self._ended: tuple[Reductions | None, Held] | None = None  # what an epoch has left
        self._told: Reductions | None = None  # of the stage that was told of
        self._told_trouble = False
        self._stream: torch.cuda.Stream | None = None  # for copies from and to a GPU

    def trained(self, policy: Policy, height: int, width: int) -> Shelf:
        """For training images of `policy` at this size."""
        key = (policy.section.model_dump_json(), int(policy.filter), height, width)
        return Shelf(self, _TRAINED, self._rules.setdefault(key, Reductions(policy, height, width)))

    def scored(self, contract: Contract, rows_N: np.ndarray) -> Shelf:
        """For one plain view of these rows (int64) as `contract` says."""
        return Shelf(self, _SCORED, contract=contract, rows_N=rows_N)

    @property
    def held(self) -> Held:
        with self._lock:
            photos = int((self._entries_2N[_TRAINED]["block"] > 0).sum())
            return Held(photos, self._bytes, self.limit, int(self._refused_N.sum()))

    # -- for shelves

    def begin(self, shelf: Shelf) -> None:
        """Let go of what `shelf` will not ask for."""
        with self._lock:
            if shelf.use == _TRAINED:
                for rows_K, entries_K in self.blocks.found():
                    self._adopt(rows_K, entries_K)
            entries_N = self._entries_2N[shelf.use]
            rows_K = np.flatnonzero(entries_N["block"])
            if shelf.use == _SCORED:
                wanted_K = np.isin(rows_K, shelf.rows_N) & (self._contract == shelf.contract)
                self._contract = shelf.contract
            else:
                self._refused_N[:] = False
                if self._rule is shelf.reductions:
                    return
                wanted_K = shelf.wanted(entries_N[rows_K])
                self._rule = shelf.reductions
            for row in rows_K[~wanted_K].tolist():
                number, entries_N["block"][row] = int(entries_N["block"][row]), 0
                self._let_go(number)

    def news(self) -> Iterator[str]:
        """What is kept, in words, once for each stage, when its first epoch has ended; and what has gone wrong.

        By now the next epoch may be at it, perhaps of another stage: it is told what the one before it left.
        """
        rule, held = self._ended or (None, self.held)
        if rule is not None and rule is not self._told:
            self._told = rule
            taken, limit = (f"{size / 2**20:,.0f} MiB" for size in (held.bytes, held.limit))
            left = f"; {held.refused:,} did not fit, and are decoded anew each time" if held.refused else ""
            yield f"photos that stay decoded: {held.photos:,}, {taken} of {limit}{left}"
        if self._trouble and not self._told_trouble:
            self._told_trouble = True
            yield f"no more photos are kept decoded, and the run goes on without: {self._trouble}"

    def end(self, shelf: Shelf) -> None:
        """An epoch has asked for all that it will."""
        if shelf.use == _TRAINED:
            self._ended = shelf.reductions, self.held
            self.publish()

    def publish(self) -> None:
        """Let others, and a later process of the run, know what is kept."""
        with self._lock:
            entries_N = self._entries_2N[_TRAINED]
            rows_K = np.flatnonzero(entries_N["block"])
            own = [number for number in self._blocks if self.blocks.owns(number)]
            rows_K = rows_K[np.isin(entries_N["block"][rows_K], own)]
            entries_K = entries_N[rows_K]
        try:
            self.blocks.publish(rows_K, entries_K)
        except StorageError as error:
            self._trouble = str(error)

    def find(self, shelf: Shelf, rows_B: np.ndarray) -> list[Pixels | None]:
        with self._lock:
            if shelf.use == _SCORED and shelf.contract != self._contract:
                return [None] * len(rows_B)
            return [self._pixels(one, shelf) for one in self._entries_2N[shelf.use][rows_B].tolist()]

    def keep(self, shelf: Shelf, found: Mapping[int, tuple[int, Pixels]]) -> None:
        """Copy pixels of rows, that came when they were asked for at these reductions, as far as there is room."""
        asked = {row: (place, *found[row]) for row in found if (place := self._place_for(shelf, row, found[row][1]))}
        copied: dict[int, tuple[int, ...]] = {}
        with self._aside([pixels.image.device for _, _, pixels in asked.values()]):
            for row, ((number, start), at, pixels) in asked.items():
                image_HW3 = pixels.pixels_HW3
                there = self.blocks.of(number)[start : start + image_HW3.numel()]
                there.view(image_HW3.shape).copy_(image_HW3, non_blocking=True)
                copied[row] = (number, at, start, *image_HW3.shape[:2], *pixels[1:])
        entries_N = self._entries_2N[shelf.use]
        with self._lock:
            for row, entry in copied.items():
                if entries_N["block"][row]:  # by another stream meanwhile
                    self._let_go(entry[0])
                else:
                    entries_N[row] = entry

    def _place_for(self, shelf: Shelf, row: int, pixels: Pixels) -> tuple[int, int] | None:
        """A block and where in it there is room, for a row that is not kept."""
        entries_N, trained = self._entries_2N[shelf.use], shelf.use == _TRAINED
        with self._lock:
            if not trained and shelf.contract != self._contract:
                return None
            old, asked, _, _, _, height, width, *_ = entries_N[row].item()
            if old and shelf.wants(asked, height, width):
                return None
            if old:
                entries_N["block"][row] = 0
                self._let_go(old)
            place = self._place((shelf.use, pixels.reduction), pixels.pixels_HW3.numel())
            self._refused_N[row] = trained and place is None
            return place

    @contextlib.contextmanager
    def _aside(self, devices: Sequence[torch.device]) -> Iterator[None]:
        """Copies of images on these devices are made on a stream of their own, where a GPU has part in it, and are
        there afterwards: whoever finds them is on a stream of his own."""
        gpus = [one for one in (self.blocks.device, *devices) if devices and one.type == "cuda"]
        if not gpus:
            yield
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream(gpus[0])
        # Where a new block lies, kernels of the stream that it was taken on may still read what was there before.
        self._stream.wait_stream(torch.cuda.current_stream(gpus[0]))
        with torch.cuda.stream(self._stream):
            yield
        self._stream.synchronize()

    # -- under the lock

    def _adopt(self, rows_K: np.ndarray, entries_K: np.ndarray) -> None:
        """Look at what another process keeps as at one's own, where one has none."""
        entries_N = self._entries_2N[_TRAINED]
        new_K = entries_N["block"][rows_K] == 0
        rows_K, entries_K = rows_K[new_K], entries_K[new_K]
        for number, live in zip(*np.unique(entries_K["block"], return_counts=True), strict=True):
            of_it_K = entries_K[entries_K["block"] == number]
            try:
                size = len(self.blocks.of(int(number)))
            except (OSError, ValueError):  # it is gone, or empty
                size = 0
            if (of_it_K["start"] + 3 * of_it_K["rows"].astype(np.int64) * of_it_K["columns"]).max() > size:
                kept_K = entries_K["block"] != number
                rows_K, entries_K = rows_K[kept_K], entries_K[kept_K]
                continue
            own = self.blocks.owns(int(number))
            block = self._blocks.setdefault(int(number), _Block(size if own else 0, filled=size))
            self._bytes += block.size if not block.live else 0
            block.live += int(live)
        entries_N[rows_K] = entries_K
        self._rule = None  # there may be some of another stage among them

    def _pixels(self, entry: tuple[int, ...], shelf: Shelf) -> Pixels | None:
        number, asked, start, rows, columns, *frame = entry
        if not number or not shelf.wants(asked, frame[0], frame[1]):
            return None
        stop = start + rows * columns * 3
        block = self.blocks.of(number)
        self.blocks.soon(number, start, stop)
        return Pixels(Placed(block.data_ptr() + start, rows, columns, block), *frame)

    def _place(self, kind: tuple[int, int], size: int) -> tuple[int, int] | None:
        """A block and where in it `size` bytes are free; None for none."""
        number = self._open.get(kind, 0)
        if not number or self._blocks[number].filled + size > self._blocks[number].size:
            number = self._new_block(size)
            if not number:
                return None
            self._open[kind] = number
        block = self._blocks[number]
        start, block.filled, block.live = block.filled, block.filled + _lines(size), block.live + 1
        return number, start

    def _new_block(self, size: int) -> int:
        """Its number; 0 where there is no room for `size` bytes."""
        left = self.limit - self._bytes
        # Small limits are not used up by blocks that are begun.
        wanted = max(_lines(size), min(_BLOCK, self.limit // 16 // _LINE * _LINE, left // _LINE * _LINE))
        if wanted > left or self._trouble:
            return 0
        try:
            number, _ = self.blocks.new(wanted)
        except (OSError, MemoryError, RuntimeError) as error:
            self._trouble = str(error).partition("\n")[0] or "there is no memory"
            return 0
        self._bytes += wanted
        self._blocks[number] = _Block(wanted)
        return number

    def _let_go(self, number: int) -> None:
        """An image in that block is not wanted any more."""
        block = self._blocks[number]
        block.live -= 1
        if not block.live:
            self._bytes -= block.size
            del self._blocks[number]
            self._open = {kind: open_ for kind, open_ in self._open.items() if open_ != number}
            self.blocks.drop(number)


def _lines(size: int) -> int:
    return -(-size // _LINE) * _LINE


@dataclasses.dataclass(frozen=True)
class Shelf:
    """What one stream asks of a cache, and what it leaves there."""

    cache: DecodedCache
    use: int
    reductions: Reductions | None = None
    contract: Contract | None = None
    rows_N: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def device(self) -> torch.device:
        """Where kept photos lie."""
        return self.cache.blocks.device

    def begin(self) -> None:
        """Before the stream's first batch, in the thread that decodes."""
        self.cache.begin(self)

    def find(self, rows_B: np.ndarray) -> list[Pixels | None]:
        """For each row (int64) what is kept, which may be used for as long as it is held."""
        return self.cache.find(self, rows_B)

    def end(self) -> None:
        """After the stream's last batch, in the same thread."""
        self.cache.end(self)

    def regions(self, sizes_B2: Tensor) -> list[Region] | None:
        """Which region of photos of these sizes (height, width) is to be decoded; None: the one that is looked at."""
        if self.reductions is None:
            return None
        return [Region(0, 0, width, height, self.reductions.of(height, width)) for height, width in sizes_B2.tolist()]

    def keep(
        self,
        rows_B: np.ndarray,
        opened: Sequence[Opened | Pixels],
        pixels: Sequence[Pixels | Fault],
        regions: Sequence[Region],
    ) -> None:
        """Leave what was decoded of rows (int64) here, as far as there is room, copied."""
        fresh = {}
        for row, one, found, region in zip(rows_B.tolist(), opened, pixels, regions, strict=True):
            # Pixels came from here. A photo that is not of its header's size is asked for as another one next time.
            if isinstance(one, Pixels) or isinstance(found, Fault) or found[1:3] != (one.height, one.width):
                continue
            fresh[row] = (region.reduction if found.reduction == region.reduction else _ANY, found)
        self.cache.keep(self, fresh)

    def wants(self, asked: int, height: int, width: int) -> bool:
        """Whether it would decode a photo of that size in the same way as it was."""
        return self.reductions is None or asked in (_ANY, self.reductions.of(height, width))

    def wanted(self, entries_K: np.ndarray) -> np.ndarray:
        """The same of many, of dtype _ENTRY: booleans."""
        sizes_K2 = np.stack([entries_K["height"], entries_K["width"]], axis=1)
        sizes_U2, place_K = np.unique(sizes_K2, axis=0, return_inverse=True)
        assert self.reductions is not None
        asked_U = np.array([self.reductions.of(*size) for size in sizes_U2.tolist()], dtype=np.int32)
        asked_K = entries_K["asked"]
        return (asked_K == _ANY) | (asked_K == asked_U[place_K.reshape(-1)])


def kept_bytes(section: DecodeSection, device: torch.device, processes: int = 1) -> int:
    """Bytes that one of so many processes of this machine may keep for a model on `device`: what the recipe says, a
    quarter of the memory, or half of what is free on the disk."""
    in_device = section.cache == "device" and device.type == "cuda"
    shared = 1 if in_device else processes
    if section.cache_mb:
        return section.cache_mb * 2**20 // shared
    if in_device:
        return int(torch.cuda.mem_get_info(device)[1]) // 4
    if section.cache == "disk":
        folder = cache_folder_of(section)
        there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
        return shutil.disk_usage(there).free // 2 // shared
    return (total_host_bytes() or 16 * GIB) // 4 // shared


def cache_folder_of(section: DecodeSection) -> Path:
    """In which runs that keep photos on disk have folders."""
    return Path(section.cache_dir) if section.cache_dir else cache_folder() / "decoded"


@contextlib.contextmanager
def decoded_cache(
    section: DecodeSection, rows: int, device: torch.device, folder: str, whose: Whose, processes: int = 1
) -> Iterator[DecodedCache | None]:
    """The cache that the recipe asks for, of the photos of a run with so many rows; None where it asks for none.

    What lies on disk, in a folder of the name `folder`, stays when the run is not at its end. Raises StorageError when
    that cannot be made.
    """
    if section.cache == "off":
        yield None
        return
    blocks: Blocks
    if section.cache == "disk":
        blocks = found = InFiles(cache_folder_of(section) / folder, whose)
        again = 0 if section.cache_mb else found.found_bytes // 2  # it was free when the run began
    else:
        blocks, again = InMemory(device if section.cache == "device" else torch.device("cpu")), 0
    cache = DecodedCache(rows, blocks, kept_bytes(section, device, processes) + again)
    try:
        yield cache
    except BaseException:
        cache.publish()
        raise
    if whose.leads:
        blocks.remove()
