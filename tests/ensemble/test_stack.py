"""A stack answers as scikit-learn's model does, from numbers that can be read."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from engine.ensemble.stack import KINDS, Kind, Linear, Stack, Start, Trees, boosted
from engine.ensemble.vote import softmax, vote
from engine.metrics import evaluate
from engine.predictions import LabelledPredictions, Predictions


def candidates(seed: int = 0, samples: int = 150, classes: int = 3, missing: str = "") -> list[LabelledPredictions]:
    """The first knows one class from the others and nothing else; the second knows the rest."""
    random = np.random.default_rng(seed)
    labels_N = random.integers(classes, size=samples)
    names = tuple(f"class {c}" for c in range(classes))
    found = []
    for known_C in (np.eye(classes)[0], 1 - np.eye(classes)[0]):
        logits_NC = 0.3 * random.normal(size=(samples, classes)) + 2 * known_C * np.eye(classes)[labels_N]
        one = Predictions(tuple(f"image {i}" for i in range(samples)), names, softmax(logits_NC))
        labelled = one.labelled([names[label] for label in labels_N])
        found.append(labelled.take([row for row, label in enumerate(labelled.labels) if label != missing]))
    return found


@pytest.mark.parametrize("classes", [2, 3])
def test_trees_answer_as_scikit_learn_does(classes: int) -> None:
    random = np.random.default_rng(0)
    logits_NF = np.log(random.dirichlet(np.ones(classes), (90, 2))).reshape(90, -1)
    labels_N = (logits_NF[:, :classes].argmax(1) + (random.random(90) < 0.2)) % classes
    start = Start(np.array([0.7, 0.3]), classes, np.arange(classes))
    theirs = boosted(logits_NF, labels_N, start)
    ours = Trees.fit(logits_NF, labels_N, start)
    new_NF = np.log(random.dirichlet(np.ones(classes), (500, 2))).reshape(500, -1)
    for seen_NF in (logits_NF, new_NF):
        expected_NC = theirs.predict_proba(seen_NF)
        np.testing.assert_allclose(softmax(ours.logits(seen_NF, start.logits(seen_NF))), expected_NC, rtol=1e-12)


def test_a_regression_that_begins_at_nothing_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    features_NF, labels_N = random.normal(size=(60, 4)), random.integers(3, size=60)
    features_NF = (features_NF - features_NF.mean(0)) / features_NF.std(0)
    seen_NF = np.hstack([features_NF, np.ones((60, 1))])  # the bias is drawn towards 0 as well
    theirs = LogisticRegression(C=1 / (0.1 * 60), fit_intercept=False, tol=1e-9, max_iter=1000).fit(seen_NF, labels_N)
    ours = Linear.fit(features_NF, labels_N, np.zeros((60, 3)), 0.1)
    np.testing.assert_allclose(
        softmax(ours.logits(features_NF, np.zeros((60, 3)))), theirs.predict_proba(seen_NF), atol=1e-5
    )


@pytest.mark.parametrize("kind", KINDS)
def test_where_there_is_nothing_to_learn_the_vote_of_the_best_weights_stands(kind: Kind) -> None:
    random = np.random.default_rng(0)
    p_KNC = random.dirichlet(np.ones(3), (2, 300))
    labels = [f"class {random.choice(3, p=p_C)}" for p_C in p_KNC[0]]  # the first says how it is
    names, ids = tuple(f"class {c}" for c in range(3)), tuple(map(str, range(300)))
    several = [Predictions(ids, names, p_NC).labelled(labels) for p_NC in p_KNC]
    stack = Stack.fit(several, kind)
    before = evaluate(vote(several, "logit", stack.weights)).metrics["log_loss"]
    assert evaluate(stack.apply(several)).metrics["log_loss"] == pytest.approx(before, abs=0.02)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [2, 4])
def test_a_stack_learns_whom_to_believe_about_which_class(kind: Kind, classes: int) -> None:
    stack, new = Stack.fit(candidates(samples=300, classes=classes), kind), candidates(1, classes=classes)
    stacked = evaluate(stack.apply(new)).metrics
    for one in new:
        assert stacked["log_loss"] < evaluate(one).metrics["log_loss"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_that_it_was_not_fitted_on_keeps_what_the_candidates_give_it(kind: Kind) -> None:
    stack, new = Stack.fit(candidates(missing="class 1"), kind), candidates(1)
    assert stack.seen == ("class 0", "class 2")
    answered = stack.apply(new)
    mean_N = (new[0].probabilities_NC[:, 1] + new[1].probabilities_NC[:, 1]) / 2
    np.testing.assert_allclose(answered.probabilities_NC[:, 1], mean_N)
    np.testing.assert_allclose(answered.probabilities_NC.sum(1), 1)
    assert np.isfinite(evaluate(answered).metrics["log_loss"])


def test_labels_of_one_class_teach_nothing() -> None:
    only = [one.labelled(["class 1"] * len(one)) for one in candidates()]
    with pytest.raises(ValueError, match="one class only"):
        Stack.fit(only, "logistic")


def test_it_wants_as_many_candidates_as_it_was_fitted_on() -> None:
    several = candidates()
    with pytest.raises(ValueError, match="fitted on 2 candidates and is given 3"):
        Stack.fit(several, "logistic").apply([*several, several[0]])
