"""`engine score`: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from engine.cli.main import main
from engine.predictions import Predictions


def engine(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """new.parquet, which knows its labels, a worse old.parquet, and truth.csv with senders."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), 300)
    names = ("cat", "dog", "eel")
    labels = [names[min(c, 2)] for c in (rng.random((300, 1)) > p.cumsum(1)).sum(1)]
    ids = tuple(f"{n:03}" for n in range(300))
    Predictions(ids, names, p).labelled(labels).write(tmp_path / "new.parquet")
    flat = p**0.3 / (p**0.3).sum(1, keepdims=True)
    Predictions(ids, names, flat).write(tmp_path / "old.parquet")
    rows = "".join(f"{id_},s{n % 30},{label}\n" for n, (id_, label) in enumerate(zip(ids, labels, strict=True)))
    (tmp_path / "truth.csv").write_text(f"id,sender,label\n{rows}")
    return tmp_path


def test_scores_come_with_intervals_and_the_calibration_error_with_that_of_chance(files: Path) -> None:
    result = engine("score", files / "new.parquet")
    assert result.exit_code == 0, result.output
    assert "300 labelled images" in result.stdout
    assert "log loss" in result.stdout and " to 0." in result.stdout
    assert "calibration error of a calibrated answer of these confidences: 0.0" in result.stdout
    assert "brier = reliability" in result.stdout
    assert "precision" not in result.stdout and "against" not in result.stdout


def test_classes_groups_and_a_comparison_on_request(files: Path) -> None:
    options = ("--group", "sender", "--per-class", "--against", files / "old.parquet", "--json", files / "s.json")
    result = engine("score", files / "new.parquet", files / "truth.csv", *options)
    assert result.exit_code == 0, result.output
    assert "300 labelled images, drawn by 30 groups" in result.stdout
    assert "20 of 30 groups, those with the most errors first" in result.stdout
    assert "3 classes, by F1, the worst first" in result.stdout and "precision" in result.stdout
    said = next(line for line in result.stdout.splitlines() if line.startswith("  log loss"))
    assert ", better (-" in said and "95% interval -" in said
    assert "  accuracy" in result.stdout and "not told apart" in result.stdout
    content = json.loads((files / "s.json").read_text())
    assert content["against"]["log_loss"]["verdict"] == "better"
    assert set(content["per_group"]) == {f"s{n}" for n in range(30)}
    assert content["per_class"]["cat"]["support"] > 50
    assert content["intervals"]["log_loss"]["low"] < content["metrics"]["log_loss"]


def test_a_submission_that_fits_is_told_from_one_that_does_not(tmp_path: Path) -> None:
    (tmp_path / "sample.csv").write_text("id,label\n1,0\n2,0\n")
    (tmp_path / "train.csv").write_text("id,label\n7,cat\n8,dog\n")
    (tmp_path / "good.csv").write_text("id,label\n1,cat\n2,dog\n")
    (tmp_path / "bad.csv").write_text("id,label\n1,fox\n3,dog\n")
    known = ("--known", tmp_path / "train.csv")
    result = engine("score", "--check", tmp_path / "good.csv", tmp_path / "sample.csv", *known)
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path}/good.csv: fits {tmp_path}/sample.csv\n")
    result = engine("score", "--check", tmp_path / "bad.csv", tmp_path / "sample.csv", *known)
    assert result.exit_code == 1
    assert [line.removeprefix(f"{tmp_path}/bad.csv: ") for line in result.stdout.splitlines()] == [
        "1 id missing: '2'",
        "1 id that the sample does not ask for: '3'",
        "1 label that nobody knows: 'fox'; known are 'cat', 'dog'",
    ]
    assert "does not fit" in result.stderr and "3 findings" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--check", "new.parquet"), "--check needs the sample"),
        (("new.parquet", "--group", "sender"), "name columns of TRUTH, which is not given"),
    ],
)
def test_options_that_lack_a_file_are_refused(files: Path, arguments: tuple[str, ...], words: str) -> None:
    result = engine("score", *(files / name if "." in name else name for name in arguments))
    assert result.exit_code == 2 and words in result.output


def test_a_file_that_cannot_be_scored_is_named(files: Path) -> None:
    result = engine("score", files / "old.parquet")
    assert result.exit_code == 1 and "old.parquet: holds no labels; give a table that does as TRUTH" in result.stderr
