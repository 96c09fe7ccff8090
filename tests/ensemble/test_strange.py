"""Images like nothing in training are told, and of ordinary ones no more than was asked for."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from engine.ensemble.neighbours import search, search_out_of_fold
from engine.ensemble.strange import Kind, Signs, Strange, auroc, choose
from engine.predictions import LabelledPredictions, Predictions, joined
from engine.store.bank import Bank

SIZE, CLASSES = 16, ("bag", "hat", "shoe", "sock")
CENTRES = 3 * np.eye(4, SIZE)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def softmax(z_NC: np.ndarray) -> np.ndarray:
    e_NC = np.exp(z_NC - z_NC.max(1, keepdims=True))
    return e_NC / e_NC.sum(1, keepdims=True)


def bank(seed: int) -> Bank:
    random = np.random.default_rng(seed)
    labels_B = np.arange(120) % 4
    features_BE = unit(CENTRES[labels_B] + 0.5 * random.normal(size=(120, SIZE)))
    return Bank(tuple(f"training {seed} {i}" for i in range(120)), CLASSES, labels_B, features_BE)


def ask(count: int, seed: int, fold: int = 0, strangers: bool = False) -> LabelledPredictions:
    """Images of the classes, or of a kind that lies elsewhere; logits are their likeness to the classes' centres."""
    random = np.random.default_rng(seed)
    labels_N = random.integers(0, 4, count)
    centres_NE = 3 * np.eye(SIZE)[np.full(count, 9)] if strangers else CENTRES[labels_N]
    vectors_NE = centres_NE + 0.5 * random.normal(size=(count, SIZE))
    logits_NC = vectors_NE @ CENTRES.T
    ids = tuple(f"image {fold} {seed} {i}" for i in range(count))
    p_NC = softmax(logits_NC)
    one = Predictions(ids, CLASSES, p_NC, logits_NC=logits_NC, features_NE=unit(vectors_NE))
    return one.labelled([CLASSES[label] for label in labels_N], [fold] * count)


BANKS = {fold: bank(fold) for fold in range(3)}


def signs_of(answers: LabelledPredictions, k: int = 40) -> Signs:
    return Signs.of([answers], search_out_of_fold(answers, BANKS, k))


@pytest.mark.parametrize(("kind", "k"), [("energy", 1), ("distance", 1), ("distance", 10)])
def test_planted_strangers_score_higher(kind: Kind, k: int) -> None:
    known, strangers = (signs_of(ask(200, seed, strangers=bool(seed))).scores(kind, k) for seed in (0, 1))
    assert auroc(known, strangers) > 0.97
    strange = Strange.fit(known, kind, k)
    fresh = strange.apply([signs_of(ask(200, 3))])
    told = strange.apply([signs_of(ask(200, 2, strangers=True))])
    assert fresh.strange_N(0.05).mean() < 0.12 and told.strange_N(0.05).mean() > 0.85
    assert told.columns(0.05)["strange"].to_pylist() == told.strange_N(0.05).tolist()
    np.testing.assert_array_equal(told.columns(0.05)["strangeness"].to_numpy(), told.p_N)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("count", [99, 4000])
def test_the_rate_of_false_alarms_holds_over_random_splits(share: float, count: int) -> None:
    """Scores of one distribution, divided at random into what is fitted on and what is asked, 1,000 times."""
    random = np.random.default_rng(0)
    pool = random.gamma(2.0, size=count + 100)
    nothing = np.zeros((100, 1))
    alarms = []
    for _ in range(1000 if count < 1000 else 200):
        shuffled = random.permutation(pool)
        strange = Strange.fit(shuffled[100:], "energy")
        signs = Signs(tuple(map(str, range(100))), ("x",), nothing + 1, -shuffled[:100, None])  # of one logit
        alarms.append(strange.apply([signs]).strange_N(share).mean())
    error = 4 * np.std(alarms) / np.sqrt(len(alarms))
    assert share - 2 / count - error - 0.005 < np.mean(alarms) < share + error


def test_shares_count_the_ordinary_images_that_are_as_strange() -> None:
    strange = Strange.fit(np.array([3.0, 1.0, 2.0, 2.0]), "energy")
    signs = Signs(tuple("abcd"), ("x",), np.ones((4, 1)), -np.array([[0.0], [2.0], [2.5], [9.0]]))
    np.testing.assert_allclose(strange.p_values(signs), [5 / 5, 4 / 5, 2 / 5, 1 / 5])


def test_of_many_ordinary_images_few_scores_are_kept_and_shares_are_never_too_low() -> None:
    random = np.random.default_rng(0)
    scores_N, asked_M = random.normal(size=20_000), random.normal(size=500)
    strange = Strange.fit(scores_N, "energy")
    assert len(strange.scores) <= 1000
    exact_M = (1 + (scores_N[None] >= asked_M[:, None]).sum(1)) / 20_001
    signs = Signs(tuple(map(str, range(500))), ("x",), np.ones((500, 1)), -asked_M[:, None])
    kept_M = strange.p_values(signs)
    assert (kept_M >= exact_M - 1e-12).all() and (kept_M - exact_M).max() < 0.0025
    rare = exact_M < 0.02
    assert rare.any()
    np.testing.assert_allclose(kept_M[rare], exact_M[rare])


