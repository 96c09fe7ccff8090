"""What this device can do at all, measured first: a share of it says more than a rate.

Two limits: arithmetic, by a product of large matrices in the type that the model computes in, and memory, by a copy too
large for any cache. Data sheets name figures that no program reaches; these two are reached by the same libraries on
the same machine in the same minute.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable

import torch

from engine.bench.timers import synchronize

_SIDE = {"cpu": 1024, "cuda": 8192}  # of the matrices
_BYTES = {"cpu": 2**27, "cuda": 2**30}  # copied
_REPEATS = 5


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """`flops`: floating-point operations a second, multiplications and additions counted apart; `bytes`: read and
    written a second."""

    flops: float
    bytes: float


def ceilings(device: torch.device, dtype: torch.dtype, seconds: float) -> Ceilings:
    """Medians of what `device` reaches, measured for about `seconds`."""
    side = _SIDE[device.type]
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    product = torch.empty_like(a)
    flops = 2 * side**3 * _per_second(lambda: torch.mm(a, b, out=product), device, seconds / 2)
    source = torch.zeros(_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    copied = 2 * len(source) * _per_second(lambda: target.copy_(source), device, seconds / 2)
    return Ceilings(flops, copied)


def _per_second(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """How often a second `work` can be called."""
    work()
    rates = []
    for _ in range(_REPEATS):
        synchronize(device)
        began, count = time.perf_counter(), 0
        while not count or time.perf_counter() - began < seconds / _REPEATS:
            for _ in range(4):  # a GPU is told several before anybody looks at the clock
                work()
            count += 4
            synchronize(device)
        rates.append(count / (time.perf_counter() - began))
    return statistics.median(rates)
