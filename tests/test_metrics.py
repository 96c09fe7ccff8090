"""Metrics agree with their definitions, know which way is better, and refuse what they cannot score."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.metrics import (
    METRICS,
    better,
    brier_parts,
    chance_ece,
    class_share_log_loss,
    confused_pairs,
    confusion,
    evaluate,
    evaluate_groups,
    group_accuracy,
    score,
)
from engine.metrics.means import among_top
from engine.predictions import Predictions


def answers(seed: int, samples: int = 60, classes: int = 7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(classes), samples), rng.integers(0, classes, samples)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_they_agree_with_scikit_learn(seed: int) -> None:
    p, y = answers(seed, samples=1 + seed % 60)
    found = score(p, y)
    assert found["log_loss"] == pytest.approx(sklearn.metrics.log_loss(y, p, labels=range(7)))
    assert found["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(y, p.argmax(1)))
    for k in (3, 5):
        expected = sklearn.metrics.top_k_accuracy_score(y, p, k=k, labels=range(7))
        assert found[f"top{k}_accuracy"] == pytest.approx(expected)
    # To the last bit: the best epoch may be chosen by it.
    assert found["macro_f1"] == sklearn.metrics.f1_score(y, p.argmax(1), average="macro")
    assert found["weighted_f1"] == pytest.approx(sklearn.metrics.f1_score(y, p.argmax(1), average="weighted"))
    recalls = sklearn.metrics.recall_score(y, p.argmax(1), labels=np.unique(y), average=None, zero_division=0)
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert found["brier"] == pytest.approx(sklearn.metrics.brier_score_loss(y, p, labels=range(7), scale_by_half=False))
    if len(y) > 1:
        assert found["kappa"] == pytest.approx(sklearn.metrics.cohen_kappa_score(y, p.argmax(1)))
    expected_CC = sklearn.metrics.confusion_matrix(y, p.argmax(1), labels=range(9))
    np.testing.assert_array_equal(confusion(y, p.argmax(1), 9), expected_CC)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_the_area_under_the_curve_agrees_with_scikit_learn_also_among_equals(seed: int) -> None:
    p, y = answers(seed, samples=2 + seed % 80, classes=4)
    p = np.round(p, 1)  # many equals
    aucs = [sklearn.metrics.roc_auc_score(y == c, p[:, c]) for c in range(4) if 0 < (y == c).sum() < len(y)]
    assert score(p, y, ["auc"])["auc"] == pytest.approx(np.mean(aucs) if aucs else 0.5)


def test_what_chance_cannot_be_told_from_is_no_agreement_and_no_order() -> None:
    found = score(np.tile([1.0, 0.0], (3, 1)), [0, 0, 0])
    assert (found["kappa"], found["auc"]) == (0, 0.5)


def test_a_perfect_answer() -> None:
    found = score(np.eye(6), np.arange(6))
    assert found == pytest.approx(
        {
            "log_loss": 0,
            "accuracy": 1,
            "top3_accuracy": 1,
            "top5_accuracy": 1,
            "macro_f1": 1,
            "weighted_f1": 1,
            "balanced_accuracy": 1,
            "kappa": 1,
            "auc": 1,
            "brier": 0,
            "confidence_gap": 1,
            "entropy": 0,
            "calibration_error": 0,
        },
        abs=1e-12,
    )


def test_no_idea_costs_the_logarithm_of_the_classes() -> None:
    found = score(np.full((4, 8), 1 / 8, np.float32), np.zeros(4, int))
    assert found["log_loss"] == pytest.approx(math.log(8))
    assert found["entropy"] == pytest.approx(math.log(8))
    assert found["confidence_gap"] == 0


def test_certainty_in_the_wrong_class_is_dear_but_finite() -> None:
    assert score([[1.0, 0.0]], [1])["log_loss"] == pytest.approx(-math.log(1e-15))


def test_rows_that_do_not_quite_sum_to_one_are_normalised() -> None:
    assert score([[0.2, 0.2]], [0], ["log_loss"]) == pytest.approx({"log_loss": math.log(2)})


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    sure = np.tile([0.9, 0.1], (10, 1))
    assert score(sure, [0] * 9 + [1])["calibration_error"] == pytest.approx(0)
    assert score(sure, [0] * 4 + [1] * 6)["calibration_error"] == pytest.approx(0.5)
    both = np.concatenate([sure, np.tile([0.6, 0.4], (10, 1))])  # over- and under-confidence do not cancel
    assert score(both, [0] * 6 + [1] * 4 + [0] * 9 + [1])["calibration_error"] == pytest.approx(0.3)


def test_ties_do_not_count_as_hits_among_the_top() -> None:
    assert not among_top(np.full((3, 10), 0.1), np.array([0, 5, 9]), 3).any()


def test_only_the_metrics_asked_for_are_computed() -> None:
    assert list(score(np.eye(2), [0, 1], ["macro_f1", "log_loss"])) == ["macro_f1", "log_loss"]


@pytest.mark.parametrize(
    ("probabilities", "labels", "words"),
    [
        (np.ones((3, 2)), [0, 1], "expected probabilities"),
        (np.ones((0, 2)), np.zeros(0, int), "not empty"),
        (np.ones((1, 2)), [2], "0 to 1"),
        (np.ones((1, 2)), [0.0], "indices"),
        (np.array([[0.5, 0.5], [math.nan, 1]]), [0, 0], "row 1"),
        (np.array([[-2.0, 3.0]]), [0], "not logits"),
    ],
)
def test_what_cannot_be_scored_is_refused(probabilities: np.ndarray, labels: list, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        score(probabilities, labels)


def test_an_unknown_metric_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="nearest: log_loss"):
        better("logloss", 1, 2)


@pytest.mark.parametrize("name", METRICS)
def test_a_perfect_model_is_better_than_a_random_one_in_every_metric(name: str) -> None:
    p, y = answers(3)
    perfect = score(np.eye(7)[y], y)[name]
    random = score(p, y)[name]
    assert better(name, perfect, random)
    assert not better(name, random, perfect)
    assert not better(name, random, random)
    assert better(name, random, math.nan)


def test_nan_is_worse_than_any_number() -> None:
    assert better("log_loss", 5, math.nan)
    assert not better("log_loss", math.nan, 5)
    assert not better("accuracy", math.nan, math.nan)


def test_the_class_share_baseline_answers_the_training_shares() -> None:
    train = [0, 0, 0, 1]
    assert class_share_log_loss(train, [0, 1], 2) == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert class_share_log_loss(train, train, 2) == pytest.approx(entropy)
    assert math.isfinite(class_share_log_loss(train, [2], 3))


def test_confusion_counts_and_the_most_confused_pairs() -> None:
    labels = [0, 0, 0, 1, 1, 2, 2, 2, 3]
    given = [0, 1, 1, 0, 1, 1, 2, 2, 3]
    counts = confusion(labels, given, 5)
    assert counts.shape == (5, 5)
    assert counts.sum() == 9
    assert counts[0, 1] == 2
    pairs = confused_pairs(counts, top=10)
    assert [(p.first, p.second, p.count) for p in pairs] == [(0, 1, 3), (1, 2, 1)]
    assert (pairs[0].first_as_second, pairs[0].second_as_first) == (2, 1)
    assert confused_pairs(counts, top=1) == pairs[:1]


def test_a_group_has_the_probability_of_its_classes_together() -> None:
    probabilities_NC = np.array([[0.3, 0.3, 0.4], [0.2, 0.2, 0.6], [0.5, 0.1, 0.4]])
    labels_N = np.array([0, 1, 2])
    assert group_accuracy(probabilities_NC, labels_N, ["cars", "cars", "boats"]) == pytest.approx(1 / 3)
    assert group_accuracy(probabilities_NC, labels_N, ["one"] * 3) == 1


# -- of predictions


def test_predictions_are_scored_by_the_labels_they_carry() -> None:
    probabilities_NC = np.array([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8], [0.4, 0.3, 0.3]])
    one = Predictions(("1", "2", "3", "4"), ("cat", "dog", "boat"), probabilities_NC)
    scores = evaluate(one.labelled(["dog", "", "umbrella", "boat"]), ["pet", "pet", "thing"])
    assert (scores.images, scores.unknown) == (2, ("umbrella",))
    expected = score(probabilities_NC[[0, 3]], [1, 2])
    assert scores.metrics == expected | {"group_accuracy": 0.5}
    assert list(evaluate(one.labelled(["dog"] * 4)).metrics) == list(METRICS)


@pytest.mark.parametrize(("label", "words"), [("", r"among 'cat', 'dog'$"), ("boat", "their labels are 'boat'")])
def test_predictions_without_a_known_label_are_not_scored(label: str, words: str) -> None:
    one = Predictions(("1",), ("cat", "dog"), np.array([[0.5, 0.5]])).labelled([label])
    with pytest.raises(ValueError, match=words):
        evaluate(one)


def test_what_better_means_is_known_without_heavy_libraries() -> None:
    code = "import sys, engine.metrics; print({'torch', 'sklearn', 'pandas', 'scipy'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"


# -- taken apart


def test_classes_are_scored_as_scikit_learn_does() -> None:
    p, y = answers(5, samples=80, classes=4)
    y[y == 2] = 0  # a class that nothing is of, and is answered
    names = ("a", "b", "c", "d")
    one = Predictions(tuple(map(str, range(80))), names, p).labelled([names[i] for i in y])
    assert not evaluate(one).per_class
    found = evaluate(one, per_class=True).per_class
    table = sklearn.metrics.precision_recall_fscore_support(y, p.argmax(1), labels=range(4), zero_division=0)
    for place, name in enumerate(names):
        each = found[name]
        assert (each.precision, each.recall or 0, each.f1, each.support) == pytest.approx([row[place] for row in table])
        expected = sklearn.metrics.roc_auc_score(y == place, p[:, place]) if place != 2 else None
        assert each.auc == (expected and pytest.approx(expected))
    assert found["c"].recall is None


def test_groups_are_scored_by_themselves_those_with_the_most_errors_first() -> None:
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6], [0.9, 0.1]])
    one = Predictions(tuple("abcde"), ("x", "y"), p).labelled(["x"] * 5, groups=["one", "one", "two", "two", ""])
    found = evaluate_groups(one, ["accuracy"])
    assert [(group, scores.images, scores.metrics["accuracy"]) for group, scores in found.items()] == [
        ("two", 2, 0),
        ("one", 2, 1),
    ]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_the_parts_of_the_brier_score_add_up_to_it(seed: int) -> None:
    p, y = answers(seed, samples=1 + seed % 90)
    parts = brier_parts(p, y)
    total = parts.reliability - parts.resolution + parts.uncertainty + parts.within
    assert total == pytest.approx(score(p, y, ["brier"])["brier"])
    assert parts.reliability >= 0 and parts.resolution >= 0
    shares = np.bincount(y, minlength=7) / len(y)
    assert parts.uncertainty == pytest.approx((shares * (1 - shares)).sum())


def test_few_different_answers_are_taken_apart_as_murphy_does() -> None:
    rng = np.random.default_rng(0)
    kinds = np.array([[0.8, 0.2], [0.3, 0.7]])
    which = rng.integers(0, 2, 400)
    y = (rng.random(400) < np.where(which == 0, 0.5, 0.6)).astype(int)
    parts = brier_parts(kinds[which], y)
    seen = [np.bincount(y[which == kind], minlength=2) / (which == kind).sum() for kind in (0, 1)]
    share = np.bincount(which) / 400
    reliability = sum(share[kind] * ((kinds[kind] - seen[kind]) ** 2).sum() for kind in (0, 1))
    assert parts.reliability == pytest.approx(reliability)
    assert parts.within == pytest.approx(0, abs=1e-12)


def test_a_calibrated_answer_has_no_unreliability_to_speak_of_but_an_error_by_chance() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), 3000)
    y = (rng.random((3000, 1)) > p.cumsum(1)).sum(1)
    one = Predictions(tuple(map(str, range(3000))), ("a", "b", "c"), p)
    chance, error = chance_ece(one), score(p, y)["calibration_error"]
    assert 0.01 < chance < 0.04
    assert error < 1.5 * chance
    assert brier_parts(p, y).reliability < 0.01
    assert chance_ece(one) == chance != chance_ece(one, seed=1)
    assert chance_ece(one.take(range(100))) > 3 * chance  # the fewer samples, the more


def test_the_order_of_samples_does_not_change_the_calibration_error() -> None:
    p, y = answers(0, samples=200)
    p = np.round(p, 1) / np.round(p, 1).sum(1, keepdims=True)
    turned = np.random.default_rng(1).permutation(200)
    assert score(p[turned], y[turned])["calibration_error"] == pytest.approx(score(p, y)["calibration_error"])


def test_bins_hold_equal_mass() -> None:
    confidence = np.r_[np.linspace(0.90, 0.94, 50), np.linspace(0.95, 0.99, 50)]  # one range of fifteen, of old
    p, y = np.stack([confidence, 1 - confidence], 1), np.repeat([0, 1], [90, 10])
    hit = y == 0
    expected = sum(abs((hit - confidence)[rows].sum()) for rows in np.split(np.arange(100), range(7, 100, 7))) / 100
    assert score(p, y)["calibration_error"] == pytest.approx(expected, abs=0.02)
    assert score(p, y)["calibration_error"] > abs(hit.mean() - confidence.mean()) + 0.02  # too sure and too modest
