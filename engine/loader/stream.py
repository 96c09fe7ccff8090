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
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from engine.augment.regions import fit_to_regions, needed_regions
from engine.decode.decoder import Decoder, Opened, Pixels
from engine.decode.turbo import TurboDecoder
from engine.kernels import Placed, Plan, Ragged
from engine.kernels.files import Content
from engine.kernels.jpeg import Region
from engine.loader.decoded_cache import Shelf
from engine.loader.passes import Buffer
from engine.loader.source import READERS, Source, tasks
from engine.loader.supply import Supply, supply_for
from engine.loader.transfer import Transfer
from engine.quarantine import Fault
from engine.recipe.sections import DecodeSection

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
    def of(
        cls,
        pixels: Sequence[Pixels],
        rows_B: np.ndarray,
        faults: Mapping[int, Fault] | None = None,
        moved: Sequence[Tensor | Placed] | None = None,
    ) -> Decoded:
        """What a decoder answers, its images perhaps `moved` elsewhere."""
        images = Ragged([one.image for one in pixels] if moved is None else moved)
        frames = np.array([one[1:] for one in pixels], dtype=np.int32).reshape(-1, 5)
        whole = bool((frames[:, :2] == images.sizes_B2.numpy()).all() and (frames[:, 2:] == (0, 0, 1)).all())
        return cls(images, rows_B, None if whole else torch.from_numpy(frames), faults=faults or {})

    @property
    def sizes_B2(self) -> Tensor:
        """(height, width) of each whole photo, int32, on the host: what a plan is drawn for."""
        return self.images.sizes_B2 if self.frame_B5 is None else self.frame_B5[:, :2]

    def take(self, index: np.ndarray) -> Decoded:
        """The images at these positions (int64), which may repeat; without a plan."""
        frame_B5 = None if self.frame_B5 is None else self.frame_B5[torch.from_numpy(index)]
        return Decoded(self.images.take(index.tolist()), self.rows_B[index], frame_B5)

    def repeated(self, count: int) -> Decoded:
        """The images repeated in order until there are `count`."""
        have = len(self.rows_B)
        return self if have == count else self.take(np.arange(count) % have)

    def fit(self, plan: Plan) -> Plan:
        """A plan for the whole photos as one for these images of them."""
        if self.frame_B5 is None:
            return plan
        return fit_to_regions(plan, self.frame_B5)


class Finish(NamedTuple):
    """What a stream for a GPU does to a batch when its images are there, in its own thread and on its own stream of the
    device: see `ImageStream.finished`."""

    begin: Callable[[Buffer], Callable[[Decoded], tuple[Any, Sequence[Tensor]]]]
    """Called once, in the thread: handed where to get the memory for what is made, answers with what makes it. That
    queues kernels, waits for none of them, and names the tensors that it has made."""
    image_bytes: int  # of the memory asked for, for an image
    fill: bool  # whether a batch has as many images as it was asked for, those of others in the place of bad files


