"""Votes join answers by sample id and class name, never by position, and average as they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import log_softmax, softmax

from engine.ensemble.vote import RULES, blend, vote, vote_of_fold
from engine.predictions import Predictions


def answers(seed: int, samples: int = 6, classes: int = 4) -> Predictions:
    probabilities_NC = np.random.default_rng(seed).dirichlet(np.ones(classes), samples)
    names = tuple(f"class {c}" for c in range(classes))
    return Predictions(tuple(f"id {i}" for i in range(samples)), names, probabilities_NC)


def shuffled(one: Predictions, seed: int) -> Predictions:
    random = np.random.default_rng(seed)
    rows, columns = random.permutation(len(one.ids)), random.permutation(len(one.classes))
    return Predictions(
        tuple(one.ids[i] for i in rows),
        tuple(one.classes[c] for c in columns),
        one.probabilities_NC[np.ix_(rows, columns)],
    )


LOGITS_KNC = hnp.arrays(np.float64, (3, 5, 4), elements=st.floats(-30, 30))


@pytest.mark.parametrize("rule", RULES)
def test_a_voter_listed_in_another_order_of_samples_and_classes_votes_the_same(rule: str) -> None:
    first, second = answers(1), answers(2)
    straight, joined = vote([first, second], rule), vote([first, shuffled(second, 3)], rule)
    assert (joined.ids, joined.classes) == (first.ids, first.classes)
    np.testing.assert_allclose(joined.probabilities_NC, straight.probabilities_NC)


def test_a_soft_vote_is_the_mean_of_probabilities() -> None:
    first, second = answers(1), answers(2)
    expected_NC = (first.probabilities_NC + second.probabilities_NC) / 2
    np.testing.assert_allclose(vote([first, second], "soft").probabilities_NC, expected_NC)


@given(LOGITS_KNC)
def test_a_logit_vote_is_the_softmax_of_mean_logits(logits_KNC: np.ndarray) -> None:
    voted_NC = blend(softmax(logits_KNC, axis=2), "logit")
    np.testing.assert_allclose(np.log(voted_NC), log_softmax(logits_KNC.mean(0), axis=1), atol=1e-6)


@given(LOGITS_KNC, st.sampled_from(RULES), st.permutations(range(3)))
def test_the_order_of_voters_does_not_matter(logits_KNC: np.ndarray, rule: str, order: list[int]) -> None:
    probabilities_KNC = softmax(logits_KNC, axis=2)
    np.testing.assert_allclose(blend(probabilities_KNC[order], rule), blend(probabilities_KNC, rule), atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_a_voter_of_weight_two_counts_as_two_voters_and_one_of_weight_zero_not_at_all(rule: str) -> None:
    first, second, third = answers(1), answers(2), answers(3)
    np.testing.assert_allclose(
        vote([first, second, third], rule, weights=[2, 1, 0]).probabilities_NC,
        vote([first, first, second], rule).probabilities_NC,
    )


def test_a_probability_of_zero_does_not_break_a_logit_vote() -> None:
    voted_NC = blend(np.array([[[1.0, 0.0, 0.0]], [[0.5, 0.5, 0.0]]]), "logit")
    np.testing.assert_allclose(voted_NC, [[1.0, 0.0, 0.0]], atol=1e-100)


def test_models_of_other_classes_do_not_vote_together() -> None:
    other = Predictions(answers(1).ids, ("class 0", "class 1", "class 2", "truck"), answers(1).probabilities_NC)
    with pytest.raises(ValueError, match=r"different classes.*'class 3'.*'truck'"):
        vote([answers(1), other])


def test_answers_about_other_samples_do_not_vote_together() -> None:
    with pytest.raises(ValueError, match=r"different sample ids.*'id 5'"):
        vote([answers(1, samples=6), answers(2, samples=5)])


@pytest.mark.parametrize("weights", [[1.0], [0.0, 0.0], [-1.0, 2.0], [np.nan, 1.0]])
def test_weights_that_make_no_average_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        vote([answers(1), answers(2)], weights=weights)


def test_what_is_known_of_the_samples_is_kept_and_what_is_one_voters_own_is_not() -> None:
    first = answers(1).labelled([f"class {i % 4}" for i in range(6)], range(6))
    second = Predictions(first.ids, first.classes, answers(2).probabilities_NC, features_NE=np.zeros((6, 3)))
    voted = vote([first, second])
    assert voted.labels == first.labels and voted.fold_N.tolist() == list(range(6))
    assert vote([second, first]).features_NE is None


def test_the_kept_epochs_of_a_fold_are_one_model_of_the_same_precision() -> None:
    epochs = [
        Predictions(one.ids, one.classes, one.probabilities_NC.astype(np.float32)) for one in map(answers, (1, 2, 3))
    ]
    assert vote_of_fold(epochs[:1]) is epochs[0]
    for rule in RULES:
        together = vote_of_fold(epochs, rule)  # type: ignore[arg-type]
        assert together.probabilities_NC.dtype == np.float32
        expected_NC = vote(epochs, rule).probabilities_NC  # type: ignore[arg-type]
        np.testing.assert_array_equal(together.probabilities_NC, expected_NC.astype(np.float32))
