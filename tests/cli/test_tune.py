"""`engine lr-find`, `engine compare` and `engine sweep`: what they print, write and refuse."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from engine.cli.main import main
from engine.cli.screen import Screen
from engine.events import Event, ImagesDone
from engine.recipe.load import load_recipe

Shades = Callable[[Path, Mapping[str, int], str], Path]

RECIPE = """\
name = "shades"
output = "{folder}/models"
data = {{ train = "{folder}/photos", cache = "{folder}/cache", folds = {{ count = 2, run = [1] }} }}
model = {{ backbone = "test_convnext", pretrained = false }}
decode.threads = 1

[[stage]]
size = 32
batch = 4
epochs = 2
lr = 1e-3

[[stage]]
size = 32
batch = 8
epochs = 1
lr = 1e-3
"""


@pytest.fixture
def recipe(tmp_path: Path, shades: Shades) -> Path:
    """Sixteen photos, dark and bright, and a recipe for them."""
    return shades(tmp_path, {"어두운": 60, "bright": 180}, RECIPE)


def engine(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def test_lr_find_writes_a_curve_and_prints_what_to_set(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "rates"
    options = ("--low", "1e-4", "--high", "1", "--steps", "30", "--out", out, "--set", "train.head_lr_multiplier=5.0")
    result = engine("lr-find", recipe, *options)
    assert result.exit_code == 0
    assert {path.name for path in out.iterdir()} == {"curve.csv", "curve.json", "curve.png"}
    assert Image.open(out / "curve.png").size > (600, 400)
    curve = json.loads((out / "curve.json").read_text("utf-8"))
    lines = list(csv.DictReader((out / "curve.csv").open(encoding="utf-8")))
    assert len(lines) == len(curve["lr"]) == len(curve["smoothed"]) <= 30
    assert curve["rule"] in result.stdout and "5 times" in result.stdout
    (advice,) = [line for line in result.stdout.splitlines() if line.startswith("Use it with: ")]
    setting = advice.removeprefix("Use it with: --set ")
    assert load_recipe(recipe, [setting]).stage[0].lr == pytest.approx(curve["suggested_lr"], rel=0.05)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--stage", "2"), "stages are 0 to 1"),
        (("--low", "1", "--high", "0.1"), "first rate below the last"),
        (("--set", "stage.0.epoch=3"), "did you mean stage.0.epochs?"),
    ],
)
def test_lr_find_refuses_what_it_cannot_do(recipe: Path, options: tuple[str, ...], word: str) -> None:
    result = engine("lr-find", recipe, *options)
    assert result.exit_code == 2 and word in result.stderr


def test_compare_prints_a_table_and_trains_nothing_twice(recipe: Path, tmp_path: Path) -> None:
    """The one test with a real child process of this command."""
    out = tmp_path / "compared"
    command = ("compare", recipe, "--frozen", "--epochs", "1", "--size", "36x48", "--out", out, "--backbones")
    result = engine(*command, "test_convnext,test_vit")
    assert result.exit_code == 0, result.output
    assert "test_convnext" in result.stdout and "head only" in result.stdout
    assert "test_vit failed: stage.0.size = [36, 48]" in result.stdout
    lines = list(csv.DictReader((out / "compare.csv").open(encoding="utf-8")))
    assert [line["backbone"] for line in lines] == ["test_convnext", "test_vit"]
    trained = json.loads((out / "test_convnext" / "run.json").read_text("utf-8"))["recipe"]
    (stage,) = trained["stage"]
    assert (stage["size"], stage["epochs"], stage["head_only"]) == ([36, 48], 1, 1)
    assert trained["data"]["folds"]["run"] == [1]
    assert 0.1 < float(lines[0]["host_gib"]) < 64 and float(lines[0]["train_images_per_second"]) > 0
    before = (out / "test_convnext" / "log.jsonl").stat().st_mtime_ns
    again = engine(*command, "test_convnext,test_vit")
    assert again.stdout == result.stdout
    assert (out / "test_convnext" / "log.jsonl").stat().st_mtime_ns == before
    assert "fold 1" in result.stderr and "fold 1" not in again.stderr
    assert not (tmp_path / "models").exists()


def test_compare_names_unknown_backbones_first_and_fails_when_none_is_left(recipe: Path, tmp_path: Path) -> None:
    result = engine("compare", recipe, "--backbones", "test_convnext,test_vitt", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "nearest: test_vit" in result.stderr
    assert not (tmp_path / "out").exists()
    result = engine("compare", recipe, "--backbones", "test_vit", "--size", "36", "--out", tmp_path / "out")
    assert result.exit_code == 1 and "none of the backbones" in result.stderr
    result = engine("compare", recipe, "--backbones", "test_vit", "--size", "36xx", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "HEIGHTxWIDTH" in result.stderr


def test_sweep_prints_its_trials_and_the_best(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "swept"
    sets = ("--set", "stage.*.epochs=1")
    over = ("--over", "stage.*.lr=log:1e-4..1e-2", "--over", "train.ema=0.0|0.9")
    result = engine("sweep", recipe, *sets, *over, "--trials", "2", "--metric", "accuracy", "--out", out)
    assert result.exit_code == 0, result.output
    assert "2 trials on fold 0" in result.stdout and "trial 0 of 2: stage.*.lr=" in result.stderr
    best = load_recipe(out / "best.toml")
    assert best.train.select == "accuracy" and best.stage[0].epochs == 1
    assert f"'stage.*.lr={best.stage[1].lr!r}'" in result.stdout
    assert Path(best.output) == tmp_path / "models"  # training it is another run than the sweep's


@pytest.mark.parametrize(
    ("over", "word"),
    [
        ("train.emma=0.9|0.99", "did you mean train.ema"),
        ("train.ema=0.9", "one fixed value"),
        ("train.ema=2..3", "2.0"),
    ],
)
def test_sweep_checks_its_space_before_anything_is_trained(recipe: Path, tmp_path: Path, over: str, word: str) -> None:
    result = engine("sweep", recipe, "--over", over, "--out", tmp_path / "swept")
    assert result.exit_code == 2 and word in result.stderr
    assert not (tmp_path / "swept").exists()


def test_sweep_without_optuna_names_the_extra(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    result = engine("sweep", recipe, "--over", "train.ema=0.9|0.99")
    assert result.exit_code == 1 and "pip install optuna" in result.stderr


def test_sigterm_stops_a_sweep_and_the_same_command_goes_on(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("sweep", recipe, "--out", tmp_path / "swept", "--over", "stage.0.lr=log:1e-4..1e-2", "--trials", "1")

    def kill(_: Screen, event: Event) -> None:
        if isinstance(event, ImagesDone):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Screen, "hear", kill)
        stopped = engine(*command)
    assert stopped.exit_code == 3 and "the same command goes on" in stopped.stderr
    finished = engine(*command)
    assert finished.exit_code == 0 and "trial 0 of 1 goes on" in finished.stderr
