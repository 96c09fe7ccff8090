"""Measuring so that a figure can be believed: warm up, wait for the device, repeat, report the median and the spread.

A rate is measured in several windows after a warm-up, each of a set length rather than a set number of steps, so slow
and fast machines get figures of the same steadiness. A GPU runs behind the program: every window starts and ends with
a synchronisation, and spans inside a window are timed by events on the device, never by the host's clock.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from engine.system import GIB

WINDOWS = 5
_WARM_UP_STEPS = 2
_STEPS_AHEAD = 2


@dataclasses.dataclass(frozen=True)
class Rate:
    """Images a second, window by window; `waited` is the share of each window in which the model had nothing to do
    (None where no model runs)."""

    windows: tuple[float, ...]
    waited_windows: tuple[float, ...] | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.windows)

    @property
    def waited(self) -> float | None:
        return None if self.waited_windows is None else statistics.median(self.waited_windows)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was told; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Busy:
    """Adds up how long the model worked on the device: `with busy.span(): step(batch)`.

    On a GPU a span lies between two events in the stream, so time in which the GPU waited for the program to hand it
    the step counts as waiting only outside spans.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def span(self) -> Iterator[None]:
        if self._device.type == "cuda":
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            yield
            end.record()
            self._events.append((start, end))
        else:
            start_s = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - start_s

    def take(self) -> float:
        """Seconds of work since the last call. Call it with the device synchronised."""
        seconds = self._seconds + sum(start.elapsed_time(end) for start, end in self._events) / 1000
        self._seconds, self._events = 0.0, []
        return seconds


def measure(
    step: Callable[[], int], device: torch.device, seconds: float, windows: int = WINDOWS, busy: Busy | None = None
) -> Rate:
    """The rate of `step`, which does one piece of work and returns how many images that was.

    `seconds` is the length of all windows together; a window has at least one step. Warm-up runs before: at least two
    steps and a tenth of `seconds`.
    """
    deadline = time.perf_counter() + seconds / 10
    done = 0
    while done < _WARM_UP_STEPS or time.perf_counter() < deadline:
        step()
        done += 1
    rates: list[float] = []
    waited: list[float] = []
    for _ in range(windows):
        synchronize(device)
        if busy is not None:
            busy.take()
        start_s = time.perf_counter()
        images = 0
        steps = _InFlight(device)
        while not images or time.perf_counter() - start_s < seconds / windows:
            images += step()
            steps.queued()
        synchronize(device)
        elapsed_s = time.perf_counter() - start_s
        rates.append(images / elapsed_s)
        if busy is not None:
            waited.append(max(0.0, 1 - busy.take() / elapsed_s))
    return Rate(tuple(rates), tuple(waited) if busy is not None else None)


class _InFlight:
    """Keeps the program at most a few steps ahead of a GPU, so that a window ends when its time is over."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._ends: deque[torch.cuda.Event] = deque()

    def queued(self) -> None:
        if self._device.type == "cuda":
            end = torch.cuda.Event()
            end.record()
            self._ends.append(end)
            if len(self._ends) > _STEPS_AHEAD:
                self._ends.popleft().synchronize()


class PeakMemory:
    """The most GPU memory held by tensors since this object was made."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    @property
    def gib(self) -> float | None:
        """None on a CPU, where it cannot be told apart from the process's: see `engine.system.peak_host_bytes`."""
        return torch.cuda.max_memory_allocated(self._device) / GIB if self._device.type == "cuda" else None
