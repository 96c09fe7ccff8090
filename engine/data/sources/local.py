"""What folders and tables share: the columns they make, which files are pictures, and what the file system says."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.data.threads import in_threads

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
# Pictures that cannot be decoded are listed too, so that they are reported and not silently missing.
PICTURE_SUFFIXES = frozenset(IMAGE_SUFFIXES) | {
    *(".jfif", ".jpe", ".apng", ".tga", ".ico", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm", ".pcx", ".sgi", ".dds", ".qoi"),
    *(".psd", ".heic", ".heif", ".jxl"),
}

Columns = dict[str, Any]  # columns of the manifest by name, N values each

Purpose = Literal["train", "test", "look"]
"""What samples are listed for: to learn from, to be predicted, or neither yet, as by `engine data index`."""


@dataclass(frozen=True)
class Listing:
    """The samples of a folder or a table, and in words what a person should know of how they were found."""

    columns: Columns
    notices: tuple[str, ...] = ()


def stat_files(paths: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(bytes_N, mtime_ns_N) of all files, links followed; bytes -1 where there is no such regular file.

    In threads, because on a network drive each question takes a round trip.
    """
    chunks = list(in_threads(_stat_chunk, paths))
    both_2N = np.concatenate([np.zeros((2, 0), dtype=np.int64), *chunks], axis=1)
    return both_2N[0], both_2N[1]


def stat_file(path: str) -> tuple[int, int]:
    """(bytes, mtime_ns) of a file, links followed; bytes -1 where there is no such regular file."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):  # ValueError: a null byte in a table's path
        return -1, 0
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else (-1, 0)


def _stat_chunk(paths: Sequence[str]) -> NDArray[np.int64]:
    return np.array([stat_file(path) for path in paths], dtype=np.int64).T


def nfc_column(names: pa.ChunkedArray | pa.Array) -> pa.Array:
    """`text.nfc` for a column."""
    names = names.combine_chunks() if isinstance(names, pa.ChunkedArray) else names
    return pc.utf8_normalize(names, form="NFC")
