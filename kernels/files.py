"""Files read by the batch, outside the interpreter's lock, with what the JPEGs among them say of themselves.

A loop in Python opens and reads a small file in some fifty microseconds, most of them with the lock held, and walks its
header in as many: a batch of 224 would cost the thread that feeds a GPU more time than the model's step has. Here a
batch is one call into C++, whose threads read into memory that is used again (files.cpp says how).

The library is the optional setuptools extension `engine.kernels._files`. A machine without a compiler installs without
it; `available()` is then False, `why_not()` says why, and `engine.loader.source` reads files one by one.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple, cast

import numpy as np

from .library import load

NOT_REGULAR, EMPTY = -1, -2  # in the place of an errno: a pipe or the like; no bytes
_VERSION = 1  # of struct File
_FILE = np.dtype(  # struct File of files.cpp
    [
        ("data", np.uint64),
        ("bytes", np.int64),
        *((name, np.int32) for name in ("fault", "known", "height", "width", "orientation", "plain", "sound")),
    ],
    align=True,
)
_IDLE = 3  # arenas that are kept for later batches: one is read into, one decoded from, one between them
_LARGE = 128 << 20  # bytes of an arena that is not kept: beside decoding so much, faulting it in again is nothing


class Header(NamedTuple):
    """What a JPEG of 8 bits, gray or of three colours, says of itself. Height and width in pixels, as stored."""

    height: int
    width: int
    orientation: int  # EXIF, 1 to 8
    plain: bool  # not cut off: the end of the image comes behind its frame
    sound: bool  # and nothing before it that cannot stand there, such as a second frame


class Encoded:
    """The bytes of a file, somewhere in an arena, which they keep. `header`: what is known of it; None for what is no
    usual JPEG."""

    __slots__ = ("_arena", "_bytes", "address", "header")

    def __init__(self, address: int, count: int, header: Header | None, arena: _Arena) -> None:
        self.address, self.header = address, header
        self._bytes, self._arena = count, arena

    def __len__(self) -> int:
        return self._bytes

    def __bytes__(self) -> bytes:
        """A copy."""
        return ctypes.string_at(self.address, self._bytes)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """As numpy takes it: `np.asarray` makes a view that may be written to, and keeps this object."""
        return {"shape": (self._bytes,), "typestr": "|u1", "data": (self.address, False), "version": 3}


Content = bytes | Encoded
"""What a file holds."""


def address_of(content: Content) -> int:
    """Of the first byte, valid as long as the content is kept."""
    if isinstance(content, Encoded):
        return content.address
    return ctypes.cast(ctypes.c_char_p(content), ctypes.c_void_p).value or 0


def available() -> bool:
    """Whether the library can be used here."""
    return not why_not()


def why_not() -> str:
    """Why it cannot be used here; empty when it can."""
    library = _load()
    return library if isinstance(library, str) else ""


def read(paths: Sequence[str], threads: int) -> list[Encoded | int]:
    """The bytes of regular files, read by `threads` threads; in the place of one that cannot be read an errno,
    NOT_REGULAR or EMPTY.

    Several threads may call at once. Memory is used again when nothing of a call's answer is left. Raises ValueError
    for a path with a zero in it and RuntimeError when the library is not available.
    """
    library = _load()
    if isinstance(library, str):
        raise RuntimeError(f"the compiled reader of files is not available: {library}")
    joined = b"\0".join(map(os.fsencode, paths))
    if joined.count(b"\0") != max(len(paths) - 1, 0):
        raise ValueError("embedded null byte")  # in the words of Python's own open()
    files_B = np.zeros(len(paths), dtype=_FILE)
    arena = _Arena(library)
    arena.bytes = library.read(arena.address, joined, files_B.ctypes.data, len(paths), threads)
    found: list[Encoded | int] = []
    for address, count, fault, known, height, width, orientation, plain, sound in files_B.tolist():
        if fault:
            found.append(fault)
        else:
            header = Header(height, width, orientation, plain > 0, sound > 0) if known else None
            found.append(Encoded(address, count, header, arena))
    return found


class _Library(NamedTuple):
    read: Callable[[int, bytes, int, int, int], int]
    new_arena: Callable[[], int | None]
    free_arena: Callable[[int], None]
    idle: list[int]  # addresses of arenas that nobody uses


class _Arena:
    """Memory for the files of one call; when the last of them goes it is kept for another."""

    def __init__(self, library: _Library) -> None:
        self._library, self.address, self.bytes = library, 0, 0
        try:
            self.address = library.idle.pop()
        except IndexError:
            self.address = library.new_arena() or 0
        if not self.address:
            raise MemoryError("no memory for the files of a batch")

    def __del__(self) -> None:
        if self.address and len(self._library.idle) < _IDLE and self.bytes <= _LARGE:
            self._library.idle.append(self.address)
        elif self.address:
            self._library.free_arena(self.address)


@cache
def _load() -> _Library | str:
    """The library, or why there is none."""
    library = load("files", _VERSION)
    if isinstance(library, str):
        return library
    read, new, free = library.engine_files_read, library.engine_files_arena, library.engine_files_free
    read.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32]
    new.argtypes, new.restype = [], ctypes.c_void_p
    free.argtypes = [ctypes.c_void_p]
    read.restype, free.restype = ctypes.c_int64, None
    return _Library(
        cast(Callable[[int, bytes, int, int, int], int], read),
        cast(Callable[[], int | None], new),
        cast(Callable[[int], None], free),
        [],
    )
