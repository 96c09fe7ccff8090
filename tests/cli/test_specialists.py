"""What the commands say about specialists."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from engine.cli.main import main

Shades = Callable[[Path, Mapping[str, int], str], Path]

RECIPE = """\
name = "shades"
output = "{folder}/models"
data = {{ train = "{folder}/photos", cache = "{folder}/cache", folds = {{ count = 2, run = [1] }} }}
model = {{ backbone = "test_convnext", pretrained = false }}
decode.threads = 1
ensemble.calibrate = "off"
stage = [{{ size = 32, batch = 4, epochs = 1, lr = 1e-3 }}]

[[specialist]]
name = "tones"
classes = ["dark", "dim"]

[[specialist]]
name = "is_bright"
classes = ["bright"]
stage = [{{ size = 32, batch = 4, epochs = 3, lr = 1e-3 }}]
"""


@pytest.fixture
def recipe(tmp_path: Path, shades: Shades) -> Path:
    """Eight photos of each of three shades, and a recipe for them."""
    return shades(tmp_path, {"dark": 40, "dim": 90, "bright": 200}, RECIPE)


def engine(*arguments: object) -> Result:
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def rows(text: str) -> list[list[str]]:
    lines = [line.replace("┃", "│").strip("│").split("│") for line in text.splitlines()]
    return [[cell.strip() for cell in line] for line in lines]


def test_a_dry_run_names_them(recipe: Path, tmp_path: Path) -> None:
    text = engine("train", recipe, "--dry-run").stdout
    assert ["tones", "dark, dim", "1", "8", "8"] in rows(text)  # answers, epochs, trained on, held out
    assert ["is_bright", "bright, not bright", "3", "12", "12"] in rows(text)
    assert not (tmp_path / "models").exists()
    assert "specialists, in fold" not in engine("train", recipe, "--dry-run", "--set", "specialist=[]").stdout


def test_training_shows_what_each_changed_and_prediction_whom_it_asked(recipe: Path, tmp_path: Path) -> None:
    told = engine("train", recipe)
    assert told.exit_code == 0, told.output
    table = {row[0]: row for row in rows(told.stdout)}
    assert [len(table[name]) for name in ("main model", "tones", "is_bright")] == [7, 7, 7]
    assert table["log loss"][1] == table["is_bright"][1]  # the score of the run is that after the last one
    assert "tones  fold 1  epoch   1" in told.stderr and told.stderr.startswith("fold 1  epoch   1")

    again = engine("train", recipe)
    assert "is finished" in again.stdout
    assert {row[0]: row for row in rows(again.stdout)}["tones"] == table["tones"]

    asked = engine("infer", "--folds", tmp_path / "models", "--data", tmp_path / "photos").stdout
    for words in ("tones was asked about", "is_bright was asked about", "of 24 images", "without specialists"):
        assert words in asked
