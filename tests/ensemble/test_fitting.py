"""What is asked for is fitted, and kept only where it gains on samples that it was not fitted on."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.ensemble.fitting import Candidates, Fitted, fit
from engine.ensemble.neighbours import Found
from engine.ensemble.parts import NOTHING, Parts
from engine.ensemble.vote import vote, vote_of_fold
from engine.metrics import evaluate
from engine.predictions import LabelledPredictions, Predictions
from engine.recipe.sections import EnsembleSection

CLASSES = ("a", "b", "c")
COUNT = 600
RANDOM = np.random.default_rng(5)
P_NC = RANDOM.dirichlet([0.6] * 3, COUNT)
LABELS_N = (RANDOM.random((COUNT, 1)) > P_NC.cumsum(1)).sum(1)  # as likely as P_NC says, which is calibrated therefore
NOISE_NC = RANDOM.dirichlet([0.6] * 3, COUNT)


def answers(p_NC: NDArray[np.floating]) -> LabelledPredictions:
    """Of five folds."""
    labels = [CLASSES[label] for label in LABELS_N]
    sharp_NC = p_NC / p_NC.sum(1, keepdims=True)
    return Predictions(tuple(map(str, range(COUNT))), CLASSES, sharp_NC).labelled(labels, np.arange(COUNT) % 5)


def fitted(*candidates: NDArray[np.floating], found: Found | None = None, **keys: Any) -> Fitted:
    named = Candidates(tuple(f"epoch_{i}" for i in range(len(candidates))), tuple(map(answers, candidates)))
    return fit(named, EnsembleSection(**{"calibrate": "off"} | keys), found=found)


def loss(one: LabelledPredictions) -> float:
    return evaluate(one).metrics["log_loss"]


def test_nothing_is_fitted_where_nothing_is_asked_for() -> None:
    result = fitted(P_NC, NOISE_NC)
    assert result.parts == NOTHING and result.gains == ()
    equal = vote_of_fold([answers(P_NC), answers(NOISE_NC)])
    np.testing.assert_array_equal(result.answers.probabilities_NC, equal.probabilities_NC)


@pytest.mark.parametrize("keys", [{"weights": "fit"}, {"weights": "select"}, {"stack": "logistic"}])
def test_a_join_is_kept_where_candidates_are_not_equally_good(keys: dict[str, str]) -> None:
    result = fitted(P_NC, NOISE_NC, **keys)
    (gain,) = result.gains
    assert gain.kept and gain.why == "" and gain.part == next(iter(keys)) and gain.how == next(iter(keys.values()))
    assert gain.difference is not None and gain.difference.verdict == "better"
    equal = vote([answers(P_NC), answers(NOISE_NC)])
    assert gain.before["log_loss"] == pytest.approx(loss(equal), abs=1e-6)
    assert gain.after["log_loss"] == pytest.approx(loss(result.answers)) and loss(result.answers) < loss(equal) - 0.05


def test_answers_are_not_those_of_what_has_seen_everything() -> None:
    result = fitted(P_NC, NOISE_NC, stack="logistic")
    final = result.parts.joined([answers(P_NC), answers(NOISE_NC)], "soft")
    assert np.abs(final.probabilities_NC - result.answers.probabilities_NC).max() > 1e-6
    assert loss(final) < loss(result.answers)  # which is why it is not what the run is scored by


@pytest.mark.parametrize("keys", [{"weights": "fit"}, {"weights": "score"}, {"calibrate": "auto"}])
def test_a_useless_part_is_not_kept_and_says_why(keys: dict[str, str]) -> None:
    result = fitted(P_NC, P_NC, **keys)
    assert result.parts == NOTHING and result.gains
    assert all(not gain.kept and gain.why in ("not told apart", "worse") for gain in result.gains)
    np.testing.assert_allclose(result.answers.probabilities_NC, P_NC, atol=1e-6)


def test_what_a_part_does_is_fitted_on_what_the_parts_before_it_made() -> None:
    sharp_NC = P_NC**3
    result = fitted(sharp_NC, NOISE_NC, weights="fit", calibrate="temperature")
    assert [gain.part for gain in result.gains] == ["weights", "calibration"] and all(one.kept for one in result.gains)
    first, second = result.gains
    assert first.after == second.before and second.after["log_loss"] < second.before["log_loss"]
    assert second.after["calibration_error"] < second.before["calibration_error"]
    assert result.parts.names == ["join", "calibration"]
    candidates = [answers(sharp_NC), answers(NOISE_NC)]
    join, calibration = result.parts.join, result.parts.calibration
    assert join is not None and calibration is not None
    expected = calibration.apply(join.apply(candidates))
    chained = result.parts.finished(result.parts.joined(candidates, "soft"))
    np.testing.assert_array_equal(chained.probabilities_NC, expected.probabilities_NC)
    read = Parts.from_dict(result.parts.to_dict())
    again = read.finished(read.joined(candidates, "soft"))
    np.testing.assert_array_equal(again.probabilities_NC, expected.probabilities_NC)


def test_auto_names_all_kinds_and_keeps_one() -> None:
    result = fitted(P_NC**3, calibrate="auto")
    assert [gain.how for gain in result.gains] == ["temperature", "groups", "vector", "isotonic", "dirichlet"]
    (kept,) = [gain for gain in result.gains if gain.kept]
    assert result.parts.calibration is not None and result.parts.calibration.kind == kept.how == "temperature"
    assert all(gain.why for gain in result.gains if not gain.kept)


def test_specialists_are_heard_between_joining_and_calibrating() -> None:
    heard = []

    def hear(main: LabelledPredictions) -> LabelledPredictions:
        heard.append(main)
        return dataclasses.replace(main, probabilities_NC=P_NC)

    section = EnsembleSection(calibrate="temperature")
    result = fit(Candidates(("one",), (answers(NOISE_NC),)), section, hear)
    np.testing.assert_allclose(heard[0].probabilities_NC, NOISE_NC)
    assert result.joined is heard[0] and loss(result.answers) == pytest.approx(loss(answers(P_NC)), abs=0.01)


@pytest.mark.parametrize("informed", [True, False])
def test_neighbours_are_kept_where_they_know_something(informed: bool) -> None:
    right_NK = np.random.default_rng(0).random((COUNT, 6)) < (0.9 if informed else 0)
    other_NK = np.random.default_rng(1).integers(0, 3, (COUNT, 6))
    labels_NK = np.where(right_NK, LABELS_N[:, None], other_NK)
    ids = tuple(map(str, range(COUNT)))
    found = Found(ids, CLASSES, labels_NK, np.full((COUNT, 6), 0.5), ids)
    result = fitted(P_NC, found=found, neighbours="auto", neighbours_k=(3, 6))
    (gain,) = result.gains
    assert gain.kept == informed == (result.parts.neighbours is not None)
    assert not informed or "k = " in gain.how


@pytest.mark.parametrize(
    ("keys", "candidates", "why"),
    [
        ({"weights": "fit"}, 1, "there is one candidate"),
        ({"neighbours": "auto"}, 1, "without features: run `engine train` again"),
        ({"weights": "fit", "vote": "median"}, 2, "no weights are fitted for the rule"),
    ],
)
def test_what_cannot_be_tried_says_so(keys: dict[str, str], candidates: int, why: str) -> None:
    result = fitted(*[P_NC] * candidates, **keys)
    assert result.parts == NOTHING and why in result.gains[0].why and not result.gains[0].after


def test_too_few_samples_are_no_reason_to_fail() -> None:
    one = answers(P_NC).take([0])
    section = EnsembleSection(weights="fit", calibrate="auto")
    result = fit(Candidates(("a", "b"), (one, one)), section)
    assert result.parts == NOTHING and all(not gain.kept and gain.why for gain in result.gains)
