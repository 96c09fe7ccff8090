"""Decoded batches in a given order, made ahead of the consumer by a thread of its own.

A batch goes straight down, each room once: bytes are read, headers opened, the plan drawn, and of each photo the region
that the plan looks at is decoded. A thread and not worker processes: reading and decoding release the GIL, and pixels
handed over by a process would be copied once more.
"""

from __future__ import annotations

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
from engine.decode.choose import decoder_for
from engine.decode.decoder import Decoder, Pixels
from engine.kernels import Plan, Ragged
from engine.kernels.jpeg import Region
from engine.loader.source import Source
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
    the model's. `draw` makes each batch's plan, in the stream's own thread; then images hold what the plan looks at,
    with `reduce` no larger than it needs. Without it images are whole. The images of a batch may be used until the next
    batch is asked for; on a GPU also by kernels that are queued by then.

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
    ) -> None:
        self.source = source
        self.batches = batches
        self.section = section
        self.device = device
        self.draw = draw
        self.reduce = reduce

    def __iter__(self) -> Generator[Decoded, None, None]:
        # Batches alive at once: those in the queue, the consumer's, and the one being made.
        running = self._run(decoder_for(self.section, self.device, rounds=self.section.prefetch + 2))
        next(running)  # the thread works from here on, and closing the generator ends it
        return running

    def _run(self, decoder: Decoder) -> Generator[Any, None, None]:
        ready: queue.Queue[Decoded | BaseException | None] = queue.Queue(maxsize=self.section.prefetch)
        stop = threading.Event()
        producer = threading.Thread(target=self._produce, args=(decoder, ready, stop), name="decode", daemon=True)
        producer.start()
        in_use: deque[tuple[torch.cuda.Event, Decoded]] = deque()
        try:
            yield
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
                if decoder.device.type == "cuda":
                    # The consumer has queued kernels that read these pixels; DALI must not get the memory back before
                    # they have run.
                    event = torch.cuda.Event()
                    event.record()
                    in_use.append((event, item))
                    if len(in_use) > self.section.prefetch:
                        in_use[0][0].synchronize()
                    while in_use and in_use[0][0].query():
                        in_use.popleft()
        finally:
            stop.set()
            while producer.is_alive():  # it may be waiting for room in the queue
                try:
                    ready.get(timeout=0.05)
                except queue.Empty:
                    continue

    def _produce(
        self, decoder: Decoder, ready: queue.Queue[Decoded | BaseException | None], stop: threading.Event
    ) -> None:
        try:
            with ThreadPoolExecutor(READERS, thread_name_prefix="read") as readers:
                for rows_B, contents in self._contents(readers):
                    if stop.is_set():
                        return
                    ready.put(self._decoded(decoder, rows_B, contents))
            ready.put(None)
        except BaseException as error:  # handed to the consumer, whose thread can tell the user
            ready.put(error)

    def _contents(self, readers: ThreadPoolExecutor) -> Iterator[tuple[np.ndarray, list[bytes | Fault]]]:
        """Batches of draws with what their files hold, each read while the one before it is decoded."""
        reading: deque[tuple[np.ndarray, list[Future[list[bytes | Fault]]]]] = deque()
        for draws_B in self.batches:
            rows_B = draws_B % len(self.source)
            # A few files a task: a task costs as much as reading a small file.
            size = -(-len(rows_B) // READERS) or 1
            tasks = [readers.submit(self.source.read, rows_B[at : at + size]) for at in range(0, len(rows_B), size)]
            reading.append((draws_B, tasks))
            if len(reading) > 1:
                yield _finished(reading.popleft())
        while reading:
            yield _finished(reading.popleft())

    def _decoded(self, decoder: Decoder, rows_B: np.ndarray, contents: Sequence[bytes | Fault]) -> Decoded:
        faults: dict[int, Fault] = {}
        rows_B, encoded = _sound(rows_B, contents, faults)
        rows_B, opened = _sound(rows_B, decoder.open(encoded), faults)
        plan: Plan | None = None
        regions: list[Region] | None = None
        sizes_B2 = torch.tensor([(one.height, one.width) for one in opened], dtype=torch.int32)
        if self.draw is not None and opened:
            plan = self.draw(rows_B, sizes_B2)
            regions = needed_regions(plan, sizes_B2, self.reduce)
        rows_B, pixels = _sound(rows_B, decoder.pixels(opened, regions), faults)
        decoded = Decoded.of(pixels, rows_B, faults)
        # Where pixels are missing, or of another size than their header promised, the plan is of other photos.
        if plan is None or len(pixels) < len(opened) or not torch.equal(sizes_B2, decoded.sizes_B2):
            return decoded
        return dataclasses.replace(decoded, plan=decoded.fit(plan))


def _sound(
    rows_B: np.ndarray, answers: Sequence[Good | Fault], faults: dict[int, Fault]
) -> tuple[np.ndarray, list[Good]]:
    """The rows that have an answer, with it; the faults of the others are noted by row."""
    faults |= {row: one for row, one in zip(rows_B.tolist(), answers, strict=True) if isinstance(one, Fault)}
    kept = [i for i, one in enumerate(answers) if not isinstance(one, Fault)]
    return rows_B[kept], [one for one in answers if not isinstance(one, Fault)]


def _finished(
    read: tuple[np.ndarray, list[Future[list[bytes | Fault]]]],
) -> tuple[np.ndarray, list[bytes | Fault]]:
    rows_B, tasks = read
    return rows_B, [content for task in tasks for content in task.result()]
