"""Parts of JPEGs, decoded no larger than needed: libjpeg-turbo behind ctypes.

Training reads a crop, and a crop of a large photo at a small size; a decoder that is told so does half the work or a
tenth of it (`benchmarks/bench_loader.py --decode`). No Python binding of libjpeg-turbo offers both the part and the
reduction, hence a small one of its own; it also decodes a whole batch in threads without the interpreter's lock.

The library is the optional setuptools extension `engine.kernels._jpeg`. A machine without a compiler or without
libjpeg-turbo's headers installs without it; `available()` is then False and `why_not()` says why.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

REDUCTIONS = (1, 2, 4, 8)
_VERSION = 1  # of struct Job
_JOB = np.dtype(  # struct Job of jpeg.cpp
    [
        ("data", np.uint64),
        ("out", np.uint64),
        ("bytes", np.int64),
        *((name, np.int32) for name in ("height", "width", "orientation", "reduction", "x0", "y0", "x1", "y1", "done")),
    ],
    align=True,
)
_EDGE = 32  # a part starts on a multiple of this many source columns: an edge of an MCU for any usual subsampling
_APRON = 2  # source pixels around a part that its edges' chroma is interpolated from


class Part(NamedTuple):
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
    """One decoded part: uint8 (height, width, 3), upright. Its pixel (row i, column j) covers the source's
    [x + j r, x + (j + 1) r) x [y + i r, y + (i + 1) r), r the reduction; at the far edges it may reach beyond."""

    pixels_HW3: np.ndarray
    x: int
    y: int
    reduction: int
