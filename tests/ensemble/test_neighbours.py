"""The training images nearest to an image in its fold's embedding have a say, as far as that gains."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch

from engine.ensemble import nearest, neighbours
from engine.ensemble.neighbours import (
    Found,
    Neighbours,
    embedded,
    embedding,
    honestly,
    search,
    search_out_of_fold,
)
from engine.metrics import METRICS
from engine.predictions import LabelledPredictions, Predictions, joined
from engine.store.bank import Bank

log_loss = METRICS["log_loss"].function

CLASSES = ("bag", "hat", "shoe")
SIZE = 12
CENTRES = np.eye(3, SIZE)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def bank_of(count: int, seed: int, spread: float = 0.3, name: str = "train") -> Bank:
    """Three clusters, one a class."""
    random = np.random.default_rng(seed)
    labels_B = np.arange(count) % 3
    features_BE = unit(CENTRES[labels_B] + spread * random.normal(size=(count, SIZE)))
    return Bank(tuple(f"{name} {i}" for i in range(count)), CLASSES, labels_B, features_BE)


def asked(count: int, seed: int, fold: int = 0, known: bool = True, spread: float = 0.3) -> LabelledPredictions:
    """Images of the clusters, about which the fold itself has no idea; their features say nothing unless `known`."""
    random = np.random.default_rng(seed)
    labels_N = random.integers(0, 3, count)
    features_NE = unit((CENTRES[labels_N] if known else 0) + spread * random.normal(size=(count, SIZE)))
    p_NC = random.dirichlet(np.full(3, 20.0), count)
    ids = tuple(f"held {fold} {i}" for i in range(count))
    one = Predictions(ids, CLASSES, p_NC, features_NE=features_NE)
    return one.labelled([CLASSES[label] for label in labels_N], [fold] * count)


def brute_force(answers: Predictions, bank: Bank, k: int) -> list[list[tuple[Fraction, int]]]:
    """Cosines as fractions, which no rounding touches; nearest first, of equals the first."""
    rows = [[Fraction(float(x)) for x in row] for row in bank.features_BE]
    assert answers.features_NE is not None
    found = []
    for query in answers.features_NE:
        numbers = [Fraction(float(x)) for x in query]
        cosines = [sum((a * b for a, b in zip(numbers, row, strict=True)), Fraction()) for row in rows]
        found.append(sorted(((c, i) for i, c in enumerate(cosines)), key=lambda one: (-one[0], one[1]))[:k])
    return found


def test_cosines_are_exact_and_of_equally_near_ones_the_first_is_nearer(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = bank_of(40, seed=0)
    bank = dataclasses.replace(bank, features_BE=bank.features_BE[np.arange(40) % 25])  # 15 are there twice
    answers = asked(6, seed=1)
    exact = brute_force(answers, bank, 9)
    monkeypatch.setattr(nearest, "_ROWS", 16)
    found = search(answers, bank, 9)
    for row, best in enumerate(exact):
        assert [Fraction(c) for c in found.cosines_NK[row].tolist()] == [c for c, _ in best]
        assert found.labels_NK[row].tolist() == [bank.labels_B[place] for _, place in best]
        assert found.nearest[row] == bank.ids[best[0][1]]


@pytest.mark.parametrize(("at_once", "rows", "threads"), [(1, 1 << 14, 1), (7, 64, 1), (64, 16, 1), (256, 1024, 2)])
def test_an_answer_is_the_same_to_the_last_bit_however_the_work_is_cut(
    monkeypatch: pytest.MonkeyPatch, at_once: int, rows: int, threads: int
) -> None:
    bank, answers = bank_of(700, seed=2), asked(101, seed=3)
    fitted = Neighbours((5, 50), 7.0, 0.4)
    whole = fitted.apply(answers, search(answers, bank, 50))
    monkeypatch.setattr(nearest, "_AT_ONCE", at_once)
    monkeypatch.setattr(nearest, "_ROWS", rows)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        cut = fitted.apply(answers, search(answers, bank, 50))
        shuffled = np.random.default_rng(0).permutation(101)
        parts = [answers.take(rows_N) for rows_N in np.array_split(shuffled, 9)]
        alone = joined([fitted.apply(part, search(part, bank, 50)) for part in parts]).in_order(answers.ids, CLASSES)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(cut.probabilities_NC, whole.probabilities_NC)
    np.testing.assert_array_equal(alone.probabilities_NC, whole.probabilities_NC)


@pytest.mark.parametrize("spare", [64, 1])
def test_faiss_finds_the_same_to_the_last_bit(monkeypatch: pytest.MonkeyPatch, spare: int) -> None:
    pytest.importorskip("faiss", reason="an extra")
    bank, answers = bank_of(700, seed=2), asked(101, seed=3)
    rows_B = np.concatenate([np.arange(500), np.arange(200)])  # 200 are there twice: float32 cannot say who is first
    bank = dataclasses.replace(bank, features_BE=bank.features_BE[rows_B], labels_B=bank.labels_B[rows_B])
    plain = search(answers, bank, 20)
    monkeypatch.setattr(neighbours, "FAISS_FROM", 0)
    monkeypatch.setattr(nearest, "_SPARE", spare)
    calls = []
    monkeypatch.setattr(
        neighbours, "nearest_by_faiss", lambda *args: calls.append(1) or nearest.nearest_by_faiss(*args)
    )
    for k in (1, 20):
        found = search(answers, bank, k)
        np.testing.assert_array_equal(found.cosines_NK, plain.cosines_NK[:, :k])
        np.testing.assert_array_equal(found.labels_NK, plain.labels_NK[:, :k])
        assert found.nearest == plain.nearest
    assert len(calls) == 2
    whole = [nearest.nearest_of_all, nearest.nearest_by_faiss]
    pair = [torch.from_numpy(np.asarray(x)) for x in (answers.features_NE, bank.features_BE)]
    (place_NK, _), (other_NK, _) = (each(pair[0], pair[1], 20) for each in whole)
    np.testing.assert_array_equal(place_NK, other_NK)


def found_of(labels: Sequence[Sequence[int]], cosines: Sequence[Sequence[float]]) -> Found:
    ids = tuple(f"image {i}" for i in range(len(labels)))
    return Found(ids, CLASSES, np.array(labels), np.array(cosines, dtype=np.float64), ("x",) * len(labels))


def test_votes_are_shares_among_the_nearest_and_may_weigh_by_nearness() -> None:
    found = found_of([[0, 0, 1, 2]], [[0.9, 0.8, 0.8, 0.1]])
    np.testing.assert_allclose(found.votes(CLASSES, [4], 0.0), [[0.5, 0.25, 0.25]])
    np.testing.assert_allclose(found.votes(CLASSES, [2, 4], 0.0), [[0.75, 0.125, 0.125]])
    np.testing.assert_allclose(found.votes(CLASSES[::-1], [1, 99], 0.0), [[0.125, 0.125, 0.75]])
    near = np.exp(5.0 * (np.array([0.9, 0.8, 0.8, 0.1]) - 0.9))
    expected = np.array([near[0] + near[1], near[2], near[3]]) / near.sum()
    np.testing.assert_allclose(found.votes(CLASSES, [4], 5.0), [expected])
    for ks in ([2], [2, 3]):
        own = found.own_shares(["hat"], ks, 5.0).mean(0)
        np.testing.assert_allclose(own, found.votes(CLASSES, ks, 5.0)[:, 1])


def test_neighbours_that_know_more_are_heard_and_it_is_honest() -> None:
    banks = {fold: bank_of(90, seed=fold, name=f"train {fold}") for fold in range(3)}
    answers = joined([asked(60, seed=10 + fold, fold=fold) for fold in range(3)])
    found = search_out_of_fold(answers, banks, 50)
    fitted = Neighbours.fit(answers, found, (5, 50))
    assert fitted.weight > 0.7 and fitted.most in (5, 50)
    before, after = (
        log_loss(one.probabilities_NC, answers.labels_N) for one in (answers, fitted.apply(answers, found))
    )
    honest = honestly(answers, found, (5, 50))
    assert honest.ids == answers.ids and honest.labels == answers.labels
    assert after <= log_loss(honest.probabilities_NC, answers.labels_N) < before / 2


def test_useless_neighbours_have_no_weight_and_change_nothing() -> None:
    banks = {fold: bank_of(90, seed=fold) for fold in range(3)}
    random = np.random.default_rng(0)
    parts = []
    for fold in range(3):
        one = asked(300, seed=20 + fold, fold=fold, known=False)
        p_NC = 0.02 + 0.94 * np.eye(3)[one.labels_N]  # the fold itself knows
        wrong = random.random(300) < 0.04
        p_NC[wrong] = np.roll(p_NC[wrong], 1, axis=1)
        parts.append(dataclasses.replace(one, probabilities_NC=p_NC))
    answers = joined(parts)
    found = search_out_of_fold(answers, banks, 50)
    fitted = Neighbours.fit(answers, found, (5, 50))
    assert fitted.weight < 0.05
    nothing = Neighbours((5,), 0.0, 0.0).apply(answers, found)
    np.testing.assert_array_equal(nothing.probabilities_NC, answers.probabilities_NC)


def test_a_bank_that_holds_what_its_fold_held_out_is_refused() -> None:
    answers = asked(5, seed=1)
    bank = bank_of(9, seed=0)
    with pytest.raises(ValueError, match=r"bank of fold 0 holds .*held 0 3"):
        search_out_of_fold(answers, {0: dataclasses.replace(bank, ids=(*bank.ids[:-1], "held 0 3"))}, 3)


def test_each_fold_is_searched_in_its_own_bank_in_any_order() -> None:
    banks = {fold: bank_of(30, seed=fold, name=f"bank {fold}") for fold in (1, 4)}
    answers = joined([asked(8, seed=fold, fold=fold) for fold in (4, 1)]).take([3, 12, 0, 9])
    found = search_out_of_fold(answers, banks, 3)
    assert found.ids == answers.ids
    assert [name.split(" ")[1] for name in found.nearest] == ["4", "1", "4", "1"]


def test_a_class_may_be_left_out_of_the_bank() -> None:
    found = search(asked(20, seed=5), bank_of(60, seed=6), 10, without="hat")
    assert set(np.unique(found.labels_NK)) == {0, 2}


def test_the_embedding_of_kept_epochs_has_the_mean_of_their_cosines() -> None:
    random = np.random.default_rng(0)
    ids = ("a", "b")
    models = [Predictions(ids, CLASSES, np.full((2, 3), 1 / 3), features_NE=random.normal(size=(2, n))) for n in (5, 7)]
    whole = embedding(models).astype(np.float64)
    own = [one.features_NE / np.linalg.norm(one.features_NE, axis=1, keepdims=True) for one in models]  # type: ignore[operator]
    assert whole.shape == (2, 12)
    assert whole[0] @ whole[1] == pytest.approx(np.mean([x[0] @ x[1] for x in own]), abs=1e-3)
    turned = embedded(models[0], [models[0], models[1].in_order(ids[::-1], CLASSES)])
    np.testing.assert_array_equal(turned.features_NE, embedding(models))
    nothing = dataclasses.replace(models[0], features_NE=np.zeros((2, 4)))
    assert not embedding([nothing]).any()
    with pytest.raises(ValueError, match="without features"):
        embedding([dataclasses.replace(models[0], features_NE=None)])


def test_an_embedding_alone_is_as_among_others_to_the_last_bit() -> None:
    features_NE = np.random.default_rng(0).normal(size=(40, 1283)).astype(np.float32)
    ids = tuple(map(str, range(40)))
    models = [Predictions(ids, CLASSES, np.full((40, 3), 1 / 3), features_NE=features_NE)] * 2
    whole = embedding(models)
    for row in range(40):
        np.testing.assert_array_equal(embedding([one.take([row]) for one in models]), whole[row : row + 1])


def test_embeddings_of_another_size_are_refused() -> None:
    other = dataclasses.replace(bank_of(9, seed=0), features_BE=np.ones((9, 5), np.float16))
    with pytest.raises(ValueError, match=r"12 numbers .* bank of 5"):
        search(asked(2, seed=0), other, 3)


def test_what_was_fitted_is_saved_as_json() -> None:
    fitted = Neighbours((5, 50), 3.0, 0.25)
    assert Neighbours.from_dict(json.loads(json.dumps(fitted.to_dict()))) == fitted
    with pytest.raises(ValueError):
        Neighbours.from_dict(fitted.to_dict() | {"weight": 2.0})
