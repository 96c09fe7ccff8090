"""What a part of the suite is given: a device, sizes, photos, and a clock that the device's own events drive."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.bench.envelope import Row
from engine.bench.photos import draw

DEVICE = torch.device("cuda", 0)
_AHEAD = 50_000_000  # clock ticks, some 25 ms: by then the host has queued what is timed


@dataclasses.dataclass(frozen=True)
class Context:
    """Sizes are the real ones, or, when the suite is rehearsed on a double of a GPU, small ones that try every line."""

    rehearsed: bool
    folder: Path  # for what a part writes: photos, runs

    @property
    def stages(self) -> tuple[tuple[int, int], ...]:
        """Pixels and batch, as recipes/progressive_768.toml has them."""
        return ((32, 4), (48, 2)) if self.rehearsed else ((256, 224), (384, 96), (512, 48), (640, 32), (768, 32))

    @property
    def backbone(self) -> str:
        return "test_convnext" if self.rehearsed else "convnext_base"

    def few(self, real: int, rehearsed: int = 2) -> int:
        """How many, or how often."""
        return rehearsed if self.rehearsed else real

    def photos(self, count: int) -> list[Tensor]:
        """Photos of 400 x 533 pixels, uint8 (height, width, 3), on the device, each in memory of its own."""
        some = [torch.from_numpy(draw(number).copy()) for number in range(min(count, self.few(32, 4)))]
        return [some[number % len(some)].to(DEVICE, copy=True) for number in range(count)]


Part = Callable[[Context], Iterator[Row]]


def seconds_each(run: Callable[[int], Any], times: int, rounds: int, rehearsed: bool) -> list[float]:
    """Seconds of `run(number)` on the device, for each round of `times` calls.

    The device is kept busy while the host queues them, so that what is timed is the device's work and not the host's:
    a small kernel is faster than its launch.
    """
    for number in range(times):
        run(number)
    found = []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        torch.cuda._sleep(0 if rehearsed else _AHEAD)
        begin.record()
        for number in range(times):
            run(number)
        end.record()
        end.synchronize()
        found.append(begin.elapsed_time(end) / 1000 / times)
    return found


def host_seconds(run: Callable[[], Any]) -> float:
    """Seconds until the device has done what `run` asks of it, the host's time included."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - began
