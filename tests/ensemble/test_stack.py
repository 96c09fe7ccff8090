"""A stack answers as scikit-learn's model does, from numbers that can be read."""

from __future__ import annotations

import numpy as np
import pytest

from engine.ensemble.stack import KINDS, Kind, Stack, Start, Trees, boosted
from engine.ensemble.vote import softmax
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
    start = Start(2, classes, np.arange(classes))
    theirs = boosted(logits_NF, labels_N, start)
    ours = Trees.fit(logits_NF, labels_N, start)
    new_NF = np.log(random.dirichlet(np.ones(classes), (500, 2))).reshape(500, -1)
    for seen_NF in (logits_NF, new_NF):
        expected_NC = theirs.predict_proba(seen_NF)
        np.testing.assert_allclose(softmax(ours.logits(seen_NF, start.logits(seen_NF))), expected_NC, rtol=1e-12)


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
