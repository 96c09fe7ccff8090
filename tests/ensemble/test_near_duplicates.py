"""A copy of a training image is told, and an image that is merely of the same kind is not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from engine.ensemble.near_duplicates import near_duplicates
from engine.ensemble.neighbours import Found, search
from engine.predictions import Predictions
from engine.store.bank import Bank

SIZE, FOLDS, IMAGES = 32, 5, 200
RANDOM = np.random.default_rng(0)
CENTRES = RANDOM.normal(size=(4, SIZE))
TRAINING = CENTRES[np.arange(IMAGES) % 4] + 0.6 * RANDOM.normal(size=(IMAGES, SIZE))


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def found_by_all(features_NE: np.ndarray, folds: int = FOLDS, k: int = 10) -> list[Found]:
    """What is found by folds each of which was trained on all images but its own, in an embedding of its own."""
    names = tuple(f"test {i}" for i in range(len(features_NE)))
    found = []
    for fold in range(folds):
        turn, _ = np.linalg.qr(np.random.default_rng(fold).normal(size=(SIZE, SIZE)))
        rows = [row for row in range(IMAGES) if row // 4 % folds != fold]
        ids = tuple(f"training {row}" for row in rows)
        bank = Bank(ids, ("a", "b", "c", "d"), np.array(rows) % 4, unit(TRAINING[rows] @ turn))
        p_NC = np.full((len(names), 4), 0.25)
        found.append(search(Predictions(names, bank.classes, p_NC, features_NE=unit(features_NE @ turn)), bank, k))
    return found


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_copies_are_told_and_others_are_not(folds: int) -> None:
    random = np.random.default_rng(1)
    copied = random.choice(IMAGES, 40, replace=False)
    copies = TRAINING[copied] + 0.1 * random.normal(size=(40, SIZE))
    others = CENTRES[np.arange(400) % 4] + 0.6 * random.normal(size=(400, SIZE))
    near = near_duplicates(found_by_all(np.concatenate([copies, others]), folds))
    assert near.training[:40] == tuple(f"training {row}" for row in copied)
    assert not any(near.training[40:])
    assert near.cosine_N[:40].min() > 0.9 and np.isnan(near.cosine_N[40:]).all()
    assert near.columns["near"].to_pylist() == list(near.training)
    assert near.told.startswith("40 images are near-duplicates of training images, such as test ")


def test_a_copy_of_what_is_there_several_times_is_told_still() -> None:
    found = found_by_all(TRAINING[4:5], k=12)[0]
    distance = np.concatenate([[0.01, 0.012, 0.015], np.linspace(0.3, 0.4, 9)])
    several = dataclasses.replace(found, cosines_NK=1 - distance[None])
    assert near_duplicates([several]).training == (found.nearest[0],)


def test_one_is_told_in_the_singular_and_none_not_at_all() -> None:
    found = found_by_all(np.concatenate([TRAINING[:1], CENTRES[:3]]))
    told = near_duplicates(found).told
    assert told == "1 image is a near-duplicate of a training image, such as test 0 of training 0"
    assert near_duplicates([one.of(["test 2"]) for one in found]).told == ""


def test_of_too_few_neighbours_nothing_is_said() -> None:
    assert near_duplicates(found_by_all(TRAINING[:3], k=9)).training == ("",) * 3


def test_folds_may_list_the_images_in_any_order() -> None:
    found = found_by_all(TRAINING[:6])
    turned = [found[0], *(one.of(one.ids[::-1]) for one in found[1:])]
    assert near_duplicates(turned).training == near_duplicates(found).training
