"""A rehearsal of the suite where there is no GPU: on the tests' double, which counts and runs everything on the CPU.

Every line of the parts runs, in the order and with the calls that a GPU would see, and what is wrong with streams or
memory raises. Figures mean nothing there, so they are kept apart from results.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))
from fake_cuda import Event, FakeCuda, LendingDecoder  # type: ignore[import-not-found]

from engine.decode import choose
from engine.kernels import network
from engine.quarantine import Fault, FaultKind


class _Timed(Event):  # type: ignore[misc]
    """An event that knows when it was recorded."""

    def record(self, stream: Any = None) -> None:
        self.at = time.perf_counter()
        super().record(stream)

    def elapsed_time(self, other: _Timed) -> float:
        """Milliseconds."""
        return max(1e-3, (other.at - self.at) * 1000)


@contextlib.contextmanager
def rehearsal() -> Iterator[FakeCuda]:
    """The double with what the suite asks of a GPU beside it: its name, its memory, a clock, graphs."""
    named = SimpleNamespace(
        name="a double of a GPU",
        multi_processor_count=1,
        total_memory=80 << 30,
        major=9,
        minor=0,
        L2_cache_size=50 << 20,
    )
    with contextlib.ExitStack() as stack:
        gpu = stack.enter_context(FakeCuda())
        replaced: dict[str, Any] = {
            "Event": lambda *_, **__: _Timed(gpu),
            "_sleep": lambda ticks: None,
            "get_device_name": lambda *_: named.name,
            "get_device_properties": lambda *_: named,
            "get_device_capability": lambda *_: (9, 0),
            "max_memory_allocated": lambda *_: 0,
            "memory_allocated": lambda *_: 0,
            "memory_reserved": lambda *_: 0,
            "reset_peak_memory_stats": lambda *_: None,
            "empty_cache": lambda: None,
            "CUDAGraph": _Graph,
            "graph": lambda graph, *_, **__: contextlib.nullcontext(),
        }
        for name, replacement in replaced.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, replacement))
        lending: Callable[..., LendingDecoder] = lambda *_: _Refusing(gpu)  # noqa: E731
        stack.enter_context(mock.patch.object(choose, "DaliDecoder", lending))
        # The pass and the extras run on the double; a network's kernels have Triton's interpreter, in the tests.
        stack.enter_context(mock.patch.object(network, "runs_on", lambda device: False))
        yield gpu


class _Refusing(LendingDecoder):  # type: ignore[misc]
    """As DALI behind its Pillow: what cannot be decoded is a fault."""

    def pixels(self, opened: Any, regions: object = None, rough: bool = False) -> list[Any]:
        found: list[Any] = []
        for one in opened:
            try:
                found += super().pixels([one])
            except OSError as error:
                found.append(Fault(FaultKind.DAMAGED, str(error)))
        return found


class _Graph:
    def replay(self) -> None:
        """What was captured ran when it was captured."""