def test_the_better_score_is_chosen_with_each_class_left_out_in_turn() -> None:
    answers = joined([ask(60, 10 + fold, fold) for fold in range(3)])
    choice = choose(answers, signs_of(answers), BANKS, ks=(1, 10))
    assert [row.mean for row in choice.table] == sorted((row.mean for row in choice.table), reverse=True)
    assert {(row.kind, row.k) for row in choice.table} == {
        ("probability", 1), ("energy", 1), ("distance", 1), ("distance", 10)
    }  # fmt: skip
    assert all(set(row.auroc) == set(CLASSES) for row in choice.table)
    best = choice.table[0]
    assert best.mean > 0.9 and (choice.strange.kind, choice.strange.k) == (best.kind, best.k)
    assert choice.strange.auroc == best.auroc and choice.strange.count == len(answers)


def test_of_very_many_images_some_judge_and_all_are_ordinary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.ensemble.strange.JUDGED_BY", 40)
    answers = joined([ask(60, 10 + fold, fold) for fold in range(3)])
    chosen = choose(answers, signs_of(answers), BANKS, ks=(10,))
    assert chosen.strange.count == len(answers)
    assert chosen.table == choose(answers, signs_of(answers), BANKS, ks=(10,)).table  # the same ones each time
    monkeypatch.undo()
    assert chosen.table != choose(answers, signs_of(answers), BANKS, ks=(10,)).table


def test_a_class_that_is_left_out_is_left_out_of_logits_probabilities_and_the_bank() -> None:
    answers = ask(50, 4)
    signs = signs_of(answers, k=120)
    kept = [c for c, name in enumerate(CLASSES) if name != "hat"]
    assert answers.logits_NC is not None
    logits_NC = answers.logits_NC[:, kept]
    np.testing.assert_allclose(signs.scores("energy", without="hat"), -np.log(np.exp(logits_NC).sum(1)))
    np.testing.assert_allclose(signs.scores("probability", without="hat"), 1 - softmax(logits_NC).max(1), atol=1e-12)
    without = search(answers, BANKS[0], 7, without="hat")
    np.testing.assert_array_equal(signs.scores("distance", 7, "hat"), 1 - without.cosines_NK[:, 6])
    few = signs_of(answers, k=8).scores("distance", 7, "hat")
    assert np.isnan(few).any()  # most of a hat's neighbours are hats
    answered = choose(answers, signs_of(answers, k=8), BANKS, ks=(7,)).table
    whole = choose(answers, signs, BANKS, ks=(7,)).table
    assert answered == whole


def test_the_mean_over_folds_is_of_the_same_images_in_any_order() -> None:
    signs = signs_of(ask(30, 1))
    strange = Strange.fit(signs.scores("energy"), "energy")
    order = np.arange(30)[::-1]
    turned = dataclasses.replace(
        signs,
        ids=signs.ids[::-1],
        probabilities_NC=signs.probabilities_NC[order],
        logits_NC=None if signs.logits_NC is None else signs.logits_NC[order],
        found=None,
    )
    one, two = strange.apply([signs]), strange.apply([signs, turned])
    assert two.ids == signs.ids
    np.testing.assert_array_equal(one.p_N, two.p_N)


def test_an_image_alone_scores_as_among_others_to_the_last_bit() -> None:
    answers = ask(70, 6)
    for kind, k in (("probability", 1), ("energy", 1), ("distance", 5)):
        together = signs_of(answers).scores(kind, k)  # type: ignore[arg-type]
        alone = [signs_of(answers.take([row])).scores(kind, k)[0] for row in range(70)]  # type: ignore[arg-type]
        np.testing.assert_array_equal(together, alone)


def test_what_was_not_asked_for_is_not_scored_by() -> None:
    plain = dataclasses.replace(ask(40, 1), logits_NC=None)
    signs = Signs.of([plain, plain])
    assert signs.kinds == ("probability",)
    with pytest.raises(ValueError, match="strangeness by energy needs logits"):
        signs.scores("energy")
    assert choose(plain, signs).strange.kind == "probability"
    with pytest.raises(ValueError, match="there are not two classes"):
        choose(plain.take(np.flatnonzero(plain.labels_N == 1)), signs)


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    known, strangers = np.array([1.0, 2.0, 2.0, 5.0]), np.array([2.0, 6.0])
    pairs = [(s > x) + 0.5 * (s == x) for s in strangers for x in known]
    assert auroc(known, strangers) == pytest.approx(np.mean(pairs))


def test_what_was_fitted_is_saved_as_json() -> None:
    strange = Strange.fit(np.random.default_rng(0).normal(size=1500), "distance", 10, {"모자": 0.9})
    read = Strange.from_dict(json.loads(json.dumps(strange.to_dict())))
    assert dataclasses.asdict(read) == dataclasses.asdict(strange)
    with pytest.raises(ValueError):
        Strange.from_dict(strange.to_dict() | {"kind": "luck"})
