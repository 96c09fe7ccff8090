"""Fitted weights are the best that there are, and selection comes near them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.ensemble.vote import Rule, vote
from engine.ensemble.weights import by_score, fit_simplex, select
from engine.metrics import evaluate
from engine.predictions import LabelledPredictions, Predictions

FITTED: tuple[Rule, ...] = ("soft", "logit", "hard", "rank")


def candidates(skills: list[float], seed: int = 0, samples: int = 60, classes: int = 4) -> list[LabelledPredictions]:
    """Candidates that know the true class the better the higher their skill; 0 is guessing."""
    random = np.random.default_rng(seed)
    labels_N = random.integers(classes, size=samples)
    found = []
    for skill in skills:
        logits_NC = random.normal(size=(samples, classes)) + skill * np.eye(classes)[labels_N]
        p_NC = np.exp(logits_NC) / np.exp(logits_NC).sum(1, keepdims=True)
        names = tuple(f"class {c}" for c in range(classes))
        one = Predictions(tuple(f"image {i}" for i in range(samples)), names, p_NC)
        found.append(one.labelled([names[label] for label in labels_N]))
    return found


def loss(several: list[LabelledPredictions], weights: list[float], rule: Rule) -> float:
    return evaluate(vote(several, rule, weights)).metrics["log_loss"]


@pytest.mark.parametrize("rule", FITTED)
@settings(max_examples=10)
@given(seed=st.integers(0, 1000), skills=st.lists(st.floats(-1, 4), min_size=3, max_size=3))
def test_no_point_of_a_grid_over_the_simplex_is_better(rule: Rule, seed: int, skills: list[float]) -> None:
    several = candidates(skills, seed)
    fitted = fit_simplex(several, rule)
    assert sum(fitted) == pytest.approx(1) and min(fitted) >= 0
    grid = [(a / 10, b / 10, 1 - (a + b) / 10) for a, b in itertools.product(range(11), repeat=2) if a + b <= 10]
    best = min(loss(several, [a, b, max(c, 0)], rule) for a, b, c in grid)
    assert loss(several, fitted, rule) <= best + 1e-7


@pytest.mark.parametrize("rule", FITTED)
def test_a_voter_that_only_guesses_gets_little_and_the_order_of_voters_does_not_matter(rule: Rule) -> None:
    several = candidates([2, 0, 3], samples=400)
    fitted = fit_simplex(several, rule)
    assert fitted[1] < 0.1 and fitted[2] > fitted[0]
    np.testing.assert_allclose(fit_simplex(several[::-1], rule)[::-1], fitted, atol=1e-3)


def test_candidates_are_joined_by_id_and_class() -> None:
    one, other = candidates([1, 3])
    turned = other.take(range(len(other))[::-1]).in_order(other.ids[::-1], other.classes[::-1])
    for fit in (by_score, fit_simplex, select):
        np.testing.assert_allclose(fit([one, turned]), fit([one, other]), atol=1e-6)


def test_a_probability_of_zero_for_the_true_class_is_survived() -> None:
    names = ("a", "b")
    sure = Predictions(("1", "2", "3"), names, np.array([[1.0, 0], [1, 0], [0, 1]])).labelled(["a", "b", "b"])
    unsure = Predictions(("1", "2", "3"), names, np.full((3, 2), 0.5)).labelled(["a", "b", "b"])
    assert fit_simplex([sure, unsure], "soft")[1] == pytest.approx(1 / 3 / 0.5, abs=0.01)  # 2 of 3 where sure is right
    assert fit_simplex([sure, unsure], "logit")[1] > 0.99  # who is sure and wrong has a veto


@pytest.mark.parametrize("rule", FITTED)
def test_selection_is_at_least_as_good_as_the_best_alone_and_nearly_as_good_as_the_optimum(rule: Rule) -> None:
    several = candidates([1, 2, 2.5, 0])
    selected = select(several, rule)
    assert sum(selected) == pytest.approx(1)
    assert loss(several, selected, rule) <= min(loss(several, row, rule) for row in np.eye(4).tolist())
    assert loss(several, selected, rule) == pytest.approx(loss(several, fit_simplex(several, rule), rule), abs=2e-3)


def test_selection_picks_the_best_first_and_counts_what_it_picks() -> None:
    several = candidates([1, 3, 2])
    assert select(several, "soft", 1) == [0, 1, 0]
    picked = select(several, "soft", 4)
    assert any(np.allclose(np.array(picked) * votes, np.round(np.array(picked) * votes)) for votes in (1, 2, 3, 4))


def test_bags_give_weight_to_more_candidates_and_the_same_seed_the_same() -> None:
    several = candidates([2] * 8)
    plain, bagged = select(several, rounds=5), select(several, rounds=5, bags=10)
    assert np.count_nonzero(bagged) > np.count_nonzero(plain)
    assert bagged == select(several, rounds=5, bags=10) != select(several, rounds=5, bags=10, seed=1)


def test_of_hundreds_of_candidates_a_few_are_selected_that_beat_all() -> None:
    several = candidates([1.0] * 300, samples=200)
    selected = select(several)
    assert 1 < np.count_nonzero(selected) <= 50
    assert loss(several, selected, "soft") < loss(several, [1] * 300, "soft")


@pytest.mark.parametrize("rule", ["soft", "logit"])
def test_of_many_candidates_no_other_would_help(rule: Rule) -> None:
    several = candidates([0.1 * k for k in range(40)], samples=200)
    fitted = np.array(fit_simplex(several, rule))
    lowest = loss(several, fitted.tolist(), rule)
    for k in range(40):
        moved = 0.99 * fitted + 0.01 * np.eye(40)[k]
        assert loss(several, moved.tolist(), rule) > lowest - 1e-6


def test_weights_by_score_are_in_proportion_to_it() -> None:
    several = candidates([1, 3])
    losses = [evaluate(one).metrics["log_loss"] for one in several]
    weights = by_score(several)
    assert weights[0] / weights[1] == pytest.approx(losses[1] / losses[0])
    hits = [evaluate(one).metrics["accuracy"] for one in several]
    weights = by_score(several, "accuracy")
    assert weights[0] / weights[1] == pytest.approx(hits[0] / hits[1])
    with pytest.raises(ValueError, match="nearest: accuracy"):
        by_score(several, "acuracy")


def test_samples_without_a_label_are_passed_over_and_without_any_nothing_is_fitted() -> None:
    several = candidates([1, 3])
    extra = [one.labelled([label if i < 30 else "" for i, label in enumerate(one.labels)]) for one in several]
    known = [one.take(range(30)) for one in several]
    np.testing.assert_allclose(fit_simplex(extra), fit_simplex(known))
    with pytest.raises(ValueError, match="without labels nothing is fitted"):
        fit_simplex([one.labelled([""] * len(one)) for one in several])


@pytest.mark.parametrize("fit", [fit_simplex, select])
def test_a_median_has_no_fitted_weights(fit) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"median.*by score"):
        fit(candidates([1, 3]), "median")
