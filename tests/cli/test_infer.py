"""`engine train` and `engine infer` whatever the classes are called."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from engine.cli.main import main
from engine.predictions import LabelledPredictions, Predictions

Shades = Callable[[Path, Mapping[str, int], str], Path]

RECIPE = """\
name = "names"
output = "{folder}/models"
data = {{ train = "{folder}/photos", cache = "{folder}/cache", folds = {{ count = 2 }} }}
model = {{ backbone = "test_convnext", pretrained = false }}
decode.threads = 1
train.keep_last = 2
stage = [{{ size = 32, batch = 4, epochs = 2, lr = 1e-3 }}]

[[specialist]]
name = "look_alikes"
classes = ["id", "label"]
train.keep_last = 0
stage = [{{ size = 32, batch = 4, epochs = 1, lr = 1e-3 }}]
"""
NAMES = {"id": 30, "fold": 120, "label": 220}


def engine(*arguments: object) -> Result:
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def recipe(tmp_path: Path, shades: Shades) -> Path:
    return shades(tmp_path, NAMES, RECIPE)


def test_classes_may_be_called_as_the_columns_of_files_are(recipe: Path, tmp_path: Path) -> None:
    engine("train", recipe)
    models, classes = tmp_path / "models", ("fold", "id", "label")
    held = Predictions.read(models / "oof.parquet")
    assert isinstance(held, LabelledPredictions) and held.classes == classes
    assert sorted(held.ids) == sorted(f"{name}/{i}.jpg" for name in NAMES for i in range(8))
    assert all(id_.startswith(f"{label}/") for id_, label in zip(held.ids, held.labels, strict=True))
    assert sorted(held.fold_N) == [0] * 12 + [1] * 12

    sample = tmp_path / "sample.csv"
    ids = [f"{name}/{i}.jpg" for i in (3, 1) for name in NAMES]
    sample.write_text("ID,label,id,fold\n" + "".join(f"{i},0,0,0\n" for i in ids), "utf-8")
    photos = ["--data", tmp_path / "photos", "--set", f"data.sample_submission={sample}"]
    engine("infer", "--folds", models, "--tta", 2, *photos)
    answered = Predictions.read(models / "predictions" / "predictions.parquet")
    assert isinstance(answered, LabelledPredictions) and answered.classes == classes
    assert sorted(answered.ids) == sorted(held.ids)
    with (models / "predictions" / "submission.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["ID", "label", "id", "fold"] and [row[0] for row in rows] == ids
    expected = answered.to_pandas()
    for id_, *cells in rows:
        assert [float(cell) for cell in cells] == pytest.approx(expected.loc[id_, header[1:]].tolist(), abs=1e-6)
