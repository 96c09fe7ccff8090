"""A join does to any samples what was fitted, and comes back from its dictionary as it was."""

from __future__ import annotations

import json

import numpy as np
import pytest

from engine.ensemble.candidates import aligned, common
from engine.ensemble.join import HOWS, How, Join
from engine.ensemble.vote import vote
from engine.predictions import LabelledPredictions, Predictions

NAMES = ("first", "second")


def candidates(seed: int = 0, samples: int = 80, classes: int = 3) -> list[LabelledPredictions]:
    random = np.random.default_rng(seed)
    labels_N = random.integers(classes, size=samples)
    names = tuple(f"class {c}" for c in range(classes))
    found = []
    for skill in (1, 2):
        logits_NC = random.normal(size=(samples, classes)) + skill * np.eye(classes)[labels_N]
        p_NC = np.exp(logits_NC) / np.exp(logits_NC).sum(1, keepdims=True)
        one = Predictions(tuple(f"image {i}" for i in range(samples)), names, p_NC)
        found.append(one.labelled([names[label] for label in labels_N]))
    return found


def turned(one: LabelledPredictions) -> LabelledPredictions:
    """The same in another order of samples and classes."""
    return one.in_order(one.ids[::-1], one.classes[1:] + one.classes[:1])


@pytest.mark.parametrize("how", HOWS)
def test_a_saved_join_answers_as_before_in_any_order(how: How) -> None:
    fitted = Join.fit(candidates(), NAMES, how)
    content = json.loads(json.dumps(fitted.to_dict()))
    again = Join.from_dict(content)
    assert again.to_dict() == content
    new = candidates(seed=1)
    expected = fitted.apply(new)
    assert expected.ids == new[0].ids and expected.labels == new[0].labels
    np.testing.assert_array_equal(again.apply(new).probabilities_NC, expected.probabilities_NC)
    for answers in ([new[0], turned(new[1])], [turned(new[0]), new[1]]):
        found = again.apply(answers)
        assert (found.ids, found.classes) == (answers[0].ids, answers[0].classes)
        in_order = found.in_order(expected.ids, expected.classes)
        np.testing.assert_allclose(in_order.probabilities_NC, expected.probabilities_NC, atol=1e-12)


@pytest.mark.parametrize("how", HOWS)
def test_a_join_is_fitted_alike_in_any_order_of_samples_and_classes(how: How) -> None:
    one, other = candidates(samples=120)
    straight, mixed = Join.fit([one, other], NAMES, how), Join.fit([one, turned(other)], NAMES, how)
    np.testing.assert_allclose(
        mixed.apply([one, other]).probabilities_NC, straight.apply([one, other]).probabilities_NC, atol=1e-6
    )


def test_equal_and_given_weights_need_no_labels() -> None:
    unlabelled = [Predictions(one.ids, one.classes, one.probabilities_NC) for one in candidates()]
    np.testing.assert_allclose(
        Join.given(NAMES, [2, 1], "logit").apply(unlabelled).probabilities_NC,
        vote(unlabelled, "logit", [2, 1]).probabilities_NC,
    )
    np.testing.assert_array_equal(
        Join.equal(NAMES).apply(unlabelled).probabilities_NC,
        Join.fit(candidates(), NAMES, "equal").apply(unlabelled).probabilities_NC,
    )


def test_fitted_weights_prefer_who_knows_more() -> None:
    for how in ("score", "fit", "select"):
        first, second = Join.fit(candidates(), NAMES, how).weights  # type: ignore[arg-type]
        assert second > first and first + second == pytest.approx(1)


@pytest.mark.parametrize("weights", [[1], [1, -1], [0, 0], [1, float("inf")], [float("nan"), 1]])
def test_weights_that_make_no_average_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="expected 2 weights"):
        Join.given(NAMES, weights)


def test_what_does_not_match_is_named() -> None:
    one, other = candidates()
    with pytest.raises(ValueError, match=r"first and second do not fit together.*sample ids: one lacks 'image 79'"):
        Join.fit([one, other.take(range(79))], NAMES)
    renamed = Predictions(other.ids, ("class 0", "class 1", "truck"), other.probabilities_NC)
    with pytest.raises(ValueError, match=r"first and second.*classes: one lacks 'class 2'; only one has 'truck'"):
        Join.equal(NAMES).apply([one, renamed])
    with pytest.raises(ValueError, match="expected answers of first, second, got 1"):
        Join.equal(NAMES).apply([one])


@pytest.mark.parametrize(
    "change", [{"how": "best"}, {"rule": "loud"}, {"weights": [1.0]}, {"stack": {}}, {"how": "logistic"}]
)
def test_a_dictionary_that_is_no_join_is_refused(change: dict[str, object]) -> None:
    with pytest.raises((ValueError, KeyError)):
        Join.from_dict(Join.equal(NAMES).to_dict() | change)


def test_common_is_what_all_have_in_any_unicode_form() -> None:
    one = Predictions(("가", "b", "c"), ("x", "y", "z"), np.array([[0.5, 0.25, 0.25], [0, 0, 1], [0.2, 0.2, 0.6]]))
    other = Predictions(("d", "b", "가"), ("y", "w", "x"), np.full((3, 3), 1 / 3))
    left, right = common([one, other])
    assert left.ids == right.ids == ("가", "b") and left.classes == right.classes == ("x", "y")
    np.testing.assert_allclose(left.probabilities_NC, [[2 / 3, 1 / 3], [0.5, 0.5]])
    np.testing.assert_allclose(right.probabilities_NC, 0.5)
    with pytest.raises(ValueError, match="no sample that all of them have"):
        common([one, other.take([0])])


def test_nobody_makes_no_answer() -> None:
    with pytest.raises(ValueError, match="nobody answers"):
        aligned([])
