"""Files are joined, scored honestly, and written in the form that is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.ensemble.vote import vote
from engine.errors import DataError, RecipeError
from engine.predict.voting import Ballot, check_place, vote_files, write_answer
from engine.predictions import LabelledPredictions, Predictions

CLASSES = ("ant", "bee", "cow")


def answers(seed: int, skill: float, samples: int = 90, first: int = 0) -> LabelledPredictions:
    random = np.random.default_rng(seed)
    labels_N = np.arange(samples) % 3
    logits_NC = random.normal(size=(samples, 3)) + skill * np.eye(3)[labels_N]
    p_NC = np.exp(logits_NC) / np.exp(logits_NC).sum(1, keepdims=True)
    ids = tuple(f"{first + i}.jpg" for i in range(samples))
    return Predictions(ids, CLASSES, p_NC).labelled([CLASSES[label] for label in labels_N])


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    one, other = answers(1, 1.6), answers(2, 2)
    one.write(tmp_path / "one.parquet")
    plain = Predictions(other.ids, other.classes, other.probabilities_NC)
    plain.in_order(plain.ids[::-1], ("cow", "ant", "bee")).write_csv(tmp_path / "other.csv")
    return tmp_path / "one.parquet", tmp_path / "other.csv"


def test_files_vote_as_their_predictions_do(files: tuple[Path, Path]) -> None:
    for rule in ("soft", "logit", "hard"):
        voted = vote_files(Ballot(files, weights=(2, 1), rule=rule))  # type: ignore[arg-type]
        expected = vote([answers(1, 1.6), answers(2, 2)], rule, [2, 1])  # type: ignore[arg-type]
        assert voted.answer.ids == expected.ids
        np.testing.assert_allclose(voted.answer.probabilities_NC, expected.probabilities_NC, atol=1e-6)
        assert voted.scored is not None and voted.scored.in_sample is None


@pytest.mark.parametrize("how", ["fit", "select", "logistic"])
def test_what_is_fitted_is_scored_by_samples_that_it_was_not_fitted_on(files: tuple[Path, Path], how: str) -> None:
    scored = vote_files(Ballot(files, how)).scored  # type: ignore[arg-type]
    assert scored is not None and scored.together is not None and scored.in_sample is not None
    assert scored.best.endswith("other.csv") and scored.difference is not None
    assert scored.in_sample["log_loss"] <= min(each["log_loss"] for each in scored.alone.values()) + 0.01
    assert scored.together["log_loss"] > scored.in_sample["log_loss"]
    assert scored.difference.second == pytest.approx(scored.together["log_loss"])


def test_what_was_fitted_on_other_files_is_applied_to_these(files: tuple[Path, Path], tmp_path: Path) -> None:
    new = tmp_path / "new.parquet", tmp_path / "newer.parquet"
    for path, one in zip(new, (answers(3, 1, first=500), answers(4, 2, first=500)), strict=True):
        Predictions(one.ids, one.classes, one.probabilities_NC).write(path)
    here, there = vote_files(Ballot(files, "fit")), vote_files(Ballot(new, "fit", fit_on=files))
    assert there.join.weights == pytest.approx(here.join.weights)
    assert there.scored is None and there.answer.ids[0] == "500.jpg"
    with pytest.raises(RecipeError, match="1 files for 2 that vote"):
        vote_files(Ballot(new, "fit", fit_on=files[:1]))
    told = vote_files(Ballot(files, "fit", fit_on=files)).notices
    assert any("90 samples that are scored were fitted on" in notice for notice in told)


def test_nothing_is_fitted_without_labels_and_truth_gives_them(files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no labels are known: give --truth"):
        vote_files(Ballot(files[1:], "fit"))
    truth = tmp_path / "truth.csv"
    truth.write_text("id,label\n" + "".join(f"{i},{CLASSES[i % 3]}\n" for i in range(90)), encoding="utf-8")
    scored = vote_files(Ballot(files[1:], truth=truth)).scored
    assert scored is not None and scored.images == 90


@pytest.mark.parametrize(
    ("ballot", "told"),
    [
        ({"weights": (1.0,)}, "--weights: expected 2 weights"),
        ({"how": "fit", "rule": "median"}, "nothing to fit for --vote median"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(files: tuple[Path, Path], ballot: dict[str, object], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        vote_files(Ballot(files, **ballot))  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="named twice"):
        vote_files(Ballot((files[0], files[0])))


def test_the_answer_is_written_as_its_name_says_and_in_a_samples_shape(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    voted = vote_files(Ballot(files))
    parquet, table, sheet, sample = (tmp_path / name for name in ("a.parquet", "a.csv", "s.csv", "sample.csv"))
    write_answer(voted, parquet)
    write_answer(voted, table)
    for read in (Predictions.read(parquet), Predictions.read_csv(table)):
        np.testing.assert_allclose(read.probabilities_NC, voted.answer.probabilities_NC, atol=1e-7)
    assert Predictions.read_about(parquet)["join"]["rule"] == "soft"
    sample.write_text("ID,target\n2,ant\n0,ant\n", encoding="utf-8")
    told = write_answer(voted, sheet, sample)
    row_of = {id_: row for row, id_ in enumerate(voted.answer.ids)}
    expected = [voted.answer.answers[row_of[f"{i}.jpg"]] for i in (2, 0)]
    assert sheet.read_text("utf-8") == f"ID,target\n2,{expected[0]}\n0,{expected[1]}\n"
    assert "88 samples are not asked for" in told[-1]


def test_a_place_for_the_answer_that_will_not_do_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    for out, sample, told in (
        (tmp_path / "a.txt", None, "call it .parquet or .csv"),
        (files[1], None, "is one of the files that are read"),
        (tmp_path / "a.parquet", files[1], "is .csv"),
        (None, files[1], "add --out"),
    ):
        with pytest.raises(RecipeError, match=told):
            check_place(out, files, sample)
