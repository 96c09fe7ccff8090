"""One rough look at the pixels of every file: does it decode, and what does it resemble.

A header says nothing about a file that was cut off, and a hash of bytes nothing about a photo that was saved twice. So
every file is decoded once, a plain JPEG by libjpeg-turbo at an eighth of its size: all of the file is read, and little
of it computed. What is found is kept by content, so a renamed or moved file is not looked at again.

What is refused here is what the decoders of training refuse, and the picture is theirs: both go by `pictures`. Tests
hold them to it (tests/data/test_pixels.py, tests/decode/test_kinds.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine import pictures
from engine.data.cache import cache_places, load_table, save_table
from engine.data.ingest import Progress
from engine.data.manifest import OK, Manifest, faults_of
from engine.data.threads import in_threads
from engine.pictures import RGB, upright
from engine.quarantine import Fault, read_file
from engine.recipe.sections import DecodeSection
from engine.recipe.sections.decode import DEFAULT_DECODE

SIDE = 32  # of the gray picture that is hashed
HASH_SIDE = 16  # its lowest frequencies along each axis, a bit each
HASH_BYTES = HASH_SIDE * HASH_SIDE // 8

SCHEMA = pa.schema(
    [
        ("sha1", pa.string()),
        ("format", pa.string()),  # jpeg, png, ... (see `pictures.Header`), by content; "" when the file is unusable
        ("status", pa.string()),  # "ok", or the FaultKind for which it cannot be decoded
        ("fault", pa.string()),  # the same in words; "" when ok
        ("doubt", pa.string()),  # what is damaged in a file that still decodes; "" when nothing is
        ("hash", pa.binary(HASH_BYTES)),  # perceptual, of the upright picture
        ("spread", pa.float32()),  # standard deviation of gray, 0 to 255
    ]
)
_FORMAT = "3"
_NO_HASH = bytes(HASH_BYTES)


class _Facts(NamedTuple):
    """A row of SCHEMA; as it stands by default, of a file that nobody looked at."""

    sha1: str
    format: str = ""
    status: str = OK
    fault: str = ""
    doubt: str = ""
    hash: bytes = _NO_HASH
    spread: float = 0.0


@dataclass(frozen=True, eq=False)
class PixelFacts:
    """What one look at the samples of a manifest showed, row by row; see SCHEMA. Files that were unusable already are
    not looked at: their rows are blank."""

    table: pa.Table

    @cached_property
    def faults(self) -> list[Fault | None]:
        """Why each file cannot be decoded; None where it can."""
        return faults_of(self.table)

    @cached_property
    def doubts(self) -> list[str]:
        return list(self.table["doubt"].to_pylist())

    @cached_property
    def formats(self) -> list[str]:
        return list(self.table["format"].to_pylist())

    @cached_property
    def spread_N(self) -> NDArray[np.float32]:
        return np.asarray(self.table["spread"].to_numpy(), dtype=np.float32)

    @cached_property
    def hash_NB(self) -> NDArray[np.uint8]:
        """Perceptual hashes, (N, HASH_BYTES)."""
        whole = b"".join(self.table["hash"].to_pylist())
        return np.frombuffer(whole, dtype=np.uint8).reshape(-1, HASH_BYTES)


def look(
    manifest: Manifest,
    source: str,
    cache: str,
    progress: Progress | None = None,
    decode: DecodeSection = DEFAULT_DECODE,
) -> PixelFacts:
    """Look at every usable file of `manifest`, which was made of `source`, as `decode` would have it; those of known
    content, and those of too many pixels, are not opened.

    `progress(done, total)` counts contents. When stopped half-way, what was seen is kept for the next time.
    """
    places = cache_places(str(Path(source).absolute()), cache, "pixels")
    format_ = f"{_FORMAT} over {decode.background}"  # transparent pictures are others over another background
    found = load_table(places, SCHEMA, format_)
    known = SCHEMA.empty_table() if found is None else found[0]
    large = [pictures.too_large(height, width, decode.max_megapixels) for height, width in manifest.sizes_N2.tolist()]
    usable = np.asarray(pc.equal(manifest.table["status"], OK)) & np.array([fault is None for fault in large], bool)
    new = usable & ~np.asarray(pc.is_in(manifest.table["sha1"], known["sha1"].combine_chunks()))
    rows = np.flatnonzero(new)
    _, first = np.unique(np.array(manifest.table["sha1"].to_pylist(), dtype=object)[rows], return_index=True)
    rows = np.sort(rows[first])
    chosen = manifest.table.take(pa.array(rows))
    paths_and_sha1 = zip(chosen["path"].to_pylist(), chosen["sha1"].to_pylist(), strict=True)
    files = [(path, sha1, decode.background) for path, sha1 in paths_and_sha1]
    tables = [known]
    done, total = known.num_rows, known.num_rows + len(files)
    if progress:
        progress(done, total)
    try:
        with closing(in_threads(_look_chunk, files)) as batches:
            for batch in batches:
                tables.append(pa.Table.from_batches([batch]))
                done += batch.num_rows
                if progress:
                    progress(done, total)
    finally:
        seen = pa.concat_tables(tables)
        if seen.num_rows > known.num_rows:
            save_table(seen, places, format_)
    place = pc.index_in(manifest.table["sha1"], value_set=seen["sha1"].combine_chunks())
    place = pc.if_else(pa.array(usable), place, None)
    unseen = [_Facts(""), *(_Facts("", status=fault.kind, fault=fault.detail) for fault in large if fault)]
    rows_N = pc.fill_null(place, seen.num_rows).to_numpy().astype(np.int64)
    rows_N[[fault is not None for fault in large]] = seen.num_rows + np.arange(1, len(unseen))
    seen = pa.concat_tables([seen, pa.Table.from_batches([_batch(unseen)])])
    return PixelFacts(seen.take(pa.array(rows_N)).combine_chunks())


def perceptual_hash(gray_HW: NDArray[np.uint8]) -> bytes:
    """256 bits that stay nearly the same when a picture is resized, saved again or made brighter: the signs of the 16 x
    16 lowest frequencies (DCT-II) of its SIDE x SIDE gray picture, the mean left out.

    Zauner 2010, "Implementation and benchmarking of perceptual image hash functions", 3.2, with signs in place of a
    comparison with the median: then a mirrored or turned picture has the same bits in other places (see `near`).
    """
    import cv2  # only where pixels are looked at: `data.check = "header"` does without it

    small = cv2.resize(gray_HW, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float64)
    waves = _DCT @ small @ _DCT.T
    waves[0, 0] = 0
    return np.packbits(waves > 1e-6).tobytes()


_DCT = np.cos(np.pi * np.outer(np.arange(HASH_SIDE), 2 * np.arange(SIDE) + 1) / (2 * SIDE))


def _look_chunk(files: Sequence[tuple[str, str, RGB]]) -> pa.RecordBatch:
    return _batch([_look_at(*file) for file in files])


def _batch(rows: Sequence[_Facts]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    return pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def _look_at(path: str, sha1: str, background: RGB) -> _Facts:
    content = read_file(path)
    if isinstance(content, Fault):  # there was something to read a moment ago
        return _Facts(sha1, status=content.kind, fault=content.detail)
    header = pictures.read_header(content)
    if isinstance(header, Fault):
        return _Facts(sha1, status=header.kind, fault=header.detail)
    complaint = ""
    if header.plain:
        gray_HW1, complaint = pictures.roughly(content, "GRAY", SIDE)
        if gray_HW1 is not None:
            return _facts(sha1, header.format, upright(gray_HW1[:, :, 0], header.orientation))
    pixels_HW3 = pictures.read_pixels(content, background)
    if isinstance(pixels_HW3, Fault):
        return _Facts(sha1, header.format, pixels_HW3.kind, pixels_HW3.detail)
    import cv2

    return _facts(sha1, header.format, cv2.cvtColor(pixels_HW3, cv2.COLOR_RGB2GRAY), complaint)


def _facts(sha1: str, format_: str, gray_HW: NDArray[np.uint8], complaint: str = "") -> _Facts:
    """Of a picture, upright."""
    doubt = complaint if complaint.startswith(("Corrupt", "Premature")) else ""
    return _Facts(sha1, format_, doubt=doubt, hash=perceptual_hash(gray_HW), spread=float(gray_HW.std()))
