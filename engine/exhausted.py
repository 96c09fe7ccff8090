"""Memory that runs out, in main memory or on a device: recognised whoever raises it, and told with what to change.

Python, numpy, Arrow, torch, oneDNN, CUDA and DALI each say it in their own way, most as a RuntimeError that is told
from others by its words alone. One place knows them, so that whoever does something large only has to say what it was
doing and which keys make it smaller. Knows no torch: its error is recognised by its name.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from engine.errors import EngineError, Exhausted

Where = Literal["main memory", "the device's memory"]

_DEVICE = re.compile(
    r"CUDA out of memory|CUDA error: out of memory|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY"
    r"|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|CUDA allocation failed"
    r"|(?:can't|cannot|could not|failed to) allocate .*\b(?:device|GPU)\b|nvjpeg.*ALLOCATOR_FAILURE",
    re.IGNORECASE | re.DOTALL,
)
_HOST = re.compile(
    r"DefaultCPUAllocator|not enough memory|(?:can't|cannot|could not|unable to|failed to) allocate\b|std::bad_alloc"
    r"|memory allocation failed|could not create a memory|out of memory|malloc(?:ation)? fail",
    re.IGNORECASE,
)


def exhausted(error: BaseException) -> Where | None:
    """Which memory ran out, when an error (or what it was raised from) says that; None for other errors."""
    seen: BaseException | None = error
    while seen is not None:
        if found := _of(seen):
            return found
        seen = seen.__cause__
    return None


@contextmanager
def told_when_exhausted(doing: str | Callable[[], str], remedy: Callable[[Where], str]) -> Iterator[None]:
    """Where memory runs out in the block, raise Exhausted: what was being done, and `remedy`, asked then, what to
    change when this memory is the one."""
    try:
        yield
    except Exhausted:
        raise
    except Exception as error:
        where = exhausted(error)
        if where is None:
            raise
        what = doing if isinstance(doing, str) else doing()
        raise Exhausted(f"{where} ran out while {what} ({first_line(error)}). {remedy(where)}") from error


def first_line(error: BaseException) -> str:
    """What an error says in a line without its full stop; its name, where it says nothing."""
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__


def _of(error: BaseException) -> Where | None:
    text = str(error)
    if isinstance(error, MemoryError):
        return "main memory"
    if isinstance(error, OSError):
        return "main memory" if error.errno == errno.ENOMEM else None
    if type(error).__name__ == "OutOfMemoryError":  # torch's, for any device
        return "the device's memory"
    if not isinstance(error, RuntimeError | EngineError):
        return None
    return "the device's memory" if _DEVICE.search(text) else "main memory" if _HOST.search(text) else None
