"""Memory that was freed goes back to the system.

glibc keeps what is freed between things that are not, in an arena for each thread that ever allocated. A process that
decodes photos of all sizes in threads that come and go holds a third more after some hours than it uses, and looks as
if it leaked. There is no way to say so from Python, so this is native code, if only two calls.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

_M_ARENA_MAX = -8  # of mallopt(3)


def give_back() -> bool:
    """Give back what can be given (malloc_trim(3); a few milliseconds). False where there was nothing, or the C library
    knows no such thing."""
    trim = _function("malloc_trim")
    return trim is not None and bool(trim(0))


def share_arenas(count: int = 2) -> bool:
    """Let all threads that begin from now on share so many arenas, for a process that is to run for long. False where
    the C library knows no such thing."""
    option = _function("mallopt")
    return option is not None and bool(option(_M_ARENA_MAX, count))


@cache
def _function(name: str) -> Any:
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None
