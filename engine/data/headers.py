"""What a file says about itself: its hash, its size in pixels and its EXIF orientation, without decoding a pixel."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from typing import NamedTuple, Self

import pyarrow as pa

from engine import pictures
from engine.data.manifest import OK, SCHEMA
from engine.data.threads import in_threads
from engine.quarantine import Fault, read_file

FACTS = pa.schema([SCHEMA.field(name) for name in ("sha1", "height", "width", "orientation", "status", "fault")])


class HeaderFacts(NamedTuple):
    """What a file says about itself: a row of FACTS. Sizes are as stored, before EXIF turns them; 0 when not known."""

    sha1: str
    height: int
    width: int
    orientation: int
    status: str
    fault: str

    @classmethod
    def of_bad(cls, fault: Fault, sha1: str = "") -> Self:
        """Of a file that cannot be used."""
        return cls(sha1, 0, 0, 1, fault.kind, fault.detail)


def read_header(path: str) -> HeaderFacts:
    """The facts of one file. Never raises: what is wrong stands in them."""
    data = read_file(path)
    if isinstance(data, Fault):
        return HeaderFacts.of_bad(data)
    sha1 = hashlib.sha1(data, usedforsecurity=False).hexdigest()
    header = pictures.read_header(data)
    if isinstance(header, Fault):
        return HeaderFacts.of_bad(header, sha1)
    return HeaderFacts(sha1, header.height, header.width, header.orientation, OK, "")


def read_headers(paths: Sequence[str]) -> Generator[pa.RecordBatch, None, None]:
    """Facts of all files, in order, a few hundred at a time as they are ready. Close it to stop early."""
    return in_threads(_read_chunk, paths)


def _read_chunk(paths: Sequence[str]) -> pa.RecordBatch:
    columns = zip(*map(read_header, paths), strict=True)
    return pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, FACTS, strict=True)], schema=FACTS)
