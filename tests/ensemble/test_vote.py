"""Votes join answers by sample id and class name, never by position, and average as they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import log_softmax, softmax

from engine.ensemble.vote import RULES, Rule, blend, vote, vote_of_fold
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
# What other tools write is coarse: zeros, ones and equals are frequent.
COARSE_KNC = hnp.arrays(np.int64, (3, 5, 4), elements=st.integers(0, 4)).map(
    lambda counts_KNC: np.apply_along_axis(lambda n_C: n_C / n_C.sum() if n_C.any() else np.ones(4) / 4, 2, counts_KNC)
)
WEIGHTS_K = st.lists(st.integers(0, 4), min_size=3, max_size=3).filter(any)


@pytest.mark.parametrize("rule", RULES)
def test_a_voter_listed_in_another_order_of_samples_and_classes_votes_the_same(rule: str) -> None:
    first, second = answers(1), answers(2)
    straight, joined = vote([first, second], rule), vote([first, shuffled(second, 3)], rule)
    assert (joined.ids, joined.classes) == (first.ids, first.classes)
    np.testing.assert_allclose(joined.probabilities_NC, straight.probabilities_NC)


@pytest.mark.parametrize("rule", RULES)
def test_who_votes_alone_keeps_its_answer(rule: Rule) -> None:
    np.testing.assert_allclose(vote([answers(1)], rule, [3]).probabilities_NC, answers(1).probabilities_NC)


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


@given(COARSE_KNC, st.sampled_from(RULES), WEIGHTS_K, st.permutations(range(4)), st.permutations(range(5)))
def test_a_vote_is_a_distribution_and_follows_classes_and_samples(
    voters_KNC: np.ndarray, rule: Rule, weights: list[int], classes: list[int], samples: list[int]
) -> None:
    voted_NC = blend(voters_KNC, rule, weights)
    assert (voted_NC >= 0).all()
    np.testing.assert_allclose(voted_NC.sum(1), 1)
    np.testing.assert_allclose(blend(voters_KNC[:, :, classes], rule, weights), voted_NC[:, classes], atol=1e-12)
    np.testing.assert_allclose(blend(voters_KNC[:, samples], rule, weights), voted_NC[samples], atol=1e-12)


@given(COARSE_KNC, st.sampled_from(RULES), WEIGHTS_K)
def test_a_weight_counts_voters(voters_KNC: np.ndarray, rule: Rule, weights: list[int]) -> None:
    repeated_KNC = np.repeat(voters_KNC, weights, axis=0)
    np.testing.assert_allclose(blend(voters_KNC, rule, weights), blend(repeated_KNC, rule), atol=1e-12)


@given(COARSE_KNC, st.sampled_from(RULES), st.integers(1, 4))
def test_what_all_say_is_what_they_say_together(voters_KNC: np.ndarray, rule: Rule, count: int) -> None:
    one_NC = voters_KNC[0]
    voted_NC = blend(np.repeat(voters_KNC[:1], count, axis=0), rule)
    for ours_C, theirs_C in zip(voted_NC, one_NC, strict=True):  # in the same order, with the same equals
        for a in range(4):
            assert all((ours_C[a] > ours_C[b] + 1e-12) == (theirs_C[a] > theirs_C[b]) for b in range(4))
    if rule in ("soft", "logit", "median"):
        np.testing.assert_allclose(voted_NC, one_NC, atol=1e-12)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9))
def test_a_hard_vote_is_the_share_of_first_answers_but_for_a_hundredth(firsts: list[int]) -> None:
    voters_KNC = np.full((len(firsts), 1, 4), 0.1)
    voters_KNC[np.arange(len(firsts)), 0, firsts] = 0.7
    shares_C = np.bincount(firsts, minlength=4) / len(firsts)
    voted_C = blend(voters_KNC, "hard")[0]
    np.testing.assert_allclose(voted_C, shares_C, atol=0.01)
    assert shares_C[voted_C.argmax()] == shares_C.max()
    assert voted_C.min() > 0.001  # a class without a vote costs less than 7 nats


def test_a_tie_of_hard_votes_goes_to_the_class_of_the_higher_mean_probability() -> None:
    voters_KNC = np.array([[[0.5, 0.1, 0.4]], [[0.1, 0.6, 0.3]]])
    assert blend(voters_KNC, "hard").argmax() == 1
    assert blend(voters_KNC[:, :, ::-1], "hard").argmax() == 1


def test_who_cannot_decide_divides_its_hard_vote() -> None:
    voted_C = blend(np.array([[[0.4, 0.2, 0.4]]]), "hard")[0]
    assert voted_C[0] == voted_C[2] == pytest.approx(0.5, abs=0.01)


@given(COARSE_KNC, st.sampled_from([0.25, 3.0]))
def test_how_sure_a_voter_is_does_not_matter_to_a_rank_vote(voters_KNC: np.ndarray, power: float) -> None:
    other_KNC = voters_KNC**power
    other_KNC /= other_KNC.sum(2, keepdims=True)
    np.testing.assert_array_equal(blend(other_KNC, "rank"), blend(voters_KNC, "rank"))


def test_a_rank_vote_is_the_mean_of_one_over_the_place() -> None:
    voters_KNC = np.array([[[0.6, 0.3, 0.1, 0.0]], [[0.3, 0.4, 0.15, 0.15]]])
    first_C, second_C = np.array([1, 1 / 2, 1 / 3, 1 / 4]), np.array([1 / 2, 1, 1 / 3.5, 1 / 3.5])
    expected_C = (first_C / first_C.sum() + second_C / second_C.sum()) / 2
    np.testing.assert_allclose(blend(voters_KNC, "rank")[0], expected_C)


@given(LOGITS_KNC)
def test_a_median_is_numpys_made_to_sum_to_one(logits_KNC: np.ndarray) -> None:
    p_KNC = softmax(logits_KNC, axis=2)
    medians_NC = np.median(p_KNC, axis=0)
    np.testing.assert_allclose(blend(p_KNC, "median"), medians_NC / medians_NC.sum(1, keepdims=True), atol=1e-12)


def test_one_who_is_far_off_does_not_move_a_median_and_the_mean_stands_where_all_medians_are_zero() -> None:
    voters_KNC = np.array([[[0.7, 0.3, 0.0]], [[0.7, 0.3, 0.0]], [[0.0, 0.0, 1.0]]])
    np.testing.assert_allclose(blend(voters_KNC, "median"), [[0.7, 0.3, 0.0]])
    np.testing.assert_allclose(blend(np.eye(3)[:, None], "median"), [[1 / 3, 1 / 3, 1 / 3]])


def test_a_rule_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ValueError, match="'best' does not exist; choose one of soft, logit, hard, rank, median"):
        blend(np.ones((1, 1, 1)), "best")  # type: ignore[arg-type]
