"""Votes join answers by sample id and class name, never by position, and average as they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import log_softmax, softmax

from engine.ensemble.vote import Answers, blend, vote


def answers(seed: int, samples: int = 6, classes: int = 4) -> Answers:
    probabilities_NC = np.random.default_rng(seed).dirichlet(np.ones(classes), samples)
    names = tuple(f"class {c}" for c in range(classes))
    return Answers(tuple(f"id {i}" for i in range(samples)), names, probabilities_NC)


def shuffled(one: Answers, seed: int) -> Answers:
    random = np.random.default_rng(seed)
    rows, columns = random.permutation(len(one.ids)), random.permutation(len(one.classes))
    return Answers(
        tuple(one.ids[i] for i in rows),
        tuple(one.classes[c] for c in columns),
        one.probabilities_NC[np.ix_(rows, columns)],
    )


LOGITS_KNC = hnp.arrays(np.float64, (3, 5, 4), elements=st.floats(-30, 30))


@pytest.mark.parametrize("rule", ["soft", "logit"])
def test_a_voter_listed_in_another_order_of_samples_and_classes_votes_the_same(rule: str) -> None:
    first, second = answers(1), answers(2)
    straight, joined = vote([first, second], rule), vote([first, shuffled(second, 3)], rule)
    assert (joined.ids, joined.classes) == (first.ids, first.classes)
    np.testing.assert_allclose(joined.probabilities_NC, straight.probabilities_NC)


def test_a_soft_vote_is_the_mean_of_probabilities() -> None:
    first, second = answers(1), answers(2)
    expected_NC = (first.probabilities_NC + second.probabilities_NC) / 2
    np.testing.assert_allclose(vote([first, second]).probabilities_NC, expected_NC)


@given(LOGITS_KNC)
def test_a_logit_vote_is_the_softmax_of_mean_logits(logits_KNC: np.ndarray) -> None:
    voted_NC = blend(softmax(logits_KNC, axis=2), "logit")
    np.testing.assert_allclose(np.log(voted_NC), log_softmax(logits_KNC.mean(0), axis=1), atol=1e-6)


@given(LOGITS_KNC, st.sampled_from(["soft", "logit"]), st.permutations(range(3)))
def test_the_order_of_voters_does_not_matter(logits_KNC: np.ndarray, rule: str, order: list[int]) -> None:
    probabilities_KNC = softmax(logits_KNC, axis=2)
    np.testing.assert_allclose(blend(probabilities_KNC[order], rule), blend(probabilities_KNC, rule), atol=1e-12)


@pytest.mark.parametrize("rule", ["soft", "logit"])
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
    other = Answers(answers(1).ids, ("class 0", "class 1", "class 2", "truck"), answers(1).probabilities_NC)
    with pytest.raises(ValueError, match=r"different classes.*'class 3'.*'truck'"):
        vote([answers(1), other])


def test_answers_about_other_samples_do_not_vote_together() -> None:
    with pytest.raises(ValueError, match=r"different sample ids.*'id 5'"):
        vote([answers(1, samples=6), answers(2, samples=5)])


@pytest.mark.parametrize("weights", [[1.0], [0.0, 0.0], [-1.0, 2.0], [np.nan, 1.0]])
def test_weights_that_make_no_average_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        vote([answers(1), answers(2)], weights=weights)


def test_answers_refuse_logits_and_names_that_stand_for_two_rows() -> None:
    with pytest.raises(ValueError, match="'a': not a probability distribution"):
        Answers(("a",), ("x", "y"), np.array([[3.0, -1.0]]))
    with pytest.raises(ValueError, match="sample id named twice: 'a'"):
        Answers(("a", "a"), ("x",), np.ones((2, 1)))
    with pytest.raises(ValueError, match="'b': not a probability distribution"):
        Answers(("a", "b"), ("x", "y"), np.array([[0.5, 0.5], [np.nan, 1.0]]))
