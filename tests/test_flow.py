"""The quick start, in small, through the command line: draw, train, predict, and look at every file it leaves."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from engine.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
CLASSES, PER_CLASS, TEST_PER_CLASS = 3, 6, 2
SMALL = [
    "stage=[{size=32, batch=6, epochs=1, lr=2e-3}, {size=[40, 48], batch=4, epochs=1, lr=1e-3}]",
    "model.pretrained=false",
    "decode.threads=1",
]


def engine(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def read_csv(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_the_quick_start_from_nothing_to_a_submission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = ["--classes", CLASSES, "--per-class", PER_CLASS, "--test-per-class", TEST_PER_CLASS, "--workers", 1]
    engine("data", "synth", "demo/vehicles", *sizes)
    sets = [word for change in SMALL for word in ("--set", change)]
    recipe = ROOT / "recipes" / "quickstart.toml"
    plan = engine("train", recipe, "--dry-run", *sets)
    assert "32x32" in plan and "40x48" in plan and not Path("demo/models").exists()
    told = engine("train", recipe, *sets)
    assert "log loss of the class shares" in told

    models = Path("demo/models")
    for fold in ("0", "1"):
        files = {path.name for path in (models / fold).iterdir()}
        assert files == {"weights.safetensors", "checkpoint.json", "resume.pt", "oof.parquet", "epochs.parquet"}
    meta = json.loads((models / "0" / "checkpoint.json").read_text("utf-8"))
    classes = meta["classes"]
    assert len(classes) == CLASSES and meta["recipe"]["name"] == "quickstart"
    assert (meta["contract"]["height"], meta["contract"]["width"]) in ((32, 32), (40, 48))
    lines = [json.loads(line) for line in (models / "log.jsonl").read_text("utf-8").splitlines()]
    assert [(line["fold"], line["stage"]) for line in lines] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    held = pq.read_table(models / "oof.parquet")
    assert held.column_names == ["id", "label", "fold", *(f"p:{name}" for name in classes)]
    assert held.num_rows == CLASSES * PER_CLASS == len(set(held["id"].to_pylist()))
    scores = json.loads((models / "scores.json").read_text("utf-8"))
    assert np.isfinite(scores["out_of_fold"]["log_loss"]) and scores["baseline_log_loss"] == pytest.approx(np.log(3))

    truth = ["--truth", "demo/vehicles/test_labels.csv"]
    told = engine("infer", "--tta", 5, "--folds", models, "--out", "demo/answers", "--show", 2, *truth)
    assert "2 models, 5 views" in told and told.count("\nit is ") == 2
    answers = pq.read_table("demo/answers/predictions.parquet")
    columns = ["id", "path", "prediction", "confidence", "status", "label"]
    assert answers.column_names == [*columns, *(f"p:{name}" for name in classes)]
    assert answers.num_rows == CLASSES * TEST_PER_CLASS and set(answers["status"].to_pylist()) == {"ok"}
    probabilities_NC = np.stack([answers[f"p:{name}"].to_numpy() for name in classes], axis=1)
    np.testing.assert_allclose(probabilities_NC.sum(1), 1, atol=1e-5)
    assert answers["prediction"].to_pylist() == [classes[i] for i in probabilities_NC.argmax(1)]

    sample = read_csv(Path("demo/vehicles/sample_submission.csv"))
    submission = read_csv(Path("demo/answers/submission.csv"))
    assert submission[0] == sample[0] and [row[0] for row in submission] == [row[0] for row in sample]
    by_id = dict(zip(answers["id"].to_pylist(), probabilities_NC, strict=True))
    for row in submission[1:]:
        expected = [by_id[row[0]][classes.index(name)] for name in sample[0][1:]]
        np.testing.assert_allclose([float(cell) for cell in row[1:]], expected, atol=1e-5)
    scored = json.loads(Path("demo/answers/scores.json").read_text("utf-8"))
    labels = {row[0]: row[1] for row in read_csv(Path("demo/vehicles/test_labels.csv"))[1:]}
    true = [by_id[i][classes.index(label)] for i, label in labels.items()]
    assert scored["together"]["log_loss"] == pytest.approx(-np.mean(np.log(true)), rel=1e-4)
