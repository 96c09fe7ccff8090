"""Where the bytes of samples come from. Who decodes asks for rows and knows no paths, so that photos may as well lie in
a shard, on object storage or in memory."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from engine.kernels import files
from engine.kernels.files import Content
from engine.quarantine import EMPTY, NOT_REGULAR, Fault, read_file, unreadable

READERS = 8  # threads that read: enough to keep a network file system busy, idle on a local one


class Source(Protocol):
    """Encoded images by row, 0 to its length. Several threads may ask at once."""

    def __len__(self) -> int: ...

    def read(self, rows: np.ndarray) -> Sequence[Content | Fault]:
        """What each row (int64) holds, never nothing, or why it cannot be had."""
        ...

    def where(self, row: int) -> str:
        """A path or an address that a person can look up; "" where there is none."""
        ...


@dataclasses.dataclass(frozen=True)
class Files:
    """Local files, a path a row."""

    paths: Sequence[str]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, rows: np.ndarray) -> Sequence[Content | Fault]:
        paths = [self.paths[row] for row in rows.tolist()]
        if not files.available():
            return [read_file(path) for path in paths]
        found = files.read(paths, READERS)
        return [_fault(one) if isinstance(one, int) else one for one in found]

    def where(self, row: int) -> str:
        return self.paths[row]


@dataclasses.dataclass(frozen=True)
class Memory:
    """Encoded images at hand, one a row, or why there is none."""

    contents: Sequence[bytes | Fault]

    def __len__(self) -> int:
        return len(self.contents)

    def read(self, rows: np.ndarray) -> Sequence[Content | Fault]:
        return [self.contents[row] or EMPTY for row in rows.tolist()]

    def where(self, row: int) -> str:
        return ""


def tasks(source: Source) -> int:
    """Into how many calls a batch is best divided: one, where the source reads by threads of its own."""
    return 1 if isinstance(source, Memory) or (isinstance(source, Files) and files.available()) else READERS


def _fault(code: int) -> Fault:
    if code == files.EMPTY:
        return EMPTY
    return NOT_REGULAR if code == files.NOT_REGULAR else unreadable(os.strerror(code))
