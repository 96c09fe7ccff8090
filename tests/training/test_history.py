"""What past scores say: who waits for how long, and which epochs are worth keeping."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.metrics import METRICS
from engine.training.history import epochs_without_gain, gains, kept_epochs

NAN = math.nan


@pytest.mark.parametrize(
    ("metric", "values", "waited"),
    [
        ("log_loss", [], 0),
        ("log_loss", [1.0], 0),
        ("log_loss", [1.0, 0.9, 0.9, 1.1], 2),  # an equal value is no gain
        ("accuracy", [0.5, 0.6, 0.6, 0.4], 2),
        ("train_loss", [1.0, 0.9, 0.95], 1),
        ("log_loss", [NAN, NAN, 0.5, NAN], 1),
    ],
)
def test_epochs_since_the_last_gain(metric: str, values: list[float], waited: int) -> None:
    assert epochs_without_gain(values, metric) == waited


def test_small_gains_do_not_count_when_told_so() -> None:
    assert epochs_without_gain([1.0, 0.96, 0.93], "log_loss", 0.05) == 0  # 0.07 below the best that counted
    assert epochs_without_gain([1.0, 0.96, 0.952], "log_loss", 0.05) == 2
    assert gains("accuracy", 0.56, 0.5, 0.05) and not gains("accuracy", 0.54, 0.5, 0.05)


@given(st.lists(st.floats(0, 1) | st.just(NAN), min_size=1, max_size=12), st.sampled_from(sorted(METRICS)))
def test_the_epochs_kept_are_the_last_and_the_best(values: list[float], metric: str) -> None:
    for last in range(3):
        assert kept_epochs(values, metric, last, 0) == {n for n in range(len(values)) if n >= len(values) - last}
    best = kept_epochs(values, metric, 0, 2)
    assert len(best) == min(2, len(values))
    for kept in best:
        for other in set(range(len(values))) - best:
            assert not gains(metric, values[other], values[kept])
    assert kept_epochs(values, metric, 2, 2) == kept_epochs(values, metric, 2, 0) | best
