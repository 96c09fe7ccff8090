"""Training uses what cleaning found, says so, and keeps the names with the model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from engine.errors import RecipeError
from engine.predict.job import prepare as prepare_prediction
from engine.predict.models import Wishes
from engine.predict.run import answer
from engine.predict.writing import write
from engine.store import checkpoint
from engine.store.run_folder import RunFolder

LATIN = {"고리": "ring", "네모": "square", "세모": "triangle"}


@pytest.fixture
def untidy(shapes: Path, tmp_path: Path) -> Path:
    """A folder with a file twice, one under two labels and one cut short."""
    folder = tmp_path / "untidy"
    shutil.copytree(shapes, folder, ignore=shutil.ignore_patterns(".engine"))
    shutil.copy(folder / "고리" / "고리_00.jpg", folder / "고리" / "고리_00_twice.jpg")
    shutil.copy(folder / "고리" / "고리_01.jpg", folder / "네모" / "wrong.jpg")
    cut = folder / "세모" / "세모_00.jpg"
    cut.write_bytes(cut.read_bytes()[:-100])
    return folder


def test_only_clean_images_are_trained_on_and_the_rest_is_told(
    recipe: Callable[..., Any], run: Callable[..., Any], untidy: Path
) -> None:
    result, diary = run(recipe(data={"train": str(untidy), "folds": {"run": [0, 1], "near_duplicates": "apart"}}))
    answered = set(pq.read_table(result.folder / "oof.parquet")["id"].to_pylist())
    everything = {f"{name}/{name}_{i:02d}.jpg" for name in LATIN for i in range(16)}
    assert answered == everything - {"고리/고리_01.jpg", "세모/세모_00.jpg"}
    told = "\n".join(diary.notices)
    assert "1 exact duplicate collapsed" in told
    assert "2 files with equal content and different labels left out" in told
    assert f"left out: {untidy / '세모' / '세모_00.jpg'}: cannot be decoded" in told


def test_a_model_keeps_its_label_table_and_answers_under_every_name(
    recipe: Callable[..., Any], run: Callable[..., Any], shapes: Path, tmp_path: Path
) -> None:
    table = tmp_path / "names.csv"
    table.write_text("label,name\n" + "".join(f"{k},{v}\n" for k, v in LATIN.items()), encoding="utf-8")
    sample = tmp_path / "sample_submission.csv"
    ids = [f"{name}/{name}_00.jpg" for name in LATIN]
    sample.write_text("ID,고리,네모,세모\n" + "".join(f"{id_},0,0,0\n" for id_ in ids), encoding="utf-8")
    data = {"label_table": str(table), "aliases": [["ring", "square"]], "test": str(shapes)}
    groups = {"class_groups": [["round or square", "ring"], ["pointed", "tri*"]]}
    result, diary = run(recipe(data=data | groups | {"sample_submission": str(sample)}))
    assert "3 labels are 2 classes" in diary.notices
    assert result.metrics["group_accuracy"] == result.metrics["accuracy"]  # here a class is a group
    table.unlink()
    (saved,) = (checkpoint.load(member.path) for member in RunFolder(result.folder).members())
    assert saved.classes == ("ring", "triangle")
    job = prepare_prediction(result.folder, Wishes())
    outcome = answer(job, torch.device("cpu"))
    assert outcome.scores is not None and outcome.scores.images == 48 and not outcome.scores.unknown
    write(job, outcome, tmp_path / "answers")
    lines = (tmp_path / "answers" / "submission.csv").read_text("utf-8").splitlines()
    assert lines[0] == "ID,고리,네모,세모" and len(lines) == 4
    for line in lines[1:]:
        ring, square, triangle = map(float, line.split(",")[1:])
        assert ring == square and ring + square + triangle == pytest.approx(1, abs=1e-6)


def test_everything_can_be_trained_on(recipe: Callable[..., Any], run: Callable[..., Any], shapes: Path) -> None:
    result, diary = run(recipe(data={"folds": {"count": 1, "run": []}}))
    (saved,) = (checkpoint.load(member.path) for member in RunFolder(result.folder).members())
    assert sum(saved.class_counts) == 48
    assert result.metrics == {} and all(record.metrics == {} for record in diary.records)


def test_a_change_that_touches_no_learning_does_not_stop_a_run_from_going_on(
    recipe: Callable[..., Any], run: Callable[..., Any]
) -> None:
    run(recipe())
    again, _ = run(recipe(data={"alias_columns": "each"}))
    assert again.already_finished
    with pytest.raises(RecipeError, match=r"data\.near_bits: 24 -> 5"):
        run(recipe(data={"near_bits": 5}))
