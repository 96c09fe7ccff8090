"""What a fold answered after each epoch, in short."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.errors import DataError
from engine.predictions import LabelledPredictions
from engine.store.epochs import EpochAnswers, add_epoch

CLASSES = ("가방", "p:1", "hat")


def held(ids: tuple[str, ...], p_NC: list[list[float]], labels: tuple[str, ...]) -> LabelledPredictions:
    return LabelledPredictions(ids, CLASSES, np.array(p_NC, dtype=np.float32), labels, np.zeros(len(ids), np.int64))


FIRST = held(("a", "b"), [[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]], ("가방", "p:1"))
SECOND = held(("b", "c"), [[0.1, 0.8, 0.1], [0.2, 0.2, 0.6]], ("p:1", "hat"))


def test_an_epoch_is_what_was_answered_for_the_label_beside_the_likeliest_other_class() -> None:
    one = EpochAnswers.of(3, FIRST)
    assert one.epochs == (3,) and one.classes == CLASSES and one.best_NE.tolist() == [[0], [2]]
    np.testing.assert_allclose(one.own_NE[:, 0], [0.5, 0.2])
    np.testing.assert_allclose(one.margin_NE[:, 0], np.log([0.5 / 0.25, 0.2 / 0.7]), rtol=1e-6)


def test_epochs_are_added_and_read_back_by_id(tmp_path: Path) -> None:
    path = tmp_path / "0" / "epochs.parquet"
    for epoch, answers in enumerate((FIRST, SECOND)):
        add_epoch(path, EpochAnswers.of(epoch, answers))
    found = EpochAnswers.read(path)
    assert found.ids == ("a", "b", "c") and found.epochs == (0, 1)
    np.testing.assert_allclose(found.own_NE, [[0.5, np.nan], [0.2, 0.8], [np.nan, 0.6]])
    assert found.best_NE.tolist() == [[0, -1], [2, 1], [-1, 2]]
    turned = found.of_ids(("c", "x", "a"))
    np.testing.assert_allclose(turned.own_NE, [[np.nan, 0.6], [np.nan] * 2, [0.5, np.nan]])


def test_an_epoch_that_is_trained_again_replaces_itself_and_what_came_after(tmp_path: Path) -> None:
    path = tmp_path / "epochs.parquet"
    for epoch in (0, 1, 2):
        add_epoch(path, EpochAnswers.of(epoch, FIRST))
    add_epoch(path, EpochAnswers.of(1, SECOND))
    found = EpochAnswers.read(path).of_ids(("a", "b"))
    assert found.epochs == (0, 1)
    np.testing.assert_allclose(found.own_NE, [[0.5, np.nan], [0.2, 0.8]])


def test_a_file_that_is_none_is_refused_when_read_and_begun_anew_when_trained(tmp_path: Path) -> None:
    path = tmp_path / "epochs.parquet"
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"epochs\.parquet"):
        EpochAnswers.read(path)
    add_epoch(path, EpochAnswers.of(4, FIRST))
    assert EpochAnswers.read(path).epochs == (4,)
