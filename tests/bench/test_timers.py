"""Rates are medians of windows after a warm-up, and waiting is what the model did not work."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

from engine.bench.timers import WINDOWS, Busy, PeakMemory, Rate, alternately, in_turn, measure

CPU = torch.device("cpu")


def test_the_median_and_not_the_mean_counts() -> None:
    rate = Rate((90.0, 100.0, 3.0, 110.0, 5000.0))
    assert rate.median == 100.0
    assert rate.waited(Rate((100.0, 200.0, 4.0, 110.0, 5000.0))) == pytest.approx(0.1)


def test_a_rate_is_images_over_time() -> None:
    def step() -> int:
        time.sleep(0.004)
        return 4

    rate = measure(step, CPU, seconds=0.2)
    assert len(rate.windows) == WINDOWS >= 5
    assert all(0 < window <= 1000 for window in rate.windows)  # never above 4 images in 4 ms
    assert rate.median > 200


def test_slow_first_steps_are_not_counted() -> None:
    calls = 0

    def step() -> int:
        nonlocal calls
        calls += 1
        time.sleep(0.15 if calls <= 2 else 0.001)
        return 1

    assert min(measure(step, CPU, seconds=0.1).windows) > 20


def test_a_step_longer_than_a_window_is_measured_once_in_each() -> None:
    calls = 0

    def step() -> int:
        nonlocal calls
        calls += 1
        time.sleep(0.02)
        return 1

    measure(step, CPU, seconds=0.01)
    assert calls == 2 + WINDOWS


def test_waiting_is_what_the_same_work_does_without_it() -> None:
    def work() -> int:
        time.sleep(0.006)
        return 1

    def fed() -> int:
        time.sleep(0.018)
        return work()

    alone, whole = in_turn([work, fed], CPU, seconds=0.2)
    assert 0.5 < whole.waited(alone) < 0.95
    assert alone.waited(whole) == 0


def test_windows_take_turns_after_what_is_not_counted() -> None:
    order: list[str] = []

    def step(name: str) -> Callable[[], int]:
        def run() -> int:
            order.append(name)
            time.sleep(0.002)
            return 1

        return run

    def before(index: int) -> None:
        order.append(f"before {index}")
        time.sleep(0.02)

    rates = in_turn([step("a"), step("b")], CPU, seconds=0.02, windows=2, before=before)
    turns = [name for name, _ in itertools.groupby(order)]
    assert turns == ["a", "b", "before 0", "a", "before 1", "b", "before 0", "a", "before 1", "b"]
    assert min(rates[0].windows) > 100


def test_what_is_told_from_differences_takes_turns_call_by_call() -> None:
    cleared = 0

    def clear() -> None:
        nonlocal cleared
        cleared += 1
        time.sleep(0.005)

    short, long = alternately([lambda: time.sleep(0.001), lambda: time.sleep(0.004)], CPU, 0.1, between=clear)
    assert len(short) == len(long) == WINDOWS
    assert 0.002 < np.median(np.array(long) - np.array(short)) < 0.02
    assert cleared >= 2 * (2 + WINDOWS)


def test_work_is_taken_once() -> None:
    busy = Busy(CPU)
    with busy.span():
        time.sleep(0.005)
    assert busy.take() >= 0.005
    assert busy.take() == 0


def test_memory_of_a_gpu_is_not_known_on_a_cpu() -> None:
    assert PeakMemory(CPU).gib is None


@pytest.mark.gpu
def test_gpu_work_is_timed_on_the_gpu() -> None:
    gpu = torch.device("cuda", torch.cuda.current_device())
    a = torch.randn(4096, 4096, device=gpu)
    memory, busy = PeakMemory(gpu), Busy(gpu)

    torch.cuda.synchronize(gpu)
    began = time.perf_counter()
    with busy.span():
        for _ in range(20):
            a @ a
    queued_s = time.perf_counter() - began
    torch.cuda.synchronize(gpu)
    assert busy.take() > 2 * queued_s  # queued far faster than done
    assert memory.gib is not None and memory.gib > 0.1
