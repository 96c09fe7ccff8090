"""Measuring so that a figure can be believed: warm up, wait for the device, repeat, report the median and the spread.

A rate is measured in several windows after a warm-up, each of a set length rather than a set number of steps, so slow
and fast machines get figures of the same steadiness. What is compared takes turns, so that a machine's slow minutes are
shared. A GPU runs behind the program: every window starts and ends with a synchronisation, and spans inside a window
are timed by events on the device, never by the host's clock.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from engine.system import GIB

WINDOWS = 5
_WARM_UP_STEPS = 2
_STEPS_AHEAD = 2

Step = Callable[[], int]
"""Does one piece of work; says how many images that was."""


@dataclasses.dataclass(frozen=True)
class Rate:
    """Images a second, window by window."""

    windows: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.windows)

    def waited(self, ready: Rate) -> float:
        """The share of the time that is lost for want of images, where `ready` is the rate of the same work on images
        that were there, measured in turn: the median over the windows, at least 0."""
        pairs = zip(self.windows, ready.windows, strict=True)
        return max(0.0, statistics.median(1 - own / other for own, other in pairs))


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was told; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Busy:
    """Adds up how long the device worked: `with busy.span(): step(batch)`.

    On a GPU a span lies between two events in the stream.
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


def measure(step: Step, device: torch.device, seconds: float, windows: int = WINDOWS) -> Rate:
    """The rate of `step`.

    `seconds` is the length of all windows together; a window has at least one step. Warm-up runs before: at least two
    steps and a tenth of `seconds`.
    """
    return in_turn([step], device, seconds, windows)[0]


def in_turn(
    steps: Sequence[Step],
    device: torch.device,
    seconds: float,
    windows: int = WINDOWS,
    before: Callable[[int], None] = lambda index: None,
) -> list[Rate]:
    """The rates of several `steps`, whose windows take turns; `seconds` is the length of all windows of one of them.
    `before` is called, with the step's index, ahead of each of its windows, and not counted."""
    for step in steps:
        _warm_up(step, seconds / 10)
    rates: list[list[float]] = [[] for _ in steps]
    for _ in range(windows):
        for index, step in enumerate(steps):
            before(index)
            rates[index].append(_window(step, device, seconds / windows))
    return [Rate(tuple(own)) for own in rates]


def alternately(
    works: Sequence[Callable[[], object]],
    device: torch.device,
    seconds: float,
    windows: int = WINDOWS,
    between: Callable[[], None] = lambda: None,
) -> list[tuple[float, ...]]:
    """Mean seconds of one call of each of `works`, window by window; the calls take turns one by one, for what is told
    from their small differences. `between` is called after each and not counted."""
    clocks = [Busy(device) for _ in works]

    def round_() -> int:
        for work, clock in zip(works, clocks, strict=True):
            with clock.span():
                work()
            between()
        return 1

    _warm_up(round_, seconds / 10)
    found: list[tuple[float, ...]] = []
    for _ in range(windows):
        synchronize(device)
        for clock in clocks:
            clock.take()
        rounds, began_s, steps = 0, time.perf_counter(), _InFlight(device)
        while not rounds or time.perf_counter() - began_s < seconds / windows:
            rounds += round_()
            steps.queued()
        synchronize(device)
        found.append(tuple(clock.take() / rounds for clock in clocks))
    return list(zip(*found, strict=True))


def _warm_up(step: Step, seconds: float) -> None:
    deadline, done = time.perf_counter() + seconds, 0
    while done < _WARM_UP_STEPS or time.perf_counter() < deadline:
        step()
        done += 1


def _window(step: Step, device: torch.device, seconds: float) -> float:
    """Images a second over so many seconds."""
    synchronize(device)
    began_s, images, steps = time.perf_counter(), 0, _InFlight(device)
    while not images or time.perf_counter() - began_s < seconds:
        images += step()
        steps.queued()
    synchronize(device)
    return images / (time.perf_counter() - began_s)


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
