"""Kept photos on a disk: blocks that are files, mapped into memory, and an index of what is in them.

The system's page cache decides which of them are in memory, and all processes of a machine see the same pages: each
writes files of its own and, between epochs, reads in the others' indexes what they keep. A file is written once and
never again, so nobody has to lock anything; one in which nothing is wanted is removed, and whoever still looks at it
has it until then.

A run that was interrupted finds its photos again when the index is of the same run, data, way of decoding and boot of
the machine: what was written by a process that died is in the page cache, but nobody waited for the disk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import mmap
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.errors import StorageError
from engine.files import atomic_write

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_RANK = 1_000_000  # blocks of a process: more than disks hold
_NAME = re.compile(r"(\d+)\.(pixels|npz)")


@dataclasses.dataclass(frozen=True)
class Whose:
    """A process of a run, and all on which the pixels of its rows depend, as JSON. leads: among those of its machine,
    which removes what all of them leave."""

    rank: int
    content: str
    leads: bool = True

    @property
    def mark(self) -> str:
        """A hash; on a machine that does not tell its boots apart, of this process alone."""
        boot = _BOOT.read_text("ascii") if _BOOT.is_file() else str(os.getpid())
        return hashlib.blake2b(json.dumps([self.content, boot]).encode(), digest_size=16).hexdigest()


class InFiles:
    """Blocks in `folder`, which is made. Raises StorageError when it cannot be.

    Other processes of the run do the same in the same folder, under other ranks.
    """

    device = torch.device("cpu")

    def __init__(self, folder: Path, whose: Whose) -> None:
        self._folder, self._rank, self._mark = folder, whose.rank, whose.mark
        self._maps: dict[int, tuple[mmap.mmap, Tensor]] = {}  # by number
        self._seen: dict[int, int] = {}  # when the indexes of others were written that were read, by rank
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            told = f"decode.cache_dir: {folder} cannot be made ({error.strerror}): give another folder"
            raise StorageError(told, error.errno or 0) from error
        self._last = whose.rank * _RANK
        self.found_bytes = 0  # of this process's blocks, that an earlier one has left
        self._begin()

    def new(self, size: int) -> tuple[int, Tensor]:
        """See `Blocks`. Raises StorageError when the disk is full."""
        number = self._last = self._last + 1
        path = self._path(number)
        try:
            with path.open("xb") as file:
                # Taken at once: a mapping of what a full disk cannot take would end the process.
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise StorageError(f"{self._folder}: {error.strerror}", error.errno or 0) from error
        return number, self.of(number)

    def of(self, number: int) -> Tensor:
        if number not in self._maps:
            with self._path(number).open("r+b") as file:
                mapped = mmap.mmap(file.fileno(), 0)
            self._maps[number] = mapped, torch.from_numpy(np.frombuffer(mapped, dtype=np.uint8))
        return self._maps[number][1]

    def drop(self, number: int) -> None:
        self._maps.pop(number, None)
        if self.owns(number):
            self._path(number).unlink(missing_ok=True)

    def soon(self, number: int, start: int, stop: int) -> None:
        mapped, page = self._maps[number][0], mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, start // page * page, stop - start // page * page)

    def owns(self, number: int) -> bool:
        return number // _RANK == self._rank

    def publish(self, rows_K: np.ndarray, entries_K: np.ndarray) -> None:
        with atomic_write(self._index(self._rank)) as temporary, temporary.open("wb") as file:
            np.savez(file, mark=np.array(self._mark), rows=rows_K, entries=entries_K)
        self._seen[self._rank] = self._written(self._rank)

    def found(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for rank in self._ranks():
            written = self._written(rank)
            if self._seen.get(rank, 0) != written and (read := self._read(rank)) is not None:
                yield read
            self._seen[rank] = written

    def remove(self) -> None:
        """The folder, with what all processes have in it."""
        self._maps.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _begin(self) -> None:
        """Go on with what this rank has left here, if it is of the same; remove it else."""
        read = self._read(self._rank)
        in_use = set() if read is None else set(read[1]["block"].tolist())
        self._last = max(self._last, *in_use, 0)  # others may look for these in a file of that number, if it is gone
        for path in self._folder.iterdir():
            found = _NAME.fullmatch(path.name)
            if found and found[2] == "pixels" and self.owns(number := int(found[1])):
                self._last = max(self._last, number)
                if number in in_use:
                    self.found_bytes += path.stat().st_size
                else:
                    path.unlink(missing_ok=True)
        if read is None:
            self._index(self._rank).unlink(missing_ok=True)

    def _ranks(self) -> list[int]:
        """Of those that have an index here."""
        found = (_NAME.fullmatch(path.name) for path in self._folder.iterdir())
        return sorted(int(one[1]) for one in found if one and one[2] == "npz")

    def _written(self, rank: int) -> int:
        """When a rank's index was, 0 for never."""
        with contextlib.suppress(OSError):
            return self._index(rank).stat().st_mtime_ns
        return 0

    def _read(self, rank: int) -> tuple[np.ndarray, np.ndarray] | None:
        """An index: rows and their entries; None where there is none of this run, or a damaged one."""
        try:
            with np.load(self._index(rank), allow_pickle=False) as index:
                return (index["rows"], index["entries"]) if str(index["mark"]) == self._mark else None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # EOFError: it is empty
            return None

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:09d}.pixels"

    def _index(self, rank: int) -> Path:
        return self._folder / f"{rank}.npz"
