"""What a training step is made of, operation by operation: torch's profiler over a few steps."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from engine.bench.envelope import Row
from engine.bench.phases import Bench
from engine.files import atomic_write

_WARM_UP, _STEPS, _COSTLIEST = 3, 5, 10


def profile_rows(bench: Bench, path: Path) -> Iterator[Row]:
    """Write a trace of a few training steps on what the loader brings, for chrome://tracing or Perfetto; and a row for
    each of the costliest kernels (on a CPU: operators): milliseconds and calls of a step, share of all of them."""
    on_gpu = bench.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    learner = bench.learner
    with closing(bench.train_batches()) as batches:
        for batch in itertools.islice(batches, _WARM_UP):
            learner.take_step(batch)
        with profile(activities=activities) as seen:
            for batch in itertools.islice(batches, _STEPS):
                learner.take_step(batch)
    with atomic_write(path) as temporary:
        seen.export_chrome_trace(str(temporary))
    found = [(event, _own_us(event, on_gpu)) for event in seen.key_averages()]
    whole_us = sum(us for _, us in found) or 1.0
    for event, us in sorted(found, key=lambda one: -one[1])[:_COSTLIEST]:
        yield {
            "stage": bench.number,
            "size": list(bench.stage.size),
            "batch": bench.stage.batch,
            "phase": "costliest",
            "operator": event.key,
            "images_per_second": None,
            "ms": round(us / 1000 / _STEPS, 4),
            "calls": event.count / _STEPS,
            "share": round(us / whole_us, 4),
        }


def _own_us(event: Any, on_gpu: bool) -> float:
    """Microseconds of its own: a kernel's on the device, an operator's on a CPU. What merely names a stretch of time
    (an optimiser's step) is neither."""
    if not on_gpu:
        return float(event.self_cpu_time_total)
    is_kernel = "CUDA" in str(event.device_type) and not event.is_user_annotation
    return float(event.self_device_time_total) if is_kernel else 0.0
