"""Each kind of calibration mends what it can express, leaves the rest alone, and is taken only where it is worth it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.metrics import log_loss

from engine.ensemble.calibrate import DIRICHLET_CLASSES, KINDS, Calibration, Kind, choose
from engine.ensemble.nested import honest
from engine.predictions import LabelledPredictions, Predictions


def world(count: int, classes: int = 4, seed: int = 0, rare: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """(log-probabilities that are true, labels drawn from them); the higher `rare`, the rarer the later classes."""
    random = np.random.default_rng(seed)
    z_NC = log_softmax(2 * random.normal(size=(count, classes)) - rare * np.arange(classes), axis=1)
    return z_NC, (np.exp(z_NC).cumsum(1) > random.random((count, 1))).argmax(1)


def said(z_NC: np.ndarray, y_N: np.ndarray, senders: int = 0) -> LabelledPredictions:
    names = tuple(f"class {column}" for column in range(z_NC.shape[1]))
    one = Predictions(tuple(f"image {row}" for row in range(len(z_NC))), names, softmax(z_NC, axis=1))
    groups = [f"sender {row % senders}" for row in range(len(z_NC))] if senders else ()
    return one.labelled([names[label] for label in y_N], np.arange(len(z_NC)) % 5, groups)


SCALES = np.array([0.5, 1, 1.5, 1.2])
BIASES = np.array([1, 0, -1, 0.5])
MIXED = np.eye(4) + 0.2 * np.array([[0, 1, 0, -1], [0, 0, 1, 0], [-1, 0, 0, 1], [0.5, 0, -1, 0]])


def spoilt(kind: Kind, z_NC: np.ndarray) -> np.ndarray:
    """Logits that a calibration of this kind leads back to z_NC."""
    if kind == "temperature":
        return 2.5 * z_NC
    if kind == "groups":  # overconfident where one of the first two classes is likeliest
        return z_NC * np.where(z_NC.argmax(1) < 2, 3, 0.8)[:, None]
    if kind == "vector":
        return z_NC / SCALES + BIASES
    if kind == "isotonic":  # a curve of its own for every class
        return np.log(np.exp(z_NC) ** np.array([0.3, 1, 3, 1]) + np.array([0, 0.2, 0, 0]))
    return z_NC @ np.linalg.inv(MIXED).T - BIASES


def loss(one: LabelledPredictions) -> float:
    return float(log_loss(one.labels_N, one.probabilities_NC, labels=range(len(one.classes))))


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_mends_what_it_can_express(kind: Kind) -> None:
    z_NC, y_N = world(6000)
    groups = ("front", "front", "back", "back")
    fitted = Calibration.fit(kind, said(spoilt(kind, z_NC), y_N), groups)
    new_NC, new_N = world(6000, seed=1)
    before, best = said(spoilt(kind, new_NC), new_N), said(new_NC, new_N)
    after = fitted.apply(before)
    left = 0.15 if kind == "isotonic" else 0.05  # its rows are made to sum to 1, which its curves know nothing of
    assert loss(after) - loss(best) < left * (loss(before) - loss(best))


def test_the_numbers_are_those_that_spoilt_the_answers() -> None:
    z_NC, y_N = world(20_000)
    fitted = Calibration.fit("temperature", said(2.5 * z_NC, y_N))
    assert fitted.scale == pytest.approx(1 / 2.5, rel=0.03)
    fitted = Calibration.fit("groups", said(spoilt("groups", z_NC), y_N), ("front", "front", "back", "back"))
    np.testing.assert_allclose(fitted.scale, [1 / 3, 1 / 3, 1 / 0.8, 1 / 0.8], rtol=0.05)


def test_a_temperature_is_what_another_optimiser_finds() -> None:
    """With so many images the prior weighs nothing."""
    z_NC, y_N = world(5000)
    best = minimize_scalar(lambda s: log_loss(y_N, softmax(s * 1.7 * z_NC, axis=1)), bounds=(0.1, 5), method="bounded")
    assert Calibration.fit("temperature", said(1.7 * z_NC, y_N)).scale == pytest.approx(best.x, rel=1e-3)


def test_a_matrix_is_what_a_logistic_regression_on_log_probabilities_finds() -> None:
    """Kull et al.: Dirichlet calibration is a multinomial regression on log-probabilities."""
    from sklearn.linear_model import LogisticRegression

    z_NC, y_N = world(5_000)
    one = said(spoilt("dirichlet", z_NC), y_N)
    free = LogisticRegression(C=np.inf, max_iter=2000, tol=1e-8).fit(np.log(one.probabilities_NC), y_N)
    answered_NC = Calibration.fit("dirichlet", one).apply(one).probabilities_NC
    np.testing.assert_allclose(answered_NC, free.predict_proba(np.log(one.probabilities_NC)), atol=0.03)


def test_a_curve_is_the_rising_one_that_fits_best() -> None:
    one = said(np.log([[0.2, 0.8], [0.4, 0.6], [0.6, 0.4], [0.8, 0.2]]), np.array([1, 0, 1, 0]))
    corners, values = Calibration.fit("isotonic", one).curves[0]
    shares = np.interp([0.2, 0.4, 0.6, 0.8], corners, values)
    # By hand: 0, then 1 and 0 pooled to a half, then 1; and a fifth of the answer is what was said before.
    np.testing.assert_allclose(shares, (4 * np.array([0, 0.5, 0.5, 1]) + [0.2, 0.4, 0.6, 0.8]) / 5, atol=1e-12)


@pytest.mark.parametrize("kind", ["temperature", "groups"])
def test_the_likeliest_class_stays(kind: Kind) -> None:
    z_NC, y_N = world(500)
    one = said(3 * z_NC, y_N)
    after = Calibration.fit(kind, one).apply(one)
    np.testing.assert_array_equal(after.probabilities_NC.argmax(1), one.probabilities_NC.argmax(1))
    assert np.abs(after.probabilities_NC - one.probabilities_NC).max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_classes_and_samples_in_any_order_are_answered_alike(kind: Kind) -> None:
    z_NC, y_N = world(300)
    one = said(2 * z_NC, y_N)
    fitted = Calibration.fit(kind, one)
    turned = one.in_order(one.ids[::-1], ("class 2", "class 0", "class 3", "class 1"))
    after = fitted.apply(turned)
    assert (after.ids, after.classes, after.labels) == (turned.ids, turned.classes, turned.labels)
    back = after.in_order(one.ids, one.classes)
    np.testing.assert_array_equal(back.probabilities_NC, fitted.apply(one).probabilities_NC)
    assert back.probabilities_NC.dtype == np.float64
    with pytest.raises(ValueError, match="different classes"):
        fitted.apply(dataclasses.replace(one, classes=("class 0", "class 1", "class 2", "truck")))


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_depends_on_its_own_row_alone_to_the_last_bit(kind: Kind) -> None:
    z_NC, y_N = world(70, classes=17)
    one = said(2 * z_NC, y_N)
    one = dataclasses.replace(one, probabilities_NC=np.asfortranarray(one.probabilities_NC.astype(np.float32)))
    fitted = Calibration.fit(kind, one)
    together_NC = fitted.apply(one).probabilities_NC
    for count in (1, 7, 64):
        alone = [fitted.apply(one.take(range(row, min(row + count, 70)))) for row in range(0, 70, count)]
        np.testing.assert_array_equal(np.concatenate([each.probabilities_NC for each in alone]), together_NC)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_as_json_answers_alike(kind: Kind) -> None:
    z_NC, y_N = world(200)
    one = said(2 * z_NC, y_N)
    fitted = Calibration.fit(kind, one)
    read = Calibration.from_dict(json.loads(json.dumps(fitted.to_dict())))
    np.testing.assert_array_equal(read.apply(one).probabilities_NC, fitted.apply(one).probabilities_NC)


def test_damaged_numbers_are_refused() -> None:
    z_NC, y_N = world(50)
    content = Calibration.fit("vector", said(z_NC, y_N)).to_dict()
    for damage in ({"kind": "magic"}, {"scale": [1.0]}, {"bias": None}, {"scale": [1, 1, 1, float("nan")]}):
        with pytest.raises(ValueError, match="calibration"):
            Calibration.from_dict(content | damage)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_of_0_and_1_and_ties_leave_log_loss_finite(kind: Kind) -> None:
    hard_NC = np.repeat([[1.0, 0, 0], [0, 1, 0], [0.5, 0.5, 0], [0, 0, 1]], 10, axis=0)
    wrong = Predictions(tuple(map(str, range(40))), ("a", "b", "c"), hard_NC).labelled(["a", "b", "c", "b"] * 10)
    after = Calibration.fit(kind, wrong).apply(wrong)
    assert (after.probabilities_NC > 0).all()
    assert loss(after) < loss(wrong)


@pytest.mark.parametrize("kind", KINDS)
def test_few_images_and_a_class_without_any_do_not_run_away(kind: Kind) -> None:
    z_NC, _ = world(12, classes=5)
    y_N = z_NC.argmax(1)  # all right: without a prior the temperature would be 0
    y_N[y_N == 4] = 3
    one = said(z_NC, y_N)
    fitted = Calibration.fit(kind, one)
    numbers = [array for array in (fitted.scale, fitted.bias_C) if array is not None]
    assert all(np.abs(array).max() < 12 for array in numbers)
    assert (fitted.apply(one).probabilities_NC > 0).all()


@pytest.mark.parametrize("kind", ["temperature", "vector"])
def test_many_rare_classes_do_little_harm_where_there_is_nothing_to_mend(kind: Kind) -> None:
    one = said(*world(1500, classes=100))
    after = honest([one], lambda parts: lambda asked: Calibration.fit(kind, parts[0]).apply(asked[0]))
    assert loss(after) < loss(one) + 0.005


def test_samples_whose_label_is_no_class_are_left_out_and_none_is_too_few() -> None:
    z_NC, y_N = world(400)
    one = said(2 * z_NC, y_N)
    odd = dataclasses.replace(one, labels=("truck", *one.labels[1:]))
    assert Calibration.fit("temperature", odd).scale == Calibration.fit("temperature", one.take(range(1, 400))).scale
    with pytest.raises(ValueError, match="none is"):
        Calibration.fit("temperature", dataclasses.replace(one, labels=("",) * 400))


def test_without_groups_classes_are_grouped_by_how_often_they_occur() -> None:
    z_NC, y_N = world(6000, classes=6, rare=0.7)
    frequent_N = np.isin(z_NC.argmax(1), np.bincount(y_N).argsort()[-1:])
    one = said(z_NC * np.where(frequent_N, 1, 2.5)[:, None], y_N)
    fitted = Calibration.fit("groups", one)
    assert fitted.scale is not None
    by_share = fitted.scale[np.bincount(y_N).argsort()[::-1]]
    assert by_share[0] == pytest.approx(1, rel=0.1) and by_share[-1] == pytest.approx(1 / 2.5, rel=0.2)
    assert len(set(by_share)) == 3


def test_where_one_temperature_is_all_there_is_to_mend_it_is_chosen_over_more_numbers() -> None:
    z_NC, y_N = world(1000)
    choice = choose(said(2 * z_NC, y_N, senders=200), KINDS)
    assert choice.calibration is not None and choice.calibration.kind == "temperature"
    assert [row.kind for row in choice.table] == ["none", *KINDS]
    none, temperature, *_ = choice.table
    assert none.log_loss is not None and temperature.log_loss is not None and temperature.difference is not None
    assert temperature.difference.difference == pytest.approx(temperature.log_loss - none.log_loss)
    assert temperature.difference.high is not None and temperature.difference.high < 0
    assert loss(choice.answers) == pytest.approx(temperature.log_loss)


def test_where_classes_differ_more_numbers_are_chosen() -> None:
    z_NC, y_N = world(1500)
    choice = choose(said(spoilt("vector", z_NC), y_N), ("vector", "temperature"))
    assert choice.calibration is not None and choice.calibration.kind == "vector"


def test_well_calibrated_answers_are_left_alone() -> None:
    one = said(*world(800))
    choice = choose(one, KINDS)
    assert choice.calibration is None
    np.testing.assert_array_equal(choice.answers.probabilities_NC, one.probabilities_NC)
    assert all(row.log_loss is not None for row in choice.table)


def test_a_kind_that_cannot_be_tried_says_why() -> None:
    z_NC, y_N = world(300, classes=DIRICHLET_CLASSES + 1)
    choice = choose(said(2 * z_NC, y_N), ("dirichlet", "temperature"))
    assert choice.calibration is not None and choice.calibration.kind == "temperature"
    assert "it is tried up to" in choice.table[-1].reason and choice.table[-1].log_loss is None
    alone = said(2 * z_NC, y_N, senders=1)
    alone = dataclasses.replace(alone, fold_N=np.zeros(300, dtype=np.int64))
    choice = choose(alone, ("temperature",))
    assert choice.calibration is None and "cannot be divided" in choice.table[1].reason
