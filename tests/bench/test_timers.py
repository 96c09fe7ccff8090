"""Rates are medians of windows after a warm-up, and waiting is what the model did not work."""

from __future__ import annotations

import time

import pytest
import torch

from engine.bench.timers import WINDOWS, Busy, PeakMemory, Rate, measure

CPU = torch.device("cpu")


def test_the_median_and_not_the_mean_counts() -> None:
    rate = Rate((90.0, 100.0, 3.0, 110.0, 5000.0), (0.5, 0.1, 0.2, 0.3, 0.9))
    assert (rate.median, rate.waited) == (100.0, 0.3)
    assert Rate((1.0,)).waited is None


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


@pytest.mark.parametrize(("work_s", "wait_s", "low", "high"), [(0.006, 0.018, 0.5, 0.95), (0.018, 0.002, 0.0, 0.4)])
def test_waiting_is_the_time_outside_spans(work_s: float, wait_s: float, low: float, high: float) -> None:
    busy = Busy(CPU)

    def step() -> int:
        time.sleep(wait_s)
        with busy.span():
            time.sleep(work_s)
        return 1

    waited = measure(step, CPU, seconds=0.2, busy=busy).waited
    assert waited is not None
    assert low < waited < high


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

    def step() -> int:
        with busy.span():
            for _ in range(20):
                a @ a
        return 1

    waited = measure(step, gpu, seconds=0.5, busy=busy).waited
    assert waited is not None and waited < 0.2  # queued far faster than done: the host's clock would call it waiting
    assert memory.gib is not None and memory.gib > 0.1
