"""Work on many files at once, in order.

Threads, not processes: reading, hashing and decoding release the interpreter's lock, and a fork beside CUDA or DALI
threads can hang.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from engine.system import cores

_CHUNK = 256  # files per task: small enough for a smooth progress bar, large enough to hide the task's own cost
Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(work: Callable[[Sequence[Item]], Result], items: Sequence[Item]) -> Generator[Result, None, None]:
    """`work` on a few hundred items at a time, answers in order as they are ready. Close it to stop early."""
    # More threads than cores hide a drive's latency; many more only queue for the interpreter's lock.
    pool = ThreadPoolExecutor(max_workers=min(32, max(4, cores())))
    try:
        yield from pool.map(work, [items[at : at + _CHUNK] for at in range(0, len(items), _CHUNK)])
    finally:
        pool.shutdown(cancel_futures=True)  # on Ctrl-C nobody waits for the files not begun
