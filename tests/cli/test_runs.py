"""`engine runs` and `engine train` together: what a person sees of past runs, and in TensorBoard."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from engine.cli.main import main
from engine.errors import Interrupted
from engine.training.trainer import FoldTrainer

Shades = Callable[[Path, Mapping[str, int], str], Path]

RECIPE = """\
name = "명암"
output = "{folder}/models/a"
data = {{ train = "{folder}/photos", cache = "{folder}/cache", folds = {{ count = 2, run = [1] }} }}
model = {{ backbone = "test_convnext", pretrained = false }}
decode.threads = 1

[[stage]]
size = 32
batch = 4
epochs = 2
lr = 1e-3
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, shades: Shades) -> Path:
    """Sixteen photos and a recipe for them."""
    return shades(tmp_path_factory.mktemp("runs"), {"어두운": 40, "bright": 200}, RECIPE)


def invoke(*arguments: str) -> Result:
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def steps(models: Path) -> list[int]:
    events = EventAccumulator(str(models / "tensorboard" / "1"), size_guidance={"scalars": 0}).Reload()
    return [event.step for event in events.Scalars("valid/log_loss")]


@pytest.fixture(scope="module")
def models(recipe: Path) -> Path:
    """Two runs: one that was interrupted after an epoch and went on, one that was not finished."""
    save, saved = FoldTrainer._save, []

    def stop(self: FoldTrainer, *arguments: object) -> None:
        save(self, *arguments)  # type: ignore[arg-type]
        saved.append(1)
        raise Interrupted("stopped")

    for output in ("models/a", "models/b"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(FoldTrainer, "_save", stop)
            changes = ["--set", f"output={recipe.parent / output}"] + (
                ["--set", "stage.0.lr=2e-3"] if "b" in output else []
            )
            assert invoke("train", str(recipe), *changes).exit_code == 3
        assert steps(recipe.parent / output) == [0]
    assert invoke("train", str(recipe)).exit_code == 0
    return recipe.parent / "models"


def test_a_run_that_went_on_shows_each_epoch_once_and_overwriting_begins_anew(recipe: Path, models: Path) -> None:
    assert steps(models / "a") == [0, 1]
    assert invoke("train", str(recipe)).exit_code == 0  # finished: nothing is added
    assert steps(models / "a") == [0, 1]
    options = ["--set", f"output={recipe.parent / 'other'}", "--set", "stage.0.epochs=1"]
    for _ in range(2):
        assert invoke("train", str(recipe), *options, "--overwrite").exit_code == 0
        assert steps(recipe.parent / "other") == [0]


def test_trackers_may_be_chosen_anew_for_a_finished_run(recipe: Path, models: Path) -> None:
    result = invoke("train", str(recipe), "--set", "track.tensorboard=false")
    assert result.exit_code == 0 and "is finished" in result.stdout


def test_the_table_shows_scores_and_what_differs(models: Path) -> None:
    result = invoke("runs", str(models), "--sort", "log_loss")
    assert result.exit_code == 0
    head, *rows = result.stdout.splitlines()
    assert head.split()[-1] == "stage.0.lr" and "log loss" in head and "seed" not in head
    finished, unfinished = sorted(rows[:2], key=lambda row: "*" in row)
    assert "waited" in head and "% " in finished
    assert "명암" in finished and " 1/1 " in finished and finished.rstrip().endswith("0.001")
    assert " 0/1 " in unfinished and " 1/2 " in unfinished and unfinished.count("*") == 3
    assert "not finished" in result.stdout
    columns = [
        cell_len(line[: line.index(word)]) for line, word in zip([head, finished], ("folds", "1/1"), strict=True)
    ]
    assert columns[1] - columns[0] == len("folds") - len("1/1")  # under each other, though Hangul is twice as wide


def test_many_differing_keys_are_listed_below(models: Path, recipe: Path, tmp_path: Path) -> None:
    about = json.loads((models / "a" / "run.json").read_text("utf-8"))
    for i in range(3):
        about["recipe"]["seed"] = i % 2
        about["recipe"]["train"] |= dict.fromkeys(("ema", "clip", "momentum", "label_smoothing"), 0.1 * (i % 2))
        about["recipe"]["model"] |= {
            "dropout": 0.1 * (i % 2),
            "scale": 1.0 + i,
            "subcenters": 1 + i,
            "pretrained": i == 1,
        }
        (tmp_path / str(f"r{i}")).mkdir()
        (tmp_path / f"r{i}" / "run.json").write_text(json.dumps(about), "utf-8")
    lines = invoke("runs", str(tmp_path), "--sort", "name").stdout.splitlines()
    assert "model.dropout" not in lines[0]
    usual = lines[lines.index("usual values of the keys that differ") :]
    assert "  model.dropout: 0" in usual
    (second,) = [i for i, line in enumerate(usual) if line.endswith("r1)")]
    assert "  seed: 1" in usual[second:] and "  model.pretrained: True" in usual[second:]


def test_csv_and_json_hold_the_numbers(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "runs.csv"
    assert invoke("runs", str(models), "--csv", str(file)).stdout.strip() == f"{file}: 2 runs"
    with file.open(encoding="utf-8") as opened:
        rows = {Path(row["folder"]).name: row for row in csv.DictReader(opened)}
    assert rows["a"]["finished"] == "True" and rows["b"]["finished"] == "False"
    assert (rows["a"]["stage.0.lr"], rows["b"]["stage.0.lr"]) == ("0.001", "0.002")
    found = {Path(run["folder"]).name: run for run in json.loads(invoke("runs", str(models), "--json").stdout)}
    assert 0 <= float(rows["a"]["waited"]) < 1
    scores = json.loads((models / "a" / "scores.json").read_text("utf-8"))
    assert found["a"]["log_loss"] == scores["out_of_fold"]["log_loss"]
    assert found["b"]["differs"] == {"stage.0.lr": 0.002} and found["b"]["name"] == "명암"


def test_no_run_is_no_error_and_a_wrong_folder_is(tmp_path: Path) -> None:
    assert "There is no run in" in invoke("runs", str(tmp_path)).stdout
    assert json.loads(invoke("runs", str(tmp_path), "--json").stdout) == []
    wrong = invoke("runs", str(tmp_path / "none"))
    assert wrong.exit_code == 1 and "no such folder" in wrong.stderr
