"""Decoded batches in a given order, made ahead of the consumer by a thread of its own.

A thread and not worker processes: reading and decoding release the GIL, and pixels handed over by a process would be
copied once more. A file that cannot be read or decoded is left out of its batch and remembered in `quarantine`.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.decode.dali import DaliDecoder, decode_device
from engine.decode.image import Decoder, Image
from engine.decode.turbo import TurboDecoder, uses_turbo
from engine.kernels import Plan, Ragged
from engine.kernels.jpeg import Part
from engine.recipe.sections import DecodeSection

READERS = 8  # threads that read files: enough to keep a network file system busy, idle on a local one

# (rows_B, sizes_B2) -> the plan for these photos, whose (height, width) are sizes_B2, and the parts that it looks at.
WantRows = Callable[[np.ndarray, np.ndarray], tuple[Plan, Sequence[Part]]]


@dataclasses.dataclass(frozen=True)
class Decoded:
    """One decoded batch. `rows_B` (int64) says which path each image is; rows of bad files are missing.

    Where parts were wanted, `frame_B5` (int32) says what of its photo each image is: the photo's height and width, the
    x and y of the image's upper left corner in it, and the reduction (see `image.Image`). None: images are whole.
    `plan` is the one they were wanted for, fitted to them; None where none was drawn for just these photos.
    """

    images: Ragged
    rows_B: np.ndarray
    frame_B5: Tensor | None = None
    plan: Plan | None = None

    @classmethod
    def of(cls, images: Sequence[Image], rows_B: np.ndarray) -> Decoded:
        whole = all(image[1:] == (*image.pixels_HW3.shape[:2], 0, 0, 1) for image in images)
        frame_B5 = None if whole else torch.tensor([image[1:] for image in images], dtype=torch.int32)
        return cls(Ragged([image.pixels_HW3 for image in images]), rows_B, frame_B5)

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
        matrix_B33 = plan.matrix_B33.double()
        x_B, y_B, reduction_B = self.frame_B5[:, 2:].to(matrix_B33).unbind(1)
        source_B33 = torch.zeros_like(matrix_B33)
        source_B33[:, 0, 0] = source_B33[:, 1, 1] = 1 / reduction_B
        source_B33[:, 0, 2], source_B33[:, 1, 2] = -x_B / reduction_B, -y_B / reduction_B
        source_B33[:, 2, 2] = 1
        return dataclasses.replace(plan, matrix_B33=(source_B33 @ matrix_B33).float())


class ImageStream:
    """Iterate to get one `Decoded` per entry of `batches`; each iteration starts anew, and at once: batches are made
    before the first is asked for.

    `paths` are files, `batches` integer arrays of rows into them, `device` is the model's. `want` is asked, in the
    stream's own thread, which parts of the photos are needed; without it images are whole. A batch whose files are all
    bad is skipped. The images of a batch may be used until the next batch is asked for; on a GPU also by kernels that
    are queued by then.
    """

    def __init__(
        self,
        paths: Sequence[str],
        batches: Sequence[np.ndarray],
        section: DecodeSection,
        device: torch.device,
        want: WantRows | None = None,
    ) -> None:
        self.paths = paths
        self.batches = batches
        self.section = section
        self.device = decode_device(section, device)
        self.want = want
        self.quarantine: dict[str, str] = {}  # path -> reason
        self._turbo = uses_turbo(section, self.device)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Generator[Decoded, None, None]:
        running = self._run()
        next(running)  # the thread works from here on, and closing the generator ends it
        return running

    def _run(self) -> Generator[Any, None, None]:
        ready: queue.Queue[Decoded | BaseException | None] = queue.Queue(maxsize=self.section.prefetch)
        stop = threading.Event()
        producer = threading.Thread(target=self._produce, args=(ready, stop), name="decode", daemon=True)
        producer.start()
        in_use: deque[tuple[torch.cuda.Event, Decoded]] = deque()
        try:
            yield
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
                if self.device.type == "cuda":
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

    def _produce(self, ready: queue.Queue[Decoded | BaseException | None], stop: threading.Event) -> None:
        try:
            decoder = self._decoder()
            with ThreadPoolExecutor(READERS, thread_name_prefix="read") as readers:
                for rows, contents in self._contents(readers):
                    if stop.is_set():
                        return
                    decoded = self._batch(decoder, rows, contents)
                    if decoded is not None:
                        ready.put(decoded)
            ready.put(None)
        except BaseException as error:  # handed to the consumer, whose thread can tell the user
            ready.put(error)

    def _decoder(self) -> Decoder:
        if self._turbo:
            # Batches alive at once: those in the queue, the consumer's, and the one being made.
            return TurboDecoder(self.section.threads, rounds=self.section.prefetch + 2)
        return DaliDecoder(self.device, self.section.threads)

    def _contents(self, readers: ThreadPoolExecutor) -> Iterator[tuple[np.ndarray, list[bytes | str]]]:
        """Batches of rows with what their files hold, each read while the one before it is decoded."""
        reading: deque[tuple[np.ndarray, list[Future[list[bytes | str]]]]] = deque()
        for rows in self.batches:
            paths = [self.paths[row] for row in rows.tolist()]
            # A few files a task: a task costs as much as reading a small file.
            size = -(-len(paths) // READERS) or 1
            tasks = [readers.submit(_read, paths[at : at + size]) for at in range(0, len(paths), size)]
            reading.append((rows, tasks))
            if len(reading) > 1:
                yield _finished(reading.popleft())
        while reading:
            yield _finished(reading.popleft())

    def _batch(self, decoder: Decoder, rows: np.ndarray, contents: Sequence[bytes | str]) -> Decoded | None:
        kept: list[int] = []
        encoded: list[bytes] = []
        for row, content in zip(rows.tolist(), contents, strict=True):
            if isinstance(content, str):
                self.quarantine[self.paths[row]] = content
            else:
                kept.append(row)
                encoded.append(content)
        if not encoded:
            return None
        rows_B = np.array(kept, dtype=np.int64)
        plans: list[tuple[np.ndarray, np.ndarray, Plan]] = []

        def want(positions: np.ndarray, sizes_N2: np.ndarray) -> Sequence[Part]:
            assert self.want is not None
            plan, parts = self.want(rows_B[positions], sizes_N2)
            plans.append((rows_B[positions], sizes_N2, plan))
            return parts

        images, bad = decoder(encoded, want if self.want else None)
        for i, reason in bad:
            self.quarantine[self.paths[kept[i]]] = reason
        if not images:
            return None
        decoded = Decoded.of(images, np.delete(rows_B, [i for i, _ in bad]))
        for rows, sizes_N2, plan in plans:
            if np.array_equal(rows, decoded.rows_B) and np.array_equal(sizes_N2, decoded.sizes_B2.numpy()):
                return dataclasses.replace(decoded, plan=decoded.fit(plan))
        return decoded


def _read(paths: Sequence[str]) -> list[bytes | str]:
    """The bytes of each file, or why there are none."""
    contents: list[bytes | str] = []
    for path in paths:
        try:
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123  a Path costs as much as opening
                contents.append(file.read() or "is empty (0 bytes)")
        except OSError as error:
            contents.append(f"cannot be read: {error.strerror or error}")
    return contents


def _finished(read: tuple[np.ndarray, list[Future[list[bytes | str]]]]) -> tuple[np.ndarray, list[bytes | str]]:
    rows, tasks = read
    return rows, [content for task in tasks for content in task.result()]
