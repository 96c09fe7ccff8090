"""What C libraries print of a file while they decode it is kept from the terminal.

libjpeg inside DALI and libtiff inside Pillow print "Corrupt JPEG data" and the like straight to the process's stderr,
without the file's name. They cannot be told not to; what a file is worth is told elsewhere, by name. So while they
decode, stderr goes to a temporary file, and all but such lines are written on afterwards: a progress bar is late by
some milliseconds.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from typing import BinaryIO

log = logging.getLogger(__name__)

_STDERR = 2
# Messages of libjpeg (jerror.h), loggers of nvImageCodec and DALI, functions of libtiff and Pillow's name of a TIFF.
_PRINTED = re.compile(
    rb"^(Corrupt JPEG|Premature end of|Invalid (JPEG|SOS|component|progressive|scan|crop|memory)|Not a JPEG|Empty JPEG"
    rb"|Inconsistent progression|(Quantization|Huffman|Arithmetic) table|Unknown Adobe|Warning: unknown JFIF|Bogus "
    rb"|Application transferred|Unsupported |Missing Huffman|Sampling factors|Too many color|Maximum supported image"
    rb"|DCT (coefficient|scaled)|Insufficient memory|Component index|Fractional sampling|Suspension not allowed"
    rb"|(\x1b\[[\d;]*m)*\[(ERROR|WARNING|INFO)\]"
    rb"|(tempfile\.tif|JPEGLib|_?TIFF\w+|Fax\w+|\w+(Decode|Encode|Setup|PreDecode|State)\w*): ).*(\n|$)",
    re.MULTILINE,
)


class _Hush:
    """One for the process, because stderr is: the first in redirects it, the last out puts it back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._kept: BinaryIO | None = None
        self._stderr = -1

    def enter(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                with contextlib.suppress(OSError):  # no stderr, or no room: then it is not kept from anybody
                    self._kept = tempfile.TemporaryFile()  # noqa: SIM115  closed by whoever is last out
                    self._stderr = os.dup(_STDERR)
                    os.dup2(self._kept.fileno(), _STDERR)

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside or self._stderr < 0:
                return
            os.dup2(self._stderr, _STDERR)
            os.close(self._stderr)
            kept, self._kept, self._stderr = self._kept, None, -1
        if kept is not None:
            with kept:
                kept.seek(0)
                printed = kept.read()
            for line in _PRINTED.finditer(printed):
                log.debug("a decoder printed: %s", line[0].decode(errors="replace").strip())
            if rest := _PRINTED.sub(b"", printed):
                with contextlib.suppress(OSError):
                    os.write(_STDERR, rest)


_HUSH = _Hush()


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """While this lasts, in whatever thread, decoders print nothing on stderr."""
    _HUSH.enter()
    try:
        yield
    finally:
        _HUSH.leave()
