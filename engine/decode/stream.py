"""Decoded batches in a given order, made ahead of the consumer by a thread of its own.

A thread and not worker processes: reading and decoding release the GIL, and pixels handed over by a process would be
copied once more. A file that cannot be read or decoded is left out of its batch and remembered in `quarantine`.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from engine.decode.dali import DaliDecoder, decode_device
from engine.kernels import Ragged
from engine.recipe.sections import DecodeSection

READERS = 8  # threads that read files: enough to keep a network file system busy, idle on a local one


@dataclasses.dataclass(frozen=True)
class Decoded:
    """One decoded batch. `rows_B` (int64) says which path each image is; rows of bad files are missing."""

    images: Ragged
    rows_B: np.ndarray


class ImageStream:
    """Iterate to get one `Decoded` per entry of `batches`; each iteration starts anew.

    `paths` are files, `batches` integer arrays of rows into them, `device` is the model's. A batch whose files are all
    bad is skipped. The images of a batch may be used until the next batch is asked for; on a GPU also by kernels that
    are queued by then.
    """

    def __init__(
        self, paths: Sequence[str], batches: Sequence[np.ndarray], section: DecodeSection, device: torch.device
    ) -> None:
        self.paths = paths
        self.batches = batches
        self.section = section
        self.device = decode_device(section, device)
        self.quarantine: dict[str, str] = {}  # path -> reason

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Generator[Decoded, None, None]:
        ready: queue.Queue[Decoded | BaseException | None] = queue.Queue(maxsize=self.section.prefetch)
        stop = threading.Event()
        producer = threading.Thread(target=self._produce, args=(ready, stop), name="decode", daemon=True)
        producer.start()
        in_use: deque[tuple[torch.cuda.Event, Decoded]] = deque()
        try:
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
            decoder = DaliDecoder(self.device, self.section.threads)
            with ThreadPoolExecutor(READERS, thread_name_prefix="read") as readers:
                for rows in self.batches:
                    if stop.is_set():
                        return
                    decoded = self._batch(decoder, readers, rows)
                    if decoded is not None:
                        ready.put(decoded)
            ready.put(None)
        except BaseException as error:  # handed to the consumer, whose thread can tell the user
            ready.put(error)

    def _batch(self, decoder: DaliDecoder, readers: ThreadPoolExecutor, rows: np.ndarray) -> Decoded | None:
        kept: list[int] = []
        encoded: list[np.ndarray] = []
        for row, content in zip(rows.tolist(), readers.map(_read, (self.paths[r] for r in rows)), strict=True):
            if isinstance(content, str):
                self.quarantine[self.paths[row]] = content
            else:
                kept.append(row)
                encoded.append(content)
        if not encoded:
            return None
        images, bad = decoder(encoded)
        for i, reason in bad:
            self.quarantine[self.paths[kept[i]]] = reason
        bad_positions = {i for i, _ in bad}
        rows_B = np.array([row for i, row in enumerate(kept) if i not in bad_positions], dtype=np.int64)
        return Decoded(Ragged(images), rows_B) if images else None


def _read(path: str) -> np.ndarray | str:
    """The file's bytes, or why there are none."""
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return content if content.size else "is empty (0 bytes)"
