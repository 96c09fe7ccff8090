"""What is too long for memory and must be whole: lists of names in order, and names that stand there twice.

Names go through files of the folder that the caller gives, in runs of a fixed length, so that ten million of them take
the memory of ten thousand. Up to one run nothing touches the disk.
"""

from __future__ import annotations

import hashlib
import heapq
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from engine.text import nfc

_RUN = 65_536  # names in memory at a time
_HASHES = 1 << 20  # of them sorted at a time


class SortedNames:
    """Names of files, in the order of their composed form, whatever the order in which they came. `folder` takes those
    that are too many for memory; `close` removes them. Iterating begins anew each time, after the last was added."""

    def __init__(self, folder: Path, run: int = _RUN) -> None:
        self._folder, self._run = folder, run
        self._names: list[str] = []
        self._runs: list[Path] = []
        self._length = 0

    def append(self, name: str) -> None:
        self._names.append(name)
        self._length += 1
        if len(self._names) >= self._run:
            self._spill()

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[str]:
        if not self._runs:
            self._names.sort(key=_order)
            return iter(self._names)
        self._spill()
        return heapq.merge(*map(_read, self._runs), key=_order)

    def close(self) -> None:
        for path in self._runs:
            path.unlink(missing_ok=True)

    def _spill(self) -> None:
        if not self._names:
            return
        path = self._folder / f"names-{len(self._runs)}"
        self._folder.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for name in sorted(self._names, key=_order):
                file.write(os.fsencode(name) + b"\0")
        self._runs.append(path)
        self._names = []


def _order(name: str) -> tuple[str, str]:
    return nfc(name), name


def _read(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        yield from split(iter(lambda: file.read(1 << 15), b""), b"\0")


def split(blocks: Iterable[bytes], end: bytes) -> Iterator[str]:
    """The names in blocks of bytes of any length, each of which ends with `end` (the last one need not)."""
    rest = b""
    for block in blocks:
        *names, rest = (rest + block).split(end)
        yield from map(os.fsdecode, names)
    if rest:
        yield os.fsdecode(rest)


class Hashes:
    """Which of many names stand there twice: by 64-bit hashes (BLAKE2b) in the file `path`, which `close` removes.

    Of ten million different names two have the same hash with a chance of 1 in 400,000, so a hash that comes twice is
    no proof: whoever asks looks at the names themselves.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb")
        self._length = 0

    def add(self, names: pa.Array | pa.ChunkedArray) -> None:
        self._file.write(hashes_of(names).tobytes())
        self._length += len(names)

    def repeated(self) -> set[int]:
        """The hashes that come more than once. A range of hashes at a time is sorted, so memory stays as it is."""
        self._file.flush()
        buckets = -(-self._length // _HASHES)
        found: set[int] = set()
        for bucket in range(buckets):
            first, last = (number * 2**64 // buckets for number in (bucket, bucket + 1))
            pieces = [piece_N[(piece_N >= first) & (piece_N <= last - 1)] for piece_N in self._pieces()]
            values_N = np.sort(np.concatenate(pieces))
            found.update(np.unique(values_N[1:][values_N[1:] == values_N[:-1]]).tolist())
        return found

    def close(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def _pieces(self) -> Iterator[np.ndarray]:
        with self._path.open("rb") as file:
            while len(piece_N := np.fromfile(file, dtype="<u8", count=_HASHES)):
                yield piece_N


def hashes_of(names: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A 64-bit hash of each name, uint64."""
    digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names.to_pylist())
    return np.frombuffer(digests, dtype="<u8")
