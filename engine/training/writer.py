"""Checkpoints are written while training goes on.

The weights, moments and averages of a large model take seconds to write and to sync, at the end of every epoch and in
every switch of stages. What is to be written is copied out of the way of training first, which takes a fraction of
that; a thread does the rest. One piece of work at a time, so that files change in the order they were handed over.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from torch import Tensor


def set_apart(state: Any) -> Any:
    """A copy of nested dicts, lists and tuples whose tensors lie in CPU memory of their own."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: set_apart(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(set_apart(value) for value in state)
    return state


class Writer:
    """A context that does not end before what was handed over is written. What goes wrong in the thread is raised by
    the next call, or at the end."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._pending: Future[None] | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def submit(self, work: Callable[[], None]) -> None:
        """Have `work` done, once what was handed over before is done."""
        self.wait()
        self._pending = self._thread.submit(work)

    def wait(self) -> None:
        """Until everything is written."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
