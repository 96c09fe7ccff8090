"""The curve of a range test: what it smooths, when it stops, what it suggests."""

from __future__ import annotations

import csv
import io
import math

import numpy as np
import pytest

from engine.tune.curve import DIVERGED, Curve


def fall_and_blow_up(rates: np.ndarray, middle: float = 1e-3, blow_up: float = 1e-1) -> np.ndarray:
    """From 2 to 1, steepest at `middle`, and up again from `blow_up` on."""
    decades = np.log10(rates / middle)
    return 1 + 1 / (1 + np.exp(3 * decades)) + np.maximum(0, np.log10(rates / blow_up)) * 20


def filled(curve: Curve, losses: np.ndarray) -> Curve:
    for loss in losses:
        curve.add(float(loss))
        if curve.diverged:
            break
    return curve


def test_rates_rise_by_equal_factors_from_low_to_high() -> None:
    rates = Curve(1e-6, 1e-2, 5).rates
    assert rates == pytest.approx([1e-6, 1e-5, 1e-4, 1e-3, 1e-2])


@pytest.mark.parametrize(("low", "high", "steps"), [(0, 1, 10), (1, 1, 10), (1, 0.1, 10), (0.1, 1, 1)])
def test_rates_that_do_not_rise_are_refused(low: float, high: float, steps: int) -> None:
    with pytest.raises(ValueError, match="low < high"):
        Curve(low, high, steps)


def test_the_average_is_not_drawn_to_its_start() -> None:
    curve = filled(Curve(1e-7, 1, 100), np.full(30, 2.5))
    assert curve.smoothed == pytest.approx([2.5] * 30)


@pytest.mark.parametrize("steps", [60, 100, 400])
@pytest.mark.parametrize("middle", [1e-4, 1e-3])
def test_the_suggestion_is_where_the_loss_falls_fastest(steps: int, middle: float) -> None:
    curve = Curve(1e-7, 10, steps)
    noise = np.random.default_rng(1).normal(0, 0.02, steps)
    filled(curve, fall_and_blow_up(curve.rates, middle) + noise)
    suggestion = curve.suggest()
    assert suggestion is not None
    # A moving average runs behind, by half a decade here.
    assert -0.5 < math.log10(suggestion.steepest / middle) < 1
    assert suggestion.steepest < suggestion.minimum
    assert suggestion.tenth_of_minimum == suggestion.minimum / 10
    assert curve.diverged and len(curve.losses) < steps
    assert not curve.falls_to_the_end


def test_it_ends_when_the_smoothed_loss_is_four_times_its_best() -> None:
    curve = filled(Curve(1e-7, 1, 20), np.array([2.0] * 5 + [1.0] * 5 + [3.9] * 3 + [4.5] * 7))
    assert len(curve.losses) == 14  # a twentieth of 20 steps: nothing is smoothed
    assert curve.smoothed[-1] > DIVERGED * min(curve.smoothed)
    assert curve.smoothed == curve.losses


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_it_ends_with_a_loss_that_is_no_number_and_does_not_keep_it(loss: float) -> None:
    curve = filled(Curve(1e-7, 1, 20), np.array([2.0, 2.0, loss]))
    assert curve.diverged and curve.losses == [2.0, 2.0]


@pytest.mark.parametrize(
    "losses",
    [np.linspace(1, 2, 50), np.full(50, 2.0), np.array([2.0, 1.9, 1.8])],
    ids=["rising", "flat", "three steps"],
)
def test_a_loss_that_never_falls_suggests_nothing(losses: np.ndarray) -> None:
    curve = filled(Curve(1e-7, 1, 50), losses)
    assert curve.suggest() is None
    assert curve.to_dict()["suggested_lr"] is None


def test_a_loss_that_falls_to_the_end_says_so() -> None:
    curve = filled(Curve(1e-7, 1e-3, 50), np.linspace(2, 1, 50))
    assert curve.falls_to_the_end
    assert curve.suggest() is not None


def test_as_csv_there_is_a_line_a_step() -> None:
    curve = filled(Curve(1e-4, 1e-2, 3), np.array([2.0, 1.5]))
    lines = list(csv.DictReader(io.StringIO(curve.to_csv())))
    assert [line["step"] for line in lines] == ["0", "1"]
    assert [float(line["lr"]) for line in lines] == pytest.approx([1e-4, 1e-3])
    assert [float(line["loss"]) for line in lines] == [2.0, 1.5]
