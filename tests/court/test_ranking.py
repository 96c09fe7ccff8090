"""Wrong labels come first, whatever way they went wrong."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.court.evidence import Evidence, Nearby
from engine.court.noise import Noise
from engine.court.ranking import Ranking, rank
from engine.court.reasons import reasons
from engine.court.signals import NAMES, Signals
from engine.predictions import LabelledPredictions
from engine.store.epochs import EpochAnswers

CLASSES = ("a", "b", "c", "d", "e", "f")
SHARES = (0.36, 0.3, 0.18, 0.08, 0.05, 0.03)  # of the classes: e and f are rare, and badly learnt
PHOTOS, WRONG = 1200, 72


def world(way: str, seed: int) -> tuple[Evidence, NDArray[np.bool_]]:
    """Photos with answers, epochs and neighbours as a fair model has them, and whose labels are wrong."""
    random = np.random.default_rng((seed, way == "confused"))
    count, classes = PHOTOS, len(CLASSES)
    truth_N = random.choice(classes, count, p=SHARES)
    near_C = (truth_N[:, None] // 2 == np.arange(classes) // 2) * 1.2  # pairs of classes look alike
    strength_N = np.where(truth_N >= 4, 1.0, 3.0)[:, None]  # the rare ones are hardly known
    logits_NC = near_C + strength_N * np.eye(classes)[truth_N] + 1.5 * random.normal(size=(count, classes))
    logits_NC += np.log(SHARES)
    p_NC = np.exp(logits_NC) / np.exp(logits_NC).sum(1, keepdims=True)
    label_N, wrong_N = truth_N.copy(), np.zeros(count, bool)
    wrong_N[random.choice(count, WRONG, replace=False)] = True
    for row in np.flatnonzero(wrong_N):
        taken_C = np.bincount(p_NC[truth_N == truth_N[row]].argmax(1), minlength=classes)
        taken_C[truth_N[row]] = -1
        other = [one for one in range(classes) if one != truth_N[row]]
        label_N[row] = taken_C.argmax() if way == "confused" else random.choice(other)
    ids = tuple(f"photo-{row:04d}" for row in range(count))
    labels = tuple(CLASSES[one] for one in label_N)
    answers = LabelledPredictions(ids, CLASSES, p_NC, labels, np.zeros(count, np.int64))
    epochs = []
    for epoch in range(4):
        early_NC = np.exp((0.4 + 0.2 * epoch) * (logits_NC + random.normal(size=logits_NC.shape)))
        early = dataclasses.replace(answers, probabilities_NC=early_NC / early_NC.sum(1, keepdims=True))
        epochs.append(EpochAnswers.of(epoch, early))
    by_epoch = epochs[0]
    for one in epochs[1:]:
        by_epoch = by_epoch.then(one)
    near_NK = np.stack([random.choice(classes, 10, p=0.6 * row_C + 0.4 * np.array(SHARES)) for row_C in p_NC])
    cosines_NK = np.sort(random.uniform(0.5, 0.9, near_NK.shape), axis=1)[:, ::-1]
    nearby = Nearby(tuple((f"n{row}",) * 10 for row in range(count)), near_NK.astype(np.int64), cosines_NK)
    members_MNC = np.stack([p_NC, 0.9 * p_NC + 0.1 / classes])
    return Evidence(answers, members_MNC, by_epoch, nearby), wrong_N


def precision(score_N: NDArray[np.float64], wrong_N: NDArray[np.bool_]) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(wrong_N, score_N))


@pytest.mark.parametrize("way", ["uniform", "confused"])
def test_wrong_labels_are_found_better_than_by_any_of_cleanlabs_scores(way: str) -> None:
    from cleanlab.rank import get_label_quality_scores

    evidence, wrong_N = world(way, 5)
    answers = evidence.answers
    theirs = [
        precision(-get_label_quality_scores(answers.labels_N, answers.probabilities_NC, method=method), wrong_N)
        for method in ("self_confidence", "normalized_margin", "confidence_weighted_entropy")
    ]
    found = rank(Signals.of(evidence))
    assert precision(found.score_N, wrong_N) > max(theirs)
    # No more than are wrong by much, and not none.
    assert 0.2 * WRONG < found.wrong_N.sum() < 2 * WRONG


def test_the_noise_says_how_labels_went_wrong() -> None:
    shares = {}
    for way in ("uniform", "confused"):
        evidence, _ = world(way, 6)
        noise = Noise.fit(evidence.answers.probabilities_NC, evidence.answers.labels_N)
        np.testing.assert_allclose(noise.transition_CC.sum(1), 1)
        assert (np.diagonal(noise.transition_CC) == 0).all() and 0.02 < noise.rate < 0.12
        shares[way] = noise.shares
    assert shares["uniform"][0] > 0.5 and shares["confused"][2] > 0.5


def ranked(**changes: object) -> Ranking:
    evidence, _ = world("uniform", 7)
    return rank(Signals.of(dataclasses.replace(evidence, **changes)))  # type: ignore[arg-type]


def test_what_a_run_has_not_kept_is_done_without() -> None:
    evidence, wrong_N = world("uniform", 7)
    whole = ranked()
    assert set(whole.weights) == {name for kind, names in NAMES.items() if kind != "near-duplicates" for name in names}
    less = ranked(members_MNC=np.zeros((0, PHOTOS, 6)), by_epoch=None, nearby=None)
    assert set(less.weights).isdisjoint(NAMES["kept epochs"] + NAMES["training"] + NAMES["neighbours"])
    assert precision(less.score_N, wrong_N) > 0.5
    assert len(reasons(less, 0)) == 1 and len(evidence) == PHOTOS


def test_the_order_of_the_photos_changes_nothing() -> None:
    evidence, _ = world("uniform", 8)
    turned_N = np.random.default_rng(0).permutation(PHOTOS)
    assert evidence.by_epoch is not None and evidence.nearby is not None
    nearby = evidence.nearby
    ids = tuple(evidence.answers.ids[row] for row in turned_N)
    turned = Evidence(
        evidence.answers.take(turned_N),
        evidence.members_MNC[:, turned_N],
        evidence.by_epoch.of_ids(ids),
        Nearby(tuple(nearby.ids[row] for row in turned_N), nearby.labels_NK[turned_N], nearby.cosines_NK[turned_N]),
    )
    one, two = rank(Signals.of(evidence)), rank(Signals.of(turned))
    np.testing.assert_allclose(two.score_N, one.score_N[turned_N], atol=1e-3)
    first = [found.evidence.answers.ids[row] for found in (one, two) for row in found.order_N[:20]]
    assert first[:20] == first[20:]


def test_a_near_duplicate_under_another_label_speaks_against_it() -> None:
    evidence, wrong_N = world("uniform", 9)
    label_N = evidence.answers.labels_N
    random = np.random.default_rng(1)
    right = [row for row in range(PHOTOS) if not wrong_N[row]]
    twins = [()] * PHOTOS
    for row in random.choice(right, 200, replace=False):
        twins[row] = (int(label_N[row]),)
    accused = int(random.choice([row for row in right if not twins[row]]))
    place = {}
    for name, of_it in (("without", ()), ("with", (int(label_N[accused] + 1) % 6,))):
        twins[accused] = of_it
        found = rank(Signals.of(evidence, tuple(twins)))
        place[name] = [*found.order_N].index(accused)
    assert place["with"] < place["without"]


def test_a_suspect_has_its_reasons_in_words() -> None:
    found = ranked()
    said = reasons(found, int(found.order_N[0]))
    assert said[0].startswith("held out, it was taken for ")
    assert any(line.startswith("learnt in none of 4 epochs") for line in said)
    assert any(" of 10 neighbours are " in line for line in said)
    suggestions = found.suggested(int(found.order_N[0]))
    assert len(suggestions) == 3 and suggestions[0][1] >= suggestions[1][1]


def test_of_one_class_nothing_can_be_said() -> None:
    answers = LabelledPredictions(("x", "y"), ("a",), np.ones((2, 1)), ("a", "a"), np.zeros(2, np.int64))
    found = rank(Signals.of(Evidence(answers, np.zeros((0, 2, 1)))))
    assert found.score_N.tolist() == [0, 0] and found.suggested(0) == []
