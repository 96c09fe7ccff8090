"""What a file says about itself: its hash, its size in pixels and its EXIF orientation, without decoding a pixel.

JPEG headers are walked here and not by PIL: it is the one format that comes by the million, and PIL's parser holds
the interpreter's lock long enough to halve the indexing rate. The rest goes through PIL, opened lazily. Threads, not
processes: reading and hashing release the lock, and a fork beside CUDA or DALI threads can hang.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from engine.data.manifest import OK, SCHEMA

FACTS = pa.schema([SCHEMA.field(name) for name in ("sha1", "height", "width", "orientation", "status")])
Facts = tuple[str, int, int, int, str]

_CHUNK = 256  # files per task: small enough for a smooth progress bar, large enough to hide the task's own cost
_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0..15 without DHT, JPG, DAC
_BARE_MARKERS = frozenset(range(0xD0, 0xD9)) | {0x01}  # RST0..7, SOI, TEM: no length follows
_ORIENTATION_TAG = 0x0112
Item = TypeVar("Item")
Result = TypeVar("Result")


def probe(path: str) -> Facts:
    """(sha1, height, width, orientation, status) of one file. Never raises: what is wrong stands in the status."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123  a Path would cost as much as the header
            data = file.read()
    except OSError as error:
        return "", 0, 0, 1, f"cannot be read: {error.strerror or error}"
    if not data:
        return "", 0, 0, 1, "empty file"
    sha1 = hashlib.sha1(data, usedforsecurity=False).hexdigest()
    try:
        height, width, orientation = jpeg_header(data) if data[:2] == b"\xff\xd8" else _other_header(data)
    except ValueError as error:
        return sha1, 0, 0, 1, str(error)
    if height < 1 or width < 1:
        return sha1, height, width, orientation, f"an image of {height} x {width} pixels"
    return sha1, height, width, orientation, OK


def jpeg_header(data: bytes) -> tuple[int, int, int]:
    """(height, width, EXIF orientation) of a JPEG, by walking its segments (ITU T.81, annex B). Raises ValueError."""
    at, orientation = 2, 1
    try:
        while True:
            if data[at] != 0xFF:
                raise ValueError("damaged JPEG header")
            while data[at + 1] == 0xFF:  # fill bytes
                at += 1
            marker = data[at + 1]
            if marker in _BARE_MARKERS:
                at += 2
                continue
            (length,) = struct.unpack_from(">H", data, at + 2)
            if marker in _SIZE_MARKERS:
                height, width = struct.unpack_from(">HH", data, at + 5)
                return height, width, orientation
            if marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
                orientation = exif_orientation(data[at + 10 : at + 2 + length])
            at += 2 + length
    except (IndexError, struct.error):
        raise ValueError("JPEG cut off in its header") from None


def exif_orientation(tiff: bytes) -> int:
    """The orientation tag in a TIFF header (EXIF 2.3, 4.6.4); 1 when there is none, or nothing sensible."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, at)
        for entry in range(entries):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, at + 2 + 12 * entry)
            if tag == _ORIENTATION_TAG:
                return value if 1 <= value <= 8 else 1
    except struct.error:  # a damaged block says nothing about the pixels
        pass
    return 1


def _other_header(data: bytes) -> tuple[int, int, int]:
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "WEBP", "BMP")) as image:
            width, height = image.size
            # Not getexif(): for PNG that decodes the pixels.
            exif: bytes = image.info.get("exif", b"")
    except Image.DecompressionBombError:
        raise ValueError("more pixels than PIL takes from one file") from None
    except (OSError, SyntaxError, ValueError, struct.error):
        raise ValueError("not a JPEG, PNG, WebP or BMP image") from None
    return height, width, exif_orientation(exif.removeprefix(b"Exif\0\0"))


def probe_files(paths: Sequence[str]) -> Generator[pa.RecordBatch, None, None]:
    """Facts of all files, in order, a few hundred at a time as they are ready. Close it to stop early."""
    return in_threads(_probe_chunk, paths)


def stat_files(paths: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(bytes_N, mtime_ns_N) of all files, links followed; bytes -1 where there is no such regular file.

    In threads, because on a network drive each question takes a round trip.
    """
    chunks = list(in_threads(_stat_chunk, paths))
    both_2N = np.concatenate([np.zeros((2, 0), dtype=np.int64), *chunks], axis=1)
    return both_2N[0], both_2N[1]


def _probe_chunk(paths: Sequence[str]) -> pa.RecordBatch:
    columns = zip(*map(probe, paths), strict=True)
    return pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, FACTS, strict=True)], schema=FACTS)


def _stat_chunk(paths: Sequence[str]) -> NDArray[np.int64]:
    chunk_2N = np.zeros((2, len(paths)), dtype=np.int64)
    for n, path in enumerate(paths):
        try:
            found = os.stat(path)  # noqa: PTH116
        except (OSError, ValueError):  # ValueError: a null byte in a table's path
            chunk_2N[0, n] = -1
        else:
            chunk_2N[:, n] = (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else (-1, 0)
    return chunk_2N


def in_threads(work: Callable[[Sequence[Item]], Result], items: Sequence[Item]) -> Generator[Result, None, None]:
    """`work` on a few hundred items at a time, answers in order as they are ready. Close it to stop early."""
    # More threads than cores hide a drive's latency; many more only queue for the interpreter's lock.
    pool = ThreadPoolExecutor(max_workers=min(32, max(4, len(os.sched_getaffinity(0)))))
    try:
        yield from pool.map(work, [items[at : at + _CHUNK] for at in range(0, len(items), _CHUNK)])
    finally:
        pool.shutdown(cancel_futures=True)  # on Ctrl-C nobody waits for the files not begun
