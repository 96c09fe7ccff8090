"""Decoded batches in a given order, made ahead of the consumer by a thread of its own.

A batch goes straight down, each room once: bytes are read, headers opened, the plan drawn, and of each photo the region
that the plan looks at is decoded. A thread and not worker processes: reading and decoding release the GIL, and pixels
handed over by a process would be copied once more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from engine.augment.regions import fit_to_regions, needed_regions
from engine.decode.decoder import Decoder, Opened, Pixels
from engine.decode.turbo import TurboDecoder
from engine.kernels import Plan, Ragged
from engine.kernels.jpeg import Region
from engine.loader.decoded_cache import Shelf
from engine.loader.source import Source
from engine.loader.supply import Supply
from engine.loader.transfer import Transfer
from engine.quarantine import Fault
from engine.recipe.sections import DecodeSection

READERS = 8  # threads that read files: enough to keep a network file system busy, idle on a local one

Draw = Callable[[np.ndarray, Tensor], Plan]
"""(rows_B, sizes_B2) -> the plan for these photos, whose (height, width) are sizes_B2 (int32)."""

Good = TypeVar("Good")


@dataclasses.dataclass(frozen=True)
class Decoded:
    """One decoded batch. `rows_B` (int64) says which row, or which draw of a row, each image is; those of bad files are
    missing and stand in `faults`.

    Where not all images are whole photos, `frame_B5` (int32) says what of its photo each is: the photo's height and
    width, the x and y of the image's upper left corner in it, and the reduction (see `Pixels`). `plan` is the one that
    was drawn for just these photos, fitted to these images of them; None where there is none.
    """

    images: Ragged
    rows_B: np.ndarray
    frame_B5: Tensor | None = None
    plan: Plan | None = None
    faults: Mapping[int, Fault] = dataclasses.field(default_factory=dict)  # by row or draw

    @classmethod
    def of(cls, pixels: Sequence[Pixels], rows_B: np.ndarray, faults: Mapping[int, Fault] | None = None) -> Decoded:
        whole = all(one[1:] == (*one.pixels_HW3.shape[:2], 0, 0, 1) for one in pixels)
        frame_B5 = None if whole else torch.tensor([one[1:] for one in pixels], dtype=torch.int32)
        return cls(Ragged([one.pixels_HW3 for one in pixels]), rows_B, frame_B5, faults=faults or {})

    @property
    def sizes_B2(self) -> Tensor:
        """(height, width) of each whole photo, int32, on the host: what a plan is drawn for."""
        return self.images.sizes_B2 if self.frame_B5 is None else self.frame_B5[:, :2]

    def take(self, index: np.ndarray) -> Decoded:
        """The images at these positions (int64), which may repeat; without a plan."""
        frame_B5 = None if self.frame_B5 is None else self.frame_B5[torch.from_numpy(index)]
        return Decoded(Ragged([self.images.tensors[i] for i in index.tolist()]), self.rows_B[index], frame_B5)

    def fit(self, plan: Plan) -> Plan:
        """A plan for the whole photos as one for these images of them."""
        if self.frame_B5 is None:
            return plan
        return fit_to_regions(plan, self.frame_B5[:, 2:4], self.frame_B5[:, 4])


class ImageStream:
    """Iterate to get one `Decoded` per entry of `batches`; each iteration starts anew, and at once: batches are made
    before the first is asked for. A batch whose files are all bad comes without images.

    `batches` are integer arrays of draws: of the N rows of `source`, draw d is row d % N (see order.py). `device` is
    the model's; where it is a GPU, that is where the images are. `draw` makes each batch's plan, in the stream's own
    thread; then images hold what the plan looks at, with `reduce` no larger than it needs. Without it images are whole.
    `supply` is what it shares with other streams. `shelf`: where photos are that need neither be read nor decoded, and
    where others are left.

    The images of a batch may be used until the next batch that has any is asked for; on a GPU also by kernels that are
    queued by then, on the stream that is current where batches are asked for, and until these have ended. Those of the
    last batch may be kept.

    The first iteration raises RecipeError when the recipe's decoder cannot be had here.
    """

    def __init__(
        self,
        source: Source,
        batches: Sequence[np.ndarray],
        section: DecodeSection,
        device: torch.device,
        draw: Draw | None = None,
        reduce: bool = False,
        supply: Supply | None = None,
        shelf: Shelf | None = None,
    ) -> None:
        self.source = source
        self.batches = batches
        self.section = section
        self.device = device
        self.draw = draw
        self.reduce = reduce
        self.supply = supply
        self.shelf = shelf

    def __iter__(self) -> Generator[Decoded, None, None]:
        running = _Run(self, self.supply or Supply(self.section, self.device)).batches()
        next(running)  # the thread works from here on, and closing the generator ends it
        return running


@dataclasses.dataclass
class _Made:
    """A batch and what it holds on to."""

    decoded: Decoded
    bytes: int  # of the room
    slab: Tensor | None = None  # where its pixels lie, on the host
    there: torch.cuda.Event | None = None  # after it, the pixels are on the GPU


class _Run:
    """One iteration of a stream: a thread makes batches, the consumer's takes them.

    Alive are at most the batches in the queue, the consumer's, the one being made, and, of a GPU that is behind, some
    that it still reads. The thread waits until there is room for one more, and for the GPU where it is that which holds
    the memory; the consumer's thread, which feeds the GPU, waits for nothing but a batch.
    """

    def __init__(self, stream: ImageStream, supply: Supply) -> None:
        self._stream, self._supply, self._room = stream, supply, supply.room
        self._lane = supply.lane()
        self._on_gpu = stream.device.type == "cuda"
        places = [self._lane.decoder.device, *([stream.shelf.device] if stream.shelf else [])]
        self._carries = self._on_gpu and any(place.type == "cpu" for place in places)
        self._ready: queue.Queue[_Made | BaseException | None] = queue.Queue(maxsize=supply.prefetch)
        # Guarded by the room's lock:
        self._stopped = False
        self._ahead = 0  # batches that are made or being made, and not handed out
        # Handed out, and read by kernels until the event.
        self._used: deque[tuple[torch.cuda.Event, _Made]] = deque()
        self._held: _Made | None = None  # the consumer's
        self._sending: deque[tuple[Tensor, torch.cuda.Event]] = deque()  # slabs that are being copied from

    def batches(self) -> Generator[Any, None, None]:
        producer = threading.Thread(target=self._produce, name="decode", daemon=True)
        producer.start()
        try:
            yield
            while (item := self._ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                self._hand_out(item)
                yield item.decoded
        finally:
            self._end(producer)

    # -- in the consumer's thread

    def _hand_out(self, made: _Made) -> None:
        if made.there is not None:
            torch.cuda.current_stream(self._stream.device).wait_event(made.there)
        with self._room.changed:
            self._ahead -= 1
            before = self._held
            if len(made.decoded.rows_B):
                self._held = made
            else:
                before = made
            if before is not None and not self._on_gpu:
                self._give(before)
            elif before is not None:
                # The consumer has queued kernels that read these pixels: nobody may have the memory before they ran.
                done = torch.cuda.current_stream(self._stream.device).record_event()
                self._used.append((done, before))
                while self._used and self._used[0][0].query():
                    self._give(self._used.popleft()[1])
            self._room.changed.notify_all()

    def _end(self, producer: threading.Thread) -> None:
        with self._room.changed:
            self._stopped = True
            self._room.changed.notify_all()
        left: list[_Made | BaseException | None] = []
        while producer.is_alive() or not self._ready.empty():  # it may be waiting for a place in the queue
            with contextlib.suppress(queue.Empty):
                left.append(self._ready.get(timeout=0.05))
        alive = [made for _, made in self._used]
        if self._held is not None:  # the last one's memory is whoever's still looks at it
            alive.append(dataclasses.replace(self._held, slab=None))
        if self._on_gpu and alive:  # what was handed out may be read by all that is queued by now
            torch.cuda.current_stream(self._stream.device).record_event().synchronize()
        for slab, copied in self._sending:
            copied.synchronize()
            self._supply.slabs.give(slab)
        for made in [*alive, *(one for one in left if isinstance(one, _Made))]:
            self._give(made)
        self._used.clear()
        self._held = None
        self._supply.give(self._lane)

    def _give(self, made: _Made) -> None:
        self._room.give(made.bytes)
        if made.slab is not None:
            self._supply.slabs.give(made.slab)

    # -- in the thread that makes batches

    def _produce(self) -> None:
        try:
            if self._on_gpu and self._stream.device.index is not None:
                torch.cuda.set_device(self._stream.device)  # each thread begins with the first one
            transfer = Transfer(self._stream.device) if self._carries else None
            with ThreadPoolExecutor(READERS, thread_name_prefix="read") as readers:
                for rows_B, contents in self._contents(readers):
                    made = self._made(rows_B, contents, transfer)
                    if made is None:
                        return
                    self._ready.put(made)
            if self._stream.shelf is not None:
                self._stream.shelf.end()
            self._ready.put(None)
        except BaseException as error:  # handed to the consumer, whose thread can tell the user
            self._ready.put(error)

    def _contents(self, readers: ThreadPoolExecutor) -> Iterator[tuple[np.ndarray, list[bytes | Fault | Pixels]]]:
        """Batches of draws with what their files hold, each read while the one before it is decoded; with pixels where
        they are kept."""
        shelf = self._stream.shelf
        if shelf is not None:
            shelf.begin()
        reading: deque[_Reading] = deque()
        for draws_B in self._stream.batches:
            rows_B = draws_B % len(self._stream.source)
            kept = shelf.find(rows_B) if shelf is not None else [None] * len(rows_B)
            rows_B = rows_B[[one is None for one in kept]]
            # A few files a task: a task costs as much as reading a small file.
            size = -(-len(rows_B) // READERS) or 1
            tasks = [
                readers.submit(self._stream.source.read, rows_B[at : at + size]) for at in range(0, len(rows_B), size)
            ]
            reading.append(_Reading(draws_B, kept, tasks))
            if len(reading) > 1:
                yield reading.popleft().finished()
        while reading:
            yield reading.popleft().finished()

    def _made(
        self, rows_B: np.ndarray, contents: Sequence[bytes | Fault | Pixels], transfer: Transfer | None
    ) -> _Made | None:
        """One batch, when there is room for it; None when none is wanted any more."""
        stream, decoder, room, shelf = self._stream, self._lane.decoder, self._room, self._stream.shelf
        faults: dict[int, Fault] = {}
        encoded: list[bytes | Pixels]
        opened: list[Opened | Pixels]
        rows_B, encoded = _sound(rows_B, contents, faults)
        rows_B, opened = _sound(rows_B, _opened(decoder, encoded), faults)
        plan: Plan | None = None
        regions: list[Region] | None = None
        sizes_B2 = torch.tensor([(one.height, one.width) for one in opened], dtype=torch.int32)
        if stream.draw is not None and opened:
            plan = stream.draw(rows_B, sizes_B2)
            whole = shelf.regions(sizes_B2) if shelf is not None else None
            regions = whole or needed_regions(plan, sizes_B2, stream.reduce)
        taken = _bytes(opened, regions, isinstance(decoder, TurboDecoder))
        if not self._has_room(taken):
            return None
        try:
            answers = _pixels(decoder, opened, regions)
            if shelf is not None and regions is not None:
                shelf.keep(rows_B % len(stream.source), opened, answers, regions)
            rows_B, pixels = _sound(rows_B, answers, faults)
            slab = self._lane.taken()
            images, there = [one.pixels_HW3 for one in pixels], None
            if transfer is not None and images:
                images, there = transfer.send(images, slab)
                if slab is not None:
                    self._sending.append((slab, there))
                    slab = None
            elif shelf is not None and not self._on_gpu:  # a GPU may decode for a CPU
                images = [image.to(stream.device) for image in images]
            # What is kept takes no room, but for its copies.
            kept = {id(one.pixels_HW3) for one in opened if isinstance(one, Pixels)}
            found = sum(image.numel() for image in images if id(image) not in kept)
            pixels = [one._replace(pixels_HW3=image) for one, image in zip(pixels, images, strict=True)]
            decoded = Decoded.of(pixels, rows_B, faults)
            # Where pixels are missing, or of another size than their header promised, the plan is of other photos.
            if plan is not None and len(pixels) == len(opened) and torch.equal(sizes_B2, decoded.sizes_B2):
                decoded = dataclasses.replace(decoded, plan=decoded.fit(plan))
        except BaseException:
            room.give(taken)
            raise
        room.take(found - taken)
        return _Made(decoded, found, slab, there)

    def _has_room(self, count: int) -> bool:
        """Wait until `count` bytes may be decoded; False when none are wanted any more."""
        while len(self._sending) > 1:  # one slab is filled while another is copied
            slab, copied = self._sending.popleft()
            copied.synchronize()
            self._supply.slabs.give(slab)
        while True:
            with self._room.changed:
                if self._stopped:
                    return False
                fits = self._room.fits(count) and len(self._used) <= self._supply.prefetch
                if fits or not (self._used or self._ahead):  # one is made whatever it takes
                    self._ahead += 1
                    self._room.take(count)
                    return True
                if not self._used:
                    self._room.changed.wait()
                    continue
                done, oldest = self._used.popleft()
            done.synchronize()
            self._give(oldest)


def _opened(decoder: Decoder, contents: Sequence[bytes | Pixels]) -> list[Opened | Fault | Pixels]:
    """The headers of files; pixels stay pixels, which say how large their photo is, too."""
    opened = iter(decoder.open([one for one in contents if not isinstance(one, Pixels)]))
    return [one if isinstance(one, Pixels) else next(opened) for one in contents]


def _pixels(
    decoder: Decoder, opened: Sequence[Opened | Pixels], regions: Sequence[Region] | None
) -> list[Pixels | Fault]:
    """What is decoded of these, in the same order; pixels stay pixels."""
    own = [i for i, one in enumerate(opened) if not isinstance(one, Pixels)]
    files = [one for one in opened if not isinstance(one, Pixels)]
    found = iter(decoder.pixels(files, None if regions is None else [regions[i] for i in own]))
    return [one if isinstance(one, Pixels) else next(found) for one in opened]


def _bytes(opened: Sequence[Opened | Pixels], regions: Sequence[Region] | None, parts: bool) -> int:
    """Of the pixels that will be decoded: of whole photos, or with `parts` about these regions of them where they are
    JPEGs."""
    count = 0
    for i, one in enumerate(opened):
        if isinstance(one, Pixels):
            continue
        if regions is None or not parts or one.header is None:
            count += one.height * one.width * 3
        else:
            part = regions[i]
            count += (part.x1 - part.x0) * (part.y1 - part.y0) * 3 // part.reduction**2
    return count


def _sound(
    rows_B: np.ndarray, answers: Sequence[Good | Fault], faults: dict[int, Fault]
) -> tuple[np.ndarray, list[Good]]:
    """The rows that have an answer, with it; the faults of the others are noted by row."""
    faults |= {row: one for row, one in zip(rows_B.tolist(), answers, strict=True) if isinstance(one, Fault)}
    kept = [i for i, one in enumerate(answers) if not isinstance(one, Fault)]
    return rows_B[kept], [one for one in answers if not isinstance(one, Fault)]


@dataclasses.dataclass(frozen=True)
class _Reading:
    """A batch of draws whose files are being read, but for those of which pixels are kept."""

    draws_B: np.ndarray
    kept: Sequence[Pixels | None]
    tasks: Sequence[Future[list[bytes | Fault]]]

    def finished(self) -> tuple[np.ndarray, list[bytes | Fault | Pixels]]:
        contents = iter([content for task in self.tasks for content in task.result()])
        return self.draws_B, [next(contents) if one is None else one for one in self.kept]
