"""Where the bytes of samples come from. Who decodes asks for rows and knows no paths, so that photos may as well lie in
a shard, on object storage or in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from engine.quarantine import EMPTY, Fault, read_file


class Source(Protocol):
    """Encoded images by row, 0 to its length. Several threads may ask at once."""

    def __len__(self) -> int: ...

    def read(self, rows: np.ndarray) -> list[bytes | Fault]:
        """The bytes of each row (int64), never none of them, or why they cannot be had."""
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

    def read(self, rows: np.ndarray) -> list[bytes | Fault]:
        return [read_file(self.paths[row]) for row in rows.tolist()]

    def where(self, row: int) -> str:
        return self.paths[row]


@dataclasses.dataclass(frozen=True)
class Memory:
    """Encoded images at hand, one a row, or why there is none."""

    contents: Sequence[bytes | Fault]

    def __len__(self) -> int:
        return len(self.contents)

    def read(self, rows: np.ndarray) -> list[bytes | Fault]:
        return [self.contents[row] or EMPTY for row in rows.tolist()]

    def where(self, row: int) -> str:
        return ""
