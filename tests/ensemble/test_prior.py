"""Answers follow the shares that classes have where they are asked, given or found in the answers themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.metrics import log_loss

from engine.ensemble.prior import estimate, shift
from engine.predictions import Predictions

CLASSES = ("a", "b", "c", "d")
TRAINED = np.array([0.4, 0.3, 0.2, 0.1])
ASKED = np.array([0.1, 0.1, 0.2, 0.6])


def world(shares: Sequence[float], count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(probabilities, labels): images of classes in these shares, answered by Bayes' rule as in a world of TRAINED."""
    random = np.random.default_rng(seed)
    y_N = random.choice(4, count, p=shares)
    x_N4 = random.normal(2 * np.eye(4)[y_N], 1)  # a normal distribution around a corner a class
    p_NC = TRAINED * np.exp(2 * x_N4)
    return p_NC / p_NC.sum(1, keepdims=True), y_N


def answers(p_NC: np.ndarray) -> Predictions:
    return Predictions(tuple(f"image {i}" for i in range(len(p_NC))), CLASSES, p_NC)


def test_a_shift_to_the_true_shares_makes_the_answers_right_by_bayes_rule() -> None:
    p_NC, y_N = world(ASKED, 4000)
    moved_NC = shift(answers(p_NC), TRAINED, ASKED).probabilities_NC
    expected_NC = p_NC * ASKED / TRAINED
    np.testing.assert_allclose(moved_NC, expected_NC / expected_NC.sum(1, keepdims=True))
    assert log_loss(y_N, moved_NC) < log_loss(y_N, p_NC) - 0.1


def test_a_shift_can_be_taken_back_and_takes_shares_of_any_scale() -> None:
    one = answers(world(TRAINED, 50)[0])
    there = shift(one, TRAINED * 700, ASKED * 0.3)
    np.testing.assert_allclose(shift(there, ASKED, TRAINED).probabilities_NC, one.probabilities_NC)


def test_a_class_that_is_not_expected_is_not_answered_even_where_it_was_certain() -> None:
    one = answers(np.array([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0]]))
    moved_NC = shift(one, TRAINED, [0, 0.6, 0.2, 0.2]).probabilities_NC
    np.testing.assert_allclose(moved_NC[0], np.array([0, 2, 1, 2]) / 5)  # ratios 0.6 / 0.3, 0.2 / 0.2, 0.2 / 0.1
    np.testing.assert_allclose(moved_NC[1], [0, 1, 0, 0], atol=1e-30)


def test_a_class_that_nothing_was_learnt_of_cannot_be_expected() -> None:
    one = answers(np.full((1, 4), 0.25))
    with pytest.raises(ValueError, match=r"expected of 'c'.*make it 0"):
        shift(one, [1, 1, 0, 1], ASKED)
    np.testing.assert_allclose(shift(one, [1, 1, 0, 1], [1, 1, 0, 2]).probabilities_NC, [[0.25, 0.25, 0, 0.5]])


@pytest.mark.parametrize("shares", [[1, 1, 1], [0, 0, 0, 0], [1, 1, -1, 1], [1, np.nan, 1, 1]])
def test_shares_that_are_none_are_refused(shares: list[float]) -> None:
    with pytest.raises(ValueError, match="expected 4 numbers of at least 0"):
        shift(answers(np.full((1, 4), 0.25)), TRAINED, shares)


@pytest.mark.parametrize("shares", [ASKED, TRAINED, np.array([0.5, 0.5, 0, 0])])
def test_the_shares_of_what_is_asked_are_found_without_labels(shares: np.ndarray) -> None:
    p_NC, _ = world(shares, 20_000)
    np.testing.assert_allclose(estimate(answers(p_NC), TRAINED), shares, atol=0.012)


def test_the_estimate_is_where_the_likelihood_is_greatest() -> None:
    """The same by another route: a general optimiser on the likelihood itself."""
    from scipy.optimize import minimize

    p_NC, _ = world(ASKED, 500)

    def loss(free: np.ndarray) -> float:
        to_C = np.exp(free) / np.exp(free).sum()
        return -float(np.log(p_NC @ (to_C / TRAINED)).mean())

    found = minimize(loss, np.zeros(4), tol=1e-12).x
    best_C = np.exp(found) / np.exp(found).sum()
    np.testing.assert_allclose(estimate([p_NC], TRAINED, smoothing=0, tolerance=1e-9, passes=2000), best_C, atol=1e-4)


def test_parts_that_are_gone_through_again_and_again_give_what_the_whole_gives() -> None:
    p_NC, _ = world(ASKED, 3000)
    whole_C = estimate(answers(p_NC), TRAINED)
    np.testing.assert_allclose(estimate([p_NC[:7], p_NC[7:7], p_NC[7:]], TRAINED), whole_C, atol=1e-12)
    with pytest.raises(ValueError, match="only once"):
        estimate(iter([p_NC]), TRAINED)


def test_it_stops_after_so_many_passes() -> None:
    class Parts:
        passes = 0

        def __iter__(self):  # type: ignore[no-untyped-def]
            self.passes += 1
            yield world(ASKED, 100)[0]

    parts = Parts()
    estimate(parts, TRAINED, passes=3, tolerance=0)
    assert parts.passes == 3
    estimate(parts, TRAINED)
    assert parts.passes < 203


def test_smoothing_keeps_few_answers_near_the_shares_of_training() -> None:
    few = answers(np.array([[0.0, 0, 0, 1]]))
    assert estimate(few, TRAINED, smoothing=0)[3] > 0.99
    one_more_C = estimate(few, TRAINED, smoothing=1)
    assert 0.5 < one_more_C[3] < 0.6 and (one_more_C > 0).all()
    np.testing.assert_allclose(estimate(few, TRAINED, smoothing=1e6), TRAINED, atol=1e-5)


def test_a_class_that_was_not_in_training_stays_without_a_share() -> None:
    to_C = estimate(answers(np.array([[0.5, 0.4, 0.1, 0], [0.2, 0.2, 0.5, 0.1]])), [0.4, 0.3, 0, 0.3])
    assert to_C[2] == 0 and to_C.sum() == pytest.approx(1)


def test_no_answers_and_answers_of_other_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="no answers"):
        estimate([], TRAINED)
    with pytest.raises(ValueError, match="do not fit 4"):
        estimate([np.full((2, 5), 0.2)], TRAINED)
