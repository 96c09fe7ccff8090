"""What folders and tables share: the columns they make, which files are pictures, and what the file system says."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Any

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


def stat_files(paths: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(bytes_N, mtime_ns_N) of all files, links followed; bytes -1 where there is no such regular file.

    In threads, because on a network drive each question takes a round trip.
    """
    chunks = list(in_threads(_stat_chunk, paths))
    both_2N = np.concatenate([np.zeros((2, 0), dtype=np.int64), *chunks], axis=1)
    return both_2N[0], both_2N[1]


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


def nfc_column(names: pa.ChunkedArray | pa.Array) -> pa.Array:
    """`text.nfc` for a column."""
    names = names.combine_chunks() if isinstance(names, pa.ChunkedArray) else names
    return pc.utf8_normalize(names, form="NFC")
