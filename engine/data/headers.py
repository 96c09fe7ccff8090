"""What a file says about itself: its hash, its size in pixels and its EXIF orientation, without decoding a pixel.

JPEG headers are walked here and not by PIL: it is the one format that comes by the million, and PIL's parser holds
the interpreter's lock long enough to halve the indexing rate. The rest goes through PIL, opened lazily.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Generator, Sequence
from typing import NamedTuple, Self

import pyarrow as pa
from PIL import Image

from engine.data.manifest import OK, SCHEMA
from engine.data.threads import in_threads
from engine.quarantine import Fault, FaultKind, read_file

FACTS = pa.schema([SCHEMA.field(name) for name in ("sha1", "height", "width", "orientation", "status", "fault")])
_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0..15 without DHT, JPG, DAC
_BARE_MARKERS = frozenset(range(0xD0, 0xD9)) | {0x01}  # RST0..7, SOI, TEM: no length follows
_ORIENTATION_TAG = 0x0112


class HeaderFacts(NamedTuple):
    """What a file says about itself: a row of FACTS. Sizes are as stored, before EXIF turns them; 0 when not known."""

    sha1: str
    height: int
    width: int
    orientation: int
    status: str
    fault: str

    @classmethod
    def of_bad(cls, kind: FaultKind, words: str, sha1: str = "") -> Self:
        """Of a file that cannot be used."""
        return cls(sha1, 0, 0, 1, kind, words)


def read_header(path: str) -> HeaderFacts:
    """The facts of one file. Never raises: what is wrong stands in them."""
    data = read_file(path)
    if isinstance(data, Fault):
        return HeaderFacts.of_bad(data.kind, data.detail)
    sha1 = hashlib.sha1(data, usedforsecurity=False).hexdigest()
    try:
        height, width, orientation = jpeg_header(data) if data[:2] == b"\xff\xd8" else _other_header(data)
        if height < 1 or width < 1:
            raise ValueError(f"an image of {height} x {width} pixels")
    except ValueError as error:
        return HeaderFacts.of_bad(FaultKind.NOT_AN_IMAGE, str(error), sha1)
    return HeaderFacts(sha1, height, width, orientation, OK, "")


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


def read_headers(paths: Sequence[str]) -> Generator[pa.RecordBatch, None, None]:
    """Facts of all files, in order, a few hundred at a time as they are ready. Close it to stop early."""
    return in_threads(_read_chunk, paths)


def _read_chunk(paths: Sequence[str]) -> pa.RecordBatch:
    columns = zip(*map(read_header, paths), strict=True)
    return pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, FACTS, strict=True)], schema=FACTS)