class ImageStream:
    """Iterate to get one `Decoded` per entry of `batches`; each iteration starts anew, and at once: batches are made
    before the first is asked for. A batch whose files are all bad comes without images.

    `batches` are integer arrays of draws: of the N rows of `source`, draw d is row d % N (see order.py). `device` is
    the model's; where it is a GPU, that is where the images are. `draw` makes each batch's plan, in the stream's own
    thread; then images hold what the plan looks at, with `reduce`, which is for training, no larger than it needs and
    with colours as rough as the recipe allows. Without it images are whole.
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
        return self._started(None)

    def finished(self, finish: Finish) -> Generator[tuple[Any, Mapping[int, Fault]], None, None]:
        """For a model on a GPU: what `finish` makes of each batch that has images, and the bad files met since the one
        before; None with the last of them, where no images follow.

        Nothing of it is done by the consumer's thread or on its stream, which is only made to wait for what it is
        handed. That may be used until the next is asked for, and by kernels queued by then. Batches that are filled
        are as many as `batches`, unless all of their files are bad: in the place of a bad batch comes the next good
        one, in the last place the last.
        """
        return self._started(finish)

    def _started(self, finish: Finish | None) -> Generator[Any, None, None]:
        running = _Run(self, self.supply or supply_for(self.section, self.device), finish).batches()
        next(running)  # the thread works from here on, and closing the generator ends it
        return running


@dataclasses.dataclass
class _Made:
    """A batch and what it holds on to."""

    decoded: Decoded
    bytes: int  # of the room
    slab: Tensor | None = None  # where its pixels lie, on the host
    there: torch.cuda.Event | None = None  # after it, the pixels are on the GPU


@dataclasses.dataclass
class _Finished:
    """What was made of a batch, where it lies, and when it is there."""

    value: Any
    faults: Mapping[int, Fault]
    bytes: int = 0  # of the room
    tensors: Sequence[Tensor] = ()
    buffers: Sequence[Tensor] = ()
    ready: torch.cuda.Event | None = None


class _Run:
    """One iteration of a stream: a thread makes batches, the consumer's takes them.

    Alive are at most the batches in the queue, the consumer's, the one being made, and, of a GPU that is behind, some
    that it still reads. The thread waits until there is room for one more, and for the GPU where it is that which holds
    the memory; the consumer's thread, which feeds the GPU, waits for nothing but a batch.
    """

    def __init__(self, stream: ImageStream, supply: Supply, finish: Finish | None) -> None:
        self._stream, self._supply, self._room, self._finish = stream, supply, supply.room, finish
        self._decoder = supply.decoder
        self._on_gpu = stream.device.type == "cuda"
        self._side = supply.take_stream() if self._on_gpu else None  # where the thread's copies and kernels go
        places = [self._decoder.device, *([stream.shelf.device] if stream.shelf else [])]
        carries = self._side is not None and any(place.type == "cpu" for place in places)
        self._transfer = Transfer(self._side) if self._side is not None and carries else None
        self._ready: queue.Queue[_Made | _Finished | BaseException | None] = queue.Queue(maxsize=supply.prefetch)
        self._ended = False  # the last of the queue has come
        # Guarded by the room's lock:
        self._stopped = False
        self._ahead = 0  # batches that are made or being made, and not handed out
        # Read by kernels until the event.
        self._used: deque[tuple[torch.cuda.Event, _Made]] = deque()
        self._latest: _Made | None = None  # the consumer's; the thread's, where it finishes them
        self._held: _Finished | None = None  # the consumer's
        self._sending: deque[tuple[Tensor, torch.cuda.Event]] = deque()  # slabs that are being copied from

    def batches(self) -> Generator[Any, None, None]:
        producer = threading.Thread(target=self._produce, name="decode", daemon=True)
        producer.start()
        try:
            yield
            while (item := self._next()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield self._hand_out(item) if isinstance(item, _Made) else self._hand_over(item)
        finally:
            self._end(producer)

    # -- in the consumer's thread

    def _next(self) -> _Made | _Finished | BaseException | None:
        item = self._ready.get()
        self._ended = item is None or isinstance(item, BaseException)
        return item

    def _hand_out(self, made: _Made) -> Decoded:
        if made.there is not None:
            self._here.wait_event(made.there)
        with self._room.changed:
            self._ahead -= 1
            before = self._latest
            if len(made.decoded.rows_B):
                self._latest = made
            else:
                before = made
            if before is not None and not self._on_gpu:
                self._give(before)
            elif before is not None:
                # The consumer has queued kernels that read these pixels: nobody may have the memory before they ran.
                self._used.append((self._here.record_event(), before))
                self._give_read()
            self._room.changed.notify_all()
        return made.decoded

    def _hand_over(self, made: _Finished) -> tuple[Any, Mapping[int, Fault]]:
        here = self._here
        if self._held is not None:  # the consumer has queued all that it does with it
            self._give_finished(self._held, here.record_event())
        if made.ready is not None:
            here.wait_event(made.ready)
        for tensor in made.tensors:
            tensor.record_stream(here)
        self._held = made
        with self._room.changed:
            self._ahead -= 1
            self._room.changed.notify_all()
        return made.value, made.faults

    @property
    def _here(self) -> torch.cuda.Stream:
        return torch.cuda.current_stream(self._stream.device)

    def _end(self, producer: threading.Thread) -> None:
        with self._room.changed:
            self._stopped = True
            self._room.changed.notify_all()
        left = []
        while not self._ended:  # it may be waiting for a place in the queue
            left.append(self._next())
        producer.join()
        alive = [made for _, made in self._used]
        if self._latest is not None:
            # On the host, the last one's memory is whoever's still looks at it.
            alive.append(self._latest if self._finish else dataclasses.replace(self._latest, slab=None))
        if self._on_gpu and alive:  # what was handed out may be read by all that is queued by now
            last = (self._side if self._finish and self._side is not None else self._here).record_event()
            if not last.query():
                last.synchronize()
        for slab, copied in self._sending:
            copied.synchronize()
            self._supply.slabs.give(slab)
        for made in [*alive, *(one for one in left if isinstance(one, _Made))]:
            self._give(made)
        if self._held is not None:
            self._give_finished(self._held, self._here.record_event())
        for one in left:
            if isinstance(one, _Finished) and one.ready is not None:
                self._give_finished(one, one.ready)
        self._used.clear()
        self._latest = self._held = None
        if self._side is not None:
            self._supply.give_stream(self._side)

    def _give(self, made: _Made) -> None:
        self._room.give(made.bytes)
        if made.slab is not None:
            self._supply.slabs.give(made.slab)

    def _give_finished(self, made: _Finished, read: torch.cuda.Event) -> None:
        for buffer in made.buffers:
            self._supply.ring.give(buffer, read)
        self._room.give(made.bytes)

    def _give_read(self) -> None:
        """Give back what kernels have read, in order. Needs the room's lock."""
        while self._used and self._used[0][0].query():
            self._give(self._used.popleft()[1])

    # -- in the thread that makes batches

    def _produce(self) -> None:
        try:
            with self._aside(), ThreadPoolExecutor(READERS, thread_name_prefix="read") as readers:
                made = self._decoded(readers)
                for item in made if self._finish is None else self._finishing(made, self._finish):
                    self._ready.put(item)
            if self._stream.shelf is not None:
                self._stream.shelf.end()
            self._ready.put(None)
        except BaseException as error:  # handed to the consumer, whose thread can tell the user
            self._ready.put(error)

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        if self._side is None:
            yield
            return
        if self._stream.device.index is not None:
            torch.cuda.set_device(self._stream.device)  # each thread begins with the first one
        with torch.cuda.stream(self._side):
            yield

    def _decoded(self, readers: ThreadPoolExecutor) -> Iterator[_Made]:
        for rows_B, contents in self._contents(readers):
            made = self._made(rows_B, contents)
            if made is None:
                return
            yield made

    def _contents(self, readers: ThreadPoolExecutor) -> Iterator[tuple[np.ndarray, Sequence[Content | Fault | Pixels]]]:
        """Batches of draws with what their files hold, each read while the one before it is decoded; with pixels where
        they are kept."""
        source, shelf = self._stream.source, self._stream.shelf
        if shelf is not None:
            shelf.begin()
        reading: deque[_Reading] = deque()
        for draws_B in self._stream.batches:
            rows_B = draws_B % len(source)
            kept: Sequence[Pixels | None] = ()
            if shelf is not None:
                kept = shelf.find(rows_B)
                rows_B = rows_B[[one is None for one in kept]]
            # A few files a task: a task costs as much as reading a small file.
            size = -(-len(rows_B) // tasks(source)) or 1
            parts = [readers.submit(source.read, rows_B[at : at + size]) for at in range(0, len(rows_B), size)]
            reading.append(_Reading(draws_B, kept, parts))
            if len(reading) > 1:
                yield reading.popleft().finished()
        while reading:
            yield reading.popleft().finished()

    def _made(self, rows_B: np.ndarray, contents: Sequence[Content | Fault | Pixels]) -> _Made | None:
        """One batch, when there is room for it; None when none is wanted any more."""
        stream, decoder, room, shelf = self._stream, self._decoder, self._room, self._stream.shelf
        faults: dict[int, Fault] = {}
        encoded: list[Content | Pixels]
        opened: list[Opened | Pixels]
        rows_B, encoded = _sound(rows_B, contents, faults)
        rows_B, opened = _sound(rows_B, _opened(decoder, encoded), faults)
        plan: Plan | None = None
        regions: list[Region] | None = None
        sizes = np.array([(one.height, one.width) for one in opened], dtype=np.int32).reshape(-1, 2)
        sizes_B2 = torch.from_numpy(sizes)
        if stream.draw is not None and opened:
            plan = stream.draw(rows_B, sizes_B2)
            regions = shelf.regions(sizes_B2) if shelf is not None else None
            # Other decoders bring whole photos; a shelf wants to know what was asked for.
            if regions is None and (shelf is not None or isinstance(decoder, TurboDecoder)):
                regions = needed_regions(plan, sizes_B2, stream.reduce)
        pixels_bytes = _bytes(opened, sizes, regions if isinstance(decoder, TurboDecoder) else None)
        taken = pixels_bytes + (self._finish.image_bytes * len(opened) if self._finish else 0)
        if not self._has_room(taken):
            return None
        try:
            answers, slab = self._pixels(opened, regions)
            if shelf is not None and regions is not None:
                shelf.keep(rows_B % len(stream.source), opened, answers, regions)
            rows_B, pixels = _sound(rows_B, answers, faults)
            moved, there = None, None
            if self._transfer is not None and pixels:
                moved, there = self._transfer.send([one.image for one in pixels], slab)
                if slab is not None:
                    self._sending.append((slab, there))
                    slab = None
            elif shelf is not None and not self._on_gpu:  # a GPU may decode for a CPU
                here = stream.device
                moved = [one.image if one.image.device == here else one.pixels_HW3.to(here) for one in pixels]
            decoded = Decoded.of(pixels, rows_B, faults, moved)
            # Where pixels are missing, or of another size than their header promised, the plan is of other photos.
            if plan is not None and len(pixels) == len(opened) and torch.equal(sizes_B2, decoded.sizes_B2):
                decoded = dataclasses.replace(decoded, plan=decoded.fit(plan))
        except BaseException:
            room.give(taken)
            raise
        found = decoded.images.bytes
        if shelf is not None:  # what is kept takes no room, but for its copies
            kept = {id(one.image) for one in opened if isinstance(one, Pixels)}
            stays = [one for one in decoded.images.images if id(one) in kept]
            found -= Ragged(stays).bytes
        room.take(found - taken)
        return _Made(decoded, found, slab, there)

    def _pixels(
        self, opened: Sequence[Opened | Pixels], regions: Sequence[Region] | None
    ) -> tuple[Sequence[Pixels | Fault], Tensor | None]:
        """What is decoded of these, in the same order; pixels stay pixels."""
        rough = self._stream.reduce
        if self._stream.shelf is None:
            return self._supply.pixels(cast(Sequence[Opened], opened), regions, rough)
        own = [i for i, one in enumerate(opened) if not isinstance(one, Pixels)]
        files = [one for one in opened if not isinstance(one, Pixels)]
        answers, slab = self._supply.pixels(files, None if regions is None else [regions[i] for i in own], rough)
        found = iter(answers)
        return [one if isinstance(one, Pixels) else next(found) for one in opened], slab

    def _finishing(self, made: Iterator[_Made], finish: Finish) -> Iterator[_Finished]:
        """Finished batches of the decoded ones, whose memory is kept until the kernels that read it have ended."""
        buffers: list[Tensor] = []

        def buffer(count: int, dtype: torch.dtype) -> Tensor:
            buffers.append(self._supply.ring.take(count, dtype))
            return buffers[-1]

        def finished(decoded: Decoded) -> _Finished:
            buffers.clear()
            value, tensors = make(decoded)
            taken = finish.image_bytes * len(decoded.rows_B)
            self._room.take(taken)
            assert self._side is not None
            return _Finished(value, faults, taken, tensors, tuple(buffers), self._side.record_event())

        make = finish.begin(buffer)
        faults: Mapping[int, Fault] = {}
        waiting: list[int] = []  # sizes of batches for which there are no images yet
        for one, draws_B in zip(made, self._stream.batches, strict=False):
            have = len(one.decoded.rows_B)
            faults = {**faults, **one.decoded.faults}
            waiting.append(len(draws_B) if finish.fill else have)
            if not have:
                self._count(-1)
                self._give(one)
                waiting = waiting if finish.fill else []
                continue
            self._let_go()
            self._latest = one
            self._count(len(waiting) - 1)
            for count in waiting:
                yield finished(one.decoded.repeated(count))
                faults = {}
            waiting = []
        if self._latest is not None:
            self._count(len(waiting))
            for count in waiting:
                yield finished(self._latest.decoded.repeated(count))
                faults = {}
        if faults:
            self._count(1)
            yield _Finished(None, faults)

    def _count(self, more: int) -> None:
        with self._room.changed:
            self._ahead += more
            self._room.changed.notify_all()

    def _let_go(self) -> None:
        """Of the latest batch's images, when what is queued has read them."""
        if self._latest is not None and self._side is not None:
            with self._room.changed:
                self._used.append((self._side.record_event(), self._latest))
                self._latest = None
                self._give_read()

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


def _opened(decoder: Decoder, contents: Sequence[Content | Pixels]) -> Sequence[Opened | Fault | Pixels]:
    """The headers of files; pixels stay pixels, which say how large their photo is, too."""
    if Pixels not in set(map(type, contents)):
        return decoder.open(cast(Sequence[Content], contents))
    opened = iter(decoder.open([one for one in contents if not isinstance(one, Pixels)]))
    return [one if isinstance(one, Pixels) else next(opened) for one in contents]


def _bytes(opened: Sequence[Opened | Pixels], sizes_B2: np.ndarray, regions: Sequence[Region] | None) -> int:
    """Of the pixels that will be decoded: of whole photos, or about these regions of them where they are JPEGs."""
    bytes_B = 3 * sizes_B2.astype(np.int64).prod(1)
    if regions:
        x0_B, y0_B, x1_B, y1_B, reduction_B = np.array(regions, dtype=np.int64).T
        parts_B = (x1_B - x0_B) * (y1_B - y0_B) * 3 // reduction_B**2
        bytes_B = np.where([isinstance(one, Opened) and one.header is not None for one in opened], parts_B, bytes_B)
    return int(bytes_B[[not isinstance(one, Pixels) for one in opened]].sum())


def _sound(
    rows_B: np.ndarray, answers: Sequence[Good | Fault], faults: dict[int, Fault]
) -> tuple[np.ndarray, list[Good]]:
    """The rows that have an answer, with it; the faults of the others are noted by row."""
    if Fault not in set(map(type, answers)):
        return rows_B, cast(list[Good], answers)
    bad = {i: one for i, one in enumerate(answers) if isinstance(one, Fault)}
    faults |= {int(rows_B[i]): one for i, one in bad.items()}
    kept = [i for i in range(len(answers)) if i not in bad]
    return rows_B[kept], [one for one in answers if not isinstance(one, Fault)]


@dataclasses.dataclass(frozen=True)
class _Reading:
    """A batch of draws whose files are being read, but for those of which pixels are kept."""

    draws_B: np.ndarray
    kept: Sequence[Pixels | None]  # () where nothing is
    parts: Sequence[Future[Sequence[Content | Fault]]]

    def finished(self) -> tuple[np.ndarray, Sequence[Content | Fault | Pixels]]:
        contents = [content for part in self.parts for content in part.result()]
        if not self.kept:
            return self.draws_B, contents
        own = iter(contents)
        return self.draws_B, [next(own) if one is None else one for one in self.kept]
