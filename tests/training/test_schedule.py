"""The learning rate over time, held to torch's own schedulers where torch has one."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.optim import lr_scheduler

from engine.recipe.sections import ScheduleSection
from engine.training.history import plateau_drops
from engine.training.schedule import Time, rate_factor

STEPS = 5  # in an epoch


def curve(epochs: int = 12, drops: Callable[[int], int] = lambda epoch: 0, **section: object) -> list[float]:
    """The factor at every step."""
    schedule = ScheduleSection(**section)  # type: ignore[arg-type]
    times = [Time(step / STEPS, epochs, step, STEPS) for step in range(epochs * STEPS)]
    return [rate_factor(schedule, time, drops(int(time.epoch))) for time in times]


def torch_curve(make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler], count: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule, rates = make(optimizer), []
    for _ in range(count):
        rates.append(optimizer.param_groups[0]["lr"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # there are no gradients to step by
            schedule.step()
    return rates


NO_WARMUP = {"warmup_epochs": 0.0, "min_lr_ratio": 0.0}


def test_the_cosine_is_torch_s() -> None:
    expected = torch_curve(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=60, eta_min=0.1), 60)
    assert curve(warmup_epochs=0.0, min_lr_ratio=0.1) == pytest.approx(expected, rel=1e-6)


def test_the_exponential_is_torch_s_by_epochs_and_by_steps() -> None:
    by_steps = torch_curve(lambda o: lr_scheduler.ExponentialLR(o, gamma=0.9 ** (1 / 20)), 60)
    assert curve(kind="exponential", decay=0.9, decay_steps=20, **NO_WARMUP) == pytest.approx(by_steps)
    by_epochs = torch_curve(lambda o: lr_scheduler.ExponentialLR(o, gamma=0.9 ** (1 / STEPS)), 60)
    assert curve(kind="exponential", decay=0.9, **NO_WARMUP) == pytest.approx(by_epochs)


def test_the_steps_are_torch_s() -> None:
    expected = torch_curve(lambda o: lr_scheduler.MultiStepLR(o, milestones=[15, 40], gamma=0.2), 60)
    assert curve(kind="step", milestones=(3, 8), decay=0.2, **NO_WARMUP) == pytest.approx(expected)


@pytest.mark.parametrize("growth", [1, 2])
def test_the_restarts_are_torch_s(growth: int) -> None:
    expected = torch_curve(
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, T_0=15, T_mult=growth, eta_min=0.05), 60
    )
    ours = curve(kind="restarts", restart_epochs=3, restart_growth=growth, warmup_epochs=0.0, min_lr_ratio=0.05)
    assert ours == pytest.approx(expected, rel=1e-5, abs=1e-6)


values = st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5, math.nan]), max_size=15)


@given(values, st.integers(0, 4), st.sampled_from(["log_loss", "accuracy"]))
def test_the_plateau_is_torch_s(scores: list[float], patience: int, metric: str) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    mode = "min" if metric == "log_loss" else "max"
    schedule = lr_scheduler.ReduceLROnPlateau(optimizer, mode, factor=0.5, patience=patience, threshold=0.0)
    for score in scores:
        schedule.step(score)
    section = ScheduleSection(kind="plateau", decay=0.5, patience=patience, warmup_epochs=0.0, min_lr_ratio=0.0)
    factor = rate_factor(section, Time(15.0, 20, 75, STEPS), plateau_drops(scores, metric, patience))
    assert factor == pytest.approx(optimizer.param_groups[0]["lr"])


def test_constant_and_points() -> None:
    assert set(curve(kind="constant", **NO_WARMUP)) == {1.0}
    ours = curve(kind="points", points=((2, 1.0), (4, 0.5), (8, 0.1)), warmup_epochs=0.0)
    at = {epoch: ours[epoch * STEPS] for epoch in (0, 2, 3, 4, 6, 8, 11)}
    assert at == pytest.approx({0: 1.0, 2: 1.0, 3: 0.75, 4: 0.5, 6: 0.3, 8: 0.1, 11: 0.1})


def test_the_warm_up_climbs_in_even_steps_and_the_schedule_follows() -> None:
    ours = curve(warmup_epochs=2.0, min_lr_ratio=0.1)
    climb = ours[: 2 * STEPS + 1]
    assert climb[0] == pytest.approx(1 / 11) and climb[-1] == 1.0
    assert [b - a for a, b in itertools.pairwise(climb)] == pytest.approx([1 / 11] * 10)
    expected = torch_curve(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=50, eta_min=0.1), 50)
    assert ours[2 * STEPS :] == pytest.approx(expected, rel=1e-6)
    late = curve(kind="exponential", decay=0.5, warmup_epochs=2.0, min_lr_ratio=0.0)
    assert late[3 * STEPS] == pytest.approx(0.5)  # an epoch after the warm-up


KINDS = ["cosine", "constant", "exponential", "step", "restarts", "plateau", "points"]


@given(
    st.sampled_from(KINDS), st.floats(0, 20), st.floats(0, 1), st.floats(0.01, 1), st.integers(1, 9), st.integers(1, 7)
)
def test_any_schedule_stays_between_its_floor_and_one(
    kind: str, warmup: float, low: float, decay: float, epochs: int, steps: int
) -> None:
    section = ScheduleSection(
        kind=kind,  # type: ignore[arg-type]
        warmup_epochs=warmup,
        min_lr_ratio=low,
        decay=decay,
        milestones=(1.0, 2.0),
        restart_epochs=1.5,
        points=((0.0, 1.0), (3.0, 0.0)),
    )
    for step in range(epochs * steps):
        factor = rate_factor(section, Time(step / steps, epochs, step, steps), step // 3)
        warming = step / steps < min(warmup, epochs - 1 / steps) - 1e-9
        assert 0 < factor <= 1 + 1e-9 or (low == 0 and factor == 0)
        assert warming or factor >= low - 1e-9
    assert not warming  # the last step is never a warm-up


def test_a_kind_without_what_it_needs_is_refused() -> None:
    for section, words in (
        ({"kind": "step"}, "milestones"),
        ({"kind": "points"}, "points"),
        ({"kind": "points", "points": ((3.0, 1.0), (1.0, 0.5))}, "rising"),
        ({"points": ((0.0, -1.0),)}, "0 or more"),
    ):
        with pytest.raises(ValidationError, match=words):
            ScheduleSection(**section)  # type: ignore[arg-type]
