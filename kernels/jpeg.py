"""Regions of JPEGs, decoded no larger than needed: libjpeg-turbo behind ctypes.

Training reads a crop, and a crop of a large photo at a small size; a decoder that is told so does a fraction of the
work (`benchmarks/bench_jpeg.py` measures which). No Python binding of libjpeg-turbo offers both the region and the
reduction, hence a small one of its own; it also decodes a whole batch in threads without the interpreter's lock, and
reads the Huffman codes of plain files itself (jpeg_huffman.h), to the same pixels in less time.

The library is the optional setuptools extension `engine.kernels._jpeg`. A machine without a compiler or without
libjpeg-turbo's headers installs without it; `available()` is then False and `why_not()` says why.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple, cast

import numpy as np

from .files import Content, address_of
from .library import load

REDUCTIONS = (1, 2, 4, 8)
_VERSION = 3  # of struct Job, and of the reader of Huffman codes
_JOB = np.dtype(  # struct Job of jpeg.cpp
    [
        ("data", np.uint64),
        ("out", np.uint64),
        ("bytes", np.int64),
        *(
            (name, np.int32)
            for name in ("height", "width", "orientation", "reduction", "x0", "y0", "x1", "y1", "fast", "alone", "done")
        ),
    ],
    align=True,
)
_EDGE = 32  # a region starts on a multiple of this many source columns: an edge of an MCU for any usual subsampling
_APRON = 2  # source pixels around a region that its edges' chroma is interpolated from


class Region(NamedTuple):
    """What is to be decoded of one image: x0 <= x < x1, y0 <= y < y1 in pixels of the upright image, within it, and
    the factor (1, 2, 4, 8) by which it may come smaller."""

    x0: int
    y0: int
    x1: int
    y1: int
    reduction: int = 1


class Header(NamedTuple):
    """What a JPEG says of itself: size in pixels as stored, and EXIF orientation (1 to 8)."""

    height: int
    width: int
    orientation: int

    @property
    def upright(self) -> tuple[int, int]:
        """(height, width) after turning."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


class Decoded(NamedTuple):
    """One decoded region, upright: uint8 (height, width, 3). Its pixel in row i, column j covers the source's
    [x + j r, x + (j + 1) r) times [y + i r, y + (i + 1) r), r the reduction. It holds the region asked for and a little
    more, and with r > 1 may reach less than r pixels beyond the image."""

    pixels_HW3: np.ndarray
    x: int
    y: int
    reduction: int


def available() -> bool:
    """Whether the library can be used here."""
    return not why_not()


def why_not() -> str:
    """Why it cannot be used here; empty when it can."""
    library = _load()
    return library if isinstance(library, str) else ""


def decode(
    encoded: Sequence[Content],
    headers: Sequence[Header],
    regions: Sequence[Region],
    threads: int,
    memory: Callable[[int], np.ndarray] = lambda count: np.empty(count, dtype=np.uint8),
    fast: bool = False,
    alone: bool = False,
) -> list[Decoded | None]:
    """Decode one region of each image, in `threads` threads.

    All pixels lie in the array that `memory` is asked for once: uint8, contiguous, of the count of bytes it is given.
    None stands for a file that libjpeg-turbo cannot decode to RGB without a warning: damaged, CMYK, not a JPEG, or not
    of the size its header was said to have.

    `fast`: by a transform of fewer bits and with chroma repeated and not interpolated. That saves a tenth of the time
    and puts colours off by 1.2 of 255 steps on average, at edges of colour by up to 60 (`benchmarks/bench_jpeg.py`).
    `alone`: libjpeg-turbo reads the Huffman codes, too; for comparison, the answers are the same.

    Raises ValueError for a region that is empty or reaches out of its image, or an unknown reduction or orientation,
    and RuntimeError when the library is not available.
    """
    library = _load()
    if isinstance(library, str):
        raise RuntimeError(f"the compiled JPEG decoder is not available: {library}")
    layouts = [_layout(header, region) for header, region in zip(headers, regions, strict=True)]
    ends_B = np.cumsum([-(-layout.bytes // 64) * 64 for layout in layouts], dtype=np.int64)  # each in lines of its own
    slab = memory(int(ends_B[-1])) if layouts else np.empty(0, dtype=np.uint8)
    jobs_B = np.zeros(len(encoded), dtype=_JOB)
    out: list[np.ndarray] = []
    for i, (content, header, layout) in enumerate(zip(encoded, headers, layouts, strict=True)):
        start = int(ends_B[i - 1]) if i else 0
        out.append(slab[start : start + layout.bytes].reshape(layout.height, layout.width, 3))
        to = out[i].ctypes.data
        region = (*header, layout.reduction, *layout.stored)
        jobs_B[i] = (address_of(content), to, len(content), *region, fast, alone, 0)
    library(jobs_B.ctypes.data, len(jobs_B), threads)
    return [
        Decoded(pixels, layout.x, layout.y, layout.reduction) if done else None
        for pixels, layout, done in zip(out, layouts, jobs_B["done"].tolist(), strict=True)
    ]


class _Layout(NamedTuple):
    """A region of the upright image and where it lies in the stored one."""

    stored: tuple[int, int, int, int]  # x0, y0, x1, y1 in reduced pixels
    height: int  # upright, reduced
    width: int
    x: int  # of its upper left corner, in source pixels, upright
    y: int
    reduction: int

    @property
    def bytes(self) -> int:
        return self.height * self.width * 3


def _layout(header: Header, region: Region) -> _Layout:
    r = region.reduction
    if r not in REDUCTIONS or not 1 <= header.orientation <= 8:
        raise ValueError(f"expected a reduction of 1, 2, 4 or 8 and an orientation of 1 to 8, got {region} of {header}")
    height, width = header.upright
    if not (0 <= region.x0 < region.x1 <= width and 0 <= region.y0 < region.y1 <= height):
        raise ValueError(f"{region} is empty or reaches out of the image, {width} x {height} pixels")
    along_x, along_y = (region.x0, region.x1), (region.y0, region.y1)
    transposed = header.orientation >= 5
    if transposed:
        along_x, along_y = along_y, along_x
    # EXIF 2.3, 4.6.4: from which side of the stored image the upright one starts.
    from_right, from_bottom = header.orientation in (2, 3, 7, 8), header.orientation in (3, 4, 6, 7)
    x0, x1, x = _axis(along_x, header.width, from_right, r, _EDGE)
    y0, y1, y = _axis(along_y, header.height, from_bottom, r, r)
    if transposed:
        return _Layout((x0, y0, x1, y1), x1 - x0, y1 - y0, y, x, r)
    return _Layout((x0, y0, x1, y1), y1 - y0, x1 - x0, x, y, r)


def _axis(span: tuple[int, int], size: int, mirrored: bool, reduction: int, edge: int) -> tuple[int, int, int]:
    """From a span of an upright axis: start and end on the stored axis, reduced, and where that starts upright."""
    low, high = (size - span[1], size - span[0]) if mirrored else span
    low = max(0, low - _APRON * reduction) // edge * edge // reduction
    high = -(-min(size, high + _APRON * reduction) // reduction)
    return low, high, size - high * reduction if mirrored else low * reduction


@cache
def _load() -> Callable[[int, int, int], None] | str:
    """The library's function, or why there is none."""
    needs = "a C++17 compiler and libjpeg-turbo's headers (libjpeg-dev, libjpeg-turbo-devel) at hand"
    library = load("jpeg", _VERSION, needs)
    if isinstance(library, str):
        return library
    function = library.engine_jpeg_decode
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int], None
    return cast(Callable[[int, int, int], None], function)
