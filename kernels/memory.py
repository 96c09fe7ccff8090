"""Memory that was freed goes back to the system.

glibc keeps what is freed between things that are not, in an arena for each thread that ever allocated. A process that
decodes photos of all sizes in threads that come and go holds a third more after some hours than it uses, and looks as
if it leaked. There is no way to say so from Python, so this is native code, if only a call.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


def give_back() -> bool:
    """Give back what can be given (malloc_trim(3); a few milliseconds). False where the C library has no such thing."""
    trim = _trim()
    return trim is not None and bool(trim(0))


@cache
def _trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
